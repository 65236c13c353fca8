"""Checkpoints that come from elsewhere: what does not fit is one error that names the file."""

import errno
import json
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Union, get_args, get_origin, get_type_hints

from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerState
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME

from ..files import STATE_FILE

# What reading a file of another kind or of another run raises, somewhere in torch or transformers.
MISFITS = (
    *(RuntimeError, KeyError, IndexError, AttributeError, TypeError, ValueError, OverflowError),
    *(EOFError, UnpicklingError, SafetensorError, RecursionError),
)
LARGEST = 10**15  # steps, epochs, images a batch
# How torch.save says that it could not write; the number of the error is lost on the way.
TORCH_WRITE_FAILURES = ("PytorchStreamWriter", "inline_container", "file write failed", "iostream error")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """What goes wrong in the block is a ValueError that names the file."""
    try:
        yield
    except (*MISFITS, OSError) as error:
        if isinstance(error, ValueError | OSError) and str(file.parent) in str(error):
            raise
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ValueError(f"{file} cannot be resumed from: {reason}") from error


@contextmanager
def writing(checkpoint: Path) -> Iterator[None]:
    """A disk that cannot be written is an OSError that says what is left."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(error.errno, _not_written(checkpoint, error.strerror)) from error
    except SafetensorError as error:
        raise OSError(_not_written(checkpoint, str(error))) from error
    except RuntimeError as error:
        if not any(words in str(error) for words in TORCH_WRITE_FAILURES):
            raise
        raise OSError(_not_written(checkpoint, str(error).splitlines()[0])) from error


def _not_written(checkpoint: Path, reason: str | None) -> str:
    return (
        f"{checkpoint} cannot be written: {reason}. Earlier checkpoints are as they were: go on with "
        "--resume_from_checkpoint last"
    )


def check_checkpoint(checkpoint: Path, labels: dict[int, str] | None) -> None:
    """Check what can be checked before anything is loaded.

    Args:
        checkpoint: the folder.
        labels: those of the network that is to be trained; None to leave them unchecked.

    Raises:
        FileNotFoundError: where no folder or no state is.
        ValueError: for a state, a configuration or an index of weights that is not of such a checkpoint.
    """
    if not checkpoint.is_dir():
        raise FileNotFoundError(f"There is no checkpoint {checkpoint} to resume from")
    _check_state(checkpoint / STATE_FILE)
    if labels is not None and (checkpoint / CONFIG_NAME).is_file():
        _check_labels(checkpoint / CONFIG_NAME, labels)
    if odd := next((file for file in sorted(checkpoint.iterdir()) if file.exists() and not file.is_file()), None):
        raise ValueError(f"{odd} must be a regular file")  # to open a pipe would wait for ever
    for name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
        if (checkpoint / name).is_file():
            _check_index(checkpoint / name)


def _check_state(file: Path) -> None:
    state, hints = _json_object(file), get_type_hints(TrainerState)
    known = {field.name for field in fields(TrainerState)}
    for name, value in state.items():
        if name not in known:
            raise ValueError(f"{file} has the field {name}, which is none of a training state")
        if name == "stateful_callbacks":
            _check(file, name, isinstance(value, dict | None), value)
        else:
            _check(file, name, _is_of(value, hints[name]), value)
    for name, least in (("global_step", 0), ("epoch", 0), ("train_batch_size", 1)):
        value = state.get(name)
        fits = isinstance(value, int | float) and least <= value <= LARGEST
        _check(file, name, fits, value)
    _check(file, "log_history", all(isinstance(entry, dict) for entry in state.get("log_history") or ()), "no objects")
    for name, data in (state.get("stateful_callbacks") or {}).items():
        for part in data if isinstance(data, list) else [data]:
            parts = isinstance(part, dict) and all(
                isinstance(part.get(key, {}), dict) for key in ("args", "attributes")
            )
            _check(file, f"stateful_callbacks.{name}", parts, part)


def check_callbacks(file: Path, stored: Mapping[str, Any], callbacks: list[TrainerCallback]) -> None:
    """Raise ValueError for the state of a callback that is not of its kind."""
    for callback in callbacks:
        if not hasattr(callback, "state"):
            continue
        name, expected = type(callback).__name__, callback.state()
        for data in stored[name] if isinstance(stored.get(name), list) else [stored.get(name, {})]:
            for part in ("args", "attributes"):
                for key, value in data.get(part, {}).items():
                    fits = key in expected[part] and _is_like(value, expected[part][key])
                    _check(file, f"stateful_callbacks.{name}.{key}", fits, value)


def _check_labels(file: Path, labels: dict[int, str]) -> None:
    names = _json_object(file).get("id2label")
    if not isinstance(names, dict) or names == {str(i): name for i, name in labels.items()}:
        return  # weights of another number of labels do not fit, which is found when they are loaded
    differing = [f"label {i} is {names.get(str(i))!r} there and {name!r} here" for i, name in labels.items()
                 if names.get(str(i)) != name]  # fmt: skip
    counts = f"{len(names)} labels there and {len(labels)} here"
    raise ValueError(f"{file} is of a network with other labels: {next(iter(differing), counts)}")


def _check_index(file: Path) -> None:
    places = _json_object(file).get("weight_map")
    _check(file, "weight_map", isinstance(places, dict), places)
    assert isinstance(places, dict)
    for place in places.values():
        _check(file, "weight_map", isinstance(place, str) and Path(place).name == place, place)


def check_optimizer(file: Path, optimizer: Optimizer, settings: list[dict[str, Any]]) -> None:
    """Raise ValueError unless what was loaded into an optimiser fits its parameters.

    Args:
        file: where it came from.
        optimizer: as it is now.
        settings: its `param_groups` as they were before.
    """
    for loaded, before in zip(optimizer.param_groups, settings, strict=True):
        for name, value in before.items():
            if name != "params":
                _check(file, name, name in loaded and _is_like(loaded[name], value), loaded.get(name))
    moments = [state for state in optimizer.state.values() if state]
    names = set().union(*moments)
    for parameter, state in optimizer.state.items():
        if not state:
            continue
        _check(file, "state", isinstance(state, dict) and state.keys() == names, sorted(map(str, state)))
        for name, value in state.items():
            shape = tuple(value.shape) if isinstance(value, Tensor) else value
            _check(file, f"state.{name}", shape in ((), (1,), tuple(parameter.shape)), shape)


def check_scheduler(file: Path, loaded: Any, scheduler: Any) -> None:
    """Raise ValueError unless the state of a schedule is of this schedule's kind."""
    expected = scheduler.state_dict()
    _check(file, "the state", isinstance(loaded, dict), type(loaded).__name__)
    for name, value in loaded.items():
        fits = _is_like(value, expected[name]) if name in expected else not hasattr(type(scheduler), str(name))
        _check(file, name, fits, value)


def _check(file: Path, name: str, fits: Any, value: Any) -> None:
    if not fits:
        shown = " ".join(repr(value).split())
        raise ValueError(f"{file} cannot be resumed from: {name} cannot be {shown[:80]}{'…' * (len(shown) > 80)}")


def _json_object(file: Path) -> dict[str, Any]:
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} must be a regular file")
    with reading(file):
        content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a JSON object, got {type(content).__name__}")
    return content


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value of a JSON file is of the type that a field is declared with."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_of(value, part) for part in get_args(hint))
    kind = get_origin(hint) or hint
    if kind in (int, float):
        if isinstance(value, float) and kind is int:  # what --logging_steps 1 leaves is 1.0
            return value.is_integer()
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def _is_like(value: Any, expected: Any) -> bool:
    """Whether a value can stand where another one stood: numbers for numbers, containers with such things in them."""
    if isinstance(value, Tensor) and value.numel() != 1 and not isinstance(expected, Tensor):
        return False  # whose truth cannot be told
    if expected is None or value is None:
        return not isinstance(value, dict | list) or value == {} or expected is None
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(expected, bool)
    if isinstance(expected, int | float):
        return isinstance(value, int | float | Tensor)
    if isinstance(expected, Tensor):
        return isinstance(value, Tensor | int | float)
    if type(expected) is dict:
        common = value.keys() & expected.keys() if isinstance(value, dict) else set()
        return isinstance(value, dict) and all(_is_like(value[key], expected[key]) for key in common)
    if isinstance(expected, dict):  # a Counter
        return isinstance(value, dict) and all(isinstance(number, int) for number in (*value, *value.values()))
    if isinstance(expected, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(expected) and all(map(_is_like, value, expected))
    return isinstance(value, str)
