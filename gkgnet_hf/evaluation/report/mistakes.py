"""The pictures that are most likely mislabelled, by cleanlab, and a file of them for Label Studio.

Source: Thyagarajan et al., Identifying Incorrect Annotations in Multi-Label Classification Data,
https://arxiv.org/abs/2211.13895.
"""

import csv
import importlib.util
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray

from ...data.checks import image_files
from ...data.words import counted, csv_cell
from ...files import written_whole
from ..metrics import Bools, Floats, check_probabilities

SUFFIXES = (".csv", ".json")
DOUBT = 0.5  # the model believes a label less than this


@dataclass(frozen=True, eq=False)
class Mistakes:
    """The M of N images that have a label which the model contradicts, most likely mislabelled first.

    Attributes:
        rows: (M,) which images.
        quality: (M,) cleanlab's score of all labels of each, from 0 to 1; low is doubtful.
        absent: (M, L) positive labels that the model does not see.
        missing: (M, L) negative labels that the model sees.
    """

    rows: NDArray[np.int64]
    quality: Floats
    absent: Bools
    missing: Bools


def find_mistakes(scores: ArrayLike, targets: ArrayLike) -> Mistakes:
    """Labels that a model contradicts.

    This means something only for images that the model was not trained on: a network that has learned a wrong label by
    heart does not contradict it.

    Args:
        scores: (N, L) probabilities.
        targets: (N, L); 1, 0, and −1 or NaN for unknown, which is never doubted.

    Raises:
        ImportError: without cleanlab (`pip install 'gkgnet-hf[report]'`).
        ValueError: as in `multilabel_metrics`.

    >>> found = find_mistakes([[0.9, 0.2], [0.1, 0.1], [0.3, 0.9]], [[1, 0], [1, 0], [0, -1]])
    >>> found.rows.tolist(), found.absent.tolist()
    ([1], [[True, False]])
    """
    check_cleanlab()
    from cleanlab.multilabel_classification.rank import get_label_quality_scores, get_label_quality_scores_per_class

    scores, positive, known = check_probabilities(scores, targets)
    if not scores.size:
        none = np.zeros((0, scores.shape[1]), dtype=bool)
        return Mistakes(np.zeros(0, dtype=np.int64), np.zeros(0), none, none)
    labels, certain = _for_cleanlab(scores, positive, known)
    quality = get_label_quality_scores(labels, certain)[:-2]
    per_label = np.asarray(get_label_quality_scores_per_class(labels, certain))
    doubtful = per_label[:-2, : scores.shape[1]] < DOUBT
    rows = np.flatnonzero(doubtful.any(1))
    rows = rows[np.argsort(quality[rows], kind="stable")]
    return Mistakes(rows, quality[rows], doubtful[rows] & positive[rows], doubtful[rows] & ~positive[rows])


def _for_cleanlab(scores: Floats, positive: Bools, known: Bools) -> tuple[list[list[int]], Floats]:
    """Labels and scores as cleanlab takes them, with two rows more.

    It knows no unknown labels: a negative with score 0 is beyond doubt. It fails where nothing or everything is
    positive: the last two rows have all labels and none, beyond doubt too. It wants two labels or more: a single one
    stands there twice.
    """
    certain = np.where(known, scores, 0)
    certain = np.concatenate([certain, np.ones_like(certain[:1]), np.zeros_like(certain[:1])])
    given = np.concatenate([positive, np.ones_like(positive[:1]), np.zeros_like(positive[:1])])
    if certain.shape[1] == 1:
        certain, given = certain.repeat(2, axis=1), given.repeat(2, axis=1)
    return [np.flatnonzero(row).tolist() for row in given], certain


def check_cleanlab() -> None:
    """Raise ImportError unless cleanlab is installed."""
    if importlib.util.find_spec("cleanlab") is None:
        raise ImportError("Mislabelled pictures are found by cleanlab: pip install 'gkgnet-hf[report]'")


def check_new_file(path: Path, suffixes: Sequence[str]) -> None:
    """Raise FileNotFoundError if there is no folder to write into, and ValueError for another suffix."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"The file must end in {' or '.join(suffixes)}, got {path}")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} into")


def write_mistakes(
    path: str | os.PathLike[str],
    mistakes: Mistakes,
    dataset: Dataset,
    label_names: Sequence[str],
    targets: ArrayLike,
) -> Path:
    """Write a file that Label Studio imports, a task a picture, most likely mislabelled first.

    A CSV file has the columns image, label_quality, labels, labelled_not_seen and seen_not_labelled. In a JSON file
    each task also has the labels as choices of the field `labels`, to be corrected.

    Label Studio finds pictures on its own machine below the folder in LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT; paths
    here are those below `/`.

    Args:
        path: ends in .csv or .json.
        mistakes: of the dataset's N images.
        dataset: with image files of its own.
        label_names: L names.
        targets: (N, L) as in `find_mistakes`.

    Raises:
        FileNotFoundError: if there is no folder to write into.
        ValueError: for another suffix, or pictures that are no files.

    Example:

        write_mistakes("mistakes.json", find_mistakes(scores, targets), validation, names, targets)
    """
    path = Path(path)
    check_new_file(path, SUFFIXES)
    files = _files(dataset, mistakes.rows)
    positive = np.asarray(targets)[mistakes.rows] == 1

    def names(chosen: Bools) -> list[str]:
        return [label_names[label] for label in np.flatnonzero(chosen).tolist()]

    tasks = [
        {
            "image": f"/data/local-files/?d={quote(os.fsencode(os.path.abspath(file).lstrip('/')))}",
            "label_quality": round(float(quality), 4),
            "labels": names(present),
            "labelled_not_seen": names(absent),
            "seen_not_labelled": names(missing),
        }
        for file, quality, present, absent, missing in zip(
            files, mistakes.quality, positive, mistakes.absent, mistakes.missing, strict=True
        )
    ]
    text = _as_json(tasks) if path.suffix.lower() == ".json" else _as_csv(tasks)
    with written_whole(path.absolute().parent) as folder:
        (folder / path.name).write_text(text, encoding="utf-8")
    return path


def _files(dataset: Dataset, rows: NDArray[np.int64]) -> list[str]:
    paths, problems = image_files(dataset, repeated=False)
    files = [paths[row] for row in rows.tolist()]
    if without := sum(row in problems or not os.path.isfile(paths[row]) for row in rows.tolist()):
        raise ValueError(
            f"Label Studio reads picture files, and {counted(without, 'picture')} of the data have none of their own: "
            "gkgnet-hf data convert writes them"
        )
    return files


def _as_csv(tasks: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label_quality", "labels", "labelled_not_seen", "seen_not_labelled"])
    for task in tasks:
        writer.writerow(csv_cell(", ".join(cell) if isinstance(cell, list) else str(cell)) for cell in task.values())
    return text.getvalue()


def _as_json(tasks: list[dict[str, Any]]) -> str:
    return json.dumps(
        [
            {
                "data": task,
                "predictions": [
                    {
                        "model_version": "labels of the data set",
                        "score": task["label_quality"],
                        "result": [
                            {
                                "from_name": "labels",
                                "to_name": "image",
                                "type": "choices",
                                "value": {"choices": task["labels"]},
                            }
                        ],
                    }
                ],
            }
            for task in tasks
        ],
        indent=1,
    )
