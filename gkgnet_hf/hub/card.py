"""A model card from what is known of a model."""

import math
import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ..modeling.configuration_gkgnet import VARIANTS, GKGNetConfig
from . import card_text
from .card_files import CARD_FILE, EVALUATION_FILE, read_config, read_evaluation, read_text, read_training
from .card_licenses import LICENSES
from .card_merge import UNKNOWN, as_list, merge_cards, merge_metadata, merge_results, merge_text, parse_card, remember
from .card_model import describe
from .card_text import RELEASED_LICENSE

# Metrics of the metadata: name → type on the Hub.
METRIC_TYPES = {"mAP": "mAP", "CF1": "f1", "OF1": "f1"}


def write_card(folder: str | os.PathLike[str], **options: Any) -> Path:
    """Write README.md of a model's folder; arguments and errors are those of `folder_card`.

    Returns:
        Path of the card.

    Example:

        write_card("my-gkgnet", repo_id="user/my-gkgnet", license="mit")
    """
    card = folder_card(folder, **options)
    path = Path(folder, CARD_FILE)
    remember(card, new=not path.is_file())
    unfinished = path.with_name(f"_{CARD_FILE}")
    card.save(unfinished)
    unfinished.replace(path)  # at once: a card that people wrote into is never half there
    return path


def folder_card(
    folder: str | os.PathLike[str],
    *,
    repo_id: str | None = None,
    revision: str | None = None,
    published: str | None = None,
    config: GKGNetConfig | Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    **metadata: Any,
) -> ModelCard:
    """The card of a model's folder, from what the folder holds.

    That is config.json (of GKGNet, or timm's of a `gkgnet_*` or `pvig_*`) and, where they are, recipe.yaml,
    all_results.json, evaluation.json and an earlier README.md.

    Args:
        folder: of a model.
        repo_id: name on the Hub that the snippets load; default the name of the folder.
        revision: branch on the Hub that the snippets load; default `main`.
        published: text of the card on the Hub, see `published_card`; what people wrote there is kept too.
        config: in place of config.json.
        evaluation, training: what stands for evaluation.json and recipe.yaml where there is no such file.
        **metadata: as in `create_model_card`.

    Raises:
        FileNotFoundError: if there is no config.json.
        ValueError: if a file is not what it should be, or `repo_id` no name on the Hub; as in `create_model_card`.
    """
    folder = Path(folder)
    if repo_id is not None:
        _check_repo_id(repo_id)
    return create_model_card(
        config or read_config(folder),
        repo_id or folder.resolve().name,
        revision=revision,
        evaluation=read_evaluation(folder) or evaluation,
        training=read_training(folder, training or {}),
        earlier=read_text(folder / CARD_FILE),
        published=published,
        **metadata,
    )


def create_model_card(
    config: GKGNetConfig | Mapping[str, Any],
    name: str,
    *,
    revision: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    earlier: str | None = None,
    published: str | None = None,
    **metadata: Any,
) -> ModelCard:
    """A model card: metadata, use, labels, results, training, limits, licence, citation.

    Args:
        config: of the model; of a timm model what its config.json holds.
        name: what the snippets load, "user/name" on the Hub or a folder.
        revision: branch on the Hub that the snippets load; default `main`.
        evaluation: as `Evaluation.to_dict` gives it; `dataset` and `split` may say on what.
        training: settings and results, by the names of a recipe and of the Trainer's metrics.
        earlier, published: texts of README.md so far, in the model's folder and on the Hub. What stands outside of
            their generated part is kept, and so are metadata that are not generated, as `card_merge` explains.
        **metadata: fields that go before those of earlier cards, as `license="mit"`, `datasets="user/photos"`,
            `base_model="user/net"`, `language="en"`; None is as if not given. The licence of the released GKGNet
            weights is called "gkgnet-non-commercial"; `converted_from` names the file that weights were converted from.

    Raises:
        ValueError: for an evaluation that is none or of other labels; an earlier card whose metadata cannot be read or
            whose generated part has no end; a dataset or base model that cannot be a name on the Hub; a licence that
            the Hub does not know, or another one for weights that keep that of the released ones.

    >>> card = create_model_card(GKGNetConfig.from_variant("ti"), "user/pets", license="mit")
    >>> card.data.license, card.data.pipeline_tag, "## Use" in card.text
    ('mit', 'image-classification', True)
    """
    evaluation, training = evaluation or {}, training or {}
    kept = merge_cards(
        parse_card(earlier, CARD_FILE) if earlier else None,
        parse_card(published, f"{CARD_FILE} on the Hub") if published else None,
    )
    network = describe(config, name, None if revision == "main" else revision)
    labels, threshold = network["labels"], network["threshold"]
    _check_evaluation(evaluation, labels)
    fields = merge_metadata(metadata, kept, network["timm"])
    datasets = as_list(fields.get("datasets"))
    dataset = card_text.shown(evaluation["dataset"], datasets) if evaluation.get("dataset") else None
    if evaluation:
        fields["metrics"] = list(dict.fromkeys(METRIC_TYPES.values()))
    if results := merge_results(_results(evaluation, dataset, datasets), kept):
        fields |= {"model_name": name.split("/")[-1], "eval_results": results}
    card = ModelCard.from_template(
        ModelCardData(**fields),
        template_str=(files(__package__) / "card_template.md").read_text(encoding="utf-8"),
        **{**network, "labels": [card_text.escape(label) for label in labels]},
        title=card_text.escape(name.split("/")[-1]),
        result_sentence=card_text.result_sentence(evaluation, dataset),
        result_table=card_text.result_table(evaluation, threshold),
        label_sentence=card_text.label_sentence(threshold),
        label_table=card_text.label_table(labels, threshold, evaluation),
        training_table=card_text.training_table(training, datasets),
        licence=card_text.licence_text(fields, training),
    )
    card.text = merge_text(re.sub(r"\n{3,}", "\n\n", card.text), kept)
    return card


def published_card(repo_id: str, revision: str | None = None, token: str | bool | None = None) -> str | None:
    """Text of the card of a model on the Hub; None if there is none.

    Example:

        write_card("my-gkgnet", repo_id="user/my-gkgnet", published=published_card("user/my-gkgnet"))
    """
    try:
        return read_text(Path(hf_hub_download(repo_id, CARD_FILE, revision=revision, token=token)))
    except (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError):
        return None


def inherited_metadata(model: str) -> dict[str, Any]:
    """What the card of a network that is trained from `model` takes over: the base model on the Hub, the licence.

    Args:
        model: as in `create_model`, a size (which hands nothing on), a folder, a name on the Hub, or a released file.

    >>> inherited_metadata("ti")
    {}
    """
    path = Path(model)
    if model in VARIANTS:
        return {}
    if path.is_file():
        return {"license": RELEASED_LICENSE, "converted_from": path.name}
    if path.is_dir():
        base, text = {}, read_text(path / CARD_FILE)
    else:
        base = {"base_model": model}
        try:
            text = published_card(model)
        except EntryNotFoundError:  # the weights are in the cache, the card is not, and there is no network
            text = None
    fields = parse_card(text, f"{CARD_FILE} of {model}").fields if text else {}
    licence = fields.get("license", {})
    if licence.get("license", "other") not in LICENSES:  # a Hub may know more of them
        licence = {"license": "other", "license_name": str(licence["license"])}
    origin = {"converted_from": fields["converted_from"]} if "converted_from" in fields else {}
    return base | licence | origin


def _check_repo_id(repo_id: str) -> None:
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"repo_id must be user/name, got {repo_id!r}")


def _results(evaluation: Mapping[str, Any], dataset: str | None, datasets: list[str]) -> list[EvalResult]:
    """Entries of the metadata's model-index; on the Hub a dataset has its name as a type."""
    metrics = evaluation.get("metrics", {})
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Multi-label image classification",
            dataset_type=datasets[0] if datasets else UNKNOWN,
            dataset_name=dataset or (datasets[0] if datasets else UNKNOWN),
            dataset_split=evaluation.get("split"),
            metric_type=kind,
            metric_name=metric,
            metric_value=round(metrics[metric], 2),
        )
        for metric, kind in METRIC_TYPES.items()
        if metrics.get(metric) is not None and not math.isnan(metrics[metric])
    ]


def _check_evaluation(evaluation: Mapping[str, Any], labels: list[str]) -> None:
    metrics = evaluation.get("metrics") if evaluation else {"mAP": None}
    if not isinstance(metrics, Mapping) or "mAP" not in metrics:
        raise ValueError(
            f"The evaluation ({EVALUATION_FILE}) must hold metrics with an mAP, as `gkgnet-hf evaluate --json` prints "
            f"it, got {', '.join(map(str, evaluation))}"
        )
    measured = [row.get("label") for row in evaluation.get("per_label") or []]
    if measured and measured != labels:
        raise ValueError(
            f"The evaluation ({EVALUATION_FILE}) must be of the model's {len(labels)} labels "
            f"({', '.join(labels[:3])}, …), got {len(measured)} ({', '.join(map(str, measured[:3]))}, …)"
        )
