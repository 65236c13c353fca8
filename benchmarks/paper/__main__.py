"""The paper's comparisons in miniature, on scenes of real things.

    python -m benchmarks.paper --output paper

Fetches cut-outs, draws scenes, trains what is not there yet, and writes results.json, tables.md and mAP.png. A run that
was cut short is begun again; finished ones stay. On two CPU cores it takes hours; --stages does part of it.
"""

import argparse
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np

from gkgnet_hf.data import load_coco
from gkgnet_hf.evaluation.results import label_areas

from .networks import IMAGE_SIZE
from .plan import STAGES, Budget, Results, wanted_runs
from .report import write_report
from .scenes import fetch_stamps, read_cutouts, write_scenes, write_singles
from .tags import fetch_drawings, read_tags, write_tags
from .training import Run, one_thread, train_job

SINGLE_SIZE = 64


def main() -> None:
    """Run the stages that are asked for and write the report of everything that is there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of data, runs and report")
    parser.add_argument("--cutouts", type=Path, help="folder of cut-outs; default: Debian's, which are fetched")
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES), help="default: all")
    parser.add_argument("--scenes", type=int, default=20_000, help="for training; a tenth as many for each validation")
    parser.add_argument("--size", type=int, default=IMAGE_SIZE, help="of the scenes, in pixels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--single-steps", type=int, default=8000, help="steps of 32 for learning single labels")
    parser.add_argument("--grid-steps", type=int, default=400, help="steps of 32 for each learning rate")
    parser.add_argument("--steps", type=int, default=1200, help="steps of 32 of each run that counts")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, on one core each")
    options = parser.parse_args()
    folder, runs = options.output, options.output / "runs"
    budget = Budget(options.seeds, options.single_steps, options.grid_steps, options.steps)
    results: Results = {file.stem: json.loads(file.read_text()) for file in sorted(runs.glob("*.json"))}

    def wanted(stage: str) -> list[Run]:
        try:
            return wanted_runs(stage, results, budget)
        except ValueError as error:
            parser.error(str(error))

    for stage in options.stages[:1]:  # before minutes of drawing
        wanted(stage)
    try:
        keep_settings(folder, {"scenes": options.scenes, "size": options.size, "cutouts": str(options.cutouts)})
    except ValueError as error:
        parser.error(str(error))
    prepare(folder, options.cutouts, options.scenes, options.size, options.jobs, tags="tags" in options.stages)
    runs.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.jobs, initializer=one_thread) as pool:
        for stage in options.stages:
            jobs = [(folder, run) for run in wanted(stage)]
            for name, result in pool.imap_unordered(train_job, jobs, chunksize=1):
                results[name] = result
                print(f"{stage}: {name}: {result['ema']}"[:200], flush=True)
    (folder / "results.json").write_text(json.dumps(results))
    if all(run.name in results for run in STAGES["rates"](results, budget)):
        write_report(folder, results, budget)
    else:
        print("No tables yet: they need the stage 'rates'")


def keep_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write down what the pictures of a folder are drawn with; ValueError if those it has were drawn with something
    else."""
    file = folder / "settings.json"
    known = json.loads(file.read_text()) if file.exists() else "settings that nobody wrote down"
    if (folder / "scenes").exists() and known != settings:
        raise ValueError(f"{folder} has pictures drawn with {known}, not {settings}: expected another --output")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings))


def prepare(folder: Path, cutouts: Path | None, num_scenes: int, size: int, jobs: int, tags: bool) -> None:
    """Draw what is not there yet, and keep it as arrays too."""
    drawings = read_tags(fetch_drawings(folder / "drawings")) if tags else {}
    found = read_cutouts(cutouts or fetch_stamps(folder / "stamps"))
    counts = {"train": num_scenes, "val": num_scenes // 10, "known": num_scenes // 10}
    scenes = write_scenes(folder / "scenes", found, counts, size, jobs=jobs)
    for split in counts:
        if not (folder / f"scenes-{split}-areas.npy").exists():
            dataset = load_coco(scenes / split, scenes / "annotations" / f"instances_{split}.json")
            np.save(folder / f"scenes-{split}-images.npy", np.stack([np.asarray(image) for image in dataset["image"]]))
            np.save(folder / f"scenes-{split}-labels.npy", np.asarray(dataset["labels"], dtype=np.float32))
            np.save(folder / f"scenes-{split}-areas.npy", label_areas(dataset))
    write_singles(folder, found, SINGLE_SIZE)
    if tags:
        write_tags(folder, drawings, found, size)


if __name__ == "__main__":
    main()
