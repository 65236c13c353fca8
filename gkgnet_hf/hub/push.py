"""A folder on disk → a repository on the Hub, in one commit."""

import logging
import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.constants import SAFETENSORS_INDEX_FILE, SAFETENSORS_SINGLE_FILE
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..modeling.configuration_gkgnet import GKGNetConfig, one_line
from ..modeling.modeling_gkgnet import (
    GKGNetBackbone,
    GKGNetForImageClassification,
    GKGNetModel,
    GKGNetPreTrainedModel,
    read_index,
)
from ..modeling.timm_gkgnet import checkpoint_filter_fn
from .card import folder_card, published_card
from .model_folder import (
    CARD_FILE,
    CONFIG_FILE,
    is_own_file,
    published_content,
    published_files,
    read_config,
    without_second_num_classes,
)
from .released import check_tensors

logger = logging.getLogger(__name__)

MODELS: dict[str, type[GKGNetPreTrainedModel]] = {
    model.__name__: model for model in (GKGNetForImageClassification, GKGNetModel, GKGNetBackbone)
}

# Weights that are deleted from the repository: a loader might take them in place of the pushed ones.
WEIGHTS = ("model.safetensors*", "model-*.safetensors", "pytorch_model*.bin", "pytorch_model*.json")


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    overwrite_card: bool = False,
) -> str:
    """Publish a model's folder, of transformers or timm, in one commit.

    This publishes what `published_files` names: the configurations, the weights as safetensors, their code, the card, a
    licence, the recipe and the results. Nothing else in the folder is published, and no link is followed. The card is
    the `folder_card` for this repository. Absolute paths in the recipe and the evaluation are shortened to their last
    part, and timm's configuration is changed so that transformers reads it too (`without_second_num_classes`). The
    folder itself is not changed.

    The same commit deletes former weights from the repository and leaves its other files alone. A push that breaks off
    leaves the repository as it was, and the next one completes it.

    Args:
        folder: of a GKGNet, as `save_pretrained`, a training run or `convert_checkpoint` writes it, or of a timm model
            of this package.
        repo_id: "user/name", or "name" for a repository of your own. It is created if it does not exist.
        private: create a private repository.
        revision: the branch, default `main`. It is created from `main` if it does not exist.
        create_pr: propose the commit in a pull request against `main`.
        overwrite_card: replace the card on the Hub by the folder's, even if somebody edited it on the Hub.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        EditedCardError: if somebody edited the card on the Hub and the folder's card differs from it. As all errors
            below except the last, it is raised before anything is uploaded.
        FileNotFoundError, ValueError: for a folder that holds no whole model, see `find_model_files`.
        ValueError: for `revision` with `create_pr`, `private` with a repository that is public, or metadata of the card
            that the Hub refuses; as in `folder_card`.
        OSError: if the Hub refuses, or the upload breaks off.

    Example:

        push_folder("my-gkgnet", "user/my-gkgnet", private=True)
    """
    folder = Path(folder)
    files = find_model_files(folder)
    if create_pr and revision is not None:
        raise ValueError(f"A pull request is against main: create_pr excludes revision, got {revision!r}")
    folder_card(folder)  # its errors come before anything is created on the Hub
    api = HfApi(library_name="gkgnet_hf")
    repo_id = _open_repository(api, repo_id, private)
    new_branch = revision is not None and not api.revision_exists(repo_id, revision)
    head = str(api.model_info(repo_id, revision=None if new_branch else revision).sha)
    card = _card_on_hub(folder, repo_id, revision, None if overwrite_card else published_card(repo_id, head))
    if new_branch:
        api.create_branch(repo_id, branch=str(revision), revision=head)
    operations = _operations(folder, files, card, api.list_repo_files(repo_id, revision=head))
    try:
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message="Upload model",
            revision=revision,
            create_pr=create_pr,
            parent_commit=head,  # the Hub refuses if somebody has written to it meanwhile
        )
    except RuntimeError as error:  # of huggingface_hub, where the content of a large file does not arrive
        raise ConnectionError(f"{error} {error.__cause__ or ''} Nothing was changed in {repo_id}.") from error
    return commit.pr_url or commit.commit_url


def find_model_files(folder: str | os.PathLike[str]) -> list[str]:
    """The names of the files that `push_folder` publishes, after a check that they hold a whole model.

    safetensors compares the header of each file with its length. The names and shapes of the tensors are compared with
    those of the network that the configuration describes. The tensors themselves are not read.

    Raises:
        FileNotFoundError: if there is no configuration or safetensors file, or a part of the weights is missing.
        ValueError: for a weights file that cannot be read, tensors that are not those of the network, or a
            configuration of another model; as `GKGNetConfig` raises.
    """
    folder = Path(folder)
    config = read_config(folder)
    files, tensors = _find_weights(folder)
    _check_network(folder, config, tensors)
    files = sorted({*files, *published_files(folder)})
    if stays := sorted({path.name for path in folder.iterdir()}.difference(files)):
        logger.info("Not publishing: %s", ", ".join(stays))
    return files


def _find_weights(folder: Path) -> tuple[list[str], dict[str, Tensor]]:
    """The names of the files, and the tensors without content."""
    if is_own_file(folder / SAFETENSORS_SINGLE_FILE):
        return [SAFETENSORS_SINGLE_FILE], _read_header(folder / SAFETENSORS_SINGLE_FILE)
    if not is_own_file(folder / SAFETENSORS_INDEX_FILE):
        raise FileNotFoundError(
            f"{folder} must hold {SAFETENSORS_SINGLE_FILE}, or {SAFETENSORS_INDEX_FILE} with its parts; pickles and "
            "links are not published"
        )
    parts = read_index(folder / SAFETENSORS_INDEX_FILE)
    found: dict[str, Tensor] = {}
    for part, tensors in parts.items():
        if not is_own_file(folder / part):
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
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
            headers = {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error
    return {
        name: torch.empty(shape, device="meta", dtype=torch.float32 if "F" in dtype else torch.int64)
        for name, (shape, dtype) in headers.items()
    }


def _check_network(folder: Path, config: GKGNetConfig | dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless the tensors are those of the network that the configuration describes."""
    model: Any
    if isinstance(config, GKGNetConfig):
        name = (config.architectures or ["GKGNetForImageClassification"])[0]
        if name not in MODELS:
            raise ValueError(f"{folder / CONFIG_FILE} must be of one of {', '.join(MODELS)}, got {name!r:.200}")
        with torch.device("meta"):
            model = MODELS[name](config)
    else:
        try:
            model = timm.create_model(f"local-dir:{folder}", device="meta")
        except (AssertionError, AttributeError, LookupError, OverflowError, RuntimeError, TypeError) as error:
            raise ValueError(f"{folder / CONFIG_FILE} does not describe a timm model: {one_line(error)}") from error
        tensors = checkpoint_filter_fn(tensors, model)
    try:
        check_tensors(tensors, model.state_dict(), originals={})
    except ValueError as error:
        raise ValueError(f"{folder} does not hold the network that its configuration describes: {error}") from error


def _open_repository(api: HfApi, repo_id: str, private: bool) -> str:
    """The full name of a repository, created if it does not exist."""
    if not api.repo_exists(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if private and not api.model_info(repo_id).private:
        raise ValueError(f"{repo_id} already exists and is public")
    return repo_id


def _card_on_hub(folder: Path, repo_id: str, revision: str | None, published: str | None) -> ModelCard:
    """The folder's card for a repository; `published` is the text of the one there, None to replace it."""
    config = read_config(folder)
    config = config if isinstance(config, GKGNetConfig) else without_second_num_classes(config)
    return folder_card(folder, repo_id=repo_id, revision=revision, published=published, config=config)


def _operations(
    folder: Path, files: list[str], card: ModelCard, there: list[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """The commit: the card and the other files are added, and former weights that are there are deleted."""
    files = [name for name in files if name != CARD_FILE]
    logger.info("Publishing: %s", ", ".join([CARD_FILE, *files]))
    former = {name for name in there if _fits(name, WEIGHTS)}
    return [
        CommitOperationAdd(CARD_FILE, str(card).encode()),
        *(CommitOperationAdd(name, published_content(folder / name)) for name in files),
        *(CommitOperationDelete(name) for name in sorted(former.difference(files))),
    ]


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)
