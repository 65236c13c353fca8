"""Label a collection: rows in, batches through the network, results out, whatever happens in between."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from .outputs import Output, Printed, Result
from .predictor import BatchReader, Predictor
from .rows import Row

PART_ROWS = 4096
PART_SECONDS = 30.0


@dataclass(frozen=True)
class Summary:
    """What a run did: pictures labelled, skipped since they were done before, and failed; and how long it took.

    `waiting` is the part of the time in which the network waited for pictures, where that is known.
    """

    labelled: int
    skipped: int
    failed: int
    seconds: float
    waiting: float | None = None

    def __str__(self) -> str:
        speed = self.labelled / max(self.seconds, 1e-9)
        text = f"{self.labelled:,} pictures labelled, {speed:.1f} a second; "
        text += "" if self.waiting is None else f"the network waited {self.waiting:.0%} of the time; "
        text += f"{self.skipped:,} were done before; " if self.skipped else ""
        return (text + (f"{self.failed:,} cannot be used" if self.failed else "")).removesuffix("; ")


def label_collection(
    predictor: Predictor,
    rows: Iterable[Row],
    output: Output,
    batch_size: int = 16,
    num_workers: int = 1,
    shard: tuple[int, int] = (1, 1),
    on_bad_image: Literal["error", "skip"] = "skip",
    total: Callable[[], int] | None = None,
) -> Summary:
    """Label every row that has no result yet.

    Args:
        predictor: what labels.
        rows: what there is, as `read_rows` gives it.
        output: what takes the results.
        batch_size: pictures the network sees at once.
        num_workers: processes that read pictures; 0 reads them in this one.
        shard: (i, n): of the rows, the i-th of n parts, which are always the same.
        on_bad_image: note a picture that cannot be used in the output, or end with an error.
        total: counts the rows, for the progress bar; it runs beside the work.

    Returns:
        What was done.

    Raises:
        ValueError: with "error", for a picture that cannot be used; for a network that gives NaN. What was done before
            is kept.

    Example:

        label_collection(Predictor("my-gkgnet"), read_rows(["photos"]), Parts("labels.parquet", names, {}))
    """
    tally = _Tally()
    loader = DataLoader(
        _Stream(),
        batch_size=batch_size,
        sampler=_wanted(rows, output, shard, tally),
        num_workers=num_workers,
        collate_fn=_Collate(predictor.processor),
        prefetch_factor=4 if num_workers else None,
    )
    # Printed results show themselves how far it is.
    bar = tqdm(desc="Labelling", unit="image", smoothing=0.05, disable=isinstance(output, Printed))
    if total is not None:
        threading.Thread(target=_set_total, args=(bar, total), daemon=True).start()
    flushed, pending = time.monotonic(), 0
    try:
        for batch in _as_they_come(loader, tally):
            _label_batch(predictor, batch, output, on_bad_image, tally)
            bar.update(len(batch.rows))
            pending += len(batch.rows)
            if pending >= PART_ROWS or time.monotonic() - flushed > PART_SECONDS:
                output.flush()
                flushed, pending = time.monotonic(), 0
    finally:
        bar.close()
        output.close()
    return tally.summary()


@dataclass
class _Tally:
    """What a run has done so far, and the seconds in which the network waited for pictures."""

    labelled: int = 0
    skipped: int = 0
    failed: int = 0
    waited: float = 0.0
    start: float = field(default_factory=time.monotonic)

    def summary(self) -> Summary:
        seconds = time.monotonic() - self.start
        return Summary(self.labelled, self.skipped, self.failed, seconds, self.waited / max(seconds, 1e-9))


class _Batch(NamedTuple):
    """Rows, pixel values of the good ones, None without any, and the problems of the others by their place."""

    rows: list[Row]
    pixel_values: Tensor | None
    problems: dict[int, str]


def _wanted(rows: Iterable[Row], output: Output, shard: tuple[int, int], tally: _Tally) -> Iterator[Row]:
    """The rows of a shard that have no result yet."""
    index, number = shard
    for row in rows:
        if row.number % number != index - 1:
            continue
        if output.is_done(row):
            tally.skipped += 1
        else:
            yield row


def _as_they_come(loader: Iterable[_Batch], tally: _Tally) -> Iterator[_Batch]:
    """The batches of a loader; the time that each is waited for is counted."""
    batches = iter(loader)
    while True:
        asked = time.monotonic()
        batch = next(batches, None)
        tally.waited += time.monotonic() - asked
        if batch is None:
            return
        yield batch


def _label_batch(
    predictor: Predictor, batch: _Batch, output: Output, on_bad_image: Literal["error", "skip"], tally: _Tally
) -> None:
    """Score the good rows of a batch and hand them to the output, and the others with their problems."""
    for place, problem in batch.problems.items():
        if on_bad_image == "error":
            raise ValueError(f"{batch.rows[place].id}: {problem}")
        output.fail(batch.rows[place], problem)
    good = [row for place, row in enumerate(batch.rows) if place not in batch.problems]
    if batch.pixel_values is not None:
        scores, embeddings = predictor.score(batch.pixel_values)
        for place, row in enumerate(good):
            embedding = None if embeddings is None else embeddings[place]
            output.add(Result(row, predictor.rules(scores[place]), scores[place], embedding))
    tally.labelled += len(good)
    tally.failed += len(batch.problems)


class _Stream(Dataset):
    """Rows as the sampler gives them, which is the stream itself."""

    def __getitem__(self, row: Row) -> Row:
        return row


class _Collate:
    """A list of rows → a batch, with their pictures read."""

    def __init__(self, processor: BaseImageProcessor):
        self.read = BatchReader(processor)

    def __call__(self, rows: list[Row]) -> _Batch:
        pixel_values, problems = self.read([row.image for row in rows])
        # The picture's content was for the worker alone.
        rows = [row if isinstance(row.image, str) else Row(row.id, b"") for row in rows]
        return _Batch(rows, pixel_values, problems)


def _set_total(bar: Any, total: Callable[[], int]) -> None:
    try:
        bar.total = total()
    except (OSError, ValueError):
        return  # the work itself will say so
    bar.refresh()


def parse_shard(text: str) -> tuple[int, int]:
    """ "3/8" → (3, 8); ValueError for anything that is no part of a whole.

    >>> parse_shard("3/8")
    (3, 8)
    """
    index, _, number = text.partition("/")
    if not (index.isdecimal() and number.isdecimal() and 1 <= int(index) <= int(number)):
        raise ValueError(f"A shard must be written as 3/8, the third of eight; got {text}")
    return int(index), int(number)


def multiply_shards(shard: tuple[int, int], rank: int, world_size: int) -> tuple[int, int]:
    """The part of a part: that of process `rank` of `world_size` processes which share a shard.

    >>> multiply_shards((2, 3), rank=0, world_size=4)
    (5, 12)
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"RANK must be in 0 … WORLD_SIZE - 1, got RANK {rank} and WORLD_SIZE {world_size}")
    index, number = shard
    return (index - 1) * world_size + rank + 1, number * world_size
