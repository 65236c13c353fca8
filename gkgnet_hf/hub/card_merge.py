"""What a new model card takes over from earlier ones: text written by hand, and metadata."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from .card_text import RELEASED_LICENSE

START = "<!-- gkgnet-hf: start. This part is written anew each time; write above or below it, where all is kept. -->"
END = "<!-- gkgnet-hf: end -->"
GENERATED = re.compile(r"<!-- gkgnet-hf: start.*?<!-- gkgnet-hf: end -->", re.DOTALL)

# The description in the card that transformers' `push_to_hub` makes for a repository without one.
TRANSFORMERS_DESCRIPTION = (
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has been "
    "automatically generated."
)

# The metadata's name of a dataset that is not on the Hub, or not known at all.
UNKNOWN = "unknown"

LICENCE_FIELDS = ("license", "license_name", "license_link", "converted_from")


def parse_card(text: str) -> ModelCard:
    """A card from its text.

    Raises:
        ValueError: if its metadata cannot be read.
    """
    try:
        return ModelCard(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"The metadata of the model card cannot be read: {error}") from error


def merge_text(generated: str, earlier: Sequence[ModelCard]) -> str:
    """The generated part between what people wrote above and below it in earlier cards.

    A card without a generated part was written by hand as a whole and comes below. What two cards say alike comes once.

    Raises:
        ValueError: for a card whose generated part has no end.

    >>> merge_text("# New", [parse_card("---\\nlicense: mit\\n---\\n# Mine")]).endswith("# Mine\\n")
    True
    """
    above, below = "", ""
    for card in earlier:
        over, under = _hand_written(card)
        if over not in above + below:
            above = f"{above}\n\n{over}".strip()
        if under not in above + below:
            below = f"{below}\n\n{under}".strip()
    parts = [above, f"{START}\n{generated.strip()}\n{END}", below]
    return "\n\n".join(part for part in parts if part) + "\n"


def merge_metadata(given: Mapping[str, Any], earlier: Sequence[ModelCard], timm: bool) -> dict[str, Any]:
    """Metadata but for the evaluation: what is given goes before the earlier cards', of which the first goes first.

    Raises:
        ValueError: for a dataset or base model that cannot be a name on the Hub, or another licence for weights that
            keep that of the released ones.
    """
    given = {field: value for field, value in given.items() if value is not None}
    for field in ("datasets", "base_model"):
        for name in as_list(given.get(field)):
            validate_repo_id(name)
    merged: dict[str, Any] = {}
    for card in reversed(earlier):
        merged |= {field: value for field, value in card.data.to_dict().items() if field != "model-index"}
    if "license" in given:
        if merged.get("license_name") == RELEASED_LICENSE and RELEASED_LICENSE not in given.values():
            raise ValueError(
                f"The weights come from released GKGNet weights and keep their licence, {RELEASED_LICENSE}, "
                f"got {given['license']!r}"
            )
        merged = {field: value for field, value in merged.items() if field not in ("license_name", "license_link")}
    merged |= given
    if merged.get("license") == RELEASED_LICENSE:  # the Hub knows it by a name of its own
        merged |= {"license": "other", "license_name": RELEASED_LICENSE}
    tags = ["gkgnet", "graph-neural-network", "timm" if timm else "multi-label", *as_list(given.get("tags"))]
    for card in earlier:
        tags += as_list(card.data.get("tags"))
    return merged | {
        "library_name": "timm" if timm else "transformers",
        "pipeline_tag": "image-classification",
        "tags": list(dict.fromkeys(tags)),
    }


def merge_results(results: Sequence[EvalResult], earlier: Sequence[ModelCard]) -> list[EvalResult]:
    """These results, and those of the first earlier card that has any on other data."""
    measured = {(result.dataset_name, result.dataset_split) for result in results}
    for card in earlier:
        if found := card.data.get("eval_results"):
            others = (result for result in found if (result.dataset_name, result.dataset_split) not in measured)
            return [*results, *(result for result in others if not results or result.dataset_name != UNKNOWN)]
    return list(results)


def as_list(value: Any) -> list[Any]:
    """The names in a field of the metadata, which may hold none, one or a list."""
    return [] if value is None else value if isinstance(value, list) else [value]


def _hand_written(card: ModelCard) -> tuple[str, str]:
    """Text above and below the generated part."""
    if "<!-- gkgnet-hf: start" not in card.text:
        data = ModelCardData(**card.data.to_dict())
        untouched = ModelCard.from_template(data, model_description=TRANSFORMERS_DESCRIPTION).text
        return "", "" if card.text.strip() == untouched.strip() else card.text.strip()
    generated = GENERATED.search(card.text)
    if generated is None:
        raise ValueError(f"The model card has the start of a generated part but not its end, {END}")
    return card.text[: generated.start()].strip(), card.text[generated.end() :].strip()
