"""One entrance to every kind of source."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from huggingface_hub.errors import HFValidationError

from .checks import OnBadImage
from .coco import find_coco, image_folders, load_coco
from .columns import to_multilabel
from .folders import TABLES, find_table, folder_splits, is_folder_source, load_folder
from .hub_datasets import load_splits
from .splits import choose_split, take_share, take_slice
from .voc import find_voc_root, is_voc, load_voc, voc_splits

Options = dict[str, Any]
Loaders = dict[str, Callable[[], Any]]  # split → what loads it


def load_multilabel_dataset(
    source: str | os.PathLike[str],
    split: str | None = None,
    *,
    dataset_config_name: str | None = None,
    labels: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    separator: str | None = None,
    keep_unlabeled: bool = False,
    on_bad_image: OnBadImage = "error",
    bad_images_file: str | os.PathLike[str] | None = None,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """A multi-label dataset from whatever the source is.

    - a `.json` file in COCO's format, a folder with `annotations/instances_*.json`, or with `_annotations.coco.json` or
      `annotations.json`, itself or in folders `train`, `valid` and `test`: COCO, with the images beside the file, or
      beside its folder in `<split>`, `images/<split>` or `images` (`load_coco`);
    - a Pascal VOC folder (`load_voc`); `train` then means trainval and `validation` test, if there are both;
    - a table, or a folder of images with a metadata table or a folder per label (`load_folder`);
    - else anything that `datasets.load_dataset` reads: a name on the Hub, a folder as it would be there, or one that
      `save_to_disk` wrote (`load_splits`, then `to_multilabel`).

    Args:
        source: the path or name.
        split: `train`, `validation`, `test`, one that is called or begins like it (`val`, `train2014`), or the
            source's own name for it; with a slice in the syntax of datasets, as `train[:100]`. Without a validation
            split the test split is `validation`; without both about a tenth of the rows, always the same
            images (`take_share`), and `train` the rest. None or `all` for a source that is not divided: all rows.
        dataset_config_name: configuration of a dataset on the Hub.
        labels: the names wanted, in this order; for validation data give it those of the training data.
        image_column, label_column, separator: how tables and datasets are read, see `to_multilabel`.
        keep_unlabeled: keep images without a label.
        on_bad_image, bad_images_file: what happens to rows that cannot be used, see `report_bad_images`.
        streaming: read rows of a dataset on the Hub as they are needed; a stream is neither sliced nor divided.

    Returns:
        A dataset with the features of `multilabel_features`, an `IterableDataset` when streaming.

    Raises:
        FileNotFoundError: if there is nothing at a path, or no such dataset on the Hub.
        ConnectionError: if the Hub cannot be reached.
        ValueError: for a split that is not there or not told; as the functions named above.

    Example:

        train = load_multilabel_dataset("photos", "train")
        validation = load_multilabel_dataset("photos", "validation", labels=label_names(train))
    """
    options: Options = {
        "labels": labels,
        "keep_unlabeled": keep_unlabeled,
        "on_bad_image": on_bad_image,
        "bad_images_file": bad_images_file,
    }
    columns: Options = {"image_column": image_column, "label_column": label_column, "separator": separator}
    path = _local_path(source)
    loaders = None if path is None else _local_loaders(path, options, columns)
    if loaders is None:
        try:
            splits = load_splits(path or str(source), dataset_config_name, streaming)
        except (FileNotFoundError, ConnectionError, HFValidationError) as error:
            if path is not None:
                raise
            kind = ConnectionError if isinstance(error, ConnectionError) else FileNotFoundError
            raise kind(f"There is no folder {source} here, and on the Hub: {error}") from error
        loaders = {name: partial(to_multilabel, data, **options, **columns) for name, data in splits.items()}
    elif streaming:
        raise ValueError(f"{source} is on disk already and cannot be streamed")
    wanted, bracket, part = (split or "").partition("[")
    name, share = choose_split(wanted or None, list(loaders), source)
    dataset = loaders[name]()
    if streaming and (bracket or share == "validation"):
        raise ValueError(f"{source} is streamed: split {split!r} is not one that it has as a whole")
    if share and not streaming:
        dataset = take_share(dataset, share, source)
    return take_slice(dataset, f"[{part}") if bracket else dataset


def _local_path(source: str | os.PathLike[str]) -> Path | None:
    """The path of a source on disk, None for a name on the Hub."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    name = str(source)
    if (
        not isinstance(source, str)
        or name.startswith((".", "/", "~"))
        or path.suffix in (*TABLES, ".json")
        or len(path.parts) > 2
        or (len(path.parts) == 2 and path.parent.exists())
    ):
        raise FileNotFoundError(f"There is no file or folder {source}")
    return None


def _local_loaders(path: Path, options: Options, columns: Options) -> Loaders | None:
    """What loads each split of a source that this package reads itself; None for one that datasets reads."""
    if (files := find_coco(path)) and not find_table(path):
        return {s: partial(load_coco, image_folders(file, s), file, **options) for s, file in files.items()}
    if is_voc(path):
        root = find_voc_root(path)
        splits = {split: split for split in voc_splits(root)}
        if splits.keys() >= {"trainval", "test"}:
            splits |= {"train": "trainval", "validation": "test"}
        return {name: partial(load_voc, root, split, **options) for name, split in splits.items()}
    if path.is_file() or is_folder_source(path):
        load = partial(load_folder, path, **options, **columns)
        return {split: partial(load, split=split) for split in folder_splits(path)} or {"train": load}
    return None
