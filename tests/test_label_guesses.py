"""What folders and cells look like labels and are not, and separators that nobody expects."""

import csv
import io
import json
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from gkgnet_hf.data.sources import MultiLabelSource

from .image_files import column

SETS = [["cat"], ["dog"], ["cat", "dog"], ["tree"], ["cat", "tree"], ["dog", "tree"], ["cat"], ["cat", "dog", "tree"]]
NAMES = ["cat", "dog", "tree"]
TARGETS = np.array([[name in labels for name in NAMES] for labels in SETS], dtype=np.float32)


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, str(path)))
    Image.effect_noise((8, 8), seed % 97 + 1).convert("RGB").save(path)


def write_table(folder, cells):
    for place in range(len(cells)):
        draw(folder / f"{place}.png")
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "labels"), *((f"{i}.png", cell) for i, cell in enumerate(cells))])
    return folder


def write_folders(root, *folders, count=2):
    for folder in folders:
        for place in range(count):
            draw(root / folder / f"{folder.replace('/', '-')}-{place}.png")
    return root


def read(folder, **options):
    source = MultiLabelSource(folder, **options)
    dataset = source.load(source.splits[0], hold_out=False)
    return dataset.features["label_ids"].feature.names, column(dataset, "labels"), source.assumptions


@pytest.mark.parametrize(
    "separator", ["/", " + ", " & ", "&", " and ", "-", "_", ":", "\n", "\t", "|", "; ", ", ", " "]
)
def test_a_separator_whose_parts_stand_alone_elsewhere_divides_names(tmp_path, separator):
    names, targets, said = read(write_table(tmp_path, [separator.join(labels) for labels in SETS]))
    assert names == NAMES
    np.testing.assert_array_equal(targets, TARGETS)
    assert any("between them" in sentence for sentence in said)


def test_a_name_with_a_dash_or_a_slash_stays_one_name(tmp_path):
    cells = ["t-shirt", "shirt", "red/white", "blue_sky", "t-shirt", "sky"]
    names, _, said = read(write_table(tmp_path, cells))
    assert names == sorted(set(cells))
    assert not any("between them" in sentence for sentence in said)


def test_one_name_whose_parts_are_labels_too_is_said(tmp_path):
    names, _, said = read(write_table(tmp_path, ["red", "wine", "red-wine", "white", "white-board"]))
    assert "red-wine" in names
    assert any("'red-wine'" in sentence and "--separator '-'" in sentence for sentence in said)


def test_words_between_signs_that_do_not_recur_are_asked_about(tmp_path):
    folder = write_table(tmp_path, ["cat + dog", "owl + fox", "bee + ant"])
    with pytest.raises(ValueError, match=r"pass --separator '\+'"):
        read(folder)


@pytest.mark.parametrize(
    "written",
    [
        lambda labels: f"array({labels}, dtype='<U4')",
        lambda labels: f"np.array({labels})",
        lambda labels: "array([" + " ".join(map(repr, labels)) + "], dtype=object)",
        lambda labels: f"set({labels})",
        lambda labels: f"frozenset({set(labels)})",
    ],
)
def test_what_programs_print_of_lists_is_read(tmp_path, written):
    names, targets, _ = read(write_table(tmp_path, [written(labels) for labels in SETS]))
    assert names == NAMES
    np.testing.assert_array_equal(targets, TARGETS)


def test_vectors_that_torch_prints_are_read(tmp_path):
    _, targets, _ = read(write_table(tmp_path, [f"tensor({row.tolist()}, dtype=torch.int8)" for row in TARGETS]))
    np.testing.assert_array_equal(targets, TARGETS)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("images_001", "images_002"), "numbered parts, such as images_001"),
        (("patient01", "patient02", "patient03"), "numbered parts, such as patient01"),
        (("trainA", "trainB", "testA", "testB"), "are splits, not labels"),
        (("query", "gallery"), "is no label"),
    ],
)
def test_folders_that_only_divide_pictures_are_no_labels(tmp_path, folders, message):
    with pytest.raises(ValueError, match=message):
        read(write_folders(tmp_path, *folders))


def test_a_folder_for_each_picture_is_no_label(tmp_path):
    with pytest.raises(ValueError, match="holds one picture"):
        read(write_folders(tmp_path, "anna", "bert", "carl", count=1))


def test_labels_that_are_numbers_or_years_stay_labels(tmp_path):
    assert read(write_folders(tmp_path, "0", "1", "2023"))[0] == ["0", "1", "2023"]


def test_objects_as_the_hub_has_them_give_labels(tmp_path):
    for place in range(len(SETS)):
        draw(tmp_path / f"{place}.png")
    rows = [
        {
            "file_name": f"{i}.png",
            "objects": {"bbox": [[0, 0, 2, 2]] * len(s), "categories": [NAMES.index(n) for n in s]},
        }
        for i, s in enumerate(SETS)
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.testing.assert_array_equal(read(tmp_path)[1], TARGETS)


def test_a_table_of_names_is_used_and_not_called_unread(tmp_path):
    write_table(tmp_path, ["|".join(str(NAMES.index(name)) for name in labels) for labels in SETS])
    (tmp_path / "class_names.csv").write_text("id,name\n0,cat\n1,dog\n2,tree\n")
    names, targets, said = read(tmp_path)
    assert names == NAMES
    np.testing.assert_array_equal(targets, TARGETS)
    assert not any("is not read" in sentence for sentence in said)


def test_a_table_without_a_no_asks_for_one(tmp_path):
    for place in range(4):
        draw(tmp_path / f"{place}.png")
    (tmp_path / "metadata.csv").write_text("file_name,cat,dog\n" + "".join(f"{i}.png,1,1\n" for i in range(4)))
    with pytest.raises(ValueError, match="says no: they hold '1'; write 0 there"):
        read(tmp_path)


def test_the_name_above_all_categories_is_no_label(tmp_path):
    for split in ("train", "valid"):
        for place in range(len(SETS)):
            draw(tmp_path / split / f"{split}{place}.png")
        above = [{"id": 0, "name": "things", "supercategory": "none"}]
        categories = [{"id": i + 1, "name": name, "supercategory": "things"} for i, name in enumerate(NAMES)]
        content = {
            "images": [{"id": i, "file_name": f"{split}{i}.png"} for i in range(len(SETS))],
            "categories": above + categories,
            "annotations": [
                {"id": 10 * i + j, "image_id": i, "category_id": NAMES.index(name) + 1, "bbox": [0, 0, 2, 2], "area": 4}
                for i, labels in enumerate(SETS)
                for j, name in enumerate(labels)
            ],
        }
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    names, targets, said = read(tmp_path)
    assert names == NAMES
    np.testing.assert_array_equal(targets, TARGETS)
    assert any("'things'" in sentence for sentence in said)


def write_columns(folder, header, rows):
    for place in range(len(rows)):
        draw(folder / f"{place}.png")
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", *header), *((f"{i}.png", *row) for i, row in enumerate(rows))])
    return folder


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("text", lambda i: f"a {NAMES[i % 3]} in the garden"),
        ("caption", lambda i: NAMES[i % 3]),
        ("cost", lambda i: f"{1.5 * i}"),
        ("camera", lambda i: f"serial{i}"),
    ],
)
def test_one_other_column_that_is_no_labels_is_asked_about(tmp_path, name, cell):
    folder = write_columns(tmp_path, [name], [[cell(i)] for i in range(12)])
    with pytest.raises(ValueError, match=f"Pass --label-column {name} if these are the labels"):
        read(folder)


def test_one_other_column_of_labels_is_read_whatever_its_name(tmp_path):
    folder = write_columns(tmp_path, ["was_seen"], [["|".join(labels)] for labels in SETS])
    np.testing.assert_array_equal(read(folder)[1], TARGETS)


def test_text_files_that_list_pictures_divide_them(tmp_path):
    write_columns(tmp_path, ["labels"], [["|".join(labels)] for labels in SETS])
    (tmp_path / "train_val_list.txt").write_text("".join(f"{i}.png\n" for i in range(5)))
    (tmp_path / "test_list.txt").write_text("".join(f"{i}.png\n" for i in range(5, 7)))
    source = MultiLabelSource(tmp_path)
    assert source.splits == ["train", "test", "unlisted"]
    assert [len(source.load(split, hold_out=False)) for split in source.splits] == [5, 2, 1]
    assert any("test_list.txt, train_val_list.txt divide the pictures" in sentence for sentence in source.assumptions)
    assert any(
        "pictures in none of these files are the split unlisted: 1" in sentence for sentence in source.assumptions
    )


def test_a_text_file_of_something_else_divides_nothing(tmp_path):
    write_columns(tmp_path, ["labels"], [["|".join(labels)] for labels in SETS])
    (tmp_path / "test.txt").write_text("notes on how this was tested\n")
    assert MultiLabelSource(tmp_path).splits == ["train"]


@pytest.mark.parametrize("content", [lambda s: {"labels": s}, lambda s: {name: int(name in s) for name in NAMES}])
def test_the_json_of_a_webdataset_gives_labels(tmp_path, content):
    draw(tmp_path / "picture.png")
    picture = (tmp_path / "picture.png").read_bytes()
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "shard-000.tar", "w") as archive:
        for place, labels in enumerate(SETS):
            for suffix, data in (("png", picture), ("json", json.dumps(content(labels)).encode())):
                member = tarfile.TarInfo(f"{place:04d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    names, targets, _ = read(tmp_path / "shards")
    assert names == NAMES
    np.testing.assert_array_equal(targets, TARGETS)


@pytest.mark.parametrize(
    ("name", "cell", "reason"),
    [
        ("page_url", "https://x.org/{}", "holds addresses or paths"),
        ("mask_path", "masks/{}.png", "holds addresses or paths"),
        ("EncodedPixels", "{}1 3 {}5 5", "has another value in each row"),
        ("PredictionString", "n01 {} 20 30 60", "has another value in each row"),
        ("boxes", "1 0.5 0.{}5", "holds numbers"),
    ],
)
def test_the_only_column_is_asked_about_where_its_cells_are_no_labels(tmp_path, name, cell, reason):
    folder = write_table(tmp_path, [cell.format(i, i) for i in range(12)])
    file = folder / "metadata.csv"
    file.write_text(file.read_text().replace("labels", name))
    with pytest.raises(ValueError, match=f"column '{name}' {reason}: .* Pass --label-column {name}"):
        MultiLabelSource(folder)


@pytest.mark.parametrize("separator", ["、", "，", "；", "｜"])
def test_full_width_separators_divide_names(tmp_path, separator):
    names, targets, _ = read(write_table(tmp_path, [separator.join(labels) for labels in SETS]))
    assert names == NAMES
    np.testing.assert_array_equal(targets, TARGETS)


def test_quotes_around_names_are_no_part_of_them(tmp_path):
    names, targets, _ = read(write_table(tmp_path, [", ".join(f"'{label}'" for label in labels) for labels in SETS]))
    assert names == NAMES
    np.testing.assert_array_equal(targets, TARGETS)


def test_and_before_the_last_name_divides_too(tmp_path):
    cells = [", ".join([*labels[:-2], " and ".join(labels[-2:])]) for labels in SETS]
    names, targets, said = read(write_table(tmp_path, ["cat, dog, and tree", "cat, tree", *cells]))
    assert names == NAMES
    np.testing.assert_array_equal(targets[2:], TARGETS)
    assert any("'and tree', 'cat and dog', 'cat and tree' is divided too" in sentence for sentence in said)


def test_an_entity_of_html_is_no_separator(tmp_path):
    folder = write_table(tmp_path, ["salt &amp; pepper", "cat", "cat;dog", "dog"])
    assert read(folder, separator=";")[0] == ["cat", "dog", "salt & pepper"]


def test_another_separator_in_a_part_is_said(tmp_path):
    _, _, said = read(write_table(tmp_path, ["cat;dog", "dog", "cat,fish"]))
    assert any("'cat,fish' is one name, though a part stands alone elsewhere" in sentence for sentence in said)


@pytest.mark.parametrize(
    "cells",
    [
        ["dining table", "coffee table", "side table", "dining chair", "side chair", "chair", "table"],
        ["Paris, France", "Lyon, France", "Rome, Italy", "Milan, Italy", "Nice, France"],
        [f"hat {'boy' if row % 2 else 'girl solo'} tag{row} rare{row}" for row in range(8)],
    ],
)
def test_names_of_several_words_are_not_divided_unasked(tmp_path, cells):
    with pytest.raises(ValueError, match=r"pass --separator .* or --separator '' if"):
        read(write_table(tmp_path, cells))


def test_tags_beside_pictures_may_have_spaces_between_them(tmp_path):
    for place, labels in enumerate(SETS):
        draw(tmp_path / f"{place}.png")
        (tmp_path / f"{place}.txt").write_text(" ".join(labels))
    names, targets, said = read(tmp_path)
    assert names == NAMES
    np.testing.assert_array_equal(targets, TARGETS)
    assert any("holds names with spaces between them" in sentence for sentence in said)


NUL = pytest.param(
    "red \x00car", marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="Python refuses the table")
)


@pytest.mark.parametrize("other", ["red car\u200b", "red\u00a0car", "red  car", NUL])
def test_names_that_differ_in_what_nobody_sees_are_one(tmp_path, other):
    names, targets, said = read(write_table(tmp_path, ["red car|dog", other, "dog"]))
    assert names == ["dog", "red car"]
    np.testing.assert_array_equal(targets, [[1, 1], [0, 1], [1, 0]])
    assert "1 name joined with another spelling of the same characters" in said


@pytest.mark.parametrize("other", ["Cat", "\uff43\uff41\uff54", "\u0441\u0430t"])
def test_names_that_look_alike_are_warned_about(tmp_path, other):
    folder = write_table(tmp_path, ["cat", "cat", other, "dog"])
    names, _, said = read(folder)
    assert set(names) == {"cat", "dog", other}
    assert any("differ in case or alphabet alone stay apart" in sentence and other in sentence for sentence in said)
    assert read(folder, ignore_case=True)[0] == ["cat", "dog"]
