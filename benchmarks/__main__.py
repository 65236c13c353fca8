"""Speed and memory of GKGNet against its reference path, its floor and other networks.

python -m benchmarks --output benchmark-output
python -m benchmarks --train --sizes 224 --batch-sizes 8 --output benchmark-output/train
"""

import argparse
import itertools
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import timm
import torch
from tqdm.auto import tqdm

from gkgnet_hf.modeling.configuration_gkgnet import VARIANTS

from .contenders import Contender, contenders, is_gkgnet, reason_to_leave_out
from .measure import fresh, imports, largest_batch, machine, memory, rows
from .report import plot, table

DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]


def main() -> None:
    """Measure what the command line asks for; write results.json, table.md and speed.png into the output folder."""
    options = read_options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the processes started from here
    torch.set_num_threads(options.threads)
    groups, left_out = plan(options)
    for reason in left_out:
        print(f"Left out: {reason}", file=sys.stderr)
    every = [contender for group in groups for contender in group]
    imported = fresh(imports)
    measured = [c for c in every if c.path != "floor"]
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        found = tqdm(pool.map(partial(fresh, memory), measured), desc="Memory", total=len(measured), leave=False)
        peaks = {c: memory_of["peak_MB"] for c, memory_of in zip(measured, found, strict=True)}
    results = {"machine": machine(), "imports_MB": imported, "left_out": left_out, "rows": []}
    if options.largest_batch:
        results["largest_batch"] = [
            {"network": c.network, "path": c.path, "dtype": c.dtype, "size": c.size, **fresh(largest_batch, c)}
            for c in tqdm(measured, desc="Largest batch", leave=False)
            if c.device == "cuda" and c.path != "graphed" and c.batch_size == options.batch_sizes[0]
        ]
    for group in tqdm(groups, desc="Speed", leave=False):
        for contender, row in zip(group, rows(group, options.repeats), strict=True):
            results["rows"].append({**row, "peak_MB": peaks.get(contender)})
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(results, indent=2))
    (options.output / "table.md").write_text(table(results))
    plot(results, options.output / "speed.png")
    print(table(results))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks = ["gkgnet_s", "resnet101", "swin_small_patch4_window7_224"]
    add = parser.add_argument
    add("--networks", nargs="+", default=networks, help="gkgnet_ti, _s, _m, _b, models of timm")
    add("--sizes", nargs="+", type=int, default=[224, 448, 576], help="sides in pixels")
    add("--batch-sizes", nargs="+", type=int, default=[1], help="images a batch")
    add("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    add("--devices", nargs="+", default=DEVICES, choices=DEVICES)
    add("--train", action="store_true", help="forward and backward instead of inference")
    add("--repeats", type=int, default=7, help="rounds to measure")
    add("--threads", type=int, default=torch.get_num_threads(), help="threads on CPU")
    add("--largest-batch", action="store_true", help="also search the largest batch that fits on the GPU")
    add("--output", type=Path, default=Path("benchmark-output"), help="folder")
    options = parser.parse_args()
    ours = [f"gkgnet_{variant}" for variant in VARIANTS]
    if not any(network in ours for network in options.networks):
        parser.error(f"--networks needs at least one of {', '.join(ours)}, got {', '.join(options.networks)}")
    for network in options.networks:
        if network not in ours and (is_gkgnet(network) or not timm.is_model(network)):
            parser.error(f"--networks takes {', '.join(ours)} and models of timm, got {network}")
    return options


def plan(options: argparse.Namespace) -> tuple[list[list[Contender]], list[str]]:
    """Contenders in groups that are measured against each other, and why some are left out."""
    groups, left_out = [], []
    for device, size, batch_size in itertools.product(options.devices, options.sizes, options.batch_sizes):
        given = Contender("", "", "", size, batch_size, device, options.train)
        group = contenders(options.networks, options.dtypes, given)
        reasons = {c.network: reason_to_leave_out(c) for c in group if c.path == "timm"}
        groups.append([contender for contender in group if not reasons.get(contender.network)])
        left_out += filter(None, reasons.values())
    return groups, list(dict.fromkeys(left_out))


if __name__ == "__main__":
    main()
