"""The metadata at the head of a model card, and what a Hub has to say against it."""

from __future__ import annotations

import re
from typing import Any

import yaml

# Some of the names at https://huggingface.co/docs/hub/repositories-licenses.
LICENSES = ("apache-2.0", "mit", "bsd", "cc-by-4.0", "gpl-3.0", "unknown", "other")

# A name, or a list of names, in every field that a Hub uses to find a model.
NAMES = ("base_model", "datasets", "language", "license", "metrics", "tags")
NAME = ("library_name", "license_link", "license_name", "pipeline_tag")


def metadata(card: str) -> dict[str, Any]:
    """The YAML between the two lines of dashes that begin a card; empty where there is none.

    Raises:
        ValueError: if it is not YAML, or not a mapping.

    Example:
        >>> metadata("---\\nlicense: mit\\n---\\n# A network")
        {'license': 'mit'}
    """
    head = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*$", card, re.DOTALL | re.MULTILINE)
    if head is None:
        return {}
    try:
        data = yaml.safe_load(head[1])
    except yaml.YAMLError as error:
        raise ValueError(f"YAML Metadata Error: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"YAML Metadata Error: expected a mapping, got {type(data).__name__}")
    return data


def validate(card: str) -> tuple[list[str], list[str]]:
    """Errors, which refuse the card, and warnings.

    Example:
        >>> validate("---\\nlicense: 3\\n---")
        (['"license" must be a string or a list of strings, got 3'], [])
    """
    try:
        data = metadata(card)
    except ValueError as error:
        return [str(error)], []
    if not data:
        return [], ["empty or missing yaml metadata in repo card"]
    errors = [f'"{key}" must be a string, got {data[key]!r}' for key in NAME if not isinstance(data.get(key, ""), str)]
    for key in NAMES:
        values = data.get(key, [])
        if not all(isinstance(value, str) for value in (values if isinstance(values, list) else [values])):
            errors.append(f'"{key}" must be a string or a list of strings, got {values!r}')
    licenses = data.get("license", [])
    for name in licenses if isinstance(licenses, list) else [licenses]:
        if isinstance(name, str) and name not in LICENSES:
            errors.append(f'"license" must be one of [{", ".join(LICENSES)}], got {name}')
    for model in data.get("model-index", []):
        if not (
            isinstance(model, dict) and isinstance(model.get("name"), str) and isinstance(model.get("results"), list)
        ):
            errors.append(f'"model-index" needs a name and results, got {model!r}')
    return errors, []
