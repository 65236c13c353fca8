"""Many threads share one model, and processes are forked and spawned after its threads have run."""

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, Dataset

from gkgnet_hf import GKGNetForImageClassification

from ..test_models import NUM_LABELS, small_config

ROOT = Path(__file__).parents[2]
THREADS, CALLS, WARM_UP = 8, 200, 50


def network():
    torch.manual_seed(0)
    return GKGNetForImageClassification(small_config()).eval()


def pictures(count=4):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def scores(model, pixels):
    return model(pixels).logits


def gradients(model, pixels):
    loss = model(pixels, labels=torch.ones(len(pixels), NUM_LABELS)).loss
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


@pytest.mark.parametrize("compute", [scores, gradients])
def test_eight_threads_get_through_one_model_what_one_thread_gets(compute):
    model = network()
    batches = [pictures(64)[4 * i : 4 * i + 4] for i in range(16)]
    alone = [compute(model, batch) for batch in batches]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda batch: compute(model, batch), batches))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_backward_in_threads_adds_up_to_the_gradient_of_all():
    model, parts = network(), pictures(2 * THREADS).chunk(THREADS)
    expected = [gradients(model, part) for part in parts]
    losses = [model(part, labels=torch.ones(len(part), NUM_LABELS)).loss for part in parts]
    with ThreadPoolExecutor(THREADS) as pool:  # other threads than the one that computed the losses
        list(pool.map(lambda loss: loss.backward(), losses))
    for parameter, *each in zip(model.parameters(), *expected, strict=True):
        if parameter.grad is not None:
            total = sum(each)  # in another order than the threads', so not bit for bit
            assert (parameter.grad - total).abs().max() <= 1e-5 * total.abs().max()


class Scored(Dataset):
    """Its images are scored where they are read."""

    def __init__(self):
        self.model = network()

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return scores(self.model, pictures(8)[i : i + 1])[0]


METHODS = [method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods()]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_data_loading_workers_run_the_loops_after_their_parent_did(method):
    data = Scored()
    alone = torch.stack([data[i] for i in range(len(data))])
    gradients(data.model, pictures())
    together = torch.cat(list(DataLoader(data, 2, num_workers=2, multiprocessing_context=method)))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


FORKS = """
import sys
import torch
from torch import multiprocessing
from tests.robustness.test_threads import gradients, network, pictures, scores

def answer(queue, model, compute):
    found = compute(model, pictures())
    queue.put(found.tolist() if compute is scores else len(found))

if __name__ == "__main__":
    torch.set_num_threads(2)
    model, context = network(), multiprocessing.get_context(sys.argv[1])
    expected = scores(model, pictures())
    count = len(gradients(model, pictures()))
    for compute in (scores, gradients):
        queue = context.SimpleQueue()
        child = context.Process(target=answer, args=(queue, model, compute))
        child.start()
        found = queue.get()
        child.join()
        if compute is scores:
            torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-4)
        else:
            assert found == count
    assert torch.get_num_threads() == 2
    print("well")
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_process_that_is_started_after_threads_have_run_computes_and_does_not_wait_for_them(method, tmp_path):
    (tmp_path / "forks.py").write_text(FORKS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    words = [sys.executable, str(tmp_path / "forks.py"), method]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


def memory():
    """Bytes that this process holds."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")
@pytest.mark.parametrize("compute", [scores, gradients])
def test_two_hundred_calls_take_no_more_memory_than_fifty(compute):
    model, pixels = network(), pictures(1)
    for _ in range(WARM_UP):
        compute(model, pixels)
    before = memory()
    for _ in range(CALLS):
        compute(model, pixels)
    assert memory() - before < 8 << 20
