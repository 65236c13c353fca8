"""Do labels look at their objects? The pointing game, and the share of the heat inside the objects' boxes.

Pointing game: https://arxiv.org/abs/1608.00507. A label of an image is a hit if the centre of the hottest patch lies in
one of the label's boxes. Beside the label nodes stand what each patch adds to the other part of the score (`patch_maps`
of `explain`), and three references: Grad-CAM, the centre of the image, and a patch drawn at random (its exact
expectation: the part of the image inside the boxes).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from ..data.words import shown
from ..explain.attribution import Box, image_area, label_looks, logit_parts, mean_heat, patch_side, read_image, spread
from ..explain.gradients import grad_cam
from ..modeling.image_processing_gkgnet import to_pixel_values
from ..modeling.modeling_gkgnet import GKGNetForImageClassification
from ..predict import eval_mode, label_thresholds, model_label_names, probabilities
from .metrics import SIZES

WIDEST_NAME = 40  # characters of a label in the table

POOLED, GRAD_CAM, CENTER, RANDOM = "pooled patches", "Grad-CAM", "centre", "random patch"

Boxes = Mapping[str, Sequence[Box]]


@dataclass(frozen=True, eq=False)
class Pointing:
    """How well methods point at the objects of n pairs of an image and one of its labels.

    Attributes:
        label_names: names of the model's L labels.
        labels: (n,) int64, the label of each pair.
        scores: (n,) float32, its probability.
        sizes: (n,), "small", "medium" or "large": the size of its largest box, by COCO's limits.
        hits: method → (n,) float64, 1 where the hottest patch's centre lies in a box; an expectation for a random one.
        shares: method → (n,) float64, the part of the heat that lies inside the boxes.
        threshold: (L,) decision thresholds.
    """

    label_names: list[str]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    sizes: NDArray[np.str_]
    hits: dict[str, NDArray[np.float64]]
    shares: dict[str, NDArray[np.float64]]
    threshold: NDArray[np.float64]

    def groups(self) -> dict[str, NDArray[np.bool_]]:
        """The pairs (n,) of each group that has any: all, those that the model predicts, by object size."""
        groups = {"all": np.ones(len(self.labels), dtype=bool)}
        groups["predicted"] = self.scores >= self.threshold[self.labels]
        groups |= {size: self.sizes == size for size in SIZES}
        return {name: pairs for name, pairs in groups.items() if pairs.any()}

    def to_dict(self) -> dict[str, Any]:
        """Group → number of pairs and, for each method, the mean of hits and shares in percent; the same of each label.

        The labels stand under `labels`, for one of them may be called as a group is.
        """
        found = {name: self._means(pairs) for name, pairs in self.groups().items()}
        labels = {self.label_names[label]: self._means(self.labels == label) for label in np.unique(self.labels)}
        return {**found, "labels": labels}

    def _means(self, pairs: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            "pairs": int(pairs.sum()),
            "hits": {method: 100 * float(hits[pairs].mean()) for method, hits in self.hits.items()},
            "shares": {method: 100 * float(shares[pairs].mean()) for method, shares in self.shares.items()},
        }

    def __str__(self) -> str:
        found = self.to_dict()
        labels = {shown(name): row for name, row in found.pop("labels").items()}
        width = min(max(map(len, [*labels, "predicted"])), WIDEST_NAME) + 2
        lines = ["Hottest patch inside a box of the label, % / heat inside the boxes, %"]
        lines.append(" " * width + f"{'pairs':>7}" + "".join(f"{method:>14}" for method in self.hits))
        for name, row in [*found.items(), *labels.items()]:
            name = name if len(name) <= WIDEST_NAME else name[: WIDEST_NAME - 1] + "…"
            cells = (f"{row['hits'][method]:.1f} / {row['shares'][method]:.1f}" for method in self.hits)
            lines.append(f"{name:<{width}}{row['pairs']:>7,}" + "".join(f"{cell:>14}" for cell in cells))
        return "\n".join(lines)


def pointing_game(
    model: GKGNetForImageClassification,
    processor: BaseImageProcessor,
    dataset: Dataset,
    boxes: Mapping[Any, Boxes],
) -> Pointing:
    """Whether labels look at their objects.

    Args:
        model: a GKGNet with label nodes.
        processor: its image processor.
        dataset: N images with the columns `image` and `image_id`.
        boxes: image id → label → its boxes (left, top, right, bottom) in pixels of the image, as `read_boxes` gives
            them. Labels that the model does not have are left out.

    Returns:
        One pair for each image and label with a box. The methods are the label nodes over all stages, each stage of
        them, the pooled patches, Grad-CAM, the centre, and a random patch.

    Raises:
        ValueError: if the model has no label nodes, `image_id` is missing, or no label has a box.

    Example:

        print(pointing_game(model, processor, validation, read_boxes("coco", "validation")))
    """
    if model.label_classifier is None:
        raise ValueError("The model has no label nodes, so its labels look at no patch")
    if "image_id" not in dataset.column_names:
        raise ValueError(f"The dataset must have a column image_id, it has {', '.join(dataset.column_names)}")
    names = model_label_names(model)
    row_of = {name: row for row, name in enumerate(names)}
    pairs: list[dict[str, Any]] = []
    images = dataset.with_format(None).select_columns(["image", "image_id"])
    with eval_mode(model):
        for row in tqdm(images, desc="Pointing", unit="image"):
            known = {row_of[label]: found for label, found in boxes.get(row["image_id"], {}).items() if label in row_of}
            if known:
                pairs += _point(model, processor, row["image"], known)
    if not pairs:
        raise ValueError("No image of the dataset has a box of a label that the model has")

    def gather(key: str) -> dict[str, NDArray[np.float64]]:
        return {method: np.array([pair[key][method] for pair in pairs]) for method in pairs[0][key]}

    return Pointing(
        label_names=names,
        labels=np.array([pair["label"] for pair in pairs]),
        scores=np.array([pair["score"] for pair in pairs], dtype=np.float32),
        sizes=np.array([pair["size"] for pair in pairs]),
        hits=gather("hits"),
        shares=gather("shares"),
        threshold=label_thresholds(model.config.decision_threshold, len(names)),
    )


def _point(
    model: GKGNetForImageClassification, processor: BaseImageProcessor, image: Any, boxes: dict[int, Sequence[Box]]
) -> list[dict[str, Any]]:
    """The pairs of one image, whose labels (rows) have boxes."""
    original, prepared = read_image(processor, image)
    pixel_values = to_pixel_values(processor, [prepared]).to(model.device, model.dtype)
    with torch.inference_mode():
        outputs = model.gkgnet(pixel_values, output_hidden_states=True, output_neighbors=True)
        looks = label_looks(outputs, image=0)
        label_logits, patch_logits, patch_maps = logit_parts(model, outputs)
    scores = probabilities(label_logits + patch_logits, model.config.problem_type)[0]
    labels = list(boxes)
    gradients = torch.from_numpy(grad_cam(model, pixel_values.expand(len(labels), -1, -1, -1), labels))
    coarse = {POOLED: patch_maps[0, labels].clamp(min=0).cpu(), GRAD_CAM: gradients}
    size = (pixel_values.shape[2], pixel_values.shape[3])
    area = image_area(processor, *original.size)
    finest = min(looks)
    pairs = []
    for i, label in enumerate(labels):
        inside = _inside(boxes[label], area, size)
        coverage, hit = _per_patch(inside, patch_side(finest))
        maps = {"label nodes": mean_heat(looks, label)}
        maps |= {
            f"stage {stage}": spread(look.share_of_patches(label), looks[finest].grid) for stage, look in looks.items()
        }
        maps |= {
            method: F.interpolate(found[i][None, None], coverage.shape, mode="bilinear")[0, 0].numpy()
            for method, found in coarse.items()
        }
        pairs.append(
            {
                "label": label,
                "score": scores[label],
                "size": _size(boxes[label]),
                "hits": {method: float(hit.flat[heat.argmax()]) for method, heat in maps.items()},
                "shares": {
                    method: float((heat * coverage).sum() / max(heat.sum(), 1e-20)) for method, heat in maps.items()
                },
            }
        )
        center = (size[0] // 2, size[1] // 2)
        pairs[-1]["hits"] |= {CENTER: float(inside[center]), RANDOM: float(hit.mean())}
        pairs[-1]["shares"] |= {CENTER: float(inside[center]), RANDOM: float(coverage.mean())}
    return pairs


def _inside(boxes: Sequence[Box], area: Box, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (H, W) of what the network saw, `area` of the image, that lie in one of the boxes."""
    inside = np.zeros(size, dtype=bool)
    left, top, right, bottom = area
    for box in boxes:
        x = [round((edge - left) / (right - left) * size[1]) for edge in box[::2]]
        y = [round((edge - top) / (bottom - top) * size[0]) for edge in box[1::2]]
        inside[max(y[0], 0) : max(y[1], 0), max(x[0], 0) : max(x[1], 0)] = True
    return inside


def _per_patch(inside: NDArray[np.bool_], side: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Patches of `side` pixels: which part of each is inside, and whether its centre is."""
    pixels = torch.from_numpy(inside)[None].float()
    coverage = F.avg_pool2d(pixels, side, ceil_mode=True)[0].numpy()
    y, x = (
        np.minimum(np.arange(n) * side + side // 2, m - 1) for n, m in zip(coverage.shape, inside.shape, strict=True)
    )
    return coverage, inside[y[:, None], x]


def _size(boxes: Sequence[Box]) -> str:
    largest = max((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    return next(name for name, (least, limit) in SIZES.items() if least <= largest < limit)
