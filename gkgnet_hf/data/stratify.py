"""Which rows are held out: iterative stratification over labels (Sechidis, Tsoumakas and Vlahavas, 2011)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def stratified_holdout(
    labels: sparse.csr_array, keys: Sequence[str], share: float = 0.1, seed: int = 0
) -> NDArray[np.bool_]:
    """Which rows to hold out, so that every label is about as frequent among them as among the others.

    The result depends on the keys, their labels and the seed, not on the order of the rows.

    Args:
        labels: (N, L) sparse; an entry other than 0 means that the row has the label. Leave unknown labels out.
        keys: N strings that tell the pictures apart, such as whole relative paths or hashes of the content. Rows of
            one key stay together.
        share: the part of the rows to hold out, above 0 and below 1.
        seed: another seed gives another choice.

    Returns:
        (N,) bool, True for the rows held out. With two keys or more, both sides have rows.

    Raises:
        ValueError: if there are not N keys, fewer than two different keys, or `share` is not between 0 and 1.

    Example:

        labels = sparse.csr_array((np.ones(len(indices), bool), indices, indptr), shape=(len(paths), len(names)))
        held_out = stratified_holdout(labels, paths)
    """
    raise NotImplementedError
