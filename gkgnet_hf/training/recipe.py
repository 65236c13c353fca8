"""Recipes: YAML files of training arguments, which the command line overrides."""

import dataclasses
import difflib
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import torch
import transformers
import yaml
from transformers import HfArgumentParser

from ..hub.model_folder import without_paths
from ..modeling.configuration_gkgnet import __version__
from .arguments import DataArguments, ModelArguments, MultiLabelTrainingArguments

RECIPES = files(__package__) / "recipes"
ARGUMENTS = (ModelArguments, DataArguments, MultiLabelTrainingArguments)
TYPES = {name: kind for part in ARGUMENTS for name, kind in get_type_hints(part).items()}
NULL = "null"


@dataclasses.dataclass
class Recipe:
    """A complete training run.

    `given` holds the arguments that the file and the command line name, by name.
    """

    model: ModelArguments
    data: DataArguments
    training: MultiLabelTrainingArguments
    given: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write file and command line together, with every argument of the model and the data, as a recipe.

        With `push_to_hub` the Trainer publishes the file: of local paths only the last part is written then.
        """
        values = {**self.given, **dataclasses.asdict(self.model), **dataclasses.asdict(self.data)}
        for name in ("resume_from_checkpoint", "hub_token"):
            values.pop(name, None)
        if self.training.push_to_hub:
            values = without_paths(values)
        versions = f"# gkgnet_hf {__version__}, transformers {transformers.__version__}, torch {torch.__version__}\n"
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        path.write_text(versions + text, encoding="utf-8")


def recipe_names() -> list[str]:
    """Recipes that come with the package.

    >>> "coco-448" in recipe_names()
    True
    """
    return sorted(Path(file.name).stem for file in RECIPES.iterdir() if file.name.endswith(".yaml"))


def read_recipe(arguments: Sequence[str]) -> Recipe:
    """A recipe from words of the command line.

    Args:
        arguments: name of a recipe of the package or path of a YAML file, if the first does not start with "--"; then
            "--name", "value" of any field of the three dataclasses, which wins over the file; `config` is merged with
            the file's. "null" is None.

    Raises:
        ValueError: for an argument that is unknown, missing or of the wrong kind, or a file that is no recipe.

    >>> recipe = read_recipe(["coco-448", "--image_size", "224", "--bf16", "false"])
    >>> recipe.model.image_size, recipe.training.per_device_train_batch_size
    (224, 16)
    """
    words = list(arguments)
    options = _read_file(words.pop(0)) if words and not words[0].startswith("--") else {}
    for name, values in _split(words).items():
        if name == "config" and values != [NULL]:
            values = [json.dumps({**_json(options.get(name, ["{}"])), **_json(values)})]
        options[name] = values
    nulls = [name for name, values in options.items() if values == [NULL]]
    for name in nulls:
        if type(None) not in get_args(TYPES[name]):
            raise ValueError(f"{name} cannot be {NULL}")
    parser = _Parser(ARGUMENTS, allow_abbrev=False)  # type: ignore[arg-type]
    parsed: dict[str, Any] = vars(
        parser.parse_args([w for n, v in options.items() if n not in nulls for w in (f"--{n}", *v)])
    )
    parsed.update(dict.fromkeys(nulls))
    model, data, training = parser.parse_dict(parsed)
    return Recipe(model, data, training, {name: value for name, value in parsed.items() if name in options})


def _read_file(name: str) -> dict[str, list[str]]:
    """Argument → its words."""
    if name in recipe_names():
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise ValueError(f"{name} is neither a file nor a recipe of this package ({', '.join(recipe_names())})")
    try:
        typed = yaml.safe_load(text)
        settings = yaml.load(text, yaml.BaseLoader)  # as text: to YAML `no` would be False
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is no YAML file: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{name} must hold `name: value` lines, got {type(settings).__name__}")
    _check_names(settings, prefix=f"{name}: ")
    words = {key: value if isinstance(value, list) else [value or NULL] for key, value in settings.items()}
    if typed.get("config"):
        words["config"] = [json.dumps(typed["config"])]
    return words


def _split(words: Sequence[str]) -> dict[str, list[str]]:
    """Words of the command line → argument → its words; what is said several times is joined."""
    options: dict[str, list[str]] = {}
    values: list[str] | None = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            values = options.setdefault(name.replace("-", "_"), [])
            values += [value] if equals else []
        elif values is None:
            raise ValueError(f"expected --ARGUMENT VALUE, got {word!r}")
        else:
            values.append(word)
    _check_names(options, prefix="")
    return {name: v if "list" in str(_type(name)) else v[-1:] for name, v in options.items()}


def _check_names(names: Iterable[str], prefix: str) -> None:
    for name in names:
        if _type(name) is None:
            close = difflib.get_close_matches(name, TYPES, n=1)
            raise ValueError(f"{prefix}unknown argument {name}{f'; did you mean {close[0]}?' if close else ''}")


def _type(name: str) -> Any:
    return TYPES.get(name) or TYPES.get(name.removeprefix("no_"))  # --no_check_data


def _json(words: list[str]) -> dict[str, Any]:
    return {} if words == [NULL] else ModelArguments(config=words[0]).config  # type: ignore[return-value]


class _Parser(HfArgumentParser):
    """Raises where argparse would print its hundreds of options and exit."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)
