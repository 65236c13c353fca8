"""Datasets that the datasets library itself reads: on the Hub, as a folder would be there, or saved to disk."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    IterableDatasetDict,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub.errors import HFValidationError

from ..annotations import Annotations, Splits, understand, understand_splits
from ..options import ReadOptions
from ..to_multilabel import stream_multilabel


def read_hub(source: str | os.PathLike[str], config_name: str | None, options: ReadOptions) -> Splits:
    """The splits of a dataset of the datasets library; errors as in `MultiLabelSource`."""
    splits = {name: _without_shards(dataset) for name, dataset in load_splits(source, config_name).items()}
    path = Path(source)
    folder = path if path.is_dir() else None
    features = [dataset.features for dataset in splits.values()]
    if all(feature == features[0] for feature in features):
        return understand_splits(splits, options, folder)
    return {name: partial(_understand, dataset, options, folder) for name, dataset in splits.items()}


def stream_hub(
    source: str | os.PathLike[str], config_name: str | None, options: ReadOptions
) -> dict[str, Callable[[ReadOptions], IterableDataset]]:
    """What streams each split of a dataset of the datasets library."""
    splits = load_splits(source, config_name, streaming=True)
    return {name: partial(stream_multilabel, stream) for name, stream in splits.items()}


def load_splits(source: str | os.PathLike[str], config_name: str | None = None, streaming: bool = False) -> dict:
    """The splits of a dataset by their names, as they are.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as in `MultiLabelSource`.
    """
    path = Path(source)
    if not path.exists():
        try:
            dataset = load_dataset(str(source), config_name, streaming=streaming)
        except (FileNotFoundError, ConnectionError, HFValidationError) as error:
            kind = ConnectionError if isinstance(error, ConnectionError) else FileNotFoundError
            raise kind(f"There is no folder {source} here, and on the Hub: {error}") from error
    elif is_saved(path):
        if streaming:
            raise ValueError(f"{source} is on disk already and cannot be streamed")
        dataset = load_from_disk(str(source))
    else:
        try:
            dataset = load_dataset(str(source), config_name, streaming=streaming)
        except (DatasetNotFoundError, DatasetGenerationError, ValueError, OSError, TypeError) as error:
            cause = error.__cause__ or error
            raise ValueError(f"{source} cannot be read: {' '.join(str(cause).split())[:300]}") from error
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        return {str(name): split for name, split in dataset.items()}
    return {"train": dataset}


def _without_shards(dataset: Dataset) -> Dataset:
    """Of a WebDataset what its files say: the fields of `json` as columns, and no names of shards."""
    if "__key__" not in dataset.column_names:
        return dataset
    if isinstance(dataset.features.get("json"), dict):
        dataset = dataset.flatten()
        inner = {name: name.removeprefix("json.") for name in dataset.column_names if name.startswith("json.")}
        dataset = dataset.rename_columns({old: new for old, new in inner.items() if new not in dataset.column_names})
    renames = {"cls": "label", "txt": "text"}
    renames = {o: n for o, n in renames.items() if o in dataset.column_names and n not in dataset.column_names}
    return dataset.remove_columns(["__key__", "__url__"]).rename_columns(renames)


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _understand(dataset: Dataset, options: ReadOptions, folder: Path | None) -> Annotations:
    return understand(dataset, options, folder)[0]
