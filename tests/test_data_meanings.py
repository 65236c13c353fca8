"""What numbers, vectors and options mean is told from all rows together, or asked for."""

import json

import pytest

from gkgnet_hf.data import MultiLabelSource, label_names

from .image_files import column, file_names
from .test_data_formats import read, write

PICTURES = {f"{i}.jpg": i for i in range(6)}
YOLO = {f"labels/{i}.txt": f"{c} .5 .5 .2 .2\n" for i, c in enumerate((1, 2, 10, 11, 1, 2))}
YOLO |= {f"images/{name}": shade for name, shade in PICTURES.items()}


def lines(rows, header="file_name,labels"):
    return "\n".join([header, *rows]) + "\n"


def all_splits(folder, **options):
    """Of each split: the names of the positive labels of each picture."""
    source = MultiLabelSource(folder, **options)
    found = {}
    for split in source.splits:
        dataset = source.load(split, hold_out=False)
        names = label_names(dataset)
        labels = [{names[label] for label in ids} for ids in column(dataset, "label_ids")]
        found[split] = dict(zip(file_names(dataset), labels, strict=True))
    return found


@pytest.mark.parametrize("quote", ["", "'"])
def test_yolo_classes_are_known_by_their_numbers(tmp_path, quote):
    config = "train: images\nnames:\n" + "".join(f"  {quote}{i}{quote}: class{i}\n" for i in range(1, 12))
    names, labels, _ = read(write(tmp_path, {**YOLO, "data.yaml": config}))
    assert names == [f"class{i}" for i in range(1, 12)]
    assert labels["2.jpg"] == {"class10"}
    write(tmp_path, {"labels/0.txt": "0 .5 .5 .2 .2\n"})
    with pytest.raises(ValueError, match="class '0', which is not among the 11 named"):
        read(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {"obj.names": "cat\ndog\n", **{f"obj_train_data/{i}.txt": f"{i % 2} .5 .5 .2 .2" for i in range(6)}},
        {"obj_train_data/classes.txt": "cat\ndog\n", **{f"obj_train_data/{i}.txt": f"{i % 2} 0 0 1 1" for i in (0, 1)}},
    ],
)
def test_text_files_of_objects_may_stand_beside_the_pictures(tmp_path, files):
    write(tmp_path, {**files, **{f"obj_train_data/{name}": shade for name, shade in PICTURES.items()}})
    (labels,) = all_splits(tmp_path).values()
    assert (labels["0.jpg"], labels["1.jpg"]) == ({"cat"}, {"dog"})


def test_names_of_yolo_classes_can_be_given(tmp_path):
    write(tmp_path, YOLO)
    with pytest.raises(ValueError, match="--labels names such a file"):
        read(tmp_path)
    assert read(tmp_path, labels=[f"class{i}" for i in range(12)])[1]["2.jpg"] == {"class10"}


@pytest.mark.parametrize("names", ["cat\ndog\ntree\n", "0 cat\n1 dog\n2 tree\n", "1 cat\n2 dog\n3: tree\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_of_class_names_is_used_with_its_numbers(tmp_path, names, mark):
    first = int(names.startswith("1"))
    text = "".join(f"{i}.jpg {i % 3 + first} {(i + 1) % 3 + first}\n" for i in range(6))
    write(tmp_path, {**PICTURES, "train.txt": text, "classes.txt": mark + names})
    found, labels, _ = read(tmp_path)
    assert found == ["cat", "dog", "tree"]
    assert (labels["0.jpg"], labels["1.jpg"]) == ({"cat", "dog"}, {"dog", "tree"})


def test_a_number_without_a_name_is_refused(tmp_path):
    text = "".join(f"{i}.jpg {i % 3 + 1}\n" for i in range(6))
    write(tmp_path, {**PICTURES, "train.txt": text, "classes.txt": "cat\ndog\ntree\n"})
    with pytest.raises(ValueError, match=r"label '3' is not among the 3 that are named \(0 cat, 1 dog, 2 tree\)"):
        read(tmp_path)


VECTORS = ["1 0 0", "0 1 0", "1 1 0", "0 0 1", "1 0 1", "0 0 0"]


@pytest.mark.parametrize("short", ["1 1", ""])
@pytest.mark.parametrize("typed", [True, False])
def test_a_vector_that_is_too_short_is_a_bad_row_and_makes_no_ids(tmp_path, short, typed):
    cells = [list(map(int, vector.split())) for vector in [*VECTORS[:5], short]]
    rows = [{"file_name": f"{i}.jpg", "labels": cell if typed else str(cell)} for i, cell in enumerate(cells)]
    write(tmp_path, {**PICTURES, "metadata.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    with pytest.raises(ValueError, match="label values, expected 3"):
        read(tmp_path)


def test_short_sets_of_two_ids_stay_ids(tmp_path):
    text = lines(f'{i}.jpg,"{cell}"' for i, cell in enumerate(["[0]", "[1]", "[1, 0]", "[0]", "[1]", "[0]"]))
    assert read(write(tmp_path, {**PICTURES, "metadata.csv": text}))[1]["2.jpg"] == {"0", "1"}


def two_files(kind, rows):
    """The first four rows as train, the others as val."""
    files = {}
    for split, part in (("train", rows[:4]), ("val", rows[4:])):
        if kind == "json":
            content = [{"file_name": name, "labels": list(map(int, cell.split()))} for name, cell in part]
            files["train.json" if split == "train" else "val.json"] = json.dumps(content)
        elif kind == "csv":
            files[f"{split}.csv"] = lines(f'{name},"[{", ".join(cell.split())}]"' for name, cell in part)
        else:
            files[f"{split}.txt"] = "".join(f"{name} {cell}\n" for name, cell in part)
    return files


@pytest.mark.parametrize("kind", ["json", "csv", "txt"])
def test_cells_mean_the_same_in_all_splits(tmp_path, kind):
    cells = ["1 0", "0 1", "1 0", "1 1", "0 1", "0 1"]
    write(tmp_path, {**PICTURES, **two_files(kind, list(zip(PICTURES, cells, strict=True)))})
    assert all_splits(tmp_path)["val"] == {"4.jpg": {"1"}, "5.jpg": {"1"}}


def test_ids_in_one_split_and_vectors_in_another_are_refused(tmp_path):
    cells = ["1 0 0", "1 1 0", "0 1 0", "0 0 1", "0", "2"]
    write(tmp_path, {**PICTURES, **two_files("txt", list(zip(PICTURES, cells, strict=True)))})
    with pytest.raises(ValueError, match="there are 1 label values, expected 3"):
        all_splits(tmp_path)


def test_categories_of_objects_are_no_vectors(tmp_path):
    rows = [{"file_name": f"{i}.jpg", "objects": {"category": [i % 2] * 3}} for i in range(6)]
    write(tmp_path, {**PICTURES, "metadata.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    assert read(tmp_path)[1]["1.jpg"] == {"1"}


ONE_HOT = [f"{i}.jpg,{int(i % 2 == 0)},{int(i % 3 == 0)}" for i in range(6)]


def test_answers_of_two_rows_that_contradict_each_other_are_refused(tmp_path):
    rows = ["0.jpg,1,0,0", "0.jpg,0,0,1", *(f"{i}.jpg,0,1,0" for i in range(1, 6))]
    write(tmp_path, {**PICTURES, "metadata.csv": lines(rows, "file_name,cat,dog,tree")})
    with pytest.raises(ValueError, match="stands in rows 0 and 1, with other labels"):
        read(tmp_path)
    rows = ['0.jpg,"[1, 0, 0]"', '0.jpg,"[0, 1, 0]"', *(f'{i}.jpg,"[0, 0, 1]"' for i in range(1, 6))]
    write(tmp_path, {"metadata.csv": lines(rows)})
    with pytest.raises(ValueError, match="stands in rows 0 and 1, with other labels"):
        read(tmp_path)


@pytest.mark.parametrize("numbers", [[0.3, 0.84, 0.5, 0.7, 0.9, 0.35], [1, 10, 2, 4, 1, 3], [0, 2, 5, 0, 8, 7]])
def test_numbers_beside_columns_of_answers_are_asked_about(tmp_path, numbers):
    rows = [f"{row},{number}" for row, number in zip(ONE_HOT, numbers, strict=True)]
    write(tmp_path, {**PICTURES, "metadata.csv": lines(rows, "file_name,cat,dog,tree")})
    with pytest.raises(ValueError, match="'tree' stands beside columns of answers and holds other numbers"):
        read(tmp_path)
    assert read(tmp_path, label_column=["cat", "dog"])[0] == ["cat", "dog"]


@pytest.mark.parametrize("name", ["latitude", "study_id", "price", "width"])
def test_columns_of_measures_are_no_labels(tmp_path, name):
    rows = [f"{row},{i % 2}" if name == "width" else f"{row},{i + 0.5}" for i, row in enumerate(ONE_HOT)]
    write(tmp_path, {**PICTURES, "metadata.csv": lines(rows, f"file_name,cat,dog,{name}")})
    names, _, said = read(tmp_path)
    assert names == ["cat", "dog"]
    assert f"columns not read as labels: {name}" in said


def test_boxes_are_no_labels(tmp_path):
    rows = [f"{i // 2}.jpg,{['cat', 'dog', 'tree'][i % 3]},0,{i % 2},1,1" for i in range(12)]
    write(tmp_path, {**PICTURES, "metadata.csv": lines(rows, "filename,class,xmin,ymin,xmax,ymax")})
    assert read(tmp_path)[1]["0.jpg"] == {"cat", "dog"}


def test_a_column_of_none_of_them_makes_the_unknown_negative(tmp_path):
    rows = ["0.jpg,1,0,0", "1.jpg,0,1,", "2.jpg,0,,1", "3.jpg,1,,"]
    write(tmp_path, {**PICTURES, "metadata.csv": lines(rows, "file_name,No Finding,cat,dog")})
    source = MultiLabelSource(tmp_path, none_label="No Finding")
    dataset = source.load("all")
    assert label_names(dataset) == ["cat", "dog"]
    assert column(dataset, "labels") == [[0, 0], [1, -1], [-1, 1], [0, 0]]


@pytest.mark.parametrize("header", ["file_name,cat,dog", "file_name,other,labels"])
def test_a_none_label_that_is_not_there_is_refused(tmp_path, header):
    rows = ONE_HOT if "cat" in header else [f"{i}.jpg,?,{'cat' if i % 2 else 'dog'}" for i in range(6)]
    write(tmp_path, {**PICTURES, "metadata.csv": lines(rows, header)})
    with pytest.raises(ValueError, match="--none-label owl: there is no such label among cat, dog"):
        read(tmp_path, none_label="owl")


def test_a_folder_may_be_none_of_the_labels(tmp_path):
    shades = {"cat": 0, "tree": 90, "none": 180}
    write(tmp_path, {f"{name}/{name}{i}.jpg": shade + 30 * i for name, shade in shades.items() for i in (1, 2)})
    names, labels, _ = read(tmp_path, none_label="none")
    assert (names, labels["none1.jpg"]) == (["cat", "tree"], set())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"separator": ";"}, "--separator"),
        ({"minus_one": "negative"}, "--minus-one"),
        ({"blank": "unknown"}, "--blank"),
    ],
)
def test_an_option_that_changes_nothing_is_named(tmp_path, options, said):
    write(tmp_path, {**PICTURES, "metadata.csv": lines(f"{i}.jpg,{'cat' if i % 2 else 'dog'}" for i in range(6))})
    assert f"warning: {said} changes nothing here" in read(tmp_path, **options)[2]
    assert not any("changes nothing" in sentence for sentence in read(tmp_path)[2])


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("meaning", [None, "negative"])
def test_minus_one_among_ids_is_no_label(tmp_path, typed, meaning):
    cells = ["0", "0 1", "-1", "1", "2", "0"] if not typed else [0, 1, -1, 1, 2, 0]
    rows = [{"file_name": f"{i}.jpg", "labels": cell} for i, cell in enumerate(cells)]
    write(tmp_path, {**PICTURES, "metadata.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    if meaning is None:
        with pytest.raises(ValueError, match=r"2\.jpg: it has no label"):
            read(tmp_path)
    names, labels, said = read(tmp_path, minus_one=meaning, keep_unlabeled=meaning is None)
    assert not any("--separator '-'" in sentence for sentence in said)
    assert (names, labels["2.jpg"]) == (["0", "1", "2"], set())


def test_pictures_without_an_xml_file_are_counted(tmp_path):
    xml = "<annotation><filename>{}.jpg</filename><object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
    xml += "<xmax>3</xmax><ymax>3</ymax></bndbox></object></annotation>"
    write(tmp_path, {**PICTURES, **{f"{i}.xml": xml.format(i, "owl" if i else "fox") for i in range(4)}})
    assert "warning: 2 pictures without an XML file, such as 4.jpg, passed over" in read(tmp_path)[2]


def label_studio(name):
    choices = [{"value": {"choices": ["cat", "dog"]}}]
    return {"data": {"image": f"/data/upload/1/0a1b2c3d-{name}"}, "annotations": [{"result": choices}]}


def test_pictures_are_found_without_what_label_studio_adds_to_their_names(tmp_path):
    tasks = [{"id": i, **label_studio(name)} for i, name in enumerate(PICTURES)]
    names, labels, said = read(write(tmp_path, {**PICTURES, "project.json": json.dumps(tasks)}))
    assert (names, labels["0.jpg"]) == (["cat", "dog"], {"cat", "dog"})
    assert any("the file of 0a1b2c3d-0.jpg is 0.jpg" in sentence for sentence in said)


def test_an_object_without_a_box_is_a_label_too(tmp_path):
    xml = "<annotation><filename>{}.jpg</filename><object><name>{}</name><polygon><x1>1</x1></polygon></object>"
    xml += "</annotation>"
    write(tmp_path, {**PICTURES, **{f"{i}.xml": xml.format(i, "owl" if i else "fox") for i in range(6)}})
    assert read(tmp_path)[1]["0.jpg"] == {"fox"}


SETS = {f"{i}.jpg": labels for i, labels in enumerate((["cat"], ["dog"], ["cat", "dog"], ["tree"], ["tree"], ["cat"]))}
SHAPES = {
    "columns": {"image": list(SETS), "labels": list(SETS.values())},
    "pandas": {
        "image": {str(i): name for i, name in enumerate(SETS)},
        "labels": {str(i): "|".join(labels) for i, labels in enumerate(SETS.values())},
    },
    "pandas split": {"columns": ["image", "labels"], "index": [*range(6)], "data": [[*row] for row in SETS.items()]},
    "splits": {
        "train": [{"image": name, "labels": labels} for name, labels in SETS.items()],
        "val": [{"image": "9.jpg", "labels": ["cat"]}],
    },
    "by label": {label: [n for n, labels in SETS.items() if label in labels] for label in ("cat", "dog", "tree")},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_json_is_read_in_the_shapes_that_people_write(tmp_path, shape):
    write(tmp_path, {**PICTURES, "9.jpg": 9, "labels.json": json.dumps(SHAPES[shape])})
    labels = all_splits(tmp_path)
    assert labels["train"] == {name: set(found) for name, found in SETS.items()}
    assert labels.get("val", {"9.jpg": {"cat"}}) == {"9.jpg": {"cat"}}


def test_ids_of_coco_may_be_text(tmp_path):
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(PICTURES)],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(12)],
        "annotations": [
            {"id": str(i), "image_id": str(i % 7), "category_id": str(i % 12), "bbox": [0, 0, 2, 2]} for i in range(12)
        ],
    }
    names, labels, said = read(write(tmp_path, {**PICTURES, "annotations.json": json.dumps(content)}))
    assert (names[10], labels["4.jpg"]) == ("c10", {"c4", "c11"})
    assert any("1 annotation of images that annotations.json does not list" in sentence for sentence in said)


def test_ids_may_be_whole_floats(tmp_path):
    rows = [{"file_name": f"{i}.jpg", "labels": [float(i % 3), 2.0][: 1 + i % 2]} for i in range(6)]
    write(tmp_path, {**PICTURES, "metadata.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    assert read(tmp_path)[1]["1.jpg"] == {"1", "2"}


def test_a_cell_that_is_no_answer_is_shown(tmp_path):
    rows = [f"{i}.jpg,0.7,0.{i}" for i in range(1, 6)]
    write(tmp_path, {**PICTURES, "metadata.csv": lines(rows, "file_name,cat,dog")})
    with pytest.raises(ValueError, match=r"says yes or no: they hold '0\.1', '0\.2'"):
        read(tmp_path, label_column=["cat", "dog"])


def test_a_row_of_nothing_is_no_row(tmp_path):
    write(tmp_path, {**PICTURES, "metadata.csv": lines([*ONE_HOT, ",,", " , ,"], "file_name,cat,dog")})
    assert len(read(tmp_path)[1]) == 6


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_rows_of_one_file_that_differ_are_never_skipped(tmp_path, on_bad_image):
    write(tmp_path, {**PICTURES, "metadata.csv": lines(["0.jpg,cat", "./0.jpg,dog", "1.jpg,tree"])})
    with pytest.raises(ValueError, match="stands in rows 0 and 1, with other labels"):
        read(tmp_path, on_bad_image=on_bad_image)


IDS = {"cat": "7", "dog": "8", "tree": "9"}


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["label_1", "label_2", "label_3"], False),
        (["label_1", "label_2", "label_3"], True),
        (["label", "label2", "label3"], False),
        (["a", "b", "c"], False),
    ],
)
def test_columns_of_one_label_each_are_put_together(tmp_path, names, ids):
    rows = [
        ",".join([name, *(IDS[label] if ids else label for label in labels)]) + "," * (3 - len(labels))
        for name, labels in SETS.items()
    ]
    write(tmp_path, {**PICTURES, "metadata.csv": lines(rows, ",".join(["file", *names]))})
    found, labels, _ = read(tmp_path, label_column=names if names[0] == "a" else None)
    assert set(IDS.values() if ids else IDS) <= set(found)
    assert labels == {name: {IDS[label] if ids else label for label in found} for name, found in SETS.items()}
