"""Pictures of an explanation: which patches a label gathered from, its heat map, a patch and its neighbours.

Groups have colours that people with any kind of colour vision tell apart (Okabe and Ito,
https://jfly.uni-koeln.de/color/), and shapes of their own beside them: each group's outline has another dash.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from ..data.words import shown

if TYPE_CHECKING:
    from .attribution import Explanation

GROUP_COLORS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00", "#999999")
GROUP_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")
PANEL = 4.0  # inches
PANELS_A_ROW = 4
LONGEST_NAME = 28  # characters that fit above a panel


class ShownFigure(Figure):
    """A figure that notebooks show whether or not pyplot has been imported."""

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        self.savefig(content, format="png", dpi=72)
        return content.getvalue()


def draw_label_patches(explanation: "Explanation", labels: Sequence[str], stage: int) -> Figure:
    """A panel a label: the patches that it gathered from at a stage, the stronger the more channels they won."""
    looks = explanation.label_stages[stage]
    boxes = explanation.boxes(stage)
    figure, panels = _panels(explanation, len(labels))
    for label, axes in zip(labels, panels, strict=True):
        row = explanation.index(label)
        _name(axes, explanation, label)
        strongest = max(float(looks.shares[row].max()), 1e-9)
        for group, (patches, shares) in enumerate(zip(looks.neighbors[row], looks.shares[row], strict=True)):
            for patch, share in zip(patches, shares, strict=True):
                _box(axes, boxes[patch], group, fill=0.1 + 0.5 * float(share) / strongest, inset=group)
    _legend(figure, looks.neighbors.shape[1])
    return figure


def draw_maps(explanation: "Explanation", maps: Mapping[str, NDArray[np.float32]], stage: int) -> Figure:
    """A panel a label: the image under a map (rows, columns) on a stage's grid; negative values are left out."""
    figure, panels = _panels(explanation, len(maps))
    boxes = explanation.boxes(stage)
    extent = (boxes[0, 0], boxes[-1, 2], boxes[-1, 3], boxes[0, 1])
    for (label, heat), axes in zip(maps.items(), panels, strict=True):
        _name(axes, explanation, label)
        if heat.size != len(boxes):
            raise ValueError(f"The map of {label} is {heat.shape}, stage {stage} has {len(boxes)} patches")
        strength = np.sqrt(np.maximum(heat, 0) / max(float(heat.max()), 1e-9))
        axes.imshow(heat, cmap="inferno", alpha=0.75 * strength, extent=extent, interpolation="nearest")
    return figure


def draw_patch_neighbors(explanation: "Explanation", patch: int, stage: int) -> Figure:
    """A patch of a stage, and lines to its neighbours in each group."""
    looks = explanation.patch_stages[stage]
    home, sources = explanation.boxes(stage)[patch], explanation.source_boxes(stage)
    figure, (axes,) = _panels(explanation, 1)
    axes.set_title(f"Stage {stage}: one patch and its neighbours")
    for group, neighbors in enumerate(looks.neighbors[:, patch]):
        for neighbor in neighbors:
            box = sources[neighbor]
            _box(axes, box, group, fill=0.3, inset=group)
            ends = np.stack((_center(home), _center(box)), axis=1)
            axes.plot(*ends, color=_color(group), linewidth=1.2, linestyle=GROUP_DASHES[group % len(GROUP_DASHES)])
    axes.add_patch(Rectangle(*_corner(home), fill=False, edgecolor="white", linewidth=4))
    axes.add_patch(Rectangle(*_corner(home), fill=False, edgecolor="black", linewidth=2))
    _legend(figure, looks.neighbors.shape[0])
    return figure


def _panels(explanation: "Explanation", count: int) -> tuple[Figure, list[Axes]]:
    """A figure with the image in each of `count` panels."""
    if count < 1:
        raise ValueError("There must be one label or more to draw, got none")
    rows, columns = -(-count // PANELS_A_ROW), min(count, PANELS_A_ROW)
    width, height = explanation.image.size
    tall = PANEL * min(2.0, max(0.25, height / width)) + 0.6
    figure = ShownFigure(figsize=(PANEL * columns, tall * rows), layout="constrained")
    panels = [axes for row in figure.subplots(rows, columns, squeeze=False) for axes in row]
    for axes in panels:
        axes.set_axis_off()
    for axes in panels[:count]:
        axes.imshow(explanation.image, extent=(0, width, height, 0))  # boxes count from pixels' corners
        axes.autoscale(False)
    return figure, panels[:count]


def _name(axes: Axes, explanation: "Explanation", label: str) -> None:
    """The label and its score above a panel, as text: `$` is no formula."""
    name = shown(label)
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    axes.set_title(f"{name} {explanation.scores[explanation.index(label)]:.0%}", parse_math=False)


def _box(axes: Axes, box: NDArray[np.float32], group: int, fill: float, inset: int) -> None:
    """A filled outline in a group's colour; each further group's lies a little inside, so that both are seen."""
    (left, top), width, height = _corner(box)
    by_x, by_y = 0.06 * inset * width, 0.06 * inset * height
    corner, width, height = (left + by_x, top + by_y), width - 2 * by_x, height - 2 * by_y
    dash = GROUP_DASHES[group % len(GROUP_DASHES)]
    color = _color(group)
    axes.add_patch(Rectangle(corner, width, height, facecolor=color, alpha=fill, edgecolor="none"))
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=color, linewidth=1.8, linestyle=dash))


def _corner(box: NDArray[np.float32]) -> tuple[tuple[float, float], float, float]:
    left, top, right, bottom = box.tolist()
    return (left, top), right - left, bottom - top


def _center(box: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], dtype=np.float32)


def _color(group: int) -> str:
    return GROUP_COLORS[group % len(GROUP_COLORS)]


def _legend(figure: Figure, num_groups: int) -> None:
    handles = [
        Patch(
            facecolor="none",
            edgecolor=_color(group),
            linewidth=1.8,
            linestyle=GROUP_DASHES[group % len(GROUP_DASHES)],
            label=f"group {group + 1}",
        )
        for group in range(num_groups)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=num_groups, frameon=False)
