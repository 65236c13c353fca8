"""transformers' own Trainer, without any class of this package around it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import EvalPrediction, Trainer, TrainingArguments

from gkgnet_hf import GKGNetForImageClassification
from gkgnet_hf.evaluation import multilabel_metrics
from gkgnet_hf.training import MultiLabelTrainer, MultiLabelTrainingArguments

from .test_models import NUM_LABELS, small_config


class Images(torch.utils.data.Dataset):
    """Ten random images, each with `label` in its row."""

    def __init__(self, make_label, first=0):
        generator = torch.Generator().manual_seed(first)
        images = torch.randn(10, 3, 32, 32, generator=generator)
        self.rows = [{"pixel_values": image, **make_label(generator)} for image in images]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def multi_label(generator):
    return {"labels": torch.randint(0, 2, (NUM_LABELS,), generator=generator).float()}


def class_id(generator):
    return {"label": torch.randint(0, NUM_LABELS, (), generator=generator).item()}


def no_label(generator):
    return {}


def build_trainer(folder, data=None, problem_type="multi_label_classification", cls=Trainer, **settings):
    """A Trainer of a tiny model on ten images, six steps long."""
    torch.manual_seed(0)
    config = small_config(depths=(1, 1, 1, 1), image_size=32, problem_type=problem_type)
    data = data or Images(multi_label)
    parts = {name: settings.pop(name) for name in ("compute_metrics", "eval_dataset", "model") if name in settings}
    arguments = dict(
        max_steps=6,
        per_device_train_batch_size=5,
        per_device_eval_batch_size=4,
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    arguments_class = TrainingArguments if cls is Trainer else MultiLabelTrainingArguments
    return cls(
        **{"model": GKGNetForImageClassification(config), "eval_dataset": data, **parts},
        args=arguments_class(output_dir=str(folder), **{**arguments, **settings}),
        train_dataset=data,
    )


def scores_and_labels(prediction: EvalPrediction):
    return {
        "mAP": multilabel_metrics(torch.tensor(prediction.predictions).sigmoid(), prediction.label_ids)["mAP"],
        "shapes": [prediction.predictions.shape, prediction.label_ids.shape],
    }


def accuracy(prediction: EvalPrediction):
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def test_only_the_labels_are_a_label_column(tmp_path):
    assert build_trainer(tmp_path).label_names == ["labels"]


@pytest.mark.parametrize("steps", [None, 1])
def test_evaluate_gives_the_loss_and_compute_metrics_gets_logits_and_labels(tmp_path, steps):
    trainer = build_trainer(tmp_path, compute_metrics=scores_and_labels, eval_accumulation_steps=steps)
    metrics = trainer.evaluate()
    images = torch.stack([row["pixel_values"] for row in trainer.eval_dataset])
    labels = torch.stack([row["labels"] for row in trainer.eval_dataset])
    with torch.no_grad():
        expected = trainer.model.eval()(images, labels=labels)
    assert metrics["eval_shapes"] == [(10, NUM_LABELS), (10, NUM_LABELS)]
    assert metrics["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-4)
    assert metrics["eval_mAP"] == pytest.approx(multilabel_metrics(expected.logits.sigmoid(), labels)["mAP"])


def test_each_of_several_evaluation_sets_has_its_metrics(tmp_path):
    sets = {"near": Images(multi_label), "far": Images(multi_label, first=1)}
    metrics = build_trainer(tmp_path, eval_dataset=sets, compute_metrics=scores_and_labels).evaluate()
    assert {"eval_near_loss", "eval_near_mAP", "eval_far_loss", "eval_far_mAP"} <= metrics.keys()
    assert metrics["eval_near_loss"] != metrics["eval_far_loss"]


@pytest.mark.parametrize("metric", ["loss", "score"])
def test_the_best_model_is_loaded_at_the_end(tmp_path, metric):
    scores = iter([3.0, 9.0, 1.0])
    trainer = build_trainer(
        tmp_path,
        compute_metrics=lambda _: {"score": next(scores)},
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model=metric,
    )
    trainer.train()
    evaluations = {entry["step"]: entry for entry in trainer.state.log_history if "eval_loss" in entry}
    losses = {step: entry["eval_loss"] for step, entry in evaluations.items()}
    best = min(losses, key=losses.get) if metric == "loss" else 4
    saved = load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors")
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name


def test_predict_gives_logits_with_labels_and_without(tmp_path):
    trainer = build_trainer(tmp_path, compute_metrics=scores_and_labels)
    with_labels, without = (trainer.predict(Images(make_label)) for make_label in (multi_label, no_label))
    assert with_labels.predictions.shape == (10, NUM_LABELS)
    assert {"test_loss", "test_mAP"} <= with_labels.metrics.keys()
    np.testing.assert_allclose(without.predictions, with_labels.predictions, atol=1e-5)
    assert without.label_ids is None


def test_predictions_are_logits_alone_whatever_the_model_returns(tmp_path):
    trainer = build_trainer(tmp_path)
    trainer.model.config.output_hidden_states = True
    assert trainer.predict(Images(multi_label)).predictions.shape == (10, NUM_LABELS)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
def test_class_ids_train_and_evaluate(tmp_path, problem_type):
    data = Images(class_id)
    trainer = build_trainer(tmp_path, data, problem_type, compute_metrics=accuracy)
    before = trainer.evaluate()
    prediction = trainer.predict(data)
    assert prediction.label_ids.dtype == np.int64
    assert prediction.label_ids.shape == (10,)
    if problem_type == "single_label_classification":
        expected = F.cross_entropy(torch.tensor(prediction.predictions), torch.tensor(prediction.label_ids))
        assert before["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert 0 <= before["eval_accuracy"] <= 1
    trainer.train()
    assert trainer.evaluate()["eval_loss"] != before["eval_loss"]


def test_accumulated_gradients_are_those_of_one_large_batch(tmp_path):
    losses = []
    for batch_size, steps in ((10, 1), (5, 2)):
        trainer = build_trainer(
            tmp_path,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            logging_steps=1,
        )
        for module in trainer.model.modules():  # its statistics are of a batch, so they would differ
            if isinstance(module, torch.nn.BatchNorm2d):
                module.forward = lambda x: x
        trainer.train()
        losses.append(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_model_in_bfloat16_is_evaluated(tmp_path):
    trainer = build_trainer(tmp_path, compute_metrics=scores_and_labels, bf16_full_eval=True)
    assert np.isfinite(trainer.evaluate()["eval_mAP"])


@pytest.mark.parametrize("cls", [Trainer, MultiLabelTrainer])
def test_a_diverged_network_is_the_error_of_the_metrics(tmp_path, cls):
    settings = {"compute_metrics": scores_and_labels} if cls is Trainer else {}
    trainer = build_trainer(tmp_path, cls=cls, **settings)
    torch.nn.init.constant_(trainer.model.patch_classifier.bias, torch.nan)
    with pytest.raises(ValueError, match=r"got NaN for image 0, label 0 .* training diverged"):
        trainer.evaluate()
