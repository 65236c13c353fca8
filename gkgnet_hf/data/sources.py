"""One entrance to every kind of source."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from .archives import unpacked
from .checks import image_suffixes
from .options import ReadOptions
from .paths import read_path
from .readers import READERS
from .readers.hub_datasets import is_saved, read_hub, stream_hub
from .readers.tables import TABLES
from .splits import choose_split, held_out, split_order, take_slice

logger = logging.getLogger(__name__)

# No name on the Hub ends so.
LOCAL_SUFFIXES = (".json", ".xml", ".txt", ".zip", ".tar", ".gz", ".tgz", ".yaml", ".yml")
DESCRIPTIONS = ("readme", "license", "licence")


class MultiLabelSource:
    """A data set of any kind, opened: its splits, and what was assumed where nothing was said.

    Args:
        source: a path or a name on the Hub.
        dataset_config_name: configuration of a dataset on the Hub.
        streaming: read rows of a dataset on the Hub as they are needed.
        **options: the fields of `ReadOptions`.

    Raises:
        FileNotFoundError: if there is nothing at a path, or no such dataset on the Hub.
        ConnectionError: if the Hub cannot be reached.
        ValueError: if it is not known how to read it; the message says what was seen and what to do.

    Example:

        source = MultiLabelSource("photos")
        train, validation = source.load("train"), source.load("validation")
        print(source.splits, source.assumptions)
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        dataset_config_name: str | None = None,
        streaming: bool = False,
        **options: Any,
    ):
        self.source = source
        self.options = ReadOptions(**options)
        self.streaming = streaming
        path = local_path(source)
        if path is not None and not path.is_dir():
            read_path(str(path))  # no pipe or device
        self.folder = Path(str(source)) if path is None else path
        self.format = "datasets"
        self.options.repo = str(source) if path is None else None
        self._readers: dict[str, Callable[..., Any]] = {}
        if streaming:
            if path is not None and (path.is_file() or is_saved(path) or self._read_files(path)):
                raise ValueError(f"{source} is on disk already and cannot be streamed")
            self._readers = stream_hub(source, dataset_config_name, self.options)
        elif path is None or is_saved(path) or not self._read_files(path):
            with one_error(f"{source} cannot be read"):
                self._readers = read_hub(source if path is None else path, dataset_config_name, self.options)
        if path is not None:
            self.options.folder = self.folder.parent if self.folder.is_file() else self.folder

    def _read_files(self, path: Path) -> bool:
        path = only_folder(unpacked(path))
        for name, read in READERS.items():
            with one_error(f"{path} cannot be read as {name}"):
                splits = read(path, self.options)
            if splits:
                self.format, self._readers, self.folder = name, splits, path
                return True
        return False

    @property
    def splits(self) -> list[str]:
        """The names of the splits that the source has itself."""
        return sorted(self._readers, key=split_order)

    @property
    def assumptions(self) -> list[str]:
        """What was assumed so far, a sentence each."""
        return self.options.assumptions

    def split_read(self, split: str | None) -> str:
        """The split that `load` reads for this one, in words: its own name, or the share of which split it is.

        >>> choose_split("validation", ["train", "test"], "birds")
        ('train', 'validation')
        """
        wanted, _, _ = (split or "").partition("[")
        name, share = choose_split(wanted or None, self.splits, self.source)
        return {None: name, "train": f"nine tenths of {name}", "validation": f"a held-out tenth of {name}"}[share]

    def load(
        self, split: str | None = None, labels: Sequence[str] | None = None, hold_out: bool = True
    ) -> Dataset | IterableDataset:
        """One split as a dataset of `multilabel_features`.

        Args:
            split: as in `load_multilabel_dataset`.
            labels: the names wanted, in this order; default those of the options.
            hold_out: without a validation split, keep a tenth of the training images from `train`.
        """
        wanted, bracket, part = (split or "").partition("[")
        name, share = choose_split(wanted or None, self.splits, self.source)
        options = self.options if labels is None else replace(self.options, labels=labels)
        if self.streaming:
            if bracket or share == "validation":
                raise ValueError(f"{self.source} is streamed: split {split!r} is not one that it has as a whole")
            return self._readers[name](options)
        with one_error(f"{self.source} cannot be read as {self.format}"):
            dataset = self._readers[name]().finish(options, name if len(self.splits) > 1 else "")
        self.options.say_unused()
        if share is not None and (hold_out or share == "validation"):
            out = held_out(dataset, self.folder)
            self.options.assume(
                f"{self.source} has no validation split: {out.sum():,} of {len(out):,} images of {name} are held out"
            )
            dataset = dataset.select(np.flatnonzero(out if share == "validation" else ~out))
        return take_slice(dataset, f"[{part}") if bracket else dataset


@contextmanager
def one_error(what: str) -> Iterator[None]:
    """Make a ValueError of whatever a file of unexpected content makes a reader raise."""
    try:
        yield
    except (ValueError, OSError, ImportError):
        raise
    except MemoryError as error:
        raise ValueError(f"{what}: there is not enough memory") from error
    except Exception as error:  # TypeError, KeyError, RecursionError, those of pyarrow, …
        raise ValueError(f"{what}: {type(error).__name__} {' '.join(str(error).split())[:300]}".rstrip()) from error


def load_multilabel_dataset(
    source: str | os.PathLike[str],
    split: str | None = None,
    *,
    dataset_config_name: str | None = None,
    streaming: bool = False,
    **options: Any,
) -> Dataset | IterableDataset:
    """A multi-label dataset from whatever the source is; the table in docs/data.md shows every format.

    Args:
        source: a path, or a name on the Hub.
        split: `train`, `validation`, `test`, one of its kind (`val`, `train2014`), or the source's own name for it;
            with a slice in the syntax of datasets, as `train[:100]`. Without a validation split about a tenth of the
            training images, always the same, is `validation`, and `train` the rest. None or `all` for a source that
            is not divided: all rows.
        dataset_config_name: configuration of a dataset on the Hub.
        streaming: read rows of a dataset on the Hub as they are needed; a stream is neither sliced nor divided.
        **options: the fields of `ReadOptions`: `labels` (the names wanted, in this order; for validation data give it
            those of the training data), `image_column`, `label_column`, `separator`, `blank`, `minus_one`,
            `none_label`, `ignore_case`, `image_dir`, `image_suffix`, `encoding`, `keep_unlabeled`, `on_bad_image`,
            `bad_images_file`, `allow_urls`.

    Returns:
        A dataset with the features of `multilabel_features`, an `IterableDataset` when streaming. What was assumed is
        logged.

    Raises:
        FileNotFoundError: if there is nothing at a path, or no such dataset on the Hub.
        ConnectionError: if the Hub cannot be reached.
        ValueError: for a split that is not there or not told; if the source cannot be understood; for bad rows.

    Example:

        train = load_multilabel_dataset("photos", "train")
        validation = load_multilabel_dataset("photos", "validation", labels=label_names(train))
    """
    opened = MultiLabelSource(source, dataset_config_name, streaming, **options)
    dataset = opened.load(split)
    for sentence in opened.assumptions:
        logger.info("%s", sentence)
    return dataset


def load_folder(path: str | os.PathLike[str], split: str | None = None, **options: Any) -> Dataset:
    """A multi-label dataset from a folder or file on disk, which is never taken for a name on the Hub.

    Args:
        path: the folder or file.
        split, options: as in `load_multilabel_dataset`.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if it is not known how to read it, or it has no such split; for bad rows.

    Example:

        train, validation = load_folder("photos", "train"), load_folder("photos", "validation")
    """
    return load_multilabel_dataset(Path(path).expanduser().absolute(), split, **options)


def local_path(source: str | os.PathLike[str]) -> Path | None:
    """The path of a source on disk, None for a name on the Hub.

    Raises:
        FileNotFoundError: for a path where nothing is.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    name = str(source)
    if (
        not isinstance(source, str)
        or name.startswith((".", "/", "~"))
        or path.suffix.lower() in (*TABLES, *LOCAL_SUFFIXES, *image_suffixes())
        or len(path.parts) > 2
        or (len(path.parts) == 2 and path.parent.exists())
    ):
        raise FileNotFoundError(f"There is no file or folder {source}")
    return None


def only_folder(path: Path) -> Path:
    """The folder that a folder holds and nothing else, as archives leave them; a README does not count."""
    while path.is_dir():
        inside = [p for p in path.iterdir() if not p.name.startswith((".", "__MACOSX"))]
        inside = [p for p in inside if not p.name.lower().startswith(DESCRIPTIONS)]
        if len(inside) != 1 or not inside[0].is_dir():
            break
        path = inside[0]
    return path
