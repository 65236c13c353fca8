"""Runs commands on a small file system that is full at one place after another; run by test_full_disk.py.

unshare -rm python -m tests.robustness.full_disk FOLDER

FOLDER has a data set, photos, and an empty folder, disk, where a file system is mounted. Prints a line of
JSON for each place: the command, the bytes that were free, the exit code, the error, and what was found wrong.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.cli import main
from gkgnet_hf.files import UNFINISHED, last_checkpoint

SIZE = 24 << 20
PAGE = 4096
FILLER = "filler"
TRAIN = "train custom --dataset ../photos --model_name_or_path ti --backbone_checkpoint none --use_cpu --image_size 32"
TRAIN += " --per_device_train_batch_size 2 --report_to none --dataloader_num_workers 0 --disable_tqdm true --seed 3"
TRAIN += " --eval_strategy no --load_best_model_at_end false --early_stopping_patience null --save_strategy steps"
TRAIN += " --save_steps 2 --output_dir out"
NETWORK: dict[str, Any] = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_neighbors": 3, "num_groups": 1}


def run(words: list[str], disk: Path, log: Path) -> tuple[int, str]:
    """The exit code and standard error of a command in a child process, which begins where this one is."""
    child = os.fork()
    if not child:
        number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(number, 1)
        os.dup2(number, 2)
        os.chdir(disk)
        sys.argv = ["gkgnet-hf", *words]
        code = 1
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            sys.stdout.flush()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")


def used(disk: Path) -> int:
    state = os.statvfs(disk)
    return (state.f_blocks - state.f_bavail) * PAGE


def fill(disk: Path, free: int) -> None:
    """Leave this many bytes."""
    with (disk / FILLER).open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(PAGE))
        file.truncate(file.tell() - free)


def empty(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_checkpoint(disk: Path) -> str:
    """The last checkpoint is whole, and beside it is nothing half."""
    checkpoint = last_checkpoint(disk / "out")
    if checkpoint is None:
        return "no checkpoint is left"
    load_file(checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.load(checkpoint / name, weights_only=name != "rng_state.pth")
    return ""


def check_parts(disk: Path) -> str:
    """Every part is whole."""
    for part in disk.glob("*/*.parquet"):
        pq.read_table(part)
    return ""


def nothing(disk: Path) -> str:
    return ""


def half_files(disk: Path, names: tuple[str, ...]) -> str:
    """Results are there whole or not at all."""
    return ", ".join(name for name in names if (disk / name).exists())


CASES: list[tuple[str, list[str], int, Callable[[Path], str], tuple[str, ...]]] = [
    (TRAIN + " --max_steps 6 --resume_from_checkpoint last", ["model", "out"], 14, check_checkpoint, ()),
    ("predict model ../photos --output a.parquet --batch-size 2 --num-workers 0", ["model"], 6, check_parts, ()),
    ("predict model ../photos --output a.csv --batch-size 2 --num-workers 0", ["model"], 6, check_parts, ("a.csv",)),
    ("predict model ../photos --output a.jsonl --num-workers 0", ["model"], 3, check_parts, ("a.jsonl",)),
    ("evaluate model ../photos --split all --report a.html", ["model"], 4, nothing, ("a.html",)),
    ("evaluate model ../photos --split all --per-label a.csv", ["model"], 1, nothing, ("a.csv",)),
    ("evaluate model ../photos --split all --mistakes a.csv", ["model"], 1, nothing, ("a.csv",)),
    ("evaluate model ../photos --split all --fit-thresholds global", ["model"], 1, nothing, ()),
    ("data convert ../photos new", ["model"], 4, nothing, ("new",)),
    ("data inspect ../photos --preview a.png", ["model"], 2, nothing, ("a.png",)),
    ("data make-digits new --train 8 --validation 2", ["model"], 4, nothing, ("new",)),
    ("export model new --format pt2", ["model"], 4, nothing, ("new",)),
    ("card model", ["model"], 2, nothing, ("model/README.md",)),
]


def try_places(folder: Path) -> None:
    """Each command with less and less room, and again once there is room."""
    disk, log = folder / "disk", folder / "log"
    prepare(folder)
    for text, needed, places, check, results in CASES:
        words = text.split()
        if words[0] == "train":
            words[2:2] = ["--config", json.dumps(NETWORK)]

        def begin(needed: list[str] = needed) -> None:
            empty(disk)
            for name in needed:
                shutil.copytree(folder / name, disk / name)

        begin()
        before = used(disk)
        code, err = run(words, disk, log)
        assert code == 0, (text, err)
        most = max(used(disk) - before, PAGE)
        if words[0] == "train":  # it removes the checkpoint before, once the next is there
            shutil.copytree(disk / "out", whole := folder / "whole")
            most = used(disk) // 2
        # A place before the first byte, one before the last, and others between.
        for free in sorted({PAGE * int(i * (most - PAGE) / max(1, places - 1) / PAGE) for i in range(places)}):
            begin()
            fill(disk, free)
            code, err = run(words, disk, log)
            wrong = [check(disk)]
            if code:
                wrong += [f"half a result: {found}" for found in [half_files(disk, results)] if found]
                wrong += [f"left over: {path.name}" for path in disk.rglob(f"{UNFINISHED}*")]
            (disk / FILLER).unlink()
            again, errors = run(words, disk, log)
            if again:
                wrong.append(f"once there is room: {again} {errors[-300:]}")
            if words[0] == "train":
                wrong.append(same(whole, disk / "out"))
            entry = {"command": text.split(" --")[0] + " " + text.split()[-2], "free": free, "code": code}
            entry = {**entry, "error": err[-3000:], "wrong": [found for found in wrong if found]}
            print(json.dumps(entry), flush=True)


def same(one: Path, other: Path) -> str:
    a, b = (load_file(path / "model.safetensors") for path in (one, other))
    return "" if all(torch.equal(a[name], b[name]) for name in a) else "other weights than of a run on an empty disk"


def prepare(folder: Path) -> None:
    """What the commands start from: a model, and a run with a checkpoint."""
    disk = folder / "disk"
    labels = {"id2label": {0: "green", 1: "red"}, "label2id": {"green": 0, "red": 1}}
    config = GKGNetConfig(**NETWORK, image_size=64, **labels)
    GKGNetForImageClassification(config).save_pretrained(folder / "model")
    create_image_processor(config).save_pretrained(folder / "model")
    words = [*f"{TRAIN} --max_steps 2 --config".split(), json.dumps(NETWORK)]
    code, err = run(words, disk, folder / "log")
    assert code == 0, err
    shutil.copytree(disk / "out", folder / "out")


if __name__ == "__main__":
    root = Path(sys.argv[1]).absolute()
    PIL.Image.init()  # what is loaded now is not loaded by each child
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(root / "disk")], check=True)
    try_places(root)
