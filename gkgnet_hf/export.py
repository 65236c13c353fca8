"""GKGNet for other runtimes: torch.export programs and ONNX files that take any batch and any image size."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from transformers import BaseImageProcessor

from .files import check_new_folder, written_whole
from .modeling.configuration_gkgnet import __version__
from .modeling.group_knn import operators_in_exports
from .modeling.modeling_gkgnet import GKGNetForImageClassification
from .modeling.vision_gnn import ConvNorm, Stage, find_stem

Format = Literal["onnx", "pt2"]
OPSET = 20  # the first with Gelu
INPUT, OUTPUT = "pixel_values", "logits"
AXES = {0: "batch_size", 2: "height", 3: "width"}


def export_model(
    model: GKGNetForImageClassification,
    processor: BaseImageProcessor,
    out: str | PathLike[str],
    format: Format = "onnx",
) -> Path:
    """Write a folder, whole or not at all, that other runtimes read: the network, `config.json` with the labels, and
    `preprocessor_config.json`.

    `"onnx"` writes `model.onnx` (opset 20), with optimum's names: input `pixel_values` (batch_size, channels, height,
    width), output `logits` (batch_size, labels). Its metadata hold the names of the labels as JSON (`id2label`), the
    shortest side of an image in pixels (`smallest_image`) and the version of this package. `"pt2"` writes `model.pt2`
    for `torch.export.load`, from `export_program`.

    Args:
        model: the classifier, on the CPU.
        processor: its image processor.
        out: a new or empty folder.
        format: "onnx" or "pt2".

    Returns:
        `out` as a Path.

    Raises:
        FileExistsError: if `out` exists and is not empty.
        ImportError: for "onnx" without the packages of the extra `export`.
        ValueError: as in `export_program`.

    Example:

        export_model(model, create_image_processor(model.config), "my-gkgnet-onnx")
        onnxruntime.InferenceSession("my-gkgnet-onnx/model.onnx")
    """
    out = Path(out)
    check_new_folder(out)
    with written_whole(out) as folder:
        if format == "onnx" and not (find_spec("onnx") and find_spec("onnxscript")):
            raise ImportError("The format onnx needs onnx and onnxscript: pip install 'gkgnet-hf[export]'")
        if format == "onnx":
            with operators_in_exports():
                program = export_program(model)
            save_onnx(program, model, folder / "model.onnx")
        else:
            content = BytesIO()  # on a full disk torch would end the process
            torch.export.save(export_program(model), content)
            (folder / "model.pt2").write_bytes(content.getbuffer())
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
    return out


def export_program(model: nn.Module) -> ExportedProgram:
    """One graph of PyTorch's own operators for any batch and any image of at least `smallest_export(model)` pixels.

    Args:
        model: a GKGNet of transformers or timm, on the CPU; it is traced in eval mode. A `GKGNetForImageClassification`
            gives its logits (B, L) alone, any other network what it returns.

    Raises:
        ValueError: if the model's own image size is smaller than that, or it was optimised for inference, or is another
            network.

    >>> from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification
    >>> stage = dict(hidden_sizes=[8], depths=[1], pooling_ratios=[4], num_label_blocks=[1])
    >>> program = export_program(GKGNetForImageClassification(GKGNetConfig(**stage)))
    >>> program.module()(torch.zeros(3, 3, 64, 96)).shape
    torch.Size([3, 2])
    """
    stem = find_stem(model)
    smallest = smallest_export(model)
    if not isinstance(stem.conv1, ConvNorm):
        raise ValueError("The model was optimised for inference: export it before optimize_for_inference")
    if 4 * min(stem.pos_embed.shape[-2:]) < smallest:
        raise ValueError(f"image_size must be at least {smallest} pixels a side for an export")
    example = torch.zeros(2, stem.conv1.conv.in_channels, 2 * smallest, 3 * smallest)
    # Hints, not names: for those torch 2.8 would have to prove what pooling asks of a size.
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC(min=smallest), 3: Dim.DYNAMIC(min=smallest)}
    network = _Logits(model) if isinstance(model, GKGNetForImageClassification) else model
    training = model.training
    try:
        with torch.no_grad():
            return torch.export.export(network.eval(), (example,), dynamic_shapes=(sizes,))
    finally:
        model.train(training)


def smallest_export(model: nn.Module) -> int:
    """Side in pixels that an exported network asks for: 33, or more with larger pooling ratios.

    From there on every grid has two nodes a side or more; torch.export takes a size of 1 for a constant.
    """
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    return max(32, *(1 + 4 * 2**i * (2 * stage.pool_ratio - 1) for i, stage in enumerate(stages)))


class _Logits(nn.Module):
    """A classifier that returns its logits as a tensor."""

    def __init__(self, model: GKGNetForImageClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values).logits


def save_onnx(
    program: ExportedProgram,
    model: GKGNetForImageClassification,
    path: Path,
    input_name: str = INPUT,
    output_names: Sequence[str] = (OUTPUT,),
) -> None:
    """Write the program of a model as an ONNX file; its metadata are those of `export_model`."""
    from .onnx_operators import OPERATORS

    written: Any = torch.onnx.export(
        program,
        dynamic_shapes=(AXES,),
        input_names=[input_name],
        output_names=list(output_names),
        opset_version=OPSET,
        dynamo=True,
        custom_translation_table=OPERATORS,
        verbose=False,
    )
    graph = written.model.graph
    values = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in values:  # torch names values after its operators, such as embedding
        if value.name in output_names and value not in graph.outputs:
            value.name = f"{value.name}_within"
    written.model.metadata_props.update(
        id2label=json.dumps(model.config.id2label),
        smallest_image=str(smallest_export(model)),
        gkgnet_hf_version=__version__,
    )
    written.save(path)
