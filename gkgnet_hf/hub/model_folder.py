"""The files of a model's folder: what a card tells of them, and what of them is published."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import yaml
from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassFieldValidationError

from ..modeling.configuration_gkgnet import GKGNetConfig

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
RECIPE_FILE = "recipe.yaml"
RESULTS_FILE = "all_results.json"
EVALUATION_FILE = "evaluation.json"

Number = float | int | None


class CardValues(TypedDict, total=False):
    """What a card computes with, of any file. It shows other values as they are."""

    # timm's config.json, its pretrained_cfg and its model_args
    architecture: str
    num_classes: int
    pretrained_cfg: dict[str, Any]
    model_args: dict[str, Any] | None
    input_size: list[int]
    img_size: int | list[int]
    in_chans: int
    # evaluation.json, and the rows of its per_label
    dataset: str | None
    split: str | None
    num_images: int
    metrics: dict[str, Number]
    fitted_metrics: dict[str, Number] | None
    size_metrics: dict[str, Number] | None
    random_baseline_mAP: Number
    chance_mAP: Number  # its name in version 0.1
    threshold: Number | list[float | int]
    per_label: list[dict[str, Any]] | None
    label: str
    AP: Number
    positives: int
    # recipe.yaml and all_results.json
    model_name_or_path: str
    backbone_checkpoint: str | None
    config: dict[str, Any] | None
    train_runtime: Number


def read_config(folder: Path) -> GKGNetConfig | dict[str, Any]:
    """The configuration of a GKGNet, or the content of config.json of a timm model of this package.

    Raises:
        FileNotFoundError: if there is no config.json.
        ValueError: if it is of another model.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} must be the folder of a model, it has no {CONFIG_FILE}")
    content = read_values(path)
    if str(content.get("architecture")).startswith(("gkgnet_", "pvig_")):
        _check_types(path, content)
        pretrained = content.get("pretrained_cfg", {})
        _check_types(path, {**pretrained, **(content.get("model_args") or {})})
        if len(pretrained.get("input_size", ())) != 3 or "num_classes" not in content:
            raise ValueError(f"{path} must hold num_classes, and pretrained_cfg with input_size, as timm writes it")
        return content
    if content.get("model_type") != GKGNetConfig.model_type:
        raise ValueError(f"{path} must be of a GKGNet, in the format of transformers or of timm")
    return GKGNetConfig.from_dict(content)


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Content of evaluation.json; empty if it does not exist. ValueError for wrong types in it."""
    path = folder / EVALUATION_FILE
    evaluation = read_values(path)
    for values in (evaluation, *(evaluation.get("per_label") or ())):
        _check_types(path, values)
    return evaluation


def read_training(folder: Path, otherwise: Mapping[str, Any]) -> dict[str, Any]:
    """Content of recipe.yaml, or `otherwise`, with that of all_results.json. ValueError for wrong types in them."""
    recipe, results = read_values(folder / RECIPE_FILE), read_values(folder / RESULTS_FILE)
    if "model" in recipe:  # its name in version 0.1
        recipe["model_name_or_path"] = recipe.pop("model")
    _check_types(folder / RECIPE_FILE, recipe)
    _check_types(folder / RESULTS_FILE, results)
    return {**(recipe or otherwise), **results}


def read_values(path: Path) -> dict[str, Any]:
    """Names and values of a JSON or YAML file; none if it does not exist.

    Raises:
        ValueError: if it holds anything else.
    """
    text = read_text(path)
    if text is None:
        return {}
    try:
        content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold names and values, got {type(content).__name__}")
    return content


def read_text(path: Path) -> str | None:
    """Text of a file, without a byte order mark; None if it does not exist. ValueError if it is not UTF-8."""
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8: {error}") from error


def without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in which absolute paths of this machine are shortened to their last part.

    >>> without_paths({"dataset": "/home/me/photos", "model_name_or_path": "user/net", "epochs": 3})
    {'dataset': 'photos', 'model_name_or_path': 'user/net', 'epochs': 3}
    """
    return {name: _last_part(value) if isinstance(value, str) else value for name, value in values.items()}


def without_second_num_classes(config: Mapping[str, Any]) -> dict[str, Any]:
    """timm's config.json without the num_classes among the model's arguments, which stands beside them as well.

    timm 1.0.31 writes both, and transformers 5.23 fails on the second.

    >>> without_second_num_classes({"num_classes": 5, "model_args": {"num_classes": 5, "img_size": 64}})
    {'num_classes': 5, 'model_args': {'img_size': 64}}
    """
    arguments = config.get("model_args") or {}
    if "num_classes" not in config or "num_classes" not in arguments:
        return dict(config)
    return {**config, "model_args": {name: value for name, value in arguments.items() if name != "num_classes"}}


def published_content(path: Path) -> Path | bytes:
    """What is published of a file.

    The recipe and the evaluation are published without local paths, and timm's configuration so that transformers reads
    it too. Other files are published as they are.
    """
    if path.name not in (CONFIG_FILE, RECIPE_FILE, EVALUATION_FILE):
        return path
    values = read_values(path)
    public = without_second_num_classes(values) if path.name == CONFIG_FILE else without_paths(values)
    if public == values:
        return path
    if path.suffix == ".json":
        return json.dumps(public, indent=2).encode()
    comments = re.match(r"(#.*\n)*", path.read_text(encoding="utf-8-sig"))
    return f"{comments and comments[0]}{yaml.safe_dump(public, sort_keys=False, allow_unicode=True)}".encode()


def _last_part(value: str) -> str:
    path = Path(value)
    return path.name if path.is_absolute() or value.startswith("~") else value


def _check_types(path: Path, values: Mapping[str, Any]) -> None:
    known = {name: value for name, value in values.items() if name in CardValues.__annotations__}
    try:
        validate_typed_dict(CardValues, known)  # type: ignore[type-var]  # it is one
    except StrictDataclassFieldValidationError as error:
        raise ValueError(f"{path} has a wrong value: {str(error).splitlines()[-1].strip()}") from error
