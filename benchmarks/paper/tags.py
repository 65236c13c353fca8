"""Pictures with tags and without boxes: the drawings of the npm package `openmoji` (CC BY-SA 4.0), which is fetched and
never committed. One drawing a picture, with the tags that people gave it: face, smile, animal, letter, red."""

import json
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from gkgnet_hf.files import removed_on_error

from .scenes import VALIDATION_SHARE, Cutouts, write_pictures

PACKAGE = "openmoji@17.0.0"
MIN_DRAWINGS = 20  # of a tag; what is rarer is no label
RENDITIONS = {"train": 12, "val": 3, "known": 1}  # pictures of each drawing
# Code points in which the variants of a drawing differ: man, woman, person; boy, girl, child; old man, old woman.
SAME = {"1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2", "1F474": "1F9D3", "1F475": "1F9D3"}
IGNORED = {"200D", "FE0F", "2640", "2642"}  # joiner, variation, female, male


def fetch_drawings(folder: Path) -> Path:
    """Download and unpack the package into `folder` once; the folder of its files."""
    if not folder.exists():
        if not shutil.which("npm"):
            raise FileNotFoundError(f"{PACKAGE} is fetched with npm: install it, or name --stages without tags")
        with tempfile.TemporaryDirectory() as place, removed_on_error(folder):
            subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=place, check=True, stdout=subprocess.DEVNULL)
            (archive,) = Path(place).glob("*.tgz")
            shutil.unpack_archive(archive, folder, filter="data")
    return folder / "package"


def read_tags(package: Path) -> dict[Path, set[str]]:
    """Drawing → its tags, of those on `MIN_DRAWINGS` or more, for drawings that have any.

    Skin tones are left out, which repeat a drawing and have no tags, and so are copies of a drawing under another name.
    """
    drawings = {
        package / "color/svg" / f"{drawing['hexcode']}.svg": _words(drawing["tags"]) | _words(drawing["openmoji_tags"])
        for drawing in json.loads((package / "data/openmoji.json").read_text())
        if not drawing["skintone"]
    }
    first = {path.read_bytes(): path for path in reversed(drawings)}  # content → the first drawing that has it
    found = {path: drawings[path] for path in sorted(first.values())}
    counts = Counter(tag for tags in found.values() for tag in tags)
    common = {tag for tag, count in counts.items() if count >= MIN_DRAWINGS}
    return {path: tags & common for path, tags in found.items() if tags & common}


def _words(text: str) -> set[str]:
    return {word.strip().lower() for word in text.split(",") if word.strip()}


def family(drawing: Path) -> str:
    """What the variants of a drawing have in common: a man who cooks, and a woman who cooks."""
    parts = (SAME.get(part, part) for part in drawing.stem.split("-") if part not in IGNORED)
    return "-".join(parts)


def write_tags(folder: Path, drawings: dict[Path, set[str]], cutouts: Cutouts, size: int, seed: int = 0) -> None:
    """Draw pictures of `size` pixels, as arrays of pictures and labels (N, tags). A third of the families of
    drawings is for "val"; "known" has new pictures of the drawings of "train"."""
    names = sorted(set().union(*drawings.values()))
    rows = np.array([[name in tags for name in names] for tags in drawings.values()], dtype=np.float32)
    paths = np.array(list(drawings))
    families = np.random.default_rng(seed).permutation(sorted({family(path) for path in drawings}))
    held_out = set(families[: round(len(families) * VALIDATION_SHARE)])
    is_new = np.array([family(path) in held_out for path in drawings])
    for number, (split, count) in enumerate(RENDITIONS.items()):
        chosen = is_new if split == "val" else ~is_new
        rng = np.random.default_rng([seed, number])
        write_pictures(folder, "tags", split, paths[chosen], rows[chosen], count, cutouts.clutter[split], size, rng)
