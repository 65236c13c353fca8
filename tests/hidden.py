"""Packages as if they were not installed, for processes that load models by the code that those carry."""

import sys
from typing import Any

hidden = {"gkgnet_hf", "timm"}


class Blind:
    """A finder that does not see the hidden packages."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def hide() -> None:
    """From now on the packages in `hidden` cannot be imported; to be called before anything might import them."""
    sys.meta_path[:] = [Blind(finder) for finder in sys.meta_path]


def seen() -> list[str]:
    """The modules of hidden packages that are imported all the same."""
    return [name for name in sys.modules if name.partition(".")[0] in hidden]
