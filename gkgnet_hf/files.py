"""Files that are either written whole or not at all."""

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
    """Write into the folder this gives; when the block ends without error, its files go to `directory`.

    Where there is no such folder yet, all of them appear in one step. Elsewhere each file replaces its namesake in one
    step, and the other files stay. So a reader never meets half of a file.

    Raises:
        OSError: what the file system raises, for instance on a full disk; `directory` is then as it was.

    Example:

        with written_whole("my-model") as folder:
            model.save_pretrained(folder)
    """
    directory = Path(directory).absolute()
    place = directory if directory.is_dir() else directory.parent  # both on the file system of `directory`
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="_writing-", dir=place
    ) as temporary:  # the Trainer pushes nothing from "_*"
        folder = Path(temporary, directory.name)
        folder.mkdir()
        yield folder
        try:
            folder.rename(directory)
        except OSError:  # it is there, perhaps since a moment ago: another process may write a checkpoint too
            for path in sorted(folder.iterdir()):
                path.replace(directory / path.name)


def check_new_folder(path: Path) -> None:
    """Raise FileExistsError unless nothing or an empty folder is at `path`."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} must be a new or an empty folder")


@contextmanager
def removed_on_error(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Remove `directory` if the block that makes it raises."""
    try:
        yield
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def last_checkpoint(directory: str | os.PathLike[str]) -> Path | None:
    """The newest whole `checkpoint-N` of a training run, or None. One that a killed process left half is passed over.

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
