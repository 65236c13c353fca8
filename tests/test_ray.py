"""The Ray engine on a local cluster of two nodes, one of which is killed in the middle."""

import threading
import time
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from gkgnet_hf.predict import Predictor
from gkgnet_hf.predict.outputs import Parts
from gkgnet_hf.predict.rows import read_rows

from .test_collection import draw, label, model, rows_of  # noqa: F401, a fixture

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_that_dies_loses_nothing(cluster, model, tmp_path, monkeypatch):  # noqa: F811
    from gkgnet_hf.predict import ray_engine

    monkeypatch.setattr(ray_engine, "BLOCK_ROWS", 8)
    for i in range(120):
        draw(tmp_path / "many" / f"{i:03}.png", i)
    (tmp_path / "many" / "bad.png").write_bytes(b"no picture")
    predictor = Predictor(model, exact=True, threshold=0.5)
    output = tmp_path / "out.parquet"

    def kill():
        node = next(node for node in cluster.list_all_nodes() if not node.is_head())
        while not list(output.glob("*.parquet")):  # it has begun
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    parts = Parts(output, predictor.rules.names, predictor.manifest)
    done = ray_engine.label_on_ray(predictor, read_rows([tmp_path / "many"]), parts, batch_size=4)
    killer.join(timeout=1)
    assert not killer.is_alive()
    assert (done.labelled, done.failed) == (120, 1)
    rows = [row for part in sorted(output.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]
    assert Counter(row["image"] for row in rows) == Counter(
        str(path) for path in (tmp_path / "many").glob("[0-9]*.png")
    )
    label(model, [tmp_path / "many"], tmp_path / "alone.parquet")
    alone = {row["image"]: row["scores"] for row in rows_of(tmp_path / "alone.parquet")}
    for row in rows:
        np.testing.assert_allclose(row["scores"], alone[row["image"]], rtol=1e-4, atol=1e-6)

    again = ray_engine.label_on_ray(
        predictor, read_rows([tmp_path / "many"]), Parts(output, predictor.rules.names, predictor.manifest)
    )
    assert (again.labelled, again.skipped, again.failed) == (0, 120, 1)
