"""Every kind of source: COCO, Pascal VOC, folders, tables, saved datasets, the Hub's files; splits and paths."""

import json
import logging

import datasets
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from gkgnet_hf.training.data.coco import load_coco
from gkgnet_hf.training.data.columns import label_names
from gkgnet_hf.training.data.folders import load_folder
from gkgnet_hf.training.data.hub import load_splits
from gkgnet_hf.training.data.sources import load_multilabel_dataset
from gkgnet_hf.training.data.voc import VOC_LABELS, load_voc


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def draw(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (8, 8), (shade, shade // 2, 0)).save(path)
    return path


def column(dataset, name):
    return dataset.select_columns(name)[:][name]


def file_names(dataset):
    images = column(dataset.cast_column("image", Image(decode=False)), "image")
    return [image["path"].rsplit("/", 1)[1] for image in images]


def write_coco(root, split="train2014", sizes=({"area": 30.5}, {"area": 12}, {"area": 99}), images=None):
    """Image 3 has a bottle, 7 a small and a large toothbrush, one of them a crowd; 9 has nothing."""
    annotations = [(7, 90), (3, 44), (7, 90)]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in (7, 3, 9)],
        "annotations": [
            {"id": k, "image_id": image, "category_id": category, "iscrowd": k // 2, **size}
            for k, ((image, category), size) in enumerate(zip(annotations, sizes, strict=True))
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 44, "name": "bottle"}],
    }
    for i in (3, 7, 9):
        draw((images or root / split) / f"{i}.png", i)
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return root / split, path


def test_coco_gives_areas_of_the_largest_object_crowds_too(tmp_path):
    dataset = load_coco(*write_coco(tmp_path))
    assert label_names(dataset) == ["bottle", "toothbrush"]
    assert column(dataset, "labels") == [[1, 0], [0, 1]]
    assert column(dataset, "label_areas") == [[12, 0], [0, 99]]
    assert column(dataset, "image_id") == [3, 7]


def test_coco_takes_areas_from_boxes_or_leaves_them_out(tmp_path):
    box = {"bbox": [0, 0, 2.5, 4]}
    dataset = load_coco(*write_coco(tmp_path, sizes=(box, {"area": 0}, {"area": 7})))
    assert column(dataset, "label_areas") == [[1, 0], [0, 10]]
    assert "label_areas" not in load_coco(*write_coco(tmp_path, sizes=(box, {}, box))).column_names


def test_coco_labels_are_arranged_by_name(tmp_path):
    images, annotations = write_coco(tmp_path)
    dataset = load_coco(images, annotations, keep_unlabeled=True, labels=["zebra", "toothbrush", "bottle"])
    assert column(dataset, "labels") == [[-1, 0, 1], [-1, 1, 0], [-1, 0, 0]]
    assert column(dataset, "label_areas") == [[0, 0, 12], [0, 99, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match=r"row 0, .*3\.png: label 'bottle' is not among the 1 label names"):
        load_coco(images, annotations, labels=["toothbrush"])
    dataset = load_coco(images, annotations, labels=["toothbrush"], on_bad_image="skip")
    assert column(dataset, "image_id") == [7]


@pytest.mark.parametrize(
    ("key", "field"), [("images", "file_name"), ("annotations", "category_id"), ("categories", "name")]
)
def test_an_incomplete_coco_file_is_one_clear_error(tmp_path, key, field):
    images, annotations = write_coco(tmp_path)
    content = json.loads(annotations.read_text())
    del content[key][0][field]
    annotations.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"instances_train2014\.json is not in COCO's instances format: .*{field}"):
        load_coco(images, annotations)


def test_a_coco_file_without_images_has_none_left(tmp_path):
    images, annotations = write_coco(tmp_path)
    annotations.write_text(json.dumps({**json.loads(annotations.read_text()), "images": [], "annotations": []}))
    with pytest.raises(ValueError, match="No image is left of 0"):
        load_coco(images, annotations)


def test_missing_coco_images_can_be_skipped(tmp_path):
    images, annotations = write_coco(tmp_path)
    (images / "9.png").unlink()
    assert len(load_coco(images, annotations)) == 2  # it has no label, so nobody misses it
    (images / "3.png").unlink()
    with pytest.raises(ValueError, match=r"1 image cannot be used.*\n  row 0, .*3\.png: the file is missing"):
        load_coco(images, annotations)
    assert file_names(load_coco(images, annotations, on_bad_image="skip")) == ["7.png"]


@pytest.mark.parametrize("layout", ["{}", "images/{}", "images"])
def test_coco_folders_are_recognised(tmp_path, layout):
    for split in ("train2014", "val2014"):
        write_coco(tmp_path, split, images=tmp_path / layout.format(split))
    for split in ("train", "validation", "val", "val2014"):
        dataset = load_multilabel_dataset(tmp_path, split)
        assert len(dataset) == 2
        assert dataset[1]["image"].getpixel((0, 0)) == (7, 3, 0)
    with pytest.raises(ValueError, match="has the splits train2014, val2014: name one"):
        load_multilabel_dataset(tmp_path)
    with pytest.raises(ValueError, match="has the splits train2014, val2014, not 'test'"):
        load_multilabel_dataset(tmp_path, "test")
    write_coco(tmp_path, "train2017")
    with pytest.raises(ValueError, match="'train' can be train2014 or train2017, name one"):
        load_multilabel_dataset(tmp_path, "train")


def write_voc(root, **splits):
    """Images with objects (name, difficult, box); the default splits have two and one."""
    splits = splits or {
        "trainval": {
            "000005": [("cat", 0, (1, 1, 4, 5)), ("dog", 1, (1, 1, 2, 2))],
            "000007": [("dog", 1, (1, 1, 2, 2))],
        },
        "test": {"000001": [("dog", 0, (1, 1, 2, 2)), ("dog", 1, (1, 1, 8, 8))]},
    }
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, images in splits.items():
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in images))
        (root / f"ImageSets/Main/cat_{split}.txt").write_text("".join(f"{name}  1\n" for name in images))
        for name, objects in images.items():
            draw(root / f"JPEGImages/{name}.jpg")
            xml = "".join(
                f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
                f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>"
                "<part><name>head</name></part></object>"
                for label, difficult, box in objects
            )
            (root / f"Annotations/{name}.xml").write_text(f"<annotation>{xml}</annotation>")
    return root


def known(row):
    """Label → 1 or −1, for those not known to be absent."""
    return {VOC_LABELS[i]: value for i, value in enumerate(row) if value}


def test_a_difficult_voc_object_is_unknown_unless_an_easy_one_is_there(tmp_path):
    root = write_voc(tmp_path / "VOC2007")
    train, test = load_voc(root), load_voc(tmp_path, "test")
    assert label_names(train) == sorted(VOC_LABELS)
    assert [known(row) for row in column(train, "labels")] == [{"cat": 1, "dog": -1}, {"dog": -1}]
    assert [known(row) for row in column(test, "labels")] == [{"dog": 1}]
    assert column(train, "image_id") == ["000005", "000007"]
    assert known(column(train, "label_areas")[0]) == {"cat": 20}
    assert known(column(test, "label_areas")[0]) == {"dog": 4}
    assert train[0]["image"].size == (8, 8)


def test_voc_labels_are_arranged_by_name(tmp_path):
    dataset = load_voc(write_voc(tmp_path), labels=["zebra", "dog", "cat"])
    assert column(dataset, "labels") == [[-1, -1, 1], [-1, -1, 0]]
    with pytest.raises(ValueError, match=r"row 0, .*000005\.jpg: label 'cat' is not among"):
        load_voc(tmp_path, labels=["dog"])


def test_wrong_voc_folders_are_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Pascal VOC folder"):
        load_voc(tmp_path)
    write_voc(tmp_path / "VOC2007")
    with pytest.raises(FileNotFoundError, match="no split 'val', it has test, trainval"):
        load_voc(tmp_path, "val")
    write_voc(tmp_path / "VOC2012")
    with pytest.raises(ValueError, match=r"several datasets.*VOC2007, .*VOC2012"):
        load_voc(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("Annotations/000007.xml", "<annotation><object>", "000007.xml cannot be read: ParseError"),
        ("Annotations/000007.xml", "<annotation><object/></annotation>", "an object has no bndbox/xmin"),
        ("Annotations/000007.xml", None, "FileNotFoundError"),
        ("JPEGImages/000007.jpg", None, "the file is missing"),
    ],
)
def test_a_bad_voc_file_is_an_error_or_left_out(tmp_path, file, content, problem):
    root = write_voc(tmp_path)
    (root / file).unlink()
    if content is not None:
        (root / file).write_text(content)
    with pytest.raises(ValueError, match=rf"row 1, .*000007\.jpg: .*{problem}"):
        load_voc(root)
    assert file_names(load_voc(root, on_bad_image="skip")) == ["000005.jpg"]


def test_an_unknown_voc_label_is_a_bad_row(tmp_path):
    write_voc(tmp_path, train={"1": [("unicorn", 0, (1, 1, 2, 2))], "2": [("cat", 0, (1, 1, 2, 2))]})
    with pytest.raises(ValueError, match=r"row 0, .*1\.jpg: label 'unicorn' is not among the 20 label names"):
        load_voc(tmp_path, "train")


def test_voc_splits_have_their_usual_meaning(tmp_path):
    write_voc(tmp_path / "VOC2007")
    assert column(load_multilabel_dataset(tmp_path, "train"), "image_id") == ["000005", "000007"]
    assert column(load_multilabel_dataset(tmp_path / "VOC2007", "validation"), "image_id") == ["000001"]
    cat, dog = [("cat", 0, (1, 1, 2, 2))], [("dog", 0, (1, 1, 2, 2))]
    root = write_voc(tmp_path / "new" / "VOC2012", train={"1": cat}, val={"2": dog}, trainval={"1": cat, "2": dog})
    assert column(load_multilabel_dataset(root, "train"), "image_id") == ["1"]
    assert column(load_multilabel_dataset(root, "validation"), "image_id") == ["2"]


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
        assert column(dataset, "site") == [7, 7, 7]
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
    dataset = load_multilabel_dataset(table, keep_unlabeled=True)
    assert label_names(dataset) == ["cat", "dog"]
    assert column(dataset, "labels") == [[1, 0], [-1, 1], [0, -1], [0, 0]]
    assert column(dataset, "age") == [50, 60, 70, 80]
    reordered = load_multilabel_dataset(table, labels=["dog", "owl", "cat"], keep_unlabeled=True)
    assert column(reordered, "labels")[0] == [0, -1, 1]
    with pytest.raises(ValueError, match=r"row 3, .*3\.png: it has no label"):
        load_multilabel_dataset(table)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "image,cat,cat\n1.png,0,1\n", "column 'cat' stands there twice"),
        ("a.csv", "image,labels\n1.png,cat,dog\n", "Expected 2 columns, got 3"),
        ("a.csv", "", "Empty CSV file"),
        ("a.csv", "image,labels\n", "it has no rows"),
        ("a.jsonl", '{"image": "1.png", "labels": ["cat"]}\n{"image": \n', "in row 1"),
        ("a.parquet", "no parquet", "cannot be read as a table"),
        ("a.txt", "1.png cat", "expected one of .csv, .jsonl, .parquet"),
        ("a.csv", "photo,labels\n1.png,cat\n", r"\['photo', 'labels'\] holds the images; name it with image_column"),
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


def test_the_test_split_stands_in_for_validation(tmp_path):
    write_table(tmp_path / "train.csv")
    write_table(tmp_path / "test.csv", [("t.png", ["cat"])])
    assert file_names(load_multilabel_dataset(tmp_path, "validation", labels=NAMES)) == ["t.png"]


def test_a_source_without_splits_gives_a_tenth_to_validation(tmp_path, caplog):
    table = write_table(tmp_path / "all.csv", [(f"{i}.png", [f"label {i}"]) for i in range(20)])
    caplog.set_level(logging.INFO)
    train, validation = (load_multilabel_dataset(table, split) for split in ("train", "validation"))
    assert f"{table} has no validation split: a tenth of its rows, 2, serves as one, 18 for training" in caplog.text
    assert len(label_names(train)) == 20  # from all rows
    assert label_names(validation) == label_names(train)
    assert sorted(file_names(train) + file_names(validation)) == sorted(file_names(load_multilabel_dataset(table)))
    assert file_names(load_multilabel_dataset(table, "val")) == file_names(validation)
    assert file_names(load_multilabel_dataset(table, "train[:3]")) == file_names(train)[:3]
    assert len(load_multilabel_dataset(table, "train[50%:]")) == 9
    with pytest.raises(ValueError, match="has the splits train, not 'test'"):
        load_multilabel_dataset(table, "test")
    with pytest.raises(ValueError, match=r"one\.csv has one row"):
        load_multilabel_dataset(write_table(tmp_path / "one.csv", ROWS[:1]), "train")


ENCODED = Features({"image": Image(), "tags": List(ClassLabel(names=["cat", "dog"])), "id": Value("int64")})


def encoded(tmp_path, *tags):
    image = draw(tmp_path / "image.png", 5).read_bytes()
    images = [{"path": None, "bytes": image}] * len(tags)
    return Dataset.from_dict({"image": images, "tags": tags, "id": range(len(tags))}, features=ENCODED)


def test_saved_datasets_are_recognised(tmp_path):
    train, test = encoded(tmp_path, [0], [0, 1], [1]), encoded(tmp_path, [1])
    DatasetDict(train=train, test=test).save_to_disk(tmp_path / "saved")
    assert column(load_multilabel_dataset(tmp_path / "saved", "train"), "labels") == [[1, 0], [1, 1], [0, 1]]
    assert column(load_multilabel_dataset(tmp_path / "saved", "validation"), "labels") == [[0, 1]]
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
    assert [row["labels"] for row in rows] == [[1, 0], [1, 1], [0, 1]]
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
    with pytest.raises((ConnectionError, FileNotFoundError), match="someone/birds"):
        load_multilabel_dataset("someone/birds")
