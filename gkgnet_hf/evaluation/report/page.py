"""The report: numbers first, then one HTML file made from them, which fetches nothing."""

import math
import os
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from datasets import Dataset
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray
from transformers import BaseImageProcessor

from ...data.words import counted, shown
from ...files import written_whole
from ...modeling.configuration_gkgnet import __version__
from ...modeling.modeling_gkgnet import GKGNetForImageClassification
from ...predict import label_thresholds, model_label_names, predict_scores
from ..metrics import Counts, Floats, by_label, check_probabilities
from ..results import Evaluation, evaluate_scores, label_areas
from . import plots
from .bootstrap import Comparison, bootstrap_average_precision, compare, interval, mean_interval
from .curves import STEPS, Calibration, calibration, precision_recall_curve, score_histograms
from .label_pairs import confusion, together
from .mistakes import SUFFIXES, Mistakes, check_cleanlab, check_new_file, find_mistakes
from .worst_pictures import MOST_EXPLAINED, MOST_PICTURES, Pictures, Thumbnail, Worst, worst_pictures

MOST_PAIRS = 12
MOST_MISTAKES = 24
LONGEST_NAME = 100


@dataclass(frozen=True, eq=False)
class ReportNumbers:
    """What a report shows of an evaluation on N images with L labels. Metrics are in percent; NaN is undefined.

    Attributes:
        map_interval: (2,) that covers 95 % of the mAPs of samples of the images.
        label_intervals: (L, 2) likewise, of AP.
        positives, negatives: (L, STEPS + 1) histograms of scores, as in `score_histograms`.
        hits, predicted: (L,) right decisions, and all, at the model's thresholds.
        curves: L times (P, 2), recall and precision.
        calibrations: of L labels.
        pooled_curve, pooled_calibration: the same of all labels together.
        together: (L, L) images that have both labels.
        confusion: (L, L) images where the first is missed and the second is predicted but not there.
        missed: (L,) images where a label is missed.
        worst: pictures that the model is most wrong about.
        mistakes: pictures that are likely mislabelled.
    """

    map_interval: Floats
    label_intervals: Floats
    positives: Counts
    negatives: Counts
    hits: Counts
    predicted: Counts
    curves: list[NDArray[np.float64]]
    calibrations: list[Calibration]
    pooled_curve: NDArray[np.float64]
    pooled_calibration: Calibration
    together: Counts
    confusion: Counts
    missed: Counts
    worst: list[Worst]
    mistakes: Mistakes


def report_numbers(evaluation: Evaluation) -> ReportNumbers:
    """Everything that a report shows and `Evaluation` does not have already.

    >>> from gkgnet_hf.evaluation import evaluate_scores
    >>> scores, targets = np.array([[0.9, 0.2], [0.1, 0.8]]), np.array([[1, 0], [0, 1]])
    >>> report_numbers(evaluate_scores(scores, targets, ["cat", "dog"])).together.tolist()
    [[1, 0], [0, 1]]
    """
    scores, positive, known = check_probabilities(evaluation.scores, evaluation.targets)
    predicted = known & (scores >= label_thresholds(evaluation.threshold, scores.shape[1]))
    samples = bootstrap_average_precision(scores, evaluation.targets)
    in_place, missed = confusion(scores, evaluation.targets, evaluation.threshold)
    positives, negatives = score_histograms(scores, evaluation.targets)
    labels = list(by_label(scores, positive, known))
    return ReportNumbers(
        map_interval=mean_interval(samples),
        label_intervals=interval(100 * samples),
        positives=positives,
        negatives=negatives,
        hits=(predicted & positive).sum(0),
        predicted=predicted.sum(0),
        curves=[precision_recall_curve(*label) for label in labels],
        calibrations=[calibration(*label) for label in labels],
        pooled_curve=precision_recall_curve(scores[known], positive[known]),
        pooled_calibration=calibration(scores[known], positive[known]),
        together=together(positive),
        confusion=in_place,
        missed=missed,
        worst=worst_pictures(scores, evaluation.targets, evaluation.threshold),
        mistakes=find_mistakes(scores, evaluation.targets),
    )


def write_report(
    path: str | os.PathLike[str],
    evaluation: Evaluation,
    pictures: Pictures | None = None,
    *,
    model: str = "model",
    dataset: str = "",
    other: tuple[str, Evaluation] | None = None,
) -> Path:
    """Write an evaluation as one HTML file that needs neither a network nor other files.

    Args:
        path: of the file.
        evaluation: of N images with L labels.
        pictures: the same images and the model, for thumbnails with heat maps; None for a report without pictures.
        model, dataset: names to show.
        other: name of another model, and its evaluation on the same images, to compare with.

    Raises:
        FileNotFoundError: if there is no folder to write into.
        ImportError: without matplotlib and cleanlab (`pip install 'gkgnet-hf[report]'`).
        ValueError: for a file that is no .html, or another evaluation of other images or labels.

    Example:

        evaluation = evaluate(model, processor, validation)
        write_report("report.html", evaluation, Pictures(validation, model, processor))
    """
    path = Path(path)
    check_files(path)
    comparison = None
    if other is not None:
        check_comparable(evaluation, other[1])
        comparison = compare(evaluation.scores, other[1].scores, evaluation.targets)
    page = _page(evaluation, report_numbers(evaluation), pictures, model, dataset, other, comparison)
    with written_whole(path.absolute().parent) as folder:
        (folder / path.name).write_text(page, encoding="utf-8")
    return path


def check_files(report: Path | None, mistakes: Path | None = None) -> None:
    """Raise what `write_report` and `write_mistakes` would raise for these files, before the long work."""
    check_cleanlab()
    if report is not None:
        check_new_file(report, (".html", ".htm"))
    if mistakes is not None:
        check_new_file(mistakes, SUFFIXES)


def evaluate_other(
    model: GKGNetForImageClassification,
    processor: BaseImageProcessor,
    dataset: Dataset,
    first: Evaluation,
    batch_size: int = 16,
    num_workers: int = 0,
) -> Evaluation:
    """Evaluate another model on the images of an evaluation, to compare both; its labels may stand in another order.

    Args:
        model, processor, batch_size, num_workers: as in `predict_scores`.
        dataset: what `first` was evaluated on.
        first: the evaluation of the first model.

    Raises:
        ValueError: if the model has other labels, as `check_same_labels` says; as in `evaluate`.
    """
    names = model_label_names(model)
    _check_same_names(first.label_names, names)
    order = [names.index(name) for name in first.label_names]
    thresholds = label_thresholds(model.config.decision_threshold, len(order))[order]
    scores = predict_scores(model, processor, dataset, batch_size, num_workers)[:, order]
    return evaluate_scores(scores, first.targets, first.label_names, thresholds.tolist(), label_areas(dataset))


def check_same_labels(first: GKGNetForImageClassification, second: GKGNetForImageClassification) -> None:
    """Raise ValueError unless two models have the same labels, in any order."""
    _check_same_names(model_label_names(first), model_label_names(second))


def _check_same_names(first: Sequence[str], second: Sequence[str]) -> None:
    if without := sorted(set(first) ^ set(second)):
        more = f" and {len(without) - 5:,} more" if len(without) > 5 else ""
        raise ValueError(
            f"Two models are compared on the same labels, but only one has {', '.join(map(shown, without[:5]))}{more}"
        )


def check_comparable(first: Evaluation, second: Evaluation) -> None:
    """Raise ValueError unless two evaluations have the same images, labels and targets."""
    if first.label_names != second.label_names:
        raise ValueError("Two models are compared on the same labels in the same order, these have others")
    if not np.array_equal(first.targets, second.targets, equal_nan=True):
        raise ValueError("Two models are compared on the same images, these were evaluated on others")


def _page(
    evaluation: Evaluation,
    numbers: ReportNumbers,
    pictures: Pictures | None,
    model: str,
    dataset: str,
    other: tuple[str, Evaluation] | None,
    comparison: Comparison | None,
) -> str:
    names = [_shown(name) for name in evaluation.label_names]
    thumbnails = _thumbnails(pictures, numbers)
    curve, curve_frame = plots.curve_plot(numbers.pooled_curve)
    calibration_svg, calibration_frame = plots.calibration_plot(numbers.pooled_calibration)
    script = _text("page.js")
    sections = {
        "labels": names,
        "rows": _label_rows(evaluation, numbers, names),
        "overall": _overall(evaluation),
        "sizes": {name.removeprefix("mAP_"): value for name, value in (evaluation.size_metrics or {}).items()},
        "curve": Markup(curve),
        "calibration": Markup(calibration_svg),
        "pooled_error": numbers.pooled_calibration.error,
        "pairs": _pairs(numbers.together, names),
        "confusions": _confusions(numbers, names),
        "worst": _worst(numbers.worst, thumbnails, names) if pictures is not None else None,
        "comparison": _comparison(evaluation, other, comparison, names),
        "mistakes": _mistakes(numbers.mistakes, thumbnails, evaluation, names),
    }
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "count": "{:,}".format, "counted": counted}
    return environment.from_string(_text("page.html")).render(
        **sections,
        evaluation=evaluation,
        numbers=numbers,
        model=_shown(model),
        dataset=_shown(dataset),
        version=__version__,
        steps=STEPS,
        most_pictures=MOST_PICTURES,
        most_explained=MOST_EXPLAINED,
        num_shown=len({worst.label for worst in numbers.worst}),
        num_mistaken=int(((numbers.missed > 0) | (numbers.predicted > numbers.hits)).sum()),
        data=_for_script(evaluation, numbers, names, {"curve": curve_frame, "calibration": calibration_frame}),
        style=Markup(_text("page.css")),
        script=Markup(script),
        script_hash=b64encode(sha256(script.encode()).digest()).decode("ascii"),
    )


def _thumbnails(pictures: Pictures | None, numbers: ReportNumbers) -> dict[int, Thumbnail]:
    if pictures is None:
        return {}
    wanted: dict[int, list[int]] = {}
    for found in numbers.worst:
        labels = wanted.setdefault(found.row, [])
        if found.label not in labels:
            labels.append(found.label)
    for row in numbers.mistakes.rows[:MOST_MISTAKES].tolist():
        wanted.setdefault(row, [])
    return pictures.thumbnails(wanted)


def _label_rows(evaluation: Evaluation, numbers: ReportNumbers, names: Sequence[str]) -> list[dict[str, Any]]:
    thresholds = label_thresholds(evaluation.threshold, len(names))
    columns = {name: values.tolist() for name, values in evaluation.per_label.items()}
    return [
        {
            **{name: values[label] for name, values in columns.items()},
            "name": name,
            "threshold": float(thresholds[label]),
            "interval": numbers.label_intervals[label].tolist(),
        }
        for label, name in enumerate(names)
    ]


def _overall(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    found = {"threshold 0.5": evaluation.metrics}
    if evaluation.fitted_metrics:
        found["the model's thresholds"] = evaluation.fitted_metrics
    rows = {}
    for words, metrics in found.items():
        for top, suffix in (("", ""), (", top 3", "_top3")):
            rows[words + top] = {name: metrics[name + suffix] for name in ("CP", "CR", "CF1", "OP", "OR", "OF1")}
    return rows


def _pairs(pairs: Counts, names: Sequence[str]) -> dict[str, Any]:
    totals = np.diag(pairs)
    upper = np.triu(pairs, k=1)
    shares = plots.share_of_row(pairs, totals)
    rows = [
        {"a": names[a], "b": names[b], "count": count, "of_a": 100 * shares[a, b], "of_b": 100 * shares[b, a]}
        for a, b, count in _largest(upper)
    ]
    chosen = plots.most_active(pairs)
    plot = _square(plots.heat_map, shares, pairs, names, chosen, "images with this label", "also have this one")
    return {"rows": rows, "plot": plot, "shown": len(chosen)}


def _confusions(numbers: ReportNumbers, names: Sequence[str]) -> dict[str, Any]:
    rows = [
        {"missed": names[a], "predicted": names[b], "count": count, "of": int(numbers.missed[a])}
        for a, b, count in _largest(numbers.confusion)
    ]
    chosen = plots.most_active(numbers.confusion)
    shares = plots.share_of_row(numbers.confusion, numbers.missed)
    plot = _square(plots.heat_map, shares, numbers.confusion, names, chosen, "missed", "predicted, but not there")
    return {"rows": rows, "plot": plot, "shown": len(chosen)}


def _largest(pairs: Counts) -> list[tuple[int, int, int]]:
    order = np.argsort(-pairs, axis=None, kind="stable")[:MOST_PAIRS]
    places = zip(*np.unravel_index(order, pairs.shape), strict=True)
    return [(int(a), int(b), int(pairs[a, b])) for a, b in places if pairs[a, b] > 0]


def _square(
    draw: Callable[..., str],
    shares: Floats,
    pairs: Counts,
    names: Sequence[str],
    chosen: list[int],
    rows: str,
    columns: str,
) -> Markup | None:
    if not chosen:
        return None
    part = np.ix_(chosen, chosen)
    return Markup(draw(shares[part], pairs[part], [names[label] for label in chosen], rows, columns))


def _worst(worst: Sequence[Worst], thumbnails: Mapping[int, Thumbnail], names: Sequence[str]) -> list[dict[str, Any]]:
    """The labels with pictures, those with most mistakes first; of each its pictures by kind."""
    found: dict[int, dict[str, Any]] = {}
    for picture in worst:
        label = found.setdefault(
            picture.label, {"number": picture.label, "name": names[picture.label], "wrong": [], "missed": []}
        )
        thumbnail = thumbnails[picture.row]
        label[picture.kind].append(
            {
                "thumbnail": thumbnail,
                "row": picture.row,
                "score": picture.score,
                "heat": thumbnail.heat.get(picture.label),
            }
        )
    return list(found.values())


def _comparison(
    evaluation: Evaluation,
    other: tuple[str, Evaluation] | None,
    comparison: Comparison | None,
    names: Sequence[str],
) -> dict[str, Any] | None:
    if other is None or comparison is None:
        return None
    name, second = other
    metrics = {
        metric: (evaluation.metrics[metric], second.metrics[metric])
        for metric in ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")
    }
    sizes = {
        f"mAP {size.removeprefix('mAP_')}": (value, (second.size_metrics or {}).get(size, math.nan))
        for size, value in (evaluation.size_metrics or {}).items()
    }
    difference = comparison.second - comparison.first
    order = [i for i in np.argsort(difference, kind="stable").tolist() if not np.isnan(difference[i])]
    rows = [
        {
            "name": names[i],
            "first": comparison.first[i],
            "second": comparison.second[i],
            "difference": difference[i],
            "interval": comparison.label_intervals[i].tolist(),
        }
        for i in order
    ]
    clear = sum(1 for row in rows if row["interval"][0] > 0 or row["interval"][1] < 0)
    return {
        "name": _shown(name),
        "metrics": metrics | sizes,
        "numbers": comparison,
        "rows": rows,
        "num_clear": clear,
        "by_chance": len(rows) * 0.05,
        "plot": Markup(plots.difference_plot(comparison, names)) if rows else None,
    }


def _mistakes(
    mistakes: Mistakes, thumbnails: Mapping[int, Thumbnail], evaluation: Evaluation, names: Sequence[str]
) -> dict[str, Any]:
    def listed(chosen: NDArray[np.bool_], image: int) -> list[dict[str, Any]]:
        """The labels of an image, those that the model contradicts most first."""
        scores, labels = evaluation.scores[image], np.flatnonzero(chosen)
        order = labels[np.argsort(-np.abs(scores[labels] - evaluation.targets[image, labels]), kind="stable")]
        return [{"name": names[label], "score": scores[label]} for label in order.tolist()]

    shown_rows = mistakes.rows[:MOST_MISTAKES].tolist()
    return {
        "count": len(mistakes.rows),
        "pictures": [
            {
                "thumbnail": thumbnails.get(image),
                "row": image,
                "quality": float(mistakes.quality[place]),
                "absent": listed(mistakes.absent[place], image),
                "missing": listed(mistakes.missing[place], image),
            }
            for place, image in enumerate(shown_rows)
        ],
    }


def _for_script(
    evaluation: Evaluation, numbers: ReportNumbers, names: Sequence[str], frames: Mapping[str, plots.Frame]
) -> dict[str, Any]:
    """What the page's script computes with; NaN becomes None."""
    rounded: Callable[[ArrayLike], Any] = partial(np.round, decimals=4)
    return {
        "steps": STEPS,
        "labels": list(names),
        "support": evaluation.per_label["positives"].tolist(),
        "thresholds": label_thresholds(evaluation.threshold, len(names)).tolist(),
        "hits": numbers.hits.tolist(),
        "predicted": numbers.predicted.tolist(),
        "positives": numbers.positives.tolist(),
        "negatives": numbers.negatives.tolist(),
        "curves": [rounded(curve).tolist() for curve in numbers.curves],
        "calibrations": [
            rounded(np.stack((found.means, found.frequencies), axis=1)[found.counts > 0]).tolist()
            for found in numbers.calibrations
        ],
        "errors": [None if math.isnan(found.error) else round(found.error, 4) for found in numbers.calibrations],
        "frames": {name: rounded(frame).tolist() for name, frame in frames.items()},
    }


def _percent(value: float, digits: int = 1) -> str:
    """A number in percent; a dash where it is undefined.

    >>> _percent(71.25), _percent(float("nan"))
    ('71.2', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _shown(name: str) -> str:
    text = shown(name)
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
