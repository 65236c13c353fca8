"""Finding out how a dataset writes its labels, from its features and values."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from datasets import ClassLabel, Features, LargeList, List, Value

from .label_readers import (
    ANSWERS,
    Items,
    LabelReader,
    SetReader,
    VectorReader,
    list_items,
    object_items,
    one_item,
    separated_items,
)

logger = logging.getLogger(__name__)

LABEL_COLUMNS = ("labels", "label", "label_ids", "objects", "categories", "category", "classes", "class", "tags")
CATEGORY_KEYS = ("category", "category_id", "label", "labels", "class", "name")
SEPARATORS = "|;,"
Values = Callable[[str], list]  # of a column


def find_labels(
    features: Features,
    values: Values,
    *,
    names: Sequence[str] | None = None,
    label_column: str | Sequence[str] | None = None,
    separator: str | None = None,
    whole: bool = True,
) -> LabelReader:
    """Understand how the labels are written.

    Args:
        features: of the columns that may hold labels.
        values: gives the values of a column, of all rows or of the first ones.
        names, label_column, separator: as in `to_multilabel`.
        whole: whether `values` gives all rows, so that names can be derived from them.

    Raises:
        ValueError: if no column, or nothing in it, can be read as labels, or the names are not known.
    """
    if label_column is None and is_multilabel(features):
        columns = [column for column in ("labels", "label_areas") if column in features]
        return VectorReader(columns, features["label_ids"].feature.names, declared=True)
    columns = _find_columns(features, values, names, label_column)
    column, feature = columns[0], features[columns[0]]
    if len(columns) > 1 or _dtype(feature) == "bool":
        return VectorReader(columns, columns, declared=True, column_per_label=True)
    rows = values(column)
    is_multi_hot = _is_multi_hot(feature, rows)
    element, items = (None, list_items) if is_multi_hot else _items(column, feature, rows, separator)
    objects = _object_features(feature) is not None
    if isinstance(element, ClassLabel):
        return SetReader(columns, element.names, declared=True, items=items, objects=objects)
    if names is None and not whole:
        raise ValueError(f"Column {column!r} does not say its label names and a stream is not read ahead: pass labels")
    if is_multi_hot:
        return VectorReader(columns, _vector_names(column, feature, rows, names), declared=False)
    seen = {item for row in rows for item in items(row)[0]} - {None}
    return SetReader(columns, _item_names(column, seen, names), declared=False, items=items, objects=objects)


def is_multilabel(features: Features) -> bool:
    """Whether these are the features of a multi-label dataset already."""
    ids = getattr(features.get("label_ids"), "feature", None)
    return isinstance(ids, ClassLabel) and getattr(features.get("labels"), "length", -1) == len(ids.names)


def _find_columns(
    features: Features, values: Values, names: Sequence[str] | None, label_column: str | Sequence[str] | None
) -> list[str]:
    if label_column is not None:
        columns = [label_column] if isinstance(label_column, str) else list(label_column)
        missing = [column for column in columns if column not in features]
        if missing:
            raise ValueError(f"There is no column {missing[0]!r}, label_column can be any of {list(features)}")
        return columns
    lower = {column.lower(): column for column in features}
    for name in LABEL_COLUMNS:
        if name in lower and _holds_labels(features[lower[name]]):
            return [lower[name]]
    if names:
        answers = [name for name in names if _dtype(features.get(name))]
    else:
        answers = [column for column in features if _dtype(features[column]) and _are_answers(values(column))]
    if len(answers) > (0 if names else 1):
        others = [column for column in features if column not in answers]
        if others:
            empty = {column for column in others if _dtype(features[column]) and all(map(_is_blank, values(column)))}
            shown = (f"{column} (empty)" if column in empty else column for column in others)
            logger.info("Columns not read as labels: %s", ", ".join(shown))
        return answers
    raise ValueError(
        f"Cannot tell which of the columns {list(features)} holds the labels; "
        "name it with label_column (several where each label has its own)"
    )


def _items(column: str, feature: Any, rows: list, separator: str | None) -> tuple[Any, Callable[[Any], Items]]:
    """Feature of one label in a column, and what takes the labels out of a value."""
    items: Callable[[Any], Items]
    objects = _object_features(feature)
    if objects is not None:
        key = next(key for key in CATEGORY_KEYS if key in objects)
        has_boxes = isinstance(objects.get("bbox"), (List, LargeList))
        size = "area" if _dtype(objects.get("area")) else "bbox" if has_boxes else None
        element, items = objects[key], partial(object_items, key, size)
    elif isinstance(feature, (List, LargeList)):
        element, items = feature.feature, list_items
    elif _dtype(feature) == "string":
        guess = next((s for s in SEPARATORS if any(s in row for row in rows if row)), None)
        element, items = feature, partial(separated_items, separator or guess)
    else:
        element, items = feature, one_item
    if not isinstance(element, ClassLabel) and not _dtype(element):
        raise ValueError(f"Column {column!r} is {feature}, which cannot be read as labels; name another label_column")
    return element, items


def _holds_labels(feature: Any) -> bool:
    if isinstance(feature, (List, LargeList)) and not isinstance(feature.feature, dict):
        feature = feature.feature
    return isinstance(feature, ClassLabel) or bool(_dtype(feature)) or _object_features(feature) is not None


def _are_answers(values: list) -> bool:
    """Whether at least half of the cells with content are answers: the others are mistakes in a column of answers."""
    answers = [value in ANSWERS for value in values if not _is_blank(value)]
    return bool(answers) and 2 * sum(answers) >= len(answers)


def _is_blank(value: Any) -> bool:
    return value is None or value == "" or value != value


def _dtype(feature: Any) -> str:
    """`string`, `int`, `float`, `bool` or `null` for a plain value, empty for everything else."""
    dtype = feature.dtype if isinstance(feature, Value) else ""
    return next((kind for kind in ("string", "int", "float", "bool", "null") if kind in dtype), "")


def _object_features(feature: Any) -> dict[str, Any] | None:
    """The features of one object of a detection column, a struct of lists or a list of structs."""
    objects: dict[str, Any] = {}
    if isinstance(feature, (List, LargeList)) and isinstance(feature.feature, dict):
        objects = feature.feature
    elif isinstance(feature, dict):
        objects = {key: value.feature for key, value in feature.items() if isinstance(value, (List, LargeList))}
    return objects if any(key in objects for key in CATEGORY_KEYS) else None


def _is_multi_hot(feature: Any, rows: list) -> bool:
    """Whether lists are multi-hot vectors; integers without a fixed length can be ids too.

    Lists of 0, 1, −1 and nothing that are equally long, at least 2, are vectors as soon as one of them cannot be a set
    of ids: it has a −1, an empty value, or values that do not ascend. So `[0, 1]` in every row are ids.
    """
    if not isinstance(feature, (List, LargeList)):
        return False
    dtype = _dtype(feature.feature)
    if dtype in ("float", "bool"):
        return True
    rows = [row for row in rows if row is not None]
    if dtype != "int" or not all(set(row) <= {1, 0, -1, None} for row in rows):
        return False
    if getattr(feature, "length", -1) > 0:
        return True
    lengths = {len(row) for row in rows}
    return len(lengths) == 1 and max(lengths) > 1 and any(row != [0, 1] for row in rows)


def _vector_names(column: str, feature: Any, rows: list, names: Sequence[str] | None) -> list[str]:
    width = max(getattr(feature, "length", -1), *(len(row) for row in rows if row is not None), 0)
    if names is not None and len(names) != width:
        raise ValueError(f"Column {column!r} has vectors of {width} values, labels names {len(names)}")
    return list(names or map(str, range(width)))


def _item_names(column: str, seen: set, names: Sequence[str] | None) -> list[str]:
    if names is not None:
        return list(names)
    if not seen:
        raise ValueError(f"Column {column!r} has no label in any row")
    if isinstance(next(iter(seen)), str):
        return sorted(seen)
    count = int(max(seen)) + 1
    if count > 10 * len(seen) + 100:
        raise ValueError(
            f"Column {column!r} has {len(seen)} different ids, the largest {count - 1}: ids count the labels from 0; "
            "pass labels to say how many there are"
        )
    return [str(i) for i in range(count)]
