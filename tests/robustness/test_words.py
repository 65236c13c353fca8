"""Words of strangers, in file names, labels and cells, are only shown: no line, cell or escape of theirs counts."""

import csv
import io
import json
import os
import shutil

import PIL.Image
import pytest

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.data import label_names, load_multilabel_dataset, pictures
from gkgnet_hf.data.checks import BadImage, report_bad_images
from gkgnet_hf.data.words import csv_cell, shown

ESCAPE, LINE = "a\x1b[2J\x1b]0;owned\x07", "b\ngkgnet-hf: all is well"
FORMULA, TURNED = "=cmd|' /C calc'!A0", "c\u202egnp.\x9b31m"
LABELS = [ESCAPE, LINE, FORMULA, TURNED, "+1", "@x", "cat"]
NAMES = [f"{number}{label}.png".replace("/", "_") for number, label in enumerate(LABELS)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data with such labels and files, a model of these labels as they are read, and one of labels as they are."""
    root = tmp_path_factory.mktemp("words")
    (root / "data").mkdir()
    for shade, name in enumerate(NAMES):
        PIL.Image.new("RGB", (8, 8), (shade, 0, 0)).save(root / "data" / name)
    rows = [{"file_name": name, "labels": [label, "cat"]} for name, label in zip(NAMES, LABELS, strict=True)]
    (root / "data/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sizes = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_neighbors": 3, "num_groups": 1}
    for folder, names in {"model": label_names(load_multilabel_dataset(root / "data")), "hostile": LABELS}.items():
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
        config = GKGNetConfig(**sizes, **labels, image_size=32)
        GKGNetForImageClassification(config).save_pretrained(root / folder)
        create_image_processor(config).save_pretrained(root / folder)
    return root


COMMANDS = {
    "predict": ("predict", "hostile", "data"),
    "predict --csv": ("predict", "hostile", "data", "--csv"),
    "predict --json": ("predict", "hostile", "data", "--json"),
    "evaluate": ("evaluate", "model", "data", "--split", "all"),
    "evaluate --json": ("evaluate", "model", "data", "--split", "all", "--json"),
    "inspect": ("data", "inspect", "data"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_that_a_command_prints_steers_a_terminal(place, run_in, command):
    code, out, err = run_in(place, *COMMANDS[command])
    assert code == 0, err
    for line in (out + err).replace("\r", "\n").split("\n"):
        assert shown(line) == line
        assert not line.startswith("gkgnet-hf: all is well")


def test_a_table_of_results_computes_nothing(place, run_in, tmp_path):
    code, out, _ = run_in(place, "predict", "hostile", "data", "--csv", "--threshold", "0")
    assert code == 0
    run_in(place, "evaluate", "model", "data", "--split", "all", "--per-label", str(tmp_path / "labels.csv"))
    report_bad_images([BadImage(1, "=a.png", "@broken\n", "-split")], "skip", tmp_path / "bad.csv")
    tables = [out, (tmp_path / "labels.csv").read_text(), (tmp_path / "bad.csv").read_text()]
    for table in tables:
        rows = list(csv.reader(io.StringIO(table)))
        assert len(rows) > 1
        texts = [cell for row in rows for cell in row if not cell.replace(".", "", 1).lstrip("-").isdigit()]
        assert not [cell for cell in texts if cell.startswith(("=", "+", "-", "@"))]


def test_an_error_names_a_hostile_file_in_one_line(place, run_in, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / NAMES[0]).write_text("no picture")
    rows = [{"file_name": NAMES[0], "labels": [LINE]}]
    (tmp_path / "data/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for words in (("evaluate", str(place / "model"), "data"), ("predict", str(place / "model"), "data")):
        code, _, err = run_in(tmp_path, *words)
        assert code == 2
        last = err.strip().splitlines()[-1]
        assert last.startswith("gkgnet-hf: ")
        assert shown(last) == last


@pytest.mark.skipif(os.name == "nt", reason="names of files are Unicode there")
def test_names_that_are_not_utf8_are_read_and_shown(place, run_in, tmp_path):
    (tmp_path / "data").mkdir()
    content = (place / "data" / NAMES[-1]).read_bytes()
    (tmp_path / "data" / os.fsdecode(b"\xff\xfe.png")).write_bytes(content)
    for option in ([], ["--csv"], ["--json"], ["--output", "labels.csv"]):
        code, out, err = run_in(tmp_path, "predict", str(place / "model"), "data", *option)
        assert code == 0, err
        assert "udcff" in out or (tmp_path / "labels.csv").read_text().count("udcff") == 1


def test_a_result_is_shown_even_if_a_side_file_cannot_be_written(place, run_in, tmp_path):
    (tmp_path / "labels.csv").mkdir()
    words = ("evaluate", "model", "data", "--split", "all", "--per-label", str(tmp_path / "labels.csv"))
    code, out, err = run_in(place, *words)
    assert code == 2
    assert out.startswith("mAP ")
    assert len(err.strip().splitlines()[-1]) < 500


@pytest.mark.parametrize("words", [("predict", "MODEL", "data"), ("evaluate", "MODEL", "data", "--split", "all")])
def test_data_that_vanish_are_one_line(place, run_in, tmp_path, monkeypatch, words):
    shutil.copytree(place / "data", tmp_path / "data")
    opened = pictures._opened

    def vanish(file):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        return opened(file)

    monkeypatch.setattr(pictures, "_opened", vanish)
    code, _, err = run_in(tmp_path, *(str(place / "model") if word == "MODEL" else word for word in words))
    assert code == 2
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("gkgnet-hf: ")


def test_cells_and_names_are_written_as_they_are_where_nothing_is_wrong():
    for text in ("cat", "Hund 🐕\u200d🦺", "größe", "日本\u3000語", "a::b.png"):
        assert shown(text) == csv_cell(text) == text
    assert csv_cell(" =1") == "' =1"
