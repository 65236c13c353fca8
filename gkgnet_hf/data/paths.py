"""What a path in data means: a file of this machine, or an address that is fetched only when asked for.

Data sets come from strangers. A path in one is the name of a file and nothing else: no URL parser sees it, so no
protocol that reads, fetches or runs something is ever asked.
"""

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from .words import shown

logger = logging.getLogger(__name__)

MISSING = "the file is missing"
FETCHED = ("http", "https", "hf")  # the protocols of addresses that may be fetched


class PathError(ValueError):
    """A path in data is not read; `problem` says why in a few words."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.problem = problem


def is_address(path: str) -> bool:
    """Whether a path is written as a web address or another URL; a name such as `a::b.png` is that of a file.

    >>> is_address("https://example.org/a.png"), is_address("reference::refs.png")
    (True, False)
    """
    return "://" in path and not path.startswith(("/", "./", "../", "file://"))


def read_path(path: str, allow_urls: bool = False, repo: str | None = None) -> str:
    """What a path in data stands for: the absolute path of a regular file, or an address that may be fetched.

    Every path that comes from data, in a table, a folder or a saved dataset, goes through here before it is opened.

    Args:
        path: absolute, or relative to the current folder; or an address.
        allow_urls: whether http(s):// and hf:// addresses may be fetched.
        repo: the dataset on the Hub that the user named; its own hf:// addresses may be fetched too.

    Raises:
        FileNotFoundError: if there is no such file.
        PathError: for what is no regular file; for an address that may not be fetched, with the reason.

    >>> read_path("zip://a.png::https://example.org/a.zip", allow_urls=True)
    Traceback (most recent call last):
    gkgnet_hf.data.paths.PathError: zip://a.png::https://example.org/a.zip: a chain of addresses (::) is never opened
    """
    if path.startswith("file://"):
        path = unquote(path.removeprefix("file://"))
    if is_address(path):
        if problem := _why_not_fetched(path, allow_urls, repo):
            raise PathError(problem, path)
        return path
    path = os.path.abspath(path) if path else ""
    try:
        mode = os.stat(path).st_mode  # before it is opened: opening a pipe waits for a writer
    except PermissionError:
        raise PathError("it may not be read: permission denied", path) from None
    except (OSError, ValueError):  # no such file, a link to itself, a name too long or with a zero byte
        raise FileNotFoundError(f"There is no file {path}") from None
    if stat.S_ISDIR(mode):
        raise PathError("it is a folder", path)
    if not stat.S_ISREG(mode):
        raise PathError("it is a pipe or a device, not a file", path)
    return path


def path_problem(path: str, allow_urls: bool = False, repo: str | None = None) -> str | None:
    """Why `read_path` refuses a path, None if it does not."""
    try:
        read_path(path, allow_urls, repo)
    except FileNotFoundError:
        return MISSING
    except PathError as error:
        return error.problem
    return None


def _why_not_fetched(address: str, allow_urls: bool, repo: str | None) -> str | None:
    protocol = address.partition("://")[0]
    if "::" in address:
        return "a chain of addresses (::) is never opened"
    if protocol.lower() not in FETCHED:
        return f"{protocol}:// is never opened, only files, and http(s):// and hf:// with --allow-urls"
    if allow_urls or (repo and address.startswith((f"hf://datasets/{repo}/", f"hf://datasets/{repo}@"))):
        return None
    return "it is a web address, which is fetched only with --allow-urls"


class Outside:
    """Finds which paths lead out of the folder of a data set, whether they are written so, by `..` or by links.

    Args:
        roots: the folder, and others that the user named.
    """

    def __init__(self, roots: Sequence[str | os.PathLike[str]]) -> None:
        self.roots = [os.path.join(os.path.realpath(root), "") for root in roots]
        self._real: dict[str, str] = {}
        self._warned = False

    def __call__(self, path: str) -> bool:
        """Whether the absolute path of a file is outside, after links."""
        folder, name = os.path.split(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(self._real[folder], name)
        return not any(real.startswith(root) for root in self.roots)

    def warn(self, path: str) -> None:
        """Log, once, that a path leads out."""
        if not self._warned and self(os.path.abspath(path)):
            self._warned = True
            logger.warning("%s", shown(f"Pictures outside are read, such as {path}, which is {os.path.realpath(path)}"))


def files_below(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """The regular files in a folder and in its folders, by name; hidden ones and linked folders are left out.

    A link to a file is one. A link to a folder may lead in a circle, or to the whole disk.
    """
    waiting = [str(folder)]
    while waiting:
        folders = []
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif is_file(entry.path):
                    yield Path(entry.path)
        waiting += reversed(folders)


def files_in(folder: Path, pattern: str) -> list[Path]:
    """The regular files of a folder whose names fit a pattern, sorted; none where there is no folder."""
    return sorted(path for path in folder.glob(pattern) if is_file(path)) if folder.is_dir() else []


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file is there: no pipe or device, which may never end."""
    return path_problem(os.fspath(path)) is None
