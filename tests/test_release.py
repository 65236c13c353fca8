"""What a release says of itself agrees: versions, bounds, badges, workflows."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import gkgnet_hf

tomllib = pytest.importorskip("tomllib")  # of Python 3.11

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_oldest_requirements_are_the_lower_bounds():
    extras = [each for extra in PROJECT["optional-dependencies"].values() for each in extra]
    asked = [Requirement(each) for each in (*PROJECT["dependencies"], *extras)]
    bounds = {
        each.name.lower(): str(each.specifier).removeprefix(">=") for each in asked if each.name != PROJECT["name"]
    }
    lines = (ROOT / "tests" / "oldest-requirements.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert oldest.keys() == bounds.keys()
    for name, bound in bounds.items():  # the first release of 1.2 is called 1.2.0, or 1.2.1 if that was withdrawn
        assert f"{oldest[name]}.".startswith(f"{bound}."), name


def test_the_badges_name_the_licence_the_oldest_python_and_the_version():
    badges = (ROOT / "docs" / "images" / "badges.svg").read_text()
    python = PROJECT["requires-python"].removeprefix(">=")
    assert re.findall("<text[^>]*>([^<]*)</text>", badges) == [
        *("licence", PROJECT["license"], "Python", f"{python} +", "version", gkgnet_hf.__version__)
    ]
    assert f"licence {PROJECT['license']}, Python {python} or later, version {gkgnet_hf.__version__}" in badges


def test_the_oldest_python_is_tested_with_the_oldest_and_the_newest_dependencies():
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]["tests"]["strategy"][
        "matrix"
    ]
    assert matrix["python"][0] == PROJECT["requires-python"].removeprefix(">=")
    assert matrix["dependencies"] == ["oldest", "newest"]


@pytest.mark.parametrize("file", WORKFLOWS, ids=[file.stem for file in WORKFLOWS])
def test_a_workflow_runs_only_what_is_pinned_and_may_write_nothing_but_what_it_publishes(file):
    workflow = yaml.safe_load(file.read_text())
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        writes = {what for what, right in job["permissions"].items() if right == "write"}
        assert writes <= ({"id-token", "pages"} if name == "publish" else set())
        for step in job["steps"]:
            assert re.search(r"@[0-9a-f]{40}$", step["uses"]) if "uses" in step else "${{" not in step["run"]
