"""The plain path for a whole model, so that the default one can be measured against it."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from gkgnet_hf.modeling import group_knn, layers


@contextmanager
def plain_path() -> Iterator[None]:
    """Within it, every graph is built by the plain functions, which materialise everything."""
    with (
        patch.object(layers, "find_neighbors", group_knn.find_neighbors_plain),
        patch.object(layers, "max_relative", group_knn.max_relative_plain),
    ):
        yield
