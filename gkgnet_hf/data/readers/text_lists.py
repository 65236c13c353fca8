"""Text lists: a line for each picture, with its labels after it, as "a.jpg 1 0 1", "a.jpg 0,3" or "a.jpg cat dog"."""

import re
from dataclasses import replace
from pathlib import Path

from datasets import Dataset

from ..annotations import Splits, understand_splits
from ..options import ReadOptions
from ..paths import files_in
from ..places import HIDDEN, looks_like_picture, picture_suffixes
from .class_names import NAME_FILES, class_names_beside
from .tables import split_name


def read_text_lists(path: Path, options: ReadOptions) -> Splits | None:
    """A list, or those of a folder: one, or one named after each split."""
    if path.is_file():
        files = [path] if path.suffix.lower() in (".txt", ".lst", ".list") else []
    else:
        files = [f for f in files_in(path, "*.txt") if f.name not in NAME_FILES and not HIDDEN.search(f.name)]
    lists = {file: rows for file in files if (rows := _lines(file))}
    if not lists:
        if path.is_file() and files:
            raise ValueError(
                f"{path} is no list of pictures: its lines must begin with a picture and go on with its labels"
            )
        return None
    splits = [split_name(file.stem) or "" for file in lists]
    if len(set(splits)) < len(splits):
        raise ValueError(f"{path} has several lists: {', '.join(file.name for file in lists)}; name the one to read")
    root = path.parent if path.is_file() else path
    lookup = {str(number): name for number, name in (class_names_beside(root) or {}).items()}
    tables = {}
    for split, (file, rows) in zip(splits, lists.items(), strict=True):
        options.assume(f"{file.name} lists pictures and, after each, its labels")
        cells = {"image": [name for name, _ in rows], "labels": [_cell(text) for _, text in rows]}
        tables[split] = Dataset.from_dict(cells)
    return understand_splits(tables, replace(options, lookup=lookup), root)


def _lines(file: Path) -> list[tuple[str, str]] | None:
    """The picture and the rest of each line; None if this is no list of pictures with labels."""
    suffixes = "|".join(re.escape(suffix) for suffix in sorted(picture_suffixes(), key=len, reverse=True))
    pattern = re.compile(rf"^(.+?(?:{suffixes}))(?:[\s,;|]+(.*))?$", re.IGNORECASE)
    rows = []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return None
    for line in lines:
        if line.strip():
            match = pattern.match(line.strip())
            if match is None or not looks_like_picture(match[1]):
                return None
            rows.append((match[1], (match[2] or "").strip()))
    return rows if any(text for _, text in rows) else None


def _cell(text: str) -> str:
    """Labels with one separator: numbers as a list, names with the separator that they have."""
    if re.fullmatch(r"-?\d+([\s,;|]+-?\d+)*", text):
        return " ".join(re.split(r"[\s,;|]+", text))
    return text
