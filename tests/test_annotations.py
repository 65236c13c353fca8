"""Sources with annotation files: COCO and Pascal VOC."""

import json

import pytest
from datasets import Image

from gkgnet_hf.data import label_names, load_coco, load_multilabel_dataset, load_voc
from gkgnet_hf.data.readers.voc import VOC_LABELS

from .image_files import column, draw, file_names


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
    path.parent.mkdir(parents=True, exist_ok=True)
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


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_train2014.json", "train2014"),
        ("annotations/train.json", "images"),
        ("annotations/train.json", "images/train"),
        ("annotations.json", "."),
        ("annotations.json", "images"),
        ("_annotations.coco.json", "."),
        ("cats.json", "."),
    ],
)
def test_a_coco_file_is_read_wherever_its_images_are(tmp_path, annotations, images):
    _, written = write_coco(tmp_path / "elsewhere", images=tmp_path / "coco" / images)
    file = tmp_path / "coco" / annotations
    file.parent.mkdir(exist_ok=True)
    written.rename(file)
    dataset = load_multilabel_dataset(file)
    assert column(dataset, "labels") == [[1, 0], [0, 1]]
    assert dataset[1]["image"].getpixel((0, 0)) == (7, 3, 0)
    if annotations.endswith(("annotations.json", "coco.json")):
        assert column(load_multilabel_dataset(tmp_path / "coco"), "labels") == [[1, 0], [0, 1]]


@pytest.mark.parametrize("name", ["_annotations.coco.json", "annotations.json"])
def test_coco_folders_of_splits_are_recognised(tmp_path, name):
    for split in ("train", "valid"):
        _, written = write_coco(tmp_path / "elsewhere", images=tmp_path / "coco" / split)
        written.rename(tmp_path / "coco" / split / name)
    for split in ("train", "validation"):
        dataset = load_multilabel_dataset(tmp_path / "coco", split)
        assert column(dataset, "labels") == [[1, 0], [0, 1]]
    assert "/valid/" in dataset.cast_column("image", Image(decode=False))[0]["image"]["path"]
    with pytest.raises(ValueError, match="has the splits train, valid: name one"):
        load_multilabel_dataset(tmp_path / "coco", "all")


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
        ("Annotations/000007.xml", "<annotation><object/></annotation>", "an object has no name"),
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


def test_own_labels_in_the_layout_of_voc_are_those_that_occur(tmp_path):
    vest, helmet = [("vest", 0, (1, 1, 2, 2))], [("helmet", 0, (1, 1, 2, 2))]
    write_voc(tmp_path, train={"1": vest, "2": vest}, val={"3": helmet})
    for split, labels in {"train": [[0, 1], [0, 1]], "validation": [[1, 0]]}.items():
        dataset = load_multilabel_dataset(tmp_path, split)
        assert label_names(dataset) == ["helmet", "vest"]
        assert column(dataset, "labels") == labels


def test_voc_splits_mean_what_they_are_called(tmp_path):
    cat, dog = [("cat", 0, (1, 1, 2, 2))], [("dog", 0, (1, 1, 2, 2))]
    both = {"1": cat, "2": dog}
    root = write_voc(tmp_path / "VOC2012", train={"1": cat}, val={"2": dog}, trainval=both, test={"3": cat})
    for split, ids in {"train": ["1"], "validation": ["2"], "trainval": ["1", "2"], "test": ["3"]}.items():
        assert column(load_multilabel_dataset(tmp_path, split), "image_id") == ids
        assert column(load_multilabel_dataset(root, split), "image_id") == ids


def test_voc_with_trainval_and_test_holds_validation_images_out_of_trainval(tmp_path):
    cat, dog = [("cat", 0, (1, 1, 2, 2))], [("dog", 0, (1, 1, 2, 2))]
    root = write_voc(tmp_path, trainval={str(i): [cat, dog][i % 2] for i in range(20)}, test={"99": cat})
    ids = [column(load_multilabel_dataset(root, split), "image_id") for split in ("train", "validation")]
    assert [len(found) for found in ids] == [18, 2]
    assert sorted([*ids[0], *ids[1]]) == sorted(map(str, range(20)))
