"""Which runs each table needs. A later stage depends on what earlier ones found, so stages are functions of them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from .networks import NETWORKS
from .training import Run

PAPER_NETWORK = "label nodes, G = 2"
PLAIN = "ViG, linear head"
CNN_NETWORK = list(NETWORKS)[-1]
RATES = (5e-4, 1e-3, 2e-3)
SINGLE_RATE = 2e-3

Results = dict[str, dict[str, Any]]  # name of the run → its result
Stage = Callable[[Results, "Budget"], list[Run]]


class Budget:
    """How much is spent: seeds, and steps of learning single labels, of trying rates, and of the runs that count."""

    def __init__(self, seeds: int, single_steps: int, grid_steps: int, steps: int):
        self.seeds, self.single_steps, self.grid_steps, self.steps = range(seeds), single_steps, grid_steps, steps


def single_run(network: str, budget: Budget, seed: int = 0, **changes: Any) -> Run:
    """Learning single labels; those of seed 0 without changes are what everything else starts from."""
    return Run(network, SINGLE_RATE, seed, budget.single_steps, task="singles", changes=changes)


def scene_run(network: str, rate: float, seed: int, budget: Budget, start_groups: int = 1, **fields: Any) -> Run:
    """Learning scenes from the weights of `single_run`, which learned them with `start_groups` groups."""
    if network == CNN_NETWORK:
        start = single_run(CNN_NETWORK, budget)
    else:
        start = single_run(PLAIN, budget, num_groups=start_groups) if start_groups > 1 else single_run(PLAIN, budget)
    return Run(network, rate, seed, budget.steps, start=start.name, **fields)


def starts(results: Results, budget: Budget) -> list[Run]:
    """The weights that everything starts from."""
    return [single_run(PLAIN, budget), single_run(CNN_NETWORK, budget), single_run(PLAIN, budget, num_groups=2)]


def rates(results: Results, budget: Budget) -> list[Run]:
    """The same short grid of learning rates for each network, with a seed of its own."""
    runs = [scene_run(network, rate, 100, budget) for network in NETWORKS for rate in RATES]
    return [replace(run, steps=budget.grid_steps) for run in runs]


def best_rate(network: str, results: Results, budget: Budget) -> float:
    """The rate of the grid with the highest mAP on new designs, of last weights or their moving average."""

    def highest(run: Run) -> float:
        return max(results[run.name][weights]["val"]["mAP"] for weights in ("raw", "ema"))

    runs = [run for run in rates(results, budget) if run.network == network and run.name in results]
    if not runs:
        raise ValueError(f"No learning rate of {network!r} was tried: expected the stages 'starts' and 'rates' before")
    return max(runs, key=highest).learning_rate


def table_2(results: Results, budget: Budget) -> list[Run]:
    """The networks on the same patch nodes."""
    return [
        scene_run(network, best_rate(network, results, budget), seed, budget)
        for seed in budget.seeds
        for network in NETWORKS
    ]


HEADS = (PLAIN, "label nodes, G = 1", PAPER_NETWORK, "ViG, Q2L")


def every_rate(results: Results, budget: Budget, task: str) -> list[Run]:
    """The heads at each rate, in full length: short runs prefer a high one."""
    return [
        scene_run(network, rate, seed, budget, task=task)
        for network in HEADS
        for rate in RATES
        for seed in budget.seeds
    ]


WHY_NETWORK = "label nodes, G = 1"
WHY: dict[str, dict[str, Any]] = {  # what is changed → fields of the run
    "nothing": {},
    "no pooled patches in the logits": {"changes": {"pooled_patches": False}},
    "a second loss, of label nodes alone": {"label_loss": 1.0},
    "rate of all but patch nodes ÷ 5": {"label_rate": 0.2},
    "no pooled patches, rate ÷ 5": {"changes": {"pooled_patches": False}, "label_rate": 0.2},
    "second loss, rate ÷ 5": {"label_loss": 1.0, "label_rate": 0.2},
    "rate of all but patch nodes × 5": {"label_rate": 5.0},
    "3 patches a label": {"changes": {"num_label_neighbors": 3}},
    "classifiers start at N(0, 0.1)": {"changes": {"initializer_range": 0.1}},
}


def why(results: Results, budget: Budget) -> list[Run]:
    """What may keep label nodes from learning, one change at a time."""
    rate = best_rate(WHY_NETWORK, results, budget)
    return [scene_run(WHY_NETWORK, rate, seed, budget, **fields) for fields in WHY.values() for seed in budget.seeds]


LONGER = 4  # times the steps
LONG = (PLAIN, "label nodes, G = 1", PAPER_NETWORK)


def length(results: Results, budget: Budget) -> list[Run]:
    """Whether label nodes need longer training than a linear head."""
    return [
        longer(network, best_rate(network, results, budget), seed, budget) for seed in budget.seeds for network in LONG
    ]


def longer(network: str, rate: float, seed: int, budget: Budget) -> Run:
    """The run of table 2 with more steps."""
    return replace(scene_run(network, rate, seed, budget), steps=LONGER * budget.steps)


def table_4(results: Results, budget: Budget) -> list[Run]:
    """Groups in patch nodes and label nodes, each for itself; and with patch nodes that learned with groups."""
    rate = best_rate(PAPER_NETWORK, results, budget)
    return [
        scene_run(PAPER_NETWORK, rate, seed, budget, changes=changes)
        for seed in budget.seeds
        for changes in ({"num_label_groups": 1}, {"num_groups": 1, "num_label_groups": 2})
    ] + [scene_run(PAPER_NETWORK, rate, seed, budget, start_groups=2) for seed in budget.seeds]


def table_5(results: Results, budget: Budget) -> list[Run]:
    """Groups in learning single labels."""
    return [single_run(PLAIN, budget, seed, **change) for seed in budget.seeds for change in ({}, {"num_groups": 2})]


FIGURE_4 = (3, 2), (9, 2), (15, 2), (9, 4)  # neighbours of patch nodes and of label nodes, groups of both


def figure_4_run(neighbors: int, groups: int, rate: float, seed: int, budget: Budget) -> Run:
    """The run of table 2 with other numbers."""
    changes = {"num_neighbors": neighbors, "num_label_neighbors": neighbors} if neighbors != 9 else {}
    changes |= {"num_groups": groups} if groups != 2 else {}
    return scene_run(PAPER_NETWORK, rate, seed, budget, changes=changes)


def figure_4(results: Results, budget: Budget) -> list[Run]:
    """Numbers of neighbours and of groups, the paper's 9 and 2 among them."""
    rate = best_rate(PAPER_NETWORK, results, budget)
    return [figure_4_run(*numbers, rate, seed, budget) for seed in budget.seeds for numbers in FIGURE_4]


SMALL_SET = 2000  # pictures
LOSSES = ("paper", "asymmetric", "bce", "focal", "hill", "splc")
SMALL_LOSSES = LOSSES[:3]
LABELS = ("complete", "half", "single")


def small_run(rate: float, loss: str, seed: int, budget: Budget, labels: str = "complete") -> Run:
    """As many steps as the rates are tried with, on few pictures: what a recipe for a small set should say."""
    run = scene_run(PAPER_NETWORK, rate, seed, budget, loss=loss, labels=labels, pictures=SMALL_SET)
    return replace(run, steps=budget.grid_steps)


def small_set(results: Results, budget: Budget) -> list[Run]:
    """Learning rates and losses on few pictures."""
    return [small_run(rate, loss, seed, budget) for seed in budget.seeds for loss in SMALL_LOSSES for rate in RATES]


def losses(results: Results, budget: Budget) -> list[Run]:
    """Losses on few pictures, with complete labels and where annotators overlooked positives."""
    rate = best_rate(PAPER_NETWORK, results, budget)
    return [
        small_run(rate, loss, seed, budget, labels) for seed in budget.seeds for labels in LABELS for loss in LOSSES
    ]


STAGES: dict[str, Stage] = {
    "starts": starts,
    "rates": rates,
    "table 2": table_2,
    "full rates": partial(every_rate, task="scenes"),
    "tags": partial(every_rate, task="tags"),
    "why": why,
    "length": length,
    "table 4": table_4,
    "table 5": table_5,
    "figure 4": figure_4,
    "small set": small_set,
    "losses": losses,
}


def wanted_runs(stage: str, results: Results, budget: Budget) -> list[Run]:
    """The runs of a stage; ValueError if they need another stage before."""
    runs = STAGES[stage](results, budget)
    known = set(results) | {run.name for run in runs}
    if missing := {run.start for run in runs if run.start} - known:
        raise ValueError(
            f"Stage {stage!r} starts from {', '.join(sorted(missing))}: expected the stage 'starts' before"
        )
    return runs


def own_runs(stage: str, results: Results, budget: Budget) -> list[Run]:
    """The runs of a stage that no stage before it has."""
    before = list(STAGES)[: list(STAGES).index(stage)]
    known = {run.name for earlier in before for run in STAGES[earlier](results, budget)}
    return [run for run in STAGES[stage](results, budget) if run.name not in known]
