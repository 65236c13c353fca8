"""GKGNet for Hugging Face transformers and timm. Importing it registers the models with both."""

import sys
from pathlib import PurePath
from typing import TYPE_CHECKING

from .lazy import lazily
from .threads import set_up_threads

set_up_threads()  # before PyTorch is loaded


def _is_the_command() -> bool:
    """Whether this process is `gkgnet-hf` or `python -m gkgnet_hf`, which load PyTorch only when they need it."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # as long as Python looks for the module
        return ("-m", __name__) in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    return PurePath(program).stem == "gkgnet-hf"


if TYPE_CHECKING or not _is_the_command():
    from .hub.released import load_backbone_checkpoint, load_released_checkpoint
    from .modeling.configuration_gkgnet import GKGNetConfig
    from .modeling.configuration_gkgnet import __version__ as __version__
    from .modeling.image_processing_gkgnet import create_image_processor
    from .modeling.modeling_gkgnet import GKGNetBackbone, GKGNetForImageClassification, GKGNetModel
    from .modeling.vision_gnn import optimize_for_inference
else:
    __getattr__, __dir__ = lazily(__name__)

__all__ = [
    "GKGNetBackbone",
    "GKGNetConfig",
    "GKGNetForImageClassification",
    "GKGNetModel",
    "create_image_processor",
    "load_backbone_checkpoint",
    "load_released_checkpoint",
    "optimize_for_inference",
]
