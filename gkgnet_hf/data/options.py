"""What a user may say about a source, and what was assumed where nothing was said."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cells import CellOptions
from .checks import OnBadImage


@dataclass
class ReadOptions(CellOptions):
    """How a source is read; None leaves it to be found out, and what is found is noted in `assumptions`.

    Args:
        labels: the label names wanted, in this order.
        image_column, label_column: where a table has images and labels; several label columns have one label each.
        image_dir: folder of the pictures that a table names.
        image_suffix: what the names of pictures in a table lack, as ".jpg".
        encoding: of text files that are not UTF-8.
        keep_unlabeled: keep images without a label.
        on_bad_image, bad_images_file: what happens to rows that cannot be used, see `report_bad_images`.
        allow_urls: fetch the pictures behind http(s):// and hf:// addresses, once, into the cache of datasets.

    The others are those of `CellOptions`.
    """

    labels: Sequence[str] | None = None
    image_column: str | None = None
    label_column: str | Sequence[str] | None = None
    image_dir: str | os.PathLike[str] | None = None
    image_suffix: str | None = None
    encoding: str | None = None
    keep_unlabeled: bool = False
    on_bad_image: OnBadImage = "error"
    bad_images_file: str | os.PathLike[str] | None = None
    allow_urls: bool = False

    folder: Path | None = None  # of the data, to say which pictures are not in it
    repo: str | None = None  # that the data are from, on the Hub

    def say_unused(self) -> None:
        """Note the options that were given and changed nothing."""
        for name in ("separator", "blank", "minus_one", "none_label", "ignore_case", "label_column", "image_column"):
            if getattr(self, name) not in (None, False) and name not in self.used:
                self.assume(f"warning: --{name.replace('_', '-')} changes nothing here")
