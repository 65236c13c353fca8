"""What the client processes of test_hub_round_trips do: push everything, then, in a fresh process, load everything."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from huggingface_hub.constants import HF_HUB_CACHE
from transformers import AutoBackbone, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

from gkgnet_hf import GKGNetBackbone, GKGNetForImageClassification, create_image_processor, load_released_checkpoint
from gkgnet_hf.cli import main
from gkgnet_hf.hub.push import push_folder
from gkgnet_hf.training import MultiLabelTrainer, MultiLabelTrainingArguments

from .fingerprint import IMAGE, PHOTO, fingerprint
from .test_models import WIDTHS, small_config

SMALL = {"embed_dims": WIDTHS, "depths": (1, 1, 2, 1), "img_size": 64}
REPO = "user/gkgnet-coco-576"

load = AutoModelForImageClassification.from_pretrained


def build(seed: int, **config: Any) -> GKGNetForImageClassification:
    torch.manual_seed(seed)
    return GKGNetForImageClassification(small_config(**config)).eval()


def describe(model: GKGNetForImageClassification) -> dict[str, Any]:
    """What every loader is to give for the model, its base model, backbone and pipeline."""
    backbone = GKGNetBackbone(model.config).eval()
    backbone.backbone.load_state_dict(model.gkgnet.backbone.state_dict())
    processor = create_image_processor(model.config)
    return {
        "classifier": fingerprint(model),
        "base": fingerprint(model.gkgnet),
        "backbone": fingerprint(backbone),
        "pipeline": pipeline("image-classification", model=model, image_processor=processor)(PHOTO),
        "processor": type(processor).__name__,
    }


def outcome(call: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any] | str:
    """The fingerprint of the model that the call gives, or what it raises."""
    try:
        return fingerprint(call(*arguments, **options))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def command(*words: str) -> list[Any]:
    """Exit code, stdout and stderr of gkgnet-hf."""
    sys.argv = ["gkgnet-hf", *words]
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            main()
        except SystemExit as stop:
            return [stop.code or 0, out.getvalue(), err.getvalue()]
    raise AssertionError("a command ends by SystemExit")


@contextmanager
def wrong_token() -> Iterator[None]:
    right = os.environ["HF_TOKEN"]
    os.environ["HF_TOKEN"] = "hf_wrong"
    yield
    os.environ["HF_TOKEN"] = right


def push_all(folder: str) -> dict[str, Any]:
    """Push everything, in a folder to work in; returns fingerprints of what was pushed, and more."""
    os.chdir(folder)
    return {
        "stale": outcome(load, "user/changed"),
        "interrupted": _push_three_times(),
        "models": _push_models(),
        "timm": _push_timm(),
        "trained": _push_while_training(),
        "folder": _push_folder(),
    }


def _push_three_times() -> dict[str, Any]:
    """The Hub refuses the content of the second part, then the commit, and then nothing."""
    model = build(7)
    model.save_pretrained("parts", max_shard_size="200KB")
    tries = []
    for _ in range(3):
        code, out, err = command("push", "parts", "user/interrupted")
        tries.append({"code": code, "out": out, "err": err, "sha": HfApi().model_info("user/interrupted").sha})
    return {"tries": tries, "fingerprint": fingerprint(model)}


def _push_models() -> dict[str, Any]:
    """Three states of one repository, and one in parts."""
    first, second, third = (build(seed) for seed in range(3))
    create_image_processor(first.config).push_to_hub(REPO)
    commit = first.push_to_hub(REPO).oid
    HfApi().create_tag(REPO, tag="v1")
    HfApi().create_branch(REPO, branch="next")
    second.push_to_hub(REPO)
    third.push_to_hub(REPO, revision="next")
    third.push_to_hub("user/parts", max_shard_size="200KB")
    return {
        "commit": commit,
        "fingerprints": [fingerprint(model) for model in (first, second, third)],
        "main": describe(second),
    }


def _push_timm() -> dict[str, Any]:
    model = timm.create_model("gkgnet_s", num_classes=3, **SMALL).eval()
    timm.models.push_to_hf_hub(model, "user/gkgnet_s", model_args=SMALL, safe_serialization=True)
    timm.models.save_for_hf(model, "timm-folder", model_args=SMALL, safe_serialization=True)
    push_folder("timm-folder", "user/timm-folder")
    return {"fingerprint": fingerprint(model)}


def _push_while_training() -> list[dict[str, Any]]:
    """What is pushed at each of two steps."""
    model = build(8)
    arguments = MultiLabelTrainingArguments(
        output_dir="trained",
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=2,
        report_to="none",
        push_to_hub=True,
        hub_model_id="user/trained",
        hub_token=os.environ["HF_TOKEN"],
        hub_strategy="every_save",
    )
    rows = [{"pixel_values": IMAGE[0], "labels": torch.tensor([1.0, 0, 0, -1, 1])}] * 4
    processor = create_image_processor(model.config)
    trainer = MultiLabelTrainer(model=model, args=arguments, train_dataset=rows, processing_class=processor)
    trainer.train()
    trainer.push_to_hub()
    return [describe(load(f"trained/checkpoint-{step}")) for step in (1, 2)]


def _push_folder() -> dict[str, Any]:
    """A folder with more in it than is published, on main of a private repository, a branch and in a pull request."""
    first, second = build(3), build(4)
    first.save_pretrained("folder")
    create_image_processor(first.config).save_pretrained("folder")
    Path("folder/checkpoint-1").mkdir()
    for name in ("optimizer.pt", "training_args.bin", "checkpoint-1/config.json", ".notes.md", "bad_images.csv"):
        Path("folder", name).write_text("{}")
    urls = [push_folder("folder", "user/folder", private=True)]
    second.save_pretrained("folder")
    urls.append(push_folder("folder", "user/folder", revision="try/second"))
    urls.append(push_folder("folder", "user/folder", create_pr=True))
    first.save_pretrained("folder")
    with wrong_token():
        refused = command("push", "folder", "user/folder")
    return {
        "main": describe(first),
        "fingerprints": [fingerprint(first), fingerprint(second)],
        "urls": urls,
        "public": command("push", "folder", REPO, "--private"),
        "wrong token": refused,
        "wrong name": command("push", "folder", "not a name"),
    }


def load_all(folder: str, first_commit: str, first_step: str, snippets: list[str]) -> dict[str, Any]:
    """Everything that is loaded, in a folder to work in: fingerprints, or what was raised.

    Args:
        first_commit, first_step: commits of `REPO` and of the repository that was pushed to while training.
    """
    os.chdir(folder)
    return {
        "wrong token": outcome(load, REPO, token="hf_wrong"),
        "interrupted": _load_until_it_works(),
        "models": [outcome(load, REPO, revision=revision) for revision in ("v1", first_commit, "main", "next")],
        "without classifier": outcome(AutoModel.from_pretrained, REPO),
        "backbones": [outcome(loader.from_pretrained, REPO) for loader in (AutoBackbone, GKGNetBackbone)],
        "pipeline": pipeline("image-classification", model=REPO)(PHOTO),
        "parts": outcome(load, "user/parts"),
        "pushed again": outcome(load, "user/interrupted"),
        "timm": outcome(_load_timm, "user/gkgnet_s"),
        "wrapped": outcome(_load_wrapped, "user/gkgnet_s"),
        "timm folder": [outcome(loader, "user/timm-folder") for loader in (_load_timm, _load_wrapped)],
        "trained": [outcome(load, "user/trained", revision=revision) for revision in (first_step, "main")],
        "processor": type(AutoImageProcessor.from_pretrained("user/trained")).__name__,
        "folder": [outcome(load, "user/folder", revision=name) for name in ("main", "try/second", "refs/pr/1")],
        "pickles": _load_pickles(),
        "safetensors beside a pickle": outcome(_load_timm, "user/timm-both"),
        "flipped": _flip_a_bit_of_the_tensors("user/trained"),
        "converted": _convert_and_push(),
        "README": _run_snippets(snippets),
    }


def _load_pickles() -> list[Any]:
    """From transformers, from timm, and from timm where the repository is given as a source for a model by name."""
    source = {"hf_hub_id": "user/timm-pickle", "num_classes": 3}
    return [
        outcome(load, "user/pickle"),
        outcome(_load_timm, "user/timm-pickle"),
        outcome(timm.create_model, "gkgnet_s", pretrained=True, pretrained_cfg=source, **SMALL),
        outcome(timm.create_model, "gkgnet_s", pretrained=True, pretrained_cfg_overlay=source, **SMALL),
    ]


def _load_timm(name: str) -> Any:
    return timm.create_model(f"hf-hub:{name}", pretrained=True).eval()


def _load_wrapped(name: str) -> Any:
    """A timm model by transformers' TimmWrapper."""
    model = load(name)
    assert type(model).__name__ == "TimmWrapperForImageClassification"
    return model


def _load_until_it_works() -> dict[str, Any]:
    """How often the download broke off, what was in the cache then, and the fingerprint at the end."""
    left = []
    for _ in range(10):
        try:
            with patch("time.sleep"):  # the client waits a second before each of its own attempts
                return {"left": left, "fingerprint": fingerprint(load("user/broken"))}
        except Exception:
            left.append([outcome(load, "user/broken", local_files_only=True), *_weights_in_cache()])
    raise AssertionError(left)


def _weights_in_cache() -> list[str]:
    return [str(path) for path in Path(HF_HUB_CACHE).rglob("*.safetensors")]


def _flip_a_bit_of_the_tensors(name: str) -> list[Any]:
    """What differs from the Hub before and after it, by the client's own check of the cache."""
    found = [HfApi().verify_repo_checksums(name).mismatches]
    weights = Path(hf_hub_download(name, "model.safetensors")).resolve()
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found.append([mismatch["path"] for mismatch in HfApi().verify_repo_checksums(name).mismatches])
    return found


def _convert_and_push() -> dict[str, Any]:
    """The patch nodes of a released file, by way of the command line, timm's format and the Hub."""
    done = [command("convert", "gkgnet_coco_576.pth", "patch-nodes", "--format", "timm")]
    done.append(command("push", "patch-nodes", "user/patch-nodes"))
    local = timm.create_model("local-dir:patch-nodes", pretrained=True).eval()
    wrapped = AutoModel.from_pretrained("user/patch-nodes")
    return {
        "codes": [code for code, _, _ in done],
        "local": fingerprint(local),
        "timm": fingerprint(_load_timm("user/patch-nodes")),
        "wrapped": fingerprint(wrapped, "pooler_output"),
    }


def _run_snippets(snippets: list[str]) -> Any:
    """README's Python in one namespace that has a model of one's own in it, and README's commands.

    What makes a card runs again after an edit of that card on the Hub.
    """
    namespace: dict[str, Any] = {
        "model": build(5, id2label={0: "cat", 1: "dog", 2: "tree"}),
        "classifier": timm.create_model("gkgnet_ti", num_classes=3).eval(),
    }
    pushed = [fingerprint(namespace[name]) for name in ("model", "classifier")]
    for snippet in snippets:
        if snippet.startswith("gkgnet-hf "):
            for line in snippet.splitlines():
                code, _, err = command(*shlex.split(line, comments=True)[1:])
                assert code == 0, err
        else:
            exec(compile(snippet, "README.md", "exec"), namespace)
            if "create_model_card" in snippet:
                card = ModelCard.load("user/my-gkgnet")
                card.text += "\n## Garden\n\nCats live there.\n"
                card.push_to_hub("user/my-gkgnet")
                exec(compile(snippet, "README.md", "exec"), namespace)
    loaded = [fingerprint(namespace[name].eval()) for name in ("model", "classifier")]
    converted = [fingerprint(load_released_checkpoint("gkgnet_coco_576.pth")), fingerprint(load("user/gkgnet-coco"))]
    return {"pushed": pushed, "loaded": loaded, "converted": converted}
