"""What the paper claims beside what was seen: the first table of benchmarks/results/paper.md, from the runs kept there.

python -m benchmarks.paper.claims
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import plan
from .plan import CNN_NETWORK, PAPER_NETWORK, PLAIN, Budget, Results, Run
from .report import DESIGNS, interval, markdown, paired_difference, value

KEPT = Path(__file__).parent.parent / "results" / "paper.json"
FIRST, SECOND, LARGE = "", "second machine: ", "224 pixels: "  # what the names of runs begin with there
STEPS = {FIRST: 1200, SECOND: 1200, LARGE: 1600}
ONE_GROUP, QUERY2LABEL, CTRAN = "label nodes, G = 1", "ViG, Q2L", "ViG, C-Tran"

Values = Callable[[str], NDArray[np.float64]]  # designs → a metric of each seed
Judge = Callable[[float, float], str]  # ends of the interval of a difference → what it says of the claim


def adds(amount: float, low: float, high: float) -> str:
    """Of the claim that so much is added."""
    if high < 0:
        return "the opposite"
    if low > 0:
        return "seen" if high >= amount else "seen in part"
    return "cannot be said" if high >= amount else "not seen"


def more(low: float, high: float) -> str:
    """Of the claim that it is more."""
    return "seen" if low > 0 else "the opposite" if high < 0 else "cannot be said"


def less(low: float, high: float) -> str:
    """Of the claim that it is less."""
    return more(-high, -low)


def cheaper(low: float, high: float) -> str:
    """Of the claim that the other needs more operations: where it had fewer, only being behind tells."""
    return "the opposite" if high < 0 else "cannot be said"


class Claims:
    """The rows of the table, from all runs that are kept."""

    def __init__(self, kept: Results):
        self.kept = kept
        self.rows: list[list[str]] = []

    def of(self, place: str, make: Callable[[int, Budget], Run], metric: str = "mAP") -> Values:
        """A metric of each seed of the runs `make(seed, budget)` that `place` has."""
        budget = Budget(3, 8000, 400, STEPS[place])
        runs = [make(seed, budget) for seed in budget.seeds]
        found = {run.name: self.kept[place + run.name] for run in runs}
        return lambda designs: np.array([value(found, run, metric, designs=designs) for run in runs])

    def head(self, place: str, network: str, rate: float, metric: str = "mAP", **fields: object) -> Values:
        """A metric of each seed of a network on scenes."""
        return self.of(place, lambda seed, budget: plan.scene_run(network, rate, seed, budget, **fields), metric)

    def add(self, claim: str, here: str, mine: Values, base: Values, judge: Judge) -> None:
        """A row: the difference of equal seeds, and what it says, for each of the validations."""
        cells = []
        for designs in DESIGNS:
            ours, theirs = list(mine(designs)), list(base(designs))
            cells += [paired_difference(ours, theirs), f"**{judge(*interval(np.subtract(ours, theirs))[1:])}**"]
        self.rows.append([claim, here, *cells])

    def table(self) -> str:
        """The table in Markdown."""
        self.rows = []
        self.label_nodes()
        self.groups()
        self.sizes()
        self.rivals()
        self.neighbors()
        return markdown(["the paper", "here", "new designs", "", "known designs", ""], self.rows)

    def label_nodes(self) -> None:
        """Label nodes against a linear head."""
        one, two = partial(adds, 3.0), partial(adds, 4.2)
        tags = {"task": "tags"}

        def add(claim: str, here: str, place: str, network: str, rates: tuple[float, float], **fields: object) -> None:
            mine, base = self.head(place, network, rates[0], **fields), self.head(place, PLAIN, rates[1], **fields)
            self.add(claim, here, mine, base, one if network == ONE_GROUP else two)

        claim = "label nodes (G = 1) add 3.0 mAP to ViG with a linear head"
        add(claim, "scenes, both at 1e-3", SECOND, ONE_GROUP, (1e-3, 1e-3))
        add("", "scenes, both at 2e-3", SECOND, ONE_GROUP, (2e-3, 2e-3))
        add("", "scenes, Table 2: 2e-3 and 1e-3, as the short grid chose", FIRST, ONE_GROUP, (2e-3, 1e-3))
        add("", "scenes of 224 pixels: 1e-3 and 2e-3, as the short grid chose", LARGE, ONE_GROUP, (1e-3, 2e-3))
        add("", "tags, both at 1e-3", SECOND, ONE_GROUP, (1e-3, 1e-3), **tags)
        add("", "tags, both at 2e-3", SECOND, ONE_GROUP, (2e-3, 2e-3), **tags)
        claim = "label nodes with groups (G = 2) add 4.2"
        add(claim, "scenes, both at 1e-3", SECOND, PAPER_NETWORK, (1e-3, 1e-3))
        add("", "scenes, Table 2: 2e-3 and 1e-3", FIRST, PAPER_NETWORK, (2e-3, 1e-3))
        add("", "scenes, Table 2 on the second machine", SECOND, PAPER_NETWORK, (2e-3, 1e-3))
        add("", "scenes of 224 pixels, both at 2e-3", LARGE, PAPER_NETWORK, (2e-3, 2e-3))
        add("", "tags, both at 1e-3", SECOND, PAPER_NETWORK, (1e-3, 1e-3), **tags)

    def groups(self) -> None:
        """Two groups against one."""

        def add(claim: str, here: str, place: str, rates: tuple[float, float], task: str = "scenes") -> None:
            mine = self.head(place, PAPER_NETWORK, rates[0], task=task)
            self.add(claim, here, mine, self.head(place, ONE_GROUP, rates[1], task=task), partial(adds, 1.2))

        add("so two groups add 1.2", "scenes, both at 1e-3", SECOND, (1e-3, 1e-3))
        add("", "scenes, Table 2: both at 2e-3", FIRST, (2e-3, 2e-3))
        add("", "scenes, Table 2 on the second machine", SECOND, (2e-3, 2e-3))
        add("", "scenes of 224 pixels, 2e-3 and 1e-3", LARGE, (2e-3, 1e-3))
        add("", "tags, both at 1e-3", SECOND, (1e-3, 1e-3), "tags")
        table_4 = {
            "in patch nodes alone": {"changes": {"num_label_groups": 1}},
            "in label nodes alone": {"changes": {"num_groups": 1, "num_label_groups": 2}},
            "in both, from patch nodes that learned with two": {"start_groups": 2},
        }
        base = self.head(SECOND, ONE_GROUP, 2e-3)
        for here, fields in table_4.items():
            mine = self.head(SECOND, PAPER_NETWORK, 2e-3, **fields)
            self.add("", f"{here}, at 2e-3 (Table 4)", mine, base, partial(adds, 1.2))
        singles = [
            self.of(SECOND, lambda seed, budget, c=c: plan.single_run(PLAIN, budget, seed, **c), "accuracy")("val")
            for c in ({"num_groups": 2}, {})
        ]
        found = interval(singles[0] - singles[1])
        cells = [paired_difference(list(singles[0]), list(singles[1])), f"**{adds(1.1, *found[1:])}**", "—", "—"]
        self.rows.append(["and 1.1 % in learning single labels", "628 designs (Table 5)", *cells])

    def sizes(self) -> None:
        """Small objects."""

        def heads(place: str, network: str, rate: float, size: str = "mAP_small") -> tuple[Values, Values]:
            return self.head(place, network, rate, size), self.head(place, PLAIN, rate, size)

        def gain(size: str) -> Values:
            mine, base = heads(SECOND, ONE_GROUP, 1e-3, size)
            return lambda designs: mine(designs) - base(designs)

        judge = partial(adds, 4.9)
        self.add("small objects gain 4.9", "scenes, G = 2, both at 1e-3", *heads(SECOND, PAPER_NETWORK, 1e-3), judge)
        self.add("", "scenes, G = 1, both at 1e-3", *heads(SECOND, ONE_GROUP, 1e-3), judge)
        here = "scenes of 224 pixels, G = 2, both at 2e-3 (Table 6)"
        self.add("", here, *heads(LARGE, PAPER_NETWORK, 2e-3), judge)
        here = "scenes, G = 1, both at 1e-3"
        self.add("and more than medium ones", here, gain("mAP_small"), gain("mAP_medium"), more)

    def rivals(self) -> None:
        """Other heads, and a CNN."""

        def add(claim: str, here: str, place: str, other: tuple[str, float], rate: float, judge: Judge, **f: object):
            self.add(claim, here, self.head(place, PAPER_NETWORK, rate, **f), self.head(place, *other, **f), judge)

        claim = "G = 2 is better than Query2Label on the same backbone"
        add(claim, "scenes, both at 1e-3", SECOND, (QUERY2LABEL, 1e-3), 1e-3, more)
        add("", "scenes, Table 2: 2e-3 and 1e-3", FIRST, (QUERY2LABEL, 1e-3), 2e-3, more)
        add("", "scenes of 224 pixels, 2e-3 and 1e-3", LARGE, (QUERY2LABEL, 1e-3), 2e-3, more)
        add("", "tags, each at its best rate: 1e-3 and 5e-4", SECOND, (QUERY2LABEL, 5e-4), 1e-3, more, task="tags")
        claim = "and than C-Tran"
        add(claim, "scenes, Table 2: 2e-3 and 5e-4", FIRST, (CTRAN, 5e-4), 2e-3, more)
        add("", "scenes of 224 pixels, 2e-3 and 1e-3", LARGE, (CTRAN, 1e-3), 2e-3, more)
        claim = "a CNN needs more operations for the same mAP"
        here = "G = 2 − `regnetx_002`, 94 and 57 million multiply-adds, both at 2e-3"
        add(claim, f"scenes, {here}", FIRST, (CNN_NETWORK, 2e-3), 2e-3, cheaper)
        add("", "scenes of 224 pixels, 300 and 199 million", LARGE, (CNN_NETWORK, 2e-3), 2e-3, cheaper)

    def neighbors(self) -> None:
        """Figure 4, against the paper's numbers."""

        def run(numbers: tuple[int, int]) -> Values:
            return self.of(SECOND, lambda seed, budget: plan.figure_4_run(*numbers, 2e-3, seed, budget))

        same = "; with 16 patches and a dilation of 2 the last stage has the same neighbours"
        for claim, here, numbers in (
            ("K = 9 and G = 2 are best", "K = 3, G = 2, at 2e-3 (Figure 4)", (3, 2)),
            ("", f"K = 15, G = 2{same}", (15, 2)),
            ("", "K = 9, G = 4", (9, 4)),
        ):
            self.add(claim, here, run(numbers), run((9, 2)), less)


if __name__ == "__main__":
    print(Claims(json.loads(KEPT.read_text())).table())
