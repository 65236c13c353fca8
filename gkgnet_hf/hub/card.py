"""Model cards: the text between two marks is this package's, everything else belongs to the author.

Generated fields of the metadata are rewritten each time, and other fields are kept. Nothing is merged. The closing
mark holds a digest of the card, which tells whether somebody has edited it since it was written.
"""

import hashlib
import math
import os
import re
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from ..files import written_whole
from ..modeling.configuration_gkgnet import VARIANTS, GKGNetConfig
from . import card_text
from .card_text import RELEASED_LICENSE
from .model_folder import CARD_FILE, EVALUATION_FILE, read_config, read_evaluation, read_text, read_training

START = "<!-- gkgnet-hf: start. This part is written anew each time. What you write above or below it is kept. -->"
# At the start of a line: a label may be called like a mark, but never stands there.
END = re.compile(r"^<!-- gkgnet-hf: end *(\w*).*?-->", re.MULTILINE)
GENERATED = re.compile(f"^<!-- gkgnet-hf: start.*?{END.pattern}", re.DOTALL | re.MULTILINE)

TASK = "Multi-label image classification"
METRIC_TYPES = {"mAP": "mAP", "CF1": "f1", "OF1": "f1"}  # name → type on the Hub
TAGS = ("gkgnet", "graph-neural-network", "multi-label", "timm")
GENERATED_FIELDS = ("library_name", "pipeline_tag", "metrics", "model-index", "tags")
LICENCE_FIELDS = ("license", "license_name", "license_link")

# The description in the card that transformers' `push_to_hub` makes for a repository without one.
TRANSFORMERS_DESCRIPTION = (
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has been "
    "automatically generated."
)


class EditedCardError(ValueError):
    """Somebody has edited the card on the Hub, and the model's folder holds a card with other text."""


class Author(NamedTuple):
    """What the author of a card wrote: the text above and below the generated part, metadata, tags and results."""

    above: str = ""
    below: str = ""
    fields: Mapping[str, Any] = {}
    tags: tuple[Any, ...] = ()
    results: tuple[EvalResult, ...] = ()


def write_card(folder: str | os.PathLike[str], **options: Any) -> Path:
    """Write README.md of a model's folder. The arguments and errors are those of `folder_card`.

    Returns:
        Path of the card.

    Example:

        write_card("my-gkgnet", repo_id="user/my-gkgnet", license="mit")
    """
    card = folder_card(folder, **options)
    with written_whole(folder) as unfinished:
        card.save(unfinished / CARD_FILE)
    return Path(folder, CARD_FILE)


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
    """The card of a model's folder, made from the files in it.

    These are config.json (of GKGNet, or timm's of a `gkgnet_*` or `pvig_*`) and, where they exist, recipe.yaml,
    all_results.json, evaluation.json and README.md.

    Args:
        folder: of a model.
        repo_id: name on the Hub that the snippets load; default the name of the folder.
        revision: branch on the Hub that the snippets load; default `main`.
        published: text of the card on the Hub, see `published_card`. A folder without a card takes over what people
            wrote in it.
        config: used in place of config.json.
        evaluation, training: used where there is no evaluation.json or recipe.yaml.
        **metadata: as in `create_model_card`.

    Raises:
        EditedCardError: as in `check_card`.
        FileNotFoundError: if there is no config.json.
        ValueError: if a file has wrong content, or `repo_id` cannot be a name on the Hub; as in `create_model_card`.
    """
    folder = Path(folder)
    if repo_id is not None:
        validate_repo_id(repo_id)
        if "/" not in repo_id:
            raise ValueError(f"repo_id must be user/name, got {repo_id!r}")
    check_card(folder, repo_id, revision, published)
    earlier = read_text(folder / CARD_FILE)
    return create_model_card(
        config or read_config(folder),
        repo_id or folder.resolve().name,
        revision=revision,
        evaluation=read_evaluation(folder) or evaluation,
        training=read_training(folder, training or {}),
        earlier=published if earlier is None else earlier,
        **metadata,
    )


def check_card(
    folder: str | os.PathLike[str], repo_id: str | None, revision: str | None, published: str | None
) -> None:
    """Raise an EditedCardError that says what to do, if a push of the folder would lose what people wrote on the Hub.

    That is the case if somebody edited the card `published` since this package wrote it, and the folder's own card
    differs from it outside of the generated part, unless `hf download` has fetched it into the folder in between.
    """
    path = Path(folder, CARD_FILE)
    earlier = read_text(path)
    if earlier is None or published is None or _author(published) == _author(earlier, str(path)):
        return
    if _is_edited(published) and not _is_fetched(path, published):
        at = f" --revision {revision}" if revision else ""
        raise EditedCardError(
            f"Somebody edited the card of {repo_id} on the Hub. To keep their text, run `hf download {repo_id} "
            f"{CARD_FILE}{at} --local-dir {shlex.quote(str(folder))}`, which replaces {path}, and try again. To "
            "replace their card by yours, run `gkgnet-hf push` with --overwrite-card."
        )


def create_model_card(
    config: GKGNetConfig | Mapping[str, Any],
    name: str,
    *,
    revision: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    earlier: str | None = None,
    **metadata: Any,
) -> ModelCard:
    """A model card: metadata, use, labels, results, training, limits, licence, citation.

    The Hub checks the metadata when the card is pushed, for instance whether it knows the licence.

    Args:
        config: of the model; for a timm model the content of its config.json.
        name: what the snippets load, "user/name" on the Hub or a folder.
        revision: branch on the Hub that the snippets load; default `main`.
        evaluation: as `Evaluation.to_dict` gives it; `dataset` and `split` may say what was evaluated.
        training: settings and results, by the names of a recipe and of the Trainer's metrics.
        earlier: text of the card so far. The text outside of its generated part and its other metadata are kept.
        **metadata: fields that replace those of `earlier`, such as `license="mit"`, `datasets="user/photos"`,
            `base_model="user/net"` or `language="en"`; None stands for a field that is not given. The licence of the
            released GKGNet weights is "gkgnet-non-commercial"; `converted_from` names the file that weights were
            converted from.

    Raises:
        ValueError: for an evaluation without metrics or of other labels; an earlier card whose metadata cannot be read
            or whose generated part has no end; a dataset or base model that cannot be a name on the Hub; another
            licence for weights that keep the one of the released weights.

    >>> card = create_model_card(GKGNetConfig.from_variant("ti"), "user/pets", license="mit")
    >>> card.data.license, card.data.pipeline_tag, "## Use" in card.text
    ('mit', 'image-classification', True)
    """
    evaluation, training = evaluation or {}, card_text.with_source_of_patch_nodes(training or {})
    author = _author(earlier, CARD_FILE) if earlier else Author()
    network = card_text.describe(config, name, None if revision == "main" else revision)
    labels, threshold = network["labels"], network["threshold"]
    _check_evaluation(evaluation, labels)
    fields = _metadata(metadata, author, network["timm"])
    datasets = _as_list(fields.get("datasets"))
    dataset = card_text.shown(evaluation["dataset"], datasets) if evaluation.get("dataset") else None
    if evaluation:
        fields["metrics"] = list(dict.fromkeys(METRIC_TYPES.values()))
    if results := [*_results(evaluation, dataset, datasets), *author.results]:
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
    text = re.sub(r"\n{3,}", "\n\n", card.text).strip()
    generated = f"{START}\n{text}\n<!-- gkgnet-hf: end -->"
    card.text = "\n\n".join(part for part in (author.above, generated, author.below) if part) + "\n"
    card.text = card.text.replace(generated, END.sub(f"<!-- gkgnet-hf: end {_digest(str(card))} -->", generated))
    return card


def published_card(repo_id: str, revision: str | None = None, token: str | bool | None = None) -> str | None:
    """Text of the card of a model on the Hub; None if there is none.

    Example:

        write_card("my-gkgnet", repo_id="user/my-gkgnet", published=published_card("user/my-gkgnet"))
    """
    try:
        return read_text(Path(hf_hub_download(repo_id, CARD_FILE, revision=revision, token=token)), links=True)
    except (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError):
        return None


def inherited_metadata(model: str) -> dict[str, Any]:
    """What the card of a network that is trained from `model` takes over: the base model on the Hub, the licence.

    Args:
        model: as in `create_model`: a size (which hands nothing on), a folder, a name on the Hub, or a released file.

    >>> inherited_metadata("ti")
    {}
    """
    path = Path(model)
    if model in VARIANTS:
        return {}
    if path.is_file():
        return {"license": RELEASED_LICENSE, "converted_from": path.name}
    if path.is_dir():
        base, text = {}, read_text(path / CARD_FILE, links=True)  # of the Hub's cache; nothing but the licence is taken
    else:
        base = {"base_model": model}
        try:
            text = published_card(model)
        except EntryNotFoundError:  # the weights are in the cache, the card is not, and there is no network
            text = None
    fields = _author(text, f"{CARD_FILE} of {model}").fields if text else {}
    return base | {name: fields[name] for name in (*LICENCE_FIELDS, "converted_from") if name in fields}


def _author(text: str, where: str = f"{CARD_FILE} on the Hub") -> Author:
    """What the author wrote in a card; `where` names it in errors. Text without a generated part belongs below it."""
    try:
        card = ModelCard(text)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{where}: its metadata cannot be read: {error}") from error
    generated = GENERATED.search(card.text)
    if generated is None and re.search("^<!-- gkgnet-hf: start", card.text, re.MULTILINE):
        raise ValueError(f"{where} has the start of a generated part but not its end, <!-- gkgnet-hf: end -->")
    above, below = "", "" if _is_empty_template(card) else card.text
    if generated:
        above, below = card.text[: generated.start()], card.text[generated.end() :]
    return Author(
        above.strip("\n"),
        below.strip("\n"),
        {name: value for name, value in card.data.to_dict().items() if name not in GENERATED_FIELDS},
        tuple(tag for tag in _as_list(card.data.get("tags")) if tag not in TAGS),
        tuple(result for result in card.data.get("eval_results") or () if result.task_name != TASK),
    )


def _is_edited(text: str) -> bool:
    """Whether somebody wrote into this card by hand, after this package or transformers made it."""
    generated = GENERATED.search(text)
    return not _is_empty_template(ModelCard(text)) if generated is None else generated[1] != _digest(text)


def _is_fetched(path: Path, published: str) -> bool:
    """Whether the card at `path` began as this one, by the record that `hf download --local-dir` keeps."""
    record = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    return record.is_file() and git_hash(published.encode()) in record.read_text(encoding="utf-8").split()


def _is_empty_template(card: ModelCard) -> bool:
    """Whether this is the card of transformers that nobody has written into."""
    template = ModelCard.from_template(ModelCardData(**card.data.to_dict()), model_description=TRANSFORMERS_DESCRIPTION)
    return bool(card.text.strip() == template.text.strip())


def _digest(text: str) -> str:
    """A short name for the content of a card, whatever its line endings and the digest in its closing mark."""
    return hashlib.sha256("\n".join(END.sub("", text).splitlines()).encode()).hexdigest()[:16]


def _metadata(given: Mapping[str, Any], author: Author, timm: bool) -> dict[str, Any]:
    """Metadata without the results. What is given replaces what the author's card says."""
    given = {name: value for name, value in given.items() if value is not None}
    for name in [*_as_list(given.get("datasets")), *_as_list(given.get("base_model"))]:
        validate_repo_id(name)
    kept = dict(author.fields)
    if "license" in given:
        if kept.get("license_name") == RELEASED_LICENSE and RELEASED_LICENSE not in given.values():
            raise ValueError(
                f"The weights come from released GKGNet weights and keep their licence, {RELEASED_LICENSE}, "
                f"got {given['license']!r}"
            )
        kept = {name: value for name, value in kept.items() if name not in LICENCE_FIELDS}
    if given.get("license") == RELEASED_LICENSE:  # the Hub wants "other" for a licence that it does not list
        given |= {"license": "other", "license_name": RELEASED_LICENSE}
    return {
        **kept,
        **given,
        "library_name": "timm" if timm else "transformers",
        "pipeline_tag": "image-classification",
        "tags": [*TAGS[:2], "timm" if timm else "multi-label", *_as_list(given.get("tags")), *author.tags],
    }


def _results(evaluation: Mapping[str, Any], dataset: str | None, datasets: list[str]) -> list[EvalResult]:
    """Entries of the metadata's model-index. The type of a dataset is its name on the Hub."""
    metrics = evaluation.get("metrics", {})
    return [
        EvalResult(
            task_type="image-classification",
            task_name=TASK,
            dataset_type=datasets[0] if datasets else "unknown",
            dataset_name=dataset or (datasets[0] if datasets else "unknown"),
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


def _as_list(value: Any) -> list[Any]:
    """The names in a field of the metadata, which may hold none, one or a list."""
    return [] if value is None else value if isinstance(value, list) else [value]
