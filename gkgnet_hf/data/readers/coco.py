"""COCO: `instances_*.json`, `_annotations.coco.json`, Label Studio's `result.json`, or any such file."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from ..annotations import Annotations, Splits
from ..labels import UNKNOWN, Labels
from ..options import ReadOptions
from ..paths import files_in
from ..places import Places
from ..splits import SYNONYMS, split_kind
from ..words import counted

if TYPE_CHECKING:
    from pycocotools.coco import COCO

HEAD = 4096  # bytes that show whether a JSON file may be COCO's
OTHERS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")


def load_coco(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    annotations: str | os.PathLike[str],
    keep_unlabeled: bool = False,
    **options: Any,
) -> Dataset:
    """A multi-label dataset from COCO's files.

    Every instance counts, crowds too: a label is positive if the image has any instance of its category, and the area
    of its largest instance may be that of a crowd. Labels stand in the order of their category ids, images in that of
    their ids. Categories without any instance in the file are labels too.

    Args:
        images: folder of the images, or several, of which the first one that holds any counts.
        annotations: the `instances_*.json` file.
        keep_unlabeled: keep images that no instance is on; the literature drops them.
        **options: the fields of `ReadOptions`, such as `labels`: a category that is missing in the file is unknown (−1)
            everywhere, an instance of one that is not wanted makes its image a bad one.

    Returns:
        Dataset with the columns of `multilabel_features` and `image_id`. `label_areas`, from `area` or else `bbox`, is
        left out if an instance has neither.

    Raises:
        FileNotFoundError: if the annotation file is missing.
        ValueError: if the file is not in COCO's format, or lists no categories; for bad images with `"error"`.

    Example:

        train = load_coco("coco/train2014", "coco/annotations/instances_train2014.json")
        label_names(train)
    """
    read = ReadOptions(keep_unlabeled=keep_unlabeled, **options)
    folders = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    return _read(Path(annotations), [Path(folder) for folder in folders], read).finish(read)


def read_coco(path: Path, options: ReadOptions) -> Splits | None:
    """A file in COCO's format, or those of a folder: in `annotations/`, in the folder, or in one for each split."""
    files = _files(path)
    if not files:
        return None
    return {split: partial(_read, file, None, options, split) for split, file in files.items()}


Boxes = dict[str, list[tuple[float, float, float, float]]]


def read_boxes(path: str | os.PathLike[str], split: str) -> dict[Any, Boxes]:
    """The boxes in the annotation file of a split: image id → label → (left, top, right, bottom) in pixels.

    Args:
        path: a file in COCO's format, or the folder of a dataset.
        split: name of the split as `MultiLabelSource.split_read` gives it.

    Raises:
        ValueError: if no file in COCO's format is there for this split, or an instance has no box.
    """
    files = _files(Path(path))
    if split not in files:
        raise ValueError(
            f"{path} has no COCO file with boxes for the split {split}; it has {', '.join(files) or 'none'}"
        )
    coco = _parse(files[split])
    names = {category["id"]: str(category["name"]) for category in coco.dataset["categories"]}
    boxes: dict[Any, Boxes] = {}
    for instance in coco.dataset["annotations"]:
        if len(instance.get("bbox") or ()) != 4:
            raise ValueError(f"{files[split]}: annotation {instance.get('id')} has no bbox")
        left, top, width, height = map(float, instance["bbox"])
        found = boxes.setdefault(instance["image_id"], {}).setdefault(names[instance["category_id"]], [])
        found.append((left, top, left + width, top + height))
    return boxes


def _files(path: Path) -> dict[str, Path]:
    """The annotation file of each split."""
    files: dict[str, Path] = {}
    for file in _candidates(path):
        if not _may_be_coco(file):
            continue
        name = file.stem.removeprefix("instances_")
        split = name if split_kind(name) else "train"
        if split == "train" and file.parent != path and split_kind(file.parent.name):
            split = file.parent.name
        if split in files and not file.name.startswith("_annotations"):
            raise ValueError(
                f"{path} has several annotation files: {files[split].name}, {file.name}; name the one to read"
            )
        files[split] = file
    return files


def _candidates(path: Path) -> Iterator[Path]:
    if path.is_file():
        if path.suffix.lower() == ".json":
            yield path
        return
    words = [word for words in SYNONYMS.values() for word in words]
    folders = [
        path / "annotations",
        path,
        *(p for p in sorted(path.iterdir()) if p.is_dir() and p.name.lower() in words),
    ]
    for folder in folders:
        files = [file for file in files_in(folder, "*.json") if not file.name.startswith(OTHERS)]
        instances = [file for file in files if file.name.startswith("instances_")]
        yield from instances or files


def _may_be_coco(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(HEAD).lstrip()
    if not head.startswith(b"{"):
        return False
    if file.stat().st_size > 50_000_000:
        return b'"images"' in head or b'"info"' in head or b'"annotations"' in head
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        if b'"images"' in head and b'"annotations"' in head:
            raise ValueError(f"{file} is not in COCO's instances format: {error}") from error
        return False
    return isinstance(content, dict) and "images" in content and ("annotations" in content or "categories" in content)


def image_folders(annotations: Path, split: str) -> list[Path]:
    """Where the images of an annotation file may be: beside it, or where COCO has them."""
    parent = annotations.parent
    above = parent.parent
    beside = [parent, parent / "images", parent / split]
    around = [above / split, above / "images" / split, above / "images", above]
    return around + beside if parent.name == "annotations" else beside + around


def _read(file: Path, folders: Sequence[Path] | None, options: ReadOptions, split: str = "train") -> Annotations:
    coco = _parse(file)
    categories = sorted(coco.dataset["categories"], key=lambda category: category["id"])
    if not categories:
        raise ValueError(f"{file} lists no categories")
    used = {annotation["category_id"] for annotation in coco.dataset["annotations"]}
    first, others = categories[0], categories[1:]
    # Roboflow lists the name of the whole set as category 0 above the others, and no instance has it.
    is_group = first.get("supercategory") in ("none", "", None) and first["id"] not in used
    if is_group and others and all(category.get("supercategory") == first["name"] for category in others):
        categories = others
        options.assume(f"{first['name']!r} is the name above all other categories, and no label itself")
    id_of = {category["id"]: i for i, category in enumerate(categories)}
    image_ids = sorted(coco.imgs)
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    instances = [a for a in coco.dataset["annotations"] if a["image_id"] in row_of]
    if lost := len(coco.dataset["annotations"]) - len(instances):
        options.assume(f"warning: {counted(lost, 'annotation')} of images that {file.name} does not list, passed over")
    for instance in instances:
        if instance["category_id"] not in id_of:
            raise ValueError(
                f"{file}: annotation {instance.get('id')} is of category {instance['category_id']}, which is not among "
                f"the file's categories {list(id_of)}"
            )
    labels = Labels.from_cells(
        len(image_ids),
        [str(category["name"]) for category in categories],
        rows=[row_of[a["image_id"]] for a in instances],
        ids=[id_of[a["category_id"]] for a in instances],
        areas=np.array([_area(a) for a in instances], dtype=np.float32),
    )
    negatives = {row_of[i]: coco.imgs[i].get("neg_category_ids") or () for i in image_ids}
    checked = [(row, id_of[category]) for row, found in negatives.items() for category in found if category in id_of]
    if checked:
        options.assume("labels of LVIS: those in neg_category_ids are negative, the others without an object unknown")
        labels = Labels.from_cells(
            labels.num_rows,
            labels.names,
            np.concatenate([labels.rows, [row for row, _ in checked]]),
            np.concatenate([labels.ids, [label for _, label in checked]]),
            np.concatenate([labels.values, np.zeros(len(checked), dtype=np.int8)]),
            rest=UNKNOWN,
            areas=None if labels.areas is None else np.concatenate([labels.areas, np.zeros(len(checked))]),
        )
    files = [coco.imgs[image_id]["file_name"].replace("\\", "/") for image_id in image_ids]
    paths = _paths(files, folders, file, split, options)
    return Annotations.from_paths(paths, labels, "drop", image_id=image_ids)


def _paths(
    files: list[str], folders: Sequence[Path] | None, annotations: Path, split: str, options: ReadOptions
) -> list[str]:
    if options.image_dir is not None:
        return [str(path) for path in Places(annotations.parent, options.image_dir).find(files, "file_name", split)]
    known = folders if folders is not None else image_folders(annotations, split)
    hits = {folder: sum(os.path.isfile(folder / file) for file in files[:100]) for folder in known}
    best = max(hits, key=lambda folder: hits[folder])
    if not hits[best] and files and folders is None:
        root = annotations.parent.parent if annotations.parent.name == "annotations" else annotations.parent
        places = Places(root)
        found = places.find(files, "file_name", split)
        for sentence in places.sentences:
            options.assume(sentence)
        return [str(path) for path in found]
    return [os.path.join(best, file) for file in files]


def _area(instance: dict) -> float:
    if instance.get("area") is not None:
        return instance["area"]
    _, _, width, height = instance.get("bbox") or [np.nan] * 4
    return width * height


def _with_numbers(content: dict[str, Any]) -> bool:
    """Make ids that are written as text numbers; whether there were any."""
    entries = [entry for key in ("images", "annotations", "categories") for entry in content.get(key, ())]
    keys = ("id", "image_id", "category_id")
    texts = [(e, key) for e in entries for key in keys if isinstance(e.get(key), str) and e[key].isdigit()]
    for entry, key in texts:
        entry[key] = int(entry[key])
    return bool(texts)


def _parse(annotations: Path) -> "COCO":
    from pycocotools.coco import COCO

    if not annotations.is_file():
        raise FileNotFoundError(f"No annotation file at {annotations}")
    with open(os.devnull, "w") as silence, redirect_stdout(silence):  # pycocotools reports its progress there
        try:
            coco = COCO(str(annotations))
            if _with_numbers(coco.dataset):
                coco.createIndex()
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ValueError(f"{annotations} is not in COCO's instances format: {error!r}") from error
    for key, field in (("images", "file_name"), ("annotations", "category_id"), ("categories", "name")):
        if key not in coco.dataset:
            raise ValueError(f"{annotations} is not in COCO's instances format: it has no {key}")
        if any(field not in entry for entry in coco.dataset[key]):
            raise ValueError(f"{annotations} is not in COCO's instances format: one of its {key} has no {field}")
    return coco
