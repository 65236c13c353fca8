"""README's Python, as written, in an empty folder; what needs a Hub is run by test_hub_round_trips."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_snippets_run_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"\n## Share and load\n.*?(?=\n## )", "", README.read_text(), flags=re.DOTALL)
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(snippets) >= 4
    namespace = {}
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), namespace)
    assert namespace["outputs"].logits.shape == (2, 3)
    assert namespace["classify"].model.config.id2label[0] == "cat"
    assert (tmp_path / "my-gkgnet" / "model.safetensors").is_file()
