"""Datasets that the datasets library itself reads."""

import os
from pathlib import Path

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset, load_from_disk


def load_splits(
    source: str | os.PathLike[str], config_name: str | None = None, streaming: bool = False
) -> dict[str, Dataset | IterableDataset]:
    """The splits of a dataset by their names, as they are; `to_multilabel` brings one into shape.

    Args:
        source: name on the Hub, a folder as it would be uploaded there, or one that `save_to_disk` wrote.
        config_name: the configuration, if there are several.
        streaming: read rows as they are needed.

    Raises:
        FileNotFoundError: if there is no such dataset.
        ValueError: for a configuration that is missing or unknown; if a saved dataset is to be streamed.

    Example:

        train = to_multilabel(load_splits("user/name")["train"], label_column="tags")
    """
    if is_saved(Path(source)):
        if streaming:
            raise ValueError(f"{source} is on disk already and cannot be streamed")
        dataset = load_from_disk(str(source))
    else:
        dataset = load_dataset(str(source), config_name, streaming=streaming)
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        return {str(name): split for name, split in dataset.items()}
    return {"train": dataset}


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
