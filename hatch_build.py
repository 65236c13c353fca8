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


class CompiledLoops(BuildHookInterface):
    """Compiles with the C compiler of a Linux machine, for wheels and editable installs."""

    def initialize(self, version: str, build_data: dict) -> None:
        if self.target_name != "wheel" or not sys.platform.startswith("linux"):
            return
        compiler = os.environ.get("CC", "cc")
        try:
            Path(self.root, LIBRARY).unlink(missing_ok=True)  # one of an older version must not stay
            with TemporaryDirectory() as folder:
                # Linked without OpenMP: its functions are those of the OpenMP that PyTorch loads.
                # Without traps a comparison in a loop can become a vector instruction; its result stays the same.
                options = ("-O3", "-fno-trapping-math", "-fPIC", "-fopenmp")
                objects = [f"{folder}/{Path(source).stem}.o" for source in SOURCES]
                for source, compiled in zip(SOURCES, objects, strict=True):
                    self.run(compiler, *options, "-c", source, "-o", compiled)
                self.run(compiler, "-shared", *objects, "-o", LIBRARY)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            self.app.display_warning(
                f"{' and '.join(SOURCES)} were not compiled, PyTorch will do their work more slowly: {reason}"
            )
            return
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        # Any Python of this platform: the library knows nothing of it.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def run(self, *command: str) -> None:
        subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True)
