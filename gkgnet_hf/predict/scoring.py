"""From pictures to labels in three steps: `read_images`, `score_images`, `choose_labels`.

`predict` takes all three, `predict_scores` the first two.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import BaseImageProcessor
from transformers.utils import CONFIG_NAME

from ..data.checks import image_suffixes
from ..data.paths import Outside, files_below, is_file, path_problem
from ..data.pictures import picture_reader
from ..modeling.configuration_gkgnet import one_line
from ..modeling.image_processing_gkgnet import check_image_processor, to_pixel_values
from ..modeling.modeling_gkgnet import GKGNetForImageClassification
from ..threads import check_num_workers

logger = logging.getLogger(__name__)

__all__ = ["find_images", "load_model", "model_label_names", "predict", "predict_scores"]

Images: TypeAlias = Dataset | Sequence[str | os.PathLike[str] | Image.Image | NDArray[np.number]]


IMAGE_TYPES = (Image.Image, np.ndarray)


def load_model(model: str) -> GKGNetForImageClassification:
    """A trained GKGNet with its classifier.

    Args:
        model: folder, or name on the Hub as "user/name".

    Raises:
        FileNotFoundError: if it is neither, or a folder without a model.
        ValueError: if it is another kind of model, or weights are missing or damaged.

    Example:

        model = load_model("my-gkgnet")
    """
    if not Path(model).is_dir() and model.count("/") != 1:
        raise FileNotFoundError(f"There is no folder {model} (a model on the Hub is called user/name)")
    if Path(model).is_dir() and not (Path(model) / CONFIG_NAME).exists():
        raise FileNotFoundError(f"{model} holds no model: it has no {CONFIG_NAME}. Did the training come to its end?")
    try:
        loaded, report = GKGNetForImageClassification.from_pretrained(model, output_loading_info=True)
    except (AttributeError, KeyError, MemoryError, OverflowError, RecursionError, RuntimeError, TypeError) as error:
        raise ValueError(f"{model} cannot be loaded: {one_line(error)}") from error  # its files, nothing else is given
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{model} must hold a trained GKGNet with its classifier, it lacks {', '.join(missing[:5])}")
    loaded.config.return_dict = True  # outputs are read by name, whatever the file says
    return loaded


def predict(
    model: GKGNetForImageClassification,
    processor: BaseImageProcessor,
    images: Images,
    top_k: int | None = None,
    threshold: ArrayLike | None = None,
    batch_size: int = 16,
) -> list[list[dict[str, Any]]]:
    """The labels of each image, highest score first.

    Args:
        model, processor, images, batch_size: as in `predict_scores`.
        top_k: without `threshold`, this many labels whatever their scores; with it, at most this many.
        threshold: one number, or one a label; a score at or above it predicts the label. Default, without `top_k`,
            the configuration's `decision_threshold`.

    Returns:
        For each image a list of {"label": name, "score": probability}.

    Raises:
        ValueError: if `top_k` is below 1 or `threshold` outside [0, 1] or not one a label; as in `predict_scores`.

    Example:

        predict(model, processor, find_images("photos"))[0]  # [{"label": "dog", "score": 0.93}, ...]
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    names = model_label_names(model)
    if threshold is None and top_k is not None:
        thresholds = np.full(len(names), -np.inf)
    else:
        thresholds = label_thresholds(model.config.decision_threshold if threshold is None else threshold, len(names))
    scores = predict_scores(model, processor, images, batch_size)
    return [choose_labels(image_scores, names, thresholds, top_k) for image_scores in scores]


def predict_scores(
    model: GKGNetForImageClassification,
    processor: BaseImageProcessor,
    images: Images,
    batch_size: int = 16,
    num_workers: int = 0,
) -> NDArray[np.float32]:
    """The probability of every label in every image.

    Images are read a batch at a time. The model computes in eval mode, on the device and in the dtype that it is in.

    Args:
        model: what scores.
        processor: its image processor.
        images: N paths, PIL images or arrays (as in `to_mode_of`), or a dataset with a column `image`.
        batch_size: images the model sees at once.
        num_workers: processes that read images; 0 reads them in this one.

    Returns:
        (N, L), the sigmoid of the logits; as the model's `problem_type` says, their softmax for single-label problems,
            themselves for regression.

    Raises:
        FileNotFoundError: for a path where no file is.
        ValueError: for what is no readable image, a dataset without `image`, a network that gives NaN, more processes
            than the cores can serve, or as in `check_image_processor`.
        TypeError: for anything but a sequence of these or a dataset.

    Example:

        scores = predict_scores(model, processor, ["a.jpg", "b.jpg"])
    """
    check_num_workers(num_workers)
    check_image_processor(processor, model.config.num_channels)
    loader = DataLoader(
        _check_images(images),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=partial(read_images, processor),
    )
    scores = [np.empty((0, len(model_label_names(model))), dtype=np.float32)]
    with eval_mode(model):
        for i, pixel_values in enumerate(tqdm(loader, desc="Scoring images", unit="batch")):
            scores.append(score_images(model, pixel_values))
            check_not_nan(scores[-1], first_image=i * batch_size)  # now, not after all the others
    return np.concatenate(scores)


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The image files that paths, folders and glob patterns stand for.

    Links to folders, pipes, devices and hidden files are passed over unless they are named. A warning says where a link
    to an image leads out of its folder.

    Args:
        paths: one or several. A file is taken as it is; a folder gives the images in it and in its folders; of what a
            pattern (`*`, `?`, `[...]`, `**`) matches, the images are taken.

    Returns:
        The files in the order of `paths`, sorted within each, each once.

    Raises:
        FileNotFoundError: for a path or pattern that matches nothing.
        ValueError: for a folder or pattern that matches no image, and for a pipe or a device.

    Example:

        find_images(["cat.jpg", "photos", "more/*.png"])
    """
    files: dict[Path, Path] = {}
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        for file in _expand(Path(path)):
            files.setdefault(file.resolve(), file)
    return list(files.values())


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        matches = list(files_below(path))
        outside = Outside([path])
        for file in sorted(matches):
            outside.warn(str(file))
    elif os.path.lexists(path):
        if problem := path_problem(str(path)):
            raise ValueError(f"{path} cannot be read: {problem}")
        return [path]
    else:
        matches = _matches(path)
    if not matches and not path.is_dir():
        raise FileNotFoundError(f"No file or folder matches {path}")
    images = sorted(match for match in matches if match.suffix.lower() in image_suffixes())
    if not images:
        raise ValueError(f"No image in {path}: nothing in it ends in .jpg, .png or another suffix of images")
    return images


def _matches(pattern: Path) -> list[Path]:
    """The files that a glob pattern matches; `**` goes into no linked folder, which may lead in a circle."""
    parts = pattern.parts[1:] if pattern.anchor else pattern.parts
    if not any(char in part for part in parts for char in "*?["):
        return []
    if parts[-1] == "**":
        parts = (*parts, "*")
    start = Path(pattern.anchor)
    while not any(char in parts[0] for char in "*?["):  # what is named may be hidden
        start, parts = start / parts[0], parts[1:]
    found = start.glob("/".join(parts)) if start.is_dir() else ()
    wants_hidden = any(part.startswith(".") for part in parts)
    matches = (m for m in found if wants_hidden or not any(p.startswith(".") for p in m.relative_to(start).parts))
    return [match for match in matches if is_file(match)]


def _check_images(images: Images) -> Any:
    """The images for a DataLoader: of a dataset the images alone, without its transform. Raises as `predict_scores`."""
    if isinstance(images, Dataset):
        if "image" not in images.column_names:
            raise ValueError(f"The dataset must have a column image, it has {', '.join(images.column_names)}")
        return images.with_format(None).select_columns("image").cast_column("image", ImageFeature(decode=False))
    if isinstance(images, str) or not isinstance(images, Sequence):
        raise TypeError(
            f"images must be a sequence of paths, images and arrays, or a Dataset, got {type(images).__name__}"
        )
    for image in images:
        if isinstance(image, (str, os.PathLike)):
            if not os.path.exists(image):
                raise FileNotFoundError(f"No image file at {image}")
        elif not isinstance(image, IMAGE_TYPES):
            raise TypeError(f"Every image must be a path, PIL image or numpy array, got {type(image).__name__}")
    return images


def read_images(processor: BaseImageProcessor, items: Sequence[Any]) -> Tensor:
    """B paths, PIL images, arrays or rows with an `image` → pixel values (B, num_channels, H, W).

    Raises:
        ValueError: for what cannot be read as an image.
    """
    read = picture_reader(processor)
    images = [item["image"] if isinstance(item, Mapping) else item for item in items]
    # One after another: a few pictures of hundreds of millions of pixels would fill the memory.
    pixels = (to_pixel_values(processor, [i if isinstance(i, IMAGE_TYPES) else read(i)]) for i in images)
    return torch.cat([*pixels])


@torch.inference_mode()
def score_images(model: GKGNetForImageClassification, pixel_values: Tensor) -> NDArray[np.float32]:
    """Pixel values (B, num_channels, H, W) → probabilities (B, L), as transformers' `pipeline` computes them."""
    logits = model(pixel_values.to(model.device, model.dtype)).logits
    return probabilities(logits, model.config.problem_type)


def probabilities(logits: Tensor, problem_type: str | None) -> NDArray[np.float32]:
    """Logits (B, L) → their sigmoid; their softmax for single-label problems, themselves for regression."""
    logits = logits.float()
    if problem_type == "single_label_classification":
        logits = logits.softmax(-1)
    elif problem_type != "regression":
        logits = logits.sigmoid()
    return logits.cpu().numpy()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The whole model in eval mode, and afterwards every part in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def check_not_nan(scores: NDArray[Any], first_image: int = 0) -> None:
    """Raise ValueError if there is a NaN among scores (N, L); `first_image` is the number of their first row."""
    if (missing := np.isnan(scores)).any():
        image, label = np.argwhere(missing)[0]
        raise ValueError(
            f"scores must be numbers, got NaN for image {first_image + image}, label {label} ({missing.sum():,} of "
            f"{missing.size:,} like it). A network whose training diverged gives NaN: go back to an earlier checkpoint"
        )


def model_label_names(model: GKGNetForImageClassification) -> list[str]:
    """The names of a model's labels in the order of its scores; ValueError where it has another number of labels."""
    model.check_label_names()
    return list((model.config.id2label or {}).values())  # in ascending order of their ids


def label_thresholds(threshold: ArrayLike, num_labels: int) -> NDArray[np.float64]:
    """One threshold for all labels, or one a label → (L,) float64.

    Raises:
        ValueError: for another number of thresholds, or one outside [0, 1].
    """
    thresholds = np.asarray(threshold, dtype=np.float64)
    if thresholds.shape not in ((), (num_labels,)):
        raise ValueError(f"threshold must be one number, or {num_labels}, one a label; got shape {thresholds.shape}")
    if (outside := ~((thresholds >= 0) & (thresholds <= 1))).any():
        raise ValueError(f"threshold must be in [0, 1], got {thresholds[outside][0]}")
    return np.broadcast_to(thresholds, num_labels)


def choose_labels(
    scores: NDArray[np.float32], names: Sequence[str], thresholds: NDArray[np.float64], top_k: int | None = None
) -> list[dict[str, Any]]:
    """The labels of one image, highest score first: those at or above their threshold, at most `top_k`.

    Args:
        scores, thresholds: (L,).
        names: of the L labels.

    >>> choose_labels(np.array([0.25, 0.5, 0.75]), ["cat", "dog", "owl"], label_thresholds(0.5, 3))
    [{'label': 'owl', 'score': 0.75}, {'label': 'dog', 'score': 0.5}]
    """
    order = np.argsort(-scores, kind="stable")
    chosen = order[scores[order] >= thresholds[order]][:top_k]
    return [{"label": names[label], "score": float(scores[label])} for label in chosen]
