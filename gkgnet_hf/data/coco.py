"""Datasets in COCO's format: a folder of images and an `instances_*.json`."""

import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from datasets import Dataset, Image
from pycocotools.coco import COCO

from .checks import OnBadImage
from .columns import attach_labels
from .labels import Labels, Unlabeled
from .splits import SYNONYMS, split_kind

FILES = ("annotations.json", "_annotations.coco.json")  # the second one counts if both are there


def load_coco(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    annotations: str | os.PathLike[str],
    keep_unlabeled: bool = False,
    *,
    labels: Sequence[str] | None = None,
    on_bad_image: OnBadImage = "error",
    bad_images_file: str | os.PathLike[str] | None = None,
) -> Dataset:
    """A multi-label dataset from COCO's files.

    Every instance counts, crowds too: a label is there if the image has any instance of its category, and the area of
    its largest instance may be that of a crowd. Labels stand in the order of their category ids, images in that of
    their ids.

    Args:
        images: folder of the images, or several, of which the first one that holds any counts.
        annotations: the `instances_*.json` file.
        keep_unlabeled: keep images that no instance is on; the literature drops them.
        labels: the names wanted, in this order; a category that is missing in the file is unknown (−1) everywhere, an
            instance of one that is not wanted makes its image a bad one.
        on_bad_image, bad_images_file: what happens to bad and missing images, see `report_bad_images`; rows are
            counted from 0 in the order of all image ids.

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
    coco = _read(Path(annotations))
    categories = sorted(coco.dataset["categories"], key=lambda category: category["id"])
    if not categories:
        raise ValueError(f"{annotations} lists no categories")
    id_of = {category["id"]: i for i, category in enumerate(categories)}
    image_ids = sorted(coco.imgs)
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    instances = [a for a in coco.dataset["annotations"] if a["image_id"] in row_of]
    for instance in instances:
        if instance["category_id"] not in id_of:
            raise ValueError(
                f"{annotations}: annotation {instance.get('id')} is of category {instance['category_id']}, "
                f"which is not among the file's categories {list(id_of)}"
            )
    found = Labels.from_pairs(
        len(image_ids),
        [category["name"] for category in categories],
        rows=[row_of[a["image_id"]] for a in instances],
        ids=[id_of[a["category_id"]] for a in instances],
        areas=[_area(a) for a in instances],
    )
    files = [coco.imgs[image_id]["file_name"] for image_id in image_ids]
    folders = [images] if isinstance(images, (str, os.PathLike)) else images
    folder = _first_with_any(folders, files[:100])
    paths = [os.path.join(folder, file) for file in files]
    dataset = Dataset.from_dict({"image": paths, "image_id": image_ids}).cast_column("image", Image())
    unlabeled: Unlabeled = "keep" if keep_unlabeled else "drop"
    return attach_labels(dataset, found, labels, unlabeled, on_bad_image, bad_images_file)


def find_coco(path: Path) -> dict[str, Path]:
    """The annotation file of each split, by the split's name: a file, or those of a folder; none if it is not COCO's.

    A folder has `annotations/instances_<split>.json`, or `_annotations.coco.json` or `annotations.json`, itself or in
    a folder per split.
    """
    if path.is_file():
        name = path.stem.removeprefix("instances_")
        return {name if split_kind(name) else "train": path} if path.suffix.lower() == ".json" else {}
    if instances := sorted(path.glob("annotations/instances_*.json")):
        return {file.stem.removeprefix("instances_"): file for file in instances}
    folders = [path, *(path / word for words in SYNONYMS.values() for word in words)]
    files = [folder / name for folder in folders for name in FILES if (folder / name).is_file()]
    return {"train" if file.parent == path else file.parent.name: file for file in files}


def image_folders(annotations: Path, split: str) -> list[Path]:
    """Where the images of an annotation file may be: beside it, or where COCO has them."""
    parent = annotations.parent
    above = parent.parent
    beside = [parent, parent / "images"]
    around = [above / split, above / "images" / split, above / "images", above]
    return around + beside if parent.name == "annotations" else beside + around


def _first_with_any(folders: Sequence[str | os.PathLike[str]], files: Sequence[str]) -> str | os.PathLike[str]:
    return next((f for f in folders if any(os.path.isfile(os.path.join(f, file)) for file in files)), folders[0])


def _area(instance: dict) -> float | None:
    if "area" in instance:
        return instance["area"]
    _, _, width, height = instance.get("bbox", [None] * 4)
    return width and width * height


def _read(annotations: Path) -> COCO:
    if not annotations.is_file():
        raise FileNotFoundError(f"No annotation file at {annotations}")
    with open(os.devnull, "w") as silence, redirect_stdout(silence):  # pycocotools reports its progress there
        try:
            coco = COCO(str(annotations))
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ValueError(f"{annotations} is not in COCO's instances format: {error!r}") from error
    for key, field in (("images", "file_name"), ("annotations", "category_id"), ("categories", "name")):
        if key not in coco.dataset:
            raise ValueError(f"{annotations} is not in COCO's instances format: it has no {key}")
        if any(field not in entry for entry in coco.dataset[key]):
            raise ValueError(f"{annotations} is not in COCO's instances format: one of its {key} has no {field}")
    return coco
