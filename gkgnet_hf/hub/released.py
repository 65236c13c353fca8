"""Released GKGNet and Pyramid ViG files → models of this package."""

import re

from torch import Tensor

from ..modeling.configuration_gkgnet import VARIANTS, GKGNetConfig
from ..modeling.modeling_gkgnet import GKGNetForImageClassification, GKGNetPreTrainedModel
from ..modeling.original_files import Checkpoint, read_state_dict, rename_conv_norm, rename_original
from ..modeling.timm_gkgnet import checkpoint_filter_fn
from ..modeling.vision_gnn import PyramidVisionGNN, grid_size, position_bias_reference

# The stored float32 bias of released files differs from its closed form by up to 1e-7.
BIAS_TOLERANCE = 1e-5

# What a GKGNet file has and a Pyramid ViG file has not: (labels, C1).
LABEL_EMBEDDING = "backbone.label_lt.weight"


def load_released_checkpoint(
    path_or_state_dict: Checkpoint, labels: list[str] | None = None
) -> GKGNetForImageClassification:
    """A released GKGNet training checkpoint as a ready model, in eval mode.

    Size, label count and image size are read off the tensor shapes. The position bias, where the file stores it
    (`relative_pos`), is checked against its closed form and dropped.

    Args:
        path_or_state_dict: path of a `.pth` or `.safetensors` file, or its state dict, as for `read_state_dict`.
        labels: names of the labels in the file's order, which the file does not hold; default LABEL_0, LABEL_1, …

    Raises:
        ValueError: if the file cannot be read, is of another network, or has missing, unexpected or misshapen
            tensors (the names are listed); if `labels` are not as many as the file's.

    Example:

        model = load_released_checkpoint("gkgnet_coco_576.pth", labels=coco_names)
        model.save_pretrained("gkgnet-coco-576")
        create_image_processor(model.config).save_pretrained("gkgnet-coco-576")
    """
    state_dict = read_state_dict(path_or_state_dict)
    config = _released_config(state_dict, labels)
    originals = {_rename_released(name, config): name for name in state_dict}
    if doubles := sorted(state_dict.keys() - originals.values()):
        raise ValueError(f"The checkpoint holds tensors twice, under other names: {', '.join(doubles)}")
    tensors = {name: state_dict[original] for name, original in originals.items()}
    _drop_position_bias(tensors, originals, config)
    model = GKGNetForImageClassification(config)
    check_tensors(tensors, model.state_dict(), originals)
    model.load_state_dict(tensors)
    return model.eval()


def load_backbone_checkpoint(model: GKGNetPreTrainedModel, checkpoint: Checkpoint) -> None:
    """Start the patch nodes of a transformers model from a timm or original Pyramid ViG checkpoint, in place.

    The classifier of the checkpoint is left out, its position embedding is resized to the model's image size.

    Args:
        model: `GKGNetForImageClassification`, `GKGNetModel` or `GKGNetBackbone`.
        checkpoint: path of a `.pth`, `.pth.tar` or `.safetensors` file, or a state dict, for instance
            `timm.create_model("gkgnet_s").state_dict()`.

    Raises:
        ValueError: if the file cannot be read, or tensors of the patch nodes are missing, unexpected or misshapen
            (the names are listed).

    >>> import timm
    >>> model = GKGNetForImageClassification(GKGNetConfig.from_variant("ti", num_labels=30))
    >>> load_backbone_checkpoint(model, timm.create_model("gkgnet_ti").state_dict())
    """
    backbone: PyramidVisionGNN = model.base_model.backbone  # type: ignore[assignment]
    tensors = checkpoint_filter_fn(read_state_dict(checkpoint), backbone)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    check_tensors(tensors, backbone.state_dict(), originals={})
    backbone.load_state_dict(tensors)


def _released_config(state_dict: dict[str, Tensor], labels: list[str] | None) -> GKGNetConfig:
    embedding, positions = state_dict.get(LABEL_EMBEDDING), state_dict.get("backbone.pos_embed")
    if embedding is None or positions is None or embedding.ndim != 2:
        raise ValueError(
            f"Not a released GKGNet checkpoint: it must hold {LABEL_EMBEDDING} (labels, C1) and "
            f"backbone.pos_embed (1, C1, H/4, W/4), got tensors such as {sorted(state_dict)[:5]}. "
            "For Pyramid ViG files see load_backbone_checkpoint."
        )
    num_labels = len(embedding)
    if labels is not None and len(labels) != num_labels:
        raise ValueError(f"labels must name the checkpoint's {num_labels} labels in order, got {len(labels)}")
    variant, (height, width) = read_variant(positions)
    return GKGNetConfig.from_variant(
        variant,
        image_size=height if height == width else (height, width),
        **({"num_labels": num_labels} if labels is None else {"id2label": dict(enumerate(labels))}),
    )


def read_variant(positions: Tensor) -> tuple[str, tuple[int, int]]:
    """Size and image (height, width) in pixels of the network that a position embedding (1, C1, H/4, W/4) is of."""
    widths = {sizes["hidden_sizes"][0]: variant for variant, sizes in VARIANTS.items()}
    if positions.ndim != 4 or positions.shape[1] not in widths:
        raise ValueError(
            f"pos_embed must be (1, C1, H/4, W/4) with a width C1 of {', '.join(map(str, widths))}, "
            f"got {tuple(positions.shape)}"
        )
    rows, columns = positions.shape[2:]
    return widths[positions.shape[1]], (4 * rows, 4 * columns)


def _rename_released(name: str, config: GKGNetConfig) -> str:
    """Name of a tensor of a released GKGNet file → its name in `GKGNetForImageClassification`."""
    if match := re.fullmatch(r"head\.fc([12])\.(weight|bias)", name):
        return f"{('label', 'patch')[int(match[1]) - 1]}_classifier.{match[2]}"
    if not name.startswith("backbone."):
        return name
    inner = name.removeprefix("backbone.")
    if inner == "label_lt.weight":
        return "gkgnet.label_embedding.weight"
    if match := re.fullmatch(r"ffn_label\.(\d+)\.0\.(weight|bias)", inner):
        return f"gkgnet.label_stages.{int(match[1]) + 1}.projection.{match[2]}"
    if match := re.fullmatch(r"gcn_label\.(\d+)\.(\d+)\.(ffn\.)?(.+)", inner):
        part = "ffn" if match[3] else "graph"
        return f"gkgnet.label_stages.{match[1]}.blocks.{match[2]}.{part}.{rename_conv_norm(match[4])}"
    return f"gkgnet.backbone.{rename_original(inner, list(config.depths))}"


def _drop_position_bias(tensors: dict[str, Tensor], originals: dict[str, str], config: GKGNetConfig) -> None:
    """Take the stored position bias out of `tensors`, after checking that it is the one this package computes."""
    height, width = grid_size(config.image_height_width)
    for stage, (dim, ratio) in enumerate(zip(config.hidden_sizes, config.pooling_ratios, strict=True)):
        stored = {
            name: tensors.pop(name)
            for name in list(tensors)
            if re.fullmatch(rf"gkgnet\.backbone\.stages\.{stage}\.blocks\.\d+\.graph\.relative_pos", name)
        }
        if stored:
            expected = position_bias_reference(height, width, dim, ratio).float()
        for name, bias in stored.items():
            if bias.shape != (1, *expected.shape):
                raise ValueError(f"{originals[name]} must be {(1, *expected.shape)}, got {tuple(bias.shape)}")
            if not (difference := (bias[0] - expected).abs().max().item()) <= BIAS_TOLERANCE:
                raise ValueError(
                    f"{originals[name]} must be the closed form of the position bias to {BIAS_TOLERANCE:g}, "
                    f"got a difference of {difference:g}"
                )
        height, width = -(-height // 2), -(-width // 2)


def check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor], originals: dict[str, str]) -> None:
    """Raise ValueError with the names unless `tensors` are exactly `expected`, whatever the width of their numbers."""
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(originals.get(name, name) for name in tensors.keys() - expected.keys())
    misshapen = [
        f"{originals.get(name, name)} (expected {tuple(expected[name].shape)}, got {tuple(tensors[name].shape)})"
        for name in sorted(expected.keys() & tensors.keys())
        if expected[name].shape != tensors[name].shape
    ]
    other_kinds = [
        f"{originals.get(name, name)} (expected {expected[name].dtype}, got {tensors[name].dtype})"
        for name in sorted(expected.keys() & tensors.keys())
        if expected[name].is_floating_point() != tensors[name].is_floating_point()
    ]
    problems = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": misshapen,
        "of other numbers": other_kinds,
    }
    if any(problems.values()):
        raise ValueError(
            "The checkpoint does not fit: "
            + "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names)
        )
