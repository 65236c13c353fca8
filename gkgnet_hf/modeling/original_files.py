"""Names of the tensors in Pyramid ViG's original files, and of their parts in released GKGNet files, → names here."""

import re

# Module of an original file → module here.
_STEM_AND_HEAD = {
    "pos_embed": "stem.pos_embed",
    "stem.convs.0": "stem.conv1.conv",
    "stem.convs.1": "stem.conv1.norm",
    "stem.convs.3": "stem.conv2.conv",
    "stem.convs.4": "stem.conv2.norm",
    "stem.convs.6": "stem.conv3.conv",
    "stem.convs.7": "stem.conv3.norm",
    "prediction.0": "head.hidden.conv",
    "prediction.1": "head.hidden.norm",
    "prediction.4": "head.fc",
}


def rename_conv_norm(name: str) -> str:
    """Name of a tensor inside an original block → its name here.

    >>> rename_conv_norm("graph_conv.gconv.nn.1.running_mean")
    'graph_conv.norm.running_mean'
    """
    return re.sub(r"(?:\.gconv\.nn)?\.([01])\.", lambda m: (".conv.", ".norm.")[int(m[1])], name)


def rename_original(name: str, depths: list[int]) -> str:
    """Name of a tensor of an original Pyramid ViG file → its name in `PyramidVisionGNN`; others stay as they are.

    >>> rename_original("backbone.3.1.fc1.0.weight", depths=[2, 2, 6, 2])
    'stages.1.blocks.0.ffn.fc1.conv.weight'
    """
    for original, ours in _STEM_AND_HEAD.items():
        if name == original or name.startswith(original + "."):
            return ours + name.removeprefix(original)
    match = re.fullmatch(r"backbone\.(\d+)\.(conv|0|1)\.(.+)", name)
    if match is None:
        return name
    # The original numbers blocks through, and from the second stage on the downsampling in front of them.
    index, stage = int(match[1]) + 1, 0
    while stage < len(depths) - 1 and index > depths[stage]:
        index -= depths[stage] + 1
        stage += 1
    part, rest = match[2], match[3]
    if part == "conv":
        return f"stages.{stage}.downsample{rename_conv_norm('.' + rest)}"
    return f"stages.{stage}.blocks.{index - 1}.{('graph', 'ffn')[int(part)]}.{rename_conv_norm(rest)}"
