"""Writes random weights in place of the ImageNet files, so that tests of pretrained models run without a network.

TORCH_HOME=random-weights python -m tests.write_pretrained
TORCH_HOME=random-weights ../shared/peer/run.sh timm .
"""

from pathlib import Path

import timm
import torch
from timm.models import get_pretrained_cfg

import gkgnet_hf  # noqa: F401
from gkgnet_hf.modeling.configuration_gkgnet import VARIANTS


def main() -> None:
    folder = Path(torch.hub.get_dir(), "checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    for size in VARIANTS:
        name = f"pvig_{size}"
        path = folder / Path(get_pretrained_cfg(name).url).name
        if not path.exists():
            torch.save(timm.create_model(name).state_dict(), path)


if __name__ == "__main__":
    main()
