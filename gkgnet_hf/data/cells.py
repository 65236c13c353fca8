"""What the cells of label columns mean: answers, names, ids, lists, vectors and detected objects."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, LargeList, List, Value
from numpy.typing import NDArray

from .label_text import Separation, find_separation, is_literal, look, parse_literal, plain_text, shown_cell, spelling
from .labels import NEGATIVE, POSITIVE, UNKNOWN, Labels
from .words import counted, shown

Meaning = Literal["negative", "unknown", "positive"]
MEANINGS: dict[str, int] = {"negative": NEGATIVE, "unknown": UNKNOWN, "positive": POSITIVE}

YES = frozenset({"1", "1.0", "yes", "y", "true", "t", "x", "✓", "✔", "positive", "present"})
NO = frozenset({"0", "0.0", "no", "n", "false", "f", "negative", "absent"})
NOT_KNOWN = frozenset({"?", "unknown", "uncertain"})
MINUS_ONE = frozenset({"-1", "-1.0"})
BLANK = frozenset({"", "nan", "null", "<na>"})
NUMBERS = frozenset({"1", "1.0", "0", "0.0"}) | MINUS_ONE
ANSWERS = YES | NO | NOT_KNOWN | MINUS_ONE

CATEGORY_KEYS = (
    *("category", "categories", "category_id", "category_ids", "label", "labels", "class", "classes", "class_id"),
    *("name", "names"),
)
SUSPICIOUS_NAMES = frozenset({"nan", "none", "null", "n/a", "na", "-", "?", "unknown"})


@dataclass
class CellOptions:
    """What a user may say about cells; None leaves it to be found out.

    Args:
        separator: between the names in one text cell; an empty string says that a cell is one name.
        blank: what an empty cell in a column of answers means.
        minus_one: what −1 in a column of answers means.
        none_label: a name that says that an image has none of the labels, as "No Finding".
        ignore_case: whether "Cat" and "cat" are one label.
    """

    separator: str | None = None
    blank: Meaning | None = None
    minus_one: Meaning | None = None
    none_label: str | None = None
    ignore_case: bool = False
    lookup: Mapping[str, str] | None = None  # the name of each id or code, where another file has them
    assumptions: list[str] = field(default_factory=list)  # what was assumed, a sentence each

    used: set[str] = field(default_factory=set)  # options that changed anything

    values: Mapping[str, int] | None = None  # what each answer means, where an earlier batch has shown it

    def __post_init__(self) -> None:
        for option, meaning in (("--blank", self.blank), ("--minus-one", self.minus_one)):
            if meaning is not None and meaning not in MEANINGS:
                raise ValueError(f"{option} must be {', '.join(MEANINGS)}, got {meaning!r}")

    def separation(self, name: str, texts: Sequence[str], counts: Sequence[int]) -> Separation:
        """What divides the cells of a column, given or found."""
        if self.separator is not None:
            separation = Separation(self.separator)
            if not self.separator or any(len(separation(text)) > 1 for text in texts):
                self.used.add("separator")
            return separation
        return find_separation(name, texts, counts, self.assume)

    def assume(self, sentence: str) -> None:
        """Note what was assumed, once; names from the data are in it."""
        sentence = shown(sentence)
        if sentence not in self.assumptions:
            self.assumptions.append(sentence)


# Answers


def normal(value: Any) -> str:
    """A cell as the sets of answers write it.

    >>> normal(" Yes "), normal(True), normal(None), normal(1.0)
    ('yes', 'true', '', '1.0')
    """
    return "" if value is None else str(value).strip().casefold()


def whole_text(value: Any) -> str:
    """A name or id as text, without the decimals of whole numbers.

    >>> whole_text(" cat "), whole_text(3.0)
    ('cat', '3')
    """
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def is_blank(value: Any) -> bool:
    """Whether a cell says nothing."""
    return normal(value) in BLANK


def answer_share(counts: Mapping[str, int]) -> float:
    """The share of the cells with content that are answers: numbers, or where there are none words, if most cells are.

    Args:
        counts: cell, as `normal` writes it → how often it stands there.
    """
    total = sum(count for cell, count in counts.items() if cell not in BLANK)
    if not total:
        return 0.0
    if counts.keys().isdisjoint(NUMBERS):
        share = sum(count for cell, count in counts.items() if cell in ANSWERS) / total
        return share if share >= 0.8 else 0.0
    return sum(count for cell, count in counts.items() if cell in NUMBERS | NOT_KNOWN) / total


def cell_counts(column: pa.ChunkedArray) -> Counter[str]:
    """How often each cell stands in a column, as `normal` writes it."""
    counts: Counter[str] = Counter()
    for entry in pc.value_counts(column).to_pylist():
        counts[normal(entry["values"])] += entry["counts"]
    return counts


def answer_values(seen: Iterable[str], options: CellOptions) -> dict[str, int]:
    """What each answer means, told from all answers of a table.

    −1 means negative where nothing else says no, else unknown; an empty cell likewise.

    Raises:
        ValueError: if no cell says yes, or none says no.

    >>> answer_values({"1", "-1"}, CellOptions())["-1"], answer_values({"1", "0", "-1"}, CellOptions())["-1"]
    (0, -1)
    """
    if options.values is not None:
        return dict(options.values)
    strange = sorted(set(seen) - ANSWERS - BLANK)
    seen = set(seen) - set(strange)
    values = dict.fromkeys(YES, POSITIVE) | dict.fromkeys(NO, NEGATIVE) | dict.fromkeys(NOT_KNOWN, UNKNOWN)
    for cells, given, cell_shown, name in (
        (MINUS_ONE, options.minus_one, "−1", "minus_one"),
        (BLANK, options.blank, "an empty cell", "blank"),
    ):
        option = f"--{name.replace('_', '-')}"
        says_no = any(values.get(cell) == NEGATIVE for cell in seen)
        meaning = given or ("unknown" if says_no else "negative")
        values |= dict.fromkeys(cells, MEANINGS[meaning])
        if seen & cells:
            options.used.add(name)
            why = "as asked" if given else "other cells say no" if says_no else "nothing else says no"
            options.assume(f"{cell_shown} means {meaning} ({why}; {option} changes it)")
    present = {values[cell] for cell in seen if cell in values}
    if not present & {POSITIVE, NEGATIVE}:
        shown = f": they hold {', '.join(map(repr, strange[:3]))}" if strange else ""
        raise ValueError(f"no cell of the label columns says yes or no{shown}; write 1 and 0")
    for wanted, word in ((POSITIVE, "yes"), (NEGATIVE, "no")):
        if wanted not in present:
            shown = ", ".join(sorted(map(repr, seen))[:5])
            hint = f"write {int(word == 'yes')} there, or name other columns with --label-column"
            hint = "if empty cells mean no, pass --blank negative" if "" in seen and word == "no" else hint
            raise ValueError(f"no cell of the label columns says {word}: they hold {shown}; {hint}")
    return values


def read_answers(columns: Mapping[str, pa.ChunkedArray], options: CellOptions) -> Labels:
    """Labels of a table with one column of answers for each label.

    Args:
        columns: label name → its column, all of N cells.

    Raises:
        ValueError: as `answer_values`.
    """
    names = list(columns)
    encoded = [column.combine_chunks() for column in columns.values()]
    encoded = [c if pa.types.is_dictionary(c.type) else pc.dictionary_encode(c, "encode") for c in encoded]
    cells = [[normal(cell) for cell in column.dictionary.to_pylist()] for column in encoded]
    values = answer_values({cell for column in cells for cell in column}, options)
    num_rows = len(encoded[0])
    kinds = [np.array([values.get(cell, 2) for cell in _of_one_kind(column)], dtype=np.int8) for column in cells]
    total: Counter[int] = Counter()
    for column, kind in zip(encoded, kinds, strict=True):
        present, counts = np.unique(kind[np.asarray(column.indices)], return_counts=True)
        total.update(dict(zip(present.tolist(), counts.tolist(), strict=True)))
    rest = UNKNOWN if total[UNKNOWN] > total[NEGATIVE] else NEGATIVE
    rows, ids, answers = [], [], []
    problems: dict[int, str] = {}
    known = np.zeros(num_rows, dtype=bool)
    for label, (column, kind) in enumerate(zip(encoded, kinds, strict=True)):
        of_row = kind[np.asarray(column.indices)]
        known |= of_row >= 0
        for row in np.flatnonzero(of_row == 2).tolist():
            cell = column.dictionary[column.indices[row].as_py()].as_py()
            problems.setdefault(row, f"label {names[label]!r} is {cell!r}, expected 0, 1, -1, empty, yes or no")
        (said,) = np.nonzero((of_row != rest) & (of_row != 2))
        rows.append(said)
        ids.append(np.full(len(said), label))
        answers.append(of_row[said])
    return Labels.from_cells(
        num_rows,
        names,
        np.concatenate(rows),
        np.concatenate(ids),
        np.concatenate(answers),
        rest=rest,
        silent=~known,
        problems=problems,
    )


def _of_one_kind(cells: list[str]) -> list[str]:
    """The different cells of a column; beside numbers, words such as yes and x are no answers."""
    if NUMBERS.isdisjoint(cells):
        return cells
    return [cell if cell in NUMBERS | NOT_KNOWN | BLANK else "not an answer" for cell in cells]


# Lists


@dataclass
class Lists:
    """What N cells list: flat values, the row of each, and rows that say nothing."""

    num_rows: int
    rows: NDArray[np.int64]
    values: list[Any]
    silent: NDArray[np.bool_]
    problems: dict[int, str] = field(default_factory=dict)
    answers: NDArray[np.int8] | None = None  # (len(values),) where cells say yes and no by name


def read_labels_column(
    name: str, column: pa.ChunkedArray, feature: Any, names: Sequence[str] | None, options: CellOptions
) -> tuple[Labels, bool]:
    """Labels of one column: a list of names, ids or ClassLabel, a vector, text, one name or id, or detected objects.

    Args:
        name: of the column.
        column: N cells.
        feature: of the column.
        names: what ids and vectors without names are called, in this order.

    Returns:
        The labels, and whether their names are the data's own rather than derived from its cells.

    Raises:
        ValueError: if the cells cannot be understood.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    objects = object_features(feature)
    if objects is not None:
        return _read_objects(name, column, feature, objects, names, options)
    if isinstance(feature, dict):
        flat = {key: pc.struct_field(column, key) for key in feature}
        if all(dtype(feature[key]) and answer_share(cell_counts(values)) == 1 for key, values in flat.items()):
            return read_answers(flat, options), True
        raise ValueError(f"Column {name!r} is {feature}, which cannot be read as labels; name another --label-column")
    if isinstance(feature, (List, LargeList)):
        if isinstance(feature.feature, (List, LargeList, dict)):
            raise ValueError(
                f"Column {name!r} is {feature}, which cannot be read as labels; name another --label-column"
            )
        lists = _typed_lists(column)
        return _read_lists(name, lists, feature.feature, getattr(feature, "length", -1), names, options)
    kind = dtype(feature)
    if kind == "string":
        encoded = pc.dictionary_encode(column.combine_chunks(), "encode")
        cells = encoded.dictionary.to_pylist()
        counts = np.bincount(np.asarray(encoded.indices), minlength=len(cells))
        lists = _text_lists(name, cells, counts.tolist(), options)
        labels, declared = _read_lists(name, lists, None, -1, names, options)
        return labels.take(np.asarray(encoded.indices)), declared
    if not isinstance(feature, ClassLabel) and kind not in ("int", "float", "bool"):
        raise ValueError(f"Column {name!r} is {feature}, which cannot be read as labels; name another --label-column")
    values = column.to_pylist()
    silent = np.array([value is None or value != value for value in values], dtype=bool)
    rows = np.flatnonzero(~silent)
    said = [values[row] for row in rows.tolist()]
    lists = Lists(len(values), rows, [int(v) if isinstance(v, float) and v.is_integer() else v for v in said], silent)
    return _read_lists(name, lists, feature if isinstance(feature, ClassLabel) else None, -1, names, options)


def _typed_lists(column: pa.ChunkedArray) -> Lists:
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    silent = pc.is_null(array).to_numpy(zero_copy_only=False)
    return Lists(len(array), np.repeat(np.arange(len(array)), counts), array.flatten().to_pylist(), silent)


def _read_lists(
    name: str, lists: Lists, element: Any, length: int, names: Sequence[str] | None, options: CellOptions
) -> tuple[Labels, bool]:
    if isinstance(element, ClassLabel):
        return _from_ids(lists, lists.values, list(element.names)), True
    if lists.answers is not None:
        return _from_names(name, lists, options, None), True
    if dtype(element) == "float" and length < 0 and _are_whole(set(lists.values)):
        lists.values, element = [int(value) for value in lists.values], None
    width = _vector_width(lists, element, length)
    if width:
        return _from_vectors(name, lists, width, names, options), False
    if all(isinstance(value, str) for value in lists.values):
        integers = all(re.fullmatch(r"0|-1|[1-9]\d*", value) for value in lists.values) and bool(lists.values)
        if options.lookup and not {*options.lookup, *options.lookup.values()}.isdisjoint(lists.values):
            return _from_lookup(lists, options.lookup), True
        if not integers:
            return _from_names(name, lists, options, names), False
        lists.values = [int(value) for value in lists.values]
    _take_minus_one(name, lists, options)
    strange = next((v for v in lists.values if isinstance(v, bool) or not isinstance(v, int) or v < 0), None)
    if strange is not None:
        raise ValueError(
            f"Column {name!r} holds {strange!r} where a label name or an id from 0 is expected; name another "
            "--label-column"
        )
    if options.lookup and any(str(value) in options.lookup for value in lists.values):
        lists.values = [str(value) for value in lists.values]
        return _from_lookup(lists, options.lookup), True
    if not lists.values:
        raise ValueError(f"Column {name!r} has no label in any row")
    if names is not None and not any(str(value) in set(names) for value in lists.values):
        return _from_ids(lists, lists.values, list(names)), False
    seen, largest = set(lists.values), max(lists.values)
    if names is None and largest + 1 <= 10 * len(seen) + 100:
        options.assume(
            f"column {name!r} holds ids: {counted(largest + 1, 'label')} named 0 to {largest} (--labels names them)"
        )
        return _from_ids(lists, lists.values, [str(i) for i in range(largest + 1)]), False
    if names is None:
        options.assume(f"column {name!r} holds {len(seen)} numbers up to {largest}: each is read as a name")
    order = [str(i) for i in sorted(seen)]
    position = {int(value): i for i, value in enumerate(order)}
    return _from_ids(lists, [position[value] for value in lists.values], order), False


def _are_whole(values: set[Any]) -> bool:
    """Whether floats are ids, as pandas has them: all are whole, and not all of them are answers."""
    whole = all(value is not None and float(value).is_integer() for value in values)
    return whole and not {normal(value) for value in values} <= NUMBERS


def _take_minus_one(name: str, lists: Lists, options: CellOptions) -> None:
    """−1 alone in a row of ids is no label: nothing is known of its image, or it has none of them."""
    alone = np.bincount(lists.rows, minlength=lists.num_rows) == 1
    minus = np.array([value == -1 for value in lists.values], dtype=bool) & alone[lists.rows]
    if not minus.any():
        return
    meaning = options.minus_one or "unknown"
    if meaning == "positive":
        raise ValueError(f"--minus-one positive: column {name!r} holds ids, and −1 is none")
    options.used.add("minus_one")
    if meaning == "unknown":
        lists.silent[lists.rows[minus]] = True
    said = "an image of which nothing is known" if meaning == "unknown" else "an image without any label"
    options.assume(f"−1 in column {name!r} is {said} (--minus-one changes it)")
    lists.values = [value for value, is_minus in zip(lists.values, minus.tolist(), strict=True) if not is_minus]
    lists.rows = lists.rows[~minus]


def _vector_width(lists: Lists, element: Any, length: int) -> int:
    """The length of the vectors that lists are; 0 if they are sets of names or ids.

    Lists are vectors where half of those of several values are equally long and hold nothing but 0, 1, −1 and empty
    values, unless all may be sets of ids, as `[0, 1]` in every row. Lists of another length are wrong then.
    """
    counts = np.bincount(lists.rows, minlength=lists.num_rows)
    said = counts[~lists.silent]
    if length == 0 or not len(said) or not lists.values:
        return 0
    kind = dtype(element)
    if kind in ("float", "bool"):
        return int(max(length, said.max()))
    texts = all(isinstance(value, str) for value in lists.values)
    answers = NUMBERS | BLANK | (set() if texts else {"true", "false"})
    is_answer = {value: normal(value) in answers for value in set(lists.values)}
    if length > 0:
        return length if all(is_answer.values()) else 0
    others = np.array([not is_answer[value] for value in lists.values])
    of_answers = np.bincount(lists.rows, others, lists.num_rows) == 0
    width, number = (Counter(counts[of_answers & (counts > 1)].tolist()).most_common(1) or [(0, 0)])[0]
    if not number or 2 * number < (counts > 1).sum():
        return 0
    if width > 2 or (kind == "" and any(isinstance(value, (float, bool)) for value in lists.values)):
        return width
    cells = np.flatnonzero(of_answers[lists.rows] & (counts[lists.rows] == 2))
    pairs = {(normal(lists.values[cell]), normal(lists.values[cell + 1])) for cell in cells[::2]}
    return 2 if any(a == b for a, b in pairs) or (number == len(said) and pairs != {("0", "1")}) else 0


def _from_vectors(name: str, lists: Lists, width: int, names: Sequence[str] | None, options: CellOptions) -> Labels:
    names = list(options.lookup.values()) if names is None and options.lookup else names
    if names is not None and len(names) != width:
        raise ValueError(f"Column {name!r} has vectors of {width} values, labels names {len(names)}")
    if names is None:
        options.assume(f"column {name!r} holds vectors of {width} answers: labels named 0 to {width - 1}")
    counts = np.bincount(lists.rows, minlength=lists.num_rows)
    problems = {
        row: f"there are {counts[row]} label values, expected {width}"
        for row in np.flatnonzero((counts != width) & ~lists.silent).tolist()
    }
    cells = [normal(value) for value in lists.values]
    values = answer_values(cells, options)
    starts = np.cumsum(counts) - counts
    ids = np.arange(len(lists.rows)) - starts[lists.rows]
    answers = np.array([values.get(cell, 2) for cell in cells], dtype=np.int8)
    shown = list(names or map(str, range(width)))
    for cell in np.flatnonzero(answers == 2).tolist():
        label = shown[ids[cell]] if ids[cell] < width else str(ids[cell])
        problems.setdefault(
            int(lists.rows[cell]), f"label {label!r} is {lists.values[cell]!r}, expected 0, 1, -1 or empty"
        )
    good = ~np.isin(lists.rows, list(problems))
    known = np.zeros(lists.num_rows, dtype=bool)
    known[lists.rows[answers >= 0]] = True
    silent = lists.silent | ~known
    return Labels.from_cells(
        lists.num_rows,
        shown,
        lists.rows[good],
        ids[good],
        answers[good],
        silent=silent,
        problems=problems | lists.problems,
    )


def _from_ids(lists: Lists, values: Sequence[Any], names: list[str]) -> Labels:
    ids = np.array([-1 if value is None else value for value in values], dtype=np.int64)
    outside = (ids < 0) | (ids >= len(names))
    problems = dict(lists.problems)
    for row, value in zip(lists.rows[outside].tolist(), ids[outside].tolist(), strict=True):
        problems.setdefault(row, f"label {value} is not among the {len(names)} label names")
    return Labels.from_cells(
        lists.num_rows, names, lists.rows[~outside], ids[~outside], silent=lists.silent, problems=problems
    )


def _from_lookup(lists: Lists, lookup: Mapping[str, str]) -> Labels:
    """Labels by id or code, or by a name that one stands for, in the order of the ids."""
    names = list(dict.fromkeys(lookup.values()))
    position = {label: i for i, label in enumerate(names)} | {key: names.index(label) for key, label in lookup.items()}
    shown_ids = ", ".join([f"{key} {label}" for key, label in lookup.items()][:5])
    problems = {
        row: f"label {value!r} is not among the {len(names)} that are named ({shown_ids})"
        for row, value in zip(lists.rows.tolist(), lists.values, strict=True)
        if value not in position
    }
    known = np.array([value in position for value in lists.values], dtype=bool)
    ids = [position[value] for value in lists.values if value in position]
    return Labels.from_cells(
        lists.num_rows, names, lists.rows[known], ids, silent=lists.silent, problems=problems | lists.problems
    )


def _from_names(name: str, lists: Lists, options: CellOptions, wanted: Sequence[str] | None) -> Labels:
    """Labels by name, sorted; Unicode variants of one name are one."""
    bare = next((v for v in lists.values if not isinstance(v, str)), None)
    if bare is not None:
        raise ValueError(f"Column {name!r} mixes names with {bare!r}")
    spelled = {value: spelling(value) for value in set(lists.values)}
    variants: dict[str, set[str]] = {}
    for label in spelled.values():
        variants.setdefault(look(label), set()).add(label)
    options.used.add("ignore_case")
    several = sorted(sorted(found) for found in variants.values() if len(found) > 1)
    if several and options.ignore_case:
        counts = Counter(spelled[value] for value in lists.values)
        for found in several:
            best = next((n for n in wanted or () if n in found), None) or max(
                found, key=lambda n: (counts[n], n.isascii(), n)
            )
            spelled = {value: best if label in found else label for value, label in spelled.items()}
    elif several:
        shown = "; ".join(", ".join(found) for found in several[:3])
        options.assume(
            f"warning: labels that differ in case or alphabet alone stay apart: {shown} (--ignore-case joins them)"
        )
    composed = sum(value.strip() != label for value, label in spelled.items() if label in spelled)
    if composed and not options.ignore_case:
        options.assume(f"{counted(composed, 'name')} joined with another spelling of the same characters")
    names = sorted({label for label in spelled.values() if label})
    if odd := [n for n in names if n.casefold() in SUSPICIOUS_NAMES and n != options.none_label]:
        options.assume(
            f"warning: {', '.join(odd)} is read as the name of a label (--none-label {odd[0]} makes it none)"
        )
    if not names:
        raise ValueError(f"Column {name!r} has no label in any row")
    if 2 * sum(bool(re.search(r":\d*\.?\d+\)?$", label)) for label in names) > len(names):
        raise ValueError(
            f"Column {name!r} has names with numbers behind them, such as {names[0]!r}: leave them out, or write a "
            "column for each label"
        )
    position = {label: i for i, label in enumerate(names)}
    ids = np.array([position.get(spelled[value], -1) for value in lists.values], dtype=np.int64)
    kept = ids >= 0
    if options.none_label is None:
        _suggest_none(name, lists, ids, names, options)
    return Labels.from_cells(
        lists.num_rows,
        names,
        lists.rows[kept],
        ids[kept],
        POSITIVE if lists.answers is None else lists.answers[kept],
        silent=lists.silent,
        problems=lists.problems,
    )


NONE_WORDS = re.compile(r"^(no|not|none|normal|negative|nothing|without|empty|background)\b|\bnone$", re.IGNORECASE)


def _suggest_none(name: str, lists: Lists, ids: NDArray[np.int64], names: list[str], options: CellOptions) -> None:
    """Say so where a label reads like "none of them" and never stands beside another."""
    for label, text in enumerate(names):
        if NONE_WORDS.search(text.replace("_", " ")) and len(names) > 2:
            counts = np.bincount(lists.rows, minlength=lists.num_rows)
            if (counts[lists.rows[ids == label]] == 1).all():
                options.assume(
                    f"{text!r} is read as a label, though it never stands beside another (--none-label {text!r} makes "
                    "it none of the labels)"
                )


def _text_lists(name: str, cells: list[Any], counts: list[int], options: CellOptions) -> Lists:
    """What different text cells list; `counts` says how often each stands in the column."""
    texts = [plain_text(cell) for cell in cells]
    lists: list[Any] = [[text] if text else None for text in texts]
    bracketed = [row for row, text in enumerate(texts) if is_literal(text)]
    if bracketed and options.separator is None:
        plain = set(range(len(texts))) - set(bracketed)
        joined = next((texts[row] for row in sorted(plain) if re.search(r"[|;]", texts[row])), None)
        if joined is not None:
            raise ValueError(
                f"Column {name!r} mixes lists such as {shown_cell(texts[bracketed[0]])} with cells such as "
                f"{shown_cell(joined)}; write all of them in one way"
            )
        for row in bracketed:
            lists[row] = parse_literal(texts[row], name)
        options.assume(f"column {name!r} holds lists written as text, such as {shown_cell(texts[bracketed[0]])}")
    else:
        separation = options.separation(name, texts, counts)
        lists = [separation(text) if text else None for text in texts]
    return as_lists(name, lists, options)


def as_lists(name: str, lists: Sequence[Any], options: CellOptions) -> Lists:
    """Lists of items, None for a row that says nothing, or a dict for one that answers by name."""
    by_name = [items for items in lists if isinstance(items, dict)]
    answers = None
    if by_name:
        if any(items and not isinstance(items, dict) for items in lists):
            raise ValueError(f"Column {name!r} mixes answers by name with lists")
        cells = [normal(cell) for items in by_name for cell in items.values()]
        if strange := [cell for cell in cells if cell not in ANSWERS | BLANK]:
            raise ValueError(f"Column {name!r} answers {strange[0]!r} by name, expected 0, 1, yes or no")
        answers = np.array([answer_values(cells, options)[cell] for cell in cells], dtype=np.int8)
    counts = np.array([len(items or ()) for items in lists], dtype=np.int64)
    return Lists(
        num_rows=len(lists),
        rows=np.repeat(np.arange(len(lists)), counts),
        values=[item for items in lists for item in items or ()],
        silent=np.array([items is None for items in lists], dtype=bool),
        answers=answers,
    )


# Objects


def object_features(feature: Any) -> dict[str, Any] | None:
    """The features of one object of a detection column, a struct of lists or a list of structs."""
    objects: dict[str, Any] = {}
    if isinstance(feature, (List, LargeList)) and isinstance(feature.feature, dict):
        objects = feature.feature
    elif isinstance(feature, dict):
        objects = {key: value.feature for key, value in feature.items() if isinstance(value, (List, LargeList))}
    return objects if any(key in objects for key in CATEGORY_KEYS) else None


def _read_objects(
    name: str,
    column: pa.ChunkedArray,
    feature: Any,
    objects: dict[str, Any],
    names: Sequence[str] | None,
    options: CellOptions,
) -> tuple[Labels, bool]:
    key = next(key for key in CATEGORY_KEYS if key in objects)
    has_boxes = isinstance(objects.get("bbox"), (List, LargeList))
    size = "area" if dtype(objects.get("area")) else "bbox" if has_boxes else None
    rows: list[int] = []
    values: list[Any] = []
    sizes: list[float | None] = []
    cells = column.to_pylist()
    for row, cell in enumerate(cells):
        if isinstance(cell, list):
            cell = {part: [item[part] for item in cell] for part in (key, size) if part}
        items = (cell or {}).get(key) or []
        areas = (cell or {}).get(size or "") or [None] * len(items)
        if size == "bbox":
            areas = [box[2] * box[3] if box and len(box) == 4 else None for box in areas]
        rows += [row] * len(items)
        values += items
        sizes += areas if len(areas) == len(items) else [None] * len(items)
    silent = np.bincount(np.array(rows, dtype=np.int64), minlength=len(cells)) == 0
    lists = Lists(len(cells), np.array(rows, dtype=np.int64), values, silent)
    labels, declared = _read_lists(name, lists, objects[key], 0, names, options)
    spelled = labels.names
    if size and len(lists.values) == len(values) and not labels.problems:
        ids = values if isinstance(values[0], int) else [spelled.index(value.strip()) for value in values]
        if max(ids, default=0) < len(spelled):
            again = Labels.from_cells(len(cells), spelled, rows, ids, areas=sizes, silent=silent)
            return again, declared
    return labels, declared


def dtype(feature: Any) -> str:
    """`string`, `int`, `float`, `bool` or `null` for a plain value, empty for everything else."""
    name = feature.dtype if isinstance(feature, Value) else ""
    return next((kind for kind in ("string", "int", "float", "bool", "null") if kind in name), "")
