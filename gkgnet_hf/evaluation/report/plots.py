"""The report's plots, by matplotlib, as SVG that stands in the page.

Colours are told apart with any kind of colour vision (Okabe and Ito, https://jfly.uni-koeln.de/color/), and lines have
dashes beside them. Text stays text, so that it can be read aloud, searched and enlarged.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.words import shown
from ..metrics import Counts, Floats
from .bootstrap import Comparison
from .curves import Calibration

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise ImportError("The report is drawn by matplotlib: pip install 'gkgnet-hf[report]'") from error

ALL_COLOR, LABEL_COLOR, FIRST_COLOR, SECOND_COLOR = "#595959", "#0072B2", "#0072B2", "#D55E00"
MOST_IN_HEAT_MAP = 30
MOST_DIFFERENCES = 15  # up, and as many down
LONGEST_NAME = 24

Frame = tuple[float, float, float, float]


def curve_plot(curve: NDArray[np.float64]) -> tuple[str, Frame]:
    """Precision against recall of all labels pooled, (P, 2), and a line that the page's script draws anew for a label.

    Returns:
        The SVG, and (left, top, width, height) of the axes in its units.
    """

    def draw(axes: Axes) -> None:
        axes.plot(curve[:, 0], curve[:, 1], color=ALL_COLOR, linestyle="--", linewidth=1.5)
        axes.set(xlabel="recall", ylabel="precision")

    return _unit_square(draw, "curve")


def calibration_plot(found: Calibration) -> tuple[str, Frame]:
    """How often scores come true, of all labels pooled, and a line as in `curve_plot`."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=1)
        axes.plot(found.means, found.frequencies, color=ALL_COLOR, linestyle="--", linewidth=1.5, marker="s", ms=4)
        axes.set(xlabel="mean score", ylabel="part that is positive")

    return _unit_square(draw, "calibration")


def _unit_square(draw: Callable[[Axes], None], name: str) -> tuple[str, Frame]:
    with _style():
        figure = Figure(figsize=(4.6, 4), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.plot([0, 1], [0, 0], color=LABEL_COLOR, linewidth=2, gid=f"{name}-line")
        axes.plot([0, 1], [0, 0], color=LABEL_COLOR, linewidth=8, solid_capstyle="round", gid=f"{name}-dots")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=np.arange(6) / 5, yticks=np.arange(6) / 5)
        axes.grid(color="#E5E5E5")
        axes.set_axisbelow(True)
        svg = _svg(figure)
        (left, top), (right, bottom) = axes.transData.transform([(0, 1), (1, 0)]) * 72 / figure.dpi
        height = figure.get_figheight() * 72
    return svg, (left, height - top, right - left, top - bottom)


def heat_map(values: NDArray[np.floating], counts: Counts, names: Sequence[str], rows: str, columns: str) -> str:
    """A square of labels by labels.

    Args:
        values: (L, L) from 0 to 1, the colours; NaN stays white.
        counts: (L, L), written into the cells where there are few labels.
        names: of the L labels.
        rows, columns: what they are.
    """
    count = len(names)
    with _style():
        side = 2 + 0.27 * max(count, 10)
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(values, cmap="Blues", vmin=0, vmax=1)
        shown_names = [_short(name) for name in names]
        axes.set_xticks(range(count), shown_names, rotation=90)
        axes.set_yticks(range(count), shown_names)
        axes.set_xlabel(columns)
        axes.set_ylabel(rows)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if count <= MOST_IN_HEAT_MAP:
            for row, column in np.argwhere(counts > 0):
                text = f"{counts[row, column]}" if counts[row, column] < 1000 else f"{counts[row, column] / 1000:.0f}k"
                color = "white" if values[row, column] > 0.72 else "black"  # where white reads better
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
        return _svg(figure)


def difference_plot(comparison: Comparison, names: Sequence[str]) -> str:
    """The labels whose AP differs most between two models, with intervals."""
    difference = comparison.second - comparison.first
    order = [i for i in np.argsort(-difference, kind="stable").tolist() if not np.isnan(difference[i])]
    if len(order) > 2 * MOST_DIFFERENCES:
        order = order[:MOST_DIFFERENCES] + order[-MOST_DIFFERENCES:]
    with _style():
        figure = Figure(figsize=(6.5, 1 + 0.26 * max(len(order), 2)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color="#595959", linewidth=1)
        places = np.arange(len(order))[::-1]
        ends = comparison.label_intervals[order].reshape(-1, 2)
        for ahead, color, marker in ((True, SECOND_COLOR, "o"), (False, FIRST_COLOR, "s")):
            chosen = (difference[order] > 0) == ahead
            axes.hlines(places[chosen], ends[chosen, 0], ends[chosen, 1], color=color, linewidth=1.5)
            axes.plot(difference[order][chosen], places[chosen], marker, color=color, ms=5)
        axes.set_yticks(places, [_short(names[i]) for i in order])
        axes.set_xlabel("AP of the second model minus AP of the first, in points")
        axes.grid(axis="x", color="#E5E5E5")
        axes.set_axisbelow(True)
        return _svg(figure)


def heat_colors(levels: int) -> NDArray[np.uint8]:
    """Colours (levels, 3) from no heat to most, as 8-bit RGB; black to yellow, like `Explanation.plot_heat`."""
    return matplotlib.colormaps["inferno"](np.linspace(0, 1, levels), bytes=True)[:, :3]


def most_active(pairs: Counts) -> list[int]:
    """The labels of a heat map: those with most in their rows and columns besides the diagonal, in their own order."""
    others = pairs - np.diag(np.diag(pairs))
    total = others.sum(0) + others.sum(1)
    most = np.argsort(-total, kind="stable")[:MOST_IN_HEAT_MAP]
    return sorted(label for label in most.tolist() if total[label])


def share_of_row(pairs: Counts, totals: Counts) -> Floats:
    """Counts (L, L) divided by the total (L,) of their row; 0 where that is 0."""
    return pairs / np.maximum(totals, 1)[:, None]


def _short(name: str) -> str:
    text = shown(name)
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


@contextmanager
def _style() -> Iterator[None]:
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "gkgnet-hf",  # the same numbers give the same page
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # the browser has others
        yield


def _svg(figure: Figure) -> str:
    """A figure as an SVG element, without what only a file of its own needs."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r' id="\w+_\d+"', "", svg)  # they repeat from figure to figure
