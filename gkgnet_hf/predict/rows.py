"""What there is to label, row after row: files, folders, patterns, lists, tables, data sets and WebDataset shards.

Nothing is held but what comes next, so a million pictures take no more memory than ten.
"""

import os
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from datasets import Dataset
from datasets import Image as ImageFeature

from ..data.columns import find_image_column
from ..data.downloads import MAX_BYTES, fetch, fetch_all
from ..data.options import ReadOptions
from ..data.paths import Outside, files_below, is_address, path_problem, read_path
from ..data.pictures import READABLE_SUFFIXES, PictureFile
from ..data.places import Places
from ..data.readers.hub_datasets import is_saved, load_splits
from ..data.readers.tables import TABLES, read_table
from .scoring import find_images

SHARD_SUFFIX = ".tar"
STANDARD_INPUT = "-"
AT_ONCE = 64  # addresses that are fetched together
LONGEST_LINE = 1 << 16  # characters


@dataclass(frozen=True)
class Row:
    """One picture to label.

    Args:
        id: what it is called in the results: the path of its file as it was named, else its place in its source.
        image: as `open_picture` takes it.
        outside: whether a table names a file outside its folder, beside which nothing may be written.
    """

    id: str
    image: PictureFile
    outside: bool = False

    @property
    def number(self) -> int:
        """A number of 64 bits made from the id, always the same; it divides rows among processes and remembers them.

        Among a million pictures two have the same with a probability of 3e-8.
        """
        return int.from_bytes(blake2b(self.id.encode("utf-8", "backslashreplace"), digest_size=8).digest(), "little")


def read_rows(
    sources: Iterable[str | os.PathLike[str]],
    options: ReadOptions | None = None,
    split: str | None = None,
    lines: TextIO | None = None,
) -> Iterator[Row]:
    """The pictures of sources, each once.

    Args:
        sources: of any of these kinds.
            A picture file, or a folder: the pictures in it and in its folders.
            A pattern (`*`, `?`, `[...]`, `**`): the pictures that it matches.
            A table (CSV, TSV, Parquet, JSON lines, Excel): the pictures that it names; labels in it do not matter.
            A data set that `save_to_disk` wrote, or one of the Hub by its name.
            A WebDataset shard (.tar), or a pattern of them: the pictures in it.
            `-`: the paths of files, a line each, from standard input.
        options: of tables: `image_column`, `image_dir`, `image_suffix`, `encoding`; `allow_urls` fetches the pictures
            behind web addresses.
        split: of data sets; default, all.
        lines: what to read for `-`; default, standard input.

    Raises:
        FileNotFoundError: for a source that is not there.
        ValueError: for a source without pictures, or a table whose pictures cannot be told.

    >>> from io import StringIO
    >>> [row.id for row in read_rows(["-"], lines=StringIO("a.jpg\\nb c.jpg\\na.jpg\\n"))]
    ['a.jpg', 'b c.jpg']
    """
    names = [os.fspath(source) for source in sources]
    for name in names:  # before any work begins
        if not (name == STANDARD_INPUT or os.path.lexists(name) or _is_pattern(name) or _may_be_on_hub(name)):
            raise FileNotFoundError(f"No file or folder matches {name}")
    options = options or ReadOptions()
    rows = _each_once(row for name in names for row in _rows_of(name, options, split, lines))
    return _fetched(rows) if options.allow_urls else rows


def _fetched(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows with the content behind their addresses; one that cannot be fetched stays as it is."""
    rows = iter(rows)
    while chunk := list(islice(rows, AT_ONCE)):
        addresses = [row.image for row in chunk if isinstance(row.image, str) and is_address(row.image)]
        found = fetch_all([address for address in addresses if path_problem(address, allow_urls=True) is None], fetch)
        for row in chunk:
            content = found.get(row.image) if isinstance(row.image, str) else None
            yield Row(row.id, content) if isinstance(content, bytes) else row


def _each_once(rows: Iterable[Row]) -> Iterator[Row]:
    seen: set[int] = set()
    for row in rows:
        if row.number not in seen:
            seen.add(row.number)
            yield row


def _is_pattern(source: str) -> bool:
    return any(char in source for char in "*?[")


def _may_be_on_hub(source: str) -> bool:
    path = Path(source)
    is_file_name = path.suffix.lower() in (*TABLES, *READABLE_SUFFIXES, SHARD_SUFFIX)
    return (
        source.count("/") == 1 and not source.startswith((".", "~", "/")) and not (is_file_name or path.parent.exists())
    )


def _rows_of(source: str, options: ReadOptions, split: str | None, lines: TextIO | None) -> Iterator[Row]:
    path = Path(source)
    suffix = path.suffix.lower()
    if source == STANDARD_INPUT:
        paths = (line.rstrip("\r\n") for line in _bounded(lines or _standard_input()))
        yield from (Row(path, path) for path in paths if path)
    elif path.is_dir() and is_saved(path):
        yield from _rows_of_dataset(source, split)
    elif path.is_dir():
        yield from _rows_of_folder(path)
    elif path.is_file() and suffix == SHARD_SUFFIX:
        yield from _rows_of_shard(path)
    elif path.is_file() and suffix in TABLES:
        yield from _rows_of_table(path, options)
    elif suffix == SHARD_SUFFIX and _is_pattern(source):
        shards = sorted(Path().glob(source)) if not path.is_absolute() else sorted(Path("/").glob(source[1:]))
        if not shards:
            raise FileNotFoundError(f"No file matches {source}")
        for shard in shards:
            yield from _rows_of_shard(shard)
    elif not os.path.lexists(path) and _may_be_on_hub(source) and not _is_pattern(source):
        yield from _rows_of_dataset(source, split)
    else:
        yield from (Row(str(file), str(file)) for file in find_images(source))


def _standard_input() -> TextIO:
    """Standard input, whose paths need not be UTF-8: they are decoded as Python decodes the names of files."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin


def _bounded(lines: TextIO) -> Iterator[str]:
    """Lines, of which none may fill the memory."""
    while line := lines.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise ValueError(f"A line of standard input must be the path of a file; one has {len(line):,} characters")
        yield line


def _rows_of_folder(folder: Path) -> Iterator[Row]:
    found = False
    outside = Outside([folder])
    for file in files_below(folder):
        if file.suffix.lower() in READABLE_SUFFIXES:
            found = True
            outside.warn(str(file))
            yield Row(str(file), str(file))
    if not found:
        raise ValueError(f"No image in {folder}: nothing in it ends in .jpg, .png or another suffix of images")


def _rows_of_table(path: Path, options: ReadOptions) -> Iterator[Row]:
    table = read_table(path, options)
    column = find_image_column(table.features, table.data.table, options.image_column)
    if isinstance(table.features[column], ImageFeature):
        yield from _rows_of_images(table, column, path.name)
        return
    cells = table[column][:]
    places = Places(path.parent, options.image_dir, options.image_suffix)
    outside = Outside([path.parent, *([] if options.image_dir is None else [options.image_dir])])
    for cell, file in zip(cells, places.find(cells, column), strict=True):
        if file and not is_address(file):
            outside.warn(file)
        # The folder counts: what stands beside a link is written where the link is.
        is_outside = bool(file and not is_address(file) and outside(os.path.join(os.path.dirname(file), ".")))
        yield Row(str(file or cell), str(file or cell), is_outside)


def _rows_of_dataset(source: str, split: str | None) -> Iterator[Row]:
    splits: dict[str, Dataset] = load_splits(source)
    if split is not None and split not in splits:
        raise ValueError(f"{source} has no split {split}, it has {', '.join(splits)}")
    for name, dataset in splits.items():
        if split in (None, name):
            column = find_image_column(dataset.features, None, None)
            yield from _rows_of_images(dataset, column, f"{source}/{name}")


def _rows_of_images(dataset: Dataset, column: str, name: str) -> Iterator[Row]:
    images: Any = dataset.with_format(None).select_columns(column).cast_column(column, ImageFeature(decode=False))
    for number, row in enumerate(images):
        yield Row(f"{name}/{number}", row[column] or {"path": None, "bytes": None})


def _rows_of_shard(shard: Path) -> Iterator[Row]:
    """The pictures in a shard: its members, which are read one after another and never unpacked."""
    try:
        with tarfile.open(read_path(str(shard)), "r|") as members:
            for member in members:
                if member.isfile() and Path(member.name).suffix.lower() in READABLE_SUFFIXES:
                    content = members.extractfile(member)
                    assert content is not None
                    if member.issparse():  # a few bytes that stand for gigabytes
                        raise ValueError(f"{shard}: {member.name} is a sparse file, of which most is left out")
                    if member.size > MAX_BYTES:
                        raise ValueError(f"{shard}: {member.name} has more than {MAX_BYTES >> 20} MB")
                    yield Row(f"{shard}/{member.name}", content.read())
    except tarfile.TarError as error:
        raise ValueError(f"{shard} cannot be read as a WebDataset shard: {error}") from error
