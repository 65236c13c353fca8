"""Labels of a dataset that is read as a stream."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checks import BadImage, OnBadImage, image_problem, report_bad_images
from .label_readers import LabelReader
from .labels import Unlabeled


@dataclass
class LabelStream:
    """Function for a batched `IterableDataset.map` whose images are not decoded: batches of the multi-label shape.

    Args:
        reader: of the label columns.
        renames: name of a column that stays → its name in the result.
        names: the label names wanted, if the data has names of its own.
        unlabeled: what becomes of images without a label.
        on_bad_image, bad_images_file: what happens to bad rows; `"skip"` tries to decode every image.
    """

    reader: LabelReader
    renames: dict[str, str]
    names: list[str] | None
    unlabeled: Unlabeled
    on_bad_image: OnBadImage
    bad_images_file: str | os.PathLike[str] | None

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        labels, keep = self.reader.read(batch).settle(self.names, self.unlabeled)
        columns: dict[str, list[Any]] = {new: batch[old] for old, new in self.renames.items()}
        problems = labels.problems
        if self.on_bad_image == "skip":
            found = {row: image_problem(columns["image"][row]) for row in np.flatnonzero(keep).tolist()}
            problems = {row: problem for row, problem in found.items() if problem} | problems
        files = [(image or {}).get("path") or "" for image in columns["image"]]
        bad = [BadImage(indices[row], files[row], problems[row]) for row in sorted(problems)]
        report_bad_images(bad, self.on_bad_image, self.bad_images_file)
        keep[list(problems)] = False
        columns["labels"] = labels.targets.tolist()
        columns["label_ids"] = [np.flatnonzero(targets == 1).tolist() for targets in labels.targets]
        rows = np.flatnonzero(keep).tolist()
        return {name: [values[row] for row in rows] for name, values in columns.items()}
