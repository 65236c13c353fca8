"""How good a model is: metrics, decision thresholds, evaluation of a dataset."""

from .metrics import average_precision, multilabel_metrics, per_label_metrics, random_baseline_map, size_metrics
from .results import Evaluation, evaluate, evaluate_scores
from .thresholds import fit_thresholds

__all__ = [
    "Evaluation",
    "average_precision",
    "evaluate",
    "evaluate_scores",
    "fit_thresholds",
    "multilabel_metrics",
    "per_label_metrics",
    "random_baseline_map",
    "size_metrics",
]
