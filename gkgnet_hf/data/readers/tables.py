"""Tables: CSV, TSV, JSON Lines, Parquet and Excel, alone, in a folder, or one for each split.

Roboflow's `_classes.csv`, Kaggle's `train.csv`, CheXpert, ChestX-ray14 and Planet are such tables: what their columns
and cells mean is told by `columns` and `cells`.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from datasets import Dataset, Value
from datasets.fingerprint import generate_random_fingerprint

from ..annotations import Splits, understand_columns, understand_splits
from ..columns import NoLabelsError, find_image_column, plain
from ..options import ReadOptions
from ..paths import is_address, is_file, read_path
from ..picture_files import with_column
from ..places import HIDDEN, Places, looks_like_picture
from ..splits import SYNONYMS, split_kind

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".xlsx")
DELIMITERS = ",;\t|"
NO_TABLE = re.compile(r"submission|list_eval_partition|-\d{5}(-of-\d{5})?$", re.IGNORECASE)
NAME_TABLE = re.compile(r"label|class|categor|attribute|name|concept|description", re.IGNORECASE)
TABLE_FOLDERS = frozenset({"annotations", "annotation", "labels", "metadata", "meta", "csv", "tables"})
HEAD = 100_000  # bytes that show how a text file is written
PEEK = 200  # rows that show what a table is
MOST_ROWS = 30_000_000  # of a Parquet file, of which a megabyte can stand for more than a memory holds
MOST_READ = 1 << 30  # bytes that it may become in memory
MOST_GROWTH = 20  # bytes in memory for each of the file, where that is more
MOST_NESTED = 1000  # brackets; at some more pyarrow crashes
STEPS = np.zeros(256, dtype=np.int8)
STEPS[[*b"[{"]], STEPS[[*b"]}"]] = 1, -1


def read_tables(path: Path, options: ReadOptions) -> Splits | None:
    """A table, or the tables of a folder: one, one named after each split, or one in a folder of each split."""
    if path.is_file():
        tables = {split_name(path.stem) or "": path} if path.suffix.lower() in TABLES else {}
    else:
        tables = find_tables(path, options)
    if not tables:
        return None
    rows = {split: _in_folder(table, path, options) for split, table in tables.items()}
    lookup = _names_beside(tables.values())
    return understand_splits(rows, replace(options, lookup=lookup), path.parent if path.is_file() else path)


def find_tables(folder: Path, options: ReadOptions) -> dict[str, Path]:
    """The tables of labels in a folder, by their split; none if there are none.

    Raises:
        ValueError: if several may be meant.
    """
    here = _tables_in(folder)
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not HIDDEN.search(path.name))
    inside = {path: tables for path in folders if (tables := _tables_in(path))}
    found = _choose(folder, here, options) if here else {}
    for path, tables in inside.items() if not here else ():
        if split := split_name(path.name):
            (table,) = _choose(path, tables, options, one=True).values()
            if split in found:
                raise ValueError(f"{folder} has several tables of the split {split}: {found[split]}, {table}; name one")
            found[split] = table
    if not found:
        named = [table for path, tables in inside.items() if path.name.lower() in TABLE_FOLDERS for table in tables]
        return _choose(folder, named, options) if named else {}
    read = {table.parent for table in found.values()}
    for table in (table for path, tables in inside.items() if path not in read for table in tables):
        options.assume(f"warning: {table.relative_to(folder)} is not read")
    return found


def split_name(name: str) -> str | None:
    """The split that a file or folder is named after: its own word for it, else the kind.

    >>> split_name("valid"), split_name("train_labels"), split_name("birds")
    ('valid', 'train', None)
    """
    words = {word for synonyms in SYNONYMS.values() for word in synonyms}
    return name.lower() if name.lower() in words else split_kind(name)


def _tables_in(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in TABLES and is_file(file))
    return [file for file in files if not HIDDEN.search(file.name) and not NO_TABLE.search(file.stem)]


def _choose(folder: Path, tables: list[Path], options: ReadOptions, one: bool = False) -> dict[str, Path]:
    """The tables that hold pictures and labels, by their splits."""
    reasons: dict[Path, str] = {}
    if len(tables) > 1:
        for table in tables:
            if reason := _why_not(table, folder, options):
                reasons[table] = reason
        usable = [table for table in tables if table not in reasons]
        if not usable:
            listed = "; ".join(f"{table.name}: {reason}" for table, reason in reasons.items())
            raise ValueError(f"No table in {folder} can be read: {listed}")
        for table, reason in reasons.items():
            if _names_in(table) is None:
                options.assume(f"{table.name} is not read: {reason}")
        tables = usable
    splits = [split_name(table.stem) for table in tables]
    if len(tables) == 1:
        return {splits[0] or "": tables[0]}
    if one or None in splits or len(set(map(split_kind, map(str, splits)))) < len(splits):
        raise ValueError(
            f"{folder} has several tables of pictures and labels: {', '.join(table.name for table in tables)}; name "
            "the one to read"
        )
    return {str(split): table for split, table in zip(splits, tables, strict=True)}


def _why_not(table: Path, root: Path, options: ReadOptions) -> str | None:
    """Why a table is none of pictures and labels; None if it is one, or it is not clear how to read it."""
    try:
        head = read_table(table, options, PEEK)
        column = find_image_column(head.features, head.data.table, options.image_column)
        if _is_text(head.features[column]):
            Places(root, options.image_dir, options.image_suffix).find(head[column][:], column, split_kind(table.stem))
        understand_columns(head, replace(options, assumptions=[]))
    except NoLabelsError as error:
        return str(error)
    except ValueError as error:
        return str(error) if "None of the pictures" in str(error) or "holds the images" in str(error) else None
    return None


def _in_folder(table: Path, source: Path, options: ReadOptions) -> Dataset:
    """A table whose paths are relative to the folder of the source."""
    dataset = read_table(table, options)
    root = source.parent if source.is_file() else source
    if table.parent == root:
        return dataset
    column = find_image_column(dataset.features, dataset.data.table, options.image_column)
    if not _is_text(dataset.features[column]):
        return dataset
    prefix = table.parent.relative_to(root).as_posix()
    cells = [f"{prefix}/{str(cell).strip()}" if cell and not is_address(cell) else cell for cell in dataset[column][:]]
    return with_column(dataset, column, pa.array(cells, pa.string()), Value("string"))


def _names_beside(tables: Iterable[Path]) -> dict[str, str] | None:
    """Id or code → name, from a table of names beside the tables, as iMet's labels.csv."""
    tables = list(tables)
    found = (_names_in(file) for file in _tables_in(tables[0].parent) if file not in tables)
    return next((names for names in found if names is not None), None)


def _names_in(file: Path) -> dict[str, str] | None:
    if not NAME_TABLE.search(file.stem) or file.suffix.lower() not in (".csv", ".tsv"):
        return None
    rows = list(csv.reader(io.StringIO(_text(file, None)), delimiter="\t" if file.suffix == ".tsv" else ","))
    rows = [row for row in rows if len(row) >= 2]
    if rows and plain(rows[0][0]).endswith(("id", "ids", "code", "index", "label", "mid")):
        rows = rows[1:]
    lookup = {row[0].strip(): row[1].strip() for row in rows}
    is_one_to_one = len(lookup) == len(rows) == len(set(lookup.values()))
    return lookup if rows and is_one_to_one and not any(map(looks_like_picture, lookup)) else None


def read_table(path: Path, options: ReadOptions, num_rows: int | None = None) -> Dataset:
    """A table as it is, the cells of text files as text.

    Args:
        path: the file.
        options: that name its encoding.
        num_rows: read so many at most.

    Raises:
        ValueError: if it cannot be read as a table, or has no rows.
        ImportError: for .xlsx without openpyxl.
    """
    suffix = path.suffix.lower()
    try:
        read_path(str(path))  # no pipe, which never ends
        if suffix in (".csv", ".tsv"):
            dataset = in_memory(_without_empty_rows(read_csv(path, options, num_rows)))
        elif suffix in (".jsonl", ".ndjson"):
            dataset = _read_json_lines(path)
        elif suffix == ".parquet":
            table = _read_parquet(path)
            fields = {field.name: field.type for field in table.schema if pa.types.is_dictionary(field.type)}
            for name, kind in fields.items():
                place = table.column_names.index(name)
                table = table.set_column(place, name, table[name].cast(kind.value_type))
            dataset = in_memory(table)
        else:
            dataset = _read_excel(path)
        if not len(dataset):
            raise ValueError("it has no rows")
    except (ValueError, pa.ArrowException, OverflowError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    return dataset if num_rows is None or len(dataset) <= num_rows else dataset.select(range(num_rows))


def read_csv(path: Path, options: ReadOptions, num_rows: int | None = None) -> pa.Table:
    """A table of text: delimiter, encoding and header are found out."""
    text = _text(path, options.encoding)
    if marked := re.match(r"sep=(.)\n", text[:10]):
        text = text[marked.end() :]
    if not text.strip():
        raise ValueError("it is empty")
    head = text[:HEAD]
    delimiter = marked.group(1) if marked else "\t" if path.suffix.lower() == ".tsv" else find_delimiter(head)
    header = next(csv.reader(io.StringIO(head), delimiter=delimiter, skipinitialspace=True))
    has_header = not any(map(looks_like_picture, header))
    names = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(header)]
    if not has_header:
        pictures = [i for i, cell in enumerate(header) if looks_like_picture(cell)]
        rest = "labels" if len(header) == 2 else None
        names = ["image" if i == pictures[0] else rest or f"column {i + 1}" for i in range(len(header))]
        options.assume(f"{path.name} has no header: its first line names a picture")
    if len(set(names)) < len(names):
        raise ValueError(f"column {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    if num_rows is not None or re.search(rf'(^|{re.escape(delimiter)}) +"', head, re.MULTILINE):
        return _read_rows(text, delimiter, names, has_header, num_rows)
    data = text.encode()
    try:
        return pa.csv.read_csv(
            pa.BufferReader(data),
            read_options=pa.csv.ReadOptions(
                column_names=names, skip_rows=int(has_header), block_size=max(1 << 24, len(data) // 64)
            ),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        hint = ""
        if "Expected" in str(error):
            hint = f"; a cell with {delimiter!r} in it must be quoted, and the first line must name the columns"
        raise ValueError(f"{str(error).removeprefix('CSV parse error: ')}{hint}") from error


def _without_empty_rows(table: pa.Table) -> pa.Table:
    """The same without the rows that have nothing but blanks, which spreadsheets leave at the end."""
    empty = np.arange(len(table))
    for column in table.columns:
        if not len(empty):
            return table
        empty = empty[[not cell.strip() for cell in column.take(empty).to_pylist()]]
    return table.filter(np.isin(np.arange(len(table)), empty, invert=True))


def _read_rows(text: str, delimiter: str, names: list[str], has_header: bool, num_rows: int | None) -> pa.Table:
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    rows: list[list[str]] = []
    for number, row in enumerate(reader):
        if num_rows is not None and len(rows) >= num_rows:
            break
        if not row or (number == 0 and has_header):
            continue
        if len(row) != len(names):
            raise ValueError(f"Row #{number + 1}: Expected {len(names)} columns, got {len(row)}: {delimiter.join(row)}")
        rows.append(row)
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)})


def find_delimiter(head: str) -> str:
    """What stands between the cells of a text: it is in the first line, and as often in the others.

    >>> find_delimiter("file;labels\\n1.png;cat,dog\\n")
    ';'
    """
    lines = [line for line in head.splitlines()[:20] if line.strip()]
    present = [delimiter for delimiter in DELIMITERS if delimiter in lines[0]]

    def steadiness(delimiter: str) -> tuple[float, int]:
        counts = [len(row) for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True)]
        return sum(count == counts[0] for count in counts) / len(counts), counts[0]

    return max(present, key=steadiness, default=",")


def _text(path: Path, encoding: str | None) -> str:
    """The text of a file in UTF-8, in UTF-16 or UTF-32 with its mark, or in the encoding given."""
    data = path.read_bytes()
    marks = {
        codecs.BOM_UTF8: "utf-8-sig",
        codecs.BOM_UTF32_LE: "utf-32",
        codecs.BOM_UTF16_LE: "utf-16",
        codecs.BOM_UTF16_BE: "utf-16",
    }
    found = next((name for mark, name in marks.items() if data.startswith(mark)), None)
    try:
        return data.decode(encoding or found or "utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except LookupError as error:
        raise ValueError(f"there is no encoding {encoding!r}") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        around = data[max(0, error.start - 15) : error.start + 15].split(b"\n")
        shown_text = max(around, key=len).decode("cp1252", errors="replace").strip()
        raise ValueError(
            f"it is not {encoding or found or 'UTF-8'} text (line {line}): pass --encoding, as --encoding cp1252 for a "
            f"file of Excel on Windows, which then reads {shown_text!r} there"
        ) from error


def is_nested_too_deeply(file: Path) -> bool:
    """Whether more brackets of a JSON file are open at once than pyarrow can read; those in texts count too."""
    with file.open("rb") as opened:
        if _most_open(iter(partial(opened.read, 1 << 24), b"")) <= MOST_NESTED:
            return False
        opened.seek(0)  # in JSON Lines each line is a value of its own
        return file.suffix == ".json" or any(_most_open([line]) > MOST_NESTED for line in opened)


def _most_open(chunks: Iterable[bytes]) -> int:
    depth = most = 0
    for chunk in chunks:
        open_now = np.cumsum(STEPS[np.frombuffer(chunk, dtype=np.uint8)], dtype=np.int64)
        most, depth = max(most, depth + int(open_now.max())), depth + int(open_now[-1])
    return most


def _read_parquet(path: Path) -> pa.Table:
    """The table, batch by batch, so that one that grows too large is noticed."""
    file = pa.parquet.ParquetFile(path)
    if file.metadata.num_rows > MOST_ROWS:
        raise ValueError(f"it has {file.metadata.num_rows:,} rows, at most {MOST_ROWS:,} are read")
    room, batches = max(MOST_READ, MOST_GROWTH * path.stat().st_size), []
    for batch in file.iter_batches(10_000):
        room -= batch.nbytes
        if room < 0:
            raise ValueError(f"it grows to more than {MOST_GROWTH} times its size")
        batches.append(batch)
    return pa.Table.from_batches(batches, file.schema_arrow)


def _read_json_lines(path: Path) -> Dataset:
    try:
        if is_nested_too_deeply(path):
            raise pa.ArrowInvalid("nested too deeply")
        return in_memory(pa.json.read_json(path))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"line {number} is no JSON: {error}") from None
        return rows_to_dataset(rows)


def rows_to_dataset(rows: Sequence[Any]) -> Dataset:
    """A dataset of JSON objects; columns whose values have several types become text."""
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("its entries are not objects with the names of columns")
    columns: dict[str, pa.Array] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            columns[str(name)] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
            columns[str(name)] = pa.array(texts, pa.string())
    return in_memory(pa.table(columns))


def _read_excel(path: Path) -> Dataset:
    import pandas as pd

    try:
        frame = pd.read_excel(path, dtype=str, keep_default_na=False)
    except ImportError as error:
        raise ImportError(
            f"Reading {path.name} needs the package openpyxl: pip install openpyxl, or save the sheet as CSV UTF-8"
        ) from error
    frame.columns = [str(name).strip() for name in frame.columns]
    return in_memory(pa.table({name: pa.array([str(v) for v in frame[name]], pa.string()) for name in frame.columns}))


def in_memory(table: pa.Table) -> Dataset:
    """A table as a dataset; the fingerprint spares a hash of its schema: seconds for thousands of columns."""
    return Dataset(table, fingerprint=generate_random_fingerprint())


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and "string" in feature.dtype
