"""Every recipe parses, builds everything on a miniature of its dataset, and trains."""

import dataclasses
import json
import shutil

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import TrainingArguments

from gkgnet_hf import GKGNetForImageClassification
from gkgnet_hf.cli import _argument_list
from gkgnet_hf.data.digits import make_digits
from gkgnet_hf.data.readers.voc import VOC_LABELS
from gkgnet_hf.training import (
    MultiLabelTrainer,
    MultiLabelTrainingArguments,
    create_model,
    load_model,
    load_multilabel_dataset,
    read_recipe,
    run_training,
)
from gkgnet_hf.training.arguments import recipe_names

from .test_models import small_config

TINY = {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}
QUICK = ["--use_cpu", "--max_steps", "2", "--image_size", "64", "--per_device_train_batch_size", "2"]
QUICK += [
    "--per_device_eval_batch_size",
    "4",
    "--dataloader_num_workers",
    "0",
    "--report_to",
    "none",
    "--disable_tqdm",
    "true",
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """What the recipes name, in miniature."""
    folder = tmp_path_factory.mktemp("workplace")
    scenes = make_digits(folder / "digits", num_train=6, num_validation=4, image_size=64)
    for name, split in (("train", "train2014"), ("val", "val2014")):
        shutil.copytree(scenes / name, folder / "coco" / split)
        instances = folder / "coco" / "annotations" / f"instances_{split}.json"
        instances.parent.mkdir(exist_ok=True)
        shutil.copy(scenes / "annotations" / f"instances_{name}.json", instances)
    backbone = create_model(["cat"], "ti", **TINY).gkgnet.backbone
    torch.save({"state_dict": backbone.state_dict()}, folder / "pvig_ti.pth.tar")
    GKGNetForImageClassification(small_config(id2label={0: "dog", 1: "zebra"})).save_pretrained(folder / "coco-model")
    write_voc(folder / "VOC2007")
    write_photos(folder / "photos")
    return folder


def write_voc(root):
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for split, numbers in (("trainval", range(6)), ("test", range(6, 10))):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{i:06d}\n" for i in numbers))
        for i in numbers:
            Image.new("RGB", (64, 64), (25 * i, 0, 0)).save(root / "JPEGImages" / f"{i:06d}.jpg")
            box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>40</ymax></bndbox>"
            objects = f"<object><name>{VOC_LABELS[i]}</name><difficult>0</difficult>{box}</object>"
            (root / "Annotations" / f"{i:06d}.xml").write_text(
                f"<annotation><filename>{i:06d}.jpg</filename>{objects}</annotation>"
            )


def write_photos(folder, count=10):
    folder.mkdir()
    lines = ["file_name,labels"]
    for i in range(count):
        Image.new("RGB", (80, 60), (20 * i, 255 - 20 * i, 100)).save(folder / f"{i}.jpg")
        lines.append(f"{i}.jpg,{('red', 'green', 'red|green')[i % 3]}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


SMALL = ["--model_name_or_path", "ti", "--config", json.dumps(TINY)]
COCO = ["--dataset", "coco", "--backbone_checkpoint", "pvig_ti.pth.tar", *SMALL]
CHANGES = {
    "coco-224": COCO,
    "coco-448": COCO,
    "coco-576": COCO,
    "voc-576-from-coco": ["--dataset", "VOC2007", "--model_name_or_path", "coco-model"],
    "digits": [],
    "custom": ["--backbone_checkpoint", "none", *SMALL],
}


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_trains_on_a_miniature_of_its_dataset(name, workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(workplace)
    metrics = run_training(read_recipe([name, *CHANGES[name], *QUICK, "--output_dir", str(tmp_path / "out")]))
    assert 0 <= metrics["eval_mAP"] <= 100
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
    model = load_model(str(tmp_path / "out"))
    labels = {"digits": 10, "custom": 2}.get(name, 20 if "voc" in name else 10)
    assert model.num_labels == labels
    assert model.config.image_size == 64
    resolved = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert resolved["max_steps"] == 2
    assert resolved["augmentation"] == yaml.safe_load(_text(name)).get("augmentation", "light")


def _text(name):
    from gkgnet_hf.training.recipe import RECIPES

    return (RECIPES / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_complete(name):
    settings = yaml.safe_load(_text(name))
    assert settings.keys() >= {
        "output_dir",
        "dataset",
        "augmentation",
        "model_name_or_path",
        "image_size",
        "learning_rate",
        "seed",
    }
    assert settings.keys() & {"num_train_epochs", "max_steps"}


def test_the_resolved_recipe_does_the_same_again(workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(workplace)
    words = ["digits", *QUICK, "--config", json.dumps(TINY)]
    run_training(read_recipe([*words, "--output_dir", str(tmp_path / "one")]))
    run_training(read_recipe([str(tmp_path / "one" / "recipe.yaml"), "--output_dir", str(tmp_path / "two")]))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    first, second = (yaml.safe_load((tmp_path / name / "recipe.yaml").read_text()) for name in ("one", "two"))
    assert {**first, "output_dir": None} == {**second, "output_dir": None}


@pytest.mark.slow
def test_an_interrupted_run_of_a_recipe_is_not_overwritten_but_resumed_to_the_same_weights(tmp_path, monkeypatch):
    write_photos(tmp_path / "photos", count=16)
    words = ["custom", "--dataset", str(tmp_path / "photos"), *CHANGES["custom"], "--image_size", "64", "--use_cpu"]
    words += ["--config", json.dumps({**TINY, "drop_path_rate": 0.1}), "--per_device_train_batch_size", "4"]
    words += ["--num_train_epochs", "3", "--disable_tqdm", "true"]

    def run(output, *more):
        torch.manual_seed(len(more))  # the seed of the recipe decides
        run_training(read_recipe([*words, "--output_dir", str(tmp_path / output), *more]))
        return load_file(tmp_path / output / "model.safetensors")

    def interrupt(trainer, *args, **kwargs):
        if trainer.state.global_step == 6:  # of 4 an epoch
            raise KeyboardInterrupt
        return training_step(trainer, *args, **kwargs)

    whole, training_step = run("whole"), MultiLabelTrainer.training_step
    monkeypatch.setattr(MultiLabelTrainer, "training_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("half")
    monkeypatch.setattr(MultiLabelTrainer, "training_step", training_step)
    with pytest.raises(FileExistsError, match="--resume_from_checkpoint last"):
        run("half")
    half = run("half", "--resume_from_checkpoint", "last")
    assert all(torch.equal(whole[name], half[name]) for name in whole)


def test_bad_images_are_an_error_before_training_or_skipped_and_listed(workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", 20)
    (tmp_path / "photos" / "3.jpg").write_bytes((tmp_path / "photos" / "3.jpg").read_bytes()[:200])
    words = ["custom", "--dataset", "photos", *CHANGES["custom"], "--output_dir", "out", *QUICK]
    with pytest.raises(ValueError, match=r"row \d+ of the \w+ split, .*3\.jpg"):
        run_training(read_recipe(words))
    assert not (tmp_path / "out" / "model.safetensors").exists()
    run_training(read_recipe([*words, "--on_bad_image", "skip"]))
    assert "3.jpg" in (tmp_path / "out" / "bad_images.csv").read_text()


def test_a_stream_trains(workplace, tmp_path):
    rows = load_multilabel_dataset(workplace / "photos")
    for split in ("train", "validation"):
        (tmp_path / "hub" / "data").mkdir(exist_ok=True, parents=True)
        rows.select_columns(["image", "label_ids"]).to_parquet(tmp_path / "hub" / "data" / f"{split}-00000.parquet")
    words = ["custom", "--dataset", str(tmp_path / "hub"), "--streaming", "--output_dir", str(tmp_path / "out"), *QUICK]
    words += ["--load_best_model_at_end", "false", "--early_stopping_patience", "null", *CHANGES["custom"]]
    assert 0 <= run_training(read_recipe(words))["eval_mAP"] <= 100
    assert load_model(str(tmp_path / "out")).config.id2label == {0: "green", 1: "red"}


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_else(workplace, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run_training(
            read_recipe(["digits", *QUICK, "--dataset", "nowhere", "--output_dir", str(tmp_path / "file" / "out")])
        )


def test_labels_of_the_same_name_keep_what_is_known_of_them(workplace):
    source = load_model(str(workplace / "coco-model"))
    torch.manual_seed(1)
    model = create_model(["cat", "dog"], str(workplace / "coco-model"), image_size=96)
    assert model.config.image_size == 96
    assert torch.equal(model.gkgnet.label_embedding.weight[1], source.gkgnet.label_embedding.weight[0])
    assert torch.equal(model.patch_classifier.weight[1], source.patch_classifier.weight[0])
    assert not torch.isin(model.gkgnet.label_embedding.weight[0], source.gkgnet.label_embedding.weight).any()
    assert torch.equal(model.gkgnet.backbone.stem.conv1.conv.weight, source.gkgnet.backbone.stem.conv1.conv.weight)


def test_weights_that_do_not_fit_are_clear_errors(workplace, tmp_path):
    with pytest.raises(ValueError, match="asks for another network than the weights"):
        create_model(["cat"], str(workplace / "coco-model"), hidden_sizes=[16, 16, 32, 32])
    with pytest.raises(ValueError, match="has patch nodes already"):
        create_model(["cat"], str(workplace / "coco-model"), backbone_checkpoint="x")
    with pytest.raises(ValueError, match="num_group is no field of GKGNetConfig to set here; did you mean num_groups"):
        create_model(["cat"], "ti", num_group=1)
    with pytest.raises(FileNotFoundError, match="no folder nowhere"):
        create_model(["cat"], "nowhere")
    GKGNetForImageClassification(small_config()).gkgnet.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match=r"with its classifier, it lacks label_classifier\.bias"):
        load_model(str(tmp_path / "base"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "neither a file nor a recipe of this package"),
        (["digits", "--max_stps", "3"], "^unknown argument max_stps; did you mean max_steps"),
        (["digits", "--image_size", "large"], "image_size.*: invalid int value: 'large'"),
        (["digits", "--on_bad_image", "ignore"], "invalid choice: 'ignore'"),
        (["digits", "--config", "{"], "config: must be a JSON object"),
        (["digits", "--config", "G=1"], "config: must be a JSON object, got 'G=1'"),
        (["digits", "--accelerator_config", '{"split": true}'], "unexpected keyword argument 'split'"),
        (["--max_steps", "3"], "--dataset is required"),
        (["digits", "stray"], "expected --ARGUMENT VALUE, got 'stray'"),
        (["digits", "--max_steps", "null"], "max_steps.*: cannot be null"),
    ],
)
def test_wrong_words_are_one_clear_error(words, message):
    with pytest.raises(ValueError, match=message):
        read_recipe([*words, "--use_cpu"])


def test_every_argument_of_the_trainer_can_stand_in_a_recipe(tmp_path):
    defaults = MultiLabelTrainingArguments(use_cpu=True)
    values = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(TrainingArguments) if f.init}
    plain = json.loads(json.dumps({k: v for k, v in values.items() if k != "accelerator_config"}))
    given = {name: value for name, value in plain.items() if value not in ([], None)}
    assert len(given) > 60
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"dataset": "photos", **given}))
    training = read_recipe([str(tmp_path / "all.yaml")]).training
    assert {name: getattr(training, name) for name in given} == given


STRUCTURED = {
    "lr_scheduler_kwargs": {"min_lr": 1e-6},
    "accelerator_config": {"split_batches": True, "even_batches": False},
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "fsdp_config": {"transformer_layer_cls_to_wrap": ["GKGNetBlock", "LabelBlock"]},
    "liger_kernel_config": {"rope": True},
    "parallelism_config": {"tp_size": 1},
    "label_names": ["labels", "weights"],
    "report_to": ["tensorboard"],
    "include_for_metrics": ["inputs", "loss"],
    "optim_target_modules": ["graph", "ffn"],
    "debug": ["underflow_overflow"],
    "lr_step_epochs": [10.0, 50.0],
    "optim_args": "amsgrad=True,eps=1e-6",
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_lists_and_mappings_read_the_same_from_a_file_and_the_command_line(name, tmp_path):
    if not hasattr(MultiLabelTrainingArguments, name) and name.startswith("activation"):
        pytest.skip("of transformers 5.24")
    value, file = STRUCTURED[name], tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"dataset": "photos", "use_cpu": True, name: value}))
    words = [json.dumps(value)] if isinstance(value, dict) else map(str, value if isinstance(value, list) else [value])
    one, two = read_recipe([str(file)]), read_recipe(["--dataset", "photos", "--use_cpu", f"--{name}", *words])
    assert one.given == two.given
    assert json.loads(json.dumps(one.given[name])) == value
    if name not in ("accelerator_config", "parallelism_config"):
        assert json.loads(json.dumps(getattr(one.training, name))) == value
    one.save(tmp_path / "again.yaml")
    assert read_recipe([str(tmp_path / "again.yaml")]).given[name] == one.given[name]


@pytest.mark.parametrize(
    ("old", "new", "part"), [("model", "model_name_or_path", "model"), ("config_name", "dataset_config_name", "data")]
)
def test_an_old_name_is_taken_for_the_new_one_with_a_warning(old, new, part, tmp_path, caplog):
    (tmp_path / "mine.yaml").write_text(f"dataset: photos\nuse_cpu: true\n{old}: ti\n")
    for words in ([str(tmp_path / "mine.yaml")], ["--dataset", "photos", "--use_cpu", f"--{old}", "ti"]):
        caplog.clear()
        assert getattr(getattr(read_recipe(words), part), new) == "ti"
        assert [r.message for r in caplog.records if "called" in r.message] == [
            f"--{old} is called {new} now; the old name goes in the next version"
        ]
    assert f"--{new} " in _argument_list()
    assert f"--{old} " not in _argument_list()


@pytest.mark.parametrize("word", ["none", "null"])
def test_none_and_null_start_the_patch_nodes_at_random(word, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"dataset: photos\nuse_cpu: true\nbackbone_checkpoint: {word}\n")
    assert read_recipe([str(tmp_path / "mine.yaml")]).model.backbone_checkpoint is None
    assert read_recipe(["custom", "--use_cpu", "--backbone_checkpoint", word]).model.backbone_checkpoint is None


def test_null_takes_an_argument_back_and_repeated_ones_are_joined():
    recipe = read_recipe(
        ["custom", "--use_cpu", "--ema_decay", "null", "--eval_split", "null", "--labels", "a", "--labels", "b"]
    )
    assert recipe.training.ema_decay is None
    assert recipe.data.eval_split is None
    assert recipe.data.labels == ["a", "b"]


def test_the_configuration_is_merged_with_the_recipes():
    config = read_recipe(["digits", "--config", '{"num_groups": 1}']).model.config
    assert config["num_groups"] == 1
    assert config["depths"] == [1, 1, 2, 1]
    assert not read_recipe(["digits", "--config", "null"]).model.config


def test_words_that_yaml_takes_for_booleans_are_text(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "dataset: photos\neval_strategy: no\nlabels: [yes, no, off, 007]\ncheck_data: false\nuse_cpu: yes\n"
        "config: {num_groups: 1, initializer_range: 1e-2}\n"
    )
    recipe = read_recipe([str(tmp_path / "mine.yaml")])
    assert recipe.training.eval_strategy == "no"
    assert recipe.data.labels == ["yes", "no", "off", "007"]
    assert recipe.data.check_data is False
    assert recipe.model.config == {"num_groups": 1, "initializer_range": 0.01}


@pytest.mark.parametrize("text", ["", "--", "-", "null", "a=--"])
def test_text_in_a_recipe_is_text_whatever_it_looks_like(text, tmp_path):
    given = {"separator": text, "labels": ["a", text, "--b", "-1"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"dataset": "photos", "use_cpu": True, **given}))
    recipe = read_recipe([str(tmp_path / "mine.yaml")])
    recipe.save(tmp_path / "again.yaml")
    for read in (recipe, read_recipe([str(tmp_path / "again.yaml")])):
        assert {"separator": read.data.separator, "labels": read.data.labels} == given


def test_a_separator_of_dashes_may_be_given_on_the_command_line():
    assert read_recipe(["custom", "--use_cpu", "--separator=--"]).data.separator == "--"
    assert read_recipe(["custom", "--use_cpu", "--separator="]).data.separator == ""


@pytest.mark.parametrize("null", ["", "~", "null", "Null", "NULL"])
def test_every_null_of_yaml_is_none(null, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"dataset: x\nuse_cpu: true\neval_split: {null}\nimage_column: {null}\n")
    data = read_recipe([str(tmp_path / "mine.yaml")]).data
    assert data.eval_split is None
    assert data.image_column is None


@pytest.mark.parametrize("words", [["--max_steps", "-1"], ["--lr_step_epochs", "1"], ["--oversample_threshold", "0.1"]])
def test_what_a_stream_cannot_do_is_an_error(words, tmp_path):
    recipe = read_recipe(["custom", *QUICK, "--streaming", "--output_dir", str(tmp_path / "out"), *words])
    with pytest.raises(ValueError, match=words[0][2:]):
        run_training(recipe)


def test_wrong_recipe_files_are_one_clear_error(tmp_path):
    file = tmp_path / "mine.yaml"
    for text, message in (
        ("dataset: x\nimagesize: 3", r"mine\.yaml: unknown argument imagesize; did you mean image_size"),
        ("dataset: x\nimage_size: large", r"mine\.yaml: argument --image_size.*: invalid int value: 'large'"),
        ("dataset: x\nlabels: [a]\nlr_step_epochs: [-x]", r"invalid float value: '-x'"),
        ("- dataset", "must hold `name: value` lines, got list"),
        ("a: [", "is no YAML file"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_recipe([str(file)])
