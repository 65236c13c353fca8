"""GKGNet for Hugging Face transformers and timm. Importing it registers the models with both."""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ViTImageProcessor,
    ViTImageProcessorPil,
)

from .hub.released import load_backbone_checkpoint, load_released_checkpoint
from .modeling import timm_gkgnet  # noqa: F401, registers gkgnet_* and pvig_*
from .modeling.configuration_gkgnet import GKGNetConfig
from .modeling.configuration_gkgnet import __version__ as __version__
from .modeling.image_processing_gkgnet import create_image_processor
from .modeling.modeling_gkgnet import GKGNetBackbone, GKGNetForImageClassification, GKGNetModel
from .modeling.vision_gnn import optimize_for_inference

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

AutoConfig.register("gkgnet", GKGNetConfig)
AutoModel.register(GKGNetConfig, GKGNetModel)
AutoModelForImageClassification.register(GKGNetConfig, GKGNetForImageClassification)
AutoBackbone.register(GKGNetConfig, GKGNetBackbone)
AutoImageProcessor.register(
    GKGNetConfig, image_processor_classes={"torchvision": ViTImageProcessor, "pil": ViTImageProcessorPil}
)
