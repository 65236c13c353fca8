"""The one shape of a multi-label dataset, and how any dataset is brought into it."""

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, List, Value

from .checks import BadImage, OnBadImage, image_files, keep_rows, report_bad_images
from .label_columns import find_labels, is_multilabel
from .labels import Labels, Unlabeled
from .streaming import LabelStream

logger = logging.getLogger(__name__)

SHAPE = ("image", "labels", "label_ids", "label_areas")
IMAGE_COLUMNS = ("image", "file_name", "image_path", "path", "file", "filename")
ROWS_AHEAD = 100  # of a stream, to see how its labels are written


def multilabel_features(names: Sequence[str], areas: bool = False, extras: Mapping[str, Any] | None = None) -> Features:
    """The features of a multi-label dataset.

    Args:
        names: the L label names.
        areas: whether there is a column `label_areas`.
        extras: features of further columns.

    Returns:
        `image` (decoded when read), `labels` ((L,) float32; 1 there, 0 not there, −1 unknown), `label_ids` (the labels
        that are there, ascending, a list of ClassLabel with the names), with areas `label_areas` ((L,) float32; for
        each label that is there the area in pixels² of its largest object, else 0), and the extras.

    Raises:
        ValueError: if there are no names, or one stands there twice.

    >>> multilabel_features(["cat", "dog"])["label_ids"].feature.names
    ['cat', 'dog']
    """
    names = list(names)
    if not names:
        raise ValueError("There must be at least one label name")
    if len(set(names)) < len(names):
        raise ValueError(
            f"Label names must differ, {next(n for n in names if names.count(n) > 1)!r} stands there twice"
        )
    numbers = List(Value("float32"), length=len(names))
    shape = {"image": Image(), "labels": numbers, "label_ids": List(ClassLabel(names=names))}
    return Features(shape | ({"label_areas": numbers} if areas else {}) | dict(extras or {}))


def label_names(dataset: Dataset | IterableDataset) -> list[str]:
    """The label names of a multi-label dataset, in the order of its `labels`.

    Raises:
        ValueError: if the dataset has not the shape of `multilabel_features`.

    >>> features = Features({"label_ids": List(ClassLabel(names=["cat", "dog"]))})
    >>> label_names(Dataset.from_dict({"label_ids": [[0], [0, 1]]}, features))
    ['cat', 'dog']
    """
    feature = getattr((dataset.features or {}).get("label_ids"), "feature", None)
    if not isinstance(feature, ClassLabel):
        raise ValueError(
            f"The dataset must have a column label_ids of ClassLabel (to_multilabel makes it), it has "
            f"{list(dataset.features or [])}"
        )
    return list(feature.names)


def to_multilabel(
    dataset: Dataset | IterableDataset,
    *,
    labels: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    separator: str | None = None,
    keep_unlabeled: bool = False,
    on_bad_image: OnBadImage = "error",
    bad_images_file: str | os.PathLike[str] | None = None,
) -> Dataset | IterableDataset:
    """Bring any dataset into the shape of `multilabel_features`, without decoding an image.

    Labels are understood as a list of names, of ids or of ClassLabel; a multi-hot vector (1, 0, −1 unknown), or one
    column per label with 1, 0, and −1 or empty for unknown; names in one string with a separator; one ClassLabel, id
    or name; or objects (`{"category": [...], "area": [...], "bbox": [...]}` with boxes (x, y, width, height), or a list
    of such structs), of which an image may have several of a label, or none: then it is left out. Lists of integers
    that can be both are ids, as `[0, 1]` in every row.

    A bad row is one with an unknown or a repeated label, no label, another value than an answer, no image file, or that
    of a row before. Columns that are not used stay; if one stands in the way its name gets the prefix `original_`.

    Args:
        dataset: one split. A stream is read 100 rows ahead to see how the labels are written, must say its label names
            or be given them, and gets no `label_areas`; with `"skip"` every image is decoded once more, to see whether
            it can be, and the rows left out are counted in the log.
        labels: the names wanted, in this order. Labels with names of their own are sorted by name: what they lack is
            unknown everywhere, what is not wanted is a bad row; of columns with one label each only those are read.
            Ids and vectors without names are named in this order.
        image_column: column of the images or their paths; default the Image column, or a path column by its name.
        label_column: column of the labels, or several with one label each; default a guess by name, then all
            columns with at least half of their values 0, 1 or −1; the log says which are not.
        separator: between names in one string; default the first of `|`, `;`, `,` that occurs.
        keep_unlabeled: keep images without a label.
        on_bad_image, bad_images_file: what happens to bad rows, see `report_bad_images`.

    Raises:
        ValueError: for bad rows with `"error"`; if the columns cannot be told or read; if no row is left.
        TypeError: if this is not one split of a dataset.

    >>> animals = Dataset.from_dict({"image": [{"bytes": b"..."}], "tags": ["dog, cat"]}).cast_column("image", Image())
    >>> animals = to_multilabel(animals)
    >>> label_names(animals), animals.select_columns("labels")[0]
    (['cat', 'dog'], {'labels': [1.0, 1.0]})
    """
    if isinstance(dataset, IterableDataset):
        dataset = _typed(dataset)
        values = _first_rows(dataset).__getitem__
    elif isinstance(dataset, Dataset):
        dataset = dataset.with_format(None)
        values = partial(_column, dataset)
    else:
        raise TypeError(f"to_multilabel reads one split of a dataset, got {type(dataset).__name__}")
    features = dataset.features
    image = find_image_column(features, image_column)
    whole = isinstance(dataset, Dataset)
    others = Features({column: feature for column, feature in features.items() if column != image})
    reader = find_labels(others, values, names=labels, label_column=label_column, separator=separator, whole=whole)
    logger.info("Images are read from column %s, labels from %s", image, ", ".join(reader.columns))
    names = list(labels) if labels and reader.declared else None
    unlabeled: Unlabeled = "keep" if keep_unlabeled else "drop" if reader.objects else "bad"
    renames = _renames(features, image, reader.columns)
    shown = Image(mode=getattr(features[image], "mode", None))
    if isinstance(dataset, IterableDataset):
        stream = LabelStream(reader, renames, names, unlabeled, on_bad_image, bad_images_file)
        extras = {new: features[old] for old, new in renames.items()} | {"image": shown}
        shape = multilabel_features(names or reader.names, extras=extras)
        encoded = dataset.decode(False)
        if not isinstance(features[image], Image):
            encoded = encoded.cast_column(image, Image(decode=False))
        rows = encoded.map(
            stream, batched=True, batch_size=ROWS_AHEAD, with_indices=True, remove_columns=list(features)
        )
        return rows.cast(shape)
    found = reader.read({column: values(column) for column in reader.columns})
    dataset = dataset.select_columns(list(renames)).rename_columns(renames).cast_column("image", shown)
    return attach_labels(dataset, found, names, unlabeled, on_bad_image, bad_images_file)


def attach_labels(
    dataset: Dataset,
    labels: Labels,
    names: Sequence[str] | None = None,
    unlabeled: Unlabeled = "drop",
    on_bad_image: OnBadImage = "error",
    bad_images_file: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Give a dataset of images its label columns, and leave out what cannot be used.

    Args:
        dataset: with `image` and no column of labels.
        labels: one row for each of the dataset.
        names: the names wanted, see `to_multilabel`.
        unlabeled: what becomes of images without a label.
        on_bad_image, bad_images_file: what happens to bad rows, and to images whose file is missing.
    """
    labels, keep = labels.settle(names, unlabeled)
    features = multilabel_features(labels.names, areas=labels.areas is not None)
    for name, column in labels.to_arrow().items():
        dataset = dataset.add_column(name, column, feature=features[name])
    if not keep.all():
        logger.info("%d images without labels are left out", (~keep).sum())
    files, problems = image_files(dataset)
    problems = {row: problem for row, problem in problems.items() if keep[row]} | labels.problems
    bad = [BadImage(row, files[row], problems[row]) for row in sorted(problems)]
    report_bad_images(bad, on_bad_image, bad_images_file)
    keep[list(problems)] = False
    return keep_rows(dataset, keep)


def find_image_column(features: Features, image_column: str | None = None) -> str:
    """The column of the images: the one given, else the only Image column, else one of paths or bytes by its name."""
    if image_column is not None:
        if image_column not in features:
            raise ValueError(f"There is no column {image_column!r}, image_column can be any of {list(features)}")
        if not isinstance(features[image_column], Image) and not _encodes_image(features[image_column]):
            raise ValueError(f"Column {image_column!r} holds {features[image_column]}, neither images nor their paths")
        return image_column
    images = [column for column, feature in features.items() if isinstance(feature, Image)]
    if len(images) == 1:
        return images[0]
    candidates = images or [column for column, feature in features.items() if _encodes_image(feature)]
    named = [column for column in IMAGE_COLUMNS if column in candidates]
    if not named:
        raise ValueError(
            f"Cannot tell which of the columns {list(features)} holds the images; name it with image_column"
        )
    return named[0]


def _encodes_image(feature: Any) -> bool:
    if isinstance(feature, dict):
        return feature.keys() <= {"bytes", "path"}
    return isinstance(feature, Value) and ("string" in feature.dtype or "binary" in feature.dtype)


def _renames(features: Features, image: str, label_columns: Sequence[str]) -> dict[str, str]:
    """Column that stays → its name beside the columns of the shape."""
    replaced = {"labels", "label_ids", "label_areas"} & set(SHAPE if is_multilabel(features) else label_columns)
    names = {c: f"original_{c}" if c in SHAPE else c for c in features if c not in replaced}
    return names | {image: "image"}


def _column(dataset: Dataset, column: str) -> list:
    return dataset.select_columns(column)[:][column]


def _typed(stream: IterableDataset) -> IterableDataset:
    if stream.features is not None:
        return stream
    return stream.cast(Dataset.from_list(list(stream.take(ROWS_AHEAD))).features)


def _first_rows(stream: IterableDataset) -> dict[str, list]:
    rows = list(stream.decode(False).take(ROWS_AHEAD))
    if not rows:
        raise ValueError("The stream has no rows")
    return {column: [row[column] for row in rows] for column in rows[0]}
