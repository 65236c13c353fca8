"""Files that are either written whole or not at all, and folders that one process at a time writes into."""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

UNFINISHED = "_writing-"  # the Trainer pushes nothing from "_*"
JUST_MADE = 5  # seconds in which a process that has made a folder comes to hold it
LOCK_FILE = "_training.lock"
STATE_FILE = "trainer_state.json"


@contextmanager
def written_whole(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Write into the folder this gives; when the block ends without error, its files go to `directory`.

    Where there is no such folder yet, all of them appear in one step. Elsewhere each file replaces its namesake in one
    step, and the other files stay. So a reader never meets half of a file. What a killed process left is removed.

    Raises:
        OSError: what the file system raises, for instance on a full disk; `directory` is then as it was.

    Example:

        with written_whole("my-model") as folder:
            model.save_pretrained(folder)
    """
    directory = Path(directory).absolute()
    place = directory if directory.is_dir() else directory.parent  # both on the file system of `directory`
    place.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(place)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=place) as temporary, _held(temporary):
        folder = Path(temporary, directory.name)
        folder.mkdir()
        yield folder
        try:
            folder.rename(directory)
        except OSError:  # it is there, perhaps since a moment ago: another process may write a checkpoint too
            for path in sorted(folder.iterdir()):
                path.replace(directory / path.name)


@contextmanager
def _held(folder: str) -> Iterator[None]:
    """Hold a folder as long as this process lives, so that others see that it is in use."""
    if fcntl is None:
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks, on which nothing is removed either
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(number)


def _remove_abandoned(place: Path) -> None:
    """Remove unfinished folders that no living process holds."""
    if fcntl is None:
        return
    for path in place.glob(f"{UNFINISHED}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < JUST_MADE:
                continue
            number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(number)


@contextmanager
def held_for_training(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other trainings out of a folder. A process that dies lets go of it.

    Checkpoints that a killed process left half are removed.

    Raises:
        BlockingIOError: if another process holds it.
    """
    lock = FileLock(Path(directory, LOCK_FILE))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"Another training writes into {directory}: wait for its end, or name another folder with --output_dir"
        ) from None
    except NotImplementedError:
        logger.warning("%s is on a file system without locks: start no other training into it", directory)
    try:
        _remove_abandoned(Path(directory))
        for path in _checkpoints(directory):
            if not _has_whole_state(path):
                logger.warning("%s was not written to its end and is removed", path)
                shutil.rmtree(path, ignore_errors=True)
        yield
    finally:
        lock.release()


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
    for path in reversed(_checkpoints(directory)):
        if _has_whole_state(path):
            return path
        logger.warning("%s was not written to its end and is passed over", path)
    return None


def _checkpoints(directory: str | os.PathLike[str]) -> list[Path]:
    """The folders `checkpoint-N` of a training run, oldest first."""
    found = [p for p in Path(directory).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if p.name.split("-")[-1].isdecimal()]
    return sorted((p for p in found if p.is_dir()), key=lambda path: int(path.name.split("-")[-1]))


def _has_whole_state(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return True
