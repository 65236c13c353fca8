"""A folder that existing tagger tools load without changes: an ONNX file, and tables of tags and preprocessing.

The layout is that of the taggers on the Hub which dghs-imgutils and others read
(https://dghs-imgutils.deepghs.org/main/api_doc/generic/multilabel_timm.html).
"""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import BaseImageProcessor

from .export import export_program, save_onnx
from .files import check_new_folder, written_whole
from .modeling.group_knn import operators_in_exports
from .modeling.modeling_gkgnet import GKGNetForImageClassification
from .predict import model_label_names
from .predict.label_rules import LabelRules, read_label_rules

INPUT, OUTPUTS = "input", ("embedding", "logits", "prediction")
GENERAL = "general"


def export_tagger(
    model: GKGNetForImageClassification,
    processor: BaseImageProcessor,
    out: str | os.PathLike[str],
    label_table: str | os.PathLike[str] | None = None,
    counts: Mapping[str, int] | None = None,
) -> Path:
    """Write a folder, whole or not at all, with what tagger tools read.

    `model.onnx` takes `input` (batch, channels, height, width) and gives `embedding` (batch, C4), the pooled patches;
    `logits` (batch, L); `prediction` (batch, L), the scores. `selected_tags.csv` has a row a label: `tag_id`,
    `name`, `category`, `count`, `best_threshold`. `categories.json` names the categories, `preprocess.json` the steps
    from a picture to `input`. `config.json` and `preprocessor_config.json` are there as in `export_model`.

    Args:
        model: the classifier, on the CPU.
        processor: its image processor.
        out: a new or empty folder.
        label_table: thresholds, categories and new names, as for `read_label_rules`; labels without a category are
            "general".
        counts: label → in how many images it was; 0 where that is not known.

    Returns:
        `out` as a Path.

    Raises:
        FileExistsError, ImportError, ValueError: as in `export_model` and `read_label_rules`; for an image processor
            whose steps have no name in this layout.

    Example:

        export_tagger(model, processor, "my-tagger", label_table="labels.csv")
    """
    out = Path(out)
    check_new_folder(out)
    names = model_label_names(model)
    rules = read_label_rules(names, model.config.decision_threshold, label_table)
    steps = _steps(processor)
    categories = [rules.categories.get(name) or GENERAL for name in names]
    kinds = sorted(set(categories), key=lambda kind: (kind != GENERAL, kind))
    with written_whole(out) as folder:
        with operators_in_exports():
            program = export_program(_Tagger(model))
        save_onnx(program, model, folder / "model.onnx", INPUT, OUTPUTS)
        _write_tags(folder / "selected_tags.csv", rules, [kinds.index(kind) for kind in categories], counts or {})
        _write_json(folder / "categories.json", [{"category": i, "name": kind} for i, kind in enumerate(kinds)])
        _write_json(folder / "preprocess.json", {"test": steps, "val": steps})
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
    return out


class _Tagger(nn.Module):
    """Embedding, logits and scores of a classifier."""

    def __init__(self, model: GKGNetForImageClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.model.gkgnet(pixel_values)
        logits = self.model.classify(outputs)
        single = self.model.config.problem_type == "single_label_classification"
        return outputs.pooler_output, logits, logits.softmax(-1) if single else logits.sigmoid()


def _write_tags(path: Path, rules: LabelRules, categories: Sequence[int], counts: Mapping[str, int]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("tag_id", "name", "category", "count", "best_threshold"))
        for i, name in enumerate(rules.names):
            # What is left out gets a threshold that no score reaches.
            threshold = 1.01 if name in rules.excluded else rules.thresholds[i]
            writer.writerow((i, rules.renamed.get(name, name), categories[i], counts.get(name, 0), f"{threshold:g}"))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _steps(processor: Any) -> list[dict[str, Any]]:
    """The steps of an image processor under their names in this layout."""
    size = {name: side for name, side in dict(processor.size).items() if side}
    if size.keys() not in ({"height", "width"}, {"shortest_edge"}) or len(processor.image_mean) != 3:
        raise ValueError(f"The layout has no steps for {type(processor).__name__} with size {size}")
    resampling = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
    sides: Any = size.get("shortest_edge") or [size["height"], size["width"]]
    steps: list[dict[str, Any]] = [
        {"type": "convert_rgb", "force_background": "white"},
        {"type": "resize", "size": sides, "interpolation": resampling[int(processor.resample)], "antialias": True},
    ]
    if getattr(processor, "do_center_crop", False):
        crop = dict(processor.crop_size)
        steps.append({"type": "center_crop", "size": [crop["height"], crop["width"]]})
    mean, std = list(processor.image_mean), list(processor.image_std)
    return [*steps, {"type": "to_tensor"}, {"type": "normalize", "mean": mean, "std": std}]
