"""Writes a checkpoint that every later version must still read, as this version writes it, with its logits.

python -m tests.write_checkpoint tests/fixtures/checkpoint_v0.1
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification

IMAGES = (2, 3, 64, 48)


def to_pixel_values(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes → float64 from −1 to 1, the same on every machine."""
    return pixels.double() / 128 - 1


@torch.no_grad()
def write(folder: Path) -> None:
    """A tiny network with random weights and batch statistics; logits in float64, where no neighbours tie."""
    torch.manual_seed(0)
    config = GKGNetConfig(
        hidden_sizes=(8, 8, 12, 16),
        depths=(1, 1, 1, 1),
        image_size=IMAGES[2:],
        num_neighbors=3,
        blocks_per_dilation=2,
        num_label_blocks=(1, 0, 1, 1),
        id2label={0: "cat", 1: "dog", 2: "tree"},
        decision_threshold=[0.25, 0.5, 0.75],
    )
    model = GKGNetForImageClassification(config)
    nn.init.normal_(model.gkgnet.backbone.stem.pos_embed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    pixels = torch.randint(0, 256, IMAGES, dtype=torch.uint8)
    model.train()(to_pixel_values(torch.randint(0, 256, (8, *IMAGES[1:]), dtype=torch.uint8)).float())
    model.eval().save_pretrained(folder)
    for file in folder.glob("*.py"):  # with the package, its own code must read the checkpoint
        file.unlink()
    logits = model.double()(to_pixel_values(pixels)).logits
    save_file({"pixels": pixels, "logits": logits}, folder / "expected.safetensors")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
