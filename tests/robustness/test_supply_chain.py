"""What is published holds what it should; a command writes where it was told, starts no program, and calls nobody."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import torch
import typer

from gkgnet_hf import GKGNetForImageClassification, create_image_processor
from gkgnet_hf.cli import app
from gkgnet_hf.data.digits import make_digits

from ..drawing import draw_checkpoint
from ..test_models import small_config
from ..test_recipes import QUICK, write_photos
from .conftest import build

ROOT = Path(__file__).parents[2]

KINDS = {".py", ".c", ".h", ".yaml", ".md", ".html", ".css", ".js"}
SECRETS = re.compile(rb"\bhf_[A-Za-z0-9]{30,}|BEGIN [A-Z ]*PRIVATE KEY")


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory):
    return build(unpacked, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def in_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {entry: archive.read(entry) for entry in archive.infolist()}


def source_files(folder):
    """The files of the package as they are published: no caches, and no library that this machine compiled."""
    paths = (path for path in (folder / "gkgnet_hf").rglob("*") if path.is_file() and path.suffix != ".so")
    return {path.relative_to(folder).as_posix() for path in paths if "__pycache__" not in path.parts}


def test_a_wheel_holds_the_package_and_no_more(in_wheel):
    names = {entry.filename for entry in in_wheel}
    about = {name for name in names if ".dist-info/" in name}
    assert {PurePosixPath(name).name for name in about} == {
        *("METADATA", "WHEEL", "RECORD", "entry_points.txt", "LICENSE")
    }
    library = {name for name in names - about if name.endswith(".so")}
    assert library <= {"gkgnet_hf/modeling/libgroup_knn.so"}
    assert names - about - library == source_files(ROOT)
    assert {PurePosixPath(name).suffix for name in names - about - library} - KINDS == {".typed"}


def test_an_sdist_holds_what_a_wheel_is_built_from_and_its_tests(sdist, unpacked):
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert all(member.isreg() for member in members)
    tops = {PurePosixPath(member.name).parts[1] for member in members}
    files = {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "PKG-INFO", ".gitignore"}
    assert tops == {"gkgnet_hf", "tests", "benchmarks", *files}
    assert source_files(unpacked) == source_files(ROOT)
    assert not [member.name for member in members if member.name.endswith((".so", ".pyc"))]


def test_installing_runs_no_code_and_adds_one_command(in_wheel):
    texts = {PurePosixPath(entry.filename).name: text.decode() for entry, text in in_wheel.items() if b"\0" not in text}
    assert texts["entry_points.txt"].split() == ["[console_scripts]", "gkgnet-hf", "=", "gkgnet_hf.cli:main"]
    tops = {PurePosixPath(entry.filename).parts[0] for entry in in_wheel}
    assert all(top == "gkgnet_hf" or top.endswith(".dist-info") for top in tops)  # no .pth file, no scripts, no data
    modes = {stat.S_IMODE(entry.external_attr >> 16) & ~0o755 for entry in in_wheel}
    assert modes == {0}


def test_what_is_published_names_no_secret_and_not_the_machine_that_built_it(in_wheel, unpacked):
    places = [f"{place}/".encode() for place in (Path.home(), ROOT, unpacked)]
    for entry, content in in_wheel.items():
        assert not SECRETS.search(content), entry.filename
        assert not [place for place in places if place in content], entry.filename


def test_the_same_source_gives_the_same_wheel(wheel, unpacked, tmp_path):
    again = shutil.copytree(unpacked, tmp_path / "elsewhere")
    assert build(again, "wheel", tmp_path / "wheel").read_bytes() == wheel.read_bytes()


COMMANDS = {
    "data make-digits": ["new/digits", "--train", "4", "--validation", "2", "--image-size", "64"],
    "data inspect": ["photos", "--preview", "new/sheet.png"],
    "data convert": ["photos", "new/converted"],
    "train": ["custom", *QUICK, "--backbone_checkpoint", "none", "--output_dir", "new/trained"],
    "evaluate": ["model", "photos", "--split", "all", "--per-label", "new/labels.csv"],
    "explain-score": ["digits-model", "scenes", "--split", "val"],
    "predict": ["model", "photos"],
    "card": ["new/own"],
    "export": ["model", "new/exported", "--format", "pt2"],
    "convert": ["gkgnet.pth", "new/converted-model"],
}
# Their work is on a network: tests/test_push.py watches what goes to the Hub, tests/test_app.py the web page.
ON_A_NETWORK = {"push", "app"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Runs a command in a folder of its own → result, report of `watched.py`, the folder.

    Below it: `work` with inputs, and `work/new` for outputs; `home` and `tmp`.
    """
    given = tmp_path_factory.mktemp("given")
    write_photos(given / "photos")
    make_digits(given / "scenes", num_train=2, num_validation=2, image_size=64)
    for folder, labels in (("model", ["green", "red"]), ("digits-model", [str(digit) for digit in range(10)])):
        config = small_config(id2label=dict(enumerate(labels)))
        GKGNetForImageClassification(config).save_pretrained(given / folder)
        create_image_processor(config).save_pretrained(given / folder)
    torch.save({"state_dict": draw_checkpoint("gkgnet_t_224_labels80", seed=1, num_labels=6)}, given / "gkgnet.pth")

    def run(words):
        place = tmp_path_factory.mktemp("place")
        for name in ("home", "tmp"):
            (place / name).mkdir()
        shutil.copytree(given, place / "work")
        shutil.copytree(given / "model", place / "work" / "new" / "own")
        before = contents(place / "work")
        report = place / "report.json"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "TORCH"))}
        paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        done = subprocess.run(
            [sys.executable, "-m", "tests.robustness.watched", str(report), *words],
            cwd=place / "work",
            env={**kept, "HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), "PYTHONPATH": paths},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        changed = {path for path, digest in before.items() if contents(place / "work").get(path) != digest}
        assert not {path for path in changed if not path.startswith("new/")}
        return json.loads(report.read_text()), place

    return run


def contents(folder):
    """Each file below a folder with the hash of its content."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_command_is_watched():
    def names(group, before=""):
        for name, command in getattr(group, "commands", {}).items():
            deeper = list(names(command, f"{before}{name} "))
            yield from deeper or [f"{before}{name}"]

    assert set(names(typer.main.get_command(app))) - ON_A_NETWORK == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_writes_into_its_outputs_and_caches_and_reaches_no_network(watched, name):
    report, place = watched([*name.split(), *COMMANDS[name]])
    assert report["addresses"] == []
    assert not [program for program in report["programs"] if not re.search("ldconfig|fc-list", program)]
    allowed = [
        place / "work" / "new",
        place / "home" / ".cache",
        place / "home" / ".config" / "matplotlib",
        place / "tmp",
        place / "report.json",
        Path(os.devnull),
    ]
    stray = [path for path in report["written"] if not any(Path(path).is_relative_to(folder) for folder in allowed)]
    assert stray == []
    left = [path.name for path in (place / "tmp").iterdir()]
    assert not [name for name in left if not name.startswith("torchinductor_")]  # a cache of torch
    assert {path.name for path in (place / "home").iterdir()} <= {".cache", ".config"}
    given = {"photos", "scenes", "model", "digits-model", "gkgnet.pth"}
    assert {path.name for path in (place / "work").iterdir()} == {*given, "new"}
