"""Which rows, files and folders are which split, and where the pictures are that they name."""

import pytest

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
    assert "warning: more/metadata.csv is not read: its folder is not named like a split" in source.assumptions


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
