"""Datasets of one shape: `image`, `labels` (multi-hot float32), and the label names in the features."""
