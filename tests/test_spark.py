"""The snippet for Spark in docs/predict.md, as written, on a local Spark."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from gkgnet_hf.predict import Predictor

from .test_collection import draw, model  # noqa: F401, a fixture
from .test_readme import ROOT, snippets

pytest.importorskip("pyspark")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, and none is installed"),
]

PRINT = """
import json
print(json.dumps({row.path.split("/")[-1]: [row.labels, row.scores, row.problem] for row in labelled.collect()}))
"""


def test_spark_labels_as_predictor_does(model, tmp_path):  # noqa: F811
    (tmp_path / "my-gkgnet").symlink_to(model)
    files = [draw(tmp_path / "photos" / f"{i}.png", i) for i in range(5)]
    (tmp_path / "photos" / "bad.png").write_bytes(b"no picture")
    (job,) = (text for text in snippets("docs/predict.md", "python") if "pyspark" in text)
    (tmp_path / "job.py").write_text(job + PRINT)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "job.py"],
        cwd=tmp_path,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = Predictor(model, threshold=0.6)({"image": [str(file) for file in files]})
    assert found.pop("bad.png")[::2] == [[], "it is not a picture of a known format"]
    assert sorted(found) == [file.name for file in files]
    for file, labels, scores in zip(files, expected["labels"], expected["scores"], strict=True):
        assert found[file.name][0] == labels
        assert found[file.name][1] == pytest.approx(scores.tolist(), abs=1e-3)
        assert found[file.name][2] == ""
