"""Loads saved models where neither gkgnet_hf nor timm can be imported, for tests/test_remote_code.py.

python -m tests.run_without_package FOLDER, with `model`, `checkpoint` and `expected.safetensors` in it, writes
FOLDER/report.json.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

from .hidden import hidden, hide, seen

if __name__ == "__main__":  # doctest imports this file too; before anything else is imported
    hide()

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoBackbone, AutoConfig, AutoModel, AutoModelForImageClassification, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

TRUST = {"trust_remote_code": True}


def refusal(load, folder):
    try:
        return f"loaded {load(folder)}"
    except ValueError as error:
        return str(error)


@torch.no_grad()
def main(folder: Path) -> dict:
    expected = load_file(folder / "expected.safetensors")
    pixel_values = expected["pixel_values"]

    def same(model, output, name, path=folder / "model"):
        """Weights to the bit as in the file of the whole model, output within rounding."""
        tensors = load_file(path / "model.safetensors")
        prefix = "" if set(model.state_dict()) <= set(tensors) else "gkgnet."
        weights = all(torch.equal(tensor, tensors[prefix + key]) for key, tensor in model.state_dict().items())
        return weights and torch.allclose(output(model(pixel_values)), expected[name], rtol=1e-4, atol=1e-4)

    report = {"importable": [name for name in hidden if find_spec(name)], "same": {}, "files": {}}
    saved = folder / "model"
    report["refusals"] = [refusal(load.from_pretrained, saved) for load in (AutoConfig, AutoModel)]
    report["refusals"] += [refusal(lambda name: pipeline("image-classification", model=name), str(saved))]

    config = AutoConfig.from_pretrained(saved, **TRUST)
    classifier = AutoModelForImageClassification.from_pretrained(saved, **TRUST)
    base = AutoModel.from_pretrained(saved, **TRUST)
    # AutoBackbone.from_pretrained asks the Hub before it looks for a folder; over a Hub it works.
    backbone = get_class_from_dynamic_module(config.auto_map["AutoBackbone"], saved).from_pretrained(saved)
    checkpoint = AutoModelForImageClassification.from_pretrained(folder / "checkpoint", **TRUST)
    report["AutoBackbone"] = type(AutoBackbone.from_config(config, **TRUST)).__name__

    models = {"config": config, "classifier": classifier, "base": base, "backbone": backbone}
    for name, model in models.items():
        model.save_pretrained(folder / f"again-{name}")
        report["files"][name] = sorted(path.name for path in (folder / f"again-{name}").iterdir())
    again = AutoModelForImageClassification.from_pretrained(folder / "again-classifier", **TRUST)
    # Several copies of the code are in this process by now, and all still work.
    for name, model in {"classifier": classifier, "again": again}.items():
        report["same"][name] = same(model, lambda output: output.logits, "logits")
    report["same"]["checkpoint"] = same(
        checkpoint, lambda output: output.logits, "checkpoint_logits", folder / "checkpoint"
    )
    report["same"]["base"] = same(base, lambda output: output.label_hidden_state, "label_nodes")
    report["same"]["backbone"] = same(backbone, lambda output: output.feature_maps[0], "feature_map")

    classify = pipeline("image-classification", model=str(saved), **TRUST)
    report["scores"] = classify(Image.new("RGB", (80, 60), "orange"), top_k=None)
    report["hidden modules"] = seen()

    hidden.clear()
    import gkgnet_hf

    installed = AutoModelForImageClassification.from_pretrained(saved)
    report["package class"] = isinstance(installed, gkgnet_hf.GKGNetForImageClassification)
    for name, model in {"beside the package": classifier, "package": installed}.items():
        report["same"][name] = same(model, lambda output: output.logits, "logits")
    return report


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "report.json").write_text(json.dumps(main(folder)))
