"""The comparisons of benchmarks.paper: exact annotations, rivals as their papers say, honest tables."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import stats

from benchmarks.paper import claims, networks, plan, report, scenes, tags, training


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory):
    """Three labels of three designs each, and clutter."""
    folder = tmp_path_factory.mktemp("cutouts")
    colors = {"ball": "red", "box": "blue", "bar": "green", "clutter": "gray"}
    for label, color in colors.items():
        (folder / label).mkdir()
        for design in range(3):
            image = Image.new("RGBA", (40, 40))
            draw = ImageDraw.Draw(image)
            shape = draw.ellipse if label == "ball" else draw.rectangle
            shape((2, 2 + 5 * design, 37, 37), fill=color)
            image.save(folder / label / f"{design}.png")
    return folder


def test_designs_of_training_and_validation_are_different(cutouts):
    found = scenes.read_cutouts(cutouts)
    assert set(found.labels["train"]) == {"ball", "box", "bar"}
    for label in found.labels["train"]:
        train, val = set(found.labels["train"][label]), set(found.labels["val"][label])
        assert (len(train), len(val), train & val) == (2, 1, set())


def test_a_label_with_two_designs_is_refused(cutouts, tmp_path):
    (tmp_path / "ball").mkdir()
    for design in range(2):
        Image.open(cutouts / "ball" / f"{design}.png").save(tmp_path / "ball" / f"{design}.png")
    with pytest.raises(ValueError, match=r"'ball' has 2 designs.*expected 3 or more"):
        scenes.read_cutouts(tmp_path)


def test_boxes_and_areas_are_of_what_is_visible(cutouts, monkeypatch):
    """On a black ground without noise, the pixels of an object's colour are its area, and span its box."""
    monkeypatch.setattr(scenes, "draw_ground", lambda clutter, size, rng: Image.new("RGB", (size, size)))
    monkeypatch.setattr(scenes, "_photograph", lambda scene, rng: scene)
    monkeypatch.setattr(scenes, "MIN_VISIBLE", 0)  # what is hardly visible has a colour too
    channel = {"ball": 0, "bar": 1, "box": 2}
    found = scenes.read_cutouts(cutouts)
    checked = 0
    for seed in range(30):
        scene, objects = scenes.draw_scene(found, "train", 96, np.random.default_rng(seed))
        labels = [label for label, _, _ in objects]
        pixels = np.asarray(scene).astype(int)
        for label, (left, top, width, height), area in objects:
            if labels.count(label) > 1:
                continue
            others = np.delete(pixels, channel[label], axis=2).max(2)
            own = pixels[..., channel[label]] > np.maximum(others, 40)
            rows, columns = np.nonzero(own)
            # Edges are blended, so two pixels on each side may fall on either.
            box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert np.abs(box - (left, top, left + width, top + height)).max() <= 2
            assert abs(own.sum() - area) <= 2 * (width + height)
            checked += 1
    assert checked >= 15


def test_scenes_are_coco_files_that_the_package_reads_and_the_same_each_time(cutouts, tmp_path):
    from gkgnet_hf.data import load_coco

    found = scenes.read_cutouts(cutouts)
    first, second = (
        scenes.write_scenes(tmp_path / name, found, {"train": 6, "val": 3}, 64, jobs=jobs)
        for name, jobs in (("a", 1), ("b", 2))
    )
    for file in sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file()):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    dataset = load_coco(first / "train", first / "annotations/instances_train.json")
    content = json.loads((first / "annotations/instances_train.json").read_text())
    assert len(dataset) == len({a["image_id"] for a in content["annotations"]})


@pytest.fixture
def drawings(tmp_path, monkeypatch):
    """Six drawings with tags, laid out as the npm package; "round" is on four of them, "rare" on one."""
    monkeypatch.setattr(tags, "MIN_DRAWINGS", 2)
    words = [("round, Red", "ball"), ("round", ""), ("round, rare", "ball"), ("", " round ,red"), ("red", ""), ("", "")]
    (tmp_path / "package/color/svg").mkdir(parents=True)
    (tmp_path / "package/data").mkdir()
    content = [
        {"hexcode": f"{i}", "tags": theirs, "openmoji_tags": own, "skintone": ""}
        for i, (theirs, own) in enumerate(words)
    ]
    content.append({"hexcode": "0-1F3FF", "tags": "round", "openmoji_tags": "", "skintone": 5})
    content.append({"hexcode": "copy of 0", "tags": "round", "openmoji_tags": "", "skintone": ""})
    (tmp_path / "package/data/openmoji.json").write_text(json.dumps(content))
    for i in range(len(words)):
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><circle cx="36" cy="36" r="{20 + i}"/></svg>'
        )
        (tmp_path / f"package/color/svg/{i}.svg").write_text(svg)
    shutil.copy(tmp_path / "package/color/svg/0.svg", tmp_path / "package/color/svg/copy of 0.svg")
    return tmp_path / "package"


def test_tags_are_those_that_enough_drawings_have(drawings):
    found = {path.stem: words for path, words in tags.read_tags(drawings).items()}
    assert found == {
        "0": {"round", "red", "ball"},
        "1": {"round"},
        "2": {"round", "ball"},
        "3": {"round", "red"},
        "4": {"red"},
    }


def test_tagged_pictures_of_new_drawings_show_no_drawing_of_training(drawings, cutouts, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(tags, "write_pictures", lambda *args: shown.append(args))
    found = tags.read_tags(drawings)
    tags.write_tags(tmp_path, found, scenes.read_cutouts(cutouts), 32)
    names = ["ball", "red", "round"]
    of_split = {}
    for _, task, split, paths, labels, *_ in shown:
        assert task == "tags"
        of_split[split] = set(paths)
        for path, row in zip(paths, labels, strict=True):
            assert {name for name, has in zip(names, row, strict=True) if has} == found[path]
    assert of_split["known"] == of_split["train"]
    assert of_split["val"].isdisjoint(of_split["train"])
    assert of_split["val"] | of_split["train"] == set(found)
    assert len(of_split["val"]) == 2


def test_variants_of_a_drawing_are_one_family():
    man, woman, person = "1F468-200D-1F373", "1F469-200D-1F373", "1F9D1-200D-1F373"
    bowing, man_bowing = "1F647", "1F647-200D-2642-FE0F"
    assert tags.family(Path(f"{man}.svg")) == tags.family(Path(f"{woman}.svg")) == tags.family(Path(f"{person}.svg"))
    assert tags.family(Path(f"{bowing}.svg")) == tags.family(Path(f"{man_bowing}.svg"))
    assert tags.family(Path(f"{bowing}.svg")) != tags.family(Path(f"{person}.svg"))


def test_families_stay_together(cutouts, tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(tags, "write_pictures", lambda *args: shown.__setitem__(args[2], args[3]))
    drawings = {Path(f"{who}-200D-1F37{what}.svg"): {"cook"} for who in ("1F468", "1F469") for what in range(6)}
    tags.write_tags(tmp_path, drawings, scenes.read_cutouts(cutouts), 32)
    of_split = {split: {tags.family(path) for path in paths} for split, paths in shown.items()}
    assert (len(of_split["val"]), len(of_split["train"])) == (2, 4)
    assert of_split["val"].isdisjoint(of_split["train"])


def test_tagged_pictures_are_arrays_that_a_run_reads(drawings, cutouts, tmp_path):
    tags.write_tags(tmp_path, tags.read_tags(drawings), scenes.read_cutouts(cutouts), 64)
    run = training.Run(plan.PAPER_NETWORK, 1e-3, 0, 1, task="tags")
    (tmp_path / "runs").mkdir()
    _, result = training.train_job((tmp_path, run))
    assert len(np.load(tmp_path / "tags-train-images.npy")) == 3 * tags.RENDITIONS["train"]
    assert {len(result["ema"][split]["AP"]) for split in ("val", "known")} == {3}


def test_drawings_without_npm_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="fetched with npm: install it, or name --stages without tags"):
        tags.fetch_drawings(tmp_path / "drawings")
    assert not (tmp_path / "drawings").exists()


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_network_starts_from_the_same_patch_weights_and_learns(name):
    torch.manual_seed(0)
    model = networks.NETWORKS[name](5)
    start = networks.NETWORKS[plan.CNN_NETWORK if name == plan.CNN_NETWORK else plan.PLAIN](7)
    weights = networks.patch_weights(start)
    networks.load_patch_weights(model, weights)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in networks.patch_weights(model).items())
    images = torch.randn(2, 3, 64, 64)
    logits = model.train()(images, labels=torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0, 0, 0]]))
    logits = logits[0] if isinstance(logits, tuple) else logits
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    unused = [key for key, p in model.named_parameters() if p.grad is None]
    assert not unused


def test_the_parts_of_gkgnet_sum_to_its_logits():
    torch.manual_seed(0)
    model = networks.NETWORKS[plan.PAPER_NETWORK](5).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(sum(model.parts(images)), model(images))


def test_without_pooled_patches_the_label_nodes_decide_alone():
    torch.manual_seed(0)
    model = networks.NETWORKS[plan.PAPER_NETWORK](5, pooled_patches=False).eval()
    images = torch.randn(2, 3, 64, 64)
    (label_nodes,) = model.parts(images)
    assert torch.equal(model(images), label_nodes)


def test_a_second_loss_counts_what_label_nodes_say_alone():
    torch.manual_seed(0)
    model = networks.NETWORKS[plan.PAPER_NETWORK](5).eval()
    images, targets = torch.randn(2, 3, 64, 64), torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0, 0, 0]])
    run = training.Run(plan.PAPER_NETWORK, 1e-3, 0, 1)

    def loss(model, **fields):
        return training.loss_of(replace(run, **fields), model, images, targets, 0, 2)

    both = loss(model, label_loss=2.0)
    model.pooled_patches = False  # label nodes alone
    alone = loss(model)
    model.pooled_patches = True
    torch.testing.assert_close(both, loss(model) + 2 * alone)


def test_where_label_nodes_look_is_counted_as_in_a_loop():
    torch.manual_seed(0)
    model = networks.NETWORKS[plan.PAPER_NETWORK](5).eval()
    images = torch.randn(3, 3, 128, 128)
    neighbors = model.network.gkgnet(images, output_neighbors=True).label_neighbors[-1]
    assert neighbors.shape == (3, 2, 5, 9)
    common = [
        len(set(group[a].tolist()) & set(group[b].tolist())) / 9
        for group in neighbors.flatten(0, 1)
        for a in range(5)
        for b in range(5)
        if a != b
    ]
    found = model.looks(images)
    assert found["common_patches"] == pytest.approx(100 * np.mean(common))
    assert found["chance"] == pytest.approx(100 * 9 / 16)
    assert 0 < found["variance"] < 100


def test_weights_of_another_network_are_refused():
    model = networks.NETWORKS[plan.PLAIN](3)
    with pytest.raises(ValueError, match="of another network"):
        networks.load_patch_weights(model, {"other": torch.zeros(1)})


def test_ctran_counts_the_loss_only_on_labels_that_it_was_not_told():
    torch.manual_seed(0)
    model = networks.NETWORKS["ViG, C-Tran"](40).train()
    labels = (torch.rand(4, 40) < 0.3).float()
    labels[0, :5] = -1
    logits, counted = model(torch.randn(4, 3, 64, 64), labels=labels)
    assert logits.shape == counted.shape == (4, 40)
    assert counted[0, :5].all()  # what nobody knows cannot be told
    assert 0.25 <= counted.float().mean(1).min() < 1
    assert not isinstance(model.eval()(torch.randn(1, 3, 64, 64), labels=labels[:1]), tuple)


def test_hidden_labels_are_only_ever_positives():
    rng = np.random.default_rng(0)
    labels = (rng.random((500, 20)) < 0.2).astype(np.float32)
    half = training.hide_labels(labels, "half", np.random.default_rng(1))
    single = training.hide_labels(labels, "single", np.random.default_rng(1))
    for hidden in (half, single):
        assert ((hidden == 1) <= (labels == 1)).all()
    assert 0.45 < half.sum() / labels.sum() < 0.55
    assert (single.sum(1) == (labels.sum(1) > 0)).all()


def test_intervals_of_differences_are_those_of_a_paired_t_test():
    ours, theirs = [3.0, 5.0, 4.5], [2.0, 4.5, 2.5]
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert report.paired_difference(ours, theirs) == f"+1.2 ({interval.low:+.1f} … {interval.high:+.1f})"
    assert report.paired_difference([1.0, float("nan")], [1.0, 2.0]) == "—"
    assert report.mean_and_deviation([float("nan")]) == "not run"


ON_THE_FIRST = {"Table 2", "Training length", "Table 6", "Table 7", "Learning rates tried"}
SHOWN = [  # title in paper.md, table, what the names of its runs begin with in paper.json, their steps
    (title, table, "" if title.split(":")[0] in ON_THE_FIRST else claims.SECOND, 1200)
    for title, _, table in report.SECTIONS
] + [
    ("Table 2 at 224 pixels", report.Report.table_2, claims.LARGE, 1600),
    ("Table 6 at 224 pixels", report.Report.table_6, claims.LARGE, 1600),
    ("Learning rates tried at 224 pixels", report.Report.rates, claims.LARGE, 1600),
]


@pytest.mark.parametrize(("title", "table", "prefix", "steps"), SHOWN, ids=[title for title, *_ in SHOWN])
def test_the_tables_that_are_shown_are_those_of_the_runs_that_are_kept(title, table, prefix, steps):
    runs, text = json.loads(claims.KEPT.read_text()), claims.KEPT.with_suffix(".md").read_text()
    (section,) = (part for part in text.split("\n### ") if part.startswith(title + "\n"))
    budget = plan.Budget(seeds=3, single_steps=8000, grid_steps=400, steps=steps)
    results = {key.removeprefix(prefix): run for key, run in runs.items() if key.startswith(prefix)}
    if prefix == claims.SECOND:  # it took the rates of the first
        results |= {run.name: runs[run.name] for run in plan.rates({}, budget)}
    for designs, heading in report.DESIGNS.items():
        heading = "" if title.startswith("Table 5") else f"{heading}:\n\n"
        assert heading + table(report.Report(results, budget, designs)) in section


def test_the_claims_that_are_shown_are_those_of_the_runs_that_are_kept():
    table = claims.Claims(json.loads(claims.KEPT.read_text())).table()
    assert table in claims.KEPT.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("low", "high", "added", "compared"),
    [
        (0.1, 2.9, "seen in part", "seen"),
        (0.1, 3.0, "seen", "seen"),
        (-0.1, 2.9, "not seen", "cannot be said"),
        (-0.1, 3.0, "cannot be said", "cannot be said"),
        (-3.0, -0.1, "the opposite", "the opposite"),
    ],
)
def test_an_interval_says_no_more_than_it_holds(low, high, added, compared):
    assert claims.adds(3.0, low, high) == added
    assert claims.more(low, high) == claims.less(-high, -low) == compared
    assert claims.cheaper(low, high) == ("the opposite" if compared == "the opposite" else "cannot be said")


def test_other_settings_in_a_used_folder_are_refused(tmp_path):
    from benchmarks.paper.__main__ import keep_settings

    keep_settings(tmp_path / "new", {"size": 96})
    keep_settings(tmp_path / "new", {"size": 112})  # nothing was drawn yet
    (tmp_path / "new/scenes").mkdir()
    keep_settings(tmp_path / "new", {"size": 112})
    with pytest.raises(ValueError, match=r"drawn with \{'size': 112\}, not \{'size': 224\}: expected another --output"):
        keep_settings(tmp_path / "new", {"size": 224})
    (tmp_path / "new/settings.json").unlink()
    with pytest.raises(ValueError, match="nobody wrote down"):
        keep_settings(tmp_path / "new", {"size": 112})


def test_a_stage_before_the_rates_are_known_is_refused():
    with pytest.raises(ValueError, match=r"No learning rate of .* expected the stages 'starts' and 'rates' before"):
        plan.table_2({}, plan.Budget(1, 1, 1, 1))


def test_a_stage_before_its_first_weights_are_there_is_refused():
    budget = plan.Budget(1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"Stage 'tags' starts from singles .*: expected the stage 'starts' before"):
        plan.wanted_runs("tags", {}, budget)
    assert len(plan.wanted_runs("starts", {}, budget)) == 3


def results_of(runs, value):
    """Results of `runs` with an mAP of `value(run)` on new designs and twice that on known ones."""
    sizes = {"mAP_small": 1.0, "mAP_medium": 2.0, "mAP_large": 3.0}
    results = {}
    for run in runs:
        found = {"val": {**sizes, "mAP": value(run)}, "known": {**sizes, "mAP": 2 * value(run)}}
        results[run.name] = {"raw": found, "ema": found, "num_parameters": 1_000_000}
    return results


def test_the_report_shows_what_ran_and_leaves_out_the_rest(tmp_path):
    budget = plan.Budget(seeds=2, single_steps=1, grid_steps=1, steps=2)
    results = results_of(plan.rates({}, budget), lambda run: 30.0 if run.learning_rate == plan.RATES[1] else 10.0)
    runs = plan.table_2(results, budget)
    assert {run.learning_rate for run in runs} == {plan.RATES[1]}
    results |= results_of(runs, lambda run: 20.0 + run.seed + 3 * (run.network == plan.PAPER_NETWORK))
    report.write_report(tmp_path, results, budget)
    text = (tmp_path / "tables.md").read_text()
    assert (
        "| label nodes, G = 2 | 1.0 M | 0.001 | 23.5 ± 0.7 (2) | 23.5 ± 0.7 (2) | +3.0 (+3.0 … +3.0) | 86.7 |" in text
    )
    assert "47.0 ± 1.4 (2)" in text  # known designs
    assert "## Table 7" in text
    assert "## Losses" not in text
    assert "## Tags" not in text
    assert "## Each rate" not in text
    assert "## Figure 4" not in text
    assert (tmp_path / "mAP.png").is_file()


def test_each_rate_is_shown_and_the_best_of_new_designs_compared():
    budget = plan.Budget(seeds=2, single_steps=1, grid_steps=1, steps=2)
    rates = results_of(plan.rates({}, budget), lambda run: 1.0)
    runs = plan.every_rate({}, budget, "tags")

    def table(results, designs="val"):
        return report.Report(results, budget, designs).every_rate("tags")

    low, high = plan.RATES[0], plan.RATES[-1]
    results = rates | results_of(
        runs, lambda run: 40.0 + run.seed + (run.network == plan.PAPER_NETWORK) + 2 * (run.learning_rate == low)
    )
    row = "| label nodes, G = 2 | 43.5 ± 0.7 (2) | 41.5 ± 0.7 (2) | 41.5 ± 0.7 (2) | 0.0005 | +1.0 (+1.0 … +1.0) |"
    assert row in table(results)
    for run in runs:
        if run.learning_rate == high:  # known designs do not choose the rate
            results[run.name]["ema"] = {**results[run.name]["ema"], "known": {"mAP": 99.0}}
    assert table(results, "known").count(" | 0.0005 | ") == 5  # the heading and four rows
    del results[runs[0].name]  # a seed of the linear head at the low rate
    assert table(results).count(" | 0.001 | ") == 2  # the heading and that row
    for run in runs:
        if run.network == plan.PLAIN:
            results.pop(run.name, None)
    assert table(results).count(" — |") == 5  # rate and difference of the linear head, differences of the others
