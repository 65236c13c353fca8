"""The files of a model's folder that its card tells of."""

import json
from pathlib import Path
from typing import Any

import yaml

from ..modeling.configuration_gkgnet import GKGNetConfig

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
RECIPE_FILE = "recipe.yaml"
RESULTS_FILE = "all_results.json"
EVALUATION_FILE = "evaluation.json"


def read_config(folder: Path) -> GKGNetConfig | dict[str, Any]:
    """The configuration of a GKGNet, or what config.json holds of a timm model of this package.

    Raises:
        FileNotFoundError: if there is no config.json.
        ValueError: if it is of neither.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} must be the folder of a model, it has no {CONFIG_FILE}")
    content = read_values(path)
    if str(content.get("architecture")).startswith(("gkgnet_", "pvig_")):
        return content
    if content.get("model_type") != GKGNetConfig.model_type:
        raise ValueError(f"{path} must be of a GKGNet, in the format of transformers or of timm")
    return GKGNetConfig.from_dict(content)


def read_values(path: Path) -> dict[str, Any]:
    """Names and values of a JSON or YAML file; none if it is not there.

    Raises:
        ValueError: if it holds anything else.
    """
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold names and values, got {type(content).__name__}")
    return content
