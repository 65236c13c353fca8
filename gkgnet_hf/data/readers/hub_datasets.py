"""Datasets that the datasets library itself reads: on the Hub, as a folder would be there, or saved to disk."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    IterableDatasetDict,
    config,
    load_dataset,
    load_from_disk,
)
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ..annotations import Annotations, Splits, understand, understand_splits
from ..options import ReadOptions
from ..paths import files_below
from ..to_multilabel import stream_multilabel
from .json_files import load_json
from .tables import is_nested_too_deeply
from .yaml_files import load_yaml


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
            _check_card(_hub_card(str(source)))
            dataset = load_dataset(str(source), config_name, streaming=streaming)
        except (FileNotFoundError, ConnectionError, HFValidationError) as error:
            kind = ConnectionError if isinstance(error, ConnectionError) else FileNotFoundError
            raise kind(f"There is no folder {source} here, and on the Hub: {error}") from error
    elif is_saved(path):
        if streaming:
            raise ValueError(f"{source} is on disk already and cannot be streamed")
        dataset = _load_saved(path)
    else:
        try:
            _check_folder(path)
            dataset = load_dataset(os.path.abspath(path), config_name, streaming=streaming)
        except Exception as error:  # each of the library's formats has its own
            cause = error.__cause__ or error
            raise ValueError(f"{source} cannot be read: {' '.join(str(cause).split())[:300]}") from error
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        return {str(name): split for name, split in dataset.items()}
    return {"train": dataset}


def _check_folder(path: Path) -> None:
    """Raise ValueError for a folder in which a name or a card sends the library anywhere else."""
    if path.is_dir():
        for card in (path / config.REPOCARD_FILENAME, path / config.REPOYAML_FILENAME):
            if card.exists():
                _check_card(card)
        for file in files_below(path):
            if "::" in str(file.relative_to(path)):
                raise ValueError(f"the library datasets would read {file} as a chain of addresses (::); rename it")
            if file.suffix in (".json", ".jsonl", ".ndjson") and is_nested_too_deeply(file):
                raise ValueError(f"{file} is nested too deeply")


def _hub_card(name: str) -> Path | None:
    try:
        return Path(hf_hub_download(name, config.REPOCARD_FILENAME, repo_type="dataset"))
    except (EntryNotFoundError, OSError, ValueError):  # the library says what is wrong
        return None


def _check_card(card: Path | None) -> None:
    """Raise ValueError if the metadata of a card name data outside the dataset."""
    if card is None:
        return
    text = card.read_text(encoding="utf-8")
    if card.suffix == ".md":
        block = REGEX_YAML_BLOCK.search(text)
        text = block.group(2) if block else ""
    try:
        configs = (load_yaml(text) or {}).get("configs") or []
        entries = [found.get(key) for found in configs for key in ("data_files", "data_dir")]
        named = [path for entry in entries for path in _paths_in(entry)]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"the metadata of {card.name} cannot be read: {error}") from error
    for path in named:
        if "://" in path or "::" in path or os.path.isabs(path) or ".." in path.replace("\\", "/").split("/"):
            raise ValueError(f"{card.name} names data outside the dataset: {path}")


def _paths_in(entry: Any) -> list[str]:
    """The paths of `data_files`: one, a list, or a list of objects with a split and a path, or a list of these."""
    if isinstance(entry, dict):
        entry = list(entry.values())
    found: list[Any] = []
    for item in entry if isinstance(entry, list) else [] if entry is None else [entry]:
        item = item.get("path") if isinstance(item, dict) else item
        found += item if isinstance(item, list) else [item]
    if strange := next((path for path in found if not isinstance(path, str)), None):
        raise ValueError(f"it names a {type(strange).__name__} as a path")
    return found


def _load_saved(path: Path) -> Dataset | DatasetDict:
    """A folder that `save_to_disk` wrote; ValueError if it names files elsewhere, or its arrays are damaged."""
    try:
        folders = {"": path}
        if (path / "dataset_dict.json").is_file():
            folders = {name: path / name for name in load_json(path / "dataset_dict.json")["splits"]}
        for name, folder in folders.items():
            files = [file["filename"] for file in load_json(folder / "state.json")["_data_files"]]
            if odd := next((text for text in (name, *files) if os.path.basename(text) != text or text == ".."), None):
                raise ValueError(f"it names {odd!r}, which is not in its folder")
        dataset = load_from_disk(os.path.abspath(path))
        for split in dataset.values() if isinstance(dataset, DatasetDict) else [dataset]:
            split.data.validate(full=True)  # pyarrow would read beyond the end of damaged arrays
        return dataset
    except Exception as error:
        raise ValueError(f"{path} is not what save_to_disk writes: {' '.join(str(error).split())[:300]}") from error


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
