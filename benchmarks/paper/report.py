"""From results to tables and plots: the paper's figure beside ours, with the spread of the seeds."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import stats

from . import plan
from .networks import NETWORKS
from .plan import PAPER_NETWORK, PLAIN, Budget, Results, Run

# What the paper reports: mAP on COCO at 448 pixels (Tables 2 and 4), accuracy on ImageNet (Table 5).
IN_PAPER = {"ViG, linear head": 82.5, "label nodes, G = 1": 85.5, "label nodes, G = 2": 86.7}
IN_PAPER_SINGLE = {"G = 1": 78.2, "G = 2": 79.3}


DESIGNS = {"val": "New designs", "known": "Known designs"}  # set of validation scenes → what its cut-outs are


def value(results: Results, run: Run, metric: str = "mAP", weights: str = "ema", designs: str = "val") -> float:
    """A metric of a run; NaN if it has not run."""
    return results[run.name][weights][designs].get(metric, np.nan) if run.name in results else np.nan


def mean_and_deviation(values: Sequence[float]) -> str:
    """Such as `71.8 ± 1.7 (3)`: mean, standard deviation and number of seeds."""
    known = np.array([v for v in values if np.isfinite(v)])
    if not len(known):
        return "not run"
    return f"{known.mean():.1f}" + (f" ± {known.std(ddof=1):.1f} ({len(known)})" if len(known) > 1 else " (1)")


def interval(differences: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of two or more differences, and the ends of its 95 % interval by Student's t."""
    half = stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    return differences.mean(), differences.mean() - half, differences.mean() + half


def paired_difference(values: Sequence[float], others: Sequence[float]) -> str:
    """Mean of the differences of equal seeds, with its interval."""
    differences = np.array(values) - np.array(others)
    differences = differences[np.isfinite(differences)]
    if len(differences) < 2:
        return "—"
    return "{:+.1f} ({:+.1f} … {:+.1f})".format(*interval(differences))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


class Report:
    """Everything that the report says of one set of validation scenes, from results and budget alone."""

    def __init__(self, results: Results, budget: Budget, designs: str):
        self.results, self.budget, self.designs = results, budget, designs
        self.rate = {network: plan.best_rate(network, results, budget) for network in NETWORKS}

    def of(self, runs: Sequence[Run], metric: str = "mAP", weights: str = "ema") -> list[float]:
        """A metric of each run."""
        return [value(self.results, run, metric, weights, self.designs) for run in runs]

    def runs(self, network: str, **fields: object) -> list[Run]:
        """One run of each seed."""
        return [plan.scene_run(network, self.rate[network], seed, self.budget, **fields) for seed in self.budget.seeds]

    def values(self, network: str, metric: str = "mAP", weights: str = "ema", **fields: object) -> list[float]:
        """A metric of each seed."""
        return self.of(self.runs(network, **fields), metric, weights)

    def table_2(self) -> str:
        """Heads on the same patch nodes."""
        base = self.values(PLAIN)
        rows = []
        for network in NETWORKS:
            mine = self.values(network)
            runs = [run for run in self.runs(network) if run.name in self.results]
            size = f"{self.results[runs[0].name]['num_parameters'] / 1e6:.1f} M" if runs else "—"
            raw = mean_and_deviation(self.values(network, weights="raw"))
            row = [network, size, f"{self.rate[network]:g}", raw, mean_and_deviation(mine)]
            paper = f"{IN_PAPER[network]:.1f}" if network in IN_PAPER else "—"
            rows.append([*row, "—" if network == PLAIN else paired_difference(mine, base), paper])
        header = ["network", "parameters", "rate", "mAP, last weights", "mAP, EMA", "EMA − linear head", "paper"]
        return markdown(header, rows)

    def every_rate(self, task: str) -> str:
        """Heads at each rate; differences are between the best rates, those with the highest mean on new designs."""
        runs: dict[str, dict[float, list[Run]]] = {network: {} for network in plan.HEADS}
        for run in plan.every_rate(self.results, self.budget, task):
            runs[run.network].setdefault(run.learning_rate, []).append(run)
        best = {
            network: max(tried, key=lambda mine: sum(value(self.results, run) for run in mine))
            for network, rates in runs.items()
            if (tried := [mine for mine in rates.values() if all(run.name in self.results for run in mine)])
        }
        rows = []
        for network, rates in runs.items():
            cells = [mean_and_deviation(self.of(mine)) for mine in rates.values()]
            rate = f"{best[network][0].learning_rate:g}" if network in best else "—"
            compared = network != PLAIN and network in best and PLAIN in best
            difference = paired_difference(self.of(best[network]), self.of(best[PLAIN])) if compared else "—"
            rows.append([network, *cells, rate, difference])
        return markdown(["network", *(f"{rate:g}" for rate in plan.RATES), "best rate", "best − linear head"], rows)

    def why(self) -> str:
        """What label nodes and pooled patches say alone, and where label nodes look, after one change each."""
        metrics = ("mAP_label_nodes", "mAP_pooled_patches", "common_patches", "variance")
        base = self.values(plan.WHY_NETWORK)
        rows = []
        for name, fields in plan.WHY.items():
            mine = self.values(plan.WHY_NETWORK, **fields)
            if np.isnan(mine).all():
                continue
            difference = paired_difference(mine, base) if fields else "—"
            looks = (mean_and_deviation(self.values(plan.WHY_NETWORK, metric, **fields)) for metric in metrics)
            rows.append([name, mean_and_deviation(mine), difference, *(look.replace("not run", "—") for look in looks)])
        header = ["changed", "mAP, EMA", "− unchanged", "label nodes alone", "pooled patches alone"]
        return markdown([*header, "patches common to two labels, %", "variance between images, %"], rows)

    def length(self) -> str:
        """Longer training."""
        rows, base = [], []
        for network in plan.LONG:
            runs = [plan.longer(network, self.rate[network], seed, self.budget) for seed in self.budget.seeds]
            mine = self.of(runs)
            base = base or mine
            short, long = map(mean_and_deviation, (self.values(network), mine))
            rows.append([network, short, long, "—" if network == PLAIN else paired_difference(mine, base)])
        steps = [f"{factor * self.budget.steps:,} steps" for factor in (1, plan.LONGER)]
        return markdown(["network", *steps, "longer: − linear head"], rows)

    def table_4(self) -> str:
        """Patch groups and label groups, each for itself."""
        variants: list[tuple[str, str, str, str, dict]] = [
            ("1", "none", "1", PLAIN, {}),
            ("1", "1", "1", "label nodes, G = 1", {}),
            ("2", "1", "1", PAPER_NETWORK, {"changes": {"num_label_groups": 1}}),
            ("1", "2", "1", PAPER_NETWORK, {"changes": {"num_groups": 1, "num_label_groups": 2}}),
            ("2", "2", "1", PAPER_NETWORK, {}),
            ("2", "2", "2", PAPER_NETWORK, {"start_groups": 2}),
        ]
        base = self.values("label nodes, G = 1")
        rows = []
        for patches, labels, start, network, fields in variants:
            mine = self.values(network, **fields)
            difference = "—" if mine == base else paired_difference(mine, base)
            # The paper's patch nodes with groups learned single labels with groups (its Table 5).
            paper = f"{IN_PAPER[network]:.1f}" if start == patches and not fields.get("changes") else "—"
            rows.append([patches, labels, start, mean_and_deviation(mine), difference, paper])
        header = ["groups of patch nodes", "of label nodes", "of patch nodes in learning single labels"]
        return markdown([*header, "mAP, EMA", "− (1, 1, 1)", "paper"], rows)

    def table_5(self) -> str:
        """Groups where each picture has one label."""
        found = {}
        for groups, changes in (("G = 1", {}), ("G = 2", {"num_groups": 2})):
            runs = [plan.single_run(PLAIN, self.budget, seed, **changes) for seed in self.budget.seeds]
            found[groups] = [value(self.results, run, "accuracy") for run in runs]
        rows = [
            [groups, mean_and_deviation(mine), paired_difference(mine, found["G = 1"]), f"{IN_PAPER_SINGLE[groups]}"]
            for groups, mine in found.items()
        ]
        rows[0][2] = "—"
        return markdown(["network", "accuracy, EMA", "− (G = 1)", "paper, ImageNet"], rows)

    def table_6(self) -> str:
        """mAP by the size of the largest object of the label."""
        sizes = ("mAP_small", "mAP_medium", "mAP_large")
        rows = []
        for network in NETWORKS:
            row = [network, *(mean_and_deviation(self.values(network, size)) for size in sizes)]
            small = paired_difference(self.values(network, "mAP_small"), self.values(PLAIN, "mAP_small"))
            rows.append([*row, "—" if network == PLAIN else small])
        return markdown(["network", "small", "medium", "large", "small − linear head"], rows)

    def table_7(self) -> str:
        """Every seed."""
        rows = [
            [network, *("not run" if np.isnan(v) else f"{v:.1f}" for v in self.values(network))] for network in NETWORKS
        ]
        return markdown(["network", *(f"seed {seed}" for seed in self.budget.seeds)], rows)

    def figure_4(self) -> str:
        """Numbers of neighbours and groups."""
        rate, base = self.rate[PAPER_NETWORK], self.values(PAPER_NETWORK)
        rows = []
        for numbers in plan.FIGURE_4:
            runs = [plan.figure_4_run(*numbers, rate, seed, self.budget) for seed in self.budget.seeds]
            mine = self.of(runs)
            difference = "—" if numbers == (9, 2) else paired_difference(mine, base)
            rows.append([*map(str, numbers), mean_and_deviation(mine), difference])
        return markdown(["K", "G", "mAP, EMA", "− (9, 2)"], rows)

    def losses(self) -> str:
        """Losses, with complete labels and with positives that annotators overlooked."""
        rate = self.rate[PAPER_NETWORK]
        rows = [[loss, *(self.small(rate, loss, labels) for labels in plan.LABELS)] for loss in plan.LOSSES]
        return markdown(["loss", "complete", "half of the positives missing", "one positive an image"], rows)

    def small_set(self) -> str:
        """Learning rates and losses on few pictures."""
        rows = [[loss, *(self.small(rate, loss) for rate in plan.RATES)] for loss in plan.SMALL_LOSSES]
        return markdown(["loss", *(f"{rate:g}" for rate in plan.RATES)], rows)

    def small(self, rate: float, loss: str, labels: str = "complete") -> str:
        """mAP on few pictures."""
        return mean_and_deviation(
            self.of([plan.small_run(rate, loss, seed, self.budget, labels) for seed in self.budget.seeds])
        )

    def rates(self) -> str:
        """The grid from which each network's rate was taken."""
        found: dict[str, list[str]] = {}
        for run in plan.rates(self.results, self.budget):
            found.setdefault(run.network, []).append(f"{value(self.results, run, designs=self.designs):.1f}")
        return markdown(
            ["network", *(f"{rate:g}" for rate in plan.RATES)], [[name, *row] for name, row in found.items()]
        )

    def plot(self, axes: Axes) -> None:
        """A row for each network: a dot for each seed, a line at the mean."""
        for row, network in enumerate(NETWORKS):
            values = [v for v in self.values(network) if np.isfinite(v)]
            axes.plot(values, [row] * len(values), "o", color="tab:blue", alpha=0.6)
            if values:
                axes.plot([np.mean(values)] * 2, [row - 0.3, row + 0.3], color="black")
        axes.set_yticks(range(len(NETWORKS)), list(NETWORKS))
        axes.set_title(DESIGNS[self.designs], fontsize="medium")
        axes.set_xlabel("mAP of each seed; line: mean")
        axes.spines[["top", "right"]].set_visible(False)


SECTIONS: list[tuple[str, str, Callable[[Report], str]]] = [  # title, stage whose runs it needs, table
    ("Table 2: heads on the same patch nodes", "table 2", Report.table_2),
    ("Each rate in full length", "full rates", partial(Report.every_rate, task="scenes")),
    ("Tags of drawings: heads on the same patch nodes", "tags", partial(Report.every_rate, task="tags")),
    ("What keeps label nodes from helping", "why", Report.why),
    ("Training length", "length", Report.length),
    ("Table 4: groups of patch nodes and of label nodes", "table 4", Report.table_4),
    ("Table 5: groups where each picture has one label", "table 5", Report.table_5),
    ("Table 6: by size of the object", "table 2", Report.table_6),
    ("Table 7: every seed", "table 2", Report.table_7),
    ("Figure 4: neighbours and groups", "figure 4", Report.figure_4),
    (f"Learning rates on {plan.SMALL_SET:,} pictures", "small set", Report.small_set),
    (f"Losses on {plan.SMALL_SET:,} pictures", "losses", Report.losses),
    ("Learning rates tried", "rates", Report.rates),
]


def write_report(folder: Path, results: Results, budget: Budget) -> None:
    """Write tables.md, without the tables of stages that did not run, and mAP.png into the folder."""
    reports = {title: Report(results, budget, designs) for designs, title in DESIGNS.items()}
    parts = []
    for title, stage, section in SECTIONS:
        if not any(run.name in results for run in plan.own_runs(stage, results, budget)):
            continue
        tables = {name: section(report) for name, report in reports.items()}
        parts.append(f"## {title}\n")
        if len(set(tables.values())) == 1:  # single labels have one set of validation pictures
            parts.append(next(iter(tables.values())))
        else:
            parts.extend(f"{name}:\n\n{table}" for name, table in tables.items())
    (folder / "tables.md").write_text("\n".join(parts))
    figure, axes = plt.subplots(1, len(reports), figsize=(9, 2.8), sharey=True, layout="constrained")
    for report, part in zip(reports.values(), axes, strict=True):
        report.plot(part)
    axes[0].invert_yaxis()
    figure.savefig(folder / "mAP.png", dpi=150)
    plt.close(figure)
