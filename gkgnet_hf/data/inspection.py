"""What is understood of a data set, for a person to check: assumptions, labels, pairs, pictures."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw, ImageFont
from scipy import sparse

from ..files import written_whole
from .checks import check_images
from .labels import NEGATIVE, POSITIVE, UNKNOWN, label_names, stored_labels
from .pictures import PictureError, open_picture
from .sources import MultiLabelSource
from .summary import summarize
from .words import counted, shown

MOST_LABELS = 50  # in the table
MOST_PAIRS = 3
TILE = 192  # pixels of a picture in the sheet
SHEET = 16  # pictures in it


def load_splits_to_inspect(
    source: MultiLabelSource, split: str | None = None, check: bool = True
) -> dict[str, Dataset]:
    """The split asked for, or all of them, with the labels of the first in its order.

    Args:
        source: what to look at.
        split: as in `load_multilabel_dataset`; None for all splits that the source has itself.
        check: whether every image is decoded.
    """
    datasets: dict[str, Dataset] = {}
    labels = source.options.labels
    for name in source.splits if split is None else [split]:
        dataset = source.load(name, labels, hold_out=split is not None)
        if check:
            split_shown = name if len(source.splits) > 1 else ""
            dataset = check_images(dataset, source.options.on_bad_image, source.options.bad_images_file, split_shown)
        labels = label_names(dataset)
        datasets[name if split is None else source.split_read(split)] = dataset
    return datasets


def describe(source: MultiLabelSource, datasets: Mapping[str, Dataset]) -> str:
    """The whole report: counts, assumptions, what each label is, and the pairs that are commonest.

    Args:
        source: what was read.
        datasets: its splits by their names, with the same labels.
    """
    lines = [shown(f"{source.source} ({source.format})")]
    lines += [
        shown(f"  {name}: {line}") for name, data in datasets.items() for line in str(summarize(data)).splitlines()[:1]
    ]
    lines += ["", "Assumed"] + [f"  {sentence}" for sentence in source.assumptions or ["nothing"]]
    lines += ["", *label_table(datasets)]
    if pairs := commonest_pairs(list(datasets.values())):
        texts = (shown(f"{a} + {b} ({counted(count, 'image')})") for a, b, count in pairs)
        lines += ["", f"Commonest pairs: {', '.join(texts)}"]
    return "\n".join(lines)


def label_table(datasets: Mapping[str, Dataset]) -> list[str]:
    """Lines of a table: for each label and split the images where it is positive, negative and unknown."""
    names = [shown(name) for name in label_names(next(iter(datasets.values())))]
    labels = {split: stored_labels(dataset) for split, dataset in datasets.items()}
    counts = {split: [found.count(value) for value in (POSITIVE, NEGATIVE, UNKNOWN)] for split, found in labels.items()}
    total = np.sum([positive for positive, _, _ in counts.values()], axis=0)
    rows = range(len(names)) if len(names) <= MOST_LABELS else np.argsort(-total, kind="stable")[:MOST_LABELS].tolist()
    width = max(5, *(len(names[label]) for label in rows))
    has_unknown = any(unknown.any() for _, _, unknown in counts.values())
    words = ("positive", "negative", "unknown")[: 3 if has_unknown else 2]
    cell = 10
    head = " " * width + "".join(f"  {shown(split)[: cell * len(words)]:>{cell * len(words)}}" for split in counts)
    lines = [head, f"{'label':<{width}}" + f"  {''.join(f'{word:>{cell}}' for word in words)}" * len(counts)]
    for label in rows:
        cells = ("".join(f"{kind[label]:>{cell},}" for kind in kinds[: len(words)]) for kinds in counts.values())
        lines.append(f"{names[label]:<{width}}" + "".join(f"  {text}" for text in cells))
    if len(names) > len(lines) - 2:
        lines.append(f"… and {counted(len(names) - MOST_LABELS, 'label')} with fewer images")
    if never := [name for name, count in zip(names, total.tolist(), strict=True) if not count]:
        lines += ["", f"Never positive: {', '.join(never[:10])}{', …' if len(never) > 10 else ''}"]
    return lines


def commonest_pairs(datasets: list[Dataset]) -> list[tuple[str, str, int]]:
    """The pairs of labels that most images have together, and on how many they are."""
    names = label_names(datasets[0])
    together = sparse.csr_array((len(names), len(names)), dtype=np.int64)
    for dataset in datasets:
        labels = stored_labels(dataset)
        positive = labels.values == POSITIVE
        cells = (np.ones(int(positive.sum()), dtype=np.int64), (labels.rows[positive], labels.ids[positive]))
        matrix = sparse.csr_array(cells, shape=(labels.num_rows, len(names)))
        together = together + matrix.T @ matrix
    pairs = sparse.triu(together, k=1).tocoo()
    order = np.argsort(-pairs.data, kind="stable")[:MOST_PAIRS]
    return [(names[pairs.row[i]], names[pairs.col[i]], int(pairs.data[i])) for i in order if pairs.data[i] > 0]


def check_sheet(path: str | os.PathLike[str]) -> Path:
    """A path that a picture can be written to; errors as in `write_contact_sheet`."""
    path = Path(path)
    Image.init()
    if Image.EXTENSION.get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--preview writes a picture such as sheet.png, got {path}")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} into")
    return path


def write_contact_sheet(datasets: Mapping[str, Dataset], path: str | os.PathLike[str], seed: int = 0) -> Path:
    """Write a picture of 16 images, drawn at random from all splits, each with its labels below.

    Args:
        datasets: splits of one source.
        path: of the picture, with the suffix of a format that Pillow writes.
        seed: of the drawing.

    Raises:
        ValueError: for a suffix that Pillow does not write.
        FileNotFoundError: if there is no folder to write into.
    """
    path = check_sheet(path)
    rows = [(split, row) for split, dataset in datasets.items() for row in range(len(dataset))]
    chosen = np.random.default_rng(seed).permutation(len(rows))[:SHEET]
    columns = math.ceil(math.sqrt(len(chosen)))
    font = ImageFont.load_default(13)
    height = TILE + 48
    sheet = Image.new("RGB", (columns * TILE, math.ceil(len(chosen) / columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, number in enumerate(sorted(chosen.tolist())):
        split, row = rows[number]
        left, top = place % columns * TILE, place // columns * height
        item = datasets[split].cast_column("image", ImageFeature(decode=False))[row]
        try:
            picture = open_picture(item["image"]["bytes"] or item["image"]["path"], size=TILE)
            assert isinstance(picture, Image.Image)
            picture.thumbnail((TILE - 8, TILE - 8))
            sheet.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
        except (PictureError, OSError) as error:
            draw.multiline_text((left + 4, top + 4), _wrapped(str(error), font), fill="red", font=font)
        names = label_names(datasets[split])
        text = ", ".join(names[label] for label in item["label_ids"]) or "(none)"
        draw.multiline_text((left + 4, top + TILE), _wrapped(text, font), fill="black", font=font)
    with written_whole(path.absolute().parent) as folder:
        sheet.save(folder / path.name)
    return path


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Text in at most three lines of the width of a tile."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= TILE - 8 or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines[:3]) + (" …" if len(lines) > 3 else "")
