"""A folder of pictures for each label."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..annotations import Annotations, Splits
from ..labels import Labels
from ..options import ReadOptions
from ..pictures import PLUGIN_SUFFIXES, READABLE_SUFFIXES
from ..places import HIDDEN, looks_like_picture, subfolders
from ..splits import split_kind

LEFTOVERS = re.compile(r"^([.@_].*|unlabell?ed|lost\+found)$", re.IGNORECASE)
NO_LABELS = frozenset((
    "images", "image", "imgs", "img", "pictures", "photos", "jpegimages", "masks", "mask", "labels", "annotations",
    "annotation", "gt", "groundtruth", "ground_truth", "segmentation", "data", "dataset", "files", "input", "output",
    "query", "gallery", "original", "originals", "thumbnail", "thumbnails", "thumbs", "raw", "processed", "resized",
    "rgb", "rgbd", "nir", "ir", "infrared", "thermal", "depth", "grayscale",
))  # fmt: skip
CONTAINERS = re.compile(  # that only divide pictures: images_001, part2, patient0017, 2024-01-03, 100CANON of cameras
    r"(images?|imgs?|pictures?|photos?|parts?|batch|chunk|shard|patient|subject|person|case|study|series|session|"
    r"sequence|seq|video|clip|frames?|folder|dir|data|set|split|fold)[\W_]*\d+|"
    r"(19|20)\d\d[\W_]?\d\d[\W_]?\d\d|[1-9]\d\d[A-Z_\d]{5}",
    re.IGNORECASE,
)
ANNOTATION_SUFFIXES = frozenset(
    {".txt", ".xml", ".json", ".csv", ".tsv", ".jsonl", ".parquet", ".xlsx", ".mat", ".caption"}
)


def read_label_folders(path: Path, options: ReadOptions) -> Splits | None:
    """A folder with a folder of pictures for each label, itself or for each split.

    An image that has several labels stands in several folders: files with equal bytes are one image, whatever their
    names, because `001.jpg` in two folders is usually two images. Each split has the labels of all: what has no folder
    in a split is on none of its images.

    Raises:
        ValueError: for folders with pictures that are no labels, with what was seen.
    """
    if not path.is_dir():
        return None
    here = label_folders(path)
    inside = {folder.name: folder for folder in _folders(path) if split_kind(folder.name)}
    divided = {name: label_folders(folder) for name, folder in inside.items()}
    divided = {name: folders for name, folders in divided.items() if folders}
    splits = divided if divided and set(here) <= set(inside) else {"train": here}
    names = sorted({label for folders in splits.values() for label in folders})
    if not names:
        if _pictures(path):
            raise ValueError(f"{path} holds pictures and nothing that says their labels: {_seen(path)}")
        deeper = {name: label_folders(folder) for name, folder in ((f.name, f) for f in _folders(path))}
        if any(deeper.values()):
            raise ValueError(f"{path} holds folders of folders of pictures; name the one to read: {_seen(path)}")
        return None
    _refuse(path, splits, names)
    read = {file.parent for folders in splits.values() for files in folders.values() for file in files}
    others = {folder: len(_pictures(folder)) for folder in (path, *subfolders(path)) if folder not in read}
    if others := {folder: count for folder, count in others.items() if count}:
        where = ", ".join(str(folder.relative_to(path.parent)) for folder in [*others][:5])
        options.assume(
            f"warning: pictures outside the folders of labels are passed over: {sum(others.values()):,} in {where}"
            f"{', …' if len(others) > 5 else ''}"
        )
    file_names = [{file.name for file in files} for folders in splits.values() for files in folders.values()]
    if len(splits) == 1 and len(file_names[0]) > 1 and all(names_in == file_names[0] for names_in in file_names):
        options.assume(
            f"warning: the folders {', '.join(names[:5])} hold files of the same names: if they are versions of the "
            "same pictures, they are no labels"
        )
    passed = Counter(
        file.suffix.lower()
        for folders in splits.values()
        for files in folders.values()
        for file in files
        if not _readable(file)
    )
    for suffix, count in passed.items():
        hint = f" (pip install {PLUGIN_SUFFIXES[suffix]} reads them)" if suffix in PLUGIN_SUFFIXES else ""
        options.assume(f"warning: pictures that end in {suffix} are passed over: {count:,}{hint}")
    readable = {s: {n: [f for f in files if _readable(f)] for n, files in found.items()} for s, found in splits.items()}
    for name in names:
        if not any(found.get(name) for found in readable.values()):
            suffix = next(file.suffix for found in splits.values() for file in found.get(name, ()))
            package = PLUGIN_SUFFIXES.get(suffix.lower())
            hint = f"pip install {package}, or convert them" if package else "convert them"
            raise ValueError(f"Folder {name} holds only pictures that end in {suffix}, which are not read here: {hint}")
    options.assume(f"each folder of pictures is one label: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}")
    return {split: partial(_merge, {name: found.get(name, []) for name in names}) for split, found in readable.items()}


def label_folders(folder: Path) -> dict[str, list[Path]]:
    """The picture files of each folder in a folder that has any, sorted by name."""
    return {label.name: files for label in _folders(folder) if (files := _pictures(label))}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not LEFTOVERS.match(path.name))


def _pictures(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if looks_like_picture(f.name) and not HIDDEN.search(f.name))


def _readable(file: Path) -> bool:
    return file.suffix.lower() in READABLE_SUFFIXES


def _refuse(path: Path, splits: dict[str, dict[str, list[Path]]], names: list[str]) -> None:
    """Stop at folders that are no labels."""
    if all(split_kind(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)) for name in names):  # trainA, testB
        raise ValueError(f"The folders {', '.join(names)} of {path} are splits, not labels: {_seen(path)}")
    strange = [name for name in names if name.lower() in NO_LABELS]
    if strange:
        raise ValueError(
            f"The folder {strange[0]} of {path} is no label, so its folders are not read as labels: {_seen(path)}"
        )
    files = [file for folders in splits.values() for found in folders.values() for file in found]
    if all(CONTAINERS.fullmatch(name) for name in names):
        raise ValueError(
            f"The folders of {path} are numbered parts, such as {names[0]}, so they are not read as labels: "
            f"{_seen(path)}"
        )
    if len(names) > 2 and len(files) == len(names):
        raise ValueError(
            f"Each of the {len(names)} folders of {path} holds one picture, so they are no labels: {_seen(path)}"
        )
    if len(names) < 2:
        raise ValueError(f"{path} holds one folder of pictures, {names[0]}; labels need at least two: {_seen(path)}")
    for file in files:
        beside = next((s for s in ANNOTATION_SUFFIXES if file.with_suffix(s).is_file()), None)
        if beside is not None:
            raise ValueError(
                f"Pictures have annotation files beside them, such as {file.with_suffix(beside)}, which are in no "
                f"known format, so the folders of {path} are not read as labels"
            )
    tables = [
        f.name
        for folder in {path, *(file.parent for file in files)}
        for f in folder.iterdir()
        if f.suffix.lower() in ANNOTATION_SUFFIXES - {".txt"}
    ]
    if tables:
        raise ValueError(
            f"{path} has the file {tables[0]}, which is in no known format, beside its folders: name the folder or "
            "file to read, or take the file away if the folders are the labels"
        )


def _seen(path: Path) -> str:
    inside = sorted(p.name + ("/" if p.is_dir() else "") for p in path.iterdir() if not HIDDEN.search(p.name))
    shown = ", ".join(inside[:8]) + (", …" if len(inside) > 8 else "")
    return f"it holds {shown}. Add a table such as metadata.csv with the columns file_name and labels"


def _merge(folders: dict[str, Sequence[Path]]) -> Annotations:
    """Path and labels of each image that is different, in the order of the folders."""
    files = [(file, label) for label, images in enumerate(folders.values()) for file in images]
    sizes = [file.stat().st_size if file.is_file() else None for file, _ in files]  # a link may lead nowhere
    repeated = {size for size, count in Counter(sizes).items() if count > 1} - {None}
    row_of: dict[object, int] = {}
    paths: list[Path] = []
    rows: list[int] = []
    for (file, _), size in zip(files, sizes, strict=True):
        content = (size, hashlib.sha256(file.read_bytes()).digest()) if size in repeated else file
        if content not in row_of:
            row_of[content] = len(paths)
            paths.append(file)
        rows.append(row_of[content])
    labels = Labels.from_cells(len(paths), list(folders), rows, [label for _, label in files])
    return Annotations.from_paths(paths, labels)
