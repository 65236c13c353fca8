"""What PyTorch's threads are told before it is loaded, so that a busy machine does not stop them."""

import os
import subprocess
import sys

import pytest

from gkgnet_hf import threads

VARIABLES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def told(code, **given):
    """The variables after this code ran in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    code += f"; import os; print([os.environ.get(name) for name in {VARIABLES}])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**environment, **given}
    )
    return done.stdout.splitlines()[-1]


def test_threads_that_wait_sleep_unless_the_user_says_otherwise():
    assert told("import gkgnet_hf.threads").startswith("['PASSIVE'")
    assert told("import gkgnet_hf.threads", OMP_WAIT_POLICY="ACTIVE").startswith("['ACTIVE'")
    assert told("import torch, gkgnet_hf.threads").startswith("[None")  # it would come too late


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({}, 8),
    ],
)
def test_a_container_has_as_many_threads_as_it_may_use_cores(files, cores, tmp_path, monkeypatch):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    monkeypatch.setattr(threads, "_cores_of_affinity", lambda: 8)
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch")
    threads.set_up_threads()
    assert threads.usable_cores() == cores
    assert os.environ.get("OMP_NUM_THREADS") == (None if cores == 8 else str(cores))
