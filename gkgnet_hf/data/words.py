"""Numbers and names as sentences have them."""


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(1200, "row")
    ('1 image', '1,200 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
