"""What a model card says of the network itself, from its configuration."""

from collections.abc import Mapping
from typing import Any

from ..modeling.configuration_gkgnet import VARIANTS, GKGNetConfig

# Fields of the patch nodes → arguments of the timm model.
TIMM_ARGUMENTS = {
    "num_channels": "in_chans",
    "hidden_sizes": "embed_dims",
    "depths": "depths",
    "pooling_ratios": "pool_ratios",
    "mlp_ratio": "mlp_ratio",
    "num_neighbors": "num_neighbors",
    "num_groups": "num_groups",
    "blocks_per_dilation": "blocks_per_dilation",
    "max_dilated_neighbors": "max_dilated_neighbors",
    "use_position_bias": "use_position_bias",
}


def describe(config: GKGNetConfig | Mapping[str, Any], name: str, revision: str | None = None) -> dict[str, Any]:
    """What the template says of a model that is loaded by `name`, at `revision` of a repository."""
    loading = {"name": name, "revision": f', revision="{revision}"' if revision else ""}
    if not isinstance(config, GKGNetConfig):
        at = f"@{revision}" if revision else ""
        source = f"{'hf-hub' if '/' in name else 'local-dir'}:{name}{at}"
        return {**loading, "source": source, **_describe_timm(config)}
    height, width = config.image_height_width
    sizes = {"hidden_sizes": tuple(config.hidden_sizes), "depths": tuple(config.depths)}
    variant = next((variant for variant, known in VARIANTS.items() if known == sizes), None)
    return {
        **loading,
        "timm": False,
        "network": f"This GKGNet{f'-{variant.capitalize()}' if variant else ''}",
        "labels": [str(label) for _, label in sorted((config.id2label or {}).items())],
        "threshold": config.decision_threshold,
        "channels": config.num_channels,
        "height": height,
        "width": width,
        "timm_model": f"gkgnet_{variant or 's'}",
        "timm_arguments": _differences(config, GKGNetConfig.from_variant(variant or "s")),
    }


def _describe_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    channels, *size = config["pretrained_cfg"]["input_size"]
    arguments = config.get("model_args") or {}
    built_for = arguments.get("img_size", size)  # what the position embedding is of
    height, width = built_for if isinstance(built_for, list) else (built_for, built_for)
    return {
        "timm": True,
        "network": f"This is `{config['architecture']}`",
        "num_classes": config["num_classes"],
        "wrapped": "num_classes" not in arguments,  # transformers 5.23 stumbles over a second one
        "labels": [],
        "threshold": 0.5,
        "channels": arguments.get("in_chans", channels),
        "height": height,
        "width": width,
    }


def _differences(config: GKGNetConfig, usual: GKGNetConfig) -> dict[str, Any]:
    """Arguments of a timm model of usual size that make it the patch nodes of this one."""
    arguments = {}
    for field, argument in TIMM_ARGUMENTS.items():
        own, other = (tuple(v) if isinstance(v, list) else v for v in (getattr(config, field), getattr(usual, field)))
        if own != other:
            arguments[argument] = own
    return arguments
