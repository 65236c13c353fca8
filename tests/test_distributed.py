"""Two processes on CPU do what one does with the batch of both."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from gkgnet_hf import GKGNetForImageClassification
from gkgnet_hf.training.sync_batch_norm import CPUSyncBatchNorm, synchronize_batch_norm

from .base import assert_alike
from .run_distributed import NUM_IMAGES
from .test_models import small_config


def launch(module, *arguments, processes=2):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if processes == 2 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "-m", module, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def run(output, processes, batch_size):
    launch("tests.run_distributed", str(output), str(batch_size), processes=processes)
    return [json.loads((output / f"seen-{i}.json").read_text()) for i in range(processes)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    return run(one, processes=1, batch_size=8)[0], run(two, processes=2, batch_size=4), one, two


def test_two_processes_see_every_image_once_an_epoch(runs):
    _, (first, second), _, _ = runs
    half = NUM_IMAGES // 2
    for epoch in (0, 1):
        part = slice(epoch * half, (epoch + 1) * half)
        assert sorted(first["read"][part] + second["read"][part]) == list(range(NUM_IMAGES))


def test_two_processes_have_the_loss_curve_of_one(runs):
    one, (first, _), _, _ = runs
    assert len(one["losses"]) == one["steps"] == 6
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-4)


def test_two_processes_reach_the_weights_of_one(runs):
    _, _, one, two = runs
    expected = load_file(one / "checkpoint-6" / "model.safetensors")
    for name, tensor in load_file(two / "checkpoint-6" / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4, msg=name)


def test_gathered_metrics_are_those_of_one_process(runs):
    one, both, _, _ = runs
    for seen in both:
        assert seen["metrics"] == pytest.approx(one["metrics"], rel=1e-4)


def test_fully_sharded_networks_compute_and_learn_what_whole_ones_do():
    assert launch("tests.run_sharded").count("equal") == 2  # one from each process


def test_synchronised_norms_keep_names_values_and_eval_results():
    torch.manual_seed(0)
    model = GKGNetForImageClassification(small_config()).eval()
    images = torch.randn(2, 3, 64, 64)
    state, logits = {name: t.clone() for name, t in model.state_dict().items()}, model(images).logits
    synchronize_batch_norm(model)
    assert any(isinstance(module, CPUSyncBatchNorm) for module in model.modules())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert_alike([model(images).logits], [logits])
