"""`multilabel_metrics` as a metric of the evaluate library.

The library copies this file elsewhere to load it by path, so its imports are absolute.
"""

from typing import Any

import datasets
import evaluate
from numpy.typing import ArrayLike

from gkgnet_hf.evaluation.metrics import multilabel_metrics


class MultiLabelMetric(evaluate.Metric):
    """mAP, CP, CR, CF1, OP, OR and OF1 in percent, from batches.

    `predictions` are (B, L) probabilities and `references` (B, L) of 1, 0, and −1 or NaN for unknown. `compute` takes
    `threshold` and `top_k` of `multilabel_metrics`. `evaluate.load` with the path of this file gives the same.

    Example:

        metric = MultiLabelMetric()
        for batch in batches:
            metric.add_batch(predictions=model(batch["pixel_values"]).logits.sigmoid(), references=batch["labels"])
        metric.compute(threshold=0.5)["mAP"]
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Multi-label metrics: mAP, and precision, recall and F1 per class and overall, in percent.",
            citation="",
            inputs_description=self.__doc__ or "",
            features=datasets.Features(
                {name: datasets.Sequence(datasets.Value("float64")) for name in ("predictions", "references")}
            ),
        )

    def _compute(self, *, predictions: ArrayLike, references: ArrayLike, **settings: Any) -> dict[str, float]:
        return multilabel_metrics(predictions, references, **settings)
