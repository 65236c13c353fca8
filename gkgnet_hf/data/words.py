"""Numbers, names and sentences as they are shown."""

import re
import unicodedata

# What moves the cursor, changes colours or turns the direction of writing, and what ends a line.
UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
JOINERS = frozenset("\u200c\u200d\ufe0f")
FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")  # wide ones count in spreadsheets too


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(1200, "row")
    ('1 image', '1,200 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shown(text: object) -> str:
    """A name from data as one line that a terminal only shows: what would move the cursor is written as an escape.

    >>> shown("a\\x1b[2Jb\\nc")
    'a\\\\x1b[2Jb\\\\nc'
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if unicodedata.category(char) in UNSHOWN else char for char in text)


def shown_lines(text: object) -> str:
    """Several lines, of which each is `shown`."""
    return "\n".join(map(shown, str(text).split("\n")))


def _escaped(char: str) -> str:
    return char if char in JOINERS else char.encode("unicode_escape").decode("ascii")


def csv_cell(value: str) -> str:
    """The text of a cell of a CSV file, `shown`; with a quote before it where a spreadsheet would compute it.

    >>> csv_cell("=1+1"), csv_cell("cat")
    ("'=1+1", 'cat')
    """
    return f"'{shown(value)}" if FORMULA.match(value) else shown(value)
