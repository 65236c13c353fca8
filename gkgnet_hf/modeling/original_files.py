"""What original files hold: the tensors of Pyramid ViG and of GKGNet's training, and their names → ours."""

import os
import pickle
import re
import tarfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor

Checkpoint = str | os.PathLike[str] | Mapping[str, Any]

# Where training scripts put the tensors; an average of them counts more than they do.
LEVELS = ("state_dict_ema", "model_ema", "state_dict", "model")


def read_state_dict(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of a file by name, without the prefixes that torch's wrappers put in front (`module.`).

    Nothing in the file is ever run: only tensors and plain values are made of a pickle, and anything else in it becomes
    an object that does nothing. Files that torch has written since 1.6 are mapped into memory, not read whole.

    Args:
        checkpoint: a safetensors file, a file of torch (`.pth`, `.pth.tar`, `.bin`), or what such a file holds. The
            tensors may stand at the top or under `state_dict`, `model`, or their averages `state_dict_ema` and
            `model_ema`; whatever stands beside those levels is passed over.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is no checkpoint, or a name in it stands for something else than a tensor.

    >>> sorted(read_state_dict({"state_dict": {"module.bias": torch.zeros(2)}, "epoch": 3}))
    ['bias']
    """
    content: Any = checkpoint if isinstance(checkpoint, Mapping) else _read_file(Path(checkpoint))
    if isinstance(content, Mapping):
        levels = [content[level] for level in LEVELS if isinstance(content.get(level), Mapping)]
        content = next(filter(None, levels), content)
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        what = f"a mapping with keys {list(content)[:5]}" if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"A checkpoint must be a mapping of names to tensors, got {what}")
    if strange := [str(name) for name, value in content.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"A checkpoint must map names to tensors, but these are none: {', '.join(strange[:10])}")
    return clean_state_dict(dict(content))


def _read_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint file at {path}")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # A safetensors file begins with the 8 bytes that count its header, which is JSON.
        if path.suffix == ".safetensors" or (
            start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
        ):
            return load_file(path)
        mapped = start.startswith(b"PK\x03\x04")  # a zip file
        # torch.load hands these two on to other readers.
        if mapped and "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise ValueError("it is a TorchScript program")
        if not mapped and tarfile.is_tarfile(path):
            raise ValueError("it is a tar archive")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.serialization.SourceChangeWarning)  # of inert modules
            return torch.load(path, "cpu", INERT_PICKLE, weights_only=False, mmap=mapped)
    except Exception as error:  # each reader has its own; all mean the same to the caller
        raise ValueError(f"{path} cannot be read as a PyTorch or safetensors checkpoint: {error}") from error


class Inert:
    """Stands for anything that a pickle names but tensors; whatever the pickle does with it, nothing happens.

    >>> Inert("a command", shell=True)(1)["key"] = 2
    """

    dump_patches = False  # torch asks a pickled module for it

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        return self

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        pass

    __setstate__ = append = extend = add = __setitem__ = _ignore


class Items(dict[Any, Any]):
    """Stands for an OrderedDict; the attributes that a pickle gives it are ignored."""

    def __setstate__(self, state: Any) -> None:
        pass


class InertUnpickler(pickle.Unpickler):
    """Makes tensors, plain values and containers of them; all else is `Inert`.

    numpy's numbers and arrays are inert too: no tensor is made of them, and an array may hold objects.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return Items
        if (module, name) in TENSOR_FUNCTIONS:
            function = super().find_class(module, name)
            return lambda *args: function(*args)  # a new one each time: a pickle may set attributes of what it names
        if module == "torch" and (name in ("Size", "device") or isinstance(vars(torch).get(name), torch.dtype)):
            return vars(torch)[name]
        return Inert


TENSOR_FUNCTIONS = {
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}

# What torch.load takes in place of the module pickle.
INERT_PICKLE = SimpleNamespace(
    __name__="inert_pickle", Unpickler=InertUnpickler, load=lambda file, **kwargs: InertUnpickler(file, **kwargs).load()
)

# Module of an original file → module here.
_STEM_AND_HEAD = {
    "pos_embed": "stem.pos_embed",
    "stem.convs.0": "stem.conv1.conv",
    "stem.convs.1": "stem.conv1.norm",
    "stem.convs.3": "stem.conv2.conv",
    "stem.convs.4": "stem.conv2.norm",
    "stem.convs.6": "stem.conv3.conv",
    "stem.convs.7": "stem.conv3.norm",
    "prediction.0": "head.hidden.conv",
    "prediction.1": "head.hidden.norm",
    "prediction.4": "head.fc",
}


def rename_conv_norm(name: str) -> str:
    """Name of a tensor inside an original block → its name here.

    >>> rename_conv_norm("graph_conv.gconv.nn.1.running_mean")
    'graph_conv.norm.running_mean'
    """
    return re.sub(r"(?:\.gconv\.nn)?\.([01])\.", lambda m: (".conv.", ".norm.")[int(m[1])], name)


def rename_original(name: str, depths: list[int]) -> str:
    """Name of a tensor of an original Pyramid ViG file → its name in `PyramidVisionGNN`; others stay as they are.

    >>> rename_original("backbone.3.1.fc1.0.weight", depths=[2, 2, 6, 2])
    'stages.1.blocks.0.ffn.fc1.conv.weight'
    """
    for original, ours in _STEM_AND_HEAD.items():
        if name == original or name.startswith(original + "."):
            return ours + name.removeprefix(original)
    match = re.fullmatch(r"backbone\.(\d+)\.(conv|0|1)\.(.+)", name)
    if match is None:
        return name
    # The original numbers blocks through, and from the second stage on the downsampling in front of them.
    index, stage = int(match[1]) + 1, 0
    while stage < len(depths) - 1 and index > depths[stage]:
        index -= depths[stage] + 1
        stage += 1
    part, rest = match[2], match[3]
    if part == "conv":
        return f"stages.{stage}.downsample{rename_conv_norm('.' + rest)}"
    return f"stages.{stage}.blocks.{index - 1}.{('graph', 'ffn')[int(part)]}.{rename_conv_norm(rest)}"
