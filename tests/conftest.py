import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing in the tests may need a network
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the cores

import sys

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def run_in(monkeypatch, capsys):
    """Run the command `gkgnet-hf` in a folder → exit code, stdout, stderr."""
    from gkgnet_hf.cli import main

    def run(folder, *words):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["gkgnet-hf", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run
