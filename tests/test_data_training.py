"""What training does with data: the split that is really read is named, none is read twice, one image is no batch."""

import json
import logging

import datasets
import PIL.Image
import pytest

from gkgnet_hf.training import read_recipe, run_training, trainer

QUICK = ["--use_cpu", "--image_size", "64", "--per_device_train_batch_size", "4", "--num_train_epochs", "1"]
QUICK += ["--config", '{"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64], "num_neighbors": 3}']
QUICK += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
QUICK += ["--early_stopping_patience", "null", "--dataloader_num_workers", "0"]
QUICK += ["--model_name_or_path", "ti", "--backbone_checkpoint", "none"]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(root, **splits):
    """A table for each split, with so many pictures."""
    root.mkdir()
    for split, count in splits.items():
        lines = ["file_name,labels"]
        for i in range(count):
            PIL.Image.new("RGB", (16, 16), (9 * i, 90, len(split))).save(root / f"{split}{i}.png")
            lines.append(f"{split}{i}.png,{['cat', 'dog', 'cat|dog'][i % 3]}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


def train(root, tmp_path, *words):
    out = tmp_path / "out"
    run_training(read_recipe(["custom", "--dataset", str(root), "--output_dir", str(out), *QUICK, *words]))
    return json.loads((out / "evaluation.json").read_text()) if (out / "evaluation.json").exists() else None


def test_a_last_batch_of_one_image_is_left_out_and_said(tmp_path, caplog):
    trainer._warn_once.cache_clear()  # another test may have been warned in this process
    caplog.set_level(logging.WARNING)
    assert train(write(tmp_path / "set", train=5, val=2), tmp_path)["split"] == "val"
    assert "The last batch of an epoch would be one image, which is left out" in caplog.text


def test_the_evaluation_names_the_share_that_was_held_out(tmp_path):
    evaluation = train(write(tmp_path / "set", train=20, test=3), tmp_path)
    assert (evaluation["split"], evaluation["num_images"]) == ("a held-out tenth of train", 2)
    assert "a held-out tenth of train" in (tmp_path / "out" / "README.md").read_text()


def test_the_test_split_chooses_no_checkpoint(tmp_path):
    root = write(tmp_path / "set", train=6, test=3)
    words = ["--eval_split", "test", "--load_best_model_at_end", "true", "--eval_strategy", "epoch"]
    with pytest.raises(ValueError, match="eval_split test would choose the best checkpoint"):
        train(root, tmp_path, *words, "--save_strategy", "epoch")
    assert train(root, tmp_path, "--eval_split", "test")["split"] == "test"


def test_without_validation_all_training_images_are_trained_on(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert train(write(tmp_path / "set", train=8), tmp_path, "--eval_split", "null") is None
    assert "train: 8 images" in caplog.text


def test_single_label_problems_train_and_are_evaluated_by_their_softmax(tmp_path):
    root = tmp_path / "set"
    for name, color in (("cat", "red"), ("dog", "blue"), ("owl", "green")):
        (root / name).mkdir(parents=True)
        for i in range(8):
            PIL.Image.new("RGB", (40, 40), color).save(root / name / f"{i}.png")
    config = {**json.loads(QUICK[QUICK.index("--config") + 1]), "problem_type": "single_label_classification"}
    evaluation = train(root, tmp_path, "--config", json.dumps(config))
    logged = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    for name in ("mAP", "CF1", "OF1"):
        assert evaluation["metrics"][name] == pytest.approx(logged[f"eval_{name}"], abs=0.01)
