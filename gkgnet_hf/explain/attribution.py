"""The graph of one forward pass as arrays: which patches each label gathered from, and what each of them gave.

A label's message is, channel by channel, the largest value among its neighbours (eq. 1 of the paper). Which neighbour
won a channel is known, so a patch's share of a label is exact: the part of the label's channels that it won. Nothing is
estimated, and no gradient is needed.

Shapes: L labels, G groups of channels, K neighbours, C channels, patches of an H×W grid in row-major order.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import BaseImageProcessor

from ..data.labels import unknown_label
from ..data.pictures import open_picture, picture_reader
from ..modeling.group_knn import winning_ranks
from ..modeling.image_processing_gkgnet import num_channels_of, to_pixel_values, to_rgb
from ..modeling.modeling_gkgnet import GKGNetForImageClassification, GKGNetModelOutput
from ..modeling.vision_gnn import PatchGroupKGCN, PyramidVisionGNN
from ..predict import eval_mode, model_label_names, probabilities

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ImageLike = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]

Box = tuple[float, float, float, float]

NO_LABEL_NODES = "The network has no label nodes; patch_maps and plot_neighbors show its patches"


@dataclass(frozen=True)
class LabelLooks:
    """What the labels gathered at one stage.

    Args:
        grid: (rows, columns) of the stage's patches.
        neighbors: (L, G, K) int64, the patches of each label and group, nearest first.
        shares: (L, G, K) float32, the part of the label's channels that each of them won; they sum to 1 a label.
    """

    grid: tuple[int, int]
    neighbors: NDArray[np.int64]
    shares: NDArray[np.float32]

    def share_of_patches(self, label: int) -> NDArray[np.float32]:
        """The shares of a label (row of `neighbors`), added up over groups on the grid (rows, columns)."""
        size = self.grid[0] * self.grid[1]
        added = np.bincount(self.neighbors[label].ravel(), self.shares[label].ravel(), minlength=size)
        return added.reshape(self.grid).astype(np.float32)


@dataclass(frozen=True)
class PatchLooks:
    """What the patches gathered in the last block of one stage.

    Args:
        grid: (rows, columns) of the stage's patches.
        source_grid: the same of what they gathered from: the grid after the stage's average pooling.
        source_side: side of a cell of `source_grid`, in pixels of what the network saw.
        neighbors: (G, H·W, K) int64 positions in `source_grid`, nearest first.
    """

    grid: tuple[int, int]
    source_grid: tuple[int, int]
    source_side: int
    neighbors: NDArray[np.int64]


@dataclass(frozen=True)
class Explanation:
    """What labels saw in one image.

    Args:
        image: the picture, upright, 8-bit RGB, in its own size.
        labels: names of L labels.
        scores: (L,) float32, as `predict_scores` gives them.
        label_logits: (L,) float32, the part of each logit that comes from the label node; 0 without label nodes.
        patch_logits: (L,) float32, the part that comes from the pooled patches. Both add up to the logit.
        patch_maps: (L, H4, W4) float32, what each patch of the last stage adds to `patch_logits`; what is left is the
            classifier's bias.
        label_stages: for each stage with a cross-level module what labels gathered there, under its number, 1 to 4.
        patch_stages: for each stage what patches gathered in its last block.
        area: (left, top, right, bottom) of the part of the image that the network saw, in pixels of `image`.
        input_size: (height, width) of that part as the network saw it, in pixels of its own.
    """

    image: Image.Image
    labels: list[str]
    scores: NDArray[np.float32]
    label_logits: NDArray[np.float32]
    patch_logits: NDArray[np.float32]
    patch_maps: NDArray[np.float32]
    label_stages: dict[int, LabelLooks]
    patch_stages: dict[int, PatchLooks]
    area: Box
    input_size: tuple[int, int]

    def index(self, label: str) -> int:
        """The row of a label; ValueError for one that is not there."""
        if label not in self.labels:
            raise ValueError(unknown_label(label, self.labels))
        return self.labels.index(label)

    def heat_map(self, label: str, stage: int | None = None) -> NDArray[np.float32]:
        """Where a label looked: its shares as a grid that covers `area`, summing to 1.

        Args:
            label: name of the label.
            stage: 1 to 4, for the shares of that stage on its own grid. Default: the mean over the stages, on the
                finest of their grids; a coarse patch divides its share evenly among the fine ones it covers.

        Returns:
            (rows, columns) float32.

        Raises:
            ValueError: for a label or a stage that is not there, or a network without label nodes.
        """
        row = self.index(label)
        if not self.label_stages:
            raise ValueError(NO_LABEL_NODES)
        if stage is not None:
            return look_of(self.label_stages, stage).share_of_patches(row)
        return mean_heat(self.label_stages, row)

    def boxes(self, stage: int) -> NDArray[np.float32]:
        """The boxes (H·W, 4) of a stage's patches as (left, top, right, bottom) in pixels of `image`, row by row."""
        look_of(self.patch_stages, stage)
        return patch_boxes(self.area, self.input_size, patch_side(stage))

    def top_patch(self, label: str, stage: int | None = None) -> Box:
        """The box in the image of the patch where `heat_map` is highest."""
        heat = self.heat_map(label, stage)
        left, top, right, bottom = self.boxes(stage or min(self.label_stages))[heat.argmax()].tolist()
        return left, top, right, bottom

    def source_boxes(self, stage: int) -> NDArray[np.float32]:
        """The boxes, as in `boxes`, of what a stage's patches gathered from: positions in its `source_grid`."""
        looks: PatchLooks = look_of(self.patch_stages, stage)
        boxes = patch_boxes(self.area, self.input_size, looks.source_side)
        # The pooling leaves out what does not fill a cell at the rim.
        columns = -(-self.input_size[1] // looks.source_side)
        return boxes.reshape(-1, columns, 4)[: looks.source_grid[0], : looks.source_grid[1]].reshape(-1, 4)

    def patch_at(self, x: float, y: float, stage: int) -> int:
        """The patch of a stage, counted row by row, at pixel (x, y) of the image; ValueError outside of `area`."""
        boxes = self.boxes(stage)
        inside = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
        if not inside.any():
            left, top, right, bottom = self.area
            raise ValueError(
                f"No patch at ({x:g}, {y:g}): the network saw x {left:g} to {right:g}, y {top:g} to {bottom:g}"
            )
        return int(inside.argmax())

    def plot(self, labels: Sequence[str] | None = None, stage: int | None = None) -> "Figure":
        """The image with each label's patches, one colour a group (Figure 5 of the paper).

        Args:
            labels: the labels to draw, one a panel; default, the three of highest score.
            stage: which stage's patches, 1 to 4; default, the last one with label nodes.

        Returns:
            A matplotlib figure. In a notebook it shows itself.

        Raises:
            ValueError: for a label or a stage that is not there, or a network without label nodes.
        """
        from .figures import draw_label_patches

        if not self.label_stages:
            raise ValueError(NO_LABEL_NODES)
        stage = max(self.label_stages) if stage is None else stage
        look_of(self.label_stages, stage)
        return draw_label_patches(self, self._drawn(labels), stage)

    def plot_heat(self, labels: Sequence[str] | None = None, stage: int | None = None) -> "Figure":
        """The image under the heat map of each label; arguments as for `plot` and `heat_map`."""
        maps = {label: self.heat_map(label, stage) for label in self._drawn(labels)}
        return self.plot_maps(maps, stage or min(self.label_stages))

    def plot_maps(self, maps: Mapping[str, NDArray[np.float32]], stage: int = 4) -> "Figure":
        """The image under maps of other origin, such as `patch_maps` or `gradient_heat`.

        Args:
            maps: label → map (rows, columns) on the grid of `stage`. Negative values are left out.
            stage: 1 to 4.
        """
        from .figures import draw_maps

        return draw_maps(self, maps, stage)

    def plot_neighbors(self, x: float, y: float, stage: int = 4) -> "Figure":
        """The patch at pixel (x, y) of the image and its neighbours in each group (Figure 6 of the paper)."""
        from .figures import draw_patch_neighbors

        return draw_patch_neighbors(self, self.patch_at(x, y, stage), stage)

    def _drawn(self, labels: Sequence[str] | None) -> list[str]:
        if labels is not None:
            return _named(labels)
        return [self.labels[row] for row in np.argsort(-self.scores, kind="stable")[:3]]

    def save(self, path: str | os.PathLike[str], labels: Sequence[str] | None = None, stage: int | None = None) -> None:
        """Write what `plot` draws into an image file; its suffix says the format."""
        self.plot(labels, stage).savefig(path, dpi=150)


def explain(
    model: GKGNetForImageClassification,
    processor: BaseImageProcessor,
    image: ImageLike,
    labels: Sequence[str] | None = None,
) -> Explanation:
    """What each label of an image looked at, from one forward pass.

    Args:
        model: a GKGNet with its classifier; with or without label nodes.
        processor: its image processor.
        image: path, PIL image or array, as `predict` takes them.
        labels: the labels to explain, by name; default, all of them, highest score first.

    Returns:
        The graph as arrays, which can draw themselves.

    Raises:
        ValueError: for a label that the model does not have, what is no readable image, another network, or a
            processor whose resizing is unknown.
        TypeError: for an image that is no path, PIL image or array.

    >>> from gkgnet_hf import GKGNetConfig, create_image_processor
    >>> config = GKGNetConfig.from_variant("ti", id2label={0: "cat", 1: "dog"})
    >>> model = GKGNetForImageClassification(config).eval()
    >>> seen = explain(model, create_image_processor(config), Image.new("RGB", (640, 480)), labels=["dog"])
    >>> seen.label_stages[4].neighbors.shape, seen.heat_map("dog").shape, seen.boxes(stage=4)[0].astype(int).tolist()
    ((1, 2, 9), (56, 56), [0, 0, 91, 68])
    """
    if not hasattr(model, "patch_classifier"):
        raise ValueError(f"The model must be a GKGNet of transformers with its classifier, got {type(model).__name__}")
    chosen = None if labels is None else label_rows(model, labels)
    original, prepared = read_image(processor, image)
    pixel_values = to_pixel_values(processor, [prepared]).to(model.device, model.dtype)
    with eval_mode(model), torch.inference_mode(), _searches(model) as searches:
        outputs = model.gkgnet(pixel_values, output_hidden_states=True, output_neighbors=True)
        label_logits, patch_logits, patch_maps = logit_parts(model, outputs)
        looks = label_looks(outputs)
    scores = probabilities(label_logits + patch_logits, model.config.problem_type)[0]
    order = np.argsort(-scores, kind="stable").tolist() if chosen is None else chosen
    names = model_label_names(model)
    return Explanation(
        image=original,
        labels=[names[i] for i in order],
        scores=scores[order],
        label_logits=label_logits[0, order].cpu().numpy(),
        patch_logits=patch_logits[0, order].cpu().numpy(),
        patch_maps=patch_maps[0, order].cpu().numpy(),
        label_stages={
            stage: LabelLooks(looks.grid, looks.neighbors[order], looks.shares[order]) for stage, looks in looks.items()
        },
        patch_stages={
            stage: PatchLooks(s.grid, s.source_grid, s.source_side, s.neighbors[0]) for stage, s in searches.items()
        },
        area=image_area(processor, *original.size),
        input_size=(pixel_values.shape[2], pixel_values.shape[3]),
    )


def label_rows(model: GKGNetForImageClassification, labels: Sequence[str]) -> list[int]:
    """The rows of a model's scores that labels stand for, by name; ValueError for a name that it does not have."""
    names = model_label_names(model)
    rows = {name: row for row, name in enumerate(names)}
    for label in _named(labels):
        if label not in rows:
            raise ValueError(unknown_label(label, names))
    return [rows[label] for label in labels]


def _named(labels: Sequence[str]) -> list[str]:
    if isinstance(labels, str):
        raise ValueError(f"labels must be a list of names, got the text {labels!r}")
    return list(labels)


def patch_neighbors(model: nn.Module, pixel_values: Tensor) -> dict[int, PatchLooks]:
    """What the patches of each stage gathered in its last block, of transformers' and timm's models alike.

    Args:
        model: a GKGNet of transformers, or a `gkgnet_*` or `pvig_*` of timm. It runs in eval mode.
        pixel_values: (B, channels, H, W), normalised.

    Returns:
        Stage number, 1 to 4 → its grids and `neighbors` (B, G, H·W, K).

    Raises:
        ValueError: if it is another network.

    >>> import timm
    >>> looks = patch_neighbors(timm.create_model("gkgnet_ti", num_classes=3), torch.zeros(1, 3, 224, 224))
    >>> looks[1].grid, looks[1].source_grid, looks[1].neighbors.shape
    ((56, 56), (14, 14), (1, 2, 3136, 9))
    """
    with eval_mode(model), torch.inference_mode(), _searches(model) as searches:
        model(pixel_values)
    return searches


def label_looks(outputs: GKGNetModelOutput, image: int = 0) -> dict[int, LabelLooks]:
    """What the labels of one image of a batch gathered, by stage.

    Args:
        outputs: of `GKGNetModel` or `GKGNetForImageClassification`, with hidden states and neighbours.
        image: its row of the batch.
    """
    looks = {}
    for stage, neighbors in enumerate(outputs.label_neighbors or (), start=1):
        if neighbors is None:
            continue
        patches: Tensor = outputs.hidden_states[stage][image]  # type: ignore[index]
        dim, height, width = patches.shape
        neighbors = neighbors[image]  # (G, L, K)
        sources = patches.flatten(1).unflatten(0, (len(neighbors), -1)).mT  # (G, H·W, C/G)
        ranks = winning_ranks(sources[None], neighbors[None])[0]  # (G, L, C/G)
        won = torch.stack([(ranks == k).sum(-1) for k in range(neighbors.shape[2])], dim=-1)  # (G, L, K)
        looks[stage] = LabelLooks(
            grid=(height, width),
            neighbors=neighbors.transpose(0, 1).cpu().numpy(),
            shares=(won.transpose(0, 1) / dim).float().cpu().numpy(),
        )
    return looks


def look_of(stages: Mapping[int, Any], stage: int) -> Any:
    """The entry of a stage; ValueError for a stage that is not there."""
    if stage not in stages:
        raise ValueError(f"stage must be one of {', '.join(map(str, stages))}; got {stage}")
    return stages[stage]


def mean_heat(stages: Mapping[int, LabelLooks], label: int) -> NDArray[np.float32]:
    """The mean of a label's shares over stages, on the finest of their grids."""
    grid = stages[min(stages)].grid
    return np.mean([spread(looks.share_of_patches(label), grid) for looks in stages.values()], axis=0)


def spread(heat: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float32]:
    """A stage's map on the grid of an earlier stage: each patch divides its heat among those that it covers."""
    # A patch covers 2×2 of the stage before; at the rim of an odd grid, what is left of them.
    y, x = _cells(grid[0], heat.shape[0]), _cells(grid[1], heat.shape[1])
    return (heat / (np.bincount(y)[:, None] * np.bincount(x)))[y[:, None], x].astype(np.float32)


def _cells(fine: int, coarse: int) -> NDArray[np.int64]:
    """For each of `fine` positions along an axis, the one of `coarse` that covers it; sides were halved, rounded up."""
    factor = 1
    while -(-fine // factor) > coarse:
        factor *= 2
    return np.arange(fine) // factor


def patch_side(stage: int) -> int:
    """The side of a patch of a stage, 1 to 4, in pixels of what the network saw."""
    return 2 ** (stage + 1)


def patch_boxes(area: Box, input_size: tuple[int, int], side: int) -> NDArray[np.float32]:
    """The boxes (rows·columns, 4) in the image of patches of `side` input pixels a side; those at the rim are cut."""
    left, top, right, bottom = area
    (y, x) = (np.minimum(np.arange(0, size + side, side), size) / size for size in input_size)
    x, y = left + x * (right - left), top + y * (bottom - top)
    boxes = np.empty((len(y) - 1, len(x) - 1, 4), dtype=np.float32)
    boxes[..., 0], boxes[..., 2] = x[:-1], x[1:]
    boxes[..., 1], boxes[..., 3] = y[:-1, None], y[1:, None]
    return boxes.reshape(-1, 4)


def image_area(processor: BaseImageProcessor, width: int, height: int) -> Box:
    """The part of an image that an image processor shows to the network.

    Args:
        processor: one that resizes to a size, or the shorter side to one, and may then crop the centre.
        width, height: of the image, in pixels.

    Returns:
        (left, top, right, bottom) in pixels of the image; beyond its rim where the processor pads.

    Raises:
        ValueError: for a processor that resizes in another way.

    >>> from transformers import ViTImageProcessor
    >>> image_area(ViTImageProcessor(size={"height": 224, "width": 224}), 640, 480)
    (0.0, 0.0, 640.0, 480.0)
    """
    new_width, new_height = width, height
    if getattr(processor, "do_resize", False):
        size = {name: side for name, side in dict(processor.size).items() if side}  # type: ignore[attr-defined]
        if size.keys() == {"height", "width"}:
            new_width, new_height = size["width"], size["height"]
        elif size.keys() == {"shortest_edge"}:
            short = min(width, height)
            new_width, new_height = (int(size["shortest_edge"] * side / short) for side in (width, height))
        else:
            raise ValueError(f"Cannot tell which part of an image {type(processor).__name__} shows with size {size}")
    if getattr(processor, "do_pad", False):
        raise ValueError(f"Cannot tell which part of an image {type(processor).__name__} shows: it pads")
    left, top, right, bottom = 0.0, 0.0, float(new_width), float(new_height)
    if getattr(processor, "do_center_crop", False):
        crop = dict(processor.crop_size)  # type: ignore[attr-defined]
        left, top = float((new_width - crop["width"]) // 2), float((new_height - crop["height"]) // 2)
        right, bottom = left + crop["width"], top + crop["height"]
    across, down = width / new_width, height / new_height
    return left * across, top * down, right * across, bottom * down


def logit_parts(model: GKGNetForImageClassification, outputs: GKGNetModelOutput) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of label nodes (B, L) and of pooled patches (B, L), and what each patch adds to those, (B, L, H4, W4)."""
    patches: Tensor = outputs.last_hidden_state  # type: ignore[assignment]
    patch_logits = model.patch_classifier(outputs.pooler_output).float()
    if model.label_classifier is None:
        label_logits = torch.zeros_like(patch_logits)
    else:
        label_logits = model.label_classifier(outputs.label_hidden_state).float()
    weight = model.patch_classifier.weight
    maps = torch.einsum("lc,bchw->blhw", weight.float(), patches.float()) / (patches.shape[2] * patches.shape[3])
    return label_logits, patch_logits, maps


def read_image(processor: BaseImageProcessor, image: ImageLike) -> tuple[Image.Image, Any]:
    """The upright image in its own size, and what the processor is given, as `predict` gives it."""
    if isinstance(image, (str, os.PathLike)):
        if not Path(image).is_file():
            raise FileNotFoundError(f"No image file at {image}")
        original = open_picture(os.fspath(image), num_channels=num_channels_of(processor))
        prepared: Any = picture_reader(processor)(os.fspath(image))
    else:
        original, prepared = image, image
    if not isinstance(original, (Image.Image, np.ndarray)):
        raise TypeError(f"The image must be a path, a PIL image or an array, got {type(original).__name__}")
    if isinstance(original, np.ndarray):
        if original.dtype != np.uint8 or original.shape[2:] not in ((), (3,), (4,)):
            raise ValueError(
                f"An array must be an 8-bit image (H, W) or (H, W, 3), got {original.dtype} {original.shape}"
            )
        original = Image.fromarray(original)
    return to_rgb(original), prepared


@contextmanager
def _searches(model: nn.Module) -> Iterator[dict[int, PatchLooks]]:
    """Fills a dictionary, stage number → what its last block's patches gathered, while the model runs in the block."""
    networks = [module for module in model.modules() if isinstance(module, PyramidVisionGNN)]
    if len(networks) != 1:
        raise ValueError(f"The model must be a GKGNet or Pyramid ViG, got {type(model).__name__}")
    found: dict[int, PatchLooks] = {}

    def keep(number: int, stage: Any) -> Callable[..., None]:
        def hook(module: PatchGroupKGCN, inputs: tuple[Tensor, Any], output: Tensor) -> None:
            x, bias = inputs
            sources, neighbors = module.search(module.fc1(x), bias)
            found[number] = PatchLooks(
                grid=(x.shape[2], x.shape[3]),
                source_grid=(sources.shape[2], sources.shape[3]),
                source_side=patch_side(number) * stage.pool_ratio,
                neighbors=neighbors.cpu().numpy(),
            )

        return hook

    hooks = [
        stage.blocks[-1].graph.register_forward_hook(keep(number, stage))  # type: ignore[union-attr, index]
        for number, stage in enumerate(networks[0].stages, start=1)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
