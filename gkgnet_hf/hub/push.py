"""A folder on disk → a repository on the Hub, in one commit."""

import logging
import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.constants import SAFETENSORS_INDEX_FILE, SAFETENSORS_SINGLE_FILE
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..modeling.configuration_gkgnet import GKGNetConfig
from ..modeling.modeling_gkgnet import GKGNetBackbone, GKGNetForImageClassification, GKGNetModel, GKGNetPreTrainedModel
from ..modeling.timm_gkgnet import checkpoint_filter_fn
from .card import folder_card, published_card
from .card_files import (
    CARD_FILE,
    CONFIG_FILE,
    published_content,
    read_config,
    read_values,
    without_second_num_classes,
)
from .released import check_tensors

logger = logging.getLogger(__name__)

MODELS: dict[str, type[GKGNetPreTrainedModel]] = {
    model.__name__: model for model in (GKGNetForImageClassification, GKGNetModel, GKGNetBackbone)
}

# What goes beside the weights; subfolders, hidden files and everything else stays.
TEXTS_AND_PICTURES = ("*.json", "*.md", "*.yaml", "*.py", "*.txt", "*.png", "*.jpg", "*.svg", "LICENSE*")
# Of these what stays too: the Trainer's notes to itself, which name folders of this machine.
STAYS = (".*", "trainer_state.json")
# Weights in the repository that the pushed ones replace: left there, a loader might take them in their place.
WEIGHTS = ("model.safetensors*", "model-*.safetensors", "pytorch_model*.bin", "pytorch_model*.json")


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Publish a model's folder, of transformers or timm, in one commit.

    What goes: the configuration, the weights as safetensors, and what stands beside them of `TEXTS_AND_PICTURES`.
    Pickles (`*.bin`, `*.pt`, `*.pth`), subfolders such as checkpoints, tables and `trainer_state.json` stay here. The
    model card goes anew for the repository, and what people wrote into it, here or there, is kept (`card_merge`); the
    folder's own stays as it is. Of absolute paths in the recipe and the evaluation only the last part goes, and timm's
    configuration so that transformers reads it too (`without_second_num_classes`). Former weights in the repository go
    in the same commit, its other files stay. A push that breaks off leaves the files of the repository as they were;
    the next one completes it.

    Args:
        folder: of a GKGNet, as `save_pretrained`, a training run or `convert_checkpoint` writes it, or of a timm model
            of this package.
        repo_id: "user/name", or "name" for one of your own; made if it is not there.
        private: make it private.
        revision: the branch; made from `main` if it is not there. Default `main`.
        create_pr: propose the commit in a pull request against `main`.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        FileNotFoundError, ValueError: for a folder that holds no whole model, see `find_model_files`; before anything
            is sent.
        ValueError: for `revision` with `create_pr`, or `private` with a repository that is public; as in `write_card`.
        OSError: if the Hub refuses, or the upload breaks off.

    Example:

        push_folder("my-gkgnet", "user/my-gkgnet", private=True)
    """
    folder = Path(folder)
    files = find_model_files(folder)
    if create_pr and revision is not None:
        raise ValueError(f"A pull request is against main: create_pr excludes revision, got {revision!r}")
    folder_card(folder)  # raises before anything is made on the Hub
    api = HfApi(library_name="gkgnet_hf")
    repo_id = _open_repository(api, repo_id, private)
    if revision is not None and not api.revision_exists(repo_id, revision):
        api.create_branch(repo_id, branch=revision)
    head = str(api.model_info(repo_id, revision=revision).sha)
    config = read_config(folder)
    card = folder_card(
        folder,
        repo_id=repo_id,
        revision=revision,
        published=published_card(repo_id, head),
        config=config if isinstance(config, GKGNetConfig) else without_second_num_classes(config),
    )
    files = sorted({*files} - {CARD_FILE})
    logger.info("To be pushed: %s", ", ".join([CARD_FILE, *files]))
    former = {name for name in api.list_repo_files(repo_id, revision=head) if _fits(name, WEIGHTS)}
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(CARD_FILE, str(card).encode()),
        *(CommitOperationAdd(name, published_content(folder / name)) for name in files),
        *(CommitOperationDelete(name) for name in sorted(former.difference(files))),
    ]
    try:
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message="Upload model",
            revision=revision,
            create_pr=create_pr,
            parent_commit=head,  # what was written there meanwhile is not overwritten: the Hub refuses
        )
    except RuntimeError as error:  # of huggingface_hub, where the content of a large file does not arrive
        raise ConnectionError(f"{error} {error.__cause__ or ''} Nothing was changed in {repo_id}.") from error
    return commit.pr_url or commit.commit_url


def find_model_files(folder: str | os.PathLike[str]) -> list[str]:
    """The names of the files that `push_folder` sends, after a check that they hold a whole model.

    Every safetensors file is opened by its own reader, which compares its header with its length, and the names and
    shapes of the tensors are compared with the network that the configuration describes. The tensors are not read.

    Raises:
        FileNotFoundError: if there is no configuration or safetensors file, or a part of the weights is missing.
        ValueError: for a weights file that cannot be read, tensors that are not those of the network, or a
            configuration of another model; as `GKGNetConfig` raises.
    """
    folder = Path(folder)
    config = read_config(folder)
    files, tensors = _find_weights(folder)
    _check_network(folder, config, tensors)
    stays = []
    for path in sorted(folder.iterdir()):
        beside = _fits(path.name, TEXTS_AND_PICTURES) and not _fits(path.name, (*STAYS, *WEIGHTS))
        if path.is_file() and beside:
            files.append(path.name)
        elif path.name not in files:
            stays.append(path.name)
    if stays:
        logger.info("Not to be pushed: %s", ", ".join(stays))
    return files


def _find_weights(folder: Path) -> tuple[list[str], dict[str, Tensor]]:
    """The names of the files, and the tensors without content."""
    if (folder / SAFETENSORS_SINGLE_FILE).is_file():
        return [SAFETENSORS_SINGLE_FILE], _read_header(folder / SAFETENSORS_SINGLE_FILE)
    if not (folder / SAFETENSORS_INDEX_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} must hold {SAFETENSORS_SINGLE_FILE}, or {SAFETENSORS_INDEX_FILE} with its parts; pickles are "
            "not published"
        )
    parts: dict[str, set[str]] = {}
    for tensor, part in read_values(folder / SAFETENSORS_INDEX_FILE).get("weight_map", {}).items():
        parts.setdefault(str(part), set()).add(tensor)
    found: dict[str, Tensor] = {}
    for part, tensors in parts.items():
        if not part.endswith(".safetensors") or Path(part).name != part or not (folder / part).is_file():
            raise FileNotFoundError(f"{folder / SAFETENSORS_INDEX_FILE} names a part that is not there: {part}")
        found |= (header := _read_header(folder / part))
        if missing := sorted(tensors - header.keys()):
            raise ValueError(f"{folder / part} lacks {len(missing)} tensors of the index, as {missing[0]}")
    if not parts:
        raise ValueError(f"{folder / SAFETENSORS_INDEX_FILE} names no weights")
    return [SAFETENSORS_INDEX_FILE, *sorted(parts)], found


def _read_header(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118, it is no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _check_network(folder: Path, config: GKGNetConfig | dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless the tensors are those of the network that the configuration describes."""
    model: Any
    if isinstance(config, GKGNetConfig):
        name = (config.architectures or ["GKGNetForImageClassification"])[0]
        if name not in MODELS:
            raise ValueError(f"{folder / CONFIG_FILE} must be of one of {', '.join(MODELS)}, got {name}")
        with torch.device("meta"):
            model = MODELS[name](config)
    else:
        try:
            model = timm.create_model(f"local-dir:{folder}", device="meta")
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{folder / CONFIG_FILE} does not describe a timm model: {error}") from error
        tensors = checkpoint_filter_fn(tensors, model)
    try:
        check_tensors(tensors, model.state_dict(), originals={})
    except ValueError as error:
        raise ValueError(f"{folder} does not hold the network that its configuration describes: {error}") from error


def _open_repository(api: HfApi, repo_id: str, private: bool) -> str:
    """The full name of a repository, made if it is not there."""
    if not api.repo_exists(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if private and not api.model_info(repo_id).private:
        raise ValueError(f"{repo_id} is there already, and public")
    return repo_id


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)
