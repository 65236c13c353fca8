"""The sentences and tables of a model card, in Markdown. Each is empty where nothing is known."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import timm

from ..data.words import shown as readable
from ..modeling.configuration_gkgnet import VARIANTS, GKGNetConfig

# As the metadata names the licence of the released GKGNet weights.
RELEASED_LICENSE = "gkgnet-non-commercial"

# Longer tables are folded.
LONG_TABLE = 20

DECISIONS = ("CP", "CR", "CF1", "OP", "OR", "OF1")

# Fields of the patch nodes → arguments of the timm model.
TIMM_ARGUMENTS = {
    "num_channels": "in_chans",
    "hidden_sizes": "embed_dims",
    "depths": "depths",
    "pooling_ratios": "pool_ratios",
    "mlp_ratio": "mlp_ratio",
    "num_neighbors": "num_neighbors",
    "num_groups": "num_groups",
    "blocks_per_dilation": "blocks_per_dilation",
    "max_dilated_neighbors": "max_dilated_neighbors",
    "use_position_bias": "use_position_bias",
}

# Settings of a recipe and results of a run that a card shows, in this order.
TRAINING = {
    "dataset": "dataset",
    "train_split": "training split",
    "eval_split": "validation split",
    "model_name_or_path": "started from",
    "config": "configuration",
    "backbone_checkpoint": "patch nodes started from",
    "augmentation": "augmentation",
    "oversample_threshold": "repeat images with labels rarer than",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "per_device_train_batch_size": "batch size per device",
    "gradient_accumulation_steps": "gradient accumulation steps",
    "learning_rate": "learning rate",
    "lr_scheduler_type": "learning rate schedule",
    "lr_step_epochs": "learning rate × 0.1 at epochs",
    "warmup_steps": "warm-up (steps, or share of all steps)",
    "patch_learning_rate_factor": "learning rate factor of the patch nodes",
    "weight_decay": "weight decay",
    "max_grad_norm": "largest gradient norm",
    "ema_decay": "decay of the averaged weights",
    "bf16": "bfloat16",
    "fp16": "float16",
    "seed": "seed",
    "epoch": "epochs trained",
    "train_loss": "training loss",
    "train_runtime": "training time",
}
REPLACED_BY = {"num_train_epochs": "max_steps", "lr_scheduler_type": "lr_step_epochs"}


def describe(config: GKGNetConfig | Mapping[str, Any], name: str, revision: str | None = None) -> dict[str, Any]:
    """What the template says of the network, which is loaded by `name` and, from a repository, `revision`."""
    name, revision = _inside_quotes(name), revision and _inside_quotes(revision)
    loading = {"name": name, "revision": f', revision="{revision}"' if revision else "", "timm": False}
    if not isinstance(config, GKGNetConfig):
        at = f"@{revision}" if revision else ""
        source = f"{'hf-hub' if '/' in name else 'local-dir'}:{name}{at}"
        return {**loading, "timm": True, "source": source, **_describe_timm(config)}
    height, width = config.image_height_width
    sizes = {"hidden_sizes": tuple(config.hidden_sizes), "depths": tuple(config.depths)}
    variant = next((variant for variant, known in VARIANTS.items() if known == sizes), None)
    usual = GKGNetConfig.from_variant(variant or "s")
    arguments = {argument: _as_tuple(getattr(config, field)) for field, argument in TIMM_ARGUMENTS.items()}
    return {
        **loading,
        "network": f"GKGNet{f'-{variant.capitalize()}' if variant else ''}",
        "labels": list((config.id2label or {}).values()),
        "threshold": config.decision_threshold,
        "channels": config.num_channels,
        "height": height,
        "width": width,
        "timm_model": f"gkgnet_{variant or 's'}",
        "timm_arguments": {  # that differ from those of the model of this size
            argument: arguments[argument]
            for field, argument in TIMM_ARGUMENTS.items()
            if arguments[argument] != _as_tuple(getattr(usual, field))
        },
    }


def _describe_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    channels, *size = config["pretrained_cfg"]["input_size"]
    arguments = config.get("model_args") or {}
    built_for = arguments.get("img_size", size)  # the size of the position embedding
    height, width = built_for if isinstance(built_for, list) else (built_for, built_for)
    return {
        "network": code(config["architecture"]),
        "num_classes": config["num_classes"],
        "wrapped": "num_classes" not in arguments,  # transformers 5.23 fails on a second one
        "labels": [],
        "threshold": 0.5,
        "channels": arguments.get("in_chans", channels),
        "height": height,
        "width": width,
    }


def escape(text: str) -> str:
    r"""Text that Markdown shows as it is, on one line: nothing in it is markup, HTML, a formula or a link.

    >>> print(escape("dining_table | <b> http://a.b"))
    dining\_table \| \<b\> http\://a.b
    """
    return re.sub(r"([\\`*_\[\]|<>&~$@]|:(?=//)|(?<=www)\.)", r"\\\1", readable(" ".join(text.split())))


def code(text: str) -> str:
    """Text as code in a line of Markdown.

    >>> code("a`b"), code("a\\nb")
    ('`` a`b ``', '`a b`')
    """
    text = readable(" ".join(str(text).split()))
    if "`" not in text:
        return f"`{text}`"
    fence = "`" * (1 + max(map(len, re.findall("`+", text))))
    return f"{fence} {text} {fence}"


def _inside_quotes(text: str) -> str:
    """Text as it stands between double quotes in Python."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def result_sentence(evaluation: Mapping[str, Any], dataset: str | None) -> str:
    """The mAP, and the images that it was measured on; `dataset` is the name to show."""
    if not evaluation:
        return ""
    text = f"**mAP {_number(evaluation['metrics']['mAP'])}**"
    baseline = evaluation.get("random_baseline_mAP", evaluation.get("chance_mAP"))  # the second in version 0.1
    if baseline is not None:
        text += f" (random baseline {_number(baseline)})"
    images = f"{evaluation['num_images']:,} images" if "num_images" in evaluation else "images"
    split = f", split {escape(evaluation['split'])}" if evaluation.get("split") else ""
    return f"{text} on {images}{f' of {escape(dataset)}' if dataset else ''}{split}."


def result_table(evaluation: Mapping[str, Any], threshold: float | Sequence[float]) -> str:
    """Precision, recall and F1, and the mAP by object size; at `threshold` where they were measured at it."""
    if not evaluation:
        return ""
    measured = {"threshold 0.5": evaluation["metrics"]}
    if evaluation.get("fitted_metrics") and evaluation.get("threshold") == threshold:
        measured["the model's own thresholds"] = evaluation["fitted_metrics"]
    rows = [
        [f"{words}{top}", *(_number(metrics.get(name + suffix)) for name in DECISIONS)]
        for words, metrics in measured.items()
        for top, suffix in (("", ""), (", top 3", "_top3"))
    ]
    table = _table(["", *DECISIONS], rows)
    if sizes := evaluation.get("size_metrics"):
        named = ", ".join(f"{escape(name.removeprefix('mAP_'))} {_number(value)}" for name, value in sizes.items())
        table += f"\n\nmAP by object size: {named}."
    return table


def label_sentence(threshold: float | Sequence[float]) -> str:
    """When a label is predicted."""
    at = f"{threshold:g}" if isinstance(threshold, (int, float)) else "the label's threshold"
    return f"The model predicts a label when its score is at least {at} (`config.decision_threshold`)."


def label_table(labels: Sequence[str], threshold: float | Sequence[float], evaluation: Mapping[str, Any]) -> str:
    """A row for each label: its threshold, if it has one of its own, its AP and the number of its positive images."""
    if not labels:
        return ""
    columns: dict[str, Iterable[str]] = {"label": map(escape, labels)}
    if not isinstance(threshold, (int, float)):
        columns["threshold"] = (f"{value:.3f}" for value in threshold)
    if rows := evaluation.get("per_label"):
        columns["AP"] = (_number(row.get("AP")) for row in rows)
        columns["positive images"] = (f"{row['positives']:,}" if "positives" in row else "–" for row in rows)
    table = _table(list(columns), zip(*columns.values(), strict=True))
    if len(labels) <= LONG_TABLE:
        return table
    return f"<details><summary>All {len(labels):,} labels</summary>\n\n{table}\n\n</details>"


def training_table(training: Mapping[str, Any], datasets: Sequence[str]) -> str:
    """The settings and results that `TRAINING` names; `datasets` are names on the Hub."""
    rows = [
        [words, escape(_setting(name, training, datasets))]
        for name, words in TRAINING.items()
        if not _unset(training.get(name)) and _unset(training.get(REPLACED_BY.get(name, "")))
    ]
    return _table(["setting", "value"], rows) if rows else ""


def licence_text(metadata: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """The licence of the weights, from the fields of the metadata."""
    origin = code(metadata["converted_from"]) if metadata.get("converted_from") else ""
    if metadata.get("license_name") == RELEASED_LICENSE:
        text = (
            f"The weights come from released GKGNet weights{f' ({origin})' if origin else ''}, whose licence is "
            "non-commercial. Converted weights keep this licence, and so do weights that are fine-tuned from them. "
            "State it in the card of such weights."
        )
    elif origin:
        text = f"The weights were converted from {origin} and keep the licence of that file."
    elif metadata.get("license"):
        text = f"The licence of the weights is {code(metadata.get('license_name') or metadata['license'])}."
    else:
        text = "No licence is stated for these weights. `gkgnet-hf card FOLDER --license NAME` states one."
    if checkpoint := training.get("backbone_checkpoint"):
        text += f" Their patch nodes started from {code(shown(checkpoint))}, whose licence applies to them too."
    return text


def with_source_of_patch_nodes(training: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run, in which `backbone_checkpoint` is the file that the patch nodes started from, or None."""
    model, checkpoint = training.get("model_name_or_path"), training.get("backbone_checkpoint")
    if checkpoint == "none" or (checkpoint == "imagenet" and model not in VARIANTS):
        checkpoint = None
    elif checkpoint == "imagenet":
        source = timm.get_pretrained_cfg(f"gkgnet_{model}")
        checkpoint = source and (source.hf_hub_id or source.url)
    return {**training, "backbone_checkpoint": checkpoint}


def shown(source: str, on_hub: Sequence[str] = ()) -> str:
    """What a card calls a dataset or model: its name on the Hub, or the last part of its path.

    >>> shown("/home/me/photos"), shown("user/photos", on_hub=["user/photos"])
    ('photos', 'user/photos')
    """
    return source if source in on_hub else Path(source).name


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.1f}"


def _unset(value: Any) -> bool:
    return value is None or value is False or value == -1


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _setting(name: str, training: Mapping[str, Any], datasets: Sequence[str]) -> str:
    value = training[name]
    if name == "model_name_or_path" and value in VARIANTS:
        resized = {"hidden_sizes", "depths"} & {*(training.get("config") or ())}
        return "an untrained network" if resized else f"an untrained GKGNet-{value.capitalize()}"
    if name in ("dataset", "model_name_or_path", "backbone_checkpoint"):
        return shown(value, datasets)
    if name == "train_runtime" and 0 <= value < 1e12:
        return str(timedelta(seconds=round(value)))
    if isinstance(value, dict):
        return ", ".join(f"{field}: {item}" for field, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "yes" if value is True else f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(header: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
