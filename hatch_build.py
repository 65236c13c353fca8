"""Builds the compiled loops beside their Python file; where that is not possible, PyTorch does their work."""

import subprocess
import sys
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "gkgnet_hf/modeling/group_knn.c"
LIBRARY = "gkgnet_hf/modeling/libgroup_knn.so"
# Linked without OpenMP: its functions are those of the OpenMP that PyTorch loads.
COMMANDS = (
    ["cc", "-O3", "-fPIC", "-fopenmp", "-c", SOURCE, "-o", f"{LIBRARY}.o"],
    ["cc", "-shared", f"{LIBRARY}.o", "-o", LIBRARY],
)


class CompiledLoops(BuildHookInterface):
    """Compiles with the C compiler of a Linux machine, for wheels and editable installs."""

    def initialize(self, version: str, build_data: dict) -> None:
        if self.target_name != "wheel" or not sys.platform.startswith("linux"):
            return
        try:
            for command in COMMANDS:
                subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            self.app.display_warning(f"{SOURCE} was not compiled, PyTorch will do its work more slowly: {reason}")
            return
        finally:
            Path(self.root, f"{LIBRARY}.o").unlink(missing_ok=True)
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        # Any Python of this platform: the library knows nothing of it.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
