"""Packages whose names are imported when they are used."""

import ast
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any


def lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` (PEP 562) of a package that guards its imports from itself with `if TYPE_CHECKING`.

    Type checkers and readers see plain imports; each runs when its name is used.

    Example:

        if TYPE_CHECKING:
            from .trainer import MultiLabelTrainer
        else:
            __getattr__, __dir__ = lazily(__name__)
    """
    module = sys.modules[package]

    @cache
    def homes() -> dict[str, str]:
        source = vars(module)["__loader__"].get_source(package)
        imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
        return {name.name: f"{'.' * node.level}{node.module}" for node in imports if node.level for name in node.names}

    def load(name: str) -> Any:
        if name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes()[name], package), name)
        setattr(module, name, value)
        return value

    return load, lambda: sorted({*vars(module), *homes()})
