"""The report: its numbers against scikit-learn or by hand, and the page in a real browser."""

import base64
import csv
import io
import json
import re
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score
from sklearn.metrics import precision_recall_curve as sklearn_curve

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.data.digits import make_digits
from gkgnet_hf.data.labels import multilabel_features
from gkgnet_hf.evaluation import evaluate_scores, multilabel_metrics
from gkgnet_hf.evaluation.report import (
    Pictures,
    bootstrap,
    curves,
    evaluate_other,
    find_mistakes,
    label_pairs,
    page,
    worst_pictures,
    write_mistakes,
    write_report,
)

from .networks import small_classifier
from .test_readme import snippets

NAMES = [
    "<b>cat</b>",
    "${1+1} $\\frac$",
    "{{7*7}}</script><script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "a\nb\x1b[2J",
]


def draw(num_images, num_labels, seed=0, skill=2.0, unknown=0.0, digits=3):
    """Scores and targets, with equal scores among them."""
    generator = np.random.default_rng(seed)
    targets = (generator.random((num_images, num_labels)) < 0.3).astype(float)
    scores = 1 / (1 + np.exp(-skill * (targets - 0.5) - generator.normal(size=targets.shape)))
    targets[generator.random(targets.shape) < unknown] = -1
    return scores.round(digits), targets


def url_content(url):
    return base64.b64decode(url.split(",", 1)[1])


class TestBootstrap:
    def test_a_sample_has_the_average_precision_of_scikit_learn_with_its_weights(self):
        scores, targets = draw(200, 3, unknown=0.2, digits=1)
        samples = bootstrap.bootstrap_average_precision(scores, targets, num_samples=5, seed=1)
        ((_, drawn),) = bootstrap._samples(200, 5, seed=1)
        assert (drawn.sum(0) == 200).all()
        for sample in range(5):
            for label in range(3):
                known = targets[:, label] >= 0
                expected = average_precision_score(
                    targets[known, label], scores[known, label], sample_weight=drawn[known, sample]
                )
                assert samples[sample, label] == pytest.approx(expected, abs=1e-5)

    def test_the_interval_holds_the_true_map_in_about_95_of_100_data_sets(self):
        truth = np.mean([multilabel_metrics(*draw(4000, 2, seed=seed))["mAP"] for seed in range(5)])
        held = 0
        for seed in range(100, 200):
            scores, targets = draw(400, 2, seed=seed)
            low, high = bootstrap.mean_interval(bootstrap.bootstrap_average_precision(scores, targets, 200))
            held += low <= truth <= high
        assert 88 <= held <= 100

    def test_a_label_without_positives_has_no_interval_and_does_not_count(self):
        scores, targets = draw(50, 2)
        targets[:, 1] = 0
        samples = bootstrap.bootstrap_average_precision(scores, targets)
        assert np.isnan(samples[:, 1]).all()
        assert np.isnan(bootstrap.interval(100 * samples)[1]).all()
        assert np.isfinite(bootstrap.mean_interval(samples)).all()

    def test_a_model_equals_itself(self):
        scores, targets = draw(100, 3)
        found = bootstrap.compare(scores, scores, targets)
        assert (found.difference, found.p_value, found.interval.tolist()) == (0, 1, [0, 0])

    def test_chance_differences_are_seldom_significant_and_real_ones_are(self):
        targets = draw(300, 3)[1]
        small = [
            bootstrap.compare(draw(300, 3, seed=0)[0], _redrawn(targets, seed), targets, num_samples=100).p_value < 0.05
            for seed in range(20, 60)
        ]
        assert sum(small) <= 6
        better = bootstrap.compare(_redrawn(targets, 1), _redrawn(targets, 2, skill=4), targets)
        assert better.difference > 0
        assert better.interval[0] > 0
        assert better.p_value < 0.01
        worse = bootstrap.compare(_redrawn(targets, 2, skill=4), _redrawn(targets, 1), targets)
        assert worse.difference == pytest.approx(-better.difference)
        assert worse.p_value == better.p_value


def _redrawn(targets, seed, skill=2.0):
    noise = np.random.default_rng(seed).normal(size=targets.shape)
    return 1 / (1 + np.exp(-skill * (targets - 0.5) - noise))


class TestCurves:
    def test_a_histogram_counts_what_each_threshold_predicts(self):
        scores, targets = draw(300, 4, unknown=0.2)
        scores[:5] = [[0, 1, 0.5, 0.1]] * 5  # 0.1 is not k/200 in binary
        scores = scores.astype(np.float32)
        positives, negatives = curves.score_histograms(scores, targets)
        for step in (0, 1, 20, 57, 100, 199, 200):
            predicted = scores.astype(np.float64) >= step / 200  # not rounded to the dtype of the scores
            assert positives[:, step:].sum(1).tolist() == (predicted & (targets == 1)).sum(0).tolist()
            assert negatives[:, step:].sum(1).tolist() == (predicted & (targets == 0)).sum(0).tolist()

    @pytest.mark.parametrize("size", [20, 2000])
    def test_every_point_lies_on_the_curve_of_scikit_learn(self, size):
        scores, targets = draw(size, 1, digits=2)
        points = curves.precision_recall_curve(scores[:, 0], targets[:, 0] == 1)
        precision, recall, _ = sklearn_curve(targets[:, 0], scores[:, 0])
        expected = {(round(r, 9), round(p, 9)) for r, p in zip(recall, precision, strict=True)}
        assert {(round(r, 9), round(p, 9)) for r, p in points.tolist()} <= expected
        assert len(points) <= curves.CURVE_POINTS
        assert points[-1, 0] == 1
        assert (np.diff(points[:, 0]) >= 0).all()

    def test_calibration_is_that_of_scikit_learn(self):
        scores, targets = draw(500, 1)
        found = curves.calibration(scores[:, 0], targets[:, 0] == 1)
        frequencies, means = calibration_curve(targets[:, 0], scores[:, 0], n_bins=10)
        filled = found.counts > 0
        np.testing.assert_allclose(found.frequencies[filled], frequencies)
        np.testing.assert_allclose(found.means[filled], means)
        assert found.error == pytest.approx(
            sum(found.counts[filled] * np.abs(frequencies - means)) / found.counts.sum()
        )


class TestPairs:
    def test_a_label_is_predicted_in_place_of_another_where_one_is_missed_and_the_other_wrong(self):
        scores, targets = draw(100, 4, skill=1, unknown=0.2)
        in_place, missed = label_pairs.confusion(scores, targets, 0.4)
        expected = np.zeros((4, 4), dtype=int)
        for image in range(100):
            for a in range(4):
                for b in range(4):
                    missing = targets[image, a] == 1 and scores[image, a] < 0.4
                    wrong = targets[image, b] == 0 and scores[image, b] >= 0.4
                    expected[a, b] += missing and wrong
        assert in_place.tolist() == expected.tolist()
        assert missed.tolist() == ((targets == 1) & (scores < 0.4)).sum(0).tolist()


class TestWorstPictures:
    def test_the_worst_of_each_label_come_before_the_second_worst_of_any(self):
        scores, targets = draw(300, 5, skill=1, unknown=0.1)
        found = worst_pictures.worst_pictures(scores, targets)
        assert len(found) == 5 * 2 * 3
        first = found[:10]
        assert {(worst.label, worst.kind) for worst in first} == {
            (a, kind) for a in range(5) for kind in ("wrong", "missed")
        }
        for worst in first:
            column, truth = scores[:, worst.label], targets[:, worst.label]
            if worst.kind == "wrong":
                assert worst.score == column[truth == 0].max() == column[worst.row]
            else:
                assert worst.score == column[truth == 1].min() == column[worst.row]
        assert worst_pictures.worst_pictures(scores, targets, most=7) == found[:7]

    def test_heat_is_brightest_and_least_transparent_where_it_is_highest(self):
        heat = np.array([[0.0, 0.25], [0.5, 1.0]], dtype=np.float32)
        picture = Image.open(io.BytesIO(url_content(worst_pictures.heat_url(heat)))).convert("RGBA")
        alpha = np.asarray(picture)[..., 3]
        light = np.asarray(picture)[..., :3].sum(-1)
        assert alpha[0, 0] == 0
        assert (np.diff(alpha.ravel()) > 0).all()
        assert (np.diff(light.astype(int).ravel()) > 0).all()


class TestMistakes:
    def test_a_wrong_label_comes_first(self):
        scores, targets = draw(200, 3, skill=8)
        wrong = targets.copy()
        wrong[17, 1] = 1 - wrong[17, 1]
        found = find_mistakes(scores, wrong)
        assert found.rows[0] == 17
        assert (found.absent[0] | found.missing[0])[1]
        assert (np.diff(found.quality) >= 0).all()

    def test_unknown_labels_are_never_doubted(self):
        found = find_mistakes([[0.9, 0.9], [0.9, 0.1]], [[-1, np.nan], [0, 0]])
        assert found.rows.tolist() == [1]
        assert found.missing.tolist() == [[True, False]]

    @pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4, 1)])
    def test_no_images_no_labels_and_labels_without_positives_or_negatives_are_no_error(self, shape):
        for label in (0, 1, -1):
            found = find_mistakes(np.full(shape, max(label, 0)), np.full(shape, label))
            assert len(found.rows) == 0

    @pytest.fixture
    def photos(self, tmp_path):
        paths = [str(tmp_path / f"=a b{i}.png") for i in range(3)]
        for path in paths:
            Image.new("RGB", (8, 8)).save(path)
        return Dataset.from_dict({"image": paths}).cast_column("image", ImageFeature())

    def test_label_studio_reads_the_csv(self, photos, tmp_path):
        scores, targets = np.array([[0.9, 0.1], [0.2, 0.9], [0.1, 0.1]]), np.array([[1, 0], [1, 0], [0, 1]])
        path = write_mistakes(tmp_path / "m.csv", find_mistakes(scores, targets), photos, ["=cmd", "dog"], targets)
        rows = list(csv.DictReader(path.open(encoding="utf-8")))
        assert [row["labels"] for row in rows] == ["dog", "'=cmd"] or [row["labels"] for row in rows] == [
            "'=cmd",
            "dog",
        ]
        for row in rows:  # as its local file storage names a file
            assert row["image"].startswith("/data/local-files/?d=")
            assert "%20" in row["image"]
        by_labels = {row["labels"]: row for row in rows}
        assert by_labels["'=cmd"]["labelled_not_seen"] == "'=cmd"
        assert by_labels["'=cmd"]["seen_not_labelled"] == "dog"

    def test_label_studio_reads_the_json(self, photos, tmp_path):
        scores, targets = np.array([[0.9, 0.1], [0.2, 0.9], [0.1, 0.1]]), np.array([[1, 0], [1, 0], [0, 1]])
        path = write_mistakes(tmp_path / "m.json", find_mistakes(scores, targets), photos, ["=cmd", "dog"], targets)
        tasks = json.loads(path.read_text(encoding="utf-8"))
        assert len(tasks) == 2
        for task in tasks:
            (prediction,) = task["predictions"]
            (result,) = prediction["result"]
            assert result["type"] == "choices"
            assert result["value"]["choices"] == task["data"]["labels"]
            assert 0 <= prediction["score"] <= 1

    def test_pictures_that_are_no_files_are_named_and_nothing_is_written(self, photos, tmp_path):
        content = {"bytes": b"", "path": None}
        inside = Dataset.from_dict({"image": [content]}).cast_column("image", ImageFeature())
        mistakes = find_mistakes([[0.9]], [[0]])
        with pytest.raises(ValueError, match=r"1 picture of the data have none of their own: gkgnet-hf data convert"):
            write_mistakes(tmp_path / "m.csv", mistakes, inside, ["cat"], [[0]])
        with pytest.raises(ValueError, match=r"must end in \.csv or \.json, got .*m\.txt"):
            write_mistakes(tmp_path / "m.txt", mistakes, photos, ["cat"], [[0]])
        with pytest.raises(FileNotFoundError, match="no folder"):
            write_mistakes(tmp_path / "no" / "m.csv", mistakes, photos, ["cat"], [[0]])
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".png"] * 3


def fetched(text):
    """What a page would load: addresses in attributes and styles that are no data and no place in the page."""
    addresses = re.findall(r"""(?:src|href|srcset|action|data|poster)\s*=\s*["']([^"']*)""", text)
    addresses += re.findall(r"url\(\s*[\"']?([^)\"']*)", text) + re.findall(r"@import[^;]*", text)
    return [address for address in addresses if not address.startswith(("data:image/", "#"))]


class TestPage:
    @pytest.mark.parametrize(
        ("num_images", "num_labels"), [(0, 3), (5, 0), (0, 0), (1, 1), (60, 1), (60, 3), (40, 1000)]
    )
    def test_any_number_of_images_and_labels_makes_a_page(self, tmp_path, num_images, num_labels):
        scores, targets = draw(num_images, num_labels, unknown=0.1)
        names = [f"label {label}" for label in range(num_labels)]
        evaluation, other = (evaluate_scores(s, targets, names) for s in (scores, scores**2))
        path = write_report(tmp_path / "report.html", evaluation, other=("other", other))
        assert path.stat().st_size < 4_000_000
        assert not fetched(path.read_text(encoding="utf-8"))

    def test_unknown_labels_only_and_labels_without_positives_make_a_page(self, tmp_path):
        scores, targets = draw(30, 3)
        targets[:, 0], targets[:, 1], targets[:, 2] = -1, 0, np.nan
        evaluation = evaluate_scores(scores, targets, ["a", "b", "c"])
        text = write_report(tmp_path / "report.html", evaluation).read_text(encoding="utf-8")
        assert "nan" not in re.sub(r"<(svg|script|style).*?</\1>", "", text, flags=re.DOTALL).lower()

    def test_the_noisiest_pictures_still_fit_into_20_megabytes(self):
        noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
        photo = worst_pictures.data_url(Image.fromarray(noise), "jpeg", **worst_pictures.JPEG)
        heat = np.random.default_rng(0).random((144, 144)) * (np.random.default_rng(1).random((144, 144)) < 0.05)
        pictures = len(photo) * (worst_pictures.MOST_PICTURES + page.MOST_MISTAKES)
        numbers_of_1000_labels = 4_000_000
        assert (
            pictures + len(worst_pictures.heat_url(heat)) * worst_pictures.MOST_PICTURES < 20e6 - numbers_of_1000_labels
        )

    def test_names_are_text(self, tmp_path):
        scores, targets = draw(60, len(NAMES), skill=1)
        evaluation = evaluate_scores(scores, targets, NAMES)
        path = write_report(tmp_path / "report.html", evaluation, model="<i>m</i>", dataset="<img src=http://x>")
        text = path.read_text(encoding="utf-8")
        assert text.count("<script") == 2
        assert "\x1b" not in text
        for tag in ("<b>cat", "<i>m", "<img src=http"):
            assert tag not in text
        assert "&lt;b&gt;cat&lt;/b&gt;" in text
        assert "{{7*7}}" in text

    def test_no_page_is_left_half_written(self, tmp_path, monkeypatch):
        path = tmp_path / "report.html"
        path.write_text("before")
        monkeypatch.setattr(page, "written_whole", _full_disk(page.written_whole))
        with pytest.raises(OSError, match="No space"):
            write_report(path, evaluate_scores(*draw(5, 2), ["a", "b"]))
        assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
        assert path.read_text() == "before"

    def test_wrong_input_is_named(self, tmp_path):
        scores, targets = draw(5, 2)
        evaluation = evaluate_scores(scores, targets, ["a", "b"])
        with pytest.raises(ValueError, match=r"must end in \.html or \.htm, got .*report\.pdf"):
            write_report(tmp_path / "report.pdf", evaluation)
        with pytest.raises(FileNotFoundError, match="no folder"):
            write_report(tmp_path / "no" / "report.html", evaluation)
        renamed, relabelled = (
            ("other", evaluate_scores(scores, *other)) for other in ((targets, ["b", "a"]), (1 - targets, ["a", "b"]))
        )
        with pytest.raises(ValueError, match="same labels in the same order"):
            write_report(tmp_path / "report.html", evaluation, other=renamed)
        with pytest.raises(ValueError, match="same images"):
            write_report(tmp_path / "report.html", evaluation, other=relabelled)


def _full_disk(written_whole):
    from contextlib import contextmanager

    @contextmanager
    def writing(directory):
        with written_whole(directory) as folder:
            yield folder
            raise OSError(28, "No space left on device")

    return writing


@pytest.fixture(scope="module")
def model():
    return small_classifier(NAMES, image_size=64)


@pytest.fixture(scope="module")
def processor(model):
    return create_image_processor(model.config)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """12 scenes, of which one is no picture."""
    folder = make_digits(tmp_path_factory.mktemp("data") / "digits", num_train=1, num_validation=12) / "val"
    paths = sorted(map(str, folder.glob("*.png")))
    with open(paths[3], "wb") as file:
        file.write(b"no picture")
    return Dataset.from_dict({"image": paths}).cast_column("image", ImageFeature())


@pytest.fixture(scope="module")
def evaluation():
    scores, targets = draw(12, len(NAMES), seed=3, skill=0.5)
    return evaluate_scores(scores, targets, NAMES, [0.5, 0.4, 0.4, 0.3, 0.5])


@pytest.fixture(scope="module")
def report(tmp_path_factory, evaluation, model, processor, photos):
    scores, _ = draw(12, len(NAMES), seed=4, skill=4)
    other = evaluate_scores(scores, evaluation.targets, NAMES)
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(path, evaluation, Pictures(photos, model, processor), model="mine", other=("other", other))


class TestPictures:
    def test_a_picture_that_cannot_be_read_says_so(self, report, evaluation):
        text = report.read_text(encoding="utf-8")
        assert any(worst.row == 3 for worst in worst_pictures.worst_pictures(
            evaluation.scores, evaluation.targets, evaluation.threshold
        ))  # fmt: skip
        assert "cannot be read" in text

    def test_the_heat_of_a_thumbnail_is_that_of_explain(self, model, processor, photos):
        from gkgnet_hf.explain import explain

        (thumbnail,) = Pictures(photos, model, processor).thumbnails({0: [2]}).values()
        seen = explain(model, processor, photos[0]["image"])
        picture = Image.open(io.BytesIO(url_content(thumbnail.heat[2])))
        levels = np.asarray(picture)
        heat = seen.heat_map(NAMES[2])
        assert levels.shape == heat.shape
        assert levels[np.unravel_index(heat.argmax(), heat.shape)] == worst_pictures.HEAT_LEVELS - 1
        assert Image.open(io.BytesIO(url_content(thumbnail.photo))).size == thumbnail.size == (160, 160)
        assert thumbnail.area == (0, 0, 100, 100)

    def test_a_picture_that_is_gone_names_no_folder(self, model, processor, tmp_path):
        paths = [str(tmp_path / "gone.png"), None]
        gone = Dataset.from_dict({"image": paths}).cast_column("image", ImageFeature())
        found = Pictures(gone, model, processor).thumbnails({0: [0], 1: [0]})
        assert (found[0].file, found[0].problem) == ("gone.png", "the file is missing")
        assert found[1].problem
        assert not any(thumbnail.photo or thumbnail.heat for thumbnail in found.values())

    def test_only_so_many_pictures_are_explained(self, model, processor, photos):
        found = Pictures(photos, model, processor).thumbnails({0: [], 1: [0], 2: [0, 1]}, most_explained=1)
        assert {row: sorted(thumbnail.heat) for row, thumbnail in found.items()} == {0: [], 1: [0], 2: []}

    def test_a_network_without_label_nodes_shows_which_patches_spoke_for_the_label(self, model, photos):
        config = GKGNetConfig(**{**model.config.to_dict(), "num_label_blocks": (0, 0, 0, 0)})
        network = GKGNetForImageClassification(config)
        (thumbnail,) = Pictures(photos, network, create_image_processor(config)).thumbnails({0: [1]}).values()
        assert Image.open(io.BytesIO(url_content(thumbnail.heat[1]))).size == (2, 2)

    def test_a_model_with_its_labels_in_another_order_is_compared_label_by_label(self, model, processor, photos):
        order = [2, 0, 1, 4, 3]
        names = {"id2label": {i: NAMES[o] for i, o in enumerate(order)}, "label2id": None}
        config = GKGNetConfig(**{**model.config.to_dict(), **names})
        other = GKGNetForImageClassification(config)
        data = photos.select([0, 1, 2])
        scores, targets = draw(3, len(NAMES))
        first = evaluate_scores(scores, targets, NAMES)
        found = evaluate_other(other, processor, data, first)
        from gkgnet_hf.predict import predict_scores

        expected = predict_scores(other, processor, data)
        assert found.label_names == NAMES
        np.testing.assert_allclose(found.scores[:, order], expected)
        with pytest.raises(ValueError, match="only one has"):
            evaluate_other(other, processor, data, evaluate_scores(scores, targets, ["1", *NAMES[1:]]))


def test_the_snippet_of_the_docs_runs_as_written(tmp_path, monkeypatch, model, processor):
    folder = make_digits(tmp_path / "digits", num_train=1, num_validation=3, image_size=64) / "val"
    rows = {
        "image": sorted(map(str, folder.glob("*.png"))),
        "labels": [[1.0, 0, 0, 0, -1]] * 3,
        "label_ids": [[0]] * 3,
    }
    validation = Dataset.from_dict(rows, features=multilabel_features(NAMES))
    monkeypatch.chdir(tmp_path)
    (snippet,) = snippets("docs/evaluate.md", "python")
    exec(
        compile(snippet, "docs/evaluate.md", "exec"), {"model": model, "processor": processor, "validation": validation}
    )
    assert (tmp_path / "report.html").is_file()


class TestCommand:
    @pytest.fixture
    def workplace(self, tmp_path):
        make_digits(tmp_path / "digits", num_train=1, num_validation=8, image_size=64)
        for seed, name in enumerate(("mine", "other")):
            torch.manual_seed(seed)
            names = dict(enumerate("0123456789" if seed == 0 else "9876543210"))
            config = GKGNetConfig(hidden_sizes=(8, 16, 24, 32), depths=(1, 1, 1, 1), image_size=64, id2label=names)
            GKGNetForImageClassification(config).save_pretrained(tmp_path / name)
            create_image_processor(config).save_pretrained(tmp_path / name)
        return tmp_path

    def test_evaluate_writes_the_report_with_another_model_and_the_list_of_mistakes(self, workplace, run_in):
        words = ("--report", "report.html", "--compare", "other", "--mistakes", "mistakes.csv")
        code, out, err = run_in(workplace, "evaluate", "mine", "digits", *words)
        assert code == 0
        assert "mAP" in out
        assert "report.html" in err
        text = (workplace / "report.html").read_text(encoding="utf-8")
        assert "Second model: <bdi>other</bdi>" in text
        assert "digits, split val" in text
        assert str(workplace) not in text
        rows = list(csv.DictReader((workplace / "mistakes.csv").open(encoding="utf-8")))
        assert rows
        assert all(row["image"].endswith(".png") for row in rows)

    def test_wrong_options_are_named_before_the_long_work(self, workplace, run_in):
        for words, message in [
            (("--compare", "other"), "page of --report FILE.html"),
            (("--report", "report.pdf"), "must end in .html or .htm"),
            (("--mistakes", "mistakes.txt"), "must end in .csv or .json"),
            (("--report", "no/report.html"), "no folder"),
        ]:
            code, out, err = run_in(workplace, "evaluate", "mine", "digits", *words)
            assert code == 2
            assert message in err.splitlines()[-1]
            assert not out

    def test_without_its_packages_it_says_how_to_install_them(self, workplace, run_in, monkeypatch):
        monkeypatch.setitem(sys.modules, "cleanlab", None)
        code, out, err = run_in(workplace, "evaluate", "mine", "digits", "--report", "report.html")
        assert (code, out) == (2, "")
        assert "pip install 'gkgnet-hf[report]'" in err.splitlines()[-1]


class TestInTheBrowser:
    @pytest.fixture(params=[(1280, 900), (390, 800)], ids=["desktop", "phone"])
    def opened(self, request, browser, report):
        """The page, what it asked for in `page.asked`, and its errors in `page.errors`."""
        page = browser.new_page(viewport=dict(zip(("width", "height"), request.param, strict=True)))
        page.asked, page.errors = [], []
        page.on("request", lambda asked: page.asked.append(asked.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda message: page.errors.append(message.text))
        page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
        page.goto(report.as_uri())
        yield page
        assert not page.errors
        page.close()

    def test_it_asks_for_nothing_and_fits_the_screen(self, opened, report):
        assert [url for url in opened.asked if not url.startswith("data:")] == [report.as_uri()]
        assert opened.evaluate("document.documentElement.scrollWidth") <= opened.viewport_size["width"]
        broken = opened.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length")
        assert broken == 0

    def test_no_other_script_than_its_own_runs(self, opened):
        opened.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'alert(1)'}))")
        assert any("Content Security Policy" in error for error in opened.errors)
        opened.errors.clear()

    def test_a_slider_recomputes_what_the_library_computes(self, opened, evaluation):
        slider = opened.locator("tr[data-label='2'] input[type=range]")
        slider.focus()
        for _ in range(20):
            slider.press("ArrowRight")  # 0.400 → 0.500
        thresholds = np.array([0.5, 0.4, 0.5, 0.3, 0.5])
        expected = multilabel_metrics(evaluation.scores, evaluation.targets, thresholds)
        assert opened.locator("tr[data-label='2'] output").inner_text() == "0.500"
        text = opened.locator("#live").inner_text()
        for name in ("CP", "CR", "CF1", "OP", "OR", "OF1"):
            shown = float(re.search(rf"\b{name} ([\d.]+)", text)[1])
            assert shown == pytest.approx(expected[name], abs=0.0501)

    def test_one_slider_moves_all_and_buttons_fit_and_reset(self, opened, evaluation):
        before = opened.locator("#live").inner_text()
        opened.locator("#all").fill("100")
        expected = multilabel_metrics(evaluation.scores, evaluation.targets, 0.5)["CF1"]
        assert f"CF1 {expected:.1f}" in opened.locator("#live").inner_text()
        opened.locator("#best").click()
        fitted = evaluation.fitted().per_label["F1"]
        for label in range(len(NAMES)):
            shown = opened.locator(f"tr[data-label='{label}'] td[data-head=F1]").inner_text()
            assert float(shown.split()[-1]) <= fitted[label] + 0.0501
            assert float(shown.split()[-1]) >= evaluation.per_label["F1"][label] - 0.0501
        opened.locator("#reset").click()
        assert opened.locator("#live").inner_text() == before

    def test_choosing_a_label_draws_its_curves(self, opened):
        path = opened.locator("#curve-line path")
        before = path.get_attribute("d")
        opened.locator("#label").select_option("3")
        assert path.get_attribute("d") != before
        assert "positive images" in opened.locator("#chosen").inner_text()

    def test_labels_are_found_and_sorted(self, opened):
        opened.locator("#find").fill("CAT")
        assert opened.locator("#label-table tbody tr:visible").count() == 1
        opened.locator("#find").fill("")
        opened.locator("[data-sort=ap]").click()
        shown = [float(text) for text in opened.locator("#label-table .value").all_inner_texts()]
        assert shown == sorted(shown, reverse=True)

    def test_heat_can_be_hidden(self, opened):
        heat = opened.locator("img.heat").first
        assert heat.is_visible()
        opened.locator("#heat").uncheck()
        assert not heat.is_visible()
