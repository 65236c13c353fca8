"""Pascal VOC 2007 and 2012 (http://host.robots.ox.ac.uk/pascal/VOC), from their XML files."""

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, Image
from tqdm.auto import tqdm

from .checks import OnBadImage
from .columns import attach_labels
from .labels import Labels, Unlabeled, unknown_label

VOC_LABELS = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SPLITS = "ImageSets/Main"


def load_voc(
    root: str | os.PathLike[str],
    split: str = "trainval",
    keep_unlabeled: bool = False,
    *,
    labels: Sequence[str] | None = None,
    on_bad_image: OnBadImage = "error",
    bad_images_file: str | os.PathLike[str] | None = None,
) -> Dataset:
    """A multi-label dataset from Pascal VOC's files.

    A label is there if the image has an object of it that is not marked difficult, unknown (−1) if all of them are,
    and else not there. Areas are those of the boxes of objects that are not difficult.

    Args:
        root: a folder like `VOC2007`, with `JPEGImages`, `Annotations` and `ImageSets/Main`, or a folder with one such.
        split: a file in `ImageSets/Main`: train, val, trainval or test.
        keep_unlabeled: keep images without any object.
        labels: the names wanted, in this order; default `VOC_LABELS`. A name that VOC does not have is unknown
            everywhere, an object of one that is not wanted makes its image a bad one.
        on_bad_image, bad_images_file: what happens to bad and missing images, and those whose XML file cannot be read,
            see `report_bad_images`; rows are counted from 0 in the split's file.

    Returns:
        Dataset with the columns of `multilabel_features`, `label_areas` too, and `image_id`, a string.

    Raises:
        FileNotFoundError: if this is no VOC folder, or has no such split.
        ValueError: if there are several VOC folders in it; for bad images with `"error"`.

    Example:

        train, test = load_voc("VOCdevkit/VOC2007"), load_voc("VOCdevkit/VOC2007", "test")
    """
    root = find_voc_root(root)
    if split not in voc_splits(root):
        raise FileNotFoundError(f"{root} has no split {split!r}, it has {', '.join(voc_splits(root))}")
    names = (root / SPLITS / f"{split}.txt").read_text().split()
    found = _read_annotations([root / "Annotations" / f"{name}.xml" for name in names])
    paths = [str(root / "JPEGImages" / f"{name}.jpg") for name in names]
    dataset = Dataset.from_dict({"image": paths, "image_id": names}).cast_column("image", Image())
    unlabeled: Unlabeled = "keep" if keep_unlabeled else "drop"
    return attach_labels(dataset, found, labels, unlabeled, on_bad_image, bad_images_file)


def find_voc_root(root: str | os.PathLike[str]) -> Path:
    """The folder itself if it is like `VOC2007`, else the one such in it; errors as in `load_voc`."""
    root = Path(root)
    if (root / SPLITS).is_dir():
        return root
    roots = sorted(folder.parents[1] for folder in root.glob(f"*/{SPLITS}/"))
    if not roots:
        raise FileNotFoundError(f"{root} is no Pascal VOC folder: neither it nor a folder in it has {SPLITS}")
    if len(roots) > 1:
        raise ValueError(f"{root} holds several datasets, name one: {', '.join(map(str, roots))}")
    return roots[0]


def is_voc(path: Path) -> bool:
    """Whether this is a folder like `VOC2007`, or holds one."""
    return (path / SPLITS).is_dir() or any(path.glob(f"*/{SPLITS}/"))


def voc_splits(root: Path) -> list[str]:
    """The splits of all labels; the files of single labels, as `cat_train.txt`, stand beside them."""
    return sorted(path.stem for path in (root / SPLITS).glob("*.txt") if "_" not in path.stem)


def _read_annotations(paths: list[Path]) -> Labels:
    rows: list[int] = []
    ids: list[int] = []
    areas: list[float] = []
    difficult: list[tuple[int, int]] = []
    problems = {}
    id_of = {name: i for i, name in enumerate(VOC_LABELS)}
    for row, path in enumerate(tqdm(paths, desc="Reading annotations", unit="file")):
        try:
            for name, is_difficult, area in _read_objects(path):
                if name not in id_of:
                    problems[row] = unknown_label(name, VOC_LABELS)
                elif is_difficult:
                    difficult.append((row, id_of[name]))
                else:
                    rows.append(row)
                    ids.append(id_of[name])
                    areas.append(area)
        except (OSError, ValueError, SyntaxError, AttributeError) as error:
            problems[row] = f"{path} cannot be read: {error!r}"
    found = Labels.from_pairs(len(paths), VOC_LABELS, rows, ids, areas)
    hard = np.zeros(found.targets.shape, dtype=bool)
    hard[tuple(np.array(difficult, dtype=np.int64).reshape(-1, 2).T)] = True
    found.targets[hard & (found.targets == 0)] = -1
    found.problems = problems
    return found


def _read_objects(path: Path) -> list[tuple[str, bool, float]]:
    """Name, whether it is difficult, and area in pixels² of each object; a box's last pixel belongs to it."""
    objects = []
    for element in ElementTree.parse(path).getroot().iterfind("object"):
        x0, y0, x1, y1 = (float(_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
        is_difficult = element.findtext("difficult", "0").strip() == "1"
        objects.append((_text(element, "name"), is_difficult, (x1 - x0 + 1) * (y1 - y0 + 1)))
    return objects


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"an object has no {path}")
    return text.strip()
