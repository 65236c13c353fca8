"""A text or JSON file beside each picture, with its name: tags as kohya and booru write them, or LabelMe's JSON."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ..annotations import Splits, divide, understand
from ..label_text import list_items
from ..options import ReadOptions
from ..places import HIDDEN, looks_like_picture, subfolders
from .json_files import load_json
from .tables import rows_to_dataset
from .yolo import YOLO_LINE

CAPTION_WORDS = 6


def read_sidecars(path: Path, options: ReadOptions) -> Splits | None:
    """A folder whose pictures have such files beside them, itself or in folders."""
    if not path.is_dir():
        return None
    pictures: list[Path] = []
    for folder in (path, *subfolders(path)):
        pictures += sorted(f for f in folder.iterdir() if looks_like_picture(f.name) and not HIDDEN.search(f.name))
    for suffix, read in SIDECARS.items():
        beside = {picture: picture.with_suffix(suffix) for picture in pictures}
        there = {picture: file for picture, file in beside.items() if file.is_file()}
        if pictures and 2 * len(there) > len(pictures):
            cells = {picture: read(file) for picture, file in there.items()}
            options.assume(f"labels are read from the {suffix} files beside the pictures")
            if suffix == ".txt" and all(len(tags) <= 1 for tags in cells.values()):  # no comma: spaces may divide
                texts = Counter(tag for tags in cells.values() for tag in tags)
                separation = options.separation("tags", list(texts), list(texts.values()))
                cells = {picture: [name for tag in tags for name in separation(tag)] for picture, tags in cells.items()}
            return _understood(path, pictures, cells, options)
    return None


def _understood(path: Path, pictures: list[Path], cells: dict[Path, list[str]], options: ReadOptions) -> Splits:
    rows = [{"image": str(picture.relative_to(path)), "labels": cells.get(picture)} for picture in pictures]
    annotations, split_of = understand(rows_to_dataset(rows), options, path)
    return divide(annotations, split_of)


def _tags(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8-sig").strip()
    if any(YOLO_LINE.fullmatch(line.strip()) for line in text.splitlines()):
        raise ValueError(
            f"{file} has objects in YOLO's format; a data.yaml or classes.txt beside it must name the classes"
        )
    tags = [tag.strip() for line in text.splitlines() for tag in line.split(",")]
    tags = [tag for tag in tags if tag]
    if long := next((tag for tag in tags if len(tag.split()) > CAPTION_WORDS), None):
        raise ValueError(f"{file} has a caption, {long[:60]!r}, where tags with commas between them are expected")
    return tags


def _json(file: Path) -> list[str]:
    content = load_json(file)
    if isinstance(content, dict) and "shapes" in content:  # LabelMe
        flags = [name for name, answer in (content.get("flags") or {}).items() if answer]
        return sorted({*flags, *(str(shape["label"]) for shape in content["shapes"])})
    found = list_items(content, ValueError(f"{file} holds no list of labels"))
    if isinstance(found, dict):
        return [name for name, answer in found.items() if answer in (1, True, "1", "yes", "true")]
    return [str(item) for item in found]


SIDECARS: dict[str, Callable[[Path], list[str]]] = {".txt": _tags, ".json": _json}
