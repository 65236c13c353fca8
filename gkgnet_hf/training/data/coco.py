"""Datasets in COCO's format: a folder of images and an `instances_*.json`."""

import os
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from pycocotools.coco import COCO


def load_coco(
    images: str | os.PathLike[str], annotations: str | os.PathLike[str], keep_unlabeled: bool = False
) -> Dataset:
    """A multi-label dataset from COCO's files.

    Every instance counts, crowds too: a label is there if the image has any instance of its category. Labels stand in
    the order of their category ids.

    Args:
        images: folder of the images.
        annotations: the `instances_*.json` file.
        keep_unlabeled: keep images that no instance is on; the literature drops them.

    Returns:
        Dataset with columns `image` (decoded when read), `labels` ((L,) float32 of 0 and 1), `label_ids` (the labels
        that are there, a list of ClassLabel, whose names are the label names) and `image_id`.

    Raises:
        FileNotFoundError: if the file, or an image that it lists, is missing.
        ValueError: if the file is not in COCO's format, or lists no categories.

    Example:

        train = load_coco("coco/train2014", "coco/annotations/instances_train2014.json")
        names = train.features["label_ids"].feature.names
    """
    coco = _read(Path(annotations))
    categories = sorted(coco.loadCats(coco.getCatIds()), key=lambda category: category["id"])
    if not categories:
        raise ValueError(f"{annotations} lists no categories")
    index = {category["id"]: i for i, category in enumerate(categories)}
    for annotation in coco.dataset["annotations"]:
        if annotation["category_id"] not in index:
            raise ValueError(
                f"{annotations}: annotation {annotation['id']} is of category {annotation['category_id']}, "
                f"which is not among the file's categories {list(index)}"
            )
    columns: dict[str, list] = {"image": [], "labels": [], "label_ids": [], "image_id": []}
    for image in coco.loadImgs(sorted(coco.getImgIds())):
        present = sorted({index[a["category_id"]] for a in coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))})
        if not present and not keep_unlabeled:
            continue
        labels = np.zeros(len(categories), dtype=np.float32)
        labels[present] = 1
        columns["image"].append(str(Path(images, image["file_name"])))
        columns["labels"].append(labels)
        columns["label_ids"].append(present)
        columns["image_id"].append(image["id"])
    _check_files(columns["image"], annotations)
    features = Features(
        {
            "image": Image(),
            "labels": List(Value("float32"), length=len(categories)),
            "label_ids": List(ClassLabel(names=[category["name"] for category in categories])),
            "image_id": Value("int64"),
        }
    )
    return Dataset.from_dict(columns, features=features)


def _read(annotations: Path) -> COCO:
    if not annotations.is_file():
        raise FileNotFoundError(f"No annotation file at {annotations}")
    with open(os.devnull, "w") as silence, redirect_stdout(silence):  # pycocotools reports its progress there
        try:
            coco = COCO(str(annotations))
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ValueError(f"{annotations} is not in COCO's instances format: {error!r}") from error
    missing = [key for key in ("images", "annotations", "categories") if key not in coco.dataset]
    if missing:
        raise ValueError(f"{annotations} is not in COCO's instances format: it has no {', '.join(missing)}")
    return coco


def _check_files(paths: list[str], annotations: str | os.PathLike[str]) -> None:
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise FileNotFoundError(f"{annotations} lists {len(missing)} images that are missing, the first {missing[0]}")
