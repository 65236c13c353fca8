"""README's Python and commands, as written, in an empty folder; others run what needs a Hub or an export."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from .test_recipes import write_photos

README = Path(__file__).parents[1] / "README.md"


def blocks(language):
    text = re.sub(r"\n## (Share and load|Other runtimes)\n.*?(?=\n## )", "", README.read_text(), flags=re.DOTALL)
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_snippets_run_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = blocks("python")
    assert len(snippets) >= 4
    namespace = {}
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), namespace)
    assert namespace["outputs"].logits.shape == (2, 3)
    assert namespace["classify"].model.config.id2label[0] == "cat"
    assert (tmp_path / "three-labels" / "model.safetensors").is_file()
    assert namespace["evaluation"].num_images > 0


def test_fine_tuning_runs_as_written(tmp_path):
    write_photos(tmp_path / "photos", count=20)
    (commands,) = blocks("bash")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "20 images, 2 labels" in done.stdout
    assert "Validation mAP" in done.stdout
    assert json.loads((tmp_path / "metrics.json").read_text())["num_images"] > 0
    assert len(list(csv.DictReader((tmp_path / "labels.csv").open()))) == 40
