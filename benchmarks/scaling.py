"""Cost against pixels: time and memory of GKGNet prepared for inference, float32, one image, by size.

python -m benchmarks.scaling --output benchmark-output/scaling
"""

import argparse
import json
import os
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from tqdm.auto import tqdm

from gkgnet_hf.modeling.configuration_gkgnet import VARIANTS

from .contenders import Contender, build
from .measure import fresh, machine, memory, seconds
from .report import markdown


def main() -> None:
    """Measure what the command line asks for; write results.json, table.md and scaling.png into the output folder."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [224, 320, 448, 576, 768, 960, 1152]
    parser.add_argument("--variant", default="s", choices=list(VARIANTS), help="size of GKGNet")
    parser.add_argument("--sizes", nargs="+", type=int, default=sizes, help="sides in pixels, at least two")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, default=Path("benchmark-output/scaling"), help="folder")
    options = parser.parse_args()
    network = f"gkgnet_{options.variant}"
    every = [Contender(network, "optimised", "float32", size, 1, options.device, False) for size in options.sizes]
    # What they free goes back to the system, so that the steps do not hide in what was freed after building.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    peaks = [fresh(memory, contender) for contender in tqdm(every, desc="Memory", leave=False)]
    rows = [
        {
            "size": contender.size,
            "pixels": contender.size**2,
            "nodes": (-(-contender.size // 4)) ** 2,
            "seconds": time_of(contender),
            "memory_MB": peak["steps_MB"] - peak["built_MB"],
        }
        for contender, peak in zip(tqdm(every, desc="Time", leave=False), peaks, strict=True)
    ]
    results = {"machine": machine(), "network": network, **fits(rows), "rows": rows}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(results, indent=2))
    (options.output / "table.md").write_text(table(results))
    plot(results, options.output / "scaling.png")
    print(table(results))


def time_of(contender: Contender) -> float:
    """Median of three steps in seconds."""
    step = build(contender)
    return statistics.median([seconds(step, contender.device) for _ in range(4)][1:])


def fits(rows: list[dict]) -> dict[str, float]:
    """The exponent of time against pixels, and the line of memory against nodes with its R²."""
    pixels, nodes, time, peak = (
        np.array([r[name] for r in rows]) for name in ("pixels", "nodes", "seconds", "memory_MB")
    )
    line = np.polyfit(nodes, peak, 1)
    return {
        "time_exponent": float(np.polyfit(np.log(pixels), np.log(time), 1)[0]),
        "MB_per_1000_nodes": 1000 * float(line[0]),
        "MB_at_no_nodes": float(line[1]),
        "memory_R2": float(1 - np.var(peak - np.polyval(line, nodes)) / np.var(peak)),
    }


def table(results: dict) -> str:
    """The machine, what was fitted, and a row for each size."""
    first = results["rows"][0]
    head = ["pixels", "nodes of the first stage", "time ÷ first", "pixels ÷ first", "absolute"]
    body = [
        [
            f"{row['size']} × {row['size']}",
            f"{row['nodes']:,}",
            f"{row['seconds'] / first['seconds']:.2f}",
            f"{row['pixels'] / first['pixels']:.2f}",
            f"{1000 * row['seconds']:,.0f} ms, {row['memory_MB']:,.0f} MB",
        ]
        for row in results["rows"]
    ]
    return "\n".join(
        [
            ", ".join(f"{name} {value}" for name, value in results["machine"].items()) + ".",
            "",
            f"{results['network']}, optimised, float32, one image. Memory is beyond imports and weights.",
            f"Time grows as pixels to the power of {results['time_exponent']:.2f}; memory by "
            f"{results['MB_per_1000_nodes']:.2f} MB for 1000 nodes (R² {results['memory_R2']:.4f}).",
            "",
            *markdown([head, *body]),
            "",
        ]
    )


def plot(results: dict, path: Path) -> None:
    """Time against pixels, both logarithmic, and memory against nodes, each with what was fitted."""
    rows = results["rows"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    pixels, time = (np.array([row[name] for row in rows]) for name in ("pixels", "seconds"))
    power = results["time_exponent"]
    scale = np.exp(np.mean(np.log(time) - power * np.log(pixels)))
    left.loglog(pixels, scale * pixels**power, color="0.6", label=f"pixels to the power of {power:.2f}")
    left.loglog(pixels, time, "o", color="tab:blue")
    left.set_xticks(pixels, [f"{row['size']}²" for row in rows], fontsize=8)
    left.set_xticks([], minor=True)
    left.set_xlabel("pixels")
    left.set_ylabel("seconds")
    nodes = np.array([row["nodes"] for row in rows]) / 1000
    fitted = results["MB_at_no_nodes"] + results["MB_per_1000_nodes"] * nodes
    right.plot(nodes, fitted, color="0.6", label=f"line, R² = {results['memory_R2']:.4f}")
    right.plot(nodes, [row["memory_MB"] for row in rows], "o", color="tab:blue")
    right.set_xlabel("thousand nodes of the first stage")
    right.set_ylabel("MB beyond imports and weights")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
