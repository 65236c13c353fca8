"""Picture files: which suffixes they have, how one is opened, and which cannot be used and why."""

import os
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Suffixes in lower case, with their dot. Formats that need another program (EPS) are in none of the three.
READABLE_SUFFIXES: frozenset[str] = frozenset()  # read by what is installed, HEIC and AVIF among them if they are
PLUGIN_SUFFIXES: dict[str, str] = {}  # not read now, but with a package: suffix → its name, as {".heic": "pillow-heif"}
UNREADABLE_SUFFIXES: frozenset[str] = frozenset()  # pictures that nothing here reads: RAW, SVG, PSD, PDF, EPS …


class PictureError(ValueError):
    """A picture cannot be used. `problem` says why in a few words, without the file's name; `str()` names the file too."""

    problem: str


def open_picture(
    file: str | os.PathLike[str] | bytes, size: int | None = None, num_channels: int = 3
) -> Image.Image | NDArray[np.uint8]:
    """One picture, decoded, upright, with 8 bits per channel.

    Args:
        file: a path, a URL that fsspec opens (`zip://a.jpg::photos.zip`), or the content of the file.
        size: pixels that the shorter side must have at least; a JPEG file that is far larger is shrunk while it is
            decoded. Other formats are decoded whole. Default: whole.
        num_channels: 3 gives an RGB image, 1 a grey one (`L`). Any other number gives an array (H, W, num_channels)
            of uint8 from a file with this many channels, such as a multi-band TIFF.

    Raises:
        FileNotFoundError: if there is no such file.
        PictureError: if it is no picture, is broken or too large, or has another number of channels.

    Example:

        image = open_picture("photo.jpg", size=448)
    """
    raise NotImplementedError


def check_pictures(
    files: Iterable[str | os.PathLike[str] | bytes],
    num_channels: int = 3,
    num_workers: int | None = None,
    use_cache: bool = True,
) -> dict[int, str]:
    """Which pictures cannot be used, and why.

    Every file is read whole and decoded, JPEG files at an eighth of their size. Files that were found good before, and
    have the same size and time of change, are not read again.

    Args:
        files: paths, URLs or contents, as for `open_picture`; read a thousand at a time, so an iterator may make them.
        num_channels: as for `open_picture`.
        num_workers: threads that decode; default, one per core.
        use_cache: remember good files in the folder of the Hugging Face cache.

    Returns:
        For each file that cannot be used its place in `files`, counted from 0, and the reason.

    Example:

        for place, problem in check_pictures(files).items():
            print(files[place], problem)
    """
    raise NotImplementedError
