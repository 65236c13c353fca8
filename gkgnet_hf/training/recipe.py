"""Recipes: YAML files of training arguments, which the command line overrides."""

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import torch
import transformers
import yaml
from transformers import HfArgumentParser

from ..hub.model_folder import without_paths
from ..modeling.configuration_gkgnet import __version__
from .arguments import RECIPES, DataArguments, ModelArguments, recipe_names
from .training_arguments import MultiLabelTrainingArguments

ARGUMENTS = (ModelArguments, DataArguments, MultiLabelTrainingArguments)
NULL = "null"
VERBATIM = "\0"  # before text that argparse would take for an option, or that is no null; no file or word contains it

LARGEST_FILE = 1_000_000  # bytes
DEEPEST = 20


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
        text = yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False, allow_unicode=True)  # enums are text
        path.write_text(versions + text, encoding="utf-8")


def read_recipe(arguments: Sequence[str]) -> Recipe:
    """A recipe from words of the command line.

    Args:
        arguments: name of a recipe of the package or path of a YAML file, if the first does not start with "--"; then
            "--name", "value" of any field of the three dataclasses, which wins over the file. A list is several words,
            a mapping is JSON, "null" is None. `config` is merged with the file's.

    Raises:
        ValueError: for an argument that is unknown, missing or of the wrong kind, or a file that is no recipe.

    >>> recipe = read_recipe(["digits", "--image_size", "64", "--lr_scheduler_kwargs", '{"num_cycles": 1}'])
    >>> recipe.model.image_size, recipe.training.lr_scheduler_kwargs, recipe.training.per_device_train_batch_size
    (64, {'num_cycles': 1}, 32)
    """
    parser, words = _Parser(), list(arguments)
    file = parser.parse(_file_words(name := words.pop(0)), f"{name}: ") if words and words[0][:2] != "--" else {}
    line = parser.parse(words)
    given = {**file, **line}
    if file.get("config") and line.get("config"):
        given["config"] = {**file["config"], **line["config"]}
    if "dataset" not in given:
        raise ValueError("The argument --dataset is required")
    try:
        model, data, training = parser.parse_dict(given)
    except TypeError as error:  # of a class that is made from a mapping, such as accelerator_config
        raise ValueError(str(error)) from error
    return Recipe(model, data, training, given)


def _file_words(name: str) -> list[str]:
    """A recipe file as words of the command line."""
    if name in recipe_names():
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = _read_text(Path(name))
    else:
        raise ValueError(f"{name} is neither a file nor a recipe of this package ({', '.join(recipe_names())})")
    try:
        _check_plain(text, name)
        typed = yaml.load(text, _Yaml12)
        settings = yaml.load(text, yaml.BaseLoader)  # as written, for the parser to read
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is no YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{name} must hold `name: value` lines, got {type(settings).__name__}")
    words = []
    for (name, text), value in zip(settings.items(), typed.values(), strict=False):
        if isinstance(value, list):
            words += [f"--{name}", *map(_word, text, value)]
        else:
            words.append(f"--{name}={_word(text, value)}")
    return words


def _read_text(file: Path) -> str:
    if (size := file.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"{file} is no recipe: it has {size:,} bytes")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text: {error}") from error


def _check_plain(text: str, name: str) -> None:
    """Raise ValueError for what no recipe needs: anchors, which repeat content, tags, deep nesting, odd keys."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        where = f"{name}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError(f"{where}: anchors and aliases (& and *) are not read in recipes")
        if str(getattr(event, "tag", None) or "").strip("!"):
            raise ValueError(f"{where}: tags such as {event.tag} are not read in recipes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"{where}: more than {DEEPEST} levels")
    root = yaml.compose(text, yaml.SafeLoader)
    seen: set[str] = set()
    for key, _ in root.value if isinstance(root, yaml.MappingNode) else ():
        where, word = f"{name}, line {key.start_mark.line + 1}", str(key.value)
        if not isinstance(key, yaml.ScalarNode) or not word.isidentifier():
            raise ValueError(f"{where}: {word[:80]!r} is not the name of an argument")
        if word in seen:
            raise ValueError(f"{where}: {word} is given twice")
        seen.add(word)


def _word(text: Any, value: Any) -> str:
    """A value of a file, as written and as YAML reads it, as a word of the command line."""
    if value is None:
        return NULL
    if isinstance(value, dict | list):
        return json.dumps(value)
    verbatim = isinstance(value, str) and (text.startswith("-") or text == NULL)
    return f"{VERBATIM if verbatim else ''}{text}"


class _Yaml12(yaml.SafeLoader):
    """As YAML 1.2 has it, `no` and `off` are words and 1e-4 is a number."""


_Yaml12.yaml_implicit_resolvers = {}
for _tag, _pattern in (
    ("bool", r"true|false|True|False|TRUE|FALSE"),
    ("null", r"~|null|Null|NULL|"),
    ("int", r"[-+]?[0-9]+"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
):
    _Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), None)


class _Parser(HfArgumentParser):
    """transformers' parser of the three dataclasses. It returns what is given, takes every list and mapping, and raises
    ValueError where argparse would print its hundreds of options and exit."""

    def __init__(self) -> None:
        super().__init__(ARGUMENTS, allow_abbrev=False, add_help=False)  # type: ignore[arg-type]
        self.source = ""
        types = {name: kind for part in ARGUMENTS for name, kind in get_type_hints(part).items()}
        for action in self._actions:
            action.default, action.required = argparse.SUPPRESS, False
            kinds = (types[action.dest], *get_args(types[action.dest]))
            if any(get_origin(kind) is list for kind in kinds):
                action.nargs = "+"
            if action.nargs != 0:  # but --no_check_data, which has no value
                action.type = _reader(action.type, kinds)  # type: ignore[arg-type]

    def parse(self, words: list[str], source: str = "") -> dict[str, Any]:
        """The arguments that the words give, by name. Errors begin with `source`."""
        self.source = source
        # argparse of Python 3.11 takes the value out of --separator=--
        words = [re.sub("^(--[^=]+=)--$", rf"\g<1>{VERBATIM}--", word) for word in words]
        namespace, rest = self.parse_known_args(words)
        for word in rest[:1]:
            if not word.startswith("--"):
                self.error(f"expected --ARGUMENT VALUE, got {word!r}")
            name = word[2:].partition("=")[0]
            close = difflib.get_close_matches(name, [action.dest for action in self._actions], n=1)
            self.error(f"unknown argument {name}{f'; did you mean {close[0]}?' if close else ''}")
        return {name: None if value == [None] else value for name, value in vars(namespace).items()}

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if value is not None:  # null, which `_reader` has allowed, is no choice of argparse's
            super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        raise ValueError(self.source + message.replace(repr(VERBATIM)[1:-1], ""))


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _reader(read: Callable[[str], Any] | None, kinds: Sequence[Any]) -> Callable[[str], Any]:
    """How a word becomes a value of one of these types: null, a mapping as JSON, or what transformers' parser reads."""
    mapping = any((get_origin(kind) or kind) is dict or dataclasses.is_dataclass(kind) for kind in kinds)

    def convert(text: str) -> Any:
        text, null = text.removeprefix(VERBATIM), text == NULL
        if null:
            if type(None) not in kinds:
                raise argparse.ArgumentTypeError(f"cannot be {NULL}")
            return None
        if mapping and (text.lstrip().startswith("{") or str not in kinds):  # some take the path of a file instead
            try:
                return dict(json.loads(text))
            except (json.JSONDecodeError, TypeError) as error:
                raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r}: {error}") from error
        if not mapping and text.startswith("{") and _is_object(text):
            raise argparse.ArgumentTypeError(f"cannot be a mapping, got {text!r}")
        return read(text) if read else text

    convert.__name__ = getattr(read, "__name__", "text")  # argparse names it in its errors
    return convert
