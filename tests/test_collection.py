"""Labelling a collection: what there is to label, which labels are kept, where results go, and that none is lost."""

import csv
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Image, load_dataset
from PIL import Image as PILImage

from gkgnet_hf import GKGNetForImageClassification, create_image_processor
from gkgnet_hf.predict import Predictor, label_thresholds, predict_scores
from gkgnet_hf.predict.collection import label_collection, multiply_shards, parse_shard
from gkgnet_hf.predict.label_rules import LabelRules, read_label_rules
from gkgnet_hf.predict.outputs import Parts, Sidecars
from gkgnet_hf.predict.rows import Row, read_rows

from .networks import small_classifier

NAMES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network = small_classifier(NAMES, image_size=32, spread=0.2)
    folder = tmp_path_factory.mktemp("model")
    network.save_pretrained(folder)
    create_image_processor(network.config).save_pretrained(folder)
    return str(folder)


def draw(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    for i in range(6):
        draw(tmp_path / "photos" / ("more" if i % 2 else "") / f"{i}.png", i)
    return tmp_path / "photos"


def ids(*sources, **options):
    return [row.id for row in read_rows(sources, **options)]


def label(model, sources, output, **options):
    predictor = Predictor(model, exact=True, threshold=options.pop("threshold", 0.5))
    shard = options.get("shard", (1, 1))
    results = Parts(output, predictor.rules.names, predictor.manifest, "{}-of-{}".format(*shard))
    return label_collection(predictor, read_rows(sources), results, batch_size=4, num_workers=0, **options)


def rows_of(folder):
    return [row for part in sorted(Path(folder).glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


class TestRows:
    def test_a_folder_gives_its_pictures_in_order_and_each_once(self, photos):
        (photos / "notes.txt").write_text("no picture")
        found = ids(photos, photos / "2.png", str(photos / "*.png"))
        assert found == [str(photos / name) for name in ("0.png", "2.png", "4.png")] + [
            str(photos / "more" / name) for name in ("1.png", "3.png", "5.png")
        ]

    def test_standard_input_is_read_as_it_comes(self):
        class Lines(io.StringIO):
            def readline(self, size=-1):
                assert self.tell() == 0, "the next line was read before it was needed"
                return super().readline(size)

        rows = read_rows(["-"], lines=Lines("a.jpg\nb.jpg\n"))
        assert next(rows).id == "a.jpg"

    def test_a_table_names_pictures_beside_it(self, photos, tmp_path):
        (tmp_path / "list.csv").write_text("file,size\nphotos/0.png,3\nphotos/2.png,4\n")
        assert [Path(name).name for name in ids(tmp_path / "list.csv")] == ["0.png", "2.png"]

    def test_a_saved_data_set(self, photos, tmp_path):
        files = sorted(str(path) for path in photos.glob("*.png"))
        Dataset.from_dict({"image": files}).cast_column("image", Image()).save_to_disk(tmp_path / "saved")
        found = ids(tmp_path / "saved")
        assert len(found) == 3
        assert found[0].endswith("/0")

    def test_the_shards_of_a_web_dataset(self, photos, tmp_path):
        for shard, name in enumerate(("0.png", "2.png")):
            with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as members:
                members.add(photos / name, name)
                note = tarfile.TarInfo("note.json")
                members.addfile(note, io.BytesIO())
        shards = str(tmp_path / "shard-*.tar")
        assert ids(shards) == [f"{tmp_path}/shard-0.tar/0.png", f"{tmp_path}/shard-1.tar/2.png"]
        (tmp_path / "bad.tar").write_bytes(b"no shard" * 200)
        with pytest.raises(ValueError, match="cannot be read as a WebDataset shard"):
            ids(tmp_path / "bad.tar")

    def test_what_is_not_there_is_named_before_any_work(self, photos):
        with pytest.raises(FileNotFoundError, match=r"matches .*gone\.png"):
            read_rows([photos, photos / "gone.png"])
        with pytest.raises(ValueError, match="No image in"):
            ids(photos.parent.joinpath("empty").mkdir() or photos.parent / "empty")


class TestRules:
    def test_a_table_gives_thresholds_names_and_implications(self, tmp_path):
        (tmp_path / "labels.csv").write_text(
            "label,category,threshold,rename,exclude,implies\n"
            "cat,pet,,Katze,,animal\n"
            "dog,pet,0.9,,,animal; dog owner\n"
            "owl,bird,0.1,,yes,\n"
            ",pet,0.3,,,\n"
            "animal,,,,,thing\n"
        )
        rules = read_label_rules(NAMES, 0.5, table=tmp_path / "labels.csv")
        assert rules.thresholds.tolist() == [0.3, 0.9, 0.1]
        assert rules(np.array([0.4, 0.8, 0.9])) == [("Katze", 0.4), ("animal", 0.4), ("thing", 0.4)]
        assert rules(np.array([0.1, 0.95, 0.9]))[0] == ("dog", 0.95)

    def test_implications_in_a_circle_end(self):
        rules = LabelRules(NAMES, label_thresholds(0.5, 3), implied={"cat": ["dog"], "dog": ["cat"]})
        assert rules(np.array([0.9, 0.6, 0.0])) == [("cat", 0.9), ("dog", 0.9)]

    def test_the_highest_scores_without_a_threshold(self):
        rules = read_label_rules(NAMES, 0.5, top_k=2, exclude=["dog"])
        assert [name for name, _ in rules(np.array([0.1, 0.4, 0.2]))] == ["owl", "cat"]

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            ("name,threshold\ncat,0.5\n", "must have a column label"),
            ("label,limit\ncat,0.5\n", "it has label, limit"),
            ("label,threshold\nzebra,0.5\n", "names the label zebra, which the model does not have"),
            ("label,threshold\ncat,2\n", r"threshold of cat must be a number in \[0, 1\], got 2"),
            ("label,exclude\ncat,maybe\n", "exclude of cat must be yes or no, got maybe"),
        ],
    )
    def test_a_wrong_table_is_one_clear_error(self, tmp_path, table, message):
        (tmp_path / "labels.csv").write_text(table)
        with pytest.raises(ValueError, match=message):
            read_label_rules(NAMES, 0.5, table=tmp_path / "labels.csv")

    def test_a_label_that_is_not_there(self):
        with pytest.raises(ValueError, match="no label zebra; it has cat, dog, owl"):
            read_label_rules(NAMES, 0.5, exclude=["zebra"])


class TestPredictor:
    def test_columns_in_columns_out(self, model, photos):
        predictor = pickle.loads(pickle.dumps(Predictor(model, exact=True, embeddings="patches")))
        files = [str(photos / "0.png"), str(photos / "gone.png"), str(photos / "2.png")]
        result = predictor({"image": files, "number": [7, 8, 9]})
        assert (result["number"], result["image"]) == ([7, 8, 9], files)
        expected = predict_scores(predictor.network, predictor.processor, [files[0], files[2]])
        np.testing.assert_allclose(result["scores"][[0, 2]], expected, rtol=1e-5)
        assert np.isnan(result["scores"][1]).all()
        assert result["problem"][0] is None
        assert "no file" in result["problem"][1]
        assert result["labels"][1] == []
        assert result["embedding"].shape == (3, 32)

    def test_fast_scores_are_near_the_exact_ones(self, model, photos):
        files = {"image": [str(path) for path in sorted(photos.rglob("*.png"))]}
        exact, fast = (Predictor(model, exact=exact)(files)["scores"] for exact in (True, False))
        np.testing.assert_allclose(exact, fast, atol=0.03)

    @pytest.mark.parametrize("num_proc", [None, 2])
    def test_it_maps_over_a_data_set(self, model, photos, num_proc):
        files = [str(path) for path in sorted(photos.rglob("*.png"))]
        predictor = Predictor(model, exact=True)
        expected = predictor({"image": files})  # a network that is loaded already is not handed to other processes
        dataset = Dataset.from_dict({"image": files})
        labelled = dataset.map(predictor, batched=True, batch_size=2, num_proc=num_proc)
        assert labelled.column_names == ["image", "labels", "label_scores", "scores", "problem"]
        assert labelled["problem"][:] == [None] * 6
        assert labelled["labels"][:] == expected["labels"]
        np.testing.assert_allclose(labelled["scores"][:], expected["scores"], rtol=1e-4)


class TestParts:
    def test_every_picture_has_a_row_with_all_scores(self, model, photos, tmp_path):
        done = label(model, [photos], tmp_path / "out.parquet")
        assert (done.labelled, done.failed) == (6, 0)
        rows = rows_of(tmp_path / "out.parquet")
        assert [row["image"] for row in rows] == ids(photos)
        predictor = Predictor(model, exact=True)
        expected = predict_scores(predictor.network, predictor.processor, [row["image"] for row in rows])
        np.testing.assert_allclose([row["scores"] for row in rows], expected, rtol=1e-4)
        for row in rows:
            kept = {name: score for name, score in zip(NAMES, row["scores"], strict=True) if score >= 0.5}
            assert dict(zip(row["labels"], row["label_scores"], strict=True)) == pytest.approx(kept)
        dataset = load_dataset("parquet", data_dir=str(tmp_path / "out.parquet"), split="train")
        assert dataset.num_rows == 6

    def test_a_run_goes_on_where_the_last_one_stopped(self, model, photos, tmp_path):
        label(model, [photos / "more"], tmp_path / "out.parquet")
        before = {path.name: path.read_bytes() for path in (tmp_path / "out.parquet").glob("part-*")}
        done = label(model, [photos], tmp_path / "out.parquet")
        assert (done.labelled, done.skipped) == (3, 3)
        assert sorted(row["image"] for row in rows_of(tmp_path / "out.parquet")) == sorted(ids(photos))
        for name, content in before.items():
            assert (tmp_path / "out.parquet" / name).read_bytes() == content
        assert label(model, [photos], tmp_path / "out.parquet").labelled == 0

    def test_other_options_or_another_model_are_refused(self, model, photos, tmp_path):
        label(model, [photos], tmp_path / "out.parquet")
        with pytest.raises(ValueError, match="a run with another threshold"):
            label(model, [photos], tmp_path / "out.parquet", threshold=0.6)
        network = GKGNetForImageClassification.from_pretrained(model)
        with torch.no_grad():
            network.patch_classifier.bias += 1
        network.save_pretrained(tmp_path / "other")
        create_image_processor(network.config).save_pretrained(tmp_path / "other")
        with pytest.raises(ValueError, match="a run with another model"):
            label(str(tmp_path / "other"), [photos], tmp_path / "out.parquet")

    def test_a_folder_of_something_else_is_not_touched(self, model, photos):
        (photos / "mine.parquet").mkdir()
        (photos / "mine.parquet" / "data").write_text("mine")
        with pytest.raises(ValueError, match="holds other files"):
            label(model, [photos], photos / "mine.parquet")
        with pytest.raises(ValueError, match="must end in"):
            label(model, [photos], photos / "labels.xlsx")

    def test_pictures_that_cannot_be_used_are_listed_and_tried_again(self, model, photos, tmp_path):
        (photos / "bad.png").write_bytes(b"no picture")
        done = label(model, [photos], tmp_path / "out.parquet")
        assert (done.labelled, done.failed) == (6, 1)
        errors = tmp_path / "out.parquet.errors.csv"
        assert [row["image"] for row in csv.DictReader(errors.open())] == [str(photos / "bad.png")]
        draw(photos / "bad.png")
        assert label(model, [photos], tmp_path / "out.parquet").labelled == 1

    def test_with_error_the_first_bad_picture_ends_the_run_and_what_was_done_is_kept(self, model, photos, tmp_path):
        (photos / "z.png").write_bytes(b"no picture")
        with pytest.raises(ValueError, match=r"z\.png: "):
            label(model, [photos / "more", photos], tmp_path / "out.parquet", on_bad_image="error")
        assert len(rows_of(tmp_path / "out.parquet")) == 4

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_text_files_are_made_when_a_run_ends(self, model, photos, tmp_path, suffix):
        draw(photos / "=1+1.png")
        output = tmp_path / f"out.{suffix}"
        label(model, [photos], output)
        rows = rows_of(tmp_path / f"out.{suffix}.parts")
        if suffix == "csv":
            lines = list(csv.DictReader(output.open()))
            assert [line["image"].removeprefix("'") for line in lines] == [row["image"] for row in rows]
            assert [line["labels"].split("; ") for line in lines if line["labels"]] == [
                row["labels"] for row in rows if row["labels"]
            ]
            np.testing.assert_allclose(
                [[float(line[name]) for name in NAMES] for line in lines], [row["scores"] for row in rows], rtol=1e-5
            )
        else:
            lines = [json.loads(line) for line in output.read_text().splitlines()]
            assert [line["image"] for line in lines] == [row["image"] for row in rows]
            assert [line["scores"] for line in lines] == [row["scores"] for row in rows]

    def test_shards_share_one_output_and_every_row_is_in_one(self, model, photos, tmp_path):
        done = [label(model, [photos], tmp_path / "out.csv", shard=(i, 3)) for i in (1, 2, 3)]
        assert sum(run.labelled for run in done) == 6
        assert max(run.labelled for run in done) < 6
        with (tmp_path / "out.csv").open() as file:
            assert sorted(line["image"] for line in csv.DictReader(file)) == sorted(ids(photos))

    def test_shards_of_processes(self):
        parts = {multiply_shards((i, 2), rank, 3) for i in (1, 2) for rank in range(3)}
        assert parts == {(i, 6) for i in range(1, 7)}
        for text in ("0/3", "4/3", "3", "a/b", "1/0"):
            with pytest.raises(ValueError, match="must be written as 3/8"):
                parse_shard(text)

    @pytest.mark.slow
    def test_thirty_kills_change_nothing(self, model, tmp_path):
        for i in range(600):
            draw(tmp_path / "many" / f"{i:03}.png", i)
        words = [sys.executable, "-m", "tests.kill_collection", model, str(tmp_path / "many")]
        root = Path(__file__).parents[1]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        for output, kills in (("whole.parquet", "0"), ("killed.parquet", "30")):
            done = subprocess.run(
                [*words, str(tmp_path / output), kills, "0"], cwd=root, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        print(f"killed {done.stdout.strip()} times")
        assert int(done.stdout) == 30
        whole, killed = (
            {row["image"]: row for row in rows_of(tmp_path / o)} for o in ("whole.parquet", "killed.parquet")
        )
        assert Counter(row["image"] for row in rows_of(tmp_path / "killed.parquet")).most_common(1)[0][1] == 1
        assert whole.keys() == killed.keys()
        for name, row in whole.items():
            np.testing.assert_allclose(row["scores"], killed[name]["scores"], atol=0.02)


class TestSidecars:
    def label(self, model, sources, **options):
        sidecars = Sidecars(**options)
        predictor = Predictor(model, exact=True, top_k=1, rename={"cat": "a", "dog": "b", "owl": "c"})
        return label_collection(predictor, read_rows(sources), sidecars, num_workers=0), sidecars

    def test_tags_stand_beside_each_picture(self, model, photos):
        self.label(model, [photos])
        files = sorted(path.name for path in photos.rglob("*.txt"))
        assert files == [f"{i}.png.txt" for i in range(6)]
        assert (photos / "0.png.txt").read_text() in ("a", "b", "c")

    @pytest.mark.parametrize(("existing", "expected"), [("append", "mine, "), ("replace", ""), ("skip", "mine")])
    def test_what_becomes_of_tags_that_are_there(self, model, photos, existing, expected):
        file = photos / "0.txt"
        file.write_text("mine")
        self.label(model, [photos / "0.png"], stem=True, existing=existing)
        content = file.read_text()
        assert content.startswith(expected)
        assert ("mine" in content) == (existing != "replace")
        self.label(model, [photos / "0.png"], stem=True, existing=existing)
        assert file.read_text() == content

    def test_no_two_pictures_share_a_file(self, model, photos):
        draw(photos / "0.jpg", 9)
        done, sidecars = self.label(model, [photos / "0.jpg", photos / "0.png"], stem=True)
        assert sidecars.problems == [(str(photos / "0.png"), f"0.txt holds the tags of {photos / '0.jpg'} already")]
        assert done.labelled == 2

    def test_a_picture_that_is_no_file_gets_none(self):
        sidecars = Sidecars()
        assert sidecars.file(Row("shard.tar/a.png", b"content")) is None


class TestCommand:
    def test_results_are_printed_as_they_come(self, model, photos, run_in):
        for words, count in (([], 6), (["--csv"], None), (["--json"], None)):
            code, out, err = run_in(photos.parent, "predict", model, "photos", "--threshold", "0", *words)
            assert code == 0, err
            if count:
                assert len(out.splitlines()) == count
            elif words == ["--csv"]:
                assert len(list(csv.DictReader(out.splitlines()))) == 6 * len(NAMES)
            else:
                assert [row["image"] for row in json.loads(out)] == [f"photos/{i}.png" for i in (0, 2, 4)] + [
                    f"photos/more/{i}.png" for i in (1, 3, 5)
                ]

    def test_a_bad_picture_is_said_and_the_others_are_labelled(self, model, photos, run_in):
        (photos / "bad.png").write_bytes(b"no picture")
        code, out, err = run_in(photos.parent, "predict", model, "photos")
        assert code == 0
        assert len(out.splitlines()) == 6
        assert "photos/bad.png: it is not a picture" in err
        code, _, err = run_in(photos.parent, "predict", model, "photos", "--on-bad-image", "error")
        assert code == 2
        assert "photos/bad.png" in err.splitlines()[-1]

    def test_an_output_says_what_was_done(self, model, photos, run_in):
        words = ("predict", model, "photos", "--output", "labels.csv", "--num-workers", "0", "--exclude", "cat")
        code, _, err = run_in(photos.parent, *words)
        assert code == 0, err
        assert "6 pictures labelled" in err
        assert "the network waited" in err
        _, _, err = run_in(photos.parent, *words)
        assert "6 were done before" in err
        code, _, err = run_in(photos.parent, *words, "--top-k", "1")
        assert code == 2
        assert "a run with another threshold, top_k" in err.splitlines()[-1]

    def test_wrong_words_are_one_line(self, model, photos, run_in):
        for words, message in (
            (["--rename", "cat"], "--rename must be OLD=NEW, got cat"),
            (["--shard", "9/8"], "must be written as 3/8"),
            (["--output", "a.csv", "--json"], "the name of the output says the format"),
            (["--embeddings", "labels"], "need an --output"),
            (["--exclude", "zebra"], "no label zebra"),
        ):
            code, _, err = run_in(photos.parent, "predict", model, "photos", *words)
            assert code == 2
            assert message in err.splitlines()[-1]
