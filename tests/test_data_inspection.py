"""What `data inspect` says and draws, what `data convert` writes, and what the command says about wrong options."""

import re
import sys

import datasets
import numpy as np
import PIL.Image
import pytest
from datasets import load_dataset

from gkgnet_hf.cli import main
from gkgnet_hf.data import MultiLabelSource, label_names, load_multilabel_dataset
from gkgnet_hf.data.imagefolder import write_imagefolder
from gkgnet_hf.data.inspection import commonest_pairs, label_table

from .image_files import column, draw, file_names


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def splits(tmp_path):
    """Two splits with answers, of which some are unknown."""
    rows = {"train": ["1,1,0", "1,1,", "0,1,1", "0,0,0"], "valid": ["1,0,1"]}
    for split, lines in rows.items():
        for i in range(len(lines)):
            draw(tmp_path / f"set/{split}/{i}.png", 40 * i + 7 * len(split))
        text = "file_name,cat,dog,owl\n" + "".join(f"{i}.png,{line}\n" for i, line in enumerate(lines))
        (tmp_path / f"set/{split}/labels.csv").write_text(text)
    return tmp_path / "set"


def command(monkeypatch, capsys, *words):
    """Run the command → exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["gkgnet-hf", *map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return (exit_.value.code or 0, *capsys.readouterr())


def test_inspect_shows_assumptions_and_each_label_in_each_split(splits, monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "data", "inspect", splits)
    assert code == 0
    assert f"{splits} (table)" in out
    assert "  train: 4 images, 3 labels, 1.5 labels per image" in out
    assert "  valid: 1 image, 3 labels, 2.0 labels per image" in out
    assert "each of 3 columns is one label: cat, dog, owl" in out
    assert "an empty cell means unknown (other cells say no; --blank changes it)" in out
    rows = [re.split(r" {2,}", line) for line in out.splitlines() if line.startswith(("cat", "dog", "owl"))]
    assert rows == [
        ["cat", "2", "2", "0", "1", "0", "0"],
        ["dog", "3", "1", "0", "0", "1", "0"],
        ["owl", "1", "2", "1", "1", "0", "0"],
    ]
    assert "Commonest pairs: cat + dog (2 images)" in out
    assert "cat + owl (1 image)" in out
    code, out, _ = command(monkeypatch, capsys, "data", "inspect", splits, "--split", "valid", "--no-check-data")
    assert (code, "train" in out.split("Assumed")[0]) == (0, False)


def test_the_sheet_shows_every_picture(splits, tmp_path, monkeypatch, capsys):
    sheet = tmp_path / "sheet.png"
    assert command(monkeypatch, capsys, "data", "inspect", splits, "--preview", sheet)[0] == 0
    pixels = np.asarray(PIL.Image.open(sheet).convert("RGB")).reshape(-1, 3)
    drawn = {tuple(color) for color in np.unique(pixels, axis=0).tolist()}
    assert all((40 * i + 35, (40 * i + 35) // 2, 0) in drawn for i in range(4))
    for wrong in ("sheet.csv", "nowhere/sheet.png"):
        code, _, error = command(monkeypatch, capsys, "data", "inspect", splits, "--preview", tmp_path / wrong)
        assert code == 2
        assert error.startswith("gkgnet-hf: ")


def test_pairs_and_table_of_many_labels_are_those_with_most_images(tmp_path):
    names = [f"label{i:03d}" for i in range(60)]
    rows = "".join(f"{i}.png,{name}|label059|label058\n" for i, name in enumerate(names[:58]))
    for i in range(58):
        draw(tmp_path / f"{i}.png", i)
    (tmp_path / "metadata.csv").write_text("file_name,labels\n" + rows)
    dataset = load_multilabel_dataset(tmp_path)
    assert commonest_pairs([dataset])[0] == ("label058", "label059", 58)
    lines = label_table({"train": dataset})
    assert [line.split()[0] for line in lines[2:4]] == ["label058", "label059"]
    assert "… and 10 labels with fewer images" in lines


def test_convert_writes_what_is_read_again_the_same(splits, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert command(monkeypatch, capsys, "data", "convert", splits, out)[0] == 0
    before, after = MultiLabelSource(splits), MultiLabelSource(out)
    assert before.splits == after.splits == ["train", "valid"]
    for split in before.splits:
        a, b = before.load(split, hold_out=False), after.load(split, hold_out=False)
        assert label_names(a) == label_names(b) == ["cat", "dog", "owl"]
        assert column(a, "labels") == column(b, "labels")
        assert file_names(a) == file_names(b)
    code, _, error = command(monkeypatch, capsys, "data", "convert", splits, out)
    assert (code, "must be empty" in error) == (2, True)


def test_what_convert_writes_is_an_imagefolder(tmp_path):
    for label, i in (("cat", 0), ("dog", 0), ("dog", 1)):
        draw(tmp_path / f"set/{label}/{i}.png", i)
    written = write_imagefolder(MultiLabelSource(tmp_path / "set"), tmp_path / "out")
    rows = load_dataset(str(written), split="train")
    assert rows.features["labels"].feature.names == ["cat", "dog"]
    assert rows["labels"][:] == [[0, 1], [1]]
    assert [image.getpixel((0, 0))[0] for image in rows["image"]] == [0, 1]


def test_convert_writes_nothing_for_a_name_that_the_hub_refuses(splits, tmp_path, monkeypatch, capsys):
    code, _, error = command(monkeypatch, capsys, "data", "convert", splits, tmp_path / "out", "--push", "bad/na/me")
    assert code != 0
    assert "bad/na/me" in error
    assert not (tmp_path / "out").exists()


def test_convert_pushes_the_folder_as_a_dataset(splits, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("huggingface_hub.create_repo", lambda *names, **options: calls.append((names, options)))

    class Commit:
        commit_url = "https://example.org/commit"

    def upload(**options):
        calls.append(options)
        return Commit

    monkeypatch.setattr("huggingface_hub.upload_folder", upload)
    code, out, _ = command(monkeypatch, capsys, "data", "convert", splits, tmp_path / "out", "--push", "me/set")
    assert (code, out.splitlines()[-1]) == (0, "https://example.org/commit")
    assert calls[0] == (("me/set",), {"repo_type": "dataset", "exist_ok": True})
    assert calls[1] == {"repo_id": "me/set", "repo_type": "dataset", "folder_path": tmp_path / "out"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--label-column", "cow"], "There is no column 'cow', --label-column can be any of cat, dog, owl"),
        (["--image-column", "cow"], "There is no column 'cow', --image-column can be any of file_name, cat"),
        (["--image-dir", "cow"], "--image-dir cow: there is no such folder"),
        (["--encoding", "cow"], "there is no encoding 'cow'"),
    ],
)
def test_an_option_that_does_not_fit_is_one_line_that_names_it(splits, monkeypatch, capsys, options, says):
    code, _, error = command(monkeypatch, capsys, "data", "inspect", splits, *options)
    assert code == 2
    assert says in error
    assert error.count("\n") == 1


def test_options_of_data_reach_the_reader(splits, monkeypatch, capsys):
    words = ["--label-column", "cat", "--label-column", "owl", "--blank", "negative"]
    _, out, _ = command(monkeypatch, capsys, "data", "inspect", splits, *words)
    assert [line.split()[0] for line in out.splitlines() if re.match(r"cat|dog|owl", line)] == ["cat", "owl"]
    assert "an empty cell means negative (as asked; --blank changes it)" in out


def test_one_column_of_answers_is_one_label(splits, monkeypatch, capsys):
    _, out, _ = command(monkeypatch, capsys, "data", "inspect", splits, "--label-column", "cat", "--split", "train")
    assert "1 label, " in out
    assert re.search(r"cat +2 +2$", out, flags=re.MULTILINE)
