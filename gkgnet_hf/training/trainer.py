"""transformers' Trainer with the multi-label loss and metrics."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer

from ..modeling.modeling_gkgnet import GKGNetForImageClassification
from .losses import MultiLabelLoss
from .metrics import multilabel_metrics


class MultiLabelTrainer(Trainer):
    """Trainer of a model that scores labels: `MultiLabelLoss` to train, `multilabel_metrics` to evaluate.

    Args:
        model: what to train.
        loss: called with (logits, labels); default the `MultiLabelLoss` of the model's configuration.
        **kwargs: as for transformers' `Trainer`.

    Example:

        trainer = MultiLabelTrainer(model=model, args=arguments, train_dataset=train, eval_dataset=validation)
        trainer.train()
        trainer.evaluate()["eval_mAP"]
    """

    def __init__(
        self, model: GKGNetForImageClassification, loss: Callable[[Tensor, Tensor], Tensor] | None = None, **kwargs: Any
    ):
        kwargs.setdefault("compute_metrics", _metrics)
        self.loss = loss if loss is not None else MultiLabelLoss.from_config(model.config)
        super().__init__(model=model, **kwargs)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over the batch: the Trainer averages it

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Loss of a batch, a mean over its images, and on request the model's output."""
        labels = inputs["labels"]
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        loss = self.loss(outputs["logits"], labels)
        return (loss, outputs) if return_outputs else loss

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weights only: no bias, no norm, no position embedding."""
        return [name for name, p in model.named_parameters() if p.ndim > 1 and not name.endswith("pos_embed")]


def _metrics(prediction: EvalPrediction) -> dict[str, float]:
    predictions = prediction.predictions
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    scores = torch.from_numpy(logits).float().sigmoid().numpy()
    return multilabel_metrics(scores, prediction.label_ids)
