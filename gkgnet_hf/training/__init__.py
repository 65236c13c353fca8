"""Training with transformers' Trainer. The public names of data, evaluation and predict are exported here too."""

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:  # the command reads `arguments` without them
    from ..data import (
        check_images,
        label_names,
        load_coco,
        load_folder,
        load_multilabel_dataset,
        load_voc,
        summarize,
        to_multilabel,
    )
    from ..evaluation.metrics import average_precision, multilabel_metrics, per_label_metrics, size_metrics
    from ..evaluation.results import Evaluation, evaluate
    from ..evaluation.thresholds import fit_thresholds
    from ..predict import find_images, load_model, predict, predict_scores
    from .experiment import run_training
    from .initialize import create_model
    from .recipe import read_recipe
    from .trainer import MultiLabelLoss, MultiLabelTrainer
    from .training_arguments import MultiLabelTrainingArguments
    from .transforms import TransformedDataset, eval_transform, oversample, train_transform, transform_stream
else:
    __getattr__, __dir__ = lazily(__name__)

__all__ = [
    "Evaluation",
    "MultiLabelLoss",
    "MultiLabelTrainer",
    "MultiLabelTrainingArguments",
    "TransformedDataset",
    "average_precision",
    "check_images",
    "create_model",
    "eval_transform",
    "evaluate",
    "find_images",
    "fit_thresholds",
    "label_names",
    "load_coco",
    "load_folder",
    "load_model",
    "load_multilabel_dataset",
    "load_voc",
    "multilabel_metrics",
    "oversample",
    "per_label_metrics",
    "predict",
    "predict_scores",
    "read_recipe",
    "run_training",
    "size_metrics",
    "summarize",
    "to_multilabel",
    "train_transform",
    "transform_stream",
]
