"""JSON files: a list of objects, or a mapping from pictures to their labels."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..annotations import Splits, understand_splits
from ..columns import find_image_column
from ..options import ReadOptions
from ..paths import files_in
from ..places import HIDDEN, looks_like_picture
from .tables import rows_to_dataset, split_name


def read_json(path: Path, options: ReadOptions) -> Splits | None:
    """A JSON file of pictures and labels, or the only one of a folder, or one for each split."""
    files = json_files(path)
    tables: dict[str, Dataset] = {}
    unread = []
    for file in files:
        try:
            found = {s: as_rows(part) for s, part in by_split(load_json(file), split_name(file.stem) or "").items()}
            for rows in found.values():
                find_image_column(rows.features, rows.data.table, options.image_column)
        except ValueError as error:
            unread.append(f"{file.name}: {error}")
            continue
        if found.keys() & tables.keys():
            raise ValueError(f"{path} has several JSON files of pictures and labels; name the one to read")
        tables |= found
    if not tables:
        if path.is_file() and unread:
            raise ValueError(f"{path} cannot be read: {unread[0]}")
        return None
    return understand_splits(tables, options, path.parent if path.is_file() else path)


def json_files(path: Path) -> list[Path]:
    """The JSON file that a path is, or those of a folder."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" else []
    return [file for file in files_in(path, "*.json") if not HIDDEN.search(file.name)]


def load_json(file: Path) -> Any:
    """The content of a file; ValueError if it is no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from error


def by_split(content: Any, split: str) -> dict[str, Any]:
    """What a file says of each split, where an object names them, else all of it as `split`.

    >>> by_split({"train": [{"image": "a.jpg"}], "val": [{"image": "b.jpg"}]}, "train").keys()
    dict_keys(['train', 'val'])
    """
    is_divided = isinstance(content, dict) and content and all(map(split_name, content))
    return {str(split_name(name)): part for name, part in content.items()} if is_divided else {split: content}


def as_rows(content: Any) -> Dataset:
    """The rows of a list of objects, columns as pandas writes them, or a mapping between pictures and labels."""
    rows = _rows(content) if isinstance(content, dict) and content else content
    if not isinstance(rows, list) or not rows:
        raise ValueError("it is neither a list of objects nor a mapping from pictures to labels")
    return rows_to_dataset(rows)


def _rows(content: dict[str, Any]) -> list[Any] | None:
    values = list(content.values())
    lists = [value for value in values if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1 and not any(isinstance(value, (dict, list)) for value in values if value is not lists[0]):
        return lists[0]
    if {"columns", "data"} <= content.keys():
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    if all(isinstance(value, list) for value in values):
        if _is_columns(content) and len({len(value) for value in values}) == 1:
            return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
        pictures = dict.fromkeys(item for value in values for item in value if isinstance(item, str))
        if pictures and all(map(looks_like_picture, pictures)) and not any(map(looks_like_picture, content)):
            return [
                {"file_name": p, "labels": [label for label in content if p in set(content[label])]} for p in pictures
            ]
    if all(isinstance(value, dict) for value in values):
        if _is_columns(content) and all(value.keys() == values[0].keys() for value in values):
            return [{name: value[row] for name, value in content.items()} for row in values[0]]
        has_names = all(map(_is_columns, values))
        return [value if has_names else {"file_name": key, **value} for key, value in content.items()]
    if all(isinstance(value, (list, str, type(None))) for value in values):
        return [{"file_name": key, "labels": value} for key, value in content.items()]
    return None


def _is_columns(content: dict[str, Any]) -> bool:
    """Whether one of the keys names a column of pictures."""
    return bool({name.lower() for name in content} & {"image", "file_name", "filename", "path", "file", "img"})
