"""Recipes: YAML files of training arguments, which the command line overrides."""

import dataclasses
import difflib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from .arguments import DataArguments, ModelArguments, MultiLabelTrainingArguments

RECIPES = files(__package__) / "recipes"
ARGUMENTS = (ModelArguments, DataArguments, MultiLabelTrainingArguments)


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
        """Write the arguments that were given, and every argument of the model and the data, as a recipe."""
        values = {**self.given, **dataclasses.asdict(self.model), **dataclasses.asdict(self.data)}
        values.pop("resume_from_checkpoint", None)
        path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


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
            "--name", "value" of any field of the three dataclasses. Later ones win; "null" takes back earlier ones.

    Raises:
        ValueError: for an argument that is unknown, missing or of the wrong kind, or a file that is no recipe.

    >>> recipe = read_recipe(["coco-448", "--image_size", "224", "--bf16", "false"])
    >>> recipe.model.image_size, recipe.training.per_device_train_batch_size
    (224, 16)
    """
    words = list(arguments)
    settings = _read_file(words.pop(0)) if words and not words[0].startswith("--") else {}
    words = _take_back(settings, words)
    from_file = [word for name, value in settings.items() if value is not None for word in _as_words(name, value)]
    parser = _Parser(ARGUMENTS, allow_abbrev=False)  # type: ignore[arg-type]
    values = vars(parser.parse_args([*from_file, *words]))
    model, data, training = parser.parse_dict(values)
    named = settings.keys() | {word[2:].split("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    named |= {name.removeprefix("no_") for name in named}  # --no_check_data
    return Recipe(model, data, training, {name: value for name, value in values.items() if name in named})


def _read_file(name: str) -> dict[str, Any]:
    if name in recipe_names():
        text = (RECIPES / f"{name}.yaml").read_text()
    elif Path(name).is_file():
        text = Path(name).read_text()
    else:
        raise ValueError(f"{name} is neither a file nor a recipe of this package ({', '.join(recipe_names())})")
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is no YAML file: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{name} must hold `name: value` lines, got {type(settings).__name__}")
    known = {f.name for part in ARGUMENTS for f in dataclasses.fields(part)}
    for unknown in settings.keys() - known:
        raise ValueError(f"{name}: unknown argument {unknown}{_similar(str(unknown), known)}")
    return settings


def _take_back(settings: dict[str, Any], words: list[str]) -> list[str]:
    """The words without those that a later "--name null" takes back, from `settings` too."""
    kept: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not kept:
            kept.append([])
        kept[-1].append(word)
    for name in [option[0] for option in kept if option[1:] == ["null"]]:
        settings.pop(name[2:].replace("-", "_"), None)
        kept = [option for option in kept if option[0] != name]
    return [word for option in kept for word in option]


def _as_words(name: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]


def _similar(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


class _Parser(HfArgumentParser):
    """Raises where argparse would print its hundreds of options and exit."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            known = {option[2:] for option in self._option_string_actions}
            raise ValueError(f"unknown argument {rest[0]}{_similar(rest[0].lstrip('-'), known)}")
        return namespace, rest
