"""The network: configuration, models for transformers, backbones for timm."""
