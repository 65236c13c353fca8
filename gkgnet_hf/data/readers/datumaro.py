"""Datumaro: annotations/<subset>.json, and images/<subset>/."""

from functools import partial
from pathlib import Path

from ..annotations import Annotations, Splits
from ..labels import Labels
from ..options import ReadOptions
from ..places import Places
from .json_files import json_files, load_json


def read_datumaro(path: Path, options: ReadOptions) -> Splits | None:
    """The files of a folder `annotations`, or one of them."""
    files = json_files(path if path.is_file() else path / "annotations" if (path / "annotations").is_dir() else path)
    splits: Splits = {}
    for file in files:
        with file.open("rb") as opened:
            head = opened.read(4096)
        if b'"dm_format_version"' in head or (b'"label_groups"' in head and b'"categories"' in head):
            splits["train" if file.stem == "default" else file.stem] = partial(_read, file, options)
    return splits or None


def _read(file: Path, options: ReadOptions) -> Annotations:
    content = load_json(file)
    try:
        names = [label["name"] for label in content["categories"]["label"]["labels"]]
        items = content["items"]
        cells = [(row, a["label_id"]) for row, item in enumerate(items) for a in item["annotations"] if "label_id" in a]
        kinds = {a["type"] for item in items for a in item["annotations"]}
        images = [(item.get("image") or item.get("media") or {}).get("path") or item["id"] for item in items]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is not in Datumaro's format: it lacks {error}") from error
    labels = Labels.from_cells(len(items), names, [row for row, _ in cells], [label for _, label in cells])
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    places = Places(root, options.image_dir, options.image_suffix)
    paths = places.find(images, "path", file.stem)
    for sentence in places.sentences:
        options.assume(sentence)
    return Annotations.from_paths([str(path) for path in paths], labels, "drop" if kinds - {"label"} else "bad")
