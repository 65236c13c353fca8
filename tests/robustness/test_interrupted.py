"""Runs that are killed, stopped or doubled, and disks that are full: no work is lost, and each error is one line."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gkgnet_hf.files import LOCK_FILE, held_for_training, last_checkpoint, written_whole
from gkgnet_hf.threads import usable_cores
from gkgnet_hf.training import MultiLabelTrainingArguments, predict_scores

from ..test_recipes import TINY, write_photos
from ..test_trainer import assert_same_weights, build_trainer

ROOT = Path(__file__).parents[2]
WORDS = ["custom", "--dataset", "photos", "--model_name_or_path", "ti", "--backbone_checkpoint", "none", "--use_cpu"]
WORDS += [
    "--config",
    json.dumps(TINY),
    "--image_size",
    "64",
    "--per_device_train_batch_size",
    "2",
    "--report_to",
    "none",
]
WORDS += [
    "--dataloader_num_workers",
    "0",
    "--disable_tqdm",
    "true",
    "--save_strategy",
    "steps",
    "--eval_strategy",
    "no",
]
WORDS += [
    "--load_best_model_at_end",
    "false",
    "--early_stopping_patience",
    "null",
    "--seed",
    "3",
    "--ema_decay",
    "null",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder / "photos", count=10)
    return folder / "photos"


@pytest.fixture
def workplace(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    return tmp_path


def start(folder, *words, **environment):
    """The command `train` as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "gkgnet_hf", "train", *WORDS, *words],
        cwd=folder,
        env={name: value for name, value in environment.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(folder, *words, **environment):
    process = start(folder, *words, **environment)
    out, err = process.communicate()
    return process.returncode, out, err


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def error_of(err):
    """The one line of an error; there may be others, of a run that had begun."""
    assert "Traceback" not in err, err
    return err.strip().splitlines()[-1]


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "settings", [{}, {"ema_decay": 0.9}, {"load_best_model_at_end": True, "eval_strategy": "steps"}]
)
@pytest.mark.parametrize("ended", [8, 10], ids=["inside an epoch", "at its end"])
def test_resuming_a_run_that_came_to_its_end_changes_nothing(settings, ended, tmp_path):
    settings = {**settings, "max_steps": ended, "eval_steps": 2}
    whole = build_trainer(tmp_path, **settings)
    whole.train()
    for _ in range(2):
        resumed = build_trainer(tmp_path, **settings)
        resumed.train(resume_from_checkpoint=True)
        assert resumed.state.global_step == ended
        assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    falling = iter(range(100, 0, -1))
    settings = dict(
        max_steps=14,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        early_stopping_patience=2,
        compute_metrics=lambda _: {"mAP": float(next(falling))},
    )
    whole, resumed = (build_trainer(tmp_path, **settings) for _ in range(2))
    whole.train()
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 6
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())


def test_a_run_that_logs_each_step_resumes(tmp_path):
    build_trainer(tmp_path, max_steps=2, logging_steps=1).train()
    resumed = build_trainer(tmp_path, max_steps=3, logging_steps=1)  # its state holds 1.0
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3


def test_a_longer_run_goes_on_where_a_shorter_one_ended(tmp_path):
    build_trainer(tmp_path, max_steps=6).train()
    longer = build_trainer(tmp_path, max_steps=8)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 8


def test_a_second_training_into_a_folder_is_refused_and_a_dead_one_holds_nothing(tmp_path):
    hold = "import sys, time; from gkgnet_hf.files import held_for_training\n"
    hold += "with held_for_training(sys.argv[1]): print('held', flush=True); time.sleep(600)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        first = subprocess.Popen(
            [sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(BlockingIOError, match=rf"Another training writes into {tmp_path}"),
            held_for_training(tmp_path),
        ):
            pass
        first.kill()
        first.wait()
    with held_for_training(tmp_path):
        pass


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    whole = tmp_path / "checkpoint-2"
    whole.mkdir()
    (whole / "trainer_state.json").write_text("{}")
    for name in ("checkpoint-4", "_writing-dead", "_writing-new"):
        (tmp_path / name / "inside").mkdir(parents=True)
    (tmp_path / "checkpoint-6").mkdir()
    (tmp_path / "checkpoint-6" / "trainer_state.json").write_text('{"epoch": 1')
    os.utime(tmp_path / "_writing-dead", (1, 1))
    with written_whole(tmp_path / "other") as folder:
        (folder / "a").touch()
        os.utime(folder.parent, (1, 1))
        with held_for_training(tmp_path):
            left = {path.name for path in tmp_path.iterdir()}
    assert left == {"checkpoint-2", "_writing-new", folder.parent.name, LOCK_FILE}
    assert (tmp_path / "other" / "a").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_a_checkpoint_and_resuming_gives_the_same_weights(number, workplace):
    long = ["--max_steps", "14", "--save_steps", "4", "--logging_steps", "1"]
    code, _, err = train(workplace, *long, "--output_dir", "whole")
    assert code == 0, err
    process = start(workplace, *long, "--output_dir", "stopped")
    wait_for(workplace / "stopped" / "checkpoint-4" / "trainer_state.json", process)
    process.send_signal(number)
    _, err = process.communicate()
    if process.returncode == 0:
        pytest.skip("the run was faster than the signal")
    assert process.returncode == 128 + number
    assert error_of(err).startswith(f"gkgnet-hf: stopped by {number.name}")
    code, _, err = train(workplace, *long, "--output_dir", "stopped", "--resume_from_checkpoint", "last")
    assert code == 0, err
    assert_same_weights(weights(workplace / "whole"), weights(workplace / "stopped"))


@pytest.mark.slow
def test_thirty_kills_while_checkpoints_are_written_lose_nothing(tmp_path):
    """Each process is killed at a random time after its first save began; the next one resumes."""
    rng = random.Random(0)
    script = (
        "import sys; from tests.test_trainer import build_trainer; from gkgnet_hf.files import *\n"
        "folder = sys.argv[1]\n"
        "with held_for_training(folder):\n"
        "    trainer = build_trainer(folder, save_steps=1, max_steps=60, ema_decay=0.9, save_total_limit=2)\n"
        "    print('ready', flush=True)\n"
        "    trainer.train(resume_from_checkpoint=last_checkpoint(folder) is not None)"
    )
    folder = tmp_path / "killed"
    folder.mkdir()
    kills = 0
    while kills < 30:
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(rng.uniform(0, 1.5))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
    resumed = build_trainer(folder, save_steps=1, max_steps=60, ema_decay=0.9, save_total_limit=2)
    resumed.train(resume_from_checkpoint=last_checkpoint(folder) is not None)
    whole = build_trainer(tmp_path / "whole", save_strategy="no", max_steps=60, ema_decay=0.9)
    whole.train()
    print(f"{kills} kills")
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())


def test_more_workers_than_cores_can_serve_are_refused(tmp_path):
    for number in (10_000, 16 * usable_cores() + 1, -1):
        with pytest.raises(ValueError, match=rf"dataloader_num_workers must be between 0 and \d+, .*got {number}"):
            MultiLabelTrainingArguments(output_dir=str(tmp_path), dataloader_num_workers=number, report_to="none")
        with pytest.raises(ValueError, match=rf"num_workers must be between 0 and \d+, .*got {number}"):
            predict_scores(None, None, [], num_workers=number)


class Dies(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_an_error_and_no_hang(tmp_path):
    trainer = build_trainer(tmp_path, train_dataset=Dies(), dataloader_num_workers=1)
    with pytest.raises(RuntimeError, match=r"DataLoader worker .*(exited|killed)"):
        trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_data_that_vanish_while_a_run_trains_are_one_line(workers, workplace):
    words = [
        "--max_steps",
        "100000",
        "--save_steps",
        "5",
        "--dataloader_num_workers",
        workers,
        "--save_total_limit",
        "1",
    ]
    process = start(workplace, *words, "--output_dir", "out")
    wait_for(workplace / "out" / "checkpoint-5" / "trainer_state.json", process)
    shutil.rmtree(workplace / "photos")
    _, err = process.communicate()
    assert process.returncode == 2
    assert "photos" in error_of(err)
    assert last_checkpoint(workplace / "out") is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [{"HOME": None}, {"HOME": "/proc/none"}, {"HF_HOME": "/proc/none"}, {"HF_HOME": "/dev/null"}],
    ids=["no HOME", "HOME cannot be written", "HF_HOME cannot be written", "HF_HOME is a file"],
)
def test_without_a_home_to_write_into_a_run_trains_or_says_why_in_one_line(environment, workplace):
    environment = {"XDG_CACHE_HOME": None, "HF_DATASETS_CACHE": None, "HF_HOME": None, **environment}
    code, _, err = train(workplace, "--max_steps", "2", "--output_dir", "out", **environment)
    if code:
        error_of(err)
    print(environment, code, err.strip().splitlines()[-1])
    assert code in (0, 2)
