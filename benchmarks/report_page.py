"""How long the report takes and how large it gets: `python -m benchmarks.report_page [IMAGES] [LABELS]`.

Scores and labels are drawn at random, as many as COCO's validation set has; there are no pictures.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from gkgnet_hf.evaluation import evaluate_scores
from gkgnet_hf.evaluation.report import write_report


def main(num_images: int = 40_000, num_labels: int = 80) -> None:
    """Print the seconds and megabytes of a report, without and with a second model."""
    generator = np.random.default_rng(0)
    frequencies = np.geomspace(0.002, 0.4, num_labels)
    targets = (generator.random((num_images, num_labels)) < frequencies).astype(np.float32)

    def evaluation(skill: float):
        logits = skill * targets + generator.normal(size=targets.shape) + np.log(frequencies / (1 - frequencies))
        names = [f"label {label}" for label in range(num_labels)]
        return evaluate_scores((1 / (1 + np.exp(-logits))).astype(np.float32), targets, names)

    first, second = evaluation(2.5), evaluation(2.8)
    with tempfile.TemporaryDirectory() as folder:
        for words, other in (("one model", None), ("two models", ("second", second))):
            start = time.perf_counter()
            path = write_report(Path(folder, "report.html"), first, other=other)
            seconds, size = time.perf_counter() - start, path.stat().st_size / 1e6
            print(f"{words}: {num_images:,} images, {num_labels:,} labels: {seconds:.1f} s, {size:.1f} MB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
