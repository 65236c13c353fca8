"""What people bring from transformers' Trainer works in MultiLabelTrainer as it does there."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import BestRun

from gkgnet_hf import GKGNetForImageClassification
from gkgnet_hf.evaluation import multilabel_metrics
from gkgnet_hf.training import MultiLabelLoss, MultiLabelTrainer, MultiLabelTrainingArguments

from .test_models import NUM_LABELS, small_config
from .test_trainer import RandomImages, build_trainer

BEST = dict(eval_strategy="steps", eval_steps=1, save_steps=1, max_steps=3, load_best_model_at_end=True)


class ClassIds(RandomImages):
    def __getitem__(self, i):
        return {**super().__getitem__(i), "labels": torch.tensor(i % NUM_LABELS)}


class FixedStatistics(GKGNetForImageClassification):
    """Batch norm would see other batches, so the network keeps its running statistics."""

    def train(self, mode=True):
        return super().train(False)


def test_every_method_that_the_trainer_replaces_is_one_of_transformers():
    own = {"_argument", "_averaged", "_last_image_is_alone", "_last_logged", "_published_card"}
    own |= {"_training_results", "_check_scheduler", "_upload"}
    methods = {name for name, value in vars(MultiLabelTrainer).items() if callable(value)}
    assert {name for name in methods if not hasattr(Trainer, name)} == own


def test_regression_needs_metrics_of_its_own(tmp_path):
    model = GKGNetForImageClassification(small_config(problem_type="regression"))
    with pytest.raises(ValueError, match="has no default metrics: pass compute_metrics"):
        build_trainer(tmp_path, model=model)
    build_trainer(tmp_path, model=model, compute_metrics=lambda prediction: {})


def test_the_default_metrics_need_logits(tmp_path):
    changed = dict(preprocess_logits_for_metrics=lambda logits, labels: logits.sigmoid())
    with pytest.raises(ValueError, match="need logits: with preprocess_logits_for_metrics pass compute_metrics"):
        build_trainer(tmp_path, **changed)
    build_trainer(tmp_path, **changed, compute_metrics=lambda prediction: {})


def first_step(output, **arguments):
    """Loss and gradient norm of a step over 12 images."""
    torch.manual_seed(0)
    model = FixedStatistics(small_config())
    trainer = build_trainer(
        output, model=model, max_steps=1, logging_steps=1, save_strategy="no", max_grad_norm=1e9, **arguments
    )
    trainer.train()
    return trainer.state.log_history[0]["loss"], trainer.state.log_history[0]["grad_norm"]


def test_accumulated_batches_are_one_batch_in_the_models_loss_and_in_a_given_one(tmp_path):
    at_once = first_step(tmp_path, per_device_train_batch_size=12)
    batches = dict(per_device_train_batch_size=4, gradient_accumulation_steps=3)
    assert first_step(tmp_path, **batches) == pytest.approx(at_once, rel=1e-3)
    assert first_step(tmp_path, **batches, compute_loss_func=MultiLabelLoss()) == pytest.approx(at_once, rel=1e-3)


def test_compute_loss_func_is_given_outputs_labels_and_the_number_of_labels(tmp_path):
    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append((outputs.logits.shape, labels.shape, int(num_items_in_batch)))
        return outputs.logits.sum() * 0 + 42

    trainer = build_trainer(tmp_path, compute_loss_func=loss, per_device_eval_batch_size=20, max_steps=1)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(42)
    assert seen == [((n, NUM_LABELS), (n, NUM_LABELS), n * NUM_LABELS) for n in (4, 20)]


def test_a_search_over_hyperparameters_starts_each_trial_anew(tmp_path, monkeypatch):
    started, rates = [], []

    class Backend:
        """What transformers does with optuna, without optuna."""

        def ensure_available(self):
            pass

        def run(self, trainer, n_trials, direction, **kwargs):
            for number, rate in enumerate((1e-3, 1e-4)):
                trainer.train(trial=SimpleNamespace(number=number, params={"learning_rate": rate}))
                rates.append(trainer.lr_scheduler.base_lrs[0])
                objective = trainer.compute_objective(trainer.evaluate())
                trainer.model = trainer.model_wrapped = None
            return BestRun("1", objective, {"learning_rate": rate})

    def model_init(trial):
        model = GKGNetForImageClassification(small_config())
        started.append(model.patch_classifier.weight.detach().clone())
        return model

    backends = {transformers.trainer_utils.HPSearchBackend.OPTUNA: Backend}
    monkeypatch.setattr("transformers.trainer.ALL_HYPERPARAMETER_SEARCH_BACKENDS", backends)
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    trainer = build_trainer(tmp_path, model_init=model_init, max_steps=1, save_strategy="no", ema_decay=0.5)
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: trial.params,
        compute_objective=lambda metrics: metrics["eval_mAP"],
        direction="maximize",
        backend="optuna",
    )
    assert 0 <= best.objective <= 100
    assert rates == [1e-3, 1e-4]
    assert torch.equal(started[-1], started[-2])  # of each trial; an earlier one is the Trainer's own


def test_plain_training_arguments_train_and_evaluate(tmp_path):
    trainer = build_trainer(tmp_path, args=TrainingArguments, max_steps=1)
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_mAP"] <= 100


def test_a_metric_of_ones_own_decides_the_best_model(tmp_path):
    scores = iter([3.0, 9.0, 1.0])
    metrics = dict(compute_metrics=lambda _: {"harm": next(scores)}, metric_for_best_model="harm")
    trainer = build_trainer(tmp_path, **BEST, **metrics, greater_is_better=False)
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-3")


def test_metrics_of_ones_own_need_no_map(tmp_path):
    trainer = build_trainer(tmp_path, compute_metrics=lambda _: {"harm": 1.0}, eval_strategy="steps", max_steps=1)
    trainer.train()
    assert trainer.evaluate()["eval_harm"] == 1


def test_the_lowest_loss_is_best_unless_told_otherwise():
    def prefers_more(**arguments):
        return MultiLabelTrainingArguments(use_cpu=True, load_best_model_at_end=True, save_strategy="epoch",
                                           eval_strategy="epoch", **arguments).greater_is_better  # fmt: skip

    assert not prefers_more(metric_for_best_model="loss")
    assert not prefers_more(metric_for_best_model="eval_night_loss")
    assert not prefers_more(prediction_loss_only=True)
    assert prefers_more()
    assert prefers_more(metric_for_best_model="CF1")


def test_of_several_datasets_one_decides_and_of_equal_metrics_its_lower_loss(tmp_path):
    day, night = RandomImages(), RandomImages(offset=100)
    trainer = build_trainer(
        tmp_path, **BEST, eval_dataset={"day": day, "night": night}, metric_for_best_model="eval_night_mAP"
    )
    trainer.compute_metrics = lambda _: {"mAP": 50.0}
    trainer.train()
    losses = {e["step"]: e["eval_night_loss"] for e in trainer.state.log_history if "eval_night_loss" in e}
    assert len(losses) == 3
    assert trainer.state.best_global_step == min(losses, key=losses.get)
    assert any("eval_day_mAP" in entry for entry in trainer.state.log_history)


def test_of_several_datasets_one_must_be_named(tmp_path):
    datasets = {"day": RandomImages(), "night": RandomImages()}
    for metrics in ({}, {"compute_metrics": lambda _: {"mAP": 1.0}}):
        with pytest.raises(ValueError, match="one of them: eval_day_mAP, eval_night_mAP; got mAP"):
            build_trainer(tmp_path, **BEST, eval_dataset=datasets, **metrics)


def test_without_positives_no_model_is_the_best(tmp_path):
    class Negatives(RandomImages):
        def __getitem__(self, i):
            return {**super().__getitem__(i), "labels": torch.zeros(NUM_LABELS)}

    with pytest.raises(ValueError, match=r"eval_mAP is NaN .* where no evaluation image has a positive label"):
        build_trainer(tmp_path, **BEST, eval_dataset=Negatives()).train()


@pytest.mark.parametrize("dataset", [RandomImages, ClassIds])
def test_batches_that_are_not_concatenated_have_the_same_metrics(dataset, tmp_path):
    whole, batches = (
        build_trainer(tmp_path, eval_dataset=dataset(), eval_do_concat_batches=concatenated).evaluate()
        for concatenated in (True, False)
    )
    assert batches["eval_mAP"] == pytest.approx(whole["eval_mAP"])


def test_a_lower_batch_size_that_was_found_leaves_no_single_image(tmp_path):
    trainer = build_trainer(tmp_path, train_dataset=torch.utils.data.Subset(RandomImages(), range(7)))
    assert len(trainer.get_train_dataloader()) == 2
    trainer._update_auto_batch_size(2)
    assert len(trainer.get_train_dataloader()) == 3


def test_only_the_loss_may_be_evaluated(tmp_path):
    trainer = build_trainer(tmp_path, **BEST, prediction_loss_only=True)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0
    assert "eval_mAP" not in metrics
    assert trainer.predict(RandomImages()).predictions is None


def test_an_incomplete_batch_is_dropped_in_training_alone(tmp_path):
    batches = dict(per_device_train_batch_size=8, per_device_eval_batch_size=8, dataloader_drop_last=True)
    trainer = build_trainer(tmp_path, **batches)
    assert len(trainer.get_train_dataloader()) == 2
    assert trainer.predict(RandomImages()).predictions.shape == (20, NUM_LABELS)
    assert len(trainer.get_eval_dataloader()) == 3


def test_label_smoothing_of_the_trainer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"set label_smoothing in the model's configuration instead, got 0\.1"):
        build_trainer(tmp_path, label_smoothing_factor=0.1)


def test_a_metric_that_will_not_come_is_an_error_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of loss, mAP, .*, got map"):
        build_trainer(tmp_path, **BEST, metric_for_best_model="map")


def test_images_with_one_label_each_may_have_class_ids(tmp_path):
    trainer = build_trainer(tmp_path, eval_dataset=ClassIds(), train_dataset=ClassIds(), max_steps=1)
    trainer.train()
    prediction = trainer.predict(ClassIds())
    assert prediction.label_ids.tolist() == (np.arange(20) % NUM_LABELS).tolist()
    targets = np.eye(NUM_LABELS)[prediction.label_ids]
    scores = torch.tensor(prediction.predictions).sigmoid()
    assert prediction.metrics["test_mAP"] == pytest.approx(multilabel_metrics(scores, targets)["mAP"])


def test_a_given_loss_takes_class_ids_and_tuples_as_the_model_does(tmp_path):
    loss = MultiLabelLoss()
    ids, model = torch.tensor([2, 0]), GKGNetForImageClassification(small_config()).eval()
    pictures = torch.randn(2, 3, 64, 64)
    expected = model(pictures, labels=ids).loss
    torch.testing.assert_close(loss(model(pictures), ids), expected)
    torch.testing.assert_close(loss(model(pictures, return_dict=False), ids), expected)
    torch.testing.assert_close(loss(model(pictures), ids, num_items_in_batch=4), expected / 2)
    torch.testing.assert_close(
        loss(torch.zeros(2, 1), torch.tensor([1, 0])), loss(torch.zeros(2, 1), torch.eye(2)[:, :1])
    )
    build_trainer(tmp_path, train_dataset=ClassIds(), compute_loss_func=loss, max_steps=1).train()
