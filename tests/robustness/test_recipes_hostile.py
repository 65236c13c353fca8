"""Recipes of strangers: what is no plain list of settings is one error that names the file."""

import pytest

from gkgnet_hf.training.recipe import read_recipe

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "alias bomb": BOMB,
    "alias of itself": "config: &c {a: *c}\n",
    "tag that runs code": "dataset: !!python/object/apply:os.system ['touch canary']\n",
    "tag of bytes": "dataset: !!binary aGVsbG8=\n",
    "tag of a set": "dataset: !!set {a, b}\n",
    "tag of its own": "dataset: !mine x\n",
    "mapping where text belongs": "dataset: {a: b}\n",
    "mapping where a number belongs": "dataset: d\nlearning_rate: {a: 1}\n",
    "list where a number belongs": "dataset: d\nlearning_rate: [1, 2]\n",
    "number beyond floats": "dataset: d\nmax_steps: 1e999\n",
    "key that is no name": "'a=b': c\ndataset: d\n",
    "key with a dash": "--dataset: d\n",
    "key that is a list": "[a, b]: c\n",
    "key that is a number": "1: c\ndataset: d\n",
    "key given twice": "dataset: a\ndataset: b\n",
    "deep nesting": "config: " + "[" * 5000 + "]" * 5000 + "\n",
    "deep mappings": "config: " + "{a: " * 500 + "1" + "}" * 500 + "\n",
    "a list": "- a\n- b\n",
    "text": "hello\n",
    "two documents": "dataset: a\n---\ndataset: b\n",
    "control characters": "dataset: a\x07b\n",
    "tabs": "dataset:\n\t- a\n",
    "unknown argument": "dataset: d\nevil: 1\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_recipe_is_one_error_that_names_it(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(HOSTILE[kind])
    with pytest.raises(ValueError, match=r"recipe\.yaml|learning_rate|max_steps") as error:
        read_recipe(["recipe.yaml"])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "canary").exists()


def test_what_is_no_text_or_too_large_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_bytes(b"dataset: \xff\xfe\n")
    with pytest.raises(ValueError, match=r"recipe\.yaml is no UTF-8 text"):
        read_recipe(["recipe.yaml"])
    (tmp_path / "recipe.yaml").write_text("# " + "x" * 2_000_000)
    with pytest.raises(ValueError, match=r"recipe\.yaml is no recipe: it has 2,000,002 bytes"):
        read_recipe(["recipe.yaml"])
