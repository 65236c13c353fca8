"""FiftyOne: labels.json beside data/ (image classification or detection), or samples.json (FiftyOneDataset)."""

from pathlib import Path
from typing import Any

from ..annotations import Splits, divide, understand
from ..options import ReadOptions
from .json_files import load_json
from .tables import rows_to_dataset

FIELDS = {"classes", "labels"}  # of labels.json


def read_fiftyone(path: Path, options: ReadOptions) -> Splits | None:
    """A folder with `data/` and `labels.json` or `samples.json`, or one of these files."""
    files = [path] if path.is_file() else [path / "labels.json", path / "samples.json"]
    for file in files:
        if file.suffix != ".json" or not file.is_file():
            continue
        content = load_json(file)
        if isinstance(content, dict) and isinstance(content.get("labels"), dict) and content.keys() <= FIELDS:
            names = content.get("classes")
            rows = [{"file_name": key, "labels": _labels(value, names)} for key, value in content["labels"].items()]
        elif isinstance(content, dict) and isinstance(content.get("samples"), list):
            rows = [_sample(sample) for sample in content["samples"]]
        else:
            continue
        options.assume(f"{file.name} is in FiftyOne's format")
        folder = file.parent / "data" if (file.parent / "data").is_dir() else file.parent
        annotations, split_of = understand(rows_to_dataset(rows), options, folder)
        return divide(annotations, split_of)
    return None


def _labels(value: Any, names: list[str] | None) -> list[str] | None:
    """The names in one label, several, or objects with a label; None for an image that has not been labelled."""
    if value is None:
        return None
    items = value if isinstance(value, list) else [value]
    found = [item.get("label") if isinstance(item, dict) else item for item in items]
    return [str(names[item]) if isinstance(item, int) and names else str(item) for item in found]


def _sample(sample: dict[str, Any]) -> dict[str, Any]:
    fields = [value for value in sample.values() if isinstance(value, dict) and "_cls" in value]
    if len(fields) > 1:
        keys = [key for key, value in sample.items() if isinstance(value, dict) and "_cls" in value]
        ground_truth = [sample[key] for key in keys if key == "ground_truth"]
        if not ground_truth:
            raise ValueError(f"samples.json has several label fields: {', '.join(keys)}; export one of them")
        fields = ground_truth
    labels = None
    for value in fields:
        items = next((value[key] for key in ("classifications", "detections", "polylines") if key in value), [value])
        labels = [str(item["label"]) for item in items if item.get("label") is not None]
    return {"file_name": sample.get("filepath"), "labels": labels}
