"""The worst pictures of each label: confident false positives and missed ones, with where the label looked."""

import io
import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from ...data.pictures import PictureError, open_picture, picture_reader
from ...data.words import shown
from ...explain.attribution import Box, Explanation, explain
from ...modeling.modeling_gkgnet import GKGNetForImageClassification
from ...predict import label_thresholds, model_label_names
from ..metrics import Bools, Floats, check_probabilities
from .plots import heat_colors

PICTURES_A_KIND = 3
MOST_PICTURES = 600  # 3 to 12 MB of thumbnails
MOST_EXPLAINED = 200  # pictures, each a forward pass
SIDE = 160  # pixels of a thumbnail
JPEG: dict[str, Any] = {"quality": 70, "optimize": True}
HEAT_LEVELS = 16

NO_CONTENT = {"bytes": None, "path": None}

Kind = Literal["wrong", "missed"]


@dataclass(frozen=True)
class Worst:
    """A picture (its row) that a model is wrong about: the label is predicted but not there, or missed."""

    label: int
    row: int
    kind: Kind
    score: float


@dataclass
class Thumbnail:
    """A small picture as data URLs.

    Attributes:
        file: name of the picture's file, empty if it has none.
        photo: the picture; empty if it cannot be read.
        size: its width and height.
        problem: why it cannot be read, or why it has no heat map.
        heat: label → a picture of its heat, for those that were explained.
        area: left, top, width and height of the heat in the photo, in percent of it.
    """

    file: str
    photo: str = ""
    size: tuple[int, int] = (SIDE, SIDE)
    problem: str = ""
    heat: dict[int, str] = field(default_factory=dict)
    area: tuple[float, float, float, float] = (0, 0, 100, 100)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Where the pictures of a report come from: the N images that were evaluated, and what explains them."""

    dataset: Dataset
    model: GKGNetForImageClassification
    processor: BaseImageProcessor

    def thumbnails(self, labels: dict[int, list[int]], most_explained: int = MOST_EXPLAINED) -> dict[int, Thumbnail]:
        """Thumbnails with heat maps.

        Args:
            labels: row of the dataset → the labels whose heat maps are wanted, which may be none.
            most_explained: of the rows that want heat maps, only the first get them.

        Returns:
            Row → its thumbnail.
        """
        rows = self.dataset.with_format(None).select_columns("image").cast_column("image", ImageFeature(decode=False))
        explained = set([row for row, wanted in labels.items() if wanted][:most_explained])
        return {
            row: self._thumbnail(rows[row]["image"] or NO_CONTENT, wanted if row in explained else [])
            for row, wanted in tqdm(labels.items(), desc="Drawing pictures", unit="image")
        }

    def _thumbnail(self, image: dict[str, Any], labels: list[int]) -> Thumbnail:
        thumbnail = Thumbnail(shown(os.path.basename(image.get("path") or "")))
        try:
            photo = open_picture(image, size=2 * SIDE)
            assert isinstance(photo, Image.Image)
            photo = ImageOps.contain(photo.convert("RGB"), (SIDE, SIDE))
            thumbnail.photo, thumbnail.size = data_url(photo, "jpeg", **JPEG), photo.size
        except (PictureError, OSError) as error:
            thumbnail.problem = _problem(error)
            return thumbnail
        if labels:
            names = [model_label_names(self.model)[label] for label in labels]
            try:
                original: Any = picture_reader(self.processor)(image)
                seen = explain(self.model, self.processor, original, names)
            except ValueError as error:  # a processor that pads, or more channels than a picture shows
                thumbnail.problem = _problem(error)
                return thumbnail
            thumbnail.heat = {label: heat_url(_heat(seen, name)) for label, name in zip(labels, names, strict=True)}
            thumbnail.area = _in_percent(seen.area, seen.image.size)
        return thumbnail


def worst_pictures(
    scores: ArrayLike,
    targets: ArrayLike,
    threshold: ArrayLike = 0.5,
    a_kind: int = PICTURES_A_KIND,
    most: int = MOST_PICTURES,
) -> list[Worst]:
    """The pictures that a model is most wrong about.

    Args:
        scores, targets, threshold: as in `multilabel_metrics`.
        a_kind: for each label, as many false positives of highest score, and as many missed ones of lowest score.
        most: in all. First comes the worst of each kind of each label, the labels with most mistakes first.

    Raises:
        ValueError: as in `multilabel_metrics`.

    >>> worst_pictures([[0.9], [0.2], [0.1]], [[0], [1], [1]], a_kind=1)
    [Worst(label=0, row=0, kind='wrong', score=0.9), Worst(label=0, row=2, kind='missed', score=0.1)]
    """
    scores, positive, known = check_probabilities(scores, targets)
    predicted = scores >= label_thresholds(threshold, scores.shape[1])
    wrong, missed = predicted & known & ~positive, positive & ~predicted
    found: list[tuple[int, Worst]] = []
    for label in np.argsort(-(wrong.sum(0) + missed.sum(0)), kind="stable").tolist():
        kinds: Sequence[tuple[Kind, Bools, int]] = (("wrong", wrong, -1), ("missed", missed, 1))
        for kind, where, sign in kinds:
            rows = np.flatnonzero(where[:, label])
            order = np.argsort(sign * scores[rows, label], kind="stable")[:a_kind]
            for rank, row in enumerate(rows[order].tolist()):
                found.append((rank, Worst(label, row, kind, float(scores[row, label]))))
    return [worst for _, worst in sorted(found, key=lambda item: item[0])[:most]]


def heat_url(heat: NDArray[np.floating]) -> str:
    """Heat (rows, columns) as a PNG: the more, the brighter and the less transparent."""
    strength = np.sqrt(np.maximum(heat, 0) / max(float(heat.max()), 1e-20))
    levels = np.rint(strength * (HEAT_LEVELS - 1)).astype(np.uint8)
    picture = Image.frombytes("P", (heat.shape[1], heat.shape[0]), levels.tobytes())
    picture.putpalette(heat_colors(HEAT_LEVELS).tobytes())
    alpha = np.rint(np.linspace(0, 0.75, HEAT_LEVELS) * 255).astype(np.uint8).tobytes()
    return data_url(picture, "png", transparency=alpha, bits=4, optimize=True)


def _problem(error: Exception) -> str:
    """Why a picture has no thumbnail or heat, without the folders of this machine, for pages are passed on."""
    if isinstance(error, PictureError):
        return shown(error.problem)
    if isinstance(error, OSError):
        return (
            "the file is missing"
            if isinstance(error, FileNotFoundError)
            else shown(error.strerror or "it cannot be opened")
        )
    return shown(error)


def _heat(seen: Explanation, label: str) -> Floats:
    """Where a label looked; without label nodes, the patches that spoke for it."""
    return seen.heat_map(label) if seen.label_stages else seen.patch_maps[seen.index(label)]


def _in_percent(area: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    (left, top, right, bottom), (width, height) = area, size
    return 100 * left / width, 100 * top / height, 100 * (right - left) / width, 100 * (bottom - top) / height


def data_url(picture: Image.Image, kind: str, **options: Any) -> str:
    """A picture as the content of a URL; options are Pillow's of this kind of file."""
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return f"data:image/{kind};base64,{b64encode(content.getvalue()).decode('ascii')}"
