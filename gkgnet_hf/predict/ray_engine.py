"""Label a collection on a Ray cluster (https://docs.ray.io/en/latest/data/data.html): as many machines as there are.

Every machine must see the pictures and the output under the same paths. Ray starts a failed task again, on another
machine if its own is gone, and such a task writes the same file again; so every row is written once.
"""

import time
from collections.abc import Iterable
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .collection import Summary
from .outputs import Parts, Result, results_table
from .predictor import Predictor
from .rows import Row

BLOCK_ROWS = 256  # pictures in a task, which are labelled again if its machine goes away


def label_on_ray(
    predictor: Predictor,
    rows: Iterable[Row],
    output: Parts,
    address: str | None = None,
    batch_size: int = 16,
    num_actors: int | None = None,
    on_bad_image: Literal["error", "skip"] = "skip",
) -> Summary:
    """Label every row that has no result yet, as `label_collection` does.

    Args:
        predictor: is sent to each actor, which loads the model.
        rows: pictures in files of their own.
        output: a folder of parts.
        address: of the cluster, as for `ray.init`; default, one of this machine alone.
        batch_size: pictures the network sees at once.
        num_actors: most processes that label; default, one for each GPU of the cluster, else for each core.
        on_bad_image: as in `label_collection`.

    Raises:
        ValueError: for a row that is no file of its own; with "error", for pictures that cannot be used, after the
            others are labelled.

    Example:

        label_on_ray(Predictor("my-gkgnet"), read_rows(["photos"]), Parts("labels.parquet", names, {}))
    """
    start = time.monotonic()
    blocks, skipped = _blocks(rows, output)
    before = set(output.parts())
    if blocks:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False)
        # On this machine, so that it lives as long as the run.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        problems: Any = _Problems.options(num_cpus=0, scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        gpus, cores = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
        labelled = ray.data.from_arrow(blocks).map_batches(
            _Labeller,
            batch_size=batch_size,
            batch_format="pyarrow",
            fn_constructor_args=[predictor, problems],
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors or gpus or max(1, cores)),
            num_gpus=1 if gpus else None,
        )
        labelled.write_parquet(str(output.folder))
        for image, problem in sorted(ray.get(problems.all.remote()).items()):
            output.fail(Row(image, image), problem)
    output.close()
    if output.problems and on_bad_image == "error":
        image, problem = output.problems[0]
        raise ValueError(f"{image}: {problem}")
    count = sum(pq.read_metadata(part).num_rows for part in set(output.parts()) - before)
    return Summary(count, skipped, len(output.problems), time.monotonic() - start)


def _blocks(rows: Iterable[Row], output: Parts) -> tuple[list[pa.Table], int]:
    """The files of rows without a result, in tables of a column `image`; and how many rows have one."""
    files, skipped = [], 0
    for row in rows:
        if not isinstance(row.image, str):
            raise ValueError(f"Ray reads pictures that are files of their own, {row.id} is none")
        if output.is_done(row):
            skipped += 1
        else:
            files.append(row.id)
    tables = [pa.table({"image": files[i : i + BLOCK_ROWS]}) for i in range(0, len(files), BLOCK_ROWS)]
    return tables, skipped


@ray.remote
class _Problems:
    """Collects the pictures that cannot be used; a task that runs twice says the same twice."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def add(self, found: dict[str, str]) -> None:
        self.found |= found

    def all(self) -> dict[str, str]:
        return self.found


class _Labeller:
    """What an actor does with a batch: a table of files → a table of results."""

    def __init__(self, predictor: Predictor, problems: Any) -> None:
        self.predictor = predictor
        self.problems = problems

    def __call__(self, batch: pa.Table) -> pa.Table:
        files = batch["image"].to_pylist()
        found = self.predictor({"image": files})
        if problems := {file: problem for file, problem in zip(files, found["problem"], strict=True) if problem}:
            ray.get(self.problems.add.remote(problems))
        results = [
            Result(
                Row(file, file),
                list(zip(found["labels"][i], found["label_scores"][i], strict=True)),
                found["scores"][i],
                found["embedding"][i] if "embedding" in found else None,
            )
            for i, file in enumerate(files)
            if file not in problems
        ]
        return results_table(results)
