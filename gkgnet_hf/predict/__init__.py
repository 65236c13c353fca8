"""From pictures to labels: one, or a million.

`scoring` holds the three steps, `read_images`, `score_images` and `choose_labels`, and the functions that take them for
a few pictures. For many, `rows` says what there is to label, `predictor` takes the steps for one batch after another,
`label_rules` says which labels are kept and what they are called, `outputs` writes results that no interruption loses,
and `collection` puts these together.
"""

from .predictor import Predictor
from .scoring import (
    check_not_nan,
    choose_labels,
    eval_mode,
    find_images,
    label_thresholds,
    load_model,
    model_label_names,
    predict,
    predict_scores,
    probabilities,
    read_images,
    score_images,
)

__all__ = [
    "Predictor",
    "check_not_nan",
    "choose_labels",
    "eval_mode",
    "find_images",
    "label_thresholds",
    "load_model",
    "model_label_names",
    "predict",
    "predict_scores",
    "probabilities",
    "read_images",
    "score_images",
]
