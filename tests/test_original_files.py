"""The tensors of any training file are read, and nothing else that is in it ever runs."""

import builtins
import contextlib
import enum
import functools
import operator
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict
from types import ModuleType

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gkgnet_hf.modeling.original_files import read_state_dict

TENSORS = {"stem.weight": torch.arange(6.0).view(2, 3), "stem.steps": torch.tensor(7), "half": torch.ones(4).bfloat16()}


def assert_tensors(found):
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def state_dict():
    tensors = OrderedDict((f"module.{name}", tensor) for name, tensor in TENSORS.items())
    tensors["module.stem.weight"] = nn.Parameter(tensors["module.stem.weight"])
    tensors._metadata = OrderedDict({"": {"version": 1}})
    return tensors


@pytest.fixture
def training_file(monkeypatch):
    """What mmcv, mmengine and other training scripts save, of classes that are gone when it is read."""
    module = ModuleType("a_training_library")

    class Config(dict):
        pass

    class Priority(enum.Enum):
        HIGH = 10

    class Buffer:
        def __init__(self):
            self.history, self.seen, self.best = np.arange(3.0), {1, 2}, np.float32(0.5)

    class Slotted:
        __slots__ = ("value",)

    for kind in (Config, Priority, Buffer, Slotted):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    slotted = Slotted()
    slotted.value = 1
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "meta": {
            "config": Config(model=Config(depths=[2, 2, 6, 2])),
            "hook_msgs": {"best_score": np.float64(82.1), "last_ckpt": "epoch_1.pth", "priority": Priority.HIGH},
            "seed": np.random.default_rng(0).bit_generator.state,
            "values": [np.int64(3), np.ones((2, 2)), frozenset({1}), defaultdict(list, a=[1]), Counter("aab"), 1j],
            "types": [torch.float16, torch.device("cuda:0"), torch.Size([2]), range(3), nn.functional.relu, Buffer],
            "slotted": slotted,
        },
        "state_dict": state_dict(),
        "optimizer": optimizer.state_dict(),
        "message_hub": {"log_scalars": OrderedDict(loss=Buffer())},
        "criterion": nn.CrossEntropyLoss(),
    }

    def write(path, **options):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        torch.save(content, path, **options)
        monkeypatch.delitem(sys.modules, module.__name__)
        return path

    return write


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_file_gives_its_tensors(training_file, tmp_path, zipped, protocol):
    path = training_file(tmp_path / "epoch_1.pth", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    assert_tensors(read_state_dict(path))


@pytest.mark.parametrize("level", [None, "state_dict", "model", "state_dict_ema", "model_ema"])
@pytest.mark.parametrize("form", ["mapping", "zip", "legacy"])
def test_tensors_are_found_at_the_levels_that_training_scripts_use(tmp_path, level, form):
    content = TENSORS if level is None else {"epoch": 3, level: state_dict()}
    if form != "mapping":
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=form == "zip")
        content = tmp_path / "x.pth"
    assert_tensors(read_state_dict(content))


def test_the_average_counts_more_than_the_weights():
    content = {"state_dict": {"bias": torch.zeros(2)}, "state_dict_ema": {"bias": torch.ones(2)}}
    assert torch.equal(read_state_dict(content)["bias"], torch.ones(2))


def test_an_empty_average_does_not_hide_the_weights():
    assert_tensors(read_state_dict({"state_dict": state_dict(), "state_dict_ema": {}, "model_ema": None}))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_a_safetensors_file_is_read_whatever_its_name(tmp_path, name):
    save_file(TENSORS, tmp_path / name)
    assert_tensors(read_state_dict(tmp_path / name))


@pytest.mark.skipif(sys.platform != "linux", reason="how much of a mapped file is in memory is counted differently")
def test_a_large_file_is_mapped_and_not_read(tmp_path):
    gigabyte = 2**30
    with torch.serialization.skip_data():  # a hole in the file takes no disk
        torch.save({"state_dict": {"large": torch.empty(gigabyte, dtype=torch.uint8)}}, tmp_path / "large.pth")
    assert (tmp_path / "large.pth").stat().st_size > gigabyte
    before = psutil.Process().memory_info().rss
    tensors = read_state_dict(tmp_path / "large.pth")
    assert tensors["large"].shape == (gigabyte,)
    assert psutil.Process().memory_info().rss - before < gigabyte / 10


class Call:
    """Pickled, the call of a function by its name; `function` may be the result of another call."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __call__(self):
        raise AssertionError("only pickled")

    def __reduce__(self):
        return self.parts


class Global:
    """Pickled, a name in a module that may not be there."""

    def __init__(self, module, name):
        self.__module__, self.__name__ = module, name

    def __call__(self):
        raise AssertionError("only pickled")


class Pickler(pickle._Pickler):
    def save(self, value, save_persistent_id=True):
        if isinstance(value, Global):
            self.write(pickle.GLOBAL + f"{value.__module__}\n{value.__name__}\n".encode())
        else:
            super().save(value, save_persistent_id)


def hostile(ran):
    """Objects that each write the file `ran` when they are unpickled by pickle."""
    write = f"open({str(ran)!r}, 'w').close()"
    system = Call(getattr, Call(builtins.__import__, "os"), "system")
    inner = pickle.dumps(Call(exec, write))
    return {
        "os.system": Call(os.system, f"touch {ran}"),
        "subprocess": Call(subprocess.check_call, ["touch", str(ran)]),
        "exec": Call(exec, write),
        "eval": Call(eval, write),
        "open": Call(open, str(ran), "w"),
        "shutil": Call(shutil.copy, sys.executable, str(ran)),
        "getattr": Call(system, f"touch {ran}"),
        "methodcaller": Call(Call(operator.methodcaller, "system", f"touch {ran}"), Call(builtins.__import__, "os")),
        "partial": Call(Call(functools.partial, os.system, f"touch {ran}")),
        "map": Call(list, Call(map, exec, [write])),
        "pickle in a pickle": Call(pickle.loads, inner),
        "torch.load": Call(torch.storage._load_from_bytes, _legacy(inner)),
        "torch.save": Call(torch.save, {}, str(ran)),
        "torch.hub": Call(torch.hub.download_url_to_file, f"file://{sys.executable}", str(ran)),
        "numpy": Call(np.savetxt, str(ran), [1.0]),
        "module by name": Call(Global("hostile_module", "function")),
    }


def _legacy(content):
    magic, protocol = torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION
    parts = [pickle.dumps(part) for part in (magic, protocol, {"little_endian": True})]
    return b"".join([*parts, content, pickle.dumps([])])


def write_pickle(path, content, zipped=True):
    """A file of torch whose pickle is `content`."""
    if not zipped:
        path.write_bytes(_legacy(content))
        return path
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3\n")
    return path


def pickled(value, protocol, tmp_path):
    with (tmp_path / "pickled").open("wb") as file:
        Pickler(file, protocol).dump(value)
    return (tmp_path / "pickled").read_bytes()


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The file that hostile pickles write; importing `hostile_module` writes it too."""
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "ran"


@pytest.mark.parametrize("name", hostile("/nowhere"))
def test_what_a_hostile_pickle_asks_for_never_runs(name, tmp_path, ran):
    with contextlib.suppress(Exception):
        pickle.loads(pickled(hostile(ran)[name], 2, tmp_path))
    assert ran.exists(), "this pickle does no harm to pickle itself, so that the test says nothing"
    ran.unlink()
    sys.modules.pop("hostile_module", None)
    for protocol in (2, 4):
        for zipped in (True, False):
            content = pickled({"state_dict": hostile(ran)[name]}, protocol, tmp_path)
            with pytest.raises(ValueError, match="mapping of names to tensors"):
                read_state_dict(write_pickle(tmp_path / "x.pth", content, zipped))
            assert not ran.exists()
            assert "hostile_module" not in sys.modules


def test_tensors_beside_a_hostile_pickle_are_read(tmp_path, ran):
    for name, value in hostile(ran).items():
        if name != "module by name":
            torch.save({"meta": value, "state_dict": state_dict()}, tmp_path / "x.pth")
            assert_tensors(read_state_dict(tmp_path / "x.pth"))
            assert not ran.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict"), ("torch", "Size"), ("torch", "nn")],
)
def test_a_pickle_changes_nothing_outside_itself(module, name, tmp_path):
    # GLOBAL name; (None, {"__defaults__": (1,), "keys": 2}); BUILD sets these attributes of what is named.
    attributes = pickle.dumps((None, {"__defaults__": (1,), "keys": 2}), 2)[2:-1]
    content = b"\x80\x02" + pickle.GLOBAL + f"{module}\n{name}\n".encode() + attributes + pickle.BUILD + pickle.STOP
    named = getattr(sys.modules[module], name)
    before = dict(vars(named)), getattr(named, "__defaults__", None)
    with pytest.raises(ValueError, match=r"mapping of names|cannot be read"):
        read_state_dict(write_pickle(tmp_path / "x.pth", content))
    assert (dict(vars(named)), getattr(named, "__defaults__", None)) == before


def test_programs_and_archives_are_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "program.pth")
    with pytest.raises(ValueError, match=r"program\.pth cannot be read .*: it is a TorchScript program"):
        read_state_dict(tmp_path / "program.pth")
    shutil.make_archive(str(tmp_path / "archive"), "tar", tmp_path, "program.pth")
    with pytest.raises(ValueError, match=r"archive\.tar cannot be read .*: it is a tar archive"):
        read_state_dict(tmp_path / "archive.tar")


def test_a_pickled_module_is_no_mapping(tmp_path):
    for zipped in (True, False):
        torch.save(nn.Linear(2, 2), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match="mapping of names to tensors, got Inert"):
            read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04", pickle.dumps({"a": 1})])
def test_what_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pth cannot be read as a PyTorch or safetensors checkpoint"):
        read_state_dict(tmp_path / "x.pth")
