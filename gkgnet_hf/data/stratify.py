"""Which rows are held out: iterative stratification over labels.

Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data", 2011, Algorithm 1, for two subsets.
Labels are taken in turn, the rarest of what is left first, and the rows that are left of it are divided. Here they are
divided at once, not one by one, and those are held out whose other labels need it most.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def stratified_holdout(
    labels: sparse.csr_array, keys: Sequence[str], share: float = 0.1, seed: int = 0
) -> NDArray[np.bool_]:
    """Which rows to hold out, so that every label is about as frequent among them as among the others.

    The result depends on the keys, their labels and the seed, not on the order of the rows. A label that only one key
    has stays in training, unless the share cannot be reached without it. Every other label has rows on both sides, even
    if its share is less than a row; all rare labels together take at most half of the held-out rows beyond their share.

    Args:
        labels: (N, L) sparse; an entry other than 0 means that the row has the label. Leave unknown labels out.
        keys: N strings that tell the pictures apart, such as whole relative paths or hashes of the content. Rows of
            one key stay together.
        share: the part of the rows to hold out, above 0 and below 1.
        seed: another seed gives another choice.

    Returns:
        (N,) bool, True for the rows held out. Both sides have rows.

    Raises:
        ValueError: if there are not N keys, fewer than two different keys, or `share` is not between 0 and 1.

    >>> labels = sparse.csr_array(np.tile(np.eye(2, dtype=int), (10, 1)))  # 20 rows, 10 of each of two labels
    >>> held_out = stratified_holdout(labels, [f"{row}.jpg" for row in range(20)])
    >>> labels[held_out].sum(axis=0)
    array([1, 1])
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be above 0 and below 1, got {share}")
    if len(keys) != labels.shape[0]:
        raise ValueError(f"There must be a key for each of the {labels.shape[0]:,} rows, got {len(keys):,}")
    salt = seed.to_bytes(8, "little", signed=True)
    digests = b"".join(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest() for key in keys)
    # Rows of one key are one group. Groups stand in the order of their hashes, which is as good as a random one.
    hashes, group_of_row = np.unique(np.frombuffer(digests, dtype="<u8"), return_inverse=True)
    if len(hashes) < 2:
        raise ValueError(f"Rows of two different keys are needed to hold some out, got {len(hashes)}")
    rows, columns = labels.nonzero()
    unlabeled = np.flatnonzero(np.bincount(rows, minlength=len(keys)) == 0)
    rows = np.concatenate([rows, unlabeled])
    columns = np.concatenate([columns, np.full(len(unlabeled), labels.shape[1])])  # having none is one more label
    shape = len(hashes), labels.shape[1] + 1
    counts = sparse.csr_array((np.ones(len(rows), np.int32), (group_of_row[rows], columns)), shape=shape)
    return _divide(counts, np.bincount(group_of_row), share)[group_of_row]


def _divide(counts: sparse.csr_array, sizes: NDArray[np.intp], share: float) -> NDArray[np.bool_]:
    """Which groups to hold out.

    Args:
        counts: (G, L), how many rows of each group have each label; every group has one.
        sizes: (G,), the rows of each group.
        share: the part of the rows to hold out.

    Returns:
        (G,) bool.
    """
    by_label = counts.tocsc()
    held_out, undecided = np.zeros(len(sizes), dtype=bool), np.ones(len(sizes), dtype=bool)
    remaining = np.diff(by_label.indptr)  # (L,) groups of each label that are not held out
    open_groups = remaining.copy()  # (L,) groups of each label that are undecided
    fair = share * counts.sum(axis=0)  # (L,) rows of each label to hold out
    demand = np.where(remaining > 1, np.maximum(fair, 1), fair)  # (L,) rows of each label that are still to be held out
    wanted, open_rows = max(share * sizes.sum(), 1.0), sizes.sum()  # rows still to be held out, and undecided ones
    spare = wanted / 2  # rows that rare labels may take beyond their share

    def hold_out(groups: NDArray[np.intp], weights: NDArray[np.integer], goal: float, keep_last: bool = True) -> None:
        """Of `groups`, each of which counts `weights`, hold out about `goal`: those whose labels ask for it most.

        `keep_last` leaves the last group of a label where it is.
        """
        nonlocal wanted
        entries = counts[groups]
        # A row costs more, in labels that ask for it, the more rows are still wanted among those that are undecided:
        # else rows of many labels would be taken first, and too few rows in all.
        price = share * (wanted / max(share * open_rows, 1.0)) ** 4
        asked = (demand[entries.indices] - 0.5) / np.maximum(open_groups[entries.indices], 1) - price
        asked -= remaining[entries.indices] == 1
        order = np.argsort(-np.add.reduceat(asked, entries.indptr[:-1]), kind="stable")
        for place in order:
            if goal < 0.5 or wanted < 0.5:
                return
            group, own = groups[place], slice(entries.indptr[place], entries.indptr[place + 1])
            labels = entries.indices[own]
            fits = weights[place] <= 2 * goal and sizes[group] <= 2 * wanted
            if fits and not (keep_last and (remaining[labels] == 1).any()):
                held_out[group] = True
                remaining[labels] -= 1
                demand[labels] -= entries.data[own]
                goal -= weights[place]
                wanted -= sizes[group]

    while open_groups.any():
        label = np.where(open_groups > 0, open_groups, len(sizes) + 1).argmin()
        column = slice(by_label.indptr[label], by_label.indptr[label + 1])
        is_open = undecided[by_label.indices[column]]
        groups, weights = by_label.indices[column][is_open], by_label.data[column][is_open]
        # What rare labels took beyond their share, the frequent ones go without.
        goal = demand[label] if demand[label] <= 1 else max(1.0, demand[label] * min(1.0, wanted / (share * open_rows)))
        excess = max(0.0, 1 - fair[label]) if demand[label] >= 0.5 else 0.0
        if excess <= spare:
            spare -= excess
            hold_out(groups, weights, goal)
        undecided[groups] = False
        open_rows -= sizes[groups].sum()
        np.subtract.at(open_groups, counts[groups].indices, 1)
    # The share of the rows is met with those that change the shares of the labels least, a few at a time.
    open_groups, open_rows = np.diff(by_label.indptr), sizes.sum()
    for keep_last in (True, False):
        missing = np.inf
        while 0.5 <= wanted < missing:
            missing = wanted
            rest = np.flatnonzero(~held_out)
            hold_out(rest, sizes[rest], max(wanted / 4, 1.0), keep_last)
    if not held_out.any() or held_out.all():  # a key has very many rows
        held_out[sizes.argmin()] ^= True
    return held_out
