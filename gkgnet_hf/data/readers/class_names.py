"""Files that name the classes of a data set, for annotations that write numbers."""

import re
from pathlib import Path

NAME_FILES = (
    *("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "label_list.txt", "class_names.txt", "names.txt"),
    "categories.txt",
)


def read_class_names(file: Path) -> dict[int, str]:
    """The name of each id: a name on each line, behind its number where all lines have one, else counted from 0."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    numbered = [match for line in lines if (match := re.fullmatch(r"(\d+)[\s,:]+(.+)", line))]
    names = {int(match[1]): match[2] for match in numbered}
    return names if len(names) == len(lines) else dict(enumerate(lines))


def class_names_beside(*folders: Path) -> dict[int, str] | None:
    """The names of the first such file in these folders, None if there is none."""
    files = (folder / name for folder in folders for name in NAME_FILES)
    return next((read_class_names(file) for file in files if file.is_file()), None)
