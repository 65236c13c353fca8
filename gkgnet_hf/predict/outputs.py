"""Where results go: parts that are written whole, which no interruption loses; or tags beside the pictures.

An output is a folder of Parquet parts. A CSV or JSON-lines file is made from such a folder when a run ends. Several
runs may write into one output at the same time, each parts of its own.
"""

import csv
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ..data.paths import path_problem
from ..data.words import csv_cell, shown
from ..files import written_whole
from .rows import Row

logger = logging.getLogger(__name__)

MANIFEST, LOCK = ".run.json", ".lock"  # readers of Parquet folders pass over names that begin with a dot
LET_GO = 10.0  # seconds in which what a killed process started ends too
MOST_TAGS = 1 << 20  # bytes in the file beside a picture
TEXT = (".csv", ".jsonl")
Existing = Literal["append", "replace", "skip"]


@dataclass
class Result:
    """What was found on one picture: labels with their scores, highest first, all scores (L,), and an embedding."""

    row: Row
    labels: list[tuple[str, float]]
    scores: NDArray[np.float32]
    embedding: NDArray[np.float32] | None = None


class Output(Protocol):
    """What a run writes into."""

    def is_done(self, row: Row) -> bool:
        """Whether a row has its result already."""

    def add(self, result: Result) -> None:
        """Take a result; it is safe after the next `flush`."""

    def fail(self, row: Row, problem: str) -> None:
        """Note a picture that cannot be used."""

    def flush(self) -> None:
        """Write what has come so far."""

    def close(self) -> None:
        """End the run."""


class Parts:
    """A folder of Parquet parts, with a CSV or JSON-lines file made from it where that is asked for.

    Columns: `image`, the id of the row; `labels` and `label_scores`, lists, highest score first; `scores`, a list with
    the score of every label of the model, in its order; `embedding` where there is one.

    Args:
        path: `NAME.parquet`, the folder; or `NAME.csv` or `NAME.jsonl`, whose folder is `NAME.csv.parts`.
        names: of the model's L labels.
        manifest: what the results depend on. Another run may only go on with the same.
        shard: which of the processes that share the rows this is, as "3-of-8".

    Raises:
        ValueError: if the folder holds results of another model or other options, `path` ends otherwise, or a file is
            there that no earlier run made.
        BlockingIOError: if another run writes the same shard of it.
    """

    def __init__(
        self, path: str | os.PathLike[str], names: Sequence[str], manifest: Mapping[str, Any], shard: str = "1-of-1"
    ):
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in (".parquet", *TEXT):
            raise ValueError(f"The output must end in .parquet, .csv or .jsonl, or be the word sidecars; got {path}")
        self.folder = self.path if suffix == ".parquet" else self.path.with_name(f"{self.path.name}.parts")
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} must be a folder, since results come in parts; it is a file")
        is_made = (self.folder / MANIFEST).exists() and not self.path.is_dir()
        if self.folder != self.path and os.path.lexists(self.path) and not is_made:
            raise ValueError(f"{self.path} is there, and no earlier run made it; choose another output")
        self.names = names
        self.shard = shard
        self.results: list[Result] = []
        self.problems: list[tuple[str, str]] = []
        self._claim({**manifest, "labels": list(names)})
        self._lock = FileLock(self.folder / f"{LOCK}-{shard}")
        try:
            self._lock.acquire(timeout=LET_GO)
        except Timeout:
            raise BlockingIOError(
                f"Another run writes into {path}: wait for its end, or divide it by --shard"
            ) from None
        except NotImplementedError:
            logger.warning("%s is on a file system without locks: start no other run into it", path)
        self.done = {number for part in self.parts() for number in _numbers(part)}
        self.resumed = len(self.done)
        self._next = 1 + max((int(part.stem.split("-")[-1]) for part in self._own()), default=-1)

    def _claim(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, or compare it with the one that is there."""
        manifest = json.loads(json.dumps(manifest))
        with _locked(self.folder):
            file = self.folder / MANIFEST
            if not file.exists():
                if any(not path.name.startswith((".", "_")) for path in self.folder.iterdir()):
                    raise ValueError(f"{self.folder} holds other files; an output must be a new or an empty folder")
                with written_whole(self.folder) as new:
                    (new / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
                return
            try:
                known = dict(json.loads(file.read_text(encoding="utf-8")))
            except (ValueError, TypeError, RecursionError) as error:
                raise ValueError(f"{file} is damaged: {error}") from error
            differ = [key for key in {**known, **manifest} if known.get(key) != manifest.get(key)]
            if differ:
                raise ValueError(
                    f"{self.path} holds results of a run with another {', '.join(differ)}; "
                    "choose another output, or delete this one"
                )

    def parts(self) -> list[Path]:
        """The parts that are there, of every process."""
        return sorted(self.folder.glob("*.parquet"))

    def _own(self) -> list[Path]:
        return sorted(self.folder.glob(f"part-{self.shard}-*.parquet"))

    def is_done(self, row: Row) -> bool:
        """Whether a part has the row."""
        return row.number in self.done

    def add(self, result: Result) -> None:
        """Take a result, once."""
        self.done.add(result.row.number)
        self.results.append(result)

    def fail(self, row: Row, problem: str) -> None:
        """Note a picture that cannot be used; the next run over this output tries it again."""
        self.problems.append((row.id, problem))

    def flush(self) -> None:
        """Write the results since the last time as one part, and the list of problems anew."""
        if self.problems:
            errors = self.errors
            with written_whole(errors.parent) as folder, (folder / errors.name).open("w", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(("image", "problem"))
                writer.writerows((csv_cell(image), csv_cell(problem)) for image, problem in self.problems)
        if self.results:
            name = f"part-{self.shard}-{self._next:06d}.parquet"
            with written_whole(self.folder) as folder, (folder / name).open("wb") as file:
                pq.write_table(results_table(self.results), file)
            self._next += 1
            self.results = []

    @property
    def errors(self) -> Path:
        """The list of pictures that cannot be used: `NAME.csv.errors.csv`, of each process that shares the rows."""
        shard = "" if self.shard == "1-of-1" else f"-{self.shard}"
        return self.path.with_name(f"{self.path.name}.errors{shard}.csv")

    def close(self) -> None:
        """Write what is left, and the text file from all parts that are there; let other runs in."""
        try:
            self._finish()
        finally:
            self._lock.release()

    def _finish(self) -> None:
        self.flush()
        if self.path.suffix.lower() in TEXT:
            with (
                _locked(self.folder),
                written_whole(self.path.parent) as folder,
                (folder / self.path.name).open("w", encoding="utf-8", newline="") as file,
            ):
                self._write_csv(file) if self.path.suffix.lower() == ".csv" else self._write_lines(file)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for part in self.parts():
            with part.open("rb") as file:  # the name of a folder need not be UTF-8
                yield from pq.read_table(file).to_pylist()

    def _write_lines(self, file: Any) -> None:
        for row in self._rows():
            labels = [{"label": name, "score": s} for name, s in zip(row["labels"], row["label_scores"], strict=True)]
            embedding = {"embedding": row["embedding"]} if "embedding" in row else {}
            line = {"image": row["image"], "labels": labels, "scores": row["scores"], **embedding}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _write_csv(self, file: Any) -> None:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "labels", *map(csv_cell, self.names)])
        for row in self._rows():
            labels = "; ".join(row["labels"])
            writer.writerow([csv_cell(row["image"]), csv_cell(labels), *(f"{score:.6g}" for score in row["scores"])])


class Printed:
    """Results as lines of text, JSON or CSV, each as soon as it is there.

    Args:
        kind: what to print; JSON is one list of objects.
        file: where to; default, standard output.
    """

    def __init__(self, kind: Literal["text", "json", "csv"] = "text", file: TextIO | None = None):
        self.kind = kind
        self.file = file or sys.stdout
        self.problems: list[tuple[str, str]] = []
        self._first = True
        if kind == "csv":
            self._write_csv(("image", "label", "score"))

    def is_done(self, row: Row) -> bool:
        """Nothing is kept."""
        return False

    def add(self, result: Result) -> None:
        """Print a result."""
        image = result.row.id
        if self.kind == "json":
            labels = [{"label": name, "score": score} for name, score in result.labels]
            self.file.write("[\n" if self._first else ",\n")
            self.file.write(json.dumps({"image": image, "labels": labels}))
            self._first = False
        elif self.kind == "csv":
            for name, score in result.labels:
                self._write_csv((csv_cell(image), csv_cell(name), score))
        else:
            labels_text = ", ".join(f"{name} ({score:.2f})" for name, score in result.labels)
            self.file.write(shown(f"{image}: {labels_text or 'none'}") + "\n")

    def _write_csv(self, cells: tuple[Any, ...]) -> None:
        csv.writer(self.file, lineterminator="\n").writerow(cells)

    def fail(self, row: Row, problem: str) -> None:
        """Note a picture that cannot be used."""
        self.problems.append((row.id, problem))

    def flush(self) -> None:
        """Hand on what was printed."""
        self.file.flush()

    def close(self) -> None:
        """End the list of JSON."""
        if self.kind == "json":
            self.file.write("[]\n" if self._first else "\n]\n")
        self.file.flush()


@dataclass
class Sidecars:
    """A text file of tags beside each picture.

    Args:
        stem: name them `picture.txt`, not `picture.jpg.txt`. Two pictures that would share a file are a problem.
        separator: between tags.
        existing: what becomes of a file that is there: its tags stay in front and new ones are added, it is replaced,
            or its picture is skipped.
    """

    stem: bool = False
    separator: str = ", "
    existing: Existing = "append"
    resumed: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    _owners: dict[Path, str] = field(default_factory=dict)

    def file(self, row: Row) -> Path | None:
        """The file beside a picture; None for a row that is no file."""
        if not isinstance(row.image, (str, os.PathLike)) or "://" in str(row.image):
            return None
        picture = Path(row.image)
        return picture.with_suffix(".txt") if self.stem else picture.with_name(f"{picture.name}.txt")

    def is_done(self, row: Row) -> bool:
        """With `existing="skip"`, whether the file is there."""
        file = self.file(row)
        return self.existing == "skip" and file is not None and file not in self._owners and file.exists()

    def add(self, result: Result) -> None:
        """Write the tags of one picture."""
        file = self.file(result.row)
        if file is None:
            self.fail(result.row, "it is no file of its own, so that no file of tags can stand beside it")
            return
        if self.stem and (owner := self._owners.setdefault(file, result.row.id)) != result.row.id:
            self.fail(result.row, f"{file.name} holds the tags of {owner} already")
            return
        if result.row.outside:
            self.fail(result.row, "it is outside the folder of its table, where nothing is written; see --image-dir")
            return
        tags = [_utf8(" ".join(name.split())) for name, _ in result.labels]
        try:
            old = _old_tags(file)
        except ValueError as error:
            self.fail(result.row, str(error))
            return
        if self.existing == "append":
            parts = [tag.strip() for tag in old.split(self.separator.strip() or self.separator)]
            tags = list(dict.fromkeys([*filter(None, parts), *tags]))
        with written_whole(file.parent) as folder:
            (folder / file.name).write_text(self.separator.join(tags), encoding="utf-8")

    def fail(self, row: Row, problem: str) -> None:
        """Note a picture that gets no file."""
        self.problems.append((row.id, problem))

    def flush(self) -> None:
        """Every file is written already."""

    def close(self) -> None:
        """Nothing is left to do."""


def _old_tags(file: Path) -> str:
    """What a file of tags holds; ValueError for what is no such file, such as a link to somebody's secrets."""
    if not os.path.lexists(file):
        return ""
    if problem := "it is a link" if file.is_symlink() else path_problem(str(file)):
        raise ValueError(f"{file.name} beside it stays as it is: {problem}")
    if file.stat().st_size > MOST_TAGS:
        raise ValueError(f"{file.name} beside it stays as it is: it has more than {MOST_TAGS >> 20} MB")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{file.name} beside it stays as it is: it is not UTF-8") from None


def results_table(results: Sequence[Result]) -> pa.Table:
    """Results as a table with the columns of `Parts`."""
    columns: dict[str, Any] = {
        # The name of a file need not be UTF-8, a table must be.
        "image": pa.array([_utf8(result.row.id) for result in results], pa.string()),
        "labels": pa.array([[_utf8(name) for name, _ in result.labels] for result in results], pa.list_(pa.string())),
        "label_scores": pa.array([[score for _, score in r.labels] for r in results], pa.list_(pa.float32())),
        "scores": pa.array([result.scores for result in results], pa.list_(pa.float32())),
    }
    if results and results[0].embedding is not None:
        embeddings = [result.embedding.ravel() for result in results if result.embedding is not None]
        columns["embedding"] = pa.array(embeddings, pa.list_(pa.float32()))
    return pa.table(columns)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _numbers(part: Path) -> Iterator[int]:
    """The numbers of the rows in a part. One that was not written to its end is removed: Ray writes in place."""
    try:
        with part.open("rb") as file:
            names = pq.read_table(file, columns=["image"])["image"].to_pylist()
    except pa.ArrowInvalid as error:
        logger.warning("%s was not written to its end; its pictures are labelled again: %s", part, error)
        part.unlink()
        return
    for name in names:
        yield Row(name, name).number


def _locked(folder: Path) -> FileLock:
    """A lock of an output, which a dead process does not hold."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / LOCK)
