"""A new folder that is written whole or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_new_folder(path: Path) -> None:
    """Raise FileExistsError unless nothing or an empty folder is at `path`."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} must be a new or an empty folder")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that takes the place of `path`, where nothing or an empty one is, when the block ends without error.

    Raises:
        FileExistsError: at once, if something else is at `path`.

    Example:

        with new_folder(Path("out")) as folder:
            model.save_pretrained(folder)
    """
    check_new_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as parent:
        folder = Path(parent, path.name)
        folder.mkdir()
        yield folder
        folder.replace(path)
