"""Builds the compiled loops beside their Python file; where that is not possible, PyTorch does their work."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("gkgnet_hf/modeling/group_knn.c", "gkgnet_hf/modeling/norm_gelu.c")
LIBRARY = "gkgnet_hf/modeling/libgroup_knn.so"
# The platform of a wheel for others, such as manylinux_2_17_aarch64: CC must compile for it, or there is no wheel.
# "any" is a wheel without compiled loops. When it is not set, the wheel is for this machine.
PLATFORM = "GKGNET_WHEEL_PLATFORM"


class CompiledLoops(BuildHookInterface):
    """Compiles with a C compiler for Linux, for wheels and editable installs."""

    def initialize(self, version: str, build_data: dict) -> None:
        wanted = os.environ.get(PLATFORM, "")
        if self.target_name != "wheel" or wanted == "any" or not (wanted or sys.platform.startswith("linux")):
            return
        try:
            self.compile(os.environ.get("CC", "cc"))
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            failure = f"{' and '.join(SOURCES)} were not compiled"
            if wanted:
                raise SystemExit(f"{failure} for {wanted}: {reason}") from None
            self.app.display_warning(f"{failure}, PyTorch will do their work more slowly: {reason}")
            return
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        # Any Python of the platform: the library knows nothing of it.
        platform = wanted or sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def compile(self, compiler: str) -> None:
        Path(self.root, LIBRARY).unlink(missing_ok=True)  # one of an older version must not stay
        with TemporaryDirectory() as folder:
            # Linked without OpenMP: its functions are those of the OpenMP that PyTorch loads.
            # Without traps a comparison in a loop can become a vector instruction; its result stays the same.
            options = ("-O3", "-fno-trapping-math", "-fPIC", "-fopenmp")
            objects = [f"{folder}/{Path(source).stem}.o" for source in SOURCES]
            for source, compiled in zip(SOURCES, objects, strict=True):
                self.run(compiler, *options, "-c", source, "-o", compiled)
            self.run(compiler, "-shared", *objects, "-lm", "-o", LIBRARY)

    def run(self, *command: str) -> None:
        subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True)
