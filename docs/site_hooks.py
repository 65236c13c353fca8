"""What the site needs beyond the pages as a forge shows them: links to files outside docs/, and the command's help."""

import re
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from gkgnet_hf.cli import app

ROOT = Path(__file__).parents[1]
HELP = "<!-- help of the command -->"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links that leave docs/ lead to the repository; ValueError for one that leads nowhere."""

    def lead_out(match: re.Match[str]) -> str:
        path, _, anchor = match[1].partition("#")
        if not (ROOT / path).exists():
            raise ValueError(f"{page.file.src_path} links to ../{path}, which does not exist")
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"]({config.repo_url.rstrip('/')}/{kind}/main/{path}{'#' + anchor if anchor else ''})"

    markdown = re.sub(r"\]\(\.\./([^)\s]+)\)", lead_out, markdown)
    return markdown.replace(HELP, command_help()) if HELP in markdown else markdown


def command_help() -> str:
    """The help of each subcommand, as the terminal shows it."""
    commands = typer.main.get_command(app)
    words = [[]]
    for name, command in sorted(commands.commands.items()):  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        words += [[name, other] for other in sorted(inner)] if inner else [[name]]
    runner = CliRunner(env={"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"})
    parts = []
    for names in words:
        text = runner.invoke(app, [*names, "--help"], prog_name="gkgnet-hf").output
        title = " ".join(["gkgnet-hf", *names])
        parts.append(f"### `{title}`\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(parts)
