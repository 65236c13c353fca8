"""The results of `python -m benchmarks` as a Markdown table and a plot."""

import itertools
from pathlib import Path

import matplotlib.pyplot as plt

from .contenders import baseline_path

HEAD = ["network", "path", "dtype", "time ÷ {baseline}", "times as fast as reference float32", "memory ÷ {baseline}"]
HEAD += ["multiply-adds", "absolute"]


def table(results: dict) -> str:
    """The machine, then a table for each device, size and batch."""
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    lines = [f"{machine}.", ""]
    lines += [
        "Time: median of rounds in which each ran once; in brackets the range of the ratios. Memory: peak of a",
        f"process of its own beyond its imports ({results['imports_MB']['cpu']:,.0f} MB); of its tensors on CUDA.",
        "Floor: the convolutions and matrix products alone. The baseline of a row has its dtype.",
    ]
    for (device, size, batch_size), rows in grouped(results["rows"], "device", "size", "batch_size"):
        step = "forward and backward" if rows[0]["train"] else "inference"
        head = [name.format(baseline=baseline_path(rows[0]["train"])) for name in HEAD]
        lines += ["", f"### {device}, {size} × {size}, batch {batch_size}, {step}", ""]
        lines += markdown([head, *(cells(row, rows, results["imports_MB"]) for row in rows)])
    if "largest_batch" in results:
        head = ["network", "path", "dtype", "size", "batch_size", "images_per_s"]
        rows = [
            [f"{row[name]:.0f}" if name == "images_per_s" else row[name] for name in head]
            for row in results["largest_batch"]
        ]
        lines += ["", "### Largest batch that fits", "", *markdown([head, *rows])]
    lines += ["", *(f"Left out: {reason}." for reason in results["left_out"])]
    return "\n".join(lines).rstrip() + "\n"


def grouped(rows: list[dict], *names: str):
    """The rows in runs of equal values of these names."""
    return [(key, list(run)) for key, run in itertools.groupby(rows, lambda row: tuple(row[name] for name in names))]


def markdown(rows: list[list]) -> list[str]:
    head, *body = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return [head, "|" + " --- |" * len(rows[0]), *body]


def cells(row: dict, rows: list[dict], imports_mb: dict[str, float]) -> list[str]:
    ratio, images_per_s = row["ratio"], row["batch_size"] / row["seconds"]
    absolute = f"{1000 * row['seconds']:,.0f} ms, {images_per_s:.3g} images/s"
    memory = ""
    if row["peak_MB"] is not None:
        kind = (baseline_path(row["train"]), row["dtype"])
        baseline = next(each for each in rows if (each["path"], each["dtype"]) == kind)  # of the first GKGNet
        own, other = (each["peak_MB"] - imports_mb[row["device"]] for each in (row, baseline))
        memory = f"{own / other:.2f}"
        absolute += f", {own:,.0f} MB"
    return [
        row["network"],
        row["path"],
        row["dtype"],
        f"{ratio['median']:.2f} ({ratio['low']:.2f} – {ratio['high']:.2f})",
        f"{row['reference_float32_ratio']['median']:.2f}",
        memory,
        f"{row['multiply_adds'] / 1e9:.1f} G",
        absolute,
    ]


def plot(results: dict, path: Path) -> None:
    """Bars of time relative to the baseline: a panel for each device, batch and dtype, a bar for each size."""
    rows = results["rows"]
    labels = list(dict.fromkeys((row["network"], row["path"]) for row in rows))
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    places = list(dict.fromkeys((row["device"], row["batch_size"]) for row in rows))
    panels = list(itertools.product(places, dtypes))
    size = (2 + 4.5 * len(dtypes), len(places) * (1 + len(labels) * (0.2 + 0.15 * len(sizes))))
    figure, grid = plt.subplots(
        len(places), len(dtypes), figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    for axes, (place, dtype) in zip(grid.flat, panels, strict=True):
        chosen = [row for row in rows if (row["device"], row["batch_size"]) == place and row["dtype"] == dtype]
        bars(axes, chosen, labels, sizes)
        axes.set_title(f"{place[0]}, batch {place[1]}, {dtype}", loc="left", fontsize=10)
    step = "a training step" if rows[0]["train"] else "inference"
    figure.supxlabel(f"time of {step} ÷ {baseline_path(rows[0]['train'])} in the same dtype (line: range)", fontsize=10)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), title="pixels", frameon=False, loc="outside right upper")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def bars(axes: plt.Axes, rows: list[dict], labels: list[tuple[str, str]], sizes: list[int]) -> None:
    thickness = 0.8 / len(sizes)
    for i, size in enumerate(sizes):
        chosen = [row for row in rows if row["size"] == size]
        place = [labels.index((row["network"], row["path"])) - 0.4 + (i + 0.5) * thickness for row in chosen]
        ratios = [row["ratio"] for row in chosen]
        middle = [ratio["median"] for ratio in ratios]
        color = plt.get_cmap("Blues")(0.35 + 0.5 * i / max(1, len(sizes) - 1))
        axes.barh(place, middle, thickness * 0.9, color=color, label=str(size))
        axes.hlines(place, [r["low"] for r in ratios], [r["high"] for r in ratios], color="black", linewidth=1)
        for y, ratio in zip(place, ratios, strict=True):
            axes.annotate(
                f"{ratio['median']:.2f}",
                (ratio["high"], y),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
    axes.axvline(1, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
    names = [network if path == "timm" else f"{network}\n{path}" for network, path in labels]
    axes.set_yticks(range(len(labels)), names, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
