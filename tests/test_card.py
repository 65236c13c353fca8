"""Model cards: what they say, what they keep of what people wrote, and that the Hub and Python take them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoImageProcessor
from transformers.utils.hub import create_and_tag_model_card

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification
from gkgnet_hf.cli import main
from gkgnet_hf.evaluation.results import evaluate_scores
from gkgnet_hf.hub.card import EditedCardError, create_model_card, folder_card, inherited_metadata, write_card
from gkgnet_hf.training import (
    MultiLabelTrainer,
    MultiLabelTrainingArguments,
    evaluate,
    load_model,
    load_multilabel_dataset,
    read_recipe,
    run_training,
)

from .test_models import small_config
from .test_recipes import QUICK, write_photos

LABELS = ["cat", "dining_table", "a|b"]
RECIPE = {
    "dataset": "/data/photos",
    "model_name_or_path": "ti",
    "learning_rate": 2e-4,
    "num_train_epochs": 3.0,
    "max_steps": 20,
}
PHOTOS = {"dataset": "photos", "split": "test"}
HEAD = "---\n{{ card_data }}\n---\n"
HAND_WRITTEN = "---\nlicense: mit\nlanguage: en\ntags: [pets]\n---\n# By hand\n\nFrom our own garden.\n"


def config(**kwargs):
    return small_config(id2label=dict(enumerate(LABELS)), **kwargs)


def evaluation(threshold=0.5):
    generator = np.random.default_rng(0)
    scores, targets = generator.random((40, 3), np.float32), generator.integers(0, 2, (40, 3)).astype(np.float32)
    areas = np.full((40, 3), 50.0**2, np.float32)
    return evaluate_scores(scores, targets, LABELS, threshold, areas).to_dict()


@pytest.fixture
def folder(tmp_path):
    """A model's folder with everything that a card tells of, but for the weights."""
    folder = tmp_path / "pets"
    config().save_pretrained(folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "all_results.json").write_text('{"train_loss": 12.5, "train_runtime": 75.2}')
    found = {"dataset": "/data/photos", "split": "test", **evaluation()}
    (folder / "evaluation.json").write_text(json.dumps(found))
    return folder


def headings(card):
    return re.findall("^## (.*)", str(card), flags=re.MULTILINE)


def section(card, heading):
    return re.split("\n##? ", str(card).split(f"\n## {heading}\n")[1])[0].strip()


def rows(card, heading):
    """The cells of the table below a heading."""
    lines = re.findall(r"^\| (.*) \|$", section(card, heading), flags=re.MULTILINE)
    return {cells[0]: cells[1:] for cells in (line.split(" | ") for line in lines)}


def test_metadata_tell_the_hub_what_it_is(folder):
    data = ModelCard.load(write_card(folder, repo_id="user/pets", license="mit", datasets="user/photos")).data.to_dict()
    metrics = json.loads((folder / "evaluation.json").read_text())["metrics"]
    assert data.pop("model-index") == [
        {
            "name": "pets",
            "results": [
                {
                    "task": {"type": "image-classification", "name": "Multi-label image classification"},
                    "dataset": {"name": "photos", "type": "user/photos", "split": "test"},
                    "metrics": [
                        {"type": "mAP", "value": round(metrics["mAP"], 2), "name": "mAP"},
                        {"type": "f1", "value": round(metrics["CF1"], 2), "name": "CF1"},
                        {"type": "f1", "value": round(metrics["OF1"], 2), "name": "OF1"},
                    ],
                }
            ],
        }
    ]
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "license": "mit",
        "datasets": "user/photos",
        "metrics": ["mAP", "f1"],
        "tags": ["gkgnet", "graph-neural-network", "multi-label"],
    }


def test_tables_hold_the_numbers_of_the_evaluation(folder):
    card = write_card(folder).read_text()
    found = json.loads((folder / "evaluation.json").read_text())
    baseline = f"(random baseline {found['random_baseline_mAP']:.1f})"
    assert f"**mAP {found['metrics']['mAP']:.1f}** {baseline} on 40 images of photos" in card
    results = rows(card, "Results")
    for row, suffix in (("threshold 0.5", ""), ("threshold 0.5, top 3", "_top3")):
        assert results[row] == [f"{found['metrics'][n + suffix]:.1f}" for n in ("CP", "CR", "CF1", "OP", "OR", "OF1")]
    assert f"small –, medium {found['size_metrics']['mAP_medium']:.1f}, large –" in card
    labels = rows(card.replace(r"a\|b", "a/b"), "Labels")
    assert list(labels) == ["label", "---", "cat", r"dining\_table", "a/b"]
    assert [labels[name] for name in list(labels)[2:]] == [
        [f"{row['AP']:.1f}", str(row["positives"])] for row in found["per_label"]
    ]


def test_thresholds_of_each_label_are_shown_and_their_metrics_if_they_are_of_these():
    thresholds = [0.25, 0.5, 0.75]
    card = create_model_card(config(decision_threshold=thresholds), "pets", evaluation=evaluation(thresholds))
    assert [row[0] for row in rows(card, "Labels").values()][2:] == ["0.250", "0.500", "0.750"]
    fitted = evaluation(thresholds)["fitted_metrics"]
    assert rows(card, "Results")["the model's own thresholds"][2] == f"{fitted['CF1']:.1f}"
    card = create_model_card(config(), "pets", evaluation=evaluation(thresholds))
    assert list(rows(card, "Results")) == ["", "---", "threshold 0.5", "threshold 0.5, top 3"]


def test_settings_are_those_of_the_recipe_without_the_paths_of_a_machine(folder):
    card = write_card(folder).read_text()
    assert rows(card, "Training") == {
        "setting": ["value"],
        "---": ["---"],
        "dataset": ["photos"],
        "started from": ["an untrained GKGNet-Ti"],
        "steps": ["20"],
        "learning rate": ["0.0002"],
        "training loss": ["12.5"],
        "training time": ["0:01:15"],
    }
    assert "/data" not in card


@pytest.mark.parametrize(
    ("missing", "sections"),
    [
        (["evaluation.json"], {"Results"}),
        (["recipe.yaml"], set()),
        (["recipe.yaml", "all_results.json", "evaluation.json"], {"Results", "Training"}),
    ],
)
def test_what_is_not_known_has_no_section(folder, missing, sections):
    everything = {"Use", "Labels", "Results", "Training", "Limits", "Licence", "Citation"}
    assert set(headings(write_card(folder).read_text())) == everything
    (folder / "README.md").unlink()
    for name in missing:
        (folder / name).unlink()
    card = write_card(folder).read_text()
    assert set(headings(card)) == everything - sections
    assert not re.search(r"None(?!\))", card)
    assert "\n\n\n" not in card


def test_results_are_those_of_the_evaluation_and_of_the_author():
    zoo = EvalResult("image-classification", "user/zoo", "zoo", "accuracy", 10.0)
    card = ModelCard.from_template(ModelCardData(model_name="pets", eval_results=[zoo]), template_str=HEAD)
    for score in (20.0, 30.0):
        card = create_model_card(config(), "pets", evaluation={"metrics": {"mAP": score}, **PHOTOS}, earlier=str(card))
    assert [(r.dataset_name, r.metric_value) for r in card.data.eval_results] == [("photos", 30.0), ("zoo", 10.0)]


def test_what_is_undefined_is_no_result():
    card = create_model_card(config(), "pets", evaluation={"metrics": {"mAP": float("nan"), "CF1": None}})
    assert "**mAP –** on images." in card.text
    assert card.data.eval_results is None


def test_the_authors_text_and_metadata_stay_as_they_are(folder):
    path = write_card(folder, license="mit", tags=["pets"])
    head, generated = path.read_text().split("---\n", 2)[1:]
    code = "````python\n# no heading\n\n\nprint(1)\n```\n````"
    path.write_text(f"---\n{head}language: en\n---\nRead this first.  \nReally.\n\n{generated}\n\n{code}\n")
    (folder / "recipe.yaml").unlink()
    once = write_card(folder, tags=["cats"]).read_text()
    card = ModelCard(once)
    assert card.text.startswith("Read this first.  \nReally.\n\n<!-- gkgnet-hf: start")
    assert card.text.endswith(f"-->\n\n{code}\n")
    assert "started from" not in card.text
    assert (card.data.license, card.data.language, card.data.tags[3:]) == ("mit", "en", ["cats", "pets"])
    assert write_card(folder).read_text() == once


def test_a_card_written_by_hand_stands_below_the_generated_part(folder):
    (folder / "README.md").write_text(HAND_WRITTEN)
    for _ in range(2):
        card = ModelCard.load(write_card(folder))
        assert card.text.startswith("<!-- gkgnet-hf: start")
        assert card.text.endswith("-->\n\n# By hand\n\nFrom our own garden.\n")
        assert (card.data.license, card.data.language, card.data.tags[3:]) == ("mit", "en", ["pets"])


def test_the_card_that_transformers_fills_with_nothing_is_not_kept():
    filler = create_and_tag_model_card("user/pets", tags=["pets"])
    assert "[More Information Needed]" in filler.text
    card = create_model_card(config(), "user/pets", earlier=str(filler))
    assert "[More Information Needed]" not in card.text
    edited = str(filler).replace("[More Information Needed]", "Our garden", 1)
    assert "Our garden" in create_model_card(config(), "user/pets", earlier=edited).text


def add(text):
    return lambda card: f"{card}\n{text}\n"


def replace(*words):
    return lambda card: card.replace(*words)


# What is done to the card in the folder and to the one on the Hub after a push, and the text of the next push. None is
# for a push that stops.
CHANGES = {
    "nothing": (str, str, ""),
    "text in the folder": (add("Cats."), str, "Cats."),
    "text on the Hub": (str, add("Dogs."), None),
    "text of both": (add("Cats."), add("Dogs."), None),
    "text of both alike": (add("Cats."), add("Cats."), "Cats."),
    "metadata in the folder": (replace("license: mit", "license: bsd"), str, ""),
    "metadata on the Hub": (str, replace("license: mit", "license: bsd"), None),
    "results on the Hub": (str, replace("Multi-label image classification", "Image classification"), None),
    "the generated part on the Hub": (str, replace("## Use", "## Usage"), ""),
    "line endings on the Hub": (add("Cats."), replace("\n", "\r\n"), "Cats."),
    "the Hub has the empty card of transformers": (str, lambda card: str(create_and_tag_model_card("user/pets")), ""),
    "the Hub has none": (add("Cats."), lambda card: None, "Cats."),
    "the Hub has one written by hand": (str, lambda card: HAND_WRITTEN, None),
    "the folder has none": (None, add("Dogs."), "Dogs."),
    "the folder's is empty": (lambda card: "", add("Dogs."), None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_push_takes_the_folders_text_and_stops_where_somebody_edited_the_hubs(folder, change):
    in_folder, on_hub, expected = CHANGES[change]
    card = write_card(folder, license="mit")
    published = on_hub(str(folder_card(folder, repo_id="user/pets")))
    if in_folder is None:
        card.unlink()
    else:
        card.write_text(in_folder(card.read_text()))
    if expected is None:
        fetch = rf"`hf download user/pets README\.md --local-dir {folder}`"
        with pytest.raises(EditedCardError, match=f"{fetch}.*--overwrite-card"):
            folder_card(folder, repo_id="user/pets", published=published)
    else:
        text = folder_card(folder, repo_id="user/pets", published=published).text
        assert text.split("gkgnet-hf: end")[1].split("-->")[1].strip() == expected
        assert "## Use\n" in text


def test_converted_weights_keep_their_licence(folder, tmp_path):
    card = ModelCard.load(write_card(folder, license="gkgnet-non-commercial", converted_from="gkgnet_coco_576.pth"))
    assert (card.data.license, card.data.license_name) == ("other", "gkgnet-non-commercial")
    for _ in range(2):
        assert "released GKGNet weights (`gkgnet_coco_576.pth`), whose licence is" in card.text
        card = ModelCard.load(write_card(folder, repo_id="user/pets"))
    with pytest.raises(ValueError, match="keep their licence, gkgnet-non-commercial, got 'mit'"):
        write_card(folder, license="mit")
    inherited = inherited_metadata(str(folder))
    assert inherited["license_name"] == "gkgnet-non-commercial"
    tuned = create_model_card(config(), "tuned", **inherited)
    assert (tuned.data.license_name, "gkgnet_coco_576.pth" in tuned.text) == ("gkgnet-non-commercial", True)
    (tmp_path / "gkgnet_coco_576.pth").touch()
    released = inherited_metadata(str(tmp_path / "gkgnet_coco_576.pth"))
    assert released == {"license": "gkgnet-non-commercial", "converted_from": "gkgnet_coco_576.pth"}


@pytest.mark.parametrize(
    ("checkpoint", "model", "source"),
    [
        ("imagenet", "ti", [r"pvig\_ti\_78.5.pth.tar"]),
        ("imagenet", "my-model", None),
        ("none", "ti", None),
        (None, "ti", None),
        ("/x/pvig.pth", "ti", ["pvig.pth"]),
    ],
)
def test_a_card_says_what_the_patch_nodes_started_from(checkpoint, model, source):
    card = create_model_card(
        config(), "pets", training={"model_name_or_path": model, "backbone_checkpoint": checkpoint}
    )
    assert rows(card, "Training").get("patch nodes started from") == source
    assert ("Their patch nodes started from" in section(card, "Licence")) is (source is not None)


def test_other_licences_are_named_or_asked_for():
    def licence(**metadata):
        card = create_model_card(config(), "pets", training={"backbone_checkpoint": "/x/pvig_s.pth"}, **metadata)
        return section(card, "Licence")

    assert "The licence of the weights is `mit`" in licence(license="mit")
    assert "keep the licence of that file" in licence(converted_from="pvig_s.pth")
    assert "No licence is stated" in licence()
    assert "Their patch nodes started from `pvig_s.pth`" in licence()


def test_a_base_model_on_the_hub_is_named_and_a_size_is_none(tmp_path):
    assert inherited_metadata("user/net") == {"base_model": "user/net"}
    assert inherited_metadata("ti") == inherited_metadata(str(tmp_path)) == {}


def test_a_licence_is_inherited_with_its_name(tmp_path):
    licence = {"license": "other", "license_name": "ours"}
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump(licence)}---\n")
    assert inherited_metadata(str(tmp_path)) == licence
    assert "The licence of the weights is `ours`" in section(create_model_card(config(), "pets", **licence), "Licence")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", '{"model_type": "vit"}', "must be of a GKGNet"),
        ("evaluation.json", "{", "evaluation.json cannot be read"),
        ("evaluation.json", '{"mAP": 3}', "must hold metrics with an mAP"),
        ("evaluation.json", '{"metrics": {"mAP": 3}, "per_label": [{"label": "dog"}]}', "model's 3 labels .*got 1"),
        ("evaluation.json", '{"metrics": [3]}', "evaluation.json has a wrong value: .* expected a dict, got list"),
        ("evaluation.json", '{"metrics": {"mAP": "3"}}', "evaluation.json has a wrong value: .*'metrics'"),
        ("evaluation.json", '{"metrics": {"mAP": 3}, "per_label": [3]}', "evaluation.json has a wrong value"),
        ("evaluation.json", '{"metrics": {"mAP": 3}, "per_label": [{"AP": "3"}]}', "evaluation.json has a wrong value"),
        ("recipe.yaml", "dataset: [photos]", "recipe.yaml has a wrong value: .*'dataset' expected str, got list"),
        ("recipe.yaml", "model_name_or_path: 5", "recipe.yaml has a wrong value: .*'model_name_or_path' expected str"),
        (
            "recipe.yaml",
            "model: [a]\nbackbone_checkpoint: imagenet",
            "wrong value: .*'model_name_or_path' expected str",
        ),
        ("recipe.yaml", "config: [1]", "recipe.yaml has a wrong value: .*'config'"),
        ("all_results.json", '{"train_runtime": "75"}', "all_results.json has a wrong value: .*'train_runtime'"),
        ("config.json", '{"architecture": "pvig_s", "num_classes": 5}', "config.json must hold .* pretrained_cfg"),
        ("config.json", '{"architecture": "pvig_s", "model_args": [3]}', "config.json has a wrong value"),
        ("recipe.yaml", "- dataset", "must hold names and values, got list"),
        ("recipe.yaml", "a: [", "recipe.yaml cannot be read"),
        ("all_results.json", "[]", "must hold names and values, got list"),
        ("README.md", "---\na: b: c\n---\n", "README.md: its metadata cannot be read"),
        (
            "README.md",
            "<!-- gkgnet-hf: start. -->\n# Pets\n",
            "start of a generated part but not its end",
        ),
    ],
)
def test_a_wrong_file_is_one_clear_error(folder, file, text, message):
    (folder / file).unlink(missing_ok=True)
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        write_card(folder)
    assert not (folder / "README.md").exists() or (folder / "README.md").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repo_id": "pets"}, "repo_id must be user/name, got 'pets'"),
        ({"repo_id": "user/a pet"}, "a pet"),
        ({"datasets": "../photos"}, r"\.\./photos"),
    ],
)
def test_a_wrong_name_is_one_clear_error(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_card(folder, **arguments)


@pytest.mark.parametrize("file", ["README.md", "evaluation.json", "recipe.yaml"])
def test_text_must_be_utf8_and_may_begin_with_a_byte_order_mark(folder, file):
    content = (folder / file).read_bytes() if (folder / file).exists() else HAND_WRITTEN.encode()
    (folder / file).write_bytes(b"\xef\xbb\xbf" + content)
    card = write_card(folder)
    assert "\ufeff" not in card.read_text()
    assert file != "README.md" or ModelCard.load(card).data.license == "mit"
    (folder / file).write_bytes("# Müller".encode("latin-1"))
    with pytest.raises(ValueError, match=f"{file} must be text in UTF-8"):
        write_card(folder)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--repo-id", "user/pets", "--license", "mit", "--dataset", "user/photos"], 0, "README.md\n"),
        (["--repo-id", "pets"], 2, "gkgnet-hf: repo_id must be user/name, got 'pets'\n"),
    ],
)
def test_the_command_writes_the_card(folder, monkeypatch, capsys, words, code, said):
    monkeypatch.setattr("sys.argv", ["gkgnet-hf", "card", str(folder), *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert (stop.value.code or 0) == code
    assert "".join(capsys.readouterr()).endswith(said)
    if code == 0:
        data = ModelCard.load(folder / "README.md").data
        assert (data.license, data.datasets) == ("mit", "user/photos")


def test_training_leaves_the_evaluation_and_the_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    sizes = '{"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}'
    words = ["custom", *QUICK, "--dataset", str(tmp_path / "photos"), "--config", sizes]
    words += ["--backbone_checkpoint", "none"]
    metrics = run_training(read_recipe([*words, "--output_dir", "out"]))
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    validation = load_multilabel_dataset("photos", "validation")
    again = evaluate(load_model("out"), AutoImageProcessor.from_pretrained("out"), validation).to_dict()
    assert (found.pop("dataset"), found.pop("split")) == ("photos", "a held-out tenth of train")
    assert found == again
    assert metrics["eval_mAP"] == pytest.approx(found["metrics"]["mAP"])
    card = ModelCard.load("out/README.md")
    assert f"**mAP {found['metrics']['mAP']:.1f}**" in card.text
    assert card.data.get("datasets") is None
    assert rows(card, "Training")["steps"] == ["2"]


@pytest.mark.parametrize(("words", "dataset"), [(["--push_to_hub"], "digits"), ([], "/home/me/digits")])
def test_a_recipe_that_is_pushed_while_training_holds_no_path_of_this_machine(tmp_path, words, dataset):
    recipe = read_recipe(["digits", "--dataset", "/home/me/digits", "--use_cpu", *words])
    recipe.save(tmp_path / "recipe.yaml")
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["dataset"] == dataset


def test_a_push_that_cannot_read_the_card_on_the_hub_is_left_out(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError("no way there")

    monkeypatch.setattr("gkgnet_hf.training.trainer.published_card", fail)
    arguments = MultiLabelTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    trainer = MultiLabelTrainer(model=GKGNetForImageClassification(config()), args=arguments)
    trainer.hub_model_id = "user/pets"
    trainer._push_from_checkpoint(str(tmp_path))
    assert "Nothing is pushed this time: the card of user/pets: no way there" in caplog.text
    assert not (tmp_path / "README.md").exists()


def test_a_network_of_other_sizes_is_not_called_by_the_name_of_a_size():
    def start(**configuration):
        training = {"model_name_or_path": "ti", "config": configuration}
        return rows(create_model_card(config(), "pets", training=training), "Training")["started from"]

    assert start(depths=[1, 1, 1, 1]) == ["an untrained network"]
    assert start(num_groups=1) == ["an untrained GKGNet-Ti"]


def test_the_cards_of_this_repository_are_up_to_date():
    """Of MODEL_CARD.md everything that does not depend on the training run."""
    written = Path(__file__).parents[1].joinpath("MODEL_CARD.md").read_text()
    recipe = read_recipe(["digits"])
    digits = GKGNetConfig(image_size=96, id2label={i: str(i) for i in range(10)}, **recipe.model.config)
    card = create_model_card(digits, "gkgnet-digits", earlier=written)
    for heading in ("Use", "Limits", "Licence", "Citation"):
        assert section(card, heading).split("<!--")[0] == section(written, heading).split("<!--")[0]
    assert "-->\n\n# GKGNet, the architecture\n" in card.text
