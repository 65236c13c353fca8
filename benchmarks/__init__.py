"""Measurements, in pairs and as ratios: `python -m benchmarks`."""
