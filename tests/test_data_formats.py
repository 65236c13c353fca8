"""Every format of docs/data.md is read right; what is written in another way is read too, or refused."""

import json
import re
import zipfile
from pathlib import Path

import datasets
import pandas as pd
import PIL.Image
import pytest
from datasets import Image

from gkgnet_hf.data import MultiLabelSource, label_names, load_multilabel_dataset

from .image_files import column, draw, file_names

DOCS = (Path(__file__).parents[1] / "docs/data.md").read_text()
EXAMPLES = dict(re.findall(r"^### (.*?)\n\n```text\n(.*?)```", DOCS, flags=re.DOTALL | re.MULTILINE))
ROWS = [("0.jpg", "cat"), ("1.jpg", "cat|dog"), ("2.jpg", "dog"), ("3.jpg", "tree"), ("4.jpg", "tree|cat")]
NAMES = ["cat", "dog", "tree"]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(root, files):
    """Files by name: text, or a shade for a picture."""
    for name, content in files.items():
        if isinstance(content, int):
            draw(root / name, content)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def table(rows=ROWS, header="file_name,labels", **more):
    """A metadata.csv with the pictures that the rows name, and more files."""
    lines = [header, *(",".join(f'"{cell}"' if "," in cell else cell for cell in row) for row in rows)]
    pictures = {row[0]: shade for shade, row in enumerate(rows) if "/" not in row[0] and row[0].endswith(".jpg")}
    return {"metadata.csv": "\n".join(lines) + "\n", **pictures, **more}


def read(folder, **options):
    """Label names, and the names of the positive labels of each picture."""
    source = MultiLabelSource(folder, **options)
    dataset = source.load("all" if source.splits == ["train"] else "train")
    names = label_names(dataset)
    labels = ({names[label] for label in ids} for ids in column(dataset, "label_ids"))
    return names, dict(zip(file_names(dataset), labels, strict=True)), source.assumptions


def expected(rows=ROWS):
    return {name.split("/")[-1]: set(labels.split("|")) for name, labels, *_ in rows}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_of_the_docs_is_read(tmp_path, name):
    for part in re.split(r"^# ", EXAMPLES[name], flags=re.MULTILINE)[1:]:
        file, _, content = part.partition("\n")
        write(tmp_path, {file: ord(Path(file).stem[0]) if file.endswith(".jpg") else content})
    source = MultiLabelSource(tmp_path)
    dataset = source.load(None if len(source.splits) == 1 else "train", hold_out=False)
    assert label_names(dataset) == ["cat", "dog"]
    assert dict(zip(file_names(dataset), column(dataset, "labels"), strict=True)) == {"a.jpg": [1, 1], "b.jpg": [0, 1]}


def test_the_docs_list_every_example():
    listed = re.findall(r"^\| \[(.*?)\]", DOCS, flags=re.MULTILINE)
    assert listed == list(EXAMPLES)


def cells(rows, write_cell):
    return [(name, write_cell(labels.split("|"))) for name, labels in rows]


LISTS = {
    "Python": lambda labels: repr(labels),
    "tuple": lambda labels: repr(tuple(labels)),
    "JSON": lambda labels: json.dumps(labels).replace('"', '""'),
    "set": lambda labels: "{" + ", ".join(map(repr, labels)) + "}",
    "numpy": lambda labels: "[" + " ".join(map(repr, labels)) + "]",
    "array": lambda labels: f"array({labels!r}, dtype=object)",
    "choices": lambda labels: json.dumps({"choices": labels}).replace('"', '""'),
    "answers": lambda labels: repr({name: int(name in labels) for name in NAMES}),
    "pipe": "|".join,
    "semicolon": "; ".join,
    "comma": ", ".join,
    "space": " ".join,
    "double": "||".join,
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_in_text_are_read_without_being_run(tmp_path, kind):
    rows = cells(ROWS, LISTS[kind])
    text = "file_name,labels\n" + "".join(f'{name},"{cell}"\n' for name, cell in rows)
    write(tmp_path, {**table(), "metadata.csv": text})
    names, labels, _ = read(tmp_path)
    assert (names, labels) == (NAMES, expected())


ANSWERS = {
    "yes": ("yes", "no"),
    "Y": ("Y", "N"),
    "true": ("True", "False"),
    "t": ("t", "f"),
    "pm1": ("1", "-1"),
    "one": ("1", ""),
    "x": ("x", ""),
    "float": ("1.0", "0.0"),
    "space": (" 1", "0 "),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_columns_of_answers_are_read_without_unknowns(tmp_path, kind):
    rows = [(name, *(ANSWERS[kind][label not in labels.split("|")] for label in NAMES)) for name, labels in ROWS]
    write(tmp_path, table(rows, "file_name,cat,dog,tree"))
    dataset = load_multilabel_dataset(tmp_path)
    assert column(dataset, "labels") == [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]]


@pytest.mark.parametrize(("blank", "minus_one"), [("negative", "positive"), ("unknown", "negative"), (None, None)])
def test_blank_and_minus_one_mean_what_one_says(tmp_path, blank, minus_one):
    write(tmp_path, table([("0.jpg", "1", "0"), ("1.jpg", "", "1"), ("2.jpg", "-1", "0")], "file_name,cat,dog"))
    value = {"negative": 0, "positive": 1, "unknown": -1, None: -1}
    labels = column(load_multilabel_dataset(tmp_path, blank=blank, minus_one=minus_one), "labels")
    assert labels == [[1, 0], [value[blank], 1], [value[minus_one], 0]]


READ = {
    "names with commas": (
        table([("0.jpg", "tench, Tinca"), ("1.jpg", "tench, Tinca"), ("2.jpg", "emu")]),
        "warning: 'tench",
    ),
    "header in capitals": (table(header="Filename,Labels"), "'Labels'"),
    "other names": (table(header="poster,Genre"), "'Genre'"),
    "the only column left": (table(header="file_name,was_drauf_ist"), "the only one that is left"),
    "leading zeros": (table([("0.jpg", "001|010"), ("1.jpg", "010"), ("2.jpg", "007")]), "'|'"),
    "fold": (
        table([(*row, str(i % 2)) for i, row in enumerate(ROWS)], "file_name,labels,fold"),
        "columns not read as labels: fold",
    ),
    "case": (table([("0.jpg", "Cat"), ("1.jpg", "cat|dog"), ("2.jpg", "dog")]), "--ignore-case joins them"),
    "mixed separators": (
        table([("0.jpg", "cat"), ("1.jpg", "cat;dog"), ("2.jpg", "dog|tree"), ("3.jpg", "tree")]),
        "mixes separators",
    ),
}


@pytest.mark.parametrize(("files", "said"), READ.values(), ids=READ)
def test_tables_are_read_and_what_was_assumed_is_said(tmp_path, files, said):
    write(tmp_path, files)
    rows = [line.partition(",") for line in files["metadata.csv"].splitlines()[1:]]
    _, labels, assumptions = read(tmp_path)
    assert any(said in sentence for sentence in assumptions)
    if "fold" not in files["metadata.csv"]:
        right = {name: set(re.split(r"[|;]", cell.strip('"'))) for name, _, cell in rows}
        assert labels == right


def test_a_label_on_every_image_is_warned_of(tmp_path):
    _, _, said = read(write(tmp_path, table([(f"{i}.jpg", "cat") for i in range(3)])))
    assert "warning: no label is negative on any image, so there is nothing to tell apart" in said


def test_case_and_unicode_variants_are_one_label_if_asked(tmp_path):
    write(tmp_path, table([("0.jpg", "Cat|B\u00e4r"), ("1.jpg", "cat"), ("2.jpg", "cat|Ba\u0308r")]))
    assert read(tmp_path)[0] == ["B\u00e4r", "Cat", "cat"]
    assert read(tmp_path, ignore_case=True)[0] == ["B\u00e4r", "cat"]


def test_a_label_that_means_none_of_them_can_be_named(tmp_path):
    write(tmp_path, table([("0.jpg", "No Finding"), ("1.jpg", "cat|dog"), ("2.jpg", "dog")]))
    names, _, said = read(tmp_path)
    assert names == ["No Finding", "cat", "dog"]
    assert any("--none-label 'No Finding'" in sentence for sentence in said)
    names, labels, _ = read(tmp_path, none_label="No Finding")
    assert names == ["cat", "dog"]
    assert labels["0.jpg"] == set()


PLACES = {
    "images": ("{}", "images/{}"),
    "deep": ("{}", "data/all/images/{}"),
    "other suffix case": ("{}", "{upper}"),
    "no suffix": ("{stem}", "{}"),
    "no suffix in a folder": ("{stem}", "train-jpg/{}"),
    "backslash": ("images\\{}", "images/{}"),
    "another machine": ("/home/me/photos/{}", "photos/{}"),
    "windows": ("C:\\data\\photos\\{}", "photos/{}"),
    "blanks": (" {} ", "{}"),
    "its own folder": ("{root}/{}", "{}"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_pictures_are_found_from_the_folder_of_the_table(tmp_path, monkeypatch, kind):
    cell, file = PLACES[kind]
    root = tmp_path / "set"
    monkeypatch.chdir(write(tmp_path / "cwd", {name: 200 for name, _ in ROWS}))  # files of the same names

    def fill(pattern, name):
        return pattern.format(name, stem=name[:-4], upper=name[:-4] + ".JPG", root=root.name)

    write(root, {fill(file, name): shade for shade, (name, _) in enumerate(ROWS)})
    write(
        root,
        {"metadata.csv": "file_name,labels\n" + "".join(f"{fill(cell, name)},{labels}\n" for name, labels in ROWS)},
    )
    dataset = load_multilabel_dataset(root)
    assert [image.getpixel((0, 0))[0] < 100 for image in dataset["image"]] == [True] * len(ROWS)


def test_the_folder_and_suffix_of_pictures_can_be_named(tmp_path):
    write(tmp_path, {f"{folder}/{i}.jpg": i for folder in ("a", "b") for i in range(2)})
    write(tmp_path, {"metadata.csv": "id,labels\n0,cat|dog\n1,dog\n"})
    with pytest.raises(ValueError, match="are in several folders: a/, b/; name one with --image-dir"):
        load_multilabel_dataset(tmp_path)
    for options in ({"image_dir": "b"}, {"image_dir": tmp_path / "b", "image_suffix": "jpg"}):
        paths = column(load_multilabel_dataset(tmp_path, **options).cast_column("image", Image(decode=False)), "image")
        assert [Path(image["path"]).parent.name for image in paths] == ["b", "b"]


def test_pictures_in_several_folders_are_found_by_name_and_divide_the_rows(tmp_path):
    write(tmp_path, table([(name, labels) for name, labels in ROWS]))
    for i, (name, _) in enumerate(ROWS):
        (tmp_path / ["train", "val"][i % 2]).mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / ["train", "val"][i % 2] / name)
    source = MultiLabelSource(tmp_path)
    assert source.splits == ["train", "val"]
    assert file_names(source.load("val")) == ["1.jpg", "3.jpg"]


SPLITS = {
    "split": ("split", ["train", "Val", "TEST"], {"train": 2, "validation": 2, "test": 1}),
    "is_valid": ("is_valid", ["False", "True", "False"], {"train": 3, "validation": 2}),
    "is_train": ("is_train", ["1", "0", "1"], {"train": 3, "validation": 2}),
}


@pytest.mark.parametrize(("name", "values", "sizes"), SPLITS.values(), ids=SPLITS)
def test_a_column_divides_the_rows(tmp_path, name, values, sizes):
    rows = [(file, labels, values[i % 3]) for i, (file, labels) in enumerate(ROWS)]
    source = MultiLabelSource(write(tmp_path, table(rows, f"file_name,labels,{name}")))
    assert {split: len(source.load(split, hold_out=False)) for split in source.splits} == sizes
    assert label_names(source.load("validation")) == NAMES  # those of all rows


def test_rows_of_one_image_are_put_together(tmp_path):
    rows = [("0.jpg", "cat", "1"), ("0.jpg", "dog", "1"), ("1.jpg", "dog", "0"), ("1.jpg", "tree", "1")]
    files = {"0.jpg": 0, "1.jpg": 1}
    write(tmp_path, {**table(rows, "file_name,label,confidence"), **files})
    dataset = load_multilabel_dataset(tmp_path)
    assert column(dataset, "labels") == [[1, 1, -1], [-1, 0, 1]]
    write(tmp_path, {**table([row[:2] for row in rows], "file_name,label"), **files})
    assert column(load_multilabel_dataset(tmp_path), "labels") == [[1, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_repeated_rows_that_agree_are_merged_whatever_happens_to_bad_ones(tmp_path, on_bad_image):
    write(tmp_path, {**table([*ROWS, ("./0.jpg", "cat"), ROWS[1]]), "0.jpg": 0, "1.jpg": 1})
    assert file_names(load_multilabel_dataset(tmp_path, on_bad_image=on_bad_image)) == [name for name, _ in ROWS]


REFUSED = {
    "splits are no labels": ({"train/0.jpg": 0, "test/1.jpg": 1}, "test, train of .* are splits, not labels"),
    "masks": ({"images/0.jpg": 0, "masks/0.png": 1}, "The folder images of .* is no label"),
    "a folder a picture": ({f"00{i}/00{i}.jpg": i for i in range(4)}, "Each of the 4 folders of .* holds one picture"),
    "unknown annotations": ({"cat/0.jpg": 0, "dog/1.jpg": 1, "x.mat": "?"}, r"x\.mat, which is in no known format"),
    "only pictures": ({"0.jpg": 0}, "holds pictures and nothing that says their labels"),
    "nothing": ({"README.md": "hello"}, "cannot be read"),
    "two tables": ({**table(), "train.csv": table()["metadata.csv"]}, r"several tables .*metadata\.csv, train\.csv"),
    "no labels": (table([("0.jpg",), ("1.jpg",)], "file_name"), "No column holds labels"),
    "one label, all of it": (table([("0.jpg", "1", "1")] * 1 + [("1.jpg", "1", "1")], "file_name,cat,dog"), "says no"),
    "counts": (
        table([("0.jpg", "1", "2"), ("1.jpg", "0", "0"), ("2.jpg", "1", "3")], "file_name,a,b"),
        "'b' stands beside",
    ),
    "a typo": (
        table([(f"{i}.jpg", "yes", "no") for i in range(4)] + [("4.jpg", "yse", "yes")], "file_name,a,b"),
        "'yse'",
    ),
    "a sentence": (table([("0.jpg", "a cat and a dog"), ("1.jpg", "a dog")]), "may be a sentence"),
    "a comma that cannot be told": (table([("0.jpg", "cat, dog"), ("1.jpg", "owl")]), "--separator ,"),
    "a list that is none": (table([("0.jpg", "[cat"), ("1.jpg", "dog")]), "begins like a list but is none"),
    "digits together": (table([("0.jpg", "101"), ("1.jpg", "010")]), "write answers with commas"),
    "weights": (table([("0.jpg", "cat:0.9|dog:0.1"), ("1.jpg", "dog:0.8")]), "numbers behind them"),
    "cells without quotes": (
        table([("0.jpg", "cat,dog")], "a;b", **{"metadata.csv": "a,b\n0.jpg,cat,dog\n"}),
        "must be quoted",
    ),
    "files elsewhere": (
        {"metadata.csv": "file_name,labels\nx.jpg,cat\n", "0.jpg": 0},
        r"None of the pictures .* such as x\.jpg, is there: looked in .* holds 0\.jpg.*--image-dir",
    ),
    "channels a file": (
        {"train.csv": "Id,Target\na,0 1\nb,1\n", **{f"train/{i}_{c}.png": 0 for i in "ab" for c in ("red", "blue")}},
        r"files that begin so: a_blue\.png, a_red\.png",
    ),
    "captions": ({"0.jpg": 0, "0.txt": "a big dog runs over the wide field"}, "has a caption"),
    "YOLO without names": ({"images/0.jpg": 0, "labels/0.txt": "0 0.5 0.5 0.1 0.1"}, "names the classes"),
    "annotators who differ": (
        {
            "p.json": json.dumps(
                [
                    {
                        "id": 7,
                        "data": {"image": "0.jpg"},
                        "annotations": [{"result": [{"value": {"choices": [c]}}]} for c in ("cat", "dog")],
                    }
                ]
            ),
            "0.jpg": 0,
        },
        "Task 7 has 2 annotations that differ",
    ),
    "lists and separators": (
        {
            "m.jsonl": "".join(
                json.dumps({"file_name": f"{i}.jpg", "labels": labels}) + "\n"
                for i, labels in enumerate([["cat"], "cat|dog"])
            ),
            "0.jpg": 0,
            "1.jpg": 1,
        },
        "mixes lists such as",
    ),
    "a broken archive": ({"photos.zip": b"PK\x03\x04 and no more"}, "cannot be unpacked"),
}


@pytest.mark.parametrize(("files", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_told_is_refused_with_what_was_seen(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        load_multilabel_dataset(write(tmp_path, files))


def test_pictures_that_are_passed_over_are_counted(tmp_path, monkeypatch):
    from gkgnet_hf.data.readers import folders

    monkeypatch.setattr(folders, "READABLE_SUFFIXES", {".jpg"})
    monkeypatch.setattr(folders, "PLUGIN_SUFFIXES", {".heic": "pillow-heif"})
    files = {f"{label}/{i}.jpg": i for label in ("cat", "dog") for i in range(2)}
    source = MultiLabelSource(write(tmp_path, {**files, "cat/x.HEIC": b"", "dog/y.heic": b"", "__MACOSX/cat/z.jpg": 1}))
    assert (
        "warning: pictures that end in .heic are passed over: 2 (pip install pillow-heif reads them)"
        in source.assumptions
    )
    write(tmp_path, {"owl/a.heic": b""})
    with pytest.raises(ValueError, match=r"Folder owl holds only pictures that end in \.heic.*pip install pillow-heif"):
        MultiLabelSource(tmp_path)


def test_lvis_says_what_is_known_to_be_absent(tmp_path):
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "neg_category_ids": [i + 1]} for i in (1, 2)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 3]},
            {"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]},
        ],
        "categories": [{"id": i, "name": f"c{i}"} for i in (1, 2, 3)],
    }
    write(tmp_path, {"lvis_train.json": json.dumps(content), "1.jpg": 1, "2.jpg": 2})
    dataset = MultiLabelSource(tmp_path).load("train", hold_out=False)
    assert column(dataset, "labels") == [[1, 0, -1], [1, -1, 0]]
    assert column(dataset, "label_areas") == [[6, 0, 0], [1, 0, 0]]


def test_a_field_of_label_studio_is_named_where_there_are_several(tmp_path):
    def result(field, choice):
        return {"from_name": field, "type": "choices", "value": {"choices": [choice]}}

    tasks = [
        {
            "id": i,
            "data": {"image": f"{i}.jpg"},
            "annotations": [{"result": [result("use", "ok"), result("kind", kind)]}],
        }
        for i, kind in enumerate(("cat", "dog"))
    ]
    write(tmp_path, {"p.json": json.dumps(tasks), "0.jpg": 0, "1.jpg": 1})
    with pytest.raises(ValueError, match="fields kind, use; name one with --label-column"):
        load_multilabel_dataset(tmp_path)
    assert label_names(load_multilabel_dataset(tmp_path, label_column=["kind"])) == ["cat", "dog"]


def test_yolo_files_beside_pictures_take_their_names_from_classes_txt(tmp_path):
    files = {"classes.txt": "cat\ndog\n", "0.txt": "0 .5 .5 .1 .1\n1 .5 .5 .1 .1\n", "1.txt": "1 .5 .5 .1 .1\n"}
    assert read(write(tmp_path, {**files, "0.jpg": 0, "1.jpg": 1}))[:2] == (
        ["cat", "dog"],
        {"0.jpg": {"cat", "dog"}, "1.jpg": {"dog"}},
    )


def test_names_of_ids_are_taken_from_a_table_beside(tmp_path):
    names = {"labels.csv": "attribute_id,attribute_name\n0,red\n1,green\n2,blue\n"}
    files = {"train.csv": "id,attribute_ids\na,2 0\nb,2\n", "train/a.png": 0, "train/b.png": 1}
    assert read(write(tmp_path, {**files, **names}))[:2] == (
        ["red", "green", "blue"],
        {"a.png": {"red", "blue"}, "b.png": {"blue"}},
    )


@pytest.mark.parametrize("archive", ["photos.zip", "train.zip"])
def test_a_zip_file_is_read_as_the_folder_that_it_holds(tmp_path, archive):
    files = write(tmp_path / "files", table())
    with zipfile.ZipFile(tmp_path / archive, "w") as opened:
        for file in files.iterdir():
            opened.write(file, file.name)
    for source in (tmp_path / archive,):
        assert read(source)[:2] == (NAMES, expected())
    assert len(load_multilabel_dataset(tmp_path / archive, "validation")) >= 1


def test_a_parquet_table_may_hold_the_pictures(tmp_path):
    draw(tmp_path / "x.png", 3)
    content = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").unlink()
    rows = datasets.Dataset.from_dict({"image": [{"path": None, "bytes": content}] * 2, "labels": [["cat"], ["dog"]]})
    rows.cast_column("image", Image()).to_parquet(tmp_path / "metadata.parquet")
    dataset = load_multilabel_dataset(tmp_path)
    assert column(dataset, "labels") == [[1, 0], [0, 1]]
    assert isinstance(dataset[0]["image"], PIL.Image.Image)


def test_an_excel_sheet_is_read_or_says_what_it_needs(tmp_path, monkeypatch):
    write(tmp_path, {**{name: i for i, (name, _) in enumerate(ROWS)}, "metadata.xlsx": b"PK"})
    frame = pd.DataFrame(ROWS, columns=["file_name", " labels"])
    monkeypatch.setattr(pd, "read_excel", lambda path, **_: frame)
    assert read(tmp_path)[:2] == (NAMES, expected())

    def missing(path, **_):
        raise ImportError("openpyxl")

    monkeypatch.setattr(pd, "read_excel", missing)
    with pytest.raises(ImportError, match="needs the package openpyxl: pip install openpyxl, or save"):
        load_multilabel_dataset(tmp_path)
