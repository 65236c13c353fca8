"""Images on disk for the tests of data sources, and what was read of them."""

import PIL.Image
from datasets import Image


def draw(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (8, 8), (shade, shade // 2, 0)).save(path)
    return path


def column(dataset, name):
    values = dataset.select_columns(name)[:][name]
    return [value.tolist() if hasattr(value, "tolist") else value for value in values]


def file_names(dataset):
    images = column(dataset.cast_column("image", Image(decode=False)), "image")
    return [image["path"].rsplit("/", 1)[1] for image in images]
