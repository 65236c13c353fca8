"""The network: configuration, models for transformers, backbones for timm. Importing it registers them with both."""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ViTImageProcessor,
    ViTImageProcessorPil,
)

from . import timm_gkgnet  # noqa: F401, registers gkgnet_* and pvig_*
from .configuration_gkgnet import GKGNetConfig
from .modeling_gkgnet import GKGNetBackbone, GKGNetForImageClassification, GKGNetModel

AutoConfig.register("gkgnet", GKGNetConfig)
AutoModel.register(GKGNetConfig, GKGNetModel)
AutoModelForImageClassification.register(GKGNetConfig, GKGNetForImageClassification)
AutoBackbone.register(GKGNetConfig, GKGNetBackbone)
AutoImageProcessor.register(
    GKGNetConfig, image_processor_classes={"torchvision": ViTImageProcessor, "pil": ViTImageProcessorPil}
)
