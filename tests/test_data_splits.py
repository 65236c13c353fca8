"""Which rows, files and folders are which split, and where the pictures are that they name."""

import zipfile
from urllib.parse import quote

import datasets
import pytest
from datasets import Image

from gkgnet_hf.data.labels import label_names
from gkgnet_hf.data.sources import MultiLabelSource

from .image_files import draw


def write_rows(folder, *lines):
    """A metadata.csv of these lines, the first of them the header, with the pictures 0.png, 1.png and so on."""
    for place in range(len(lines) - 1):
        draw(folder / f"{place}.png", place)
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_folders(root, *folders):
    for number, folder in enumerate(folders):
        for place in range(2):
            draw(root / folder / f"{folder.replace('/', '-')}-{place}.png", 2 * number + place)
    return root


def sizes(source):
    return {split: len(source.load(split, hold_out=False)) for split in source.splits}


def test_columns_of_flags_together_divide_the_rows(tmp_path):
    lines = ["0.png,0,0,1,0", "1.png,0,0,0,1", "2.png,1,0,1,1", "3.png,0,1,0,1"]
    source = MultiLabelSource(write_rows(tmp_path, "file_name,is_valid,is_test,cat,dog", *lines))
    assert sizes(source) == {"train": 2, "validation": 1, "test": 1}
    lines[3] = "3.png,1,1,0,1"
    with pytest.raises(ValueError, match="Row 3 is of several splits by the columns is_valid, is_test: test, valid"):
        MultiLabelSource(write_rows(tmp_path, "file_name,is_valid,is_test,cat,dog", *lines))


@pytest.mark.parametrize("words", [("train", "", "test"), ("train", "other", "test"), ("0", "1", "2")])
def test_a_column_that_divides_some_rows_alone_is_asked_about(tmp_path, words):
    lines = [f"{row}.png,{word},cat" for row, word in enumerate(words)]
    with pytest.raises(ValueError, match=r"Column 'split' seems to divide the rows but holds .* in each row, or take"):
        MultiLabelSource(write_rows(tmp_path, "file_name,split,labels", *lines))


def test_a_column_of_answers_that_is_named_like_a_split_is_asked_about(tmp_path):
    lines = ["0.png,1,0,1", "1.png,1,1,0", "2.png,0,1,1"]
    with pytest.raises(ValueError, match=r"'train' is named like a split .* call it is_train"):
        MultiLabelSource(write_rows(tmp_path, "file_name,train,cat,dog", *lines))
    lines = ["0.png,1,0,1", "1.png,0,1,0", "2.png,0,1,1"]
    source = MultiLabelSource(write_rows(tmp_path, "file_name,train,cat,dog", *lines))
    assert label_names(source.load("train")) == ["train", "cat", "dog"]


@pytest.mark.parametrize("name", ["evaluation", "holdout", "hold-out", "Evaluation_Set"])
def test_folders_beside_train_that_are_other_splits_are_read(tmp_path, name):
    write_folders(tmp_path, "train/cat", "train/dog", f"{name}/cat", f"{name}/dog")
    assert sizes(MultiLabelSource(tmp_path)) == {"train": 4, name: 4}


def test_pictures_outside_the_folders_of_labels_are_counted(tmp_path):
    write_folders(tmp_path, "train/cat", "train/dog", "train/dog/poodle", "more/cat", "more/dog", "test")
    draw(tmp_path / "stray.png")
    (said,) = (said for said in MultiLabelSource(tmp_path).assumptions if "passed over" in said)
    assert "passed over: 9 in" in said
    assert all(f"{tmp_path.name}/{folder}" in said for folder in ("more/cat", "more/dog", "test", "train/dog/poodle"))


def test_a_table_beside_those_of_the_splits_is_named(tmp_path):
    for folder in ("train", "more"):
        write_rows(tmp_path / folder, "file_name,labels", "0.png,cat", "1.png,dog")
    source = MultiLabelSource(tmp_path)
    assert "warning: more/metadata.csv is not read" in source.assumptions
    write_rows(tmp_path, "file_name,labels", "0.png,cat", "1.png,dog")
    said = MultiLabelSource(tmp_path).assumptions
    assert {f"warning: {folder}/metadata.csv is not read" for folder in ("more", "train")} <= set(said)


def test_an_image_of_several_splits_is_named(tmp_path):
    write_rows(tmp_path, "file_name,labels", "0.png,cat", "1.png,dog")
    (tmp_path / "metadata.csv").rename(tmp_path / "train.csv")
    (tmp_path / "val.csv").write_text("file_name,labels\n1.png,dog\n0.png,cat\n")
    source = MultiLabelSource(tmp_path)
    assert "warning: 2 images in more than one split, such as 0.png" in source.assumptions


@pytest.mark.parametrize(
    "folders",
    [["originals", "thumbnails"], ["rgb", "nir"], ["2024-01-03", "2024-02-01"], ["100CANON", "101CANON"]],
)
def test_folders_of_versions_dates_and_cameras_are_no_labels(tmp_path, folders):
    with pytest.raises(ValueError, match="not read as labels"):
        MultiLabelSource(write_folders(tmp_path, *folders))


def test_folders_with_files_of_the_same_names_are_warned_about(tmp_path):
    for folder in ("left", "right"):
        for name in ("a", "b"):
            draw(tmp_path / folder / f"{name}.png", len(folder))
    assert any("files of the same names" in said for said in MultiLabelSource(tmp_path).assumptions)


def test_a_picture_is_never_taken_from_the_folder_of_another_split(tmp_path):
    lines = [f"train/{place}.png,{label}" for place, label in enumerate(("cat", "dog", "cat"))]
    (tmp_path / "metadata.csv").write_text("\n".join(["image,labels", *lines]))
    for place in range(3):
        draw(tmp_path / f"test/{place}.png", place)
    with pytest.raises(ValueError, match=r"None of the pictures that column 'image' names, such as train/0\.png, is"):
        MultiLabelSource(tmp_path)
    assert sizes(MultiLabelSource(tmp_path, image_dir="test"))
    for place in range(2):
        draw(tmp_path / f"data/training/{place}.png", place)
    with pytest.raises(ValueError, match="1 image cannot be used"):
        MultiLabelSource(tmp_path).load("all")


def test_a_table_named_after_a_split_names_the_pictures_of_its_folder(tmp_path):
    (tmp_path / "train.csv").write_text("image,labels\n0.png,cat\n1.png,dog\n")
    for folder in ("test", "train"):
        for place in range(2):
            draw(tmp_path / f"{folder}/{place}.png", place)
    dataset = MultiLabelSource(tmp_path).load("train", hold_out=False)
    images = dataset.cast_column("image", Image(decode=False))["image"][:]
    assert [image["path"] for image in images] == [str(tmp_path / f"train/{place}.png") for place in range(2)]
    (tmp_path / "train.csv").rename(tmp_path / "all.csv")
    with pytest.raises(ValueError, match="are in several folders: test/, train/; name one with --image-dir"):
        MultiLabelSource(tmp_path)


def test_a_column_divides_a_training_table_further(tmp_path):
    write_rows(tmp_path, "file_name,is_valid,labels", "0.png,0,cat", "1.png,0,dog", "2.png,1,cat", "3.png,0,dog")
    lines = (tmp_path / "metadata.csv").read_text().splitlines()
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "train.csv").write_text("\n".join(lines[:-1]))
    (tmp_path / "test.csv").write_text("\n".join([lines[0], lines[-1]]))
    assert sizes(MultiLabelSource(tmp_path)) == {"train": 2, "validation": 1, "test": 1}


@pytest.mark.parametrize("write", [quote, lambda name: f"file://{quote(name)}"])
def test_addresses_of_files_on_disk_are_read(tmp_path, write):
    pictures = [draw(tmp_path / f"my photo {place}.png", place) for place in range(2)]
    names = [write(str(picture)) if "file" in write("") else write(picture.name) for picture in pictures]
    (tmp_path / "all.csv").write_text(f"image,labels\n{names[0]},cat\n{names[1]},dog\n")
    assert sizes(MultiLabelSource(tmp_path)) == {"train": 2}


def test_a_zip_with_backslashes_in_its_names_is_unpacked_into_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("metadata.csv", "file_name,labels\nimages/0.png,cat\nimages/1.png,dog\n")
        for place in range(2):
            entry = zipfile.ZipInfo("images/0.png")
            entry.filename = f"images\\{place}.png"
            archive.writestr(entry, draw(tmp_path / "drawn.png", place).read_bytes())
    source = MultiLabelSource(tmp_path / "photos.zip")
    assert sizes(source) == {"train": 2}
    assert (source.folder / "images/0.png").is_file()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["Image,Id", "0.png,w_1", "1.png,w_2"], r"there are Id; --label-column Id reads it all the same"),
        (["file_name", "0.png"], r"there are none; write them in a column 'labels'"),
        (["file_name,labels", "0.png,", "1.png,"], r"there are labels \(empty\); write them in a column 'labels'"),
    ],
)
def test_a_table_without_labels_is_refused_with_the_next_step(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelSource(write_rows(tmp_path, *lines))


def test_a_table_with_the_line_ends_of_old_macs_is_read(tmp_path):
    write_rows(tmp_path, "id_code,diagnosis", "0.png,2", "1.png,0")
    table = tmp_path / "metadata.csv"
    table.write_bytes(table.read_bytes().rstrip().replace(b"\n", b"\r") + b"\n")
    assert label_names(MultiLabelSource(tmp_path).load("all")) == ["0", "1", "2"]
