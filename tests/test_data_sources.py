"""Other sources: folders, tables, saved datasets, the Hub's files; splits and paths."""

import logging
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from huggingface_hub.utils import validate_repo_id

from gkgnet_hf.data import MultiLabelSource, label_names, load_folder, load_multilabel_dataset
from gkgnet_hf.data.labels import multilabel_features
from gkgnet_hf.data.readers import hub_datasets
from gkgnet_hf.data.readers.hub_datasets import load_splits

from .image_files import column, draw, file_names


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


ROWS = [("a.png", ["cat", "dog"]), ("b.png", ["None"]), ("sub/c.png", ["NA", "cat"])]
NAMES = ["NA", "None", "cat", "dog"]
LABELS = [[0, 0, 1, 1], [0, 1, 0, 0], [1, 0, 1, 0]]


def write_table(path, rows=ROWS):
    for i, (name, _) in enumerate(rows):
        draw(path.parent / name, i)
    if path.suffix == ".csv":
        path.write_text("file_name,labels,site\n" + "".join(f"{name},{'|'.join(labels)},7\n" for name, labels in rows))
    else:
        dataset = Dataset.from_list([{"file_name": name, "labels": labels, "site": 7} for name, labels in rows])
        dataset.to_parquet(path) if path.suffix == ".parquet" else dataset.to_json(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_metadata_table_gives_labels_and_extras(tmp_path, suffix):
    table = write_table(tmp_path / f"metadata{suffix}")
    for dataset in (load_folder(tmp_path), load_folder(table), load_multilabel_dataset(tmp_path)):
        assert label_names(dataset) == NAMES
        assert column(dataset, "labels") == LABELS
        assert list(map(int, column(dataset, "site"))) == [7, 7, 7]  # the cells of a text table stay text
        assert [image.getpixel((0, 0))[0] for image in dataset["image"]] == [0, 1, 2]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_missing_image_of_a_table_is_an_error_or_left_out(tmp_path, suffix):
    write_table(tmp_path / f"metadata{suffix}")
    (tmp_path / "sub/c.png").unlink()
    with pytest.raises(ValueError, match=r"row 2, .*sub/c\.png: the file is missing"):
        load_folder(tmp_path)
    assert file_names(load_folder(tmp_path, on_bad_image="skip")) == ["a.png", "b.png"]


def test_a_csv_file_with_a_column_per_label(tmp_path):
    for i in range(4):
        draw(tmp_path / f"{i}.png")
    table = tmp_path / "labels.csv"
    table.write_text("image,age,cat,dog\n0.png,50,1,0\n1.png,60,,1\n2.png,70,0,-1\n3.png,80,0,0\n")
    dataset = load_multilabel_dataset(table)
    assert label_names(dataset) == ["cat", "dog"]
    assert column(dataset, "labels") == [[1, 0], [-1, 1], [0, -1], [0, 0]]
    assert column(dataset, "age") == ["50", "60", "70", "80"]
    reordered = load_multilabel_dataset(table, labels=["dog", "owl", "cat"])
    assert column(reordered, "labels")[0] == [0, -1, 1]


@pytest.mark.parametrize("separator", [";", "\t", " , "])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_other_separators_and_spaces_in_the_header_are_understood(tmp_path, separator, start):
    draw(tmp_path / "1.png"), draw(tmp_path / "2.png")
    rows = [("image", " cat", "dog "), ("1.png", "1", "0"), ("2.png", "0", "1")]
    table = tmp_path / "labels.csv"
    header, *lines = (separator.join(row) for row in rows)
    table.write_text("\n".join([start + header, *(line.replace(" ", "") for line in lines)]), encoding="utf-8")
    dataset = load_folder(table)
    assert label_names(dataset) == ["cat", "dog"]
    assert column(dataset, "labels") == [[1, 0], [0, 1]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
@pytest.mark.parametrize("header", ["labels", "größe"])
def test_an_encoding_is_known_by_its_mark_or_asked_for(tmp_path, encoding, header):
    draw(tmp_path / "1.png"), draw(tmp_path / "2.png", 1)
    table = tmp_path / "labels.csv"
    table.write_text(f"image,{header}\n1.png,größe\n2.png,owl\n", encoding=encoding)
    if not encoding.startswith("utf"):
        with pytest.raises(ValueError, match=r"it is not UTF-8 text \(line \d\): pass --encoding.* 'größe|größe'"):
            load_folder(table)
    dataset = load_folder(table, encoding=None if encoding.startswith("utf") else encoding)
    assert label_names(dataset) == ["größe", "owl"]


def test_an_image_in_two_rows_of_a_table_is_an_error(tmp_path):
    table = write_table(tmp_path / "all.csv", [*ROWS, ("a.png", ["cat"])])
    with pytest.raises(ValueError, match=r"a\.png stands in rows 0 and 3, with other labels"):
        load_folder(table)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "image,cat,cat\n1.png,0,1\n", "column 'cat' stands there twice"),
        ("a.csv", "image,labels\n1.png,cat,dog\n", "Expected 2 columns, got 3"),
        ("a.csv", "", "it is empty"),
        ("a.csv", "image,labels\n", "it has no rows"),
        ("a.jsonl", '{"image": "1.png", "labels": ["cat"]}\n{"image": \n', "line 2 is no JSON"),
        ("a.parquet", "no parquet", "cannot be read as a table"),
        ("a.txt", "some words", "a.txt is no list of pictures"),
        ("a.csv", "photo,labels\n1.png,cat\n", r"'photo' names, such as 1\.png, is there: looked in .*--image-dir"),
        ("a.csv", "what,labels\nx,cat\n", "columns what, labels holds the images; name it with --image-column"),
    ],
)
def test_wrong_tables_are_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_multilabel_dataset(tmp_path / name)


def test_an_image_in_several_label_folders_has_several_labels(tmp_path):
    draw(tmp_path / "cat/001.png", 10)
    draw(tmp_path / "dog/001.png", 20)  # another image of the same name
    draw(tmp_path / "dog/other_name.png", 10)
    draw(tmp_path / "owl/deep.png", 30)
    (tmp_path / "owl/notes.txt").write_text("no image")
    (tmp_path / "owl/leaflet.pdf").write_text("a format that is only written")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    dataset = load_multilabel_dataset(tmp_path)
    assert label_names(dataset) == ["cat", "dog", "owl"]
    assert column(dataset, "labels") == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert [image.getpixel((0, 0))[0] for image in dataset["image"]] == [10, 20, 30]
    assert column(load_folder(tmp_path, labels=["owl", "dog", "cat", "zebra"]), "labels")[0] == [0, 1, 1, -1]
    with pytest.raises(ValueError, match=r"row 2, .*deep\.png: label 'owl' is not among"):
        load_folder(tmp_path, labels=["cat", "dog"])


def test_a_link_to_nowhere_is_a_missing_image(tmp_path):
    draw(tmp_path / "cat/001.png"), draw(tmp_path / "dog/001.png", 1)
    (tmp_path / "dog/002.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"row 2, .*002\.png: the file is missing"):
        load_folder(tmp_path)


@pytest.mark.parametrize("kind", ["metadata", "tables", "labels"])
def test_splits_are_folders_or_tables(tmp_path, kind):
    for i, split in enumerate(("train", "val", "test")):
        match kind:
            case "metadata":
                write_table(tmp_path / split / "metadata.csv", [(f"{i}.png", ["cat"]), (f"{i}-.png", ["dog"])])
            case "tables":
                write_table(tmp_path / f"{split}.csv", [(f"images/{i}.png", ["cat"]), (f"images/{i}-.png", ["dog"])])
            case "labels":
                draw(tmp_path / split / f"cat/{i}.png", i), draw(tmp_path / split / f"dog/{i}-.png", 9)
    for split, i in (("train", 0), ("validation", 1), ("val", 1), ("test", 2)):
        for load in (load_multilabel_dataset, load_folder):
            assert file_names(load(tmp_path, split)) == [f"{i}.png", f"{i}-.png"]
    with pytest.raises(ValueError, match="has the splits train, val, test"):
        load_folder(tmp_path)
    with pytest.raises(ValueError, match="not 'night'"):
        load_multilabel_dataset(tmp_path, "night")


def test_splits_with_a_folder_per_label_share_their_labels(tmp_path):
    for i, file in enumerate(("train/cat/1.png", "train/dog/2.png", "val/dog/3.png", "test/owl/4.png")):
        draw(tmp_path / file, i)
    for load in (load_multilabel_dataset, load_folder):
        labels = {split: column(load(tmp_path, split), "labels") for split in ("train", "validation", "test")}
        assert labels == {"train": [[1, 0, 0], [0, 1, 0]], "validation": [[0, 1, 0]], "test": [[0, 0, 1]]}
        assert label_names(load(tmp_path, "val")) == ["cat", "dog", "owl"]


def test_the_test_split_is_never_taken_for_validation(tmp_path):
    write_table(tmp_path / "train.csv", [(f"{i}.png", ["cat", "dog"][: 1 + i % 2]) for i in range(20)])
    write_table(tmp_path / "test.csv", [("t.png", ["cat"])])
    splits = {split: file_names(load_multilabel_dataset(tmp_path, split)) for split in ("train", "validation", "test")}
    assert splits["test"] == ["t.png"]
    assert len(splits["validation"]) == 2
    assert sorted(splits["train"] + splits["validation"]) == sorted(f"{i}.png" for i in range(20))


def test_a_source_without_splits_gives_a_tenth_to_validation(tmp_path, caplog):
    table = write_table(tmp_path / "all.csv", [(f"{i}.png", [f"label{i % 4}"]) for i in range(40)])
    caplog.set_level(logging.INFO)
    train, validation = (load_multilabel_dataset(table, split) for split in ("train", "validation"))
    assert f"{table} has no validation split: 4 of 40 images of train are held out" in caplog.text
    assert sorted(map(tuple, column(validation, "labels"))) == sorted(map(tuple, np.eye(4).tolist()))  # each label
    assert label_names(validation) == label_names(train)
    assert sorted(file_names(train) + file_names(validation)) == sorted(file_names(load_multilabel_dataset(table)))
    assert file_names(load_multilabel_dataset(table, "val")) == file_names(validation)
    assert len(load_multilabel_dataset(table, "all")) == 40
    assert len(load_multilabel_dataset(table, "all[:15]")) == 15
    assert file_names(load_multilabel_dataset(table, "train[:3]")) == file_names(train)[:3]
    assert len(load_multilabel_dataset(table, "train[50%:]")) == 18
    source = MultiLabelSource(table)
    assert source.split_read("validation") == "a held-out tenth of train"
    assert len(source.load("train", hold_out=False)) == 40
    with pytest.raises(ValueError, match="has the splits train, not 'test'"):
        load_multilabel_dataset(table, "test")
    with pytest.raises(ValueError, match=r"one\.csv has one row"):
        load_multilabel_dataset(write_table(tmp_path / "one.csv", ROWS[:1]), "train")


def test_the_same_data_elsewhere_and_in_another_order_holds_the_same_images_out(tmp_path, monkeypatch):
    def held_out(folder, numbers):
        table = write_table(folder / "all.csv", [(f"photos/{i}.png", ["cat", "dog"][i % 2 :]) for i in numbers])
        return set(file_names(load_multilabel_dataset(table, "validation")))

    monkeypatch.chdir(draw(tmp_path / "here/image.png").parent)
    first = held_out(tmp_path / "first", range(60))
    assert len(first) == 6
    assert first == held_out(Path("../second"), reversed(range(60)))


def test_embedded_images_are_held_out_by_their_content(tmp_path):
    images = [{"path": "photos.zip", "bytes": draw(tmp_path / "image.png", i).read_bytes()} for i in range(100)]
    dataset = Dataset.from_dict({"image": images, "label": ["cat", "dog"] * 50, "id": range(100)})
    dataset = dataset.cast_column("image", Image())
    held_out = {}
    for name, selection in {"all": range(100), "turned": range(99, -1, -1)}.items():
        dataset.select(selection).save_to_disk(tmp_path / name)
        held_out[name] = set(column(load_multilabel_dataset(tmp_path / name, "validation"), "id"))
    assert len(held_out["all"]) == 10
    assert held_out["all"] == held_out["turned"]


ENCODED = Features({"image": Image(), "tags": List(ClassLabel(names=["cat", "dog"])), "id": Value("int64")})


def encoded(tmp_path, *tags):
    images = [{"path": None, "bytes": draw(tmp_path / "image.png", 5 + i).read_bytes()} for i in range(len(tags))]
    return Dataset.from_dict({"image": images, "tags": tags, "id": range(len(tags))}, features=ENCODED)


def test_saved_datasets_are_recognised(tmp_path):
    train, test = encoded(tmp_path, [0], [0, 1], [1]), encoded(tmp_path, [1])
    DatasetDict(train=train, test=test).save_to_disk(tmp_path / "saved")
    saved = MultiLabelSource(tmp_path / "saved")
    assert column(saved.load("train", hold_out=False), "labels") == [[1, 0], [1, 1], [0, 1]]
    assert column(saved.load("test"), "labels") == [[0, 1]]
    train.save_to_disk(tmp_path / "one")
    files = sorted((tmp_path / "one").iterdir())
    assert len(load_multilabel_dataset(str(tmp_path / "one"))) == 3
    assert len(load_multilabel_dataset(tmp_path / "one", "train")) == 2
    assert sorted((tmp_path / "one").iterdir()) == files  # nothing is written beside the data
    with pytest.raises(ValueError, match="cannot be streamed"):
        load_splits(tmp_path / "one", streaming=True)


def test_a_folder_as_on_the_hub_is_read_whole_or_as_a_stream(tmp_path):
    repository = tmp_path / "repository"
    for split, tags in {"train": [[0], [0, 1], [1]], "validation": [[1], [0]]}.items():
        (repository / "data").mkdir(parents=True, exist_ok=True)
        encoded(tmp_path, *tags).to_parquet(repository / f"data/{split}-00000-of-00001.parquet")
    train = load_multilabel_dataset(repository, "train", labels=["dog", "cat"])
    assert label_names(train) == ["dog", "cat"]
    assert column(train, "labels") == [[0, 1], [1, 1], [1, 0]]
    assert column(train, "id") == [0, 1, 2]
    assert len(load_multilabel_dataset(repository, "validation[:1]")) == 1
    stream = load_multilabel_dataset(repository, "train", streaming=True)
    rows = list(stream)
    assert [row["labels"].tolist() for row in rows] == [[1, 0], [1, 1], [0, 1]]
    assert rows[0]["image"].getpixel((0, 0)) == (5, 2, 0)
    with pytest.raises(ValueError, match=r"'train\[:2\]' is not one that it has as a whole"):
        load_multilabel_dataset(repository, "train[:2]", streaming=True)


def test_only_what_datasets_reads_is_streamed(tmp_path):
    table = write_table(tmp_path / "all.csv")
    with pytest.raises(ValueError, match=r"all\.csv is on disk already and cannot be streamed"):
        load_multilabel_dataset(table, streaming=True)


def test_a_path_that_is_missing_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for source in (
        "./birds",
        "/nowhere/birds",
        "~/nowhere/birds",
        "birds.csv",
        "photos/birds",
        "a/b/c",
        tmp_path / "birds",
    ):
        with pytest.raises(FileNotFoundError, match="There is no file or folder"):
            load_multilabel_dataset(source)
    for source in ("someone/birds", "fotos"):
        with pytest.raises((ConnectionError, FileNotFoundError), match=f"no folder {source} here, and on the Hub: "):
            load_multilabel_dataset(source)
    monkeypatch.setattr(hub_datasets, "load_dataset", lambda source, *_, **__: validate_repo_id(source))
    with pytest.raises(FileNotFoundError, match="no folder my photos here, and on the Hub: Repo id must"):
        load_multilabel_dataset("my photos")


def test_label_names_must_differ():
    with pytest.raises(ValueError, match="'a' stands there twice"):
        multilabel_features(["a", "b", "a"])
    with pytest.raises(ValueError, match="at least one"):
        multilabel_features([])
