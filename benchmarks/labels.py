"""Cost against the number of labels: time and memory of inference, memory of a training step, on CPU.

python -m benchmarks.labels --output benchmark-output/labels
"""

import argparse
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from gkgnet_hf.modeling.configuration_gkgnet import VARIANTS

from .contenders import Contender, build
from .measure import fresh, interleaved, machine, memory, multiply_adds, spread
from .report import markdown


def main() -> None:
    """Measure what the command line asks for; write results.json and table.md into the output folder."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.labels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--variant", default="s", choices=list(VARIANTS), help="size of GKGNet")
    add("--size", type=int, default=448, help="side in pixels")
    add("--labels", nargs="+", type=int, default=[80, 1000, 10_000], help="numbers of labels; times are ÷ the first's")
    blocks = ["1,1,1,1", "0,1,1,1", "0,0,1,1", "0,0,1,0"]
    add("--blocks", nargs="+", default=blocks, help="num_label_blocks; the first also at the first number of labels")
    add("--train-batch", type=int, default=8, help="images in the training step; 0 leaves it out")
    add("--repeats", type=int, default=5, help="rounds to measure")
    add("--threads", type=int, default=torch.get_num_threads(), help="threads")
    add("--output", type=Path, default=Path("benchmark-output/labels"), help="folder")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the processes started from here
    torch.set_num_threads(options.threads)
    first = Contender(f"gkgnet_{options.variant}", "optimised", "float32", options.size, 1, "cpu", False)
    every = [
        replace(first, labels=labels, label_blocks=blocks)
        for labels, blocks in itertools.product(options.labels, options.blocks)
        if labels != options.labels[0] or blocks == options.blocks[0]
    ]
    rows = []
    peaks = {c: fresh(memory, c) for c in tqdm(every, desc="Memory", leave=False)}
    steps = {contender: build(contender) for contender in tqdm(every, desc="Building", leave=False)}
    times = interleaved(steps, options.repeats)
    for contender, step in steps.items():
        row = {
            "labels": contender.labels,
            "label_blocks": contender.label_blocks,
            "ratio": spread(times[contender], times[every[0]]),
            "multiply_adds": multiply_adds(step),
            "peak_MB": peaks[contender]["peak_MB"],
        }
        if options.train_batch:
            # Blocks are recomputed, as `--gradient_checkpointing` has it.
            training = replace(contender, path="checkpointed", batch_size=options.train_batch, train=True)
            row["train_peak_MB"] = fresh(memory, training)["peak_MB"]
        rows.append(row)
    results = {"machine": machine(), **vars(options), "output": str(options.output), "rows": rows}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(results, indent=2))
    (options.output / "table.md").write_text(table(results))
    print(table(results))


def table(results: dict) -> str:
    """The rows for a person to read."""
    header = ["labels", "num_label_blocks", f"time ÷ {results['labels'][0]} labels", "multiply-adds", "peak"]
    trained = bool(results["train_batch"])
    header += [f"peak of training, batch {results['train_batch']}"] * trained
    lines = []
    for row in results["rows"]:
        ratio = row["ratio"]
        cells = [
            f"{row['labels']:,}",
            row["label_blocks"],
            f"{ratio['median']:.2f} ({ratio['low']:.2f} – {ratio['high']:.2f})",
            f"{row['multiply_adds'] / 1e9:.1f} G",
            f"{row['peak_MB']:,.0f} MB",
        ]
        lines.append(cells + [f"{row['train_peak_MB'] / 1000:.1f} GB"] * trained)
    return "\n".join(markdown([header, *lines])) + "\n"


if __name__ == "__main__":
    main()
