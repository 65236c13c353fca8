"""The rooms of the package: imports go one way, and no two files share a name."""

import ast
import re
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gkgnet_hf"
FILES = sorted(PACKAGE.rglob("*.py"))

ENTRANCES = {"__init__", "__main__"}


def drawing():
    """The arrows of the drawing in CONTRIBUTING.md: room → rooms that it points to."""
    (block,) = re.findall(r"```mermaid\n(.*?)```", (PACKAGE.parent / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    arrows = {}
    for line in block.splitlines():
        if "-->" in line:
            room, targets = line.split("-->")
            arrows[room.strip()] = {target.strip() for target in targets.split("&")}
    return arrows


def below(room):
    """The rooms behind the arrows of a room."""
    return set().union(*({target} | below(target) for target in drawing().get(room, ())))


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


NAMES = {name_of(path) for path in FILES}


def imports_of(path):
    """The files of the package that a file imports while it is loaded or called, but not only for types."""
    room = list(path.relative_to(PACKAGE).with_suffix("").parts[:-1])
    tree = ast.parse(path.read_text())
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in for_types:
            continue
        if node.level:
            base = [*room[: len(room) - node.level + 1], *(node.module or "").split(".")]
        elif (node.module or "").split(".")[0] == "gkgnet_hf":
            base = node.module.split(".")[1:]
        else:
            continue
        target = ".".join(part for part in base if part) or "__init__"
        inside = {f"{target}.{alias.name}" for alias in node.names} & NAMES  # `from .hub import card`
        yield from inside or {target}


GRAPH = {name_of(path): set(imports_of(path)) for path in FILES}


def test_every_import_of_the_package_is_a_file_of_it():
    assert set().union(*GRAPH.values()) <= NAMES


def test_no_two_files_import_each_other():
    order = list(TopologicalSorter(GRAPH).static_order())  # raises CycleError with the circle
    assert set(order) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_imports_go_one_way(name):
    room = name.split(".")[0]
    targets = {target.split(".")[0] for target in GRAPH[name]} - {room}
    if room not in ENTRANCES:
        assert targets <= below(room)


def test_no_two_files_share_a_name():
    twice = [name for name, count in Counter(path.name for path in FILES).items() if count > 1]
    assert twice == ["__init__.py"]
