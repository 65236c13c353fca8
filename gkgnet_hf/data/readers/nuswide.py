"""NUS-WIDE: Flickr/, ImageList/TrainImagelist.txt, Groundtruth/TrainTestLabels/Labels_<concept>_Train.txt."""

from functools import partial
from pathlib import Path

import numpy as np

from ..annotations import Annotations, Splits
from ..labels import Labels
from ..options import ReadOptions
from ..paths import files_in
from ..places import Places

LISTS = {"train": "Train", "test": "Test"}


def read_nuswide(path: Path, options: ReadOptions) -> Splits | None:
    """The folder that holds `ImageList` and `Groundtruth`."""
    truth = path / "Groundtruth" / "TrainTestLabels"
    if not truth.is_dir():
        return None
    splits: Splits = {}
    for split, word in LISTS.items():
        listed = path / "ImageList" / f"{word}Imagelist.txt"
        files = {
            f.stem.removeprefix("Labels_").removesuffix(f"_{word}"): f for f in files_in(truth, f"Labels_*_{word}.txt")
        }
        if listed.is_file() and files:
            splits[split] = partial(_read, path, listed, dict(sorted(files.items())), options)
    if not splits:
        raise ValueError(f"{path} looks like NUS-WIDE, but has no ImageList/TrainImagelist.txt with its Labels_ files")
    return splits


def _read(root: Path, listed: Path, files: dict[str, Path], options: ReadOptions) -> Annotations:
    images = [
        line.strip().replace("\\", "/") for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    concepts = root / "ConceptsList" / "Concepts81.txt"
    names = concepts.read_text(encoding="utf-8").split() if concepts.is_file() else list(files)
    missing = [name for name in names if name not in files]
    if missing:
        options.assume(f"warning: {len(missing)} concepts of {concepts.name} have no file of labels: {missing[0]} …")
        names = [name for name in names if name in files]
    rows, ids = [], []
    for label, name in enumerate(names):
        cells = np.array(files[name].read_text(encoding="utf-8").split())
        if len(cells) != len(images) or not set(cells.tolist()) <= {"0", "1"}:
            raise ValueError(
                f"{files[name]} must have a 0 or 1 for each of the {len(images)} images, it has {len(cells)}"
            )
        (found,) = np.nonzero(cells == "1")
        rows.append(found)
        ids.append(np.full(len(found), label))
    labels = Labels.from_cells(
        len(images), names, np.concatenate(rows), np.concatenate(ids), silent=np.zeros(len(images), dtype=bool)
    )
    places = Places(root, options.image_dir, options.image_suffix)
    paths = places.find(images, listed.name)
    for sentence in places.sentences:
        options.assume(sentence)
    return Annotations.from_paths([str(path) for path in paths], labels)
