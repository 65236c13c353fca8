"""What a new model card takes over from earlier ones, text written by hand and metadata, by a three-way merge.

There are two earlier cards: README.md in the model's folder, and the one on the Hub, which people edit there. A push
leaves the folder as it is, so the card on the Hub is what remembers: the comment at the end of its generated part has
the id of the folder's card, and short hashes of what that card held when it was last pushed, in sections and metadata.

What only one of the cards has is new there if the hashes do not know it, and stays; if they do, the other side deleted
or changed it, and it goes. What both have changed is kept of both, where metadata take the folder's. A folder's card of
another id, such as that of another training run, never had what the Hub's has: all of both is kept.
"""

import hashlib
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from .card_licenses import check_license
from .card_text import RELEASED_LICENSE

START = "<!-- gkgnet-hf: start. This part is written anew each time; write above or below it, where all is kept. -->"
GENERATED = re.compile("<!-- gkgnet-hf: start.*?<!-- gkgnet-hf: end(?P<memory>.*?)-->", re.DOTALL)
PLACE = "<generated>"  # of the generated part among the sections
BY_HAND = "-"  # id of a card that did not begin with a generated part

# The description in the card that transformers' `push_to_hub` makes for a repository without one.
TRANSFORMERS_DESCRIPTION = (
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has been "
    "automatically generated."
)

# The metadata's name of a dataset that is not on the Hub, or not known at all.
UNKNOWN = "unknown"

# Metadata that only together say which licence it is.
LICENCE_FIELDS = ("license", "license_name", "license_link")


@dataclass
class CardParts:
    """A card in the pieces that are merged.

    Attributes:
        sections: the text by hand, each section from its heading on; `PLACE` stands for the generated part.
        fields: metadata but for the next two; the licence's are one, a dict.
        tags: names among the metadata.
        results: of the metadata's model-index.
        id: drawn when a folder's first card is written.
        pushed: of a card on the Hub, `hashes` of the folder's card when it was last pushed.
    """

    sections: list[str] = field(default_factory=lambda: [PLACE])
    fields: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    results: list[EvalResult] = field(default_factory=list)
    id: str = BY_HAND
    pushed: list[str] = field(default_factory=list)

    def hashes(self) -> list[str]:
        """Short names of all pieces."""
        return [*map(_hash, [*self.sections, *_lines(self.fields), *self.tags, *map(str, self.results)])]


def parse_card(text: str, where: str = "The model card") -> CardParts:
    """The pieces of a card; `where` names it in errors.

    A card without a generated part was written by hand as a whole; the generated part comes above it.

    Raises:
        ValueError: if its metadata cannot be read, or its generated part has no end.

    >>> parse_card("---\\nlicense: mit\\n---\\nA net.\\n# Mine").sections
    ['<generated>', 'A net.', '# Mine']
    """
    try:
        card = ModelCard(text)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{where}: its metadata cannot be read: {error}") from error
    fields = {name: value for name, value in card.data.to_dict().items() if name not in ("model-index", "tags")}
    if licence := {name: fields.pop(name) for name in LICENCE_FIELDS if name in fields}:
        fields["license"] = licence
    tags = as_list(card.data.get("tags"))
    if not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"{where}: its tags must be names, got {tags}")
    generated = GENERATED.search(card.text)
    if generated is None and "<!-- gkgnet-hf: start" in card.text:
        raise ValueError(f"{where} has the start of a generated part but not its end, <!-- gkgnet-hf: end -->")
    above, below = "", "" if _is_empty_template(card) else card.text
    memory = [BY_HAND]
    if generated:
        above, below = card.text[: generated.start()], card.text[generated.end() :]
        memory = generated["memory"].split() or memory
    sections = [*_sections(above), PLACE, *_sections(below)]
    return CardParts(sections, fields, tags, card.data.get("eval_results") or [], memory[0], memory[1:])


def merge_cards(folder: CardParts | None, hub: CardParts | None) -> CardParts:
    """What stays of the card in a folder and of the one on the Hub, where there are such; see above.

    The result remembers the folder's card as pushed.

    >>> folder, hub = parse_card("# One\\n# Two"), parse_card("# One\\n# Three")
    >>> merge_cards(folder, hub).sections  # nothing is known of a push
    ['<generated>', '# One', '# Two', '# Three']
    >>> hub.pushed = folder.hashes()
    >>> merge_cards(folder, hub).sections
    ['<generated>', '# One', '# Three']
    """
    newest = folder or hub or CardParts(id=secrets.token_hex(4))
    pushed = folder.hashes() if folder else newest.pushed
    base = hub.pushed if folder and hub and folder.id == hub.id else []
    if folder is None or folder.hashes() == base:
        folder = hub or newest  # all that has changed is on the Hub
    hub = hub or folder
    stay = _merge(_lines(folder.fields), _lines(hub.fields), base)
    fields = {k: value for card in (hub, folder) for k, value in card.fields.items() if _line(k, value) in stay}
    results = {str(result): result for result in [*folder.results, *hub.results]}
    return CardParts(
        sections=_merge(folder.sections, hub.sections, base),
        fields=fields,
        tags=_merge(folder.tags, hub.tags, base),
        results=[results[name] for name in _merge([*map(str, folder.results)], [*map(str, hub.results)], base)],
        id=newest.id,
        pushed=pushed,
    )


def merge_text(generated: str, kept: CardParts) -> str:
    """The generated part in its place among what people wrote."""
    whole = f"{START}\n{generated.strip()}\n{_end(kept.id, kept.pushed)}"
    return "\n\n".join(whole if section == PLACE else section for section in kept.sections) + "\n"


def remember(card: ModelCard, new: bool) -> None:
    """Make a card that becomes the folder's own, or its first, remember itself: a Trainer pushes the file as it is."""
    parts = parse_card(str(card))
    id = secrets.token_hex(4) if new else parts.id
    card.text = card.text.replace(_end(parts.id, parts.pushed), _end(id, parts.hashes()))


def merge_metadata(given: Mapping[str, Any], kept: CardParts, timm: bool) -> dict[str, Any]:
    """Metadata but for the evaluation: what is given goes before what is kept of earlier cards.

    Raises:
        ValueError: for a dataset or base model that cannot be a name on the Hub, a licence that the Hub does not know,
            or another licence for weights that keep that of the released ones.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name in [*as_list(given.get("datasets")), *as_list(given.get("base_model"))]:
        validate_repo_id(name)
    licence = kept.fields.get("license", {})
    if "license" in given:
        check_license(given["license"])
        if licence.get("license_name") == RELEASED_LICENSE and RELEASED_LICENSE not in given.values():
            raise ValueError(
                f"The weights come from released GKGNet weights and keep their licence, {RELEASED_LICENSE}, "
                f"got {given['license']!r}"
            )
        licence = {}
    if given.get("license") == RELEASED_LICENSE:  # the Hub knows it by a name of its own
        given |= {"license": "other", "license_name": RELEASED_LICENSE}
    tags = ["gkgnet", "graph-neural-network", "timm" if timm else "multi-label", *as_list(given.get("tags"))]
    others = {name: value for name, value in kept.fields.items() if name != "license"}
    return {
        **others,
        **licence,
        **given,
        "library_name": "timm" if timm else "transformers",
        "pipeline_tag": "image-classification",
        "tags": list(dict.fromkeys([*tags, *kept.tags])),
    }


def merge_results(results: Sequence[EvalResult], kept: CardParts) -> list[EvalResult]:
    """These results, and those of earlier cards on other data."""
    measured = {(result.dataset_name, result.dataset_split) for result in results}
    others = (result for result in kept.results if (result.dataset_name, result.dataset_split) not in measured)
    return [*results, *(result for result in others if not results or result.dataset_name != UNKNOWN)]


def as_list(value: Any) -> list[Any]:
    """The names in a field of the metadata, which may hold none, one or a list."""
    return [] if value is None else value if isinstance(value, list) else [value]


def _merge(mine: Sequence[str], theirs: Sequence[str], base: Collection[str]) -> list[str]:
    """What both have, and what one has that is not in `base`; in the order of the first."""
    merged: list[str] = []
    for kind, i, j, k, m in SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes():
        if kind == "equal":
            merged += mine[i:j]
            continue
        merged += [piece for piece in mine[i:j] if piece in theirs or _hash(piece) not in base]
        merged += [piece for piece in theirs[k:m] if piece not in mine and _hash(piece) not in base]
    return merged


def _sections(text: str) -> list[str]:
    """The text divided before each heading; a # in a piece of code is none."""
    sections, fence = [""], ""  # what opened the piece of code: only as long a one closes it
    for line in text.splitlines():
        bare = line.strip()
        if fence and bare.startswith(fence) and not bare.strip(fence[0]):
            fence = ""
        elif not fence and (opening := re.match("`{3,}(?=[^`]*$)|~{3,}", bare)):
            fence = opening[0]
        if re.match("#{1,6} ", line) and not fence:
            sections.append("")
        sections[-1] += f"{line}\n"
    return [section.strip("\n") for section in sections if section.strip()]


def _is_empty_template(card: ModelCard) -> bool:
    """Whether this is the card of transformers that nobody has written into."""
    template = ModelCard.from_template(ModelCardData(**card.data.to_dict()), model_description=TRANSFORMERS_DESCRIPTION)
    return bool(card.text.strip() == template.text.strip())


def _end(id: str, pushed: Sequence[str]) -> str:
    return f"<!-- gkgnet-hf: end {' '.join([id, *pushed])} -->"


def _lines(fields: Mapping[str, Any]) -> list[str]:
    return [_line(name, value) for name, value in fields.items()]


def _line(name: str, value: Any) -> str:
    return f"{name}: {value!r}"


def _hash(piece: str) -> str:
    return hashlib.sha256(piece.encode()).hexdigest()[:8]
