"""What is measured: GKGNet on each of its paths, its floor, and networks of timm."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from unittest.mock import patch

import timm
import torch
import torch.nn.functional as F
from torch import nn

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, optimize_for_inference

from .floor import products_alone
from .paths import reference_path

Step = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """One network on one path, with what it is given.

    Args:
        network: `gkgnet_ti`, `_s`, `_m` or `_b`, or a model of timm.
        path: of GKGNet, `reference` (every graph materialised), `pytorch` (no compiled kernels), `default`, `optimised`
            (`optimize_for_inference`), `graphed` (that as a CUDA graph), `checkpointed` (training that recomputes
            blocks) or `floor` (convolutions and matrix products alone); of others `timm`.
        dtype: `float32` or `bfloat16`: of the weights in inference, of autocast in training.
        size: side in pixels.
        batch_size: images a batch.
        device: `cpu` or `cuda`.
        train: forward and backward instead of inference.
        labels: number of labels.
        label_blocks: `num_label_blocks` of GKGNet.
    """

    network: str
    path: str
    dtype: str
    size: int
    batch_size: int
    device: str
    train: bool
    labels: int = 80
    label_blocks: str = "1,1,1,1"


def is_gkgnet(network: str) -> bool:
    return network.startswith("gkgnet_")


def contenders(networks: list[str], dtypes: list[str], given: Contender) -> list[Contender]:
    """All that are measured against each other; size, batch, device and mode as in `given`."""
    if given.train:
        paths = ["reference", "pytorch", "default", "floor"]
    else:
        paths = ["reference", "pytorch", "default", "optimised", *["graphed"] * (given.device == "cuda"), "floor"]
    every = [
        replace(given, network=network, path=path, dtype=dtype)
        for dtype in dtypes
        for network in networks
        for path in (paths if is_gkgnet(network) else ["timm"])
    ]
    if "float32" not in dtypes:  # rows of every dtype are measured against its reference path
        ours = replace(given, network=next(filter(is_gkgnet, networks)), dtype="float32")
        return [replace(ours, path="reference"), replace(ours, path=baseline_path(given.train)), *every]
    return every


def baseline_path(train: bool) -> str:
    """The path of the first GKGNet whose time and memory are 1."""
    return "default" if train else "optimised"


def build(contender: Contender) -> Step:
    """A function that takes one step: one inference, or one forward and backward.

    Example:

        build(Contender("gkgnet_s", "default", "float32", 224, 1, "cpu", train=False))()
    """
    if contender.path == "floor":
        return products_alone(build(replace(contender, path=baseline_path(contender.train))))
    if contender.path == "graphed":
        return _graphed(build(replace(contender, path="optimised")))
    model = _model(contender).to(contender.device).train(contender.train)
    if contender.path == "optimised":
        optimize_for_inference(model)
    if contender.path == "checkpointed":
        model.gradient_checkpointing_enable()
    dtype = getattr(torch, contender.dtype)
    shape = (contender.batch_size, 3, contender.size, contender.size)
    pixel_values = torch.randn(shape, device=contender.device)
    if contender.train:
        labels = torch.zeros(contender.batch_size, contender.labels, device=contender.device)
        autocast = torch.autocast(contender.device, dtype, enabled=dtype != torch.float32)
        return _training_step(model, pixel_values, labels, contender.path, autocast)
    return _inference_step(model.to(dtype), pixel_values.to(dtype), contender.path)


def _model(contender: Contender) -> nn.Module:
    if is_gkgnet(contender.network):
        variant = contender.network.removeprefix("gkgnet_")
        blocks = [int(count) for count in contender.label_blocks.split(",")]
        config = GKGNetConfig.from_variant(
            variant, image_size=contender.size, num_labels=contender.labels, num_label_blocks=blocks
        )
        return GKGNetForImageClassification(config)
    fixed_size = timm.get_pretrained_cfg(contender.network).fixed_input_size
    sizes = {"img_size": contender.size} if fixed_size else {}
    model = timm.create_model(contender.network, num_classes=contender.labels, **sizes)
    return model.to(memory_format=torch.channels_last)  # on CPU too this is where they are fastest


def reason_to_leave_out(contender: Contender) -> str | None:
    """Why this network does not take images of this size, or None if it does."""
    try:
        with torch.device("meta"):
            _model(contender).eval()(torch.empty(1, 3, contender.size, contender.size))
    except Exception as error:  # each network of timm has its own
        return f"{contender.network} at {contender.size} pixels: {error!r}"
    return None


def _taken(path: str) -> AbstractContextManager:
    if path == "reference":
        return reference_path()
    return patch.dict(os.environ, GKGNET_KERNELS="off") if path == "pytorch" else nullcontext()


def _inference_step(model: nn.Module, pixel_values: torch.Tensor, path: str) -> Step:
    def step() -> None:
        with _taken(path), torch.inference_mode():
            model(pixel_values)

    return step


def _training_step(
    model: nn.Module, pixel_values: torch.Tensor, labels: torch.Tensor, path: str, autocast: AbstractContextManager
) -> Step:
    def step() -> None:
        with _taken(path):
            with autocast:
                if path == "timm":
                    loss = F.binary_cross_entropy_with_logits(model(pixel_values), labels)
                else:
                    loss = model(pixel_values, labels=labels).loss
            loss.backward()
        model.zero_grad()

    return step


def _graphed(step: Step) -> Step:
    """The step as one CUDA graph: no time goes into launching kernels one by one."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(keep: Step = step) -> None:  # the graph reads the weights and the image of `keep`
        graph.replay()

    return replay
