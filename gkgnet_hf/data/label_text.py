"""How text cells list labels: with a separator, or as a list that a program printed."""

import ast
import html
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

STRONG_SEPARATORS = "|;\n\t、，；｜"
WEAK_SEPARATORS = ("/", "&", "+", " and ", ":", "-", "_", ".")  # that are parts of names as well
FILLERS = frozenset({"a", "an", "and", "of", "the", "with", "in", "on", "is", "or", "und", "et"})  # of sentences
WRAPPED = re.compile(
    r"(?:\w+\.)*(?:array|tensor|list|tuple|set|frozenset)\((.*?)(?:,\s*(?:dtype|device)=[^\[\]]*)?\)", re.DOTALL
)
LIST_KEYS = ("choices", "labels", "tags", "classes", "categories", "names")
NAME_KEYS = ("choice", "category", "label", "tag", "class", "name", "category_id")
ENTITY = re.compile(r"&#?\w+;")
UNSEEN = re.compile("[\u200b\u200e\u200f\u2060\ufeff\u00ad\x00-\x08\x0e-\x1f\x7f]")
LOOK_ALIKES = str.maketrans("авекмнорстухѕіјοανρτυ", "abekmhopctyxsijoavptu")  # Cyrillic and Greek
QUOTED = r""""[^"]*"|'[^']*'"""
NUMPY_STRINGS = re.compile(rf"(?:{QUOTED})(?:\s+(?:{QUOTED}))+")
NUMPY_NUMBERS = re.compile(r"[-+\d.e]+(\s+[-+\d.e]+)+")


def shown_cell(text: str) -> str:
    """A cell for a message, cut."""
    return repr(text if len(text) <= 60 else f"{text[:57]}…")


def is_literal(text: str) -> bool:
    """Whether a cell begins like a list that a program printed.

    >>> is_literal("['cat']"), is_literal("array(['cat'])"), is_literal("cat (wild)")
    (True, True, False)
    """
    return text[:1] in ("[", "(", "{") or (text.endswith(")") and WRAPPED.fullmatch(text) is not None)


def parse_literal(text: str, name: str = "labels") -> list[Any] | dict[str, Any]:
    """The items of a list that is written as text, or the answers of an object that answers by name.

    JSON and Python lists, sets and tuples, what numpy and torch print of an array, `{"choices": [...]}`, lists of such
    objects, and `{"cat": 1, "dog": 0}`. Nothing is evaluated.

    Raises:
        ValueError: for anything else, with the text.

    >>> parse_literal("['cat', 'dog']"), parse_literal("['cat' 'dog']"), parse_literal("[1 0 1]")
    (['cat', 'dog'], ['cat', 'dog'], [1, 0, 1])
    """
    error = ValueError(
        f"Column {name!r}: {shown_cell(text)} begins like a list but is none; --separator '' reads cells as one name"
    )
    if wrapped := WRAPPED.fullmatch(text):
        text = wrapped[1].strip() or "[]"
    inside = text[1:-1].strip()
    if NUMPY_STRINGS.fullmatch(inside):
        return [part[1:-1] for part in re.findall(QUOTED, inside)]
    try:
        if NUMPY_NUMBERS.fullmatch(inside):
            numbers = [float(part) for part in inside.split()]
            return [int(n) if n.is_integer() else n for n in numbers]
        value = json.loads(text)
    except ValueError:
        if re.search(r"""['"]\s+['"]""", inside):  # Python would join the two
            raise error from None
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            raise error from None
    return list_items(value, error)


def list_items(value: Any, error: ValueError) -> list[Any] | dict[str, Any]:
    """The items of a nested value as JSON has it; raises `error` where they cannot be told."""
    if isinstance(value, dict):
        key = next((key for key in LIST_KEYS if isinstance(value.get(key), (list, tuple))), None)
        if key is not None:
            return list_items(value[key], error)
        name = next((value[key] for key in NAME_KEYS if isinstance(value.get(key), (str, int))), None)
        if name is not None and not all(isinstance(item, (bool, int)) for item in value.values()):
            return [name]
        return {str(key): answer for key, answer in value.items()} if value else []
    if isinstance(value, (list, tuple, set, frozenset)):
        items: list[Any] = []
        for item in sorted(value, key=str) if isinstance(value, (set, frozenset)) else value:
            found = list_items(item, error)
            if isinstance(found, dict):
                raise error
            items += found
        return items
    return [value.strip() if isinstance(value, str) else value]


@dataclass(frozen=True)
class Separation:
    """What divides a cell into names; without a separator a cell is one name.

    Args:
        separator: text, or white space of any length for a blank.
        nested: a part → what a second separator divides it into.
    """

    separator: str
    nested: Mapping[str, list[str]] = field(default_factory=dict)

    def __call__(self, text: str) -> list[str]:
        """The names in a cell."""
        if not self.separator:
            return [text]
        return [name for part in split_parts(text, self.separator) for name in self.nested.get(part, [part])]


def split_parts(text: str, separator: str) -> list[str]:
    """The parts of a cell without the quotes around them; a blank as the separator stands for any white space.

    >>> split_parts("'cat', 'dog'", ","), split_parts("cat  dog", " ")
    (['cat', 'dog'], ['cat', 'dog'])
    """
    parts = (part.strip() for part in text.split(None if separator == " " else separator))
    return [part for part in map(unquoted, parts) if part]


def unquoted(text: str) -> str:
    """A text without the quotes around it."""
    return text[1:-1].strip() if text[:1] in ("'", '"') and re.fullmatch(QUOTED, text) else text


def plain_text(cell: Any) -> str:
    """A cell as text, with `&amp;` and its like as the characters that they stand for; empty for nothing.

    >>> plain_text(" black &amp; white "), plain_text(None)
    ('black & white', '')
    """
    if cell is None or cell != cell:
        return ""
    text = str(cell)
    return unquoted((ENTITY.sub(lambda found: html.unescape(found[0]), text) if "&" in text else text).strip())


def spelling(name: str) -> str:
    """A name without what nobody sees: composed characters, single blanks, no zero-width or control characters.

    >>> spelling(" red\\u00a0 car\\u200b")
    'red car'
    """
    return " ".join(unicodedata.normalize("NFC", UNSEEN.sub("", name)).split())


def look(name: str) -> str:
    """What names that look alike have in common, whatever their case, width and alphabet.

    >>> look("Cat") == look("ｃａｔ") == look("с\\u0430t")
    True
    """
    return unicodedata.normalize("NFKC", name).casefold().translate(LOOK_ALIKES)


Assume = Callable[[str], None]


def find_separation(name: str, texts: Sequence[str], counts: Sequence[int], assume: Assume) -> Separation:
    """What divides text cells into names.

    A separator is believed when the parts recur: the same name stands in several different cells. So "tench, Tinca
    tinca" in a column of class names stays one name, and "haze primary" beside "clear primary" are two each.

    Args:
        name: of the column.
        texts: the different cells.
        counts: how often each stands there.
        assume: is told what was found.

    Raises:
        ValueError: if it cannot be told.
    """
    filled = [text for text in texts if text]
    if len(filled) > 1 and all(re.fullmatch("[01]{2,}", text) for text in filled) and len(set(map(len, filled))) == 1:
        raise ValueError(
            f"Column {name!r} has cells such as {shown_cell(filled[0])}: write answers with commas between them, or "
            "pass --separator '' if each is one name"
        )
    for separator in STRONG_SEPARATORS:
        if any(separator in text for text in filled):
            return _with_nested(name, filled, separator, assume)
    if any("," in text for text in filled):
        repeated = {text for text, count in zip(texts, counts, strict=True) if count > 1}
        return _at_commas(name, filled, repeated, assume)
    if filled and all(re.fullmatch(r"-?\d+", part) for text in filled for part in text.split()):
        if example := next((text for text in filled if " " in text), ""):
            assume(f"column {name!r} holds numbers with spaces between them, such as {shown_cell(example)}")
        return Separation(" ")
    return _at_weak_separators(name, filled, assume) or _at_spaces(name, filled, assume)


def _at_commas(name: str, filled: list[str], repeated: set[str], assume: Assume) -> Separation:
    """Whether commas divide cells, some of which have them; `repeated` are the cells that stand several times."""
    holding = [text for text in filled if "," in text]
    example = shown_cell(holding[0])
    recurring = _recurrence(filled, ",")
    stands_alone = not set(filled).isdisjoint(split_parts(",".join(holding), ","))
    if recurring.some >= 0.5 and (recurring.before >= 0.5 or stands_alone):  # in "Lyon, France" the last alone recurs
        return _with_nested(name, filled, ",", assume)
    if not recurring.some and not repeated.isdisjoint(holding):
        assume(
            f"warning: {example} in column {name!r} is read as one name, since its parts stand nowhere else "
            "(--separator , divides at the comma)"
        )
        return Separation("")
    raise ValueError(
        f"Column {name!r} has cells such as {example}: pass --separator , if the comma divides names, or "
        "--separator '' if it is part of one name"
    )


def _at_weak_separators(name: str, filled: list[str], assume: Assume) -> Separation | None:
    """A separator such as "/" where what it divides stands alone elsewhere; None where no such separator does."""
    for separator in WEAK_SEPARATORS:
        holding = [text for text in filled if separator in text]
        alone = [text for text in holding if {*split_parts(text, separator)} <= set(filled)]
        if not alone:
            continue
        example = shown_cell(alone[0])
        recurring = _recurrence(filled, separator)
        if len(alone) == len(holding) > 1 or (recurring.all >= 0.9 and separator in "/&+ and "):
            assume(
                f"warning: column {name!r} holds names with {separator!r} between them, such as {example}, since the "
                "parts stand alone elsewhere (--separator '' reads each cell as one name)"
            )
            return Separation(separator)
        assume(
            f"warning: {example} in column {name!r} is read as one name, though its parts are labels too (--separator "
            f"{separator!r} divides it)"
        )
    return None


def _at_spaces(name: str, filled: list[str], assume: Assume) -> Separation:
    """Whether spaces divide cells."""
    holding = [text for text in filled if " " in text]
    if not holding:
        return Separation("")
    example = shown_cell(holding[0])
    if joints := {part for text in filled for part in text.split() if not any(map(str.isalnum, part))}:
        raise ValueError(
            f"Column {name!r} has cells such as {example}: pass --separator {sorted(joints)[0]!r} if that divides "
            "names, or --separator '' if a cell is one name"
        )
    recurring = _recurrence(filled, " ")
    if recurring.some >= 0.5 and not FILLERS.isdisjoint(part.lower() for text in holding for part in text.split()):
        raise ValueError(
            f"Column {name!r} has cells such as {example}, which may be a sentence: name another --label-column, "
            "pass --separator with what divides names, or --separator '' if a cell is one name"
        )
    lengths = {len(text.split()) for text in filled}
    recur_enough = recurring.some >= 0.9 and recurring.all >= 0.5 and recurring.mean >= 0.75
    if len(lengths) > 1 and recur_enough and (max(lengths) > 2 or recurring.all == 1):
        assume(
            f"column {name!r} holds names with spaces between them, such as {example}, since the parts recur "
            "(--separator '' reads each cell as one name)"
        )
        return Separation(" ")
    if recurring.some >= 0.5 and recurring.mean >= 0.4:
        raise ValueError(
            f"Column {name!r} has cells such as {example}: pass --separator ' ' if spaces divide names, or "
            "--separator '' if a cell is one name"
        )
    if recurring.some:
        assume(f"column {name!r}: {example} is read as one name (--separator ' ' divides at spaces)")
    return Separation("")


@dataclass(frozen=True)
class _Recurrence:
    """How the parts of divided cells stand in other cells too: shares of the different cells that are divided.

    Args:
        some: that have such a part.
        all: that have such parts alone.
        mean: the mean share of such parts in a cell.
        before: that have such a part before the last.
    """

    some: float
    all: float
    mean: float
    before: float


def _recurrence(texts: Sequence[str], separator: str) -> _Recurrence:
    divided = [list(dict.fromkeys(split_parts(text, separator))) for text in texts]
    cells_of = Counter(part for parts in divided for part in parts)
    recurs = [[cells_of[part] > 1 for part in parts] for parts in divided if len(parts) > 1]
    shares = [sum(found) / len(found) for found in recurs]
    count = max(len(shares), 1)
    return _Recurrence(
        some=sum(share > 0 for share in shares) / count,
        all=sum(share == 1 for share in shares) / count,
        mean=sum(shares) / count,
        before=sum(any(found[:-1]) for found in recurs) / count,
    )


def _with_nested(name: str, texts: list[str], separator: str, assume: Assume) -> Separation:
    """Division at a separator, and at a second one where all that it divides stand alone elsewhere."""
    example = shown_cell(next(text for text in texts if separator in text))
    parts = {part for text in texts for part in split_parts(text, separator)}
    nested: dict[str, list[str]] = {}
    whole: list[str] = []
    for second in (*STRONG_SEPARATORS, ",", " and "):
        for part in sorted(parts):
            if second == separator or second not in f" {part}":
                continue
            pieces = split_parts(f" {part}", second)
            if parts.issuperset(pieces):
                nested[part] = pieces
            elif second in STRONG_SEPARATORS:
                raise ValueError(
                    f"Column {name!r} mixes separators: {example} and {shown_cell(part)}; make them the same, or "
                    f"pass --separator {separator!r} to divide at that one alone"
                )
            elif not parts.isdisjoint(pieces):
                whole.append(part)
    assume(f"column {name!r} holds names with {separator!r} between them, such as {example}")
    for found, fate in (
        (sorted(nested), "divided too, since its parts stand"),
        (whole, "one name, though a part stands"),
    ):
        if found:
            assume(
                f"warning: column {name!r} mixes separators: {', '.join(map(repr, found[:3]))} is {fate} alone "
                f"elsewhere (--separator {separator!r} divides at that one alone)"
            )
    return Separation(separator, nested)
