"""Training and evaluation on multi-label data, with transformers' Trainer."""

from .arguments import MultiLabelTrainingArguments
from .data.coco import load_coco
from .losses import MultiLabelLoss
from .metrics import multilabel_metrics
from .trainer import MultiLabelTrainer

__all__ = [
    "MultiLabelLoss",
    "MultiLabelTrainer",
    "MultiLabelTrainingArguments",
    "load_coco",
    "multilabel_metrics",
]
