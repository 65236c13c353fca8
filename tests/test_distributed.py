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
from .run_distributed import NUM_IMAGES, train
from .test_models import small_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What one process saw, what each of two saw, and the last checkpoints of both runs."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    command = [sys.executable, *launcher, "tests.run_distributed", str(two)]
    finished = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert finished.returncode == 0, finished.stderr
    both = [json.loads((two / f"seen-{i}.json").read_text()) for i in range(2)]
    return train(one, batch_size=8), both, one / "checkpoint-6", two / "checkpoint-6"


@pytest.mark.slow
def test_two_processes_see_every_image_once_an_epoch(runs):
    _, (first, second), _, _ = runs
    half = NUM_IMAGES // 2
    for epoch in (0, 1):
        part = slice(epoch * half, (epoch + 1) * half)
        assert sorted(first["read"][part] + second["read"][part]) == list(range(NUM_IMAGES))


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(runs):
    one, (first, _), _, _ = runs
    assert len(one["losses"]) == one["steps"] == 6
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-4)


@pytest.mark.slow
def test_a_given_loss_counts_the_images_of_all_processes_and_accumulated_batches(runs):
    one, both, _, _ = runs
    assert one["given_loss"]["loss"] == pytest.approx(one["losses"][0], rel=0.2)  # batch norm sees other batches
    for seen in both:
        assert seen["given_loss"] == pytest.approx(one["given_loss"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_reach_the_weights_of_one(runs):
    _, _, one, two = runs
    expected = load_file(one / "model.safetensors")
    for name, tensor in load_file(two / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_gathered_metrics_are_those_of_one_process(runs):
    one, both, _, _ = runs
    for seen in both:
        assert seen["metrics"] == pytest.approx(one["metrics"], rel=1e-4)


@pytest.mark.slow
def test_fully_sharded_networks_compute_and_learn_what_whole_ones_do(runs):
    assert [seen["sharded"] for seen in runs[1]] == ["equal", "equal"]


def test_synchronised_norms_keep_names_values_and_eval_results():
    torch.manual_seed(0)
    model = GKGNetForImageClassification(small_config()).eval()
    images = torch.randn(2, 3, 64, 64)
    state, logits = {name: t.clone() for name, t in model.state_dict().items()}, model(images).logits
    synchronize_batch_norm(model, torch.device("cpu"))
    assert any(isinstance(module, CPUSyncBatchNorm) for module in model.modules())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert_alike([model(images).logits], [logits])


def test_the_device_of_training_decides_how_norms_are_synchronised_not_where_the_model_is():
    model = synchronize_batch_norm(GKGNetForImageClassification(small_config()), torch.device("cuda"))
    assert next(model.parameters()).device.type == "cpu"
    assert {type(m) for m in model.modules() if isinstance(m, torch.nn.SyncBatchNorm)} == {torch.nn.SyncBatchNorm}
