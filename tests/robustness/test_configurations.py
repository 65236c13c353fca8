"""A damaged or hostile configuration is one clear error before anything is built; no file of a folder runs code."""

import json
import os
import select
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageClassification, ViTImageProcessor

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.hub.card import folder_card
from gkgnet_hf.hub.model_folder import read_config
from gkgnet_hf.hub.push import find_model_files
from gkgnet_hf.modeling.configuration_gkgnet import MAX_PARAMETERS, count_parameters
from gkgnet_hf.modeling.image_processing_gkgnet import load_image_processor
from gkgnet_hf.modeling.original_files import read_state_dict
from gkgnet_hf.predict import load_model
from gkgnet_hf.training import create_model

from ..test_models import NUM_LABELS, small_config
from .load_mutated import load_as_predict
from .mutations import mutations

# What a case may take before it counts as hung. It only ends a test that would never end.
GUARD = 300
# transformers reads the file before it knows whose configuration it is; what it raises until then is its own.
BEFORE_OURS = ("AutoModelForImageClassification", "AutoImageProcessor")
EVALUATION = {"metrics": {"mAP": 50.0, "CF1": 40.0}, "dataset": "photos", "split": "test", "num_images": 10}
RECIPE = {"dataset": "photos", "model_name_or_path": "ti", "learning_rate": 1e-4, "config": {"depths": [1, 1, 2, 1]}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    config = small_config()
    GKGNetForImageClassification(config).save_pretrained(folder)
    create_image_processor(config).save_pretrained(folder)
    for file in folder.glob("*.py"):
        file.unlink()
    rows = [{"label": f"LABEL_{i}", "AP": 50.0, "positives": 3} for i in range(NUM_LABELS)]
    (folder / "evaluation.json").write_text(json.dumps({**EVALUATION, "per_label": rows}))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def rewrite(folder, name="config.json", **fields):
    file = folder / name
    content = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({field: value for field, value in content.items() if value is not ...}))


def load_all(saved, place, cases):
    """Number of the case, file, what was done, entrance, kind of outcome and message, of every case and entrance.

    The cases run in a process of bounded memory; a new one goes on where it hangs or dies.
    """
    (place / "cases.json").write_text(json.dumps(cases))
    words = [sys.executable, "-m", "tests.robustness.load_mutated", saved, place / "cases.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    results, first = [], 0
    while first < len(cases):
        with subprocess.Popen(
            [*map(str, words), str(first)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=Path(__file__).parents[2],
        ) as process:
            text, kind = b"", "hang"
            while select.select([process.stdout], [], [], GUARD)[0]:
                if not (piece := os.read(process.stdout.fileno(), 1 << 16)):
                    kind = "crash"
                    break
                text += piece
            process.kill()
        found = [json.loads(line) for line in text.splitlines()]
        done = not found[-1:] or found[-1][3] == "end"
        results += [each for each in found if each[3] != "end"]
        if done and found:
            break
        bad = found[-1][0] + 1 if found and found[-1][3] == "predict" else found[-1][0] if found else first
        results.append([bad, *cases[bad][:2], "process", kind, ""])
        first = bad + 1
    return results


def check_mutations(saved, place, count, seed, capsys):
    configs = mutations(json.loads((saved / "config.json").read_text()), dir(GKGNetConfig), seed, count * 55 // 100)
    processor = json.loads((saved / "preprocessor_config.json").read_text())
    processors = mutations(processor, dir(ViTImageProcessor), seed, count * 25 // 100)
    evaluations = mutations(json.loads((saved / "evaluation.json").read_text()), [], seed, count // 10)
    recipes = mutations(RECIPE, [], seed, count // 10)
    files = {
        "config.json": configs,
        "preprocessor_config.json": processors,
        "evaluation.json": evaluations,
        "recipe.yaml": recipes,
    }
    cases = [(file, how, data.hex()) for file, changed in files.items() for how, data in changed]
    results = load_all(saved, place, cases)
    assert {each[0] for each in results} == set(range(len(cases)))
    ours = [each for each in results if each[3] not in BEFORE_OURS or _reaches_us(each)]
    with capsys.disabled():
        print(f"\n{len(cases)} damaged files, {len(results)} loads with seed {seed}:")
        for entrance in dict.fromkeys(each[3] for each in results):
            kinds = Counter(each[4] for each in results if each[3] == entrance)
            print(f"  {entrance}: {', '.join(f'{number} {kind}' for kind, number in sorted(kinds.items()))}")
    assert not [each for each in ours if each[4] not in ("works", "one error")]
    assert not [each for each in results if each[4] in ("hang", "crash")]
    assert not [each for each in ours if len(each[5]) > 1500 or not each[5].replace("\n", " ").isprintable()]


def _reaches_us(result):
    """Whether transformers' Auto classes get as far as our configuration with this file."""
    _, file, how, entrance, _, message = result
    if entrance == "AutoImageProcessor" or file != "config.json":
        return False
    return not (
        how.startswith("text ")
        or "auto_map" in how
        or "configuration_files" in how
        or "maximum recursion depth" in message
        or ("model_type" in how and "unhashable type" in message)
    )


def test_a_damaged_folder_is_one_error_or_works(saved, tmp_path, capsys):
    check_mutations(saved, tmp_path, 60, 0, capsys)


@pytest.mark.slow
def test_a_thousand_damaged_folders_are_one_error_each_or_work(saved, tmp_path, capsys):
    check_mutations(saved, tmp_path, 1000, 1, capsys)


HUGE = {
    "blocks of labels": (dict(num_label_blocks=[10**9, 1, 1, 1]), "at most 1,000 blocks together, got 1000000008"),
    "depths": (dict(depths=[1, 10**9, 1, 1]), "at most 1,000 blocks together"),
    "depths beyond int64": (dict(depths=[1, 10**30, 1, 1]), "at most 1,000 blocks together"),
    "stages": (dict(depths=[1] * 10_000), "at most 10 stages, got 10,000"),
    "widths": (dict(hidden_sizes=[16, 24, 40, 10**6]), r"a network of 24\d{12} parameters, more than 500,000,000"),
    "feed-forward": (dict(mlp_ratio=10**6), r"a network of \d+ parameters, more than 500,000,000"),
    "channels": (dict(num_channels=10**9), r"a network of 72\d{9} parameters, more than 500,000,000"),
    "image": (dict(image_size=10**6), "at most 4096 pixels a side, got 1000000"),
    "image of terabytes": (
        dict(image_size=4096, pooling_ratios=[1, 1, 1, 1]),
        "position bias of stage 1 has 2,147,483",
    ),
    "neighbours": (dict(num_neighbors=10**9), "num_neighbors must be at most 1,024"),
    "neighbours of labels": (dict(num_label_neighbors=10**9), "num_label_neighbors must be at most 1,024"),
    "labels": (dict(num_labels=10**9, id2label=..., label2id=...), "num_labels must be at most 1,000,000"),
}


@pytest.mark.parametrize("field", HUGE)
def test_a_network_that_no_machine_should_build_is_an_error_with_its_number(folder, field):
    fields, message = HUGE[field]
    rewrite(folder, **fields)
    for load in (AutoConfig.from_pretrained, AutoModelForImageClassification.from_pretrained, read_config):
        with pytest.raises(ValueError, match=message):
            load(folder)
    for load in (load_model, lambda name: create_model(["cat"], name)):
        with pytest.raises(ValueError, match=message):
            load(str(folder))


def test_the_number_of_parameters_is_known_before_the_network_is_there(capsys):
    torch.manual_seed(0)
    for number in range(50):
        stages = int(torch.randint(1, 6, ()))

        def some(low, high, factor=1, stages=stages):
            return [factor * value for value in torch.randint(low, high, (stages,)).tolist()]

        one = torch.randint(1, 6, (4,)).tolist()
        config = GKGNetConfig(
            hidden_sizes=some(1, 9, 4),
            depths=some(1, 4),
            pooling_ratios=some(1, 2),
            num_label_blocks=some(0, 1 if number % 4 == 0 else 3),
            num_labels=one[0],
            num_channels=one[1],
            mlp_ratio=one[2],
            image_size=(64 + one[3], 130),
        )
        with torch.device("meta"):
            model = GKGNetForImageClassification(config)
        assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    assert 4 * count_parameters(GKGNetConfig.from_variant("b", num_labels=1000)) < MAX_PARAMETERS
    with capsys.disabled():
        print("\n50 networks have the parameters that were counted before")


SHADOWS = [
    "to_dict",
    "__class__",
    "__dict__",
    "image_height_width",
    "smallest_image",
    "from_dict",
    "attribute_map",
    "self",
]
FIELDS = {
    **{name: ({name: 1}, f"A configuration has no field {name}") for name in SHADOWS},
    "dtype of no name": (dict(dtype="float99"), "dtype must be one of float32, .*, got 'float99'"),
    "dtype of a module": (dict(torch_dtype="nn", dtype=...), "dtype must be one of float32, .*, got 'nn'"),
    "dtype of integers": (dict(dtype="int8"), "dtype must be one of float32"),
    "kernel of the Hub": (dict(attn_implementation="user/kernel"), "attn_implementation must be eager or sdpa"),
    "private kernel": (dict(_attn_implementation="user/kernel"), "no field _attn_implementation"),
    "code": (dict(auto_map={"AutoConfig": 3}), "auto_map must be a mapping"),
    "infinite": (dict(gamma_negative=float("inf")), "gamma_negative must be finite, got inf"),
    "not a number": (dict(initializer_range=float("nan")), "initializer_range must be at least 0, got nan"),
    "switch as number": (dict(num_groups=True), "num_groups.*expected int, got bool"),
    "half a letter": (dict(id2label={"0": "\ud800"}, label2id=...), "half a character in '\\\\ud800'"),
    "switch as id": (dict(label2id={"cat": True}, id2label=...), "label2id must be a mapping of names to ids"),
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_transformers_would_trip_over_is_named(folder, field):
    fields, message = FIELDS[field]
    rewrite(folder, **fields)
    for load in (GKGNetConfig.from_pretrained, GKGNetForImageClassification.from_pretrained, read_config):
        with pytest.raises(ValueError, match=message) as caught:
            load(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[]", "null", "3", '"text"', "", "{", "[" * 10**5, "\ufeff{}", "\x00", '{"a": ' * 10**4]
)
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_file_that_is_no_object_is_one_error_wherever_we_read_it(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises((ValueError, OSError), match="model"):
        load_as_predict(folder)
    if name == "config.json":
        for load in (find_model_files, folder_card):
            with pytest.raises(ValueError, match=r"config\.json"):
                load(folder)


CONTRADICTIONS = {
    "swapped": ({"0": "cat", "1": "dog"}, {"cat": 1, "dog": 0}, "they differ in cat, dog"),
    "swapped as text": ({"0": "cat", "1": "dog"}, {"cat": "1", "dog": "0"}, "they differ in cat, dog"),
    "another name": ({"0": "cat", "1": "dog"}, {"cat": 0, "owl": 1}, "they differ in owl"),
    "defaults of names": ({"0": "LABEL_0", "1": "LABEL_1"}, {"cat": 0, "dog": 1}, "they differ in cat, dog"),
    "moved defaults": ({"0": "LABEL_0", "1": "LABEL_1"}, {"LABEL_0": 1, "LABEL_1": 0}, "differ in LABEL_0, LABEL_1"),
}


@pytest.mark.parametrize("labels", CONTRADICTIONS)
def test_labels_that_contradict_each_other_start_nothing(labels, tmp_path):
    """Fine-tuning would start labels from the rows of others."""
    config = small_config(id2label={0: "cat", 1: "dog"})
    GKGNetForImageClassification(config).save_pretrained(tmp_path)
    names, ids, message = CONTRADICTIONS[labels]
    rewrite(tmp_path, id2label=names, label2id=ids)
    for load in (
        lambda: AutoModelForImageClassification.from_pretrained(tmp_path),
        lambda: create_model(["dog"], str(tmp_path)),
        lambda: read_config(tmp_path),
    ):
        with pytest.raises(
            ValueError,
            match=f"label2id must be the inverse of id2label, but {'' if 'they' in message else 'they '}{message}",
        ):
            load()


def test_fine_tuning_takes_the_rows_of_labels_of_the_same_name_and_of_no_other(tmp_path):
    torch.manual_seed(0)
    source = GKGNetForImageClassification(small_config(id2label={0: "cat", 1: "dog", 2: "owl"}))
    source.patch_classifier.bias.data = torch.tensor([1.0, 2.0, 3.0])
    source.save_pretrained(tmp_path)
    tuned = create_model(["fox", "owl", "cat"], str(tmp_path))
    assert tuned.patch_classifier.bias.tolist() == [0.0, 3.0, 1.0]
    rewrite(tmp_path, label2id={"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2})  # says nothing, so that id2label counts
    assert torch.equal(
        create_model(["fox", "owl", "cat"], str(tmp_path)).patch_classifier.bias, tuned.patch_classifier.bias
    )


PROCESSORS = {
    "mean of two": (dict(image_mean=[0.5, 0.5]), "image_mean must have one value for each of 3 channels, got 2"),
    "deviation of four": (dict(image_std=[0.5] * 4), "image_std must have one value for each of 3 channels, got 4"),
    "deviation of 0": (dict(image_std=[0.5, 0, 0.5]), "image_std must be positive"),
    "mean of NaN": (dict(image_mean=[0.5, float("nan"), 0.5]), "image_mean must be a list of numbers"),
    "mean of text": (dict(image_mean="mean"), "image_mean must be a list of numbers"),
    "size below 0": (dict(size={"height": -1, "width": 64}), "height of size must be from 1 to 4096 pixels, got -1"),
    "size of gigabytes": (dict(size={"height": 10**5, "width": 10**5}), "height of size must be from 1 to 4096 pixels"),
    "one size of gigabytes": (dict(size=10**5), "size must be from 1 to 4096 pixels, got 100000"),
    "size of text": (dict(size="large"), "size must be from 1 to 4096 pixels, got 'large'"),
    "crop": (dict(do_center_crop=True, crop_size=10**9), "crop_size must be from 1 to 4096 pixels"),
    "resample": (dict(resample=99), "resample must be from 0 to 5, got 99"),
    "factor": (dict(rescale_factor=float("inf")), "rescale_factor must be a positive number, got inf"),
    "switch": (dict(do_resize="yes"), "do_resize must be true or false, got 'yes'"),
    "unknown class": (dict(image_processor_type="EvilProcessor"), "must be the name of an image processor"),
    "no processor": (dict(image_processor_type="AutoModel"), "must be the name of an image processor"),
    "a path": (dict(image_processor_type="../evil.Evil"), "must be the name of an image processor"),
    "class of another type": (dict(image_processor_type=3), "must be the name of an image processor"),
    "method": (dict(preprocess="x"), "no field 'preprocess': it would hide"),
    "private method": (dict(_preprocess=1), "no field '_preprocess': it would hide|cannot be used"),
    "device": (dict(device="cuda:99"), "cannot be used|must give"),
}


@pytest.mark.parametrize("case", PROCESSORS)
def test_a_processor_that_cannot_prepare_images_is_one_error(folder, case):
    fields, message = PROCESSORS[case]
    rewrite(folder, "preprocessor_config.json", **fields)
    with pytest.raises(ValueError, match=message) as caught:
        load_image_processor(str(folder), 3)
    assert "\n" not in str(caught.value)
    assert "trust_remote_code" not in str(caught.value)


EVIL = "from pathlib import Path\nPath({!r}).touch()\nclass Evil:\n    pass\n"


@pytest.mark.parametrize("kind", ["ViTImageProcessor", "EvilProcessor", ...])
@pytest.mark.parametrize("name", ["preprocessor_config.json", "config.json", "processor_config.json"])
def test_code_that_comes_with_a_model_is_neither_run_nor_offered(folder, name, kind, tmp_path, monkeypatch):
    def asked(*args):
        raise AssertionError("a question on the terminal")

    monkeypatch.setattr("builtins.input", asked)
    (folder / "evil.py").write_text(EVIL.format(str(tmp_path / "ran")))
    autos = ("AutoConfig", "AutoModel", "AutoModelForImageClassification", "AutoImageProcessor", "AutoFeatureExtractor")
    fields = {"auto_map": {auto: "evil.Evil" for auto in autos}}
    if name == "processor_config.json":
        processor = json.loads((folder / "preprocessor_config.json").read_text())
        (folder / name).write_text("{}")
        fields = {"image_processor": {**processor, **fields}, **fields}
    rewrite(folder, name, **fields)
    rewrite(folder, "preprocessor_config.json", image_processor_type=kind)
    find_model_files(folder)
    if kind == "EvilProcessor" and name != "processor_config.json":  # which counts before the other file
        with pytest.raises(ValueError, match="must be the name of an image processor of transformers") as caught:
            load_as_predict(folder)
        assert "trust_remote_code" not in str(caught.value)
    else:
        load_as_predict(folder)
    assert not (tmp_path / "ran").exists()


INDEX = "model.safetensors.index.json"


def index(part="model-00001-of-00001.safetensors", **others):
    return {"metadata": {"total_size": 1}, "weight_map": {"patch_classifier.bias": part}, **others}


INDEXES = {
    "absolute": index("/etc/hostname.safetensors"),
    "above": index("../secret.safetensors"),
    "below": index("sub/model.safetensors"),
    "windows": index("..\\secret.safetensors"),
    "a pickle": index("pytorch_model.bin"),
    "number": index(3),
    "null": index(None),
    "list": [],
    "text": "text",
    "no map": {"metadata": {}},
    "map of another type": index(weight_map=[]),
    "metadata of another type": index(metadata=3),
    "no metadata": {"weight_map": {}},
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_leads_elsewhere_is_one_error(folder, case):
    (folder / "model.safetensors").rename(folder.parent / "secret.safetensors")
    (folder / INDEX).write_text(json.dumps(INDEXES[case]))
    for load in (AutoModelForImageClassification.from_pretrained, find_model_files):
        with pytest.raises(ValueError, match=INDEX):
            load(folder)


def header(size, text=b"{}"):
    return size.to_bytes(8, "little") + text


TENSOR = {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}
WEIGHTS = {
    "header of 2^60": header(2**60),
    "header of 2^64": header(2**64 - 1),
    "header of 100 MB": header(10**8, b" " * 100),
    "header as list": header(2, b"[]"),
    "deep header": header(200_000, b"[" * 200_000),
    "offsets beyond": header(len(t := json.dumps({"a": {**TENSOR, "data_offsets": [0, 2**60]}}).encode()), t),
    "shape of 2^60": header(len(t := json.dumps({"a": {**TENSOR, "shape": [2**60]}}).encode()), t),
    "shape that overflows": header(len(t := json.dumps({"a": {**TENSOR, "shape": [2**40, 2**40]}}).encode()), t),
    "shape below 0": header(len(t := json.dumps({"a": {**TENSOR, "shape": [-5]}}).encode()), t),
    "unknown dtype": header(len(t := json.dumps({"a": {**TENSOR, "dtype": "F99"}}).encode()), t),
    "pickle": b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.",
    "text": b"text",
    "nothing": b"",
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_with_a_hostile_header_are_one_error(folder, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").write_bytes(WEIGHTS[case])
    for load in (AutoModelForImageClassification.from_pretrained, find_model_files, lambda _: load_model(str(folder))):
        with pytest.raises(ValueError, match=r"safetensors|weights"):
            load(folder)
    with pytest.raises(ValueError, match="cannot be read as"):
        read_state_dict(folder / "model.safetensors")
    assert not (tmp_path / "ran").exists()


SHAPES = {
    "rows": lambda tensor: tensor[None],
    "longer": lambda tensor: tensor.repeat(100),
    "scalar": lambda tensor: tensor[0].clone(),
    "empty": lambda tensor: tensor[:0],
}
KINDS = [torch.int64, torch.bool, torch.complex64]


@pytest.mark.parametrize("change", [*SHAPES, *KINDS], ids=str)
def test_tensors_of_another_shape_or_kind_are_one_error(folder, change):
    tensors, name = load_file(folder / "model.safetensors"), "patch_classifier.bias"
    tensors[name] = SHAPES[change](tensors[name]) if change in SHAPES else tensors[name].to(change)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=name):
        find_model_files(folder)
    if change in SHAPES:  # transformers makes floats of other numbers
        for load in (AutoModelForImageClassification.from_pretrained, lambda _: load_model(str(folder))):
            with pytest.raises((ValueError, RuntimeError), match=name):
                load(folder)


def test_a_recipe_whose_aliases_stand_for_billions_of_values_is_one_error(folder):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
    ]
    for text in ("\n".join(lines), "config: &a {b: *a}", "config: " + "[" * 10_000):
        (folder / "recipe.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"recipe\.yaml (cannot be read|must hold at most 1,000,000 values)"):
            folder_card(folder)
