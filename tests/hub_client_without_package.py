"""What the client process of test_hub_round_trips does that has neither gkgnet_hf nor timm; see tests/hidden.py."""

from typing import Any

from transformers import AutoBackbone, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

from .fingerprint import PHOTO, fingerprint
from .hidden import seen


def load_by_carried_code(states: list[tuple[str, str]]) -> dict[str, Any]:
    """What every loader gives for each (repository, revision), and which modules of the package were imported."""
    return {"states": [_load(name, revision) for name, revision in states], "seen": seen()}


def _load(name: str, revision: str) -> dict[str, Any]:
    options = {"revision": revision, "trust_remote_code": True}
    return {
        "classifier": fingerprint(AutoModelForImageClassification.from_pretrained(name, **options)),
        "base": fingerprint(AutoModel.from_pretrained(name, **options)),
        "backbone": fingerprint(AutoBackbone.from_pretrained(name, **options)),
        "pipeline": pipeline("image-classification", model=name, **options)(PHOTO),
        "processor": type(AutoImageProcessor.from_pretrained(name, **options)).__name__,
    }
