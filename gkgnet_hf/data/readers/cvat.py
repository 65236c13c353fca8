"""CVAT for images: annotations.xml with a list of images, and tags or shapes in each."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from ..annotations import Annotations, Splits, divide, split_of_paths
from ..labels import Labels
from ..options import ReadOptions
from ..places import Places


def read_cvat(path: Path, options: ReadOptions) -> Splits | None:
    """A file `annotations.xml`, or the folder with it."""
    file = path if path.is_file() else path / "annotations.xml"
    if file.suffix.lower() != ".xml" or not file.is_file():
        return None
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{file} is no XML: {error}") from error
    images = root.findall("image")
    if root.tag != "annotations" or not images:
        return None
    names = [label.findtext("name", "").strip() for label in root.iterfind("meta//labels/label")]
    seen = [(row, item.attrib["label"]) for row, image in enumerate(images) for item in image if "label" in item.attrib]
    names = list(dict.fromkeys([name for name in names if name] or sorted({label for _, label in seen})))
    unknown = next((label for _, label in seen if label not in names), None)
    if unknown is not None:
        raise ValueError(f"{file} tags an image {unknown!r}, which is not among its labels {', '.join(names)}")
    labels = Labels.from_cells(len(images), names, [row for row, _ in seen], [names.index(label) for _, label in seen])
    tagged = any(image.find("tag") is not None for image in images)
    options.assume(f"labels are read from the {'tags' if tagged else 'shapes'} of {file.name}, in CVAT's format")
    places = Places(file.parent, options.image_dir, options.image_suffix)
    paths = places.find([image.attrib.get("name") for image in images], "name")
    for sentence in places.sentences:
        options.assume(sentence)
    annotations = Annotations.from_paths([str(p) for p in paths], labels, "bad" if tagged else "drop")
    subsets = [image.attrib.get("subset") for image in images]
    split_of = np.array(subsets) if all(subsets) else split_of_paths(paths, file.parent, options)
    return divide(annotations, split_of)
