"""From what a source says to a multi-label dataset: the one table that every reader gives, and its last steps."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Image, List, Value, concatenate_datasets
from datasets.fingerprint import generate_random_fingerprint
from numpy.typing import NDArray

from .cells import BLANK, NO, YES, is_blank, normal, object_features, read_answers, read_labels_column, whole_text
from .checks import BadImage, image_files, keep_rows, report_bad_images
from .columns import Roles, find_image_column, find_roles, split_of_rows
from .labels import NEGATIVE, POSITIVE, UNKNOWN, Labels, Unlabeled, is_multilabel, multilabel_features, stored_labels
from .options import ReadOptions
from .paths import files_in
from .picture_files import local_pictures, say_outside, with_column, with_safe_features
from .pictures import PictureFeature
from .places import Places
from .splits import SYNONYMS, split_kind, split_order
from .words import counted

SHAPE = ("image", "labels", "label_ids", "label_areas")
SplitNames = NDArray[np.str_] | None
MAX_LIST = 500_000_000  # bytes of a text file that lists pictures


@dataclass
class Annotations:
    """What a source says about N images: what every reader gives.

    Args:
        images: N rows with a column `image`, and columns of anything else that is known.
        labels: of the N images.
        unlabeled: what becomes of images about which nothing is said.
        declared: whether the label names are the data's own: a wanted name that they lack is unknown, else negative.
    """

    images: Dataset
    labels: Labels
    unlabeled: Unlabeled = "bad"
    declared: bool = True

    @classmethod
    def from_paths(
        cls, paths: Sequence[str | os.PathLike[str]], labels: Labels, unlabeled: Unlabeled = "bad", **columns: Any
    ) -> "Annotations":
        """Of N picture files, with further columns of N values each."""
        images = Dataset.from_dict({"image": [os.path.abspath(path) for path in paths], **columns})
        return cls(images.cast_column("image", PictureFeature()), labels, unlabeled)

    def select(self, keep: NDArray[np.bool_]) -> "Annotations":
        """The images where `keep` (N,) is true."""
        if keep.all():
            return self
        return replace(self, images=self.images.select(np.flatnonzero(keep)), labels=self.labels.select(keep))

    def finish(self, options: ReadOptions, split: str = "") -> Dataset:
        """The dataset of `multilabel_features`, without what cannot be used.

        Raises:
            ValueError: for bad rows with `on_bad_image="error"`; if no row is left.
        """
        labels = self.labels
        if options.none_label is not None:
            labels = labels.without(options.none_label)
            options.used.add("none_label")
        if options.labels is not None:
            wanted = [name for name in options.labels if name != options.none_label]
            labels = labels.arrange(wanted, UNKNOWN if self.declared else NEGATIVE)
        labels, keep = labels.settle("keep" if options.keep_unlabeled else self.unlabeled)
        if not keep.all():
            options.assume(f"images without any label are left out: {(~keep).sum():,} (--keep-unlabeled keeps them)")
        images, refused = local_pictures(self.images, keep, options)
        files, problems = image_files(images)
        problems = {row: problem for row, problem in (problems | refused).items() if keep[row]} | labels.problems
        bad = [BadImage(row, files[row], problems[row], split) for row in sorted(problems)]
        report_bad_images(bad, options.on_bad_image, options.bad_images_file)
        keep = keep.copy()
        keep[list(problems)] = False
        dataset = keep_rows(images, keep)
        say_outside([files[row] for row in np.flatnonzero(keep).tolist()], options)
        labels = labels.select(keep).sparser()
        if labels.num_rows > 1 and not labels.count(NEGATIVE).any():
            where = f"image of {split}" if split else "image"
            options.assume(f"warning: no label is negative on any {where}, so there is nothing to tell apart")
        features = multilabel_features(labels.names, areas=labels.areas is not None, rest=labels.rest)
        for name, column in labels.to_arrow().items():
            dataset = dataset.add_column(name, column, feature=features[name])
        return dataset


Splits = dict[str, Callable[[], Annotations]]  # name of a split → what reads it


def divide(annotations: Annotations, split_of: SplitNames = None) -> Splits:
    """The splits of one table of all images; `split_of` (N,) names the split of each row, None calls all `train`."""
    if split_of is None:
        return {"train": lambda: annotations}
    names = sorted({str(name) for name in split_of.tolist()}, key=split_order)
    return {name: (lambda name=name: annotations.select(split_of == name)) for name in names}  # type: ignore[misc]


def understand_splits(tables: dict[str, Dataset], options: ReadOptions, folder: Path | None = None) -> Splits:
    """The splits of the tables of a source, understood together: what a cell means in one it means in all.

    Args:
        tables: a table for each split, or one for all, of the name "", whose rows may say their split.
        options, folder: as for `understand`.
    """
    dataset, split_of = _together(tables)
    named = next(iter(tables)) if split_of is None else ""
    annotations, split_of = understand(dataset, options, folder, split_of, named)
    return divide(annotations, np.full(len(annotations.images), named or "train") if split_of is None else split_of)


def _together(tables: dict[str, Dataset]) -> tuple[Dataset, SplitNames]:
    """The rows of all tables, and the split of each where there are several."""
    datasets = list(tables.values())
    if len(datasets) == 1:
        return datasets[0], None
    split_of = np.repeat(list(tables), [len(dataset) for dataset in datasets])
    if all(dataset.features == datasets[0].features for dataset in datasets):
        return concatenate_datasets(datasets), split_of
    features = Features({name: feature for dataset in reversed(datasets) for name, feature in dataset.features.items()})
    try:
        arrow = pa.concat_tables(
            [dataset.data.table.replace_schema_metadata(None) for dataset in datasets], promote_options="permissive"
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"The tables of {', '.join(tables)} have columns of other types: {error}") from error
    features = Features({name: features[name] for name in arrow.column_names})
    info = DatasetInfo(features=features) if arrow.schema.types == features.arrow_schema.types else None
    return Dataset(arrow, info=info, fingerprint=generate_random_fingerprint()), split_of


def understand(
    dataset: Dataset,
    options: ReadOptions,
    folder: Path | None = None,
    split_of: SplitNames = None,
    split: str = "",
) -> tuple[Annotations, SplitNames]:
    """What the rows of a table say about images.

    Args:
        dataset: the rows of all splits, with columns of any names.
        options: what is known about them.
        folder: that paths in the table are relative to; None for paths that stay as they are.
        split_of: (N,) the split of each row, where the rows come from several.
        split: that all rows seem to come from; its folder is looked into before others.

    Returns:
        The annotations, a row for each image, and its split: from `split_of`, a column, or the folders in the paths.

    Raises:
        ValueError: if images or labels cannot be told.
    """
    dataset = dataset.with_format(None)
    roles, table = understand_columns(dataset, options)
    labels, declared, unlabeled = read_rows(table, dataset.features, roles, options)
    if roles.splits:
        said = split_of_rows(table, roles.splits)
        if split_of is not None:  # a column divides the training table further
            in_train = np.array([split_kind(name) == "train" for name in split_of.tolist()])
            said = np.where(in_train & (said != "train"), said, split_of)
        split_of = said
    renames = renamed_columns(dataset.features, roles)
    images = with_safe_features(dataset.select_columns(list(renames)).rename_columns(renames))
    feature = dataset.features[roles.image]
    if folder is not None and isinstance(feature, Value) and "string" in feature.dtype:
        cells = images["image"][:]
        paths = _find_pictures(cells, roles.image, folder, split_of, split, options)
        if split_of is None:
            split_of = split_of_lists(paths, folder, options)
        if split_of is None:
            split_of = split_of_paths(paths, folder, options)
        images = with_column(images, "image", pa.array(paths, pa.string()), Value("string"))
        if len(set(paths)) < len(paths):
            alone = _one_label_each(roles, table, labels, options)
            images, labels, split_of = _one_row_each(images, cells, paths, labels, alone, split_of, options)
    images = images.cast_column("image", PictureFeature(mode=getattr(feature, "mode", None)))
    return Annotations(images, labels, unlabeled, declared), split_of


def understand_columns(dataset: Dataset, options: ReadOptions) -> tuple[Roles, pa.Table]:
    """What each column is, and the columns that are read here, as they are stored: all but images."""
    features = dataset.features
    light = [
        column for column, feature in features.items() if not isinstance(feature, Image) and not _is_binary(feature)
    ]
    table = dataset.select_columns(light).with_format("arrow")[:]
    image = find_image_column(features, table, options.image_column)
    options.used |= {"image_column", "label_column"}
    if is_multilabel(features) and options.label_column is None:
        labels = [column for column in SHAPE[1:] if column in features]
        return Roles(image, labels), table
    return find_roles(features, table, options, image, options.label_column, options.labels), table


def read_rows(
    table: pa.Table, features: Features, roles: Roles, options: ReadOptions
) -> tuple[Labels, bool, Unlabeled]:
    """The labels of rows, whether their names are the data's own, and what becomes of rows without any."""
    if roles.joined:
        cells = zip(*(table[column].to_pylist() for column in roles.labels), strict=True)
        lists = [[whole_text(cell) for cell in row if not is_blank(cell)] or None for row in cells]
        joined = pa.chunked_array([pa.array(lists, pa.list_(pa.string()))])
        name = ", ".join(roles.labels)
        return *read_labels_column(name, joined, List(Value("string")), options.labels, options), "bad"
    if len(roles.labels) > 1 and not roles.answers:
        vectors = Dataset(table.select(roles.labels)).cast(Features({name: features[name] for name in roles.labels}))
        return stored_labels(vectors), True, "bad"
    if roles.answers:
        return read_answers({column: table[column] for column in roles.labels}, options), True, "bad"
    column = roles.labels[0]
    labels, declared = read_labels_column(column, table[column], features[column], options.labels, options)
    if roles.confidence is not None:
        labels = _with_confidence(labels, table[roles.confidence], roles.confidence, options)
    if roles.negatives is not None:
        labels = _with_negatives(labels, table[roles.negatives], features[roles.negatives], roles.negatives, options)
    return labels, declared, "drop" if object_features(features[column]) is not None else "bad"


def renamed_columns(features: Features, roles: Roles) -> dict[str, str]:
    """Column that stays → its name beside the columns of the shape."""
    replaced = set(roles.labels) if roles.answers else set(SHAPE) & set(roles.labels)
    names = {c: f"original_{c}" if c in SHAPE else c for c in features if c not in replaced}
    return names | {roles.image: "image"}


def _with_confidence(labels: Labels, column: pa.ChunkedArray, name: str, options: ReadOptions) -> Labels:
    """The same with the answer that another column gives to the label of each row."""
    cells = [normal(cell) for cell in column.to_pylist()]
    strange = next((cell for cell in cells if cell not in YES | NO | BLANK), None)
    if strange is not None:
        raise ValueError(
            f"Column {name!r} says {strange!r} of the label of its row, expected 1 (positive) or 0 (negative); drop "
            "the column if it does not say so"
        )
    answers = np.array([POSITIVE if cell in YES else NEGATIVE if cell in NO else UNKNOWN for cell in cells], np.int8)
    options.assume(f"column {name!r} says whether the label of its row is there (1) or not (0); the others are unknown")
    values = np.where(labels.values == POSITIVE, answers[labels.rows], labels.values)
    return replace(labels, values=values, rest=UNKNOWN if (answers == NEGATIVE).any() else NEGATIVE)


def _with_negatives(labels: Labels, column: pa.ChunkedArray, feature: Any, name: str, options: ReadOptions) -> Labels:
    """The same with the labels that another column lists as negative; all others are unknown."""
    absent = read_labels_column(name, column, feature, labels.names, options)[0].arrange(labels.names, NEGATIVE)
    negative = absent.values == POSITIVE
    return Labels.from_cells(
        labels.num_rows,
        labels.names,
        np.concatenate([labels.rows, absent.rows[negative]]),
        np.concatenate([labels.ids, absent.ids[negative]]),
        np.concatenate([labels.values, np.zeros(int(negative.sum()), dtype=np.int8)]),
        rest=UNKNOWN,
        silent=labels.silent & absent.silent,
        problems=labels.problems | absent.problems,
    )


def _find_pictures(
    cells: Sequence[str | None], column: str, folder: Path, split_of: SplitNames, split: str, options: ReadOptions
) -> list[str | None]:
    places = Places(folder, options.image_dir, options.image_suffix)
    if split_of is None:
        paths = places.find(cells, column, split or None)
    else:
        found = np.array([None] * len(cells), dtype=object)
        for split in dict.fromkeys(split_of.tolist()):
            rows = np.flatnonzero(split_of == split).tolist()
            found[rows] = places.find([cells[row] for row in rows], column, split)
        paths = found.tolist()
    for sentence in places.sentences:
        options.assume(sentence)
    return paths


def split_of_paths(paths: Sequence[str | None], folder: Path, options: ReadOptions) -> SplitNames:
    """The split of each picture where all stand in folders that are named like splits, and there are several."""
    root = f"{os.path.abspath(folder)}{os.sep}"
    names: dict[str, str | None] = {}
    split_of = []
    for path in paths:
        parent = os.path.dirname(path or "").removeprefix(root)
        if parent not in names:
            names[parent] = next((part for part in parent.split(os.sep) if split_kind(part)), None)
        split_of.append(names[parent])
    if None in split_of or len({split_kind(str(name)) for name in split_of}) < 2:
        return None
    options.assume(f"the folders of the pictures divide them: {', '.join(sorted(map(str, set(split_of))))}")
    return np.array(split_of)


def split_of_lists(paths: Sequence[str | None], folder: Path, options: ReadOptions) -> SplitNames:
    """The split of each picture where text files list those of each, as ChestX-ray14's `train_val_list.txt`.

    A picture that several files list is of the last of training, validation and test.
    """
    names = [os.path.basename(path or "") for path in paths]
    known = {*names, *(os.path.splitext(name)[0] for name in names)}
    listed: dict[str, tuple[Path, str]] = {}
    for file in files_in(folder, "*.txt"):
        words = set(re.split(r"[\W\d_]+", file.stem.lower()))
        kind = next((kind for kind, synonyms in SYNONYMS.items() if words & set(synonyms)), None)
        if kind is None or file.stat().st_size > MAX_LIST:
            continue
        lines = [line.strip() for line in file.read_text("utf-8", errors="replace").splitlines() if line.strip()]
        entries = [os.path.basename(line.replace("\\", "/")) for line in lines]
        if entries and all(entry in known for entry in entries):
            for entry in entries:
                if entry not in listed or split_order(kind) > split_order(listed[entry][1]):
                    listed[entry] = file, kind
    if not listed:
        return None
    rest = "unlisted" if any(kind == "train" for _, kind in listed.values()) else "train"
    found = [listed.get(name) or listed.get(os.path.splitext(name)[0]) for name in names]
    files = sorted({file.name for file, _ in listed.values()})
    options.assume(f"{', '.join(files)} divide the pictures")
    if rest == "unlisted" and (count := found.count(None)):
        options.assume(f"warning: pictures in none of these files are the split unlisted: {count:,}")
    return np.array([rest if entry is None else entry[1] for entry in found])


def _one_row_each(
    images: Dataset,
    cells: Sequence[str | None],
    paths: Sequence[str | None],
    labels: Labels,
    alone: NDArray[np.bool_],
    split_of: SplitNames,
    options: ReadOptions,
) -> tuple[Dataset, Labels, SplitNames]:
    """One row for each image: of rows that are `alone`, (N,) of one name each, all labels are put together, else the
    rows of an image must agree."""
    splits = [""] * len(cells) if split_of is None else split_of.tolist()
    first: dict[Any, int] = {}
    group_of = np.empty(len(paths), dtype=np.int64)
    for row, key in enumerate(zip(paths, splits, strict=True)):
        group_of[row] = first.setdefault(key if key[0] else row, len(first))
    in_splits = Counter(key[0] for key in first if isinstance(key, tuple))
    if several := [path for path, count in in_splits.items() if count > 1]:
        options.assume(
            f"warning: {counted(len(several), 'image')} in more than one split, such as {os.path.basename(several[0])}"
        )
    if len(first) == len(paths):
        return images, labels, split_of
    _, keep = np.unique(group_of, return_index=True)
    repeated = np.bincount(group_of)[group_of] > 1
    spellings = {(group, cells[row]) for row, group in enumerate(group_of.tolist())}
    if alone[repeated].all() and len(spellings) == len(first):
        options.assume(
            f"{len(paths):,} rows name {counted(len(first), 'image')}: the labels of one image are put together"
        )
        merged = labels.group(group_of, len(first))
    else:
        merged = labels.take(keep)
        contents: dict[int, tuple] = {}
        ends = np.searchsorted(labels.rows, np.arange(len(paths) + 1))
        for row, group in enumerate(group_of.tolist()):
            cell = slice(ends[row], ends[row + 1])
            content = (labels.ids[cell].tobytes(), labels.values[cell].tobytes())
            if contents.setdefault(group, content) != content:
                raise ValueError(
                    f"{cells[row]} stands in rows {keep[group]} and {row}, with other labels: leave one of them, or "
                    "write all its labels in one row"
                )
        options.assume(f"rows that name the image of another row are merged with it: {len(paths) - len(first):,}")
    return images.select(keep), merged, None if split_of is None else split_of[keep]


def _one_label_each(roles: Roles, table: pa.Table, labels: Labels, options: ReadOptions) -> NDArray[np.bool_]:
    """(N,) whether the cell of a row is one name, code or id, as where each image and label has a row."""
    column = table[roles.labels[0]]
    if roles.answers or len(roles.labels) > 1 or pa.types.is_nested(column.type):
        return np.zeros(len(table), dtype=bool)
    names = {normal(name) for name in (*labels.names, *(options.lookup or ()), options.none_label)}
    is_name = {cell: normal(cell) in names or normal(cell).isdigit() for cell in column.unique().to_pylist()}
    return np.array([is_name[cell] for cell in column.to_pylist()], dtype=bool)


def _is_binary(feature: Any) -> bool:
    return (isinstance(feature, Value) and "binary" in feature.dtype) or (
        isinstance(feature, dict) and "bytes" in feature
    )
