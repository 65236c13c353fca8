"""Any dataset becomes a multi-label one: how labels are understood, what bad rows do, streams, checks, the summary."""

import csv
import io
import logging

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, List, Value

from gkgnet_hf.data.checks import BadImage, check_images, report_bad_images
from gkgnet_hf.data.labels import label_names, multilabel_features
from gkgnet_hf.data.pictures import PictureError
from gkgnet_hf.data.summary import summarize
from gkgnet_hf.data.to_multilabel import to_multilabel

from .image_files import column

ANIMALS = ["cat", "dog", "owl"]
CLASS = ClassLabel(names=ANIMALS)
BBOXES = [[[0, 0, 3, 2], [0, 0, 1, 1], [5, 5, 4, 4]], [[0, 0, 2, 2]]]


def encoded(format="PNG", **settings):
    buffer = io.BytesIO()
    PIL.Image.effect_noise((64, 64), 90).convert("RGB").save(buffer, format, **settings)
    return buffer.getvalue()


def table(features=None, num_rows=2, **columns):
    """Two rows, whose images cannot be decoded, with the columns."""
    images = [{"path": f"{i}.png", "bytes": b"corrupt"} for i in range(num_rows)]
    features = Features({"image": Image(), **features}) if features else None
    dataset = Dataset.from_dict({"image": images, **columns}, features=features)
    return dataset if features else dataset.cast_column("image", Image())


def targets(dataset):
    return column(dataset, "labels")


# Kind of column → the dataset, its names, its labels.
KINDS = {
    "names": (table(tags=[["dog", "cat"], ["owl"]]), ANIMALS, [[1, 1, 0], [0, 0, 1]]),
    "names in a string": (table(tags=["dog, cat", "dog, owl"]), ANIMALS, [[1, 1, 0], [0, 1, 1]]),
    "one name": (table(label=["dog", "cat"]), ["cat", "dog"], [[0, 1], [1, 0]]),
    "ids": (table(label_ids=[[1, 0], [2]]), list("012"), [[1, 1, 0], [0, 0, 1]]),
    "ids, as many in each row": (table(labels=[[1, 0], [0, 2]]), list("012"), [[1, 1, 0], [1, 0, 1]]),
    "ids of 0 and 1": (table(labels=[[0, 1], [0, 1]]), list("01"), [[1, 1], [1, 1]]),
    "multi-hot ints, one 1 each": (table(labels=[[0, 1], [1, 0]]), list("01"), [[0, 1], [1, 0]]),
    "multi-hot ints with -1": (table(labels=[[-1, 1], [0, 1]]), list("01"), [[-1, 1], [0, 1]]),
    "one id": (table(label=[2, 0]), list("012"), [[0, 0, 1], [1, 0, 0]]),
    "ClassLabel": (table({"label": CLASS}, label=[2, 0]), ANIMALS, [[0, 0, 1], [1, 0, 0]]),
    "list of ClassLabel": (table({"x": List(CLASS)}, x=[[1, 0], [2]]), ANIMALS, [[1, 1, 0], [0, 0, 1]]),
    "multi-hot floats": (table(labels=[[1.0, -1.0], [0.0, 1.0]]), list("01"), [[1, -1], [0, 1]]),
    "multi-hot ints": (table(labels=[[1, 1, 0], [0, None, 1]]), list("012"), [[1, 1, 0], [0, -1, 1]]),
    "multi-hot bools": (table(labels=[[True, False], [False, True]]), list("01"), [[1, 0], [0, 1]]),
    "multi-hot of fixed length": (
        table({"labels": List(Value("int8"), length=2)}, labels=[[1, 0], [0, 1]]),
        list("01"),
        [[1, 0], [0, 1]],
    ),
    "column per label": (
        table(dog=[1, 0], cat=[None, 1], owl=[-1.0, float("nan")], age=[4, 2]),
        ["dog", "cat", "owl"],
        [[1, -1, -1], [0, 1, -1]],
    ),
    "objects, struct of lists": (
        table({"objects": {"category": List(CLASS)}}, objects=[{"category": [1, 1, 0]}, {"category": [2]}]),
        ANIMALS,
        [[1, 1, 0], [0, 0, 1]],
    ),
    "objects, list of structs": (
        table(objects=[[{"label": "cat"}, {"label": "cat"}], [{"label": "dog"}]]),
        ["cat", "dog"],
        [[1, 0], [0, 1]],
    ),
    "objects with bare ids": (
        table(objects=[{"category_id": [1, 1]}, {"category_id": [0]}]),
        list("01"),
        [[0, 1], [1, 0]],
    ),
}


@pytest.mark.parametrize(("dataset", "names", "labels"), KINDS.values(), ids=KINDS)
def test_labels_are_understood_without_decoding_an_image(dataset, names, labels):
    named = "x" if "x" in dataset.column_names else None
    understood = to_multilabel(dataset, label_column=named)
    assert label_names(understood) == names
    assert targets(understood) == labels
    there = [[i for i, value in enumerate(row) if value == 1] for row in labels]
    assert understood.select_columns("label_ids")[:]["label_ids"] == there
    assert understood.features["labels"].length == len(names)
    areas = "label_areas" in understood.column_names
    extras = {
        name: understood.features[name]
        for name in understood.column_names
        if name not in multilabel_features(names, True)
    }
    rest = int(understood.features["labels"].rest)
    assert understood.features == multilabel_features(names, areas, extras, rest)
    with pytest.raises(PictureError, match="not a picture"):
        understood[0]


@pytest.mark.parametrize("kind", ["ClassLabel", "list of ClassLabel", "column per label", "objects, struct of lists"])
def test_a_stream_gives_what_the_dataset_gives(kind):
    dataset, names, labels = KINDS[kind]
    named = "x" if "x" in dataset.column_names else None
    stream = to_multilabel(dataset.to_iterable_dataset(), label_column=named)
    assert label_names(stream) == names
    assert [row["labels"].tolist() for row in stream.select_columns("labels")] == labels


@pytest.mark.parametrize("kind", ["names", "names in a string", "one name", "objects, list of structs"])
def test_wanted_names_order_strings(kind):
    dataset, names, labels = KINDS[kind]
    wanted = ["zebra", *reversed(names)]
    for data in (dataset, dataset.to_iterable_dataset()):
        understood = to_multilabel(data, labels=wanted)
        assert label_names(understood) == wanted
        rows = (
            [row["labels"].tolist() for row in understood.select_columns("labels")]
            if data is not dataset
            else targets(understood)
        )
        assert rows == [[0, *reversed(row)] for row in labels]


@pytest.mark.parametrize("kind", ["ClassLabel", "list of ClassLabel", "column per label", "objects, struct of lists"])
def test_a_wanted_label_that_declared_names_lack_is_unknown(kind):
    dataset, names, labels = KINDS[kind]
    wanted = ["zebra", *reversed(names)]
    named = "x" if "x" in dataset.column_names else None
    understood = to_multilabel(dataset, label_column=named, labels=wanted)
    assert label_names(understood) == wanted
    assert targets(understood) == [[-1, *reversed(row)] for row in labels]


@pytest.mark.parametrize("kind", ["ids", "one id", "multi-hot ints"])
def test_wanted_names_name_bare_ids_and_vectors(kind):
    dataset, _, labels = KINDS[kind]
    understood = to_multilabel(dataset, labels=["owl", "cat", "dog"])
    assert label_names(understood) == ["owl", "cat", "dog"]
    assert targets(understood) == labels


def test_wanted_names_must_be_as_many_as_a_vector_has_values():
    with pytest.raises(ValueError, match="vectors of 3 values, labels names 2"):
        to_multilabel(KINDS["multi-hot ints"][0], labels=["a", "b"])


@pytest.mark.parametrize(
    ("sizes", "areas"),
    [
        ({"area": [[6.0, 1.0, 0.0], [4.0]]}, [[1, 6], [4, 0]]),
        ({"bbox": BBOXES}, [[16, 6], [4, 0]]),
        ({"area": [[6.0, 1.0, 7.0], [4.0]], "bbox": BBOXES}, [[7, 6], [4, 0]]),
    ],
)
def test_areas_are_those_of_the_largest_object_in_pixels(sizes, areas):
    categories = [["dog", "dog", "cat"], ["cat"]]
    rows = [{"category": c, **{key: value[i] for key, value in sizes.items()}} for i, c in enumerate(categories)]
    understood = to_multilabel(table(objects=rows))
    assert label_names(understood) == ["cat", "dog"]
    assert column(understood, "label_areas") == areas
    assert "objects" in understood.column_names


def test_an_unknown_area_leaves_the_areas_out():
    understood = to_multilabel(table(objects=[{"category": ["a"], "area": [None]}, {"category": ["a"], "area": [2.0]}]))
    assert "label_areas" not in understood.column_names


def test_images_without_objects_are_ordinary_and_left_out():
    dataset = table(objects=[{"category": []}, {"category": ["cat"]}])
    assert targets(to_multilabel(dataset)) == [[1]]
    assert targets(to_multilabel(dataset, keep_unlabeled=True)) == [[0], [1]]


def test_what_is_understood_once_is_understood_again():
    once = to_multilabel(
        table(objects=[{"category": ["b", "a"], "area": [3.0, 4.0]}, {"category": ["a"], "area": [5.0]}])
    )
    again = to_multilabel(once)
    assert again.features == once.features
    assert targets(again) == targets(once)
    assert column(again, "label_areas") == column(once, "label_areas")
    reordered = to_multilabel(once, labels=["b", "a"])
    assert targets(reordered) == [[1, 1], [0, 1]]
    assert column(reordered, "label_areas") == [[3, 4], [0, 5]]


def test_a_separator_can_be_named():
    dataset = table(tags=["cat, black; dog", "owl"])
    assert label_names(to_multilabel(dataset)) == ["cat, black", "dog", "owl"]
    assert label_names(to_multilabel(dataset, separator=",")) == ["black; dog", "cat", "owl"]


def test_columns_can_be_named_and_others_stay():
    dataset = table(photo=["a.png", "b.png"], label=["x", "y"], animal=[["cat"], ["dog"]], labels=["m", "n"])
    dataset = dataset.cast_column("photo", Image(decode=False)).add_column("id", [7, 8])
    dataset = dataset.map(lambda row: {"photo": {"path": None, "bytes": b"photo"}})
    with pytest.raises(ValueError, match=r"no column 'nothing'.*image, photo"):
        to_multilabel(dataset, image_column="nothing")
    understood = to_multilabel(dataset, image_column="photo", label_column="animal")
    assert label_names(understood) == ["cat", "dog"]
    assert understood.features["image"] == Image()
    row = understood.cast_column("image", Image(decode=False)).cast_column("original_image", Image(decode=False))[0]
    assert row["image"]["bytes"] == b"photo"
    assert row["original_image"]["bytes"] == b"corrupt"
    assert (row["id"], row["label"], row["animal"], row["original_labels"]) == (7, "x", ["cat"], "m")


def test_named_columns_are_one_label_each():
    dataset = table(cat=["1", ""], dog=["0.0", "-1"], owl=[1, 0])
    understood = to_multilabel(dataset, label_column=["dog", "cat"], keep_unlabeled=True)
    assert label_names(understood) == ["dog", "cat"]
    assert targets(understood) == [[0, 1], [-1, -1]]
    assert label_names(to_multilabel(table(label=["a", "b"]), label_column=["label"])) == ["a", "b"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"weight": ["a", "b"], "only": [0, 1]}, r"Only column 'only' of weight, only.*--label-column"),
        ({"labels": [[], []]}, "'labels' has no label in any row"),
        ({"labels": [0.5, 0.7]}, "'labels' holds 0.5 where a label name or an id"),
        ({"label": [0, 1]}, "'label' holds 0, 1: pass --label-column label if it is one label"),
        ({"cat": [1, 1], "dog": [1, 1]}, "no cell of the label columns says no"),
        ({"cat": [0, 0], "dog": [0, None]}, "no cell of the label columns says yes"),
        ({"cat": [1, 0, 1], "dog": [2, 0, 3]}, "'dog' stands beside columns of answers and holds other numbers"),
        ({"label": ["cat", "dog"], "cat": [1, 0], "dog": [1, 1]}, "'label' may hold the labels, and so may the 2"),
        ({"label": ["cat", "dog"], "tags": [["cat"], ["dog"]]}, "The columns label, tags may all hold the labels"),
    ],
)
def test_labels_that_cannot_be_told_are_an_error(columns, message):
    with pytest.raises(ValueError, match=message):
        to_multilabel(table(num_rows=len(next(iter(columns.values()))), **columns))


def test_columns_that_cannot_be_read_are_an_error():
    dataset = table(when=[[[1]], [[2]]])
    with pytest.raises(ValueError, match=r"'when' is .*cannot be read as labels"):
        to_multilabel(dataset, label_column="when")
    with pytest.raises(ValueError, match="no column 'where'"):
        to_multilabel(dataset, label_column="where")
    with pytest.raises(ValueError, match=r"columns when holds the images.*--image-column"):
        to_multilabel(dataset.remove_columns("image"))
    with pytest.raises(ValueError, match=r"'when' holds .*, neither images nor their paths"):
        to_multilabel(dataset, image_column="when")
    with pytest.raises(TypeError, match=r"one split.*DatasetDict"):
        to_multilabel(DatasetDict(train=dataset))
    with pytest.raises(ValueError, match=r"label_ids.*'when'"):
        label_names(dataset)


@pytest.mark.parametrize("dog", [[1, 0, 2, 0], ["1", "0", "x", ""], [1.0, 0.0, 0.5, float("nan")]])
def test_a_bad_cell_in_a_column_of_answers_is_a_bad_row(dog):
    dataset = table(num_rows=4, dog=dog, cat=[0, 1, 1, 1])
    with pytest.raises(ValueError, match=rf"1 image cannot.*\n  row 2, 2\.png: label 'dog' is {dog[2]!r}, expected 0"):
        to_multilabel(dataset)
    kept = to_multilabel(dataset, on_bad_image="skip")
    assert label_names(kept) == ["dog", "cat"]
    assert targets(kept)[:2] == [[1, 0], [0, 1]]


def test_columns_that_are_not_read_as_labels_are_named(caplog):
    caplog.set_level(logging.INFO)
    dataset = table(num_rows=3, dog=[1, 0, 1], cat=[0, 1, 1], wild=["a", "b", "b"], owl=[None] * 3, age=[4, 4, 1])
    assert label_names(to_multilabel(dataset)) == ["dog", "cat"]
    assert "columns not read as labels: wild, age, owl (empty)" in caplog.text
    named = to_multilabel(dataset, label_column=["dog", "owl"], keep_unlabeled=True)
    assert targets(named) == [[1, -1], [0, -1], [1, -1]]


BAD = {
    "unknown name": ({"labels": [["cat"], ["cow"]]}, {"labels": ["cat"]}, "label 'cow' is not among the 1 label names"),
    "unknown id": ({"labels": [[0], [7]]}, {"labels": ["cat"]}, "label 7 is not among the 1 label names"),
    "no list": ({"labels": [["cat"], None]}, {}, "no label"),
    "empty string": ({"labels": ["cat", ""]}, {}, "no label"),
    "no answer": ({"cat": [1, None], "dog": [0, None]}, {}, "no label"),
    "strange answer": (
        {"cat": [1, 3], "dog": [1, 0]},
        {"label_column": ["cat", "dog"]},
        "label 'cat' is 3, expected 0",
    ),
    "short vector": ({"labels": [[1.0, 0.0], [1.0]]}, {}, "1 label values, expected 2"),
}


@pytest.mark.parametrize(("columns", "options", "problem"), BAD.values(), ids=BAD)
def test_a_bad_row_is_an_error_or_left_out_and_listed(columns, options, problem, tmp_path, caplog):
    dataset = table(**columns)
    with pytest.raises(ValueError, match=rf"1 image cannot be used.*\n  row 1, 1\.png: .*{problem}"):
        to_multilabel(dataset, **options)
    kept = to_multilabel(dataset, **options, on_bad_image="skip", bad_images_file=tmp_path / "bad.csv")
    assert kept.cast_column("image", Image(decode=False))[:]["image"][0]["path"] == "0.png"
    assert len(kept) == 1
    assert "1 image left out" in caplog.text
    (row,) = csv.DictReader((tmp_path / "bad.csv").open())
    assert (row["row"], row["file"]) == ("1", "1.png")
    assert problem in row["problem"]


@pytest.mark.parametrize(
    "columns", [{"labels": [["cat"], []]}, {"cat": [1, 0], "dog": [0, 0]}, {"labels": [[1.0, 0.0], [0.0, 0.0]]}]
)
def test_an_image_that_has_none_of_the_labels_is_kept(columns):
    understood = to_multilabel(table(**columns))
    assert [sum(row) for row in targets(understood)] == [1, 0]


def test_a_label_that_is_listed_twice_is_there_once():
    assert targets(to_multilabel(table(labels=[["cat", "cat"], ["dog"]]))) == [[1, 0], [0, 1]]


def test_no_row_left_is_an_error():
    with pytest.raises(ValueError, match="No image is left of 2"):
        to_multilabel(table(labels=[["cat"], ["dog"]]), labels=["owl"], on_bad_image="skip")


def test_the_report_counts_all_and_shows_five(tmp_path):
    bad = [BadImage(i, f"{i}.jpg", "gone") for i in range(1234)]
    with pytest.raises(ValueError, match=r"1,234 images cannot") as error:
        report_bad_images(bad)
    assert str(error.value).count("gone") == 5
    assert "row 4, 4.jpg: gone" in str(error.value)
    for part in (bad[:3], bad[:5]):
        report_bad_images(part, "skip", tmp_path / "bad.csv")
    assert (tmp_path / "bad.csv").read_text().splitlines() == [
        "split,row,file,problem",
        *(f",{i},{i}.jpg,gone" for i in range(5)),
    ]
    with pytest.raises(ValueError, match="'ignore'"):
        report_bad_images([], "ignore")


@pytest.fixture
def broken(tmp_path):
    """Good, truncated, no image at all, missing, and a good one in bytes."""
    (tmp_path / "good.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "cut.jpg").write_bytes(encoded("JPEG", quality=95)[:-1500])
    (tmp_path / "cut.png").write_bytes(encoded("PNG")[:-1500])
    (tmp_path / "text.png").write_text("not an image")
    names = ["good.jpg", "cut.jpg", "cut.png", "text.png", "missing.jpg"]
    images = [{"path": str(tmp_path / name), "bytes": None} for name in names] + [
        {"path": None, "bytes": encoded()},
        None,
    ]
    return Dataset.from_dict({"image": images, "number": range(7)}).cast_column("image", Image())


def test_images_that_cannot_be_decoded_are_found(broken, tmp_path):
    with pytest.raises(ValueError, match=r"5 images cannot be used.*\n  row 1, .*cut\.jpg: the file is cut off"):
        check_images(broken)
    kept = check_images(broken, "skip", tmp_path / "bad.csv")
    assert kept["number"][:] == [0, 5]
    assert kept[0]["image"].size == (64, 64)
    rows = list(csv.DictReader((tmp_path / "bad.csv").open()))
    assert [int(row["row"]) for row in rows] == [1, 2, 3, 4, 6]
    assert [row["problem"] for row in rows[3:]] == ["the file is missing", "there is no image"]
    with pytest.raises(ValueError, match=r"row 1 of the train split, .*cut\.jpg: the file is cut off"):
        check_images(broken, split="train")
    check_images(broken, "skip", tmp_path / "train.csv", "train")
    assert {row["split"] for row in csv.DictReader((tmp_path / "train.csv").open())} == {"train"}
    with pytest.raises(ValueError, match="No image is left"):
        check_images(broken.select([1]), "skip")
    with pytest.raises(TypeError, match="IterableDataset"):
        check_images(broken.to_iterable_dataset())


def test_an_image_as_large_as_a_decompression_bomb_is_a_bad_one(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 64 * 20)
    dataset = Dataset.from_dict({"image": [{"path": None, "bytes": encoded()}]}).cast_column("image", Image())
    with pytest.raises(ValueError, match=r"row 0, no file: .*million pixels"):
        check_images(dataset)


def test_missing_files_are_bad_before_anything_is_decoded(broken):
    dataset = broken.add_column("labels", [["a"]] * 7)
    with pytest.raises(
        ValueError, match=r"2 images cannot be used.*\n  row 4, .*missing.*\n  row 6, no file: there is no"
    ):
        to_multilabel(dataset)
    assert to_multilabel(dataset, on_bad_image="skip")["number"][:] == [0, 1, 2, 3, 5]


def test_a_file_that_stands_in_two_rows_is_a_bad_row(broken):
    dataset = broken.select([0, 5, 5, 0]).add_column("labels", [["a"], ["a"], ["a"], ["b"]])
    with pytest.raises(ValueError, match=r"1 image cannot.*\n  row 3, .*good\.jpg: the file stands in row 0 already"):
        to_multilabel(dataset)


def test_a_stream_leaves_bad_rows_out(broken, tmp_path, caplog):
    labels = [["a"], ["a"], ["b"], ["a"], ["a"], ["a", "b"], ["a"]]
    stream = broken.add_column("labels", labels).to_iterable_dataset()
    understood = to_multilabel(stream, labels=["b", "a"], on_bad_image="skip", bad_images_file=tmp_path / "bad.csv")
    for _ in range(2):
        rows = list(understood)
        assert [(row["number"], row["labels"].tolist(), row["label_ids"]) for row in rows] == [
            (0, [0, 1], [1]),
            (5, [1, 1], [0, 1]),
        ]
        assert rows[0]["image"].size == (64, 64)
    assert "5 images left out" in caplog.text
    assert len((tmp_path / "bad.csv").read_text().splitlines()) == 6
    with pytest.raises(ValueError, match=r"row 2, .*'b' is not among"):
        list(to_multilabel(stream, labels=["a"]).decode(False))


def test_a_stream_keeps_the_bytes_of_its_images():
    photo = encoded("JPEG")
    images = [{"path": None, "bytes": photo}]
    dataset = Dataset.from_dict({"image": images, "mask": images, "labels": [["a"]]})
    dataset = dataset.cast_column("image", Image()).cast_column("mask", Image())
    stream = to_multilabel(dataset.to_iterable_dataset(), labels=["a"])
    assert stream.features["mask"] == Image()
    (row,) = stream.decode(False)
    assert row["image"]["bytes"] == row["mask"]["bytes"] == photo
    assert next(iter(stream))["image"].format == "JPEG"


def test_a_stream_without_features_is_read_like_one_with(broken):
    path = broken.cast_column("image", Image(decode=False))[0]["image"]["path"]
    rows = [{"file_name": path, "cat": 1, "dog": None}, {"file_name": path, "cat": 0, "dog": 1}]
    stream = to_multilabel(IterableDataset.from_generator(lambda: iter(rows)))
    assert label_names(stream) == ["cat", "dog"]
    for row, labels in zip(stream, [[1, -1], [0, 1]], strict=True):
        assert row["labels"].tolist() == labels
        assert row["image"].size == (64, 64)
    with pytest.raises(ValueError, match="no rows"):
        to_multilabel(table(labels=[["a"], ["b"]]).to_iterable_dataset().take(0))


def test_a_stream_without_label_names_asks_for_them():
    for kind in ("names", "ids", "multi-hot ints"):
        with pytest.raises(ValueError, match="pass labels"):
            to_multilabel(KINDS[kind][0].to_iterable_dataset())


def test_the_summary_says_what_was_understood(caplog):
    dataset = table(num_rows=4, cat=[1, 1, 1, 0], dog=[0, 1, None, -1], owl=[0, 0, 0, 1], cow=[0] * 4)
    caplog.set_level(logging.INFO)
    dataset = to_multilabel(dataset)
    assert "each of 4 columns is one label: cat, dog, owl, cow" in caplog.text
    summary = summarize(dataset)
    assert summary.labels == ["cat", "dog", "owl", "cow"]
    assert (summary.images, summary.positives, summary.unknowns) == (4, [3, 1, 1, 0], [0, 2, 0, 0])
    assert summary.labels_per_image == 5 / 4
    assert summary.unknown_share == 2 / 16
    assert str(summary).splitlines() == [
        "4 images, 4 labels, 1.2 labels per image",
        "most frequent: cat (3 images), rarest: owl (1 image)",
        "unknown: 12.5 % of all answers",
        "never there: cow",
    ]
    stream = to_multilabel(KINDS["ClassLabel"][0].to_iterable_dataset())
    assert str(summarize(stream)) == "a stream of images, 3 labels"


def test_labels_of_a_selection_stay_with_their_images():
    dataset = table(num_rows=5, labels=[["a"], ["b"], ["c"], ["b", "c"], ["a", "c"]]).select([4, 0, 3])
    understood = to_multilabel(dataset, labels=["a", "b", "c"])
    assert targets(understood) == [[1, 0, 1], [1, 0, 0], [0, 1, 1]]
    paths = [image["path"] for image in understood.cast_column("image", Image(decode=False))[:]["image"]]
    assert paths == ["4.png", "0.png", "3.png"]
    assert np.array(targets(understood)).dtype == float
