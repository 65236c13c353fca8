"""YOLO: data.yaml names the classes and the splits; a text file for each picture has a line for each object."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..annotations import Annotations, Splits
from ..labels import Labels
from ..options import ReadOptions
from ..places import HIDDEN, looks_like_picture
from ..splits import split_kind

OBJECT = re.compile(r"\d+( -?[\d.]+(e-?\d+)?){4,}")
SPLITS = ("train", "val", "test")
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "notes.json")


def read_yolo(path: Path, options: ReadOptions) -> Splits | None:
    """A data.yaml, the folder with it, or folders `images` and `labels` with a file of class names."""
    config = path if path.suffix in (".yaml", ".yml") else None
    if config is None and path.is_dir():
        config = next((f for f in sorted(path.glob("*.y*ml")) if _names(_load(f))), None)
    if config is not None and path.is_file() and not _names(_load(config)):
        raise ValueError(f"{path} is no data.yaml of YOLO: it has no names")
    root = config.parent if config is not None else path
    names: list[str] | None
    if config is not None:
        content = _load(config)
        names = _names(content)
        folders = {split: _folders(root, content, content[split]) for split in SPLITS if content.get(split)}
        folders = {split: found for split, found in folders.items() if found}
        if not folders and not any(content.get(split) for split in SPLITS):
            folders = _image_folders(root)
        if not folders:
            raise ValueError(f"{config} names folders of pictures that are not there, and {root} has none of the kind")
    else:
        if not root.is_dir():
            return None
        names = _names_beside(root)
        if names is not None and _beside_pictures(root):
            options.assume(f"labels are read from YOLO's text files, with {len(names)} classes")
            return {"train": partial(_read, [root], names)}
        if not (root / "labels").is_dir() or not (root / "images").is_dir():
            return None
        folders = _image_folders(root)
        if names is None:
            if not any((root / "labels").rglob("*.txt")):
                return None
            raise ValueError(
                f"{root} has images/ and labels/ in YOLO's layout, but no data.yaml or classes.txt names the classes"
            )
    options.assume(f"labels are read from YOLO's text files, with {len(names)} classes")
    return {split: partial(_read, found, names) for split, found in folders.items()}


def _beside_pictures(root: Path) -> bool:
    """Whether most pictures in a folder have objects in YOLO's format beside them."""
    pictures = [file for file in root.iterdir() if looks_like_picture(file.name)]
    beside = [file.with_suffix(".txt") for file in pictures]
    there = [file for file in beside if file.is_file()]
    lines = [line for file in there[:20] for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    return 2 * len(there) > len(pictures) and bool(lines) and all(OBJECT.fullmatch(line.strip()) for line in lines)


def _image_folders(root: Path) -> dict[str, list[Path]]:
    """The folders of pictures where nothing names them: `images`, or its folders that are named like splits."""
    images = root / "images"
    inside = [f for f in sorted(images.iterdir()) if f.is_dir() and split_kind(f.name)] if images.is_dir() else []
    return {folder.name: [folder] for folder in inside} or ({"train": [images]} if images.is_dir() else {})


def _load(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from error


def _names(content: Any) -> list[str]:
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        return [str(names[key]) for key in sorted(names)]
    return [str(name) for name in names] if isinstance(names, list) else []


def _names_beside(root: Path) -> list[str] | None:
    for name in NAME_FILES[:4]:
        for file in (root / name, root / "labels" / name):
            if file.is_file():
                return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return None


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


def _read(folders: list[Path], names: list[str]) -> Annotations:
    pictures: list[Path] = []
    for folder in folders:
        if folder.is_file():
            lines = folder.read_text(encoding="utf-8").splitlines()
            pictures += [folder.parent / line.strip() for line in lines if line.strip()]
        else:
            files = sorted(f for f in folder.rglob("*") if looks_like_picture(f.name) and not HIDDEN.search(f.name))
            pictures += files
    rows: list[int] = []
    ids: list[int] = []
    problems = {}
    for row, picture in enumerate(pictures):
        try:
            found = _classes(_label_file(picture), len(names))
            rows += [row] * len(found)
            ids += found
        except ValueError as error:
            problems[row] = str(error)
    silent = np.array([not _label_file(picture).is_file() for picture in pictures], dtype=bool)
    labels = Labels.from_cells(len(pictures), names, rows, ids, silent=silent, problems=problems)
    return Annotations.from_paths(pictures, labels, "drop")


def _label_file(picture: Path) -> Path:
    parts = list(picture.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            return Path(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
    return picture.with_suffix(".txt")


def _classes(file: Path, num_labels: int) -> list[int]:
    """The class of each object; none in an empty file, which says that there is none."""
    classes = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        first = (line.split() or [""])[0]
        if first and (not first.isdigit() or int(first) >= num_labels):
            raise ValueError(f"{file.name} has the class {first!r}, expected 0 to {num_labels - 1}")
        classes += [int(first)] if first else []
    return classes
