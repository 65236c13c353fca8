"""What the pages say about the code exists: commands and their options, functions, links; and the site builds."""

import ast
import importlib.util
import io
import re
import shlex
import subprocess
import sys
from dataclasses import fields

import pytest
import typer
from PIL import Image

import gkgnet_hf
from gkgnet_hf import create_image_processor
from gkgnet_hf.cli import app
from gkgnet_hf.training.arguments import DataArguments, ModelArguments
from gkgnet_hf.training.training_arguments import MultiLabelTrainingArguments

from .networks import small_classifier
from .test_readme import ROOT, run, snippets
from .test_recipes import write_photos

PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]


def commands(page):
    """The lines of a page that call the command, without comments, joined where they are continued."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    calls = r"(?:^ *|[|] |&& |do )((?:gkgnet-hf|python -m gkgnet_hf) [a-z].*)$"
    for line in re.findall(calls, text, flags=re.MULTILINE):
        yield shlex.split(re.split(r" \| | & | > |; done|`", line)[0], comments=True)


def command_of(words):
    """The subcommand that the words call, and its own words."""
    group = typer.main.get_command(app)
    rest = words[words.index("gkgnet_hf") + 1 :] if words[0] == "python" else words[1:]
    while hasattr(group, "commands"):
        if not rest or rest[0] not in group.commands:
            return None, rest
        group, rest = group.commands[rest[0]], rest[1:]
    return group, rest


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_of_a_page_exist(page):
    recipe = {f.name for part in (DataArguments, ModelArguments, MultiLabelTrainingArguments) for f in fields(part)}
    for words in commands(page):
        command, rest = command_of(words)
        assert command is not None, f"{page}: there is no command {' '.join(words)}"
        known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        for word in rest:
            if word.startswith("--") and word not in {"--", "--help", "--traceback"}:
                name = word.split("=")[0]
                in_recipe = command.name == "train" and name[2:].replace("-", "_") in recipe
                assert name in known or in_recipe, f"{page}: {' '.join(words)}: there is no {name}"


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_to_files_and_headings(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor and target.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page} links to {link}"


def test_functions_that_are_explained_exist():
    """Every name in code type on the pages of how it works is one of the network's code or of its configuration."""
    names = {"output_neighbors", "m", "b"}
    for file in (ROOT / "gkgnet_hf" / "modeling").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    for page in ("docs/how-it-works.md", "docs/paper-and-weights.md"):
        for word in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", (ROOT / page).read_text()):
            assert set(word.split(".")) <= names, f"{page}: there is no {word}"


def test_quick_start_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {guess["label"] for guess in run("docs/quick-start.md")["labels"][0]} == {"cat", "dog"}
    (table,) = snippets("docs/quick-start.md", "csv")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "metadata.csv").write_text(table + "empty.jpg,nothing\n")
    for name in re.findall(r"^(\w+\.jpg),", (tmp_path / "photos" / "metadata.csv").read_text(), flags=re.MULTILINE):
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / name)
    words = ["data", "inspect", "photos", "--none-label", "nothing"]
    done = subprocess.run([sys.executable, "-m", "gkgnet_hf", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 images, 3 labels" in done.stdout


# A service that stays, a site elsewhere, a cluster; and what has tests of its own, with weights, boxes and time.
NOT_RUN = {"app", "push", "--engine", "convert", "explain-score", "train"}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_commands_of_a_page_run_as_written(page, tmp_path, run_in, monkeypatch):
    """Beside photos, two models and a table of labels. Words in capitals stand for names of the reader's own."""
    write_photos(tmp_path / "photos")
    for name in ("my-gkgnet", "other-gkgnet"):
        model = small_classifier(["red", "green"], image_size=64)
        model.save_pretrained(tmp_path / name)
        create_image_processor(model.config).save_pretrained(tmp_path / name)
    (tmp_path / "labels.csv").write_text("label,threshold\nred,0.4\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"photos/1.jpg\n")))
    for words in commands(page):
        if not NOT_RUN.intersection(words) and "…" not in words:
            own = {"MODEL": "my-gkgnet", "$i/4": "1/4"}
            code, _, error = run_in(tmp_path, *(own.get(word, word) for word in words[1:]))
            assert code == 0, f"{page}: {' '.join(words)}: {error}"


def test_python_of_every_page_is_run_by_a_test():
    tests = "\n".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    for page in PAGES:
        if snippets(page, "python"):
            assert re.search(rf'(run\("{page}"|snippets\("{page}", "python")', tests), page


def test_badges_say_what_is_so():
    badges = (ROOT / "docs" / "images" / "badges.svg").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    assert f">{gkgnet_hf.__version__}<" in badges
    assert 'license = "Apache-2.0"' in project
    assert ">Apache-2.0<" in badges
    assert 'requires-python = ">=3.10"' in project
    assert ">3.10 +<" in badges


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_builds_without_warnings(tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "reference.html").read_text()
    assert "GKGNetConfig" in reference
    assert "Usage: gkgnet-hf predict" in reference
