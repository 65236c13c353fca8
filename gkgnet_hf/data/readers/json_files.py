"""JSON files: a list of objects, or a mapping from pictures to their labels."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..annotations import Splits, understand_splits
from ..columns import find_image_column
from ..options import ReadOptions
from ..places import HIDDEN
from .tables import rows_to_dataset, split_name


def read_json(path: Path, options: ReadOptions) -> Splits | None:
    """A JSON file of pictures and labels, or the only one of a folder, or one for each split."""
    files = json_files(path)
    tables: dict[str, Dataset] = {}
    unread = []
    for file in files:
        try:
            rows = as_rows(load_json(file))
            find_image_column(rows.features, rows.data.table, options.image_column)
        except ValueError as error:
            unread.append(f"{file.name}: {error}")
            continue
        split = split_name(file.stem) or ""
        if split in tables:
            raise ValueError(f"{path} has several JSON files of pictures and labels; name the one to read")
        tables[split] = rows
    if not tables:
        if path.is_file() and unread:
            raise ValueError(f"{path} cannot be read: {unread[0]}")
        return None
    return understand_splits(tables, options, path.parent if path.is_file() else path)


def json_files(path: Path) -> list[Path]:
    """The JSON file that a path is, or those of a folder."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" else []
    return [file for file in sorted(path.glob("*.json")) if not HIDDEN.search(file.name)]


def load_json(file: Path) -> Any:
    """The content of a file; ValueError if it is no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from error


def as_rows(content: Any) -> Dataset:
    """The rows of a list of objects, of a mapping from pictures to labels, or of columns as pandas writes them."""
    if isinstance(content, dict):
        lists = [
            value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        if len(lists) == 1 and not any(
            isinstance(value, (dict, list)) for value in content.values() if value is not lists[0]
        ):
            content = lists[0]
        elif content and all(isinstance(value, list) for value in content.values()) and _is_columns(content):
            content = [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
        elif content and all(isinstance(value, dict) for value in content.values()):
            keys = list(content)
            numbered = all(key.isdigit() for key in keys) and [int(k) for k in keys] == list(range(len(keys)))
            has_names = all({"image", "file_name", "filename", "path"} & value.keys() for value in content.values())
            if numbered and not has_names and all(len(v) == len(content) for v in content.values()):
                raise ValueError("it is a mapping of numbers")
            content = [value if has_names else {"file_name": key, **value} for key, value in content.items()]
        elif content and all(isinstance(value, (list, str, type(None))) for value in content.values()):
            content = [{"file_name": key, "labels": value} for key, value in content.items()]
    if not isinstance(content, list) or not content:
        raise ValueError("it is neither a list of objects nor a mapping from pictures to labels")
    return rows_to_dataset(content)


def _is_columns(content: dict[str, list]) -> bool:
    names = {name.lower() for name in content}
    return len({len(values) for values in content.values()}) == 1 and bool(
        names & {"image", "file_name", "filename", "path", "file", "img"}
    )
