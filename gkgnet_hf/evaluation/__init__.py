"""How good a model is.

`metrics` computes every number, from arrays. `thresholds` fits decision thresholds. `results` evaluates a model on a
dataset. `label_order` finds out which output stands for which label. `metric_module` is for the evaluate library.
"""

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
