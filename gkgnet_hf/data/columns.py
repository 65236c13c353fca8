"""Which column of a table holds the images, which the labels, which the split; the others are named."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Features, Image, LargeList, List, Value
from numpy.typing import NDArray

from .cells import (
    BLANK,
    NO,
    NUMBERS,
    YES,
    CellOptions,
    answer_share,
    cell_counts,
    dtype,
    is_blank,
    normal,
    object_features,
)
from .places import looks_like_picture
from .splits import SYNONYMS, split_kind

# Names of columns as `plain` writes them, the likeliest first.
IMAGE_COLUMNS = (
    "image", "images", "filename", "file", "filepath", "imagepath", "imagefile", "imagefilename", "imagename",
    "imageindex", "img", "imgpath", "imgname", "imgfile", "imgid", "imageid", "idcode", "fname", "path", "photo",
    "picture", "pic", "name", "id", "uid", "key", "url", "imageurl", "uri", "src",
)  # fmt: skip
LABEL_COLUMNS = frozenset((
    "label", "labels", "labelid", "labelids", "labelname", "labelnames", "classname", "classnames", "class", "classes",
    "classid", "classids", "category", "categories", "categoryid", "categoryids", "tag", "tags", "target", "targets",
    "genre", "genres", "annotation", "annotations", "attribute", "attributes", "attributeid", "attributeids", "objects",
    "choice", "choices", "finding", "findings", "findinglabels", "concept", "concepts", "diagnosis", "keywords",
    "groundtruth", "gt", "multilabel",
))  # fmt: skip
# With 0 and 1 alone a column of such a name may be one label, or hold the ids of two.
ONE_OR_ANSWER = frozenset((
    "label", "labels", "target", "targets", "class", "classes", "category", "annotation", "groundtruth", "gt",
))  # fmt: skip
SPLIT_COLUMNS = frozenset(("split", "splits", "set", "subset", "partition", "phase", "usage", "datasplit", "stage"))
FLAG_COLUMNS = {f"is{word}": kind for kind, words in SYNONYMS.items() for word in words}
CONFIDENCE_COLUMNS = frozenset((
    "confidence", "presence", "present", "answer", "value", "verified", "score", "ispositive", "positive",
))  # fmt: skip
# What stands in tables beside the labels: never taken for a label unless it is named.
OTHER_COLUMNS = frozenset((
    "fold", "folds", "kfold", "index", "idx", "sex", "gender", "age", "patient", "patientid", "patientgender",
    "patientage", "id", "uid", "width", "height", "annotationid", "annotator", "annotators", "createdat", "updatedat",
    "leadtime", "source", "radid", "viewposition", "followup", "verified", "reviewed", "checked",
    "xmin", "ymin", "xmax", "ymax", "x1", "y1", "x2", "y2", "x", "y", "w", "h", "bbox", "lat", "lon", "lng", "latitude",
    "longitude", "altitude", "year", "month", "day", "hour", "minute", "filesize",
))  # fmt: skip
# Words about a picture that are no labels: such a column is asked about where no other is left.
TEXT_COLUMNS = frozenset((
    "text", "caption", "captions", "description", "title", "prompt", "alt", "alttext", "comment", "comments", "author",
    "user", "username", "date", "time", "timestamp", "price", "rating", "score", "license", "ocr",
))  # fmt: skip
PARTITIONS = {"0": "train", "1": "validation", "2": "test"}
SplitColumns = dict[str, dict[str, str]]


class NoLabelsError(ValueError):
    """A table has no column that may hold labels."""


@dataclass
class Roles:
    """What each column of a table is.

    Args:
        image: column of the images or their paths.
        labels: columns of the labels.
        answers: whether each of them is one label, with answers in its cells.
        joined: whether each of them has one name in its cells, and together they have the labels of a row.
        confidence: column that says yes or no to the label of its row.
        negatives: column of the labels that are known to be absent, where all others are unknown.
        splits: column → the split that each of its cells means, as `normal` writes them; empty where it says nothing.
        others: the columns that are none of these.
    """

    image: str
    labels: list[str]
    answers: bool = False
    joined: bool = False
    confidence: str | None = None
    negatives: str | None = None
    splits: SplitColumns = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def plain(name: str) -> str:
    """A column's name in small letters and digits alone.

    >>> plain("Image Index"), plain("file_name")
    ('imageindex', 'filename')
    """
    return re.sub(r"[\W_]+", "", name.casefold())


def find_image_column(features: Features, table: pa.Table | None = None, image_column: str | None = None) -> str:
    """The column of the images.

    The one given; else the only Image column; else the only column whose cells end like pictures; else by its name.

    Raises:
        ValueError: if it cannot be told, or the one given holds no images.
    """
    if image_column is not None:
        if image_column not in features:
            raise ValueError(f"There is no column {image_column!r}, --image-column can be any of {shown(features)}")
        if not isinstance(features[image_column], Image) and not _encodes_image(features[image_column]):
            raise ValueError(f"Column {image_column!r} holds {features[image_column]}, neither images nor their paths")
        return image_column
    images = [column for column, feature in features.items() if isinstance(feature, Image)]
    if len(images) == 1:
        return images[0]
    candidates = images or [column for column, feature in features.items() if _encodes_image(feature)]
    shown_columns = set() if table is None else set(table.column_names)
    pictures = [c for c in candidates if c in shown_columns and _look_like_pictures(table[c])]  # type: ignore[index]
    if len(pictures) == 1:
        return pictures[0]
    named = sorted(
        (IMAGE_COLUMNS.index(plain(column)), column)
        for column in pictures or candidates
        if plain(column) in IMAGE_COLUMNS
    )
    if not named:
        raise ValueError(
            f"Cannot tell which of the columns {shown(features)} holds the images; name it with --image-column"
        )
    return named[0][1]


def find_roles(
    features: Features,
    table: pa.Table,
    options: CellOptions,
    image: str,
    label_column: str | Sequence[str] | None,
    names: Sequence[str] | None = None,
) -> Roles:
    """What each column is.

    Args:
        features: of all columns.
        table: the columns but that of the images, as they are stored; all rows or the first ones.
        options: that note what was assumed.
        image: the column of the images.
        label_column: the columns of the labels, if they are known.
        names: the label names wanted, if they are known.

    Raises:
        ValueError: if the labels cannot be told.
    """
    columns = [column for column in table.column_names if column != image]
    if label_column is not None:
        wanted = [label_column] if isinstance(label_column, str) else list(label_column)
        for column in wanted:
            if column not in features:
                raise ValueError(f"There is no column {column!r}, --label-column can be any of {shown(columns)}")
        splits = _find_splits([c for c in columns if c not in wanted], features, table, options)
        joined = len(wanted) > 1 and all(_has_names(column, features, table) for column in wanted)
        is_answers = (len(wanted) > 1 and not joined) or dtype(features[wanted[0]]) == "bool"
        is_answers |= _is_answer(wanted[0], features, table) == 1
        is_answers &= not isinstance(features[wanted[0]], ClassLabel)
        others = [c for c in columns if c not in wanted and c not in splits]
        _say_others(others, options)
        roles = Roles(image, wanted, is_answers, joined, splits=splits, others=others)
        if not is_answers:
            roles.confidence = _find_confidence(others, features, table)
        return roles
    empty = [column for column in columns if _is_empty(features[column], table[column])]
    index = [column for column in columns if column not in empty and _is_index(column, features, table)]
    splits = _find_splits([c for c in columns if c not in empty], features, table, options)
    rest = [c for c in columns if c not in empty and c not in index and c not in splits]
    named = [c for c in rest if plain(c) in LABEL_COLUMNS and _holds_labels(features[c])]
    shares = {c: _is_answer(c, features, table) for c in rest if plain(c) not in OTHER_COLUMNS | SPLIT_COLUMNS}
    answers = [c for c, share in shares.items() if share >= 0.5 and c not in named]
    if names:
        wanted = [name for name in names if name in rest and dtype(features[name])]
        if wanted and not named:
            answers = wanted
    numbered = [c for c in rest if re.sub(r"\d+$", "", plain(c)) in LABEL_COLUMNS and c not in answers]
    stems = {plain(c).rstrip("0123456789") for c in numbered}
    if len(numbered) > 1 == len(stems) and {dtype(features[c]) for c in numbered} <= {"string", "int", "float"}:
        options.assume(f"each of the columns {shown(numbered)} has one label of the image, or none")
        others = [c for c in rest if c not in numbered]
        _say_others(others, options)
        return Roles(image, numbered, joined=True, splits=splits, others=others)
    if named:
        return _named_roles(image, named, answers, rest, splits, features, table, options)
    if answers:
        return _answer_roles(image, answers, shares, features, table, empty, rest, splits, names, options)
    candidates = [c for c in rest if plain(c) not in OTHER_COLUMNS | SPLIT_COLUMNS]
    candidates = [c for c in candidates if _holds_labels(features[c])]
    if len(candidates) == 1:
        _check_only_column(candidates[0], features[candidates[0]], table[candidates[0]])
        options.assume(f"labels are read from column {candidates[0]!r}, the only one that is left")
        others = [c for c in rest if c != candidates[0]]
        _say_others(others, options)
        return Roles(image, candidates, splits=splits, others=others)
    if not candidates:
        there = [f"{column} (empty)" if column in empty else column for column in columns]
        filled = [column for column in columns if column not in empty]
        hint = f"--label-column {filled[-1]} reads it all the same" if filled else "write them in a column 'labels'"
        raise NoLabelsError(
            f"No column holds labels: beside the images ({image!r}) there are {shown(there) or 'none'}; {hint}"
        )
    raise ValueError(
        f"Cannot tell which of the columns {shown(rest)} holds the labels; name it with --label-column (several times "
        "where each label has its own column)"
    )


def _say_others(others: list[str], options: CellOptions) -> None:
    if others:
        options.assume(f"columns not read as labels: {shown(others)}")


def _check_only_column(column: str, feature: Any, cells: pa.ChunkedArray) -> None:
    """Stop where the one column that is left does not look like labels."""
    counts = cell_counts(cells) if dtype(feature) else Counter()
    filled = [cell for cell in counts if cell not in BLANK]
    divided = [set(re.split(r"[\s,;|/]+", cell)) for cell in filled]
    recurs = max(Counter(part for parts in divided for part in parts).values(), default=0) > 1
    all_differ = len(filled) >= 10 and max(counts[cell] for cell in filled) == 1
    if plain(column) in TEXT_COLUMNS:
        reason = "is named like text of another kind"
    elif any("://" in cell or looks_like_picture(cell) for cell in filled):
        reason = "holds addresses or paths"
    elif any(re.fullmatch(r"-?\d*\.\d*[1-9]\d*", part) for parts in divided for part in parts):
        reason = "holds numbers"
    elif all_differ and (not recurs or all(any(map(str.isdigit, parts)) for parts in divided)):
        reason = "has another value in each row"
    else:
        return
    raise ValueError(
        f"No column is named like labels, and column {column!r} {reason}: it holds "
        f"{', '.join(repr(cell[:40]) for cell in filled[:2])}. Pass --label-column {column} if these are the labels"
    )


def _named_roles(
    image: str,
    named: list[str],
    answers: list[str],
    rest: list[str],
    splits: SplitColumns,
    features: Features,
    table: pa.Table,
    options: CellOptions,
) -> Roles:
    """Where a column is named like labels."""
    named = _without_ids(named, table)
    confidence = _find_confidence([c for c in rest if c not in named], features, table)
    beside = [c for c in answers if c != confidence]
    if len(named) > 1:
        raise ValueError(f"The columns {shown(named)} may all hold the labels; name one with --label-column")
    column = named[0]
    if len(beside) > 1 or (beside and {normal(c) for c in beside} & cell_counts_safe(table[column], features[column])):
        raise ValueError(
            f"Column {column!r} may hold the labels, and so may the {len(beside)} columns {shown(beside)}: name them "
            f"with --label-column {column}, or --label-column {beside[0]} and so on, one for each"
        )
    if plain(column) in ONE_OR_ANSWER and _is_answer(column, features, table) == 1 and not confidence:
        raise ValueError(
            f"Column {column!r} holds {shown(sorted(cell_counts(table[column])))}: pass --label-column {column} if it "
            "is one label with answers, or write the names of the labels"
        )
    negatives = next(
        (c for c in rest if plain(c) == "negativelabels" and isinstance(features[c], (List, LargeList))), None
    )
    if negatives:
        options.assume(f"labels in column {negatives!r} are negative, those in neither column unknown")
    others = [c for c in rest if c not in (column, confidence, negatives)]
    options.assume(f"labels are read from column {column!r}")
    _say_others(others, options)
    return Roles(image, [column], confidence=confidence, negatives=negatives, splits=splits, others=others)


def _answer_roles(
    image: str,
    answers: list[str],
    shares: Mapping[str, float],
    features: Features,
    table: pa.Table,
    empty: list[str],
    rest: list[str],
    splits: SplitColumns,
    names: Sequence[str] | None,
    options: CellOptions,
) -> Roles:
    """Where each label has a column of its own."""
    others = [c for c in rest if c not in answers]
    counts = [c for c in others if c in shares and plain(c) not in TEXT_COLUMNS and not plain(c).endswith("id")]
    counts = [c for c in counts if _is_number(features[c], table[c])]
    if counts and not names:
        cells = sorted(cell for cell in cell_counts(table[counts[0]]) if cell not in NUMBERS | BLANK)
        raise ValueError(
            f"Column {counts[0]!r} stands beside columns of answers and holds other numbers, such as "
            f"{shown(cells[:2])}: write 0 and 1 if it is a label, take it out if it is none, or name the label columns "
            "with --label-column"
        )
    unexplained = [c for c in others if plain(c) not in OTHER_COLUMNS | SPLIT_COLUMNS]
    if len(answers) == 1 and unexplained and not names:
        raise ValueError(
            f"Only column {answers[0]!r} of {shown(rest)} holds answers (0 and 1): name the label columns with "
            "--label-column"
        )
    split = next((c for c in answers if _is_like_flag(c, table[c])), None)
    if split and not names:
        raise ValueError(
            f"Column {split!r} is named like a split and stands beside columns of answers: call it is_{split} if it "
            "divides the rows, or name the label columns with --label-column"
        )
    if len(answers) == 1:
        options.assume(f"there is one label, {answers[0]!r}, with answers in its column")
    else:
        options.assume(f"each of {len(answers)} columns is one label: {shown(answers)}")
    _say_others([*others, *(f"{c} (empty)" for c in empty if c)], options)
    return Roles(image, answers, True, splits=splits, others=others)


def _without_ids(named: list[str], table: pa.Table) -> list[str]:
    """Columns named like labels, without those that only number the names of another."""
    if len(named) < 2:
        return named
    scalar = [c for c in named if not pa.types.is_nested(table.schema.field(c).type)]
    for column in scalar:
        for other in scalar:
            if column == other or not plain(column).endswith(("id", "ids", "name", "names")):
                continue
            pairs = table.select([column, other]).group_by([column, other]).aggregate([])
            one_to_one = len(set(pairs[column].to_pylist())) == len(pairs) == len(set(pairs[other].to_pylist()))
            if one_to_one and plain(column).endswith(("id", "ids")):
                return _without_ids([c for c in named if c != column], table)
    return named


def cell_counts_safe(column: pa.ChunkedArray, feature: Any) -> set[str]:
    """The names that stand in a column of text, or that its ClassLabel declares."""
    if isinstance(feature, ClassLabel):
        return {normal(name) for name in feature.names}
    return set(cell_counts(column)) if dtype(feature) == "string" else set()


def _find_confidence(columns: Sequence[str], features: Features, table: pa.Table) -> str | None:
    return next((c for c in columns if plain(c) in CONFIDENCE_COLUMNS and _is_number(features[c], table[c])), None)


def _has_names(column: str, features: Features, table: pa.Table) -> bool:
    """Whether a column of text has neither answers nor numbers; it may be empty."""
    if _is_empty(features[column], table[column]):
        return True
    is_text = dtype(features[column]) == "string" and not isinstance(features[column], ClassLabel)
    return is_text and not _is_answer(column, features, table) and not _is_number(features[column], table[column])


def _is_number(feature: Any, column: pa.ChunkedArray) -> bool:
    return dtype(feature) in ("int", "float", "bool") or (
        dtype(feature) == "string" and all(re.fullmatch(r"-?[\d.]+|true|false|", cell) for cell in cell_counts(column))
    )


def _find_splits(columns: Sequence[str], features: Features, table: pa.Table, options: CellOptions) -> SplitColumns:
    """The columns that divide the rows: one that names splits, or one of 0 and 1 for each split.

    Raises:
        ValueError: for a column that says so of some rows alone.
    """
    splits: SplitColumns = {}
    for column in columns:
        name = plain(column)
        if name not in SPLIT_COLUMNS | FLAG_COLUMNS.keys() or not dtype(features[column]):
            continue
        cells = set(cell_counts(table[column]))
        if name in FLAG_COLUMNS:
            meaning = {cell: FLAG_COLUMNS[name] if cell in YES else "" for cell in cells & (YES | NO)}
        elif name == "partition" and cells <= PARTITIONS.keys():
            meaning = {cell: PARTITIONS[cell] for cell in cells}
        else:
            meaning = {cell: kind for cell in cells if (kind := split_kind(cell))}
        if meaning.keys() == cells:
            splits[column] = meaning
        elif meaning or cells <= PARTITIONS.keys():
            expected = "1 or 0" if name in FLAG_COLUMNS else "train, validation or test"
            raise ValueError(
                f"Column {column!r} seems to divide the rows but holds {shown(sorted(map(repr, cells)))}: write "
                f"{expected} in each row, or take the column out"
            )
    if splits:
        kinds = sorted(set(split_of_rows(table, splits).tolist()))
        words = "column {} divides" if len(splits) == 1 else "columns {} divide"
        options.assume(f"{words.format(', '.join(map(repr, splits)))} the rows: {', '.join(kinds)}")
    return splits


def split_of_rows(table: pa.Table, splits: SplitColumns) -> NDArray[np.str_]:
    """(N,) the split of each row; where no column says it, what is left: training, or validation beside `is_train`.

    Raises:
        ValueError: where columns contradict each other.
    """
    said = [[meaning[normal(cell)] for cell in table[column].to_pylist()] for column, meaning in splits.items()]
    rest = "validation" if any("train" in meaning.values() for meaning in splits.values()) else "train"
    split_of = []
    for row, kinds in enumerate(zip(*said, strict=True)):
        found = set(kinds) - {""}
        if len(found) > 1:
            raise ValueError(f"Row {row} is of several splits by the columns {shown(splits)}: {shown(sorted(found))}")
        split_of.append(found.pop() if found else rest)
    return np.array(split_of)


def _is_index(column: str, features: Features, table: pa.Table) -> bool:
    """Whether a column only numbers the rows, as pandas writes it without a name."""
    return plain(column).removeprefix("unnamed").isdigit() or (
        plain(column) in ("", "index", "idx") and dtype(features[column]) in ("string", "int", "float")
    )


def _is_empty(feature: Any, column: pa.ChunkedArray) -> bool:
    if dtype(feature) not in ("string", "float", "null", "int", "bool"):
        return False
    return all(map(is_blank, cell_counts(column)))


def _is_like_flag(column: str, cells: pa.ChunkedArray) -> bool:
    """Whether a column of answers is named like a split; `train` is a label too, which few images have."""
    if f"is{plain(column)}" not in FLAG_COLUMNS:
        return False
    counts = cell_counts(cells)
    return plain(column) != "train" or 2 * sum(counts[cell] for cell in YES) >= counts.total()


def _is_answer(column: str, features: Features, table: pa.Table) -> float:
    if not dtype(features[column]):
        return 0.0
    if dtype(features[column]) == "bool":
        return 1.0
    return answer_share(cell_counts(table[column]))


def _holds_labels(feature: Any) -> bool:
    if isinstance(feature, (List, LargeList)) and not isinstance(feature.feature, dict):
        feature = feature.feature
    return isinstance(feature, (ClassLabel, dict)) or bool(dtype(feature)) or object_features(feature) is not None


def _encodes_image(feature: Any) -> bool:
    if isinstance(feature, dict):
        return bool(feature) and feature.keys() <= {"bytes", "path"}
    return isinstance(feature, Value) and ("string" in feature.dtype or "binary" in feature.dtype)


def _look_like_pictures(column: pa.ChunkedArray) -> bool:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return False
    cells = [cell for cell in column[:100].to_pylist() if cell]
    return bool(cells) and 2 * sum(map(looks_like_picture, cells)) > len(cells)


def shown(names: Sequence[str] | Mapping[str, Any]) -> str:
    """Names for a message, the first ten."""
    names = list(names)
    return ", ".join(names[:10]) + (f", … ({len(names)} in all)" if len(names) > 10 else "")
