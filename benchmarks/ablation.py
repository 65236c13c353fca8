"""What label nodes and groups bring on the digit scenes: mAP of three networks, several seeds each.

python -m benchmarks.ablation --output ablation
"""

import argparse
import gc
import json
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from gkgnet_hf.data.digits import make_digits
from gkgnet_hf.training import read_recipe, run_training

NETWORKS = {
    "label nodes, G = 2": {},
    "label nodes, G = 1": {"num_groups": 1, "num_label_groups": 1},
    "no label nodes, G = 2": {"num_label_blocks": [0, 0, 0, 0]},
}


def main() -> None:
    """Train what is not there yet, then write results.json, table.md and mAP.png into the output folder."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder; a run that was cut short goes on there")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each network")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of 32 scenes")
    parser.add_argument("--scenes", type=int, default=8000, help="training scenes")
    options = parser.parse_args()
    scenes = options.output / "digits"
    if not scenes.exists():
        make_digits(scenes, num_train=options.scenes, num_validation=1000)
    results: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        for name, changes in NETWORKS.items():
            results.setdefault(name, []).append(measure(options, scenes, seed, changes))
    (options.output / "results.json").write_text(json.dumps(results, indent=2))
    (options.output / "table.md").write_text(table(results))
    plot(results, options.output / "mAP.png")
    print(table(results))


def measure(options: argparse.Namespace, scenes: Path, seed: int, changes: dict) -> float:
    """Validation mAP of one network, trained unless its folder is there already."""
    name = "-".join([f"seed{seed}", *(f"{key}{np.max(value)}" for key, value in changes.items())])
    metrics = options.output / name / "eval_results.json"
    if not metrics.exists():
        words = ["--dataset", str(scenes), "--output_dir", str(metrics.parent), "--config", json.dumps(changes)]
        run_training(read_recipe(["digits", *words, "--max_steps", str(options.steps), "--seed", str(seed)]))
        gc.collect()
    return json.loads(metrics.read_text())["eval_mAP"]


def table(results: dict[str, list[float]]) -> str:
    """A Markdown table."""
    lines = ["| network | mAP of each seed | mean | standard deviation |", "| --- | --- | --- | --- |"]
    for name, values in results.items():
        each = ", ".join(f"{value:.1f}" for value in values)
        deviation = f"{statistics.stdev(values):.1f}" if len(values) > 1 else ""
        lines.append(f"| {name} | {each} | {statistics.mean(values):.1f} | {deviation} |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, list[float]], path: Path) -> None:
    """One row a network: a dot for each seed, a line at the mean."""
    figure, axes = plt.subplots(figsize=(6, 2.2), layout="constrained")
    for row, values in enumerate(results.values()):
        axes.plot(values, [row] * len(values), "o", color="tab:blue", alpha=0.7)
        axes.plot([statistics.mean(values)] * 2, [row - 0.3, row + 0.3], color="black")
    axes.set_yticks(range(len(results)), list(results))
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xlabel("validation mAP on digit scenes; line: mean")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
