"""Any dataset of the datasets library, whole or as a stream, as a multi-label dataset."""

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, IterableDataset

from .annotations import read_rows, renamed_columns, understand, understand_columns
from .cells import ANSWERS, BLANK, answer_values, cell_counts, dtype
from .checks import BadImage, image_problems, report_bad_images
from .columns import Roles
from .labels import NEGATIVE, POSITIVE, UNKNOWN, Unlabeled, multilabel_features
from .options import ReadOptions
from .picture_files import safe_feature, stream_pictures
from .pictures import PictureFeature

logger = logging.getLogger(__name__)

ROWS_AHEAD = 100  # of a stream, to see how its labels are written


def to_multilabel(dataset: Dataset | IterableDataset, **options: Any) -> Dataset | IterableDataset:
    """Bring any dataset into the shape of `multilabel_features`, without decoding an image.

    Labels are understood as a list of names, of ids or of ClassLabel; a multi-hot vector, or a column per label, with
    answers (1, 0, −1, yes, no, x, nothing …); names in one text cell; lists that are written as text; one ClassLabel,
    id or name; or objects (`{"category": [...], "area": [...], "bbox": [...]}` with boxes (x, y, width, height), or a
    list of such structs), of which an image may have several of a label, or none: then it is left out. Lists of
    integers that can be both vectors and ids are ids, as `[0, 1]` in every row.

    A bad row is one with an unknown label, with nothing about its labels, with another value than an answer, or without
    an image file. Columns that are not used stay; if one stands in the way its name gets the prefix `original_`.

    Args:
        dataset: one split. A stream is read 100 rows ahead to see how the labels are written, must say its label names
            or be given them, and gets no `label_areas`; with `on_bad_image="skip"` every image is decoded once more,
            and the rows left out are counted in the log.
        **options: the fields of `ReadOptions`.

    Raises:
        ValueError: for bad rows with `on_bad_image="error"`; if the columns cannot be told or read; if no row is left.
        TypeError: if this is not one split of a dataset.

    >>> from gkgnet_hf.data import label_names
    >>> animals = Dataset.from_dict({"image": [{"bytes": b"..."}] * 2, "tags": ["dog, cat", "cat"]})
    >>> animals = to_multilabel(animals.cast_column("image", Image()))
    >>> first = animals.select_columns("labels")[0]
    >>> label_names(animals), first["labels"].tolist()
    (['cat', 'dog'], [1.0, 1.0])
    """
    read = ReadOptions(**options)
    if isinstance(dataset, IterableDataset):
        result: Dataset | IterableDataset = stream_multilabel(dataset, read)
    elif isinstance(dataset, Dataset):
        annotations, _ = understand(dataset, read)
        result = annotations.finish(read)
    else:
        raise TypeError(f"to_multilabel reads one split of a dataset, got {type(dataset).__name__}")
    for sentence in read.assumptions:
        logger.info("%s", sentence)
    return result


def stream_multilabel(stream: IterableDataset, options: ReadOptions) -> IterableDataset:
    """The same of a stream, row by row as it is read."""
    first = _first_rows(stream)
    stream = stream if stream.features is not None else stream.cast(first.features)
    features = stream.features
    roles, table = understand_columns(first, options)
    labels, declared, unlabeled = read_rows(table, features, roles, options)
    if options.labels is None and not declared:
        raise ValueError(
            f"Column {roles.labels[0]!r} does not say its label names and a stream is not read ahead: pass labels"
        )
    names = [name for name in options.labels or labels.names if name != options.none_label]
    column = roles.labels[0]
    if roles.answers:
        cells = {cell for name in roles.labels for cell in cell_counts(table[name])}
        options = replace(options, values=answer_values(cells & (ANSWERS | BLANK), options))
    elif not roles.joined and dtype(features[column]) == "string" and options.separator is None:
        counts = cell_counts(table[column])
        separation = options.separation(column, list(counts), list(counts.values()))
        options = replace(options, separator=separation.separator)
    renames = renamed_columns(features, roles)
    shown = PictureFeature(mode=getattr(features[roles.image], "mode", None))
    extras = {new: safe_feature(features[old]) for old, new in renames.items()} | {"image": shown}
    shape = multilabel_features(names, extras=extras)
    encoded = stream.decode(False)
    if not isinstance(features[roles.image], Image):
        encoded = encoded.cast_column(roles.image, Image(decode=False))
    batches = _Batches(roles, features, renames, names, declared, unlabeled, options)
    rows = encoded.map(batches, batched=True, batch_size=ROWS_AHEAD, with_indices=True, remove_columns=list(features))
    return rows.cast(shape)


@dataclass
class _Batches:
    """Function for a batched `IterableDataset.map` whose images are not decoded: batches of the multi-label shape."""

    roles: Roles
    features: Features
    renames: dict[str, str]
    names: list[str]
    declared: bool
    unlabeled: Unlabeled
    options: ReadOptions

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        light = {name: self.features[name] for name in self.roles.labels}
        if self.roles.confidence:
            light[self.roles.confidence] = self.features[self.roles.confidence]
        table = Dataset.from_dict({name: batch[name] for name in light}, Features(light)).data.table
        try:
            labels, _, _ = read_rows(table, Features(light), self.roles, self.options)
        except ValueError as error:
            raise ValueError(f"rows {indices[0]} to {indices[-1]}: {error}") from error
        if self.options.none_label in labels.names:
            labels = labels.without(str(self.options.none_label))
        labels = labels.arrange(self.names, UNKNOWN if self.declared else NEGATIVE)
        labels, keep = labels.settle("keep" if self.options.keep_unlabeled else self.unlabeled)
        columns: dict[str, list[Any]] = {new: batch[old] for old, new in self.renames.items()}
        columns["image"], problems = stream_pictures(columns["image"], self.options)
        problems = problems | labels.problems
        if self.options.on_bad_image == "skip":
            kept = [row for row in np.flatnonzero(keep).tolist() if row not in problems]
            found = image_problems([columns["image"][row] for row in kept])
            problems = {kept[place]: problem for place, problem in found.items()} | problems
        files = [(image or {}).get("path") or "" for image in columns["image"]]
        bad = [BadImage(indices[row], files[row], problems[row]) for row in sorted(problems)]
        report_bad_images(bad, self.options.on_bad_image, self.options.bad_images_file)
        keep = keep.copy()
        keep[list(problems)] = False
        dense = labels.dense()
        columns["labels"] = [{"ids": np.flatnonzero(row), "values": row[np.flatnonzero(row)]} for row in dense]
        columns["label_ids"] = [np.flatnonzero(row == POSITIVE).tolist() for row in dense]
        rows = np.flatnonzero(keep).tolist()
        return {name: [values[row] for row in rows] for name, values in columns.items()}


def _first_rows(stream: IterableDataset) -> Dataset:
    encoded = stream.decode(False) if stream.features is not None else stream
    rows = list(encoded.take(ROWS_AHEAD))
    if not rows:
        raise ValueError("The stream has no rows")
    return Dataset.from_list(rows, features=stream.features)
