"""Cards of timm models, whose Python runs here from a folder; test_card_on_hub runs that of a repository."""

import json
import re
from pathlib import Path

import pytest
import timm
from timm.models import save_for_hf

from gkgnet_hf.hub.card import write_card

from .test_models import WIDTHS


def save_timm(folder, name, converted=True, **arguments):
    """A folder as timm writes it, or as `gkgnet-hf convert` does."""
    arguments |= {"embed_dims": WIDTHS, "depths": (1, 1, 2, 1), "img_size": 64}
    save_for_hf(timm.create_model(name, **arguments), folder, model_args=arguments, safe_serialization=True)
    if converted:
        timm_config = json.loads((folder / "config.json").read_text())
        del timm_config["model_args"]["num_classes"]
        (folder / "config.json").write_text(json.dumps(timm_config))


def python(card):
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("name", "arguments", "what", "output"),
    [
        ("pvig_s", {"num_classes": 5}, "an image classifier with 5 classes for timm and transformers.", (1, 5)),
        (
            "gkgnet_s",
            {"num_classes": 0, "head_hidden_size": 0},
            "a backbone for timm and transformers.",
            (1, WIDTHS[3], 2, 2),
        ),
    ],
)
def test_a_converted_timm_model_runs_as_its_card_says(tmp_path, monkeypatch, name, arguments, what, output):
    monkeypatch.chdir(tmp_path)
    save_timm(Path("net"), name, **arguments)
    card = write_card("net").read_text()
    assert f"This `{name}` is {what}" in " ".join(card.split())
    assert "built for images of 64 × 64 pixels" in card
    with_timm, with_transformers = python(card)
    exec(with_timm, namespace := {})
    assert [feature.shape[-1] for feature in namespace["features"]] == [16, 8, 4, 2]
    *lines, last = with_transformers.splitlines()
    exec("\n".join([*lines, f"output = {last}"]), namespace)
    assert namespace["output"].shape == output


def test_a_timm_card_speaks_of_transformers_only_where_that_loads_it(tmp_path):
    save_timm(tmp_path / "net", "pvig_s", converted=False, num_classes=5)
    card = write_card(tmp_path / "net").read_text()
    assert "for timm. It treats" in card
    assert len(python(card)) == 1
