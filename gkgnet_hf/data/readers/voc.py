"""Pascal VOC (http://host.robots.ox.ac.uk/pascal/VOC) and what tools export in its layout: an XML file a picture.

With `ImageSets/Main` its files name the splits; without XML files its files of single classes have the answers; without
`ImageSets` the XML files stand beside the pictures.
"""

import os
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..annotations import Annotations, Splits
from ..labels import NEGATIVE, POSITIVE, UNKNOWN, Labels
from ..options import ReadOptions
from ..paths import PathError, files_in, read_path
from ..places import HIDDEN, Places, looks_like_picture
from ..splits import split_kind
from ..words import counted

VOC_LABELS = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SPLITS = "ImageSets/Main"
ANSWERS = {"1": POSITIVE, "-1": NEGATIVE, "0": UNKNOWN}


def load_voc(
    root: str | os.PathLike[str], split: str = "trainval", keep_unlabeled: bool = False, **options: Any
) -> Dataset:
    """A multi-label dataset from Pascal VOC's files.

    A label is positive if the image has an object of it that is not marked difficult, unknown (−1) if all of them are,
    and else negative. Areas are those of the boxes of objects that are not difficult.

    Args:
        root: a folder like `VOC2007`, with `JPEGImages`, `ImageSets/Main` and `Annotations`, or a folder with one such.
        split: a file in `ImageSets/Main`: train, val, trainval or test.
        keep_unlabeled: keep images without any object.
        **options: the fields of `ReadOptions`, such as `labels`; default `VOC_LABELS` where no other label occurs, else
            those that occur. A wanted name that is missing is unknown everywhere, an object of one that is not wanted
            makes its image a bad one.

    Returns:
        Dataset with the columns of `multilabel_features`, `label_areas` too, and `image_id`, a string.

    Raises:
        FileNotFoundError: if this is no VOC folder, or has no such split.
        ValueError: if there are several VOC folders in it; for bad images with `"error"`.

    Example:

        train, test = load_voc("VOCdevkit/VOC2007"), load_voc("VOCdevkit/VOC2007", "test")
    """
    folder = _find_root(Path(root))
    if folder is None:
        raise FileNotFoundError(f"{root} is no Pascal VOC folder: neither it nor a folder in it has {SPLITS}")
    read = ReadOptions(keep_unlabeled=keep_unlabeled, **options)
    splits = _splits(folder, read)
    if split not in splits:
        raise FileNotFoundError(f"{folder} has no split {split!r}, it has {', '.join(sorted(splits))}")
    return splits[split]().finish(read)


def read_voc(path: Path, options: ReadOptions) -> Splits | None:
    """A folder like `VOC2007`, one that holds one, or XML files beside pictures, in a folder or one of each split."""
    if path.is_file():
        return None
    root = _find_root(path)
    return _splits(root, options) if root is not None else _beside(path, options)


def _find_root(path: Path) -> Path | None:
    if (path / SPLITS).is_dir():
        return path
    roots = sorted(folder.parents[1] for folder in path.glob(f"*/{SPLITS}/"))
    if len(roots) > 1:
        raise ValueError(f"{path} holds several datasets, name one: {', '.join(map(str, roots))}")
    return roots[0] if roots else None


def _splits(root: Path, options: ReadOptions) -> Splits:
    files = files_in(root / SPLITS, "*.txt")
    if (root / "Annotations").is_dir():
        whole = {file.stem: file for file in files if not _is_class_file(file)}
        names: list[str] = []  # of all splits together, found when the first one is read
        return {split: partial(_read_split, root, file, whole, names, options) for split, file in whole.items()}
    classes: dict[str, dict[str, Path]] = {}
    for file in files:
        label, _, split = file.stem.rpartition("_")
        if label and split_kind(split):
            classes.setdefault(split, {})[label] = file
    if not classes:
        raise ValueError(f"{root} has neither Annotations nor files such as {SPLITS}/cat_train.txt")
    options.assume(f"labels are read from {SPLITS}/<class>_<split>.txt: 1 yes, -1 no, 0 (difficult) unknown")
    return {split: partial(_read_class_files, root, split, by_label, options) for split, by_label in classes.items()}


def _is_class_file(file: Path) -> bool:
    label, _, split = file.stem.rpartition("_")
    if not label or not split_kind(split):
        return False
    with file.open(encoding="utf-8") as opened:
        return len(opened.readline().split()) > 1


def _read_split(root: Path, file: Path, splits: dict[str, Path], names: list[str], options: ReadOptions) -> Annotations:
    if not names:
        every = sorted({image_id for listed in splits.values() for image_id in _ids(listed)})
        names += _label_names(root / "Annotations" / f"{image_id}.xml" for image_id in every)
    ids = _ids(file)
    labels = _read_files([root / "Annotations" / f"{image_id}.xml" for image_id in ids], names, options)
    return Annotations.from_paths(_pictures(root, ids), labels, "drop", image_id=ids)


def _ids(file: Path) -> list[str]:
    return [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _pictures(root: Path, ids: list[str]) -> list[str]:
    expected = [root / "JPEGImages" / f"{image_id}.jpg" for image_id in ids]
    if all(path.is_file() for path in expected):
        return [str(path) for path in expected]
    folder = root / "JPEGImages"
    found = {file.stem: str(file) for file in folder.iterdir()} if folder.is_dir() else {}
    return [found.get(image_id, str(path)) for image_id, path in zip(ids, expected, strict=True)]


def _read_class_files(root: Path, split: str, files: dict[str, Path], options: ReadOptions) -> Annotations:
    answers: dict[str, list[tuple[str, str]]] = {}
    for label, file in files.items():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip():
                image_id, *answer = line.split()
                if len(answer) != 1 or answer[0] not in ANSWERS:
                    raise ValueError(f"{file} has the line {line.strip()!r}, expected a name and 1, -1 or 0")
                answers.setdefault(image_id, []).append((label, answer[0]))
    ids, names = sorted(answers), sorted(files)
    place = {name: i for i, name in enumerate(names)}
    cells = [(row, place[label], ANSWERS[cell]) for row, i in enumerate(ids) for label, cell in answers[i]]
    rows, labels, values = np.array(cells, dtype=np.int64).reshape(-1, 3).T
    return Annotations.from_paths(
        _pictures(root, ids), Labels.from_cells(len(ids), names, rows, labels, values, rest=UNKNOWN), image_id=ids
    )


def _beside(path: Path, options: ReadOptions) -> Splits | None:
    """XML files with the names of pictures, beside them or in `Annotations`, in this folder or one of each split."""
    folders = {"train": path}
    inside = {folder.name: folder for folder in sorted(path.iterdir()) if folder.is_dir() and split_kind(folder.name)}
    if not _xml_files(path) and any(_xml_files(folder) for folder in inside.values()):
        folders = {name: folder for name, folder in inside.items() if _xml_files(folder)}
    if not any(_xml_files(folder) for folder in folders.values()):
        return None
    names = _label_names(file for folder in folders.values() for file in _xml_files(folder))
    options.assume("labels are read from the XML files of the pictures")
    return {split: partial(_read_beside, folder, names, options) for split, folder in folders.items()}


def _read_beside(folder: Path, names: list[str], options: ReadOptions) -> Annotations:
    files = _xml_files(folder)
    pictures = [_root(file).findtext("filename", "").strip() or file.stem for file in files]
    pictures = [name if looks_like_picture(name) else file.stem for name, file in zip(pictures, files, strict=True)]
    places = Places(folder, options.image_dir, options.image_suffix)
    paths = places.find(pictures, "filename")
    for sentence in places.sentences:
        options.assume(sentence)
    read = {str(path) for path in paths}
    beside = {file for path in read for file in Path(path).parent.iterdir()} if files else set()
    without = sorted(file.name for file in beside if looks_like_picture(file.name) and str(file) not in read)
    if without:
        options.assume(
            f"warning: {counted(len(without), 'picture')} without an XML file, such as {without[0]}, passed over"
        )
    return Annotations.from_paths([str(path) for path in paths], _read_files(files, names, options), "drop")


def _xml_files(folder: Path) -> list[Path]:
    for inside in (folder / "Annotations", folder / "annotations", folder):
        files = files_in(inside, "*.xml")
        files = [file for file in files if not HIDDEN.search(file.name)]
        if files and _root(files[0]).tag == "annotation":
            return files
    return []


def _root(file: Path) -> ElementTree.Element:
    try:
        read_path(str(file))
        return ElementTree.parse(file).getroot()
    except (OSError, PathError, ElementTree.ParseError):
        return ElementTree.Element("unreadable")


def _label_names(files: Any) -> list[str]:
    """VOC's labels if all that occur are among them, else those that occur."""
    seen: set[str] = set()
    for file in files:
        seen |= {element.findtext("name", "").strip() for element in _root(file).iterfind("object")} - {""}
    return list(VOC_LABELS) if seen <= set(VOC_LABELS) else sorted(seen)


def _read_files(paths: list[Path], names: list[str], options: ReadOptions) -> Labels:
    cells: list[tuple[int, int, int, float]] = []
    problems = {}
    id_of = {name: i for i, name in enumerate(names)}
    for row, path in enumerate(tqdm(paths, desc="Reading annotations", unit="file", disable=len(paths) < 1000)):
        try:
            for name, is_difficult, area in _read_objects(path):
                cells.append((row, id_of[name], UNKNOWN if is_difficult else POSITIVE, area))
        except (OSError, ValueError, SyntaxError, AttributeError, KeyError) as error:
            problems[row] = f"{path} cannot be read: {error!r}"
    rows, ids, values, areas = np.array(cells, dtype=np.float64).reshape(-1, 4).T
    # An easy object wins over a difficult one, and a difficult one over none.
    silent = np.bincount(rows.astype(int), minlength=len(paths)) == 0
    labels = Labels.from_cells(
        len(paths), names, rows, ids, values, areas=areas.astype(np.float32), silent=silent, problems=problems
    )
    return labels


def _read_objects(path: Path) -> list[tuple[str, bool, float]]:
    """Name, whether it is difficult, and area in pixels² (NaN without a box) of each object; a last pixel counts."""
    objects = []
    read_path(str(path))
    for element in ElementTree.parse(path).getroot().iterfind("object"):
        area = float("nan")  # of a polygon
        if element.find("bndbox") is not None:
            x0, y0, x1, y1 = (float(_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            area = (x1 - x0 + 1) * (y1 - y0 + 1)
        is_difficult = element.findtext("difficult", "0").strip() == "1"
        objects.append((_text(element, "name"), is_difficult, area))
    return objects


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"an object has no {path}")
    return text.strip()
