"""YAML of data sets, without aliases: a few lines of them can stand for more text than a memory holds."""

from typing import Any

import yaml


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases such as *{self.peek_event().anchor} are not read")
        return super().compose_node(parent, index)


def load_yaml(text: str) -> Any:
    """The content of a text; ValueError if it is no YAML.

    >>> load_yaml("names: [cat, dog]")
    {'names': ['cat', 'dog']}
    """
    try:
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError for a date such as 2020-99-99
        raise ValueError(f"it is no YAML: {' '.join(str(error).split())}") from error
