"""The wheels of a release: each holds what its name says, and pip takes the right one."""

import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import build

pytestmark = pytest.mark.slow

ARCHITECTURES = ("x86_64", "aarch64")
LIBRARY = "gkgnet_hf/modeling/libgroup_knn.so"


def compiler(architecture):
    name = f"{architecture}-linux-gnu-gcc"
    return name if shutil.which(name) else pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="module")
def wheel_for(unpacked, tmp_path_factory):
    """Builds the wheel of a platform, as `make wheels` does → its path."""
    built = {}

    def wheel(wanted, cc="no-compiler"):
        if wanted not in built:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("GKGNET_WHEEL_PLATFORM", wanted)
                patch.setenv("CC", cc)
                built[wanted] = build(unpacked, "wheel", tmp_path_factory.mktemp("dist") / "wheel")
        return built[wanted]

    return wheel


@pytest.fixture(scope="module")
def dist(wheel_for, tmp_path_factory):
    """A folder with the three wheels."""
    folder = tmp_path_factory.mktemp("dist")
    wheels = [wheel_for(f"manylinux_2_17_{each}", compiler(each)) for each in ARCHITECTURES]
    for wheel in (*wheels, wheel_for("any")):
        shutil.copy(wheel, folder)
    return folder


def test_the_wheel_for_any_platform_needs_no_compiler_and_holds_no_library(wheel_for):
    wheel = wheel_for("any")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]


def test_a_wheel_for_a_platform_is_not_built_without_its_library(unpacked, tmp_path, monkeypatch):
    monkeypatch.setenv("GKGNET_WHEEL_PLATFORM", "manylinux_2_17_x86_64")
    monkeypatch.setenv("CC", "no-compiler")
    with pytest.raises(subprocess.CalledProcessError) as error:
        build(unpacked, "wheel", tmp_path)
    assert "were not compiled for manylinux_2_17_x86_64: " in error.value.stderr.decode()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_wheel_runs_on_every_linux_that_its_name_promises(architecture, wheel_for):
    pytest.importorskip("auditwheel")
    wheel = wheel_for(f"manylinux_2_17_{architecture}", compiler(architecture))
    command = [sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["overall_tag"] == f"manylinux_2_17_{architecture}"
    assert found["external_libs"] == {}  # no OpenMP of its own


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_library_of_a_wheel_computes_what_plain_loops_compute(architecture, wheel_for, tmp_path):
    cc = compiler(architecture)
    with zipfile.ZipFile(wheel_for(f"manylinux_2_17_{architecture}", cc)) as archive:
        library = archive.extract(LIBRARY, tmp_path)
    driver = tmp_path / "driver"
    source = Path(__file__).with_name("library_driver.c")
    subprocess.run([cc, "-O1", "-fopenmp", source, "-o", driver, "-ldl", "-lm"], check=True)
    emulator = [f"qemu-{architecture}-static", "-L", f"/usr/{architecture}-linux-gnu"]
    if platform.machine() == architecture:
        emulator = []
    elif not shutil.which(emulator[0]):
        pytest.skip(f"{emulator[0]} is not installed")
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([*emulator, driver, library], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("machine", "taken"),
    [
        ("manylinux_2_17_x86_64", "manylinux_2_17_x86_64"),
        ("manylinux_2_17_aarch64", "manylinux_2_17_aarch64"),
        ("musllinux_1_2_x86_64", "any"),
        ("macosx_14_0_arm64", "any"),
        ("win_amd64", "any"),
    ],
)
def test_pip_takes_the_wheel_of_its_platform_and_else_the_one_for_any(machine, taken, dist, tmp_path):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-index", "--find-links", str(dist)]
    command += ["--platform", machine, "--only-binary", ":all:", "--dest", str(tmp_path), "gkgnet-hf"]
    subprocess.run(command, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.iterdir()
    assert wheel.name.endswith(f"-py3-none-{taken}.whl")
