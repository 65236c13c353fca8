import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing in the tests may need a network

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
