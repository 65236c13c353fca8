"""Folders that are either written whole or not at all."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)


@contextmanager
def written_whole(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Write into the folder this gives; its files replace those of `directory` when the block ends without error.

    Each file moves in one step, so a reader never meets half of one.

    Raises:
        OSError: what the file system raises, for instance on a full disk; `directory` is then as it was.

    Example:

        with written_whole("my-model") as folder:
            model.save_pretrained(folder)
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory) as folder:
        yield Path(folder)
        for path in sorted(Path(folder).iterdir()):
            path.replace(directory / path.name)


@contextmanager
def removed_on_error(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Remove `directory` if the block that makes it raises."""
    try:
        yield
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def last_checkpoint(directory: str | os.PathLike[str]) -> Path | None:
    """The newest whole `checkpoint-N` of a training run, or None; one that a killed process left half is passed over.

    The Trainer writes its state last, so a checkpoint with a readable state is whole.
    """
    found = [p for p in Path(directory).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if p.name.split("-")[-1].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        try:
            TrainerState.load_from_json(str(path / "trainer_state.json"))
        except (OSError, json.JSONDecodeError):
            logger.warning("%s was not written to its end and is passed over", path)
        else:
            return path
    return None


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
