"""Label Studio's JSON export: tasks with annotations. Its JSON-MIN, CSV and TSV are tables of the usual kind."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..annotations import Splits, divide, understand
from ..label_text import list_items
from ..options import ReadOptions
from ..places import looks_like_picture
from .json_files import json_files, load_json
from .tables import rows_to_dataset


def read_label_studio(path: Path, options: ReadOptions) -> Splits | None:
    """A JSON file of tasks, or the only such file of a folder."""
    found = {}
    for file in json_files(path):
        with file.open("rb") as opened:
            if b'"annotations"' not in opened.read(20_000) or file.stat().st_size > 1 << 30:
                continue
        content = load_json(file)
        if isinstance(content, list) and content and all(isinstance(task, dict) and "data" in task for task in content):
            found[file] = content
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(f"{path} has several exports of Label Studio: {', '.join(f.name for f in found)}; name one")
    ((file, tasks),) = found.items()
    options.assume(f"{file.name} is an export of Label Studio")
    field = _field(tasks, options)
    rows = [{"image": _picture(task["data"]), "labels": _labels(task, field)} for task in tasks]
    annotations, split_of = understand(rows_to_dataset(rows), replace(options, label_column="labels"), file.parent)
    return divide(annotations, split_of)


def _field(tasks: list[dict[str, Any]], options: ReadOptions) -> str | None:
    """The field of the labelling interface whose labels are read: the one named, or the only one."""
    results = (r for task in tasks for a in task.get("annotations") or () for r in a.get("result") or () if _choices(r))
    fields = sorted({str(result.get("from_name")) for result in results})
    wanted = options.label_column
    named = wanted if isinstance(wanted, str) or not wanted else wanted[0]
    if named is not None and named not in fields:
        raise ValueError(f"There is no field {named!r}, --label-column can be any of {', '.join(fields)}")
    if named is None and len(fields) > 1:
        raise ValueError(f"The tasks have labels of the fields {', '.join(fields)}; name one with --label-column")
    return named


def _picture(data: dict[str, Any]) -> str | None:
    texts = [value for value in data.values() if isinstance(value, str)]
    name = next((text for text in texts if looks_like_picture(text)), data.get("image"))
    return unquote(name.split("?d=")[-1]) if isinstance(name, str) else None


def _labels(task: dict[str, Any], field: str | None) -> list[str] | None:
    """What the annotations of a task that were not cancelled say; None if there are none."""
    given = [a for a in task.get("annotations") or () if not a.get("was_cancelled")]
    if not given:
        return None
    judged = [a for a in given if a.get("ground_truth")] or given
    results = [[r for r in a.get("result") or () if field is None or r.get("from_name") == field] for a in judged]
    answers = [sorted({label for result in found for label in _choices(result)}) for found in results]
    if any(answer != answers[0] for answer in answers):
        raise ValueError(
            f"Task {task.get('id')} has {len(answers)} annotations that differ: {answers[0]} and "
            f"{next(a for a in answers if a != answers[0])}; mark the right one as ground truth"
        )
    return answers[0]


def _choices(result: dict[str, Any]) -> list[str]:
    value = result.get("value") or {}
    keys = [key for key in value if key == "choices" or key.endswith("labels") or key == "taxonomy"]
    items: list[str] = []
    for key in keys:
        found = value[key]
        if key == "taxonomy":
            found = [" / ".join(parts) for parts in found]
        items += [str(item) for item in list_items(found, ValueError(f"Label Studio writes {found!r}"))]
    return items
