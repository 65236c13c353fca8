"""Where the pictures of a table are: its cells name them, and the folder of the table is where the search begins."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from .paths import is_address
from .pictures import PLUGIN_SUFFIXES, READABLE_SUFFIXES, UNREADABLE_SUFFIXES
from .splits import split_kind

SAMPLE = 100  # cells that decide where all of them are
MAX_FOLDERS = 500  # that are looked into
DEPTH = 3
LABEL_STUDIO = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio writes before the name of an uploaded file
HIDDEN = re.compile(r"^[.]|^__MACOSX$|^@eaDir$")


def picture_suffixes() -> frozenset[str]:
    """The suffixes of all picture files, those that cannot be read among them."""
    return READABLE_SUFFIXES | PLUGIN_SUFFIXES.keys() | UNREADABLE_SUFFIXES


def looks_like_picture(name: str) -> bool:
    """Whether a text ends like the name of a picture file.

    >>> looks_like_picture("photos/A.JPG "), looks_like_picture("cat")
    (True, False)
    """
    return os.path.splitext(name.strip().split("?")[0])[1].lower() in picture_suffixes()


class Places:
    """Finds the picture of each cell; says in one sentence where, if not just where the cell says.

    Args:
        folder: of the table; cells are relative to it, never to the current folder.
        image_dir: where the pictures are instead, relative to `folder`.
        image_suffix: what is added to every cell.
    """

    def __init__(self, folder: Path, image_dir: str | os.PathLike[str] | None = None, image_suffix: str | None = None):
        self.folder = Path(os.path.abspath(folder))
        self.image_dir = image_dir
        self.image_suffix = image_suffix or ""
        self._said: dict[str, list[str]] = {}
        self._listed: dict[str, dict[str, str]] = {}
        if self.image_suffix and not self.image_suffix.startswith(".") and "." not in self.image_suffix:
            self.image_suffix = f".{self.image_suffix}"

    @property
    def sentences(self) -> list[str]:
        """What was assumed so far."""
        return [sentence.replace("{}", ", ".join(details)) for sentence, details in self._said.items()]

    def find(self, cells: Sequence[str | None], column: str = "image", split: str | None = None) -> list[str | None]:
        """The path of each picture, absolute; one that is nowhere gets the path where it was expected.

        Args:
            cells: N names or paths; web addresses stay as they are.
            column: its name, for messages.
            split: of the table, whose name folders may have.

        Raises:
            ValueError: if none of the pictures is there, or several folders have them.
        """
        names = [_clean(cell) for cell in cells]
        local = [name for name in names if name and not is_address(name)]
        if len(local) < sum(map(bool, names)):
            self._say(f"column {column!r} holds web addresses, whose pictures are fetched only with --allow-urls")
        if not local:
            return names
        step = max(1, len(local) // SAMPLE)
        sample = local[::step][:SAMPLE]
        base, skipped = self._base(sample, column, split)
        if isinstance(base, dict):
            found = ((name, base.get(_key(os.path.basename(name or "")))) for name in names)
            return [path if path and name and self._agree(name, path) else name for name, path in found]
        return [None if not name else name if is_address(name) else self._path(base, name, skipped) for name in names]

    def _base(self, sample: list[str], column: str, split: str | None) -> tuple[Path | dict[str, str], int]:
        """The folder that holds the pictures, and how many leading parts of the cells are not in it."""
        if self.image_dir is not None:
            given = Path(self.image_dir).expanduser()
            base = given if given.is_dir() and given.is_absolute() else self.folder / given
            if not base.is_dir() and given.is_dir():
                base = given.absolute()
            if not base.is_dir():
                raise ValueError(f"--image-dir {self.image_dir}: there is no such folder in {self.folder}")
            depth = next((d for d in range(4) if self._hits(base, sample, d)), None)
            if depth is None:
                raise ValueError(self._nowhere(sample, column, [base]))
            return base, depth
        tried = [self.folder]
        if 2 * self._hits(self.folder, sample, 0) >= len(sample):
            self._say_suffix(self.folder, sample, 0)
            return self.folder, 0
        folders = [self.folder, *subfolders(self.folder)]
        if sample[0].split("/")[0] == self.folder.name:
            folders.insert(0, self.folder.parent)
        tried = folders
        deepest = max(name.count("/") for name in sample)
        for skipped in range(min(deepest, 8) + 1):
            hits = {folder: self._hits(folder, sample, skipped) for folder in folders}
            best = max(hits.values(), default=0)
            if not best:
                continue
            if best < len(sample) and (spread := self._spread(folders, sample)):
                self._say("pictures are found in several folders, each by its name")
                return spread, 0
            fitting = [folder for folder, count in hits.items() if count == best]
            if len(fitting) > 1 and split is not None:
                fitting = [f for f in fitting if split_kind(f.name) == split_kind(split)] or fitting
            if len(fitting) > 1:
                shown = ", ".join(self._shown(folder) for folder in fitting[:5])
                raise ValueError(
                    f"The pictures that column {column!r} names, such as {sample[0]}, are in several folders: {shown}; "
                    "name one with --image-dir"
                )
            where = self._shown(fitting[0])
            parts = "part" if skipped == 1 else f"{skipped} parts"
            without = f" without the first {parts} of their paths" if skipped else ""
            self._say("pictures are found in {} (--image-dir names another folder)", where + without)
            self._say_suffix(fitting[0], sample, skipped)
            return fitting[0], skipped
        raise ValueError(self._nowhere(sample, column, tried))

    def _path(self, base: Path, name: str, skipped: int) -> str:
        relative = "/".join(name.split("/")[skipped:]) + self.image_suffix
        path = os.path.normpath(os.path.join(base, relative))
        if not self._agree(name, path):
            return os.path.join(self.folder, name)
        if os.path.isfile(path):
            return path
        folder, file = os.path.split(path)
        files = self._files(folder)
        if found := files.get(_key(file)) or files.get(_key(LABEL_STUDIO.sub("", file))):
            return os.path.join(folder, found)
        decoded = unquote(name)
        return path if decoded == name else self._path(base, decoded, skipped)

    def _agree(self, name: str, path: str) -> bool:
        """Whether the folders of a cell and those where its picture is found are not of different splits."""
        if self.image_dir is not None:
            return True
        named = _splits_in(os.path.dirname(name))
        there = _splits_in(os.path.dirname(path).removeprefix(str(self.folder)))
        return not there or not named or not there.isdisjoint(named)

    def _files(self, folder: str) -> dict[str, str]:
        """Name of each picture file in a folder, by its name in NFC with the suffix in small letters, and by its stem
        where no other file has it."""
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    files = [entry.name for entry in entries if looks_like_picture(entry.name)]
            except OSError:
                files = []
            stem_of = {file: _nfc(os.path.splitext(file)[0]) for file in files}
            stems = Counter(stem_of.values())
            found = {stem: file for file, stem in stem_of.items() if stems[stem] == 1}
            self._listed[folder] = found | {_key(file): file for file in files}
        return self._listed[folder]

    def _hits(self, base: Path, sample: list[str], skipped: int) -> int:
        long = [name for name in sample if name.count("/") >= skipped]
        return sum(os.path.isfile(self._path(base, name, skipped)) for name in long)

    def _spread(self, folders: list[Path], sample: list[str]) -> dict[str, str] | None:
        """The path of every picture in several folders by its name, where all of the sample are there just once."""
        paths: dict[str, set[str]] = {}
        for folder in folders:
            for key, file in self._files(str(folder)).items():
                paths.setdefault(key, set()).add(os.path.join(folder, file))
        keys = [_key(os.path.basename(name)) for name in sample]
        if not all(len(paths.get(key, ())) == 1 for key in keys):
            return None
        return {key: next(iter(found)) for key, found in paths.items() if len(found) == 1}

    def _say_suffix(self, base: Path, sample: list[str], skipped: int) -> None:
        first = next((n for n in sample if os.path.isfile(self._path(base, n, skipped))), sample[0])
        found = os.path.basename(self._path(base, first, skipped))
        name = first.split("/")[-1] + self.image_suffix
        if found != name:
            self._said.setdefault(
                "the file of {}: suffixes, their case and other spellings are matched", [f"{name} is {found}"]
            )

    def _nowhere(self, sample: list[str], column: str, tried: Sequence[Path]) -> str:
        there = sorted(os.listdir(self.folder))[:8]
        begins = [
            file
            for folder in tried[:50]
            for file in set(self._files(str(folder)).values())
            if file.startswith(sample[0].split("/")[-1])
        ]
        several = f"; files that begin so: {', '.join(sorted(begins)[:4])}" if begins else ""
        places = ", ".join(self._shown(folder) for folder in tried[:6]) + (", …" if len(tried) > 6 else "")
        return (
            f"None of the pictures that column {column!r} names, such as {sample[0]}, is there: looked in {places}"
            f"{several}. {self.folder} holds {', '.join(there) or 'nothing'}. Name their folder with --image-dir, and "
            "a missing suffix with --image-suffix"
        )

    def _shown(self, folder: Path) -> str:
        if folder == self.folder:
            return str(folder)
        return f"{folder.relative_to(self.folder)}/" if folder.is_relative_to(self.folder) else str(folder)

    def _say(self, sentence: str, detail: str = "") -> None:
        details = self._said.setdefault(sentence, [])
        if detail not in details:
            details.append(detail)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, three levels deep and at most 500, without hidden ones."""
    found: list[Path] = []
    level = [folder]
    for _ in range(DEPTH):
        deeper = []
        for parent in level:
            try:
                with os.scandir(parent) as entries:
                    inside = sorted(e.name for e in entries if e.is_dir() and not HIDDEN.search(e.name))
            except OSError:
                continue
            deeper += [parent / name for name in inside]
            if len(found) + len(deeper) >= MAX_FOLDERS:
                break
        found += deeper
        level = deeper
        if len(found) >= MAX_FOLDERS:
            break
    return found[:MAX_FOLDERS]


@lru_cache
def _splits_in(folder: str) -> frozenset[str]:
    """The splits that the parts of a path name."""
    return frozenset(kind for part in folder.split("/") if (kind := split_kind(part)))


def _clean(cell: str | None) -> str | None:
    if cell is None or not str(cell).strip():
        return None
    name = str(cell).strip()
    if name.startswith("file://"):
        return unquote(name.removeprefix("file://"))
    if is_address(name):
        return name
    if "\\" in name and "/" not in name:
        name = name.replace("\\", "/")
    return name[2:] if name.startswith("./") else name


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _key(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return _nfc(stem) + suffix.lower()
