"""YOLO: data.yaml names the classes and the splits; a text file for each picture has a line for each object."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..annotations import Annotations, Splits
from ..labels import Labels
from ..options import ReadOptions
from ..paths import files_below, files_in
from ..places import HIDDEN, looks_like_picture
from ..splits import split_kind
from .class_names import NAME_FILES, class_names_beside
from .yaml_files import load_yaml

SPLITS = ("train", "val", "test")
YOLO_LINE = re.compile(r"\d+( -?[\d.]+(e-?\d+)?){4,}")


def read_yolo(path: Path, options: ReadOptions) -> Splits | None:
    """A data.yaml, the folder with it, or folders `images` and `labels` with a file of class names."""
    config = path if path.suffix in (".yaml", ".yml") else None
    if config is None and path.is_dir():
        config = next((f for f in files_in(path, "*.y*ml") if _names(_load(f))), None)
    if config is not None and path.is_file() and not _names(_load(config)):
        raise ValueError(f"{path} is no data.yaml of YOLO: it has no names")
    root = config.parent if config is not None else path
    if config is not None:
        content = _load(config)
        names = _names(content)
        folders = {split: _folders(root, content, content[split]) for split in SPLITS if content.get(split)}
        folders = {split: places for split, places in folders.items() if places}
        if not folders and not any(content.get(split) for split in SPLITS):
            folders = _layout(root)
        if not folders:
            raise ValueError(f"{config} names folders of pictures that are not there, and {root} has none of the kind")
    else:
        folders = _layout(root)
        if not folders:
            return None
        found = class_names_beside(root, root / "labels", *(place for places in folders.values() for place in places))
        names = found or dict(enumerate(options.labels or ()))
        if not names:
            raise ValueError(
                f"{root} has text files of objects in YOLO's format, but no data.yaml or classes.txt names the classes "
                "(--labels names such a file)"
            )
    options.assume(f"labels are read from YOLO's text files; the classes are {', '.join([*names.values()][:10])}")
    return {split: partial(_read, found, names) for split, found in folders.items()}


def _layout(root: Path) -> dict[str, list[Path]]:
    """The folders of pictures of each split that have text files of objects, beside them or in `labels`."""
    if not root.is_dir():
        return {}
    for parent in (root / "images", root):
        inside = [folder for folder in sorted(parent.iterdir()) if split_kind(folder.name)] if parent.is_dir() else []
        folders = {f.name: f / "images" if (f / "images").is_dir() else f for f in inside if f.is_dir()}
        found = {split: [folder] for split, folder in folders.items() if _has_objects(folder)}
        if found or _has_objects(parent):
            return found or {"train": [parent]}
    return {}


def _has_objects(folder: Path) -> bool:
    """Whether the first text file of a folder of pictures that has a line describes an object."""
    texts = _label_file(folder / "any.jpg").parent
    files = files_in(texts, "*.txt")
    lines = (line for file in files if file.name not in NAME_FILES for line in _lines(file) if line.strip())
    return bool(YOLO_LINE.fullmatch(next(lines, "").strip()))


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8-sig", errors="replace").splitlines()


def _load(file: Path) -> Any:
    try:
        return load_yaml(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _names(content: Any) -> dict[int, str]:
    """Id → name, from a list or a mapping whose keys are numbers or texts of numbers."""
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    if isinstance(names, dict) and all(str(key).isdigit() for key in names):
        return {key: str(name) for key, name in sorted((int(key), name) for key, name in names.items())}
    return {}


def _folders(root: Path, content: dict[str, Any], entries: Any) -> list[Path]:
    """The folders, or lists of pictures, of a split; they may be written for another place."""
    found = []
    for entry in entries if isinstance(entries, list) else [entries]:
        entry = str(entry)
        bare = entry.replace("\\", "/")
        while bare.startswith("../"):
            bare = bare[3:]
        tried = [root / str(content.get("path") or "") / entry, root / entry, root / bare, root / bare / "images"]
        found += [place for place in tried if place.exists()][:1]
    return found


def _read(folders: list[Path], names: dict[int, str]) -> Annotations:
    pictures: list[Path] = []
    for folder in folders:
        if folder.is_file():
            pictures += [folder.parent / line.strip() for line in _lines(folder) if line.strip()]
        else:
            files = sorted(f for f in files_below(folder) if looks_like_picture(f.name) and not HIDDEN.search(f.name))
            pictures += files
    rows: list[int] = []
    ids: list[int] = []
    problems = {}
    for row, picture in enumerate(pictures):
        try:
            found = _classes(_label_file(picture), names)
            rows += [row] * len(found)
            ids += found
        except ValueError as error:
            problems[row] = str(error)
    silent = np.array([not _label_file(picture).is_file() for picture in pictures], dtype=bool)
    labels = Labels.from_cells(len(pictures), list(names.values()), rows, ids, silent=silent, problems=problems)
    return Annotations.from_paths(pictures, labels, "drop")


def _label_file(picture: Path) -> Path:
    """The text file of a picture: where `images` in its path is `labels`, else beside it."""
    parts = list(picture.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            file = Path(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
            if file.parent.is_dir():
                return file
    return picture.with_suffix(".txt")


def _classes(file: Path, names: dict[int, str]) -> list[int]:
    """The class of each object; none in an empty file, which says that there is none."""
    place = {str(number): place for place, number in enumerate(names)}
    found = [line.split()[0] for line in (_lines(file) if file.is_file() else ()) if line.strip()]
    if strange := next((number for number in found if number not in place), None):
        known = ", ".join([f"{number} {name}" for number, name in names.items()][:5])
        raise ValueError(f"{file.name} has the class {strange!r}, which is not among the {len(names)} named ({known})")
    return [place[number] for number in found]
