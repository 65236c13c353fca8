"""The files of a model's folder: what a card tells of them, and what of them is published."""

import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import yaml
from huggingface_hub.constants import SAFETENSORS_INDEX_FILE, SAFETENSORS_SINGLE_FILE
from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers.dynamic_module_utils import get_relative_imports

from ..modeling.configuration_gkgnet import MAX_LABELS, VARIANTS, GKGNetConfig, one_line
from ..modeling.modeling_gkgnet import read_index
from .card_text import TIMM_ARGUMENTS

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
RECIPE_FILE = "recipe.yaml"
RESULTS_FILE = "all_results.json"
EVALUATION_FILE = "evaluation.json"
STATE_FILE = "trainer_state.json"

# What a model's folder publishes beside its weights and the code that its configuration names. Nothing else is.
PUBLISHED = (
    *(CONFIG_FILE, "preprocessor_config.json", "processor_config.json"),
    *(CARD_FILE, "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE"),
    *(RECIPE_FILE, RESULTS_FILE, "train_results.json", "eval_results.json", EVALUATION_FILE),
)
# Aliases let a YAML file of a few lines stand for billions of values.
MOST_VALUES = 1_000_000

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
    if path.is_symlink():
        raise FileNotFoundError(f"{path} is a link, which is not followed: make a copy of the folder with `cp -rL`")
    content = read_values(path)
    if str(content.get("architecture")).startswith(("gkgnet_", "pvig_")):
        _check_types(path, content)
        pretrained = content.get("pretrained_cfg", {})
        _check_types(path, {**pretrained, **(content.get("model_args") or {})})
        if len(pretrained.get("input_size", ())) != 3 or "num_classes" not in content:
            raise ValueError(f"{path} must hold num_classes, and pretrained_cfg with input_size, as timm writes it")
        _check_timm(path, content)
        return content
    if content.get("model_type") != GKGNetConfig.model_type:
        raise ValueError(f"{path} must be of a GKGNet, in the format of transformers or of timm")
    try:
        return GKGNetConfig.from_dict(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_timm(path: Path, content: Mapping[str, Any]) -> None:
    """Raise ValueError for a network of timm that `GKGNetConfig` would refuse, for instance one that is too large."""
    arguments = content.get("model_args") or {}
    fields = {field: arguments[argument] for field, argument in TIMM_ARGUMENTS.items() if argument in arguments}
    fields.setdefault("num_channels", content["pretrained_cfg"]["input_size"][0])
    sizes = VARIANTS.get(str(content["architecture"]).rpartition("_")[2], VARIANTS["s"])
    image_size = arguments.get("img_size", content["pretrained_cfg"]["input_size"][1:])
    fields = {**sizes, "image_size": image_size, **fields}
    blocks = [0] * len(fields["depths"]) if isinstance(fields["depths"], (list, tuple)) else []
    try:
        GKGNetConfig.from_dict({**fields, "num_label_blocks": blocks})
    except ValueError as error:
        raise ValueError(f"{path} does not describe a timm model: {error}") from error
    if not 0 <= content["num_classes"] <= MAX_LABELS:
        raise ValueError(f"{path}: num_classes must be from 0 to {MAX_LABELS:,}")


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Content of evaluation.json; empty if it does not exist. ValueError for wrong types in it."""
    path = folder / EVALUATION_FILE
    evaluation = read_values(path)
    _check_types(path, evaluation)
    for row in evaluation.get("per_label") or ():
        _check_types(path, row)
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
    """Names and values of a JSON or YAML file; none if it does not exist, or is a link.

    Raises:
        ValueError: if it holds anything else.
    """
    text = read_text(path)
    if text is None:
        return {}
    try:
        content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
        count = _count_values(content, {})
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from error
    if count > MOST_VALUES:
        raise ValueError(f"{path} must hold at most {MOST_VALUES:,} values, got more by its aliases")
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path} must hold names and values, got {type(content).__name__}")
    return content


def _count_values(content: Any, known: dict[int, float]) -> float:
    """How many values there are if each alias is written out; infinite where one contains itself."""
    if not isinstance(content, (dict, list)):
        return 1
    if id(content) not in known:
        known[id(content)] = math.inf  # while what it contains is counted
        inside = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_count_values(value, known) for value in inside)
    return known[id(content)]


def is_own_file(path: Path) -> bool:
    """Whether a regular file is at `path`, and not a link to one: what a link leads to is not part of a folder."""
    return path.is_file() and not path.is_symlink()


def published_files(folder: Path) -> list[str]:
    """The names of the files of a model's folder that may be published.

    These are the safetensors files of the weights, the code that config.json names, and those of `PUBLISHED`. All of
    them are regular files in the folder itself; links are not followed, and subfolders are left out.
    """
    names = {*PUBLISHED, *_code_files(folder)}
    if is_own_file(folder / SAFETENSORS_SINGLE_FILE):
        names.add(SAFETENSORS_SINGLE_FILE)
    elif is_own_file(folder / SAFETENSORS_INDEX_FILE):
        names |= {SAFETENSORS_INDEX_FILE, *read_index(folder / SAFETENSORS_INDEX_FILE)}
    return sorted(name for name in names if is_own_file(folder / name))


def _code_files(folder: Path) -> set[str]:
    """The Python files that the auto_map of config.json names, and what they import of each other."""
    auto_map = read_values(folder / CONFIG_FILE).get("auto_map")
    places = auto_map.values() if isinstance(auto_map, dict) else ()
    modules = {place.split(".")[0] for place in places if isinstance(place, str) and "--" not in place}
    found: set[str] = set()
    while modules:
        name = f"{(module := modules.pop())}.py"
        if module.isidentifier() and name not in found and is_own_file(folder / name):
            found.add(name)
            modules |= {imported.split(".")[0] for imported in get_relative_imports(folder / name)}
    return found


def read_text(path: Path, links: bool = False) -> str | None:
    """Text of a file, without a byte order mark; None if it does not exist. ValueError if it is not UTF-8.

    A link is passed over unless `links`, with a message: what it leads to would be published.
    """
    if not path.is_file():
        return None
    if path.is_symlink() and not links:
        logger.warning("%s is a link, which is not followed", path)
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
    return {name: _without_path(value) for name, value in values.items()}


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

    The recipe, the evaluation and the state of a training are published without local paths, and timm's configuration
    so that transformers reads it too. Other files are published as they are.
    """
    if path.name not in (CONFIG_FILE, RECIPE_FILE, EVALUATION_FILE, STATE_FILE):
        return path
    values = read_values(path)
    public = _public_config(values) if path.name == CONFIG_FILE else without_paths(values)
    if path.name == RECIPE_FILE:
        public = {name: value for name, value in public.items() if not name.endswith("token")}
    if public == values:
        return path
    if path.suffix == ".json":
        return json.dumps(public, indent=2).encode()
    comments = re.match(r"(#.*\n)*", path.read_text(encoding="utf-8-sig"))
    return f"{comments and comments[0]}{yaml.safe_dump(public, sort_keys=False, allow_unicode=True)}".encode()


def _public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json so that every loader reads it, without the folder that its network was loaded from."""
    public = without_second_num_classes(config)
    return {name: _without_path(value) if name == "_name_or_path" else value for name, value in public.items()}


def _without_path(value: Any) -> Any:
    if isinstance(value, dict):
        return without_paths(value)
    if isinstance(value, list):
        return [_without_path(each) for each in value]
    if not isinstance(value, str):
        return value
    path = Path(value)
    return path.name if path.is_absolute() or value.startswith("~") else value


def _check_types(path: Path, values: Mapping[str, Any]) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} has a wrong value: expected names and values, got {type(values).__name__}")
    known = {name: value for name, value in values.items() if name in CardValues.__annotations__}
    for name, value in known.items():
        for number in value.values() if isinstance(value, dict) else [value]:
            if isinstance(number, (int, float)) and abs(number) > 1e15:  # infinity too; NaN is the mAP of no image
                raise ValueError(f"{path} has a wrong value: {name} must be below 1e15")
    try:
        validate_typed_dict(CardValues, known)  # type: ignore[type-var]  # it is one
    except StrictDataclassFieldValidationError as error:
        raise ValueError(f"{path} has a wrong value: {str(error).splitlines()[-1].strip()}") from error
