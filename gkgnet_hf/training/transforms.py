"""From dataset rows to model inputs: which images are shown, and what happens to each."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from datasets import Image as ImageFeature
from PIL import Image
from torch import Tensor
from torch.distributions import Beta
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from transformers import ViTImageProcessor

from ..data.pictures import open_picture, picture_reader
from ..modeling.image_processing_gkgnet import num_channels_of, to_mode_of, to_pixel_values

Transform = Callable[[Any], Tensor]
Read = Callable[[Any], Any]
AUGMENTATIONS = ("paper", "light", "none")
BICUBIC = v2.InterpolationMode.BICUBIC


def train_transform(processor: ViTImageProcessor, augmentation: str = "paper") -> Transform:
    """What a training image goes through; image size, mean and deviation are the processor's.

    Args:
        processor: the model's image processor.
        augmentation: "paper": CropMix or a plain resize, flip, erasing, colour jitter, TrivialAugment
            (https://arxiv.org/abs/2103.10158). "light": a crop of at least half the image, flip and mild jitter, for
            few labels and few images. "none": `eval_transform`. Channels that are no colours, any number but 1 and 3,
            are cropped and flipped, whichever of the first two it is.

    Returns:
        Function from a PIL image of any mode to (3, H, W) float32, or (1, H, W) for a processor of one channel; for
        another number of channels from an array (H, W, channels). Its randomness is torch's.

    Raises:
        ValueError: for another augmentation, or a processor that does not resize to a height and a width.

    >>> from gkgnet_hf import GKGNetConfig, create_image_processor
    >>> processor = create_image_processor(GKGNetConfig.from_variant("ti", image_size=224))
    >>> train_transform(processor, "light")(Image.new("L", (640, 480))).shape
    torch.Size([3, 224, 224])
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}")
    if augmentation == "none":
        return eval_transform(processor)
    size, mean, std = _size(processor), processor.image_mean, processor.image_std
    if num_channels_of(processor) not in (1, 3):
        augment = [
            v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=BICUBIC),
            v2.RandomHorizontalFlip(),
        ]
    elif augmentation == "paper":
        augment = [
            v2.RandomChoice([CropMix(size), v2.Resize(size, BICUBIC)]),
            v2.RandomHorizontalFlip(),
            NoiseErasing(mean, std),
            v2.ToPILImage(),  # Pillow changes the colours of one image in half the time
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            v2.TrivialAugmentWide(),
            v2.PILToTensor(),
        ]
    else:
        augment = [
            v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.ToPILImage(),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            v2.PILToTensor(),
        ]
    normalize = [v2.ToDtype(torch.float32), v2.Normalize([255 * m for m in mean], [255 * s for s in std], inplace=True)]
    return v2.Compose([partial(_to_tensor, processor), *augment, torch.Tensor.contiguous, *normalize])


def _to_tensor(processor: ViTImageProcessor, image: Any) -> Tensor:
    image = to_mode_of(processor, image)
    return F.pil_to_tensor(image) if isinstance(image, Image.Image) else torch.from_numpy(image).permute(2, 0, 1)


def eval_transform(processor: ViTImageProcessor) -> Transform:
    """The image processor itself, as a function of what `train_transform`'s takes to (channels, H, W) float32."""
    return partial(_process, processor=processor)


def _process(image: Any, processor: ViTImageProcessor) -> Tensor:
    return to_pixel_values(processor, [image])[0]


def fit_mean_and_std(processor: ViTImageProcessor, dataset: Dataset | IterableDataset, num_images: int = 200) -> None:
    """Set an image processor's mean and deviation of every channel to those of a dataset's first images.

    Args:
        processor: what is changed; its number of means is that of the channels.
        dataset: with a column `image`, in random order or alike throughout.
        num_images: how many are read.
    """
    read = picture_reader(processor)
    rows = dataset.select_columns("image").cast_column("image", ImageFeature(decode=False))
    arrays = (np.asarray(to_mode_of(processor, read(row["image"]))) for row in islice(rows, num_images))
    moments = [[np.mean(array, (0, 1)), np.mean(np.square(array, dtype=np.float64), (0, 1))] for array in arrays]
    mean, square = np.mean(moments, axis=0)
    processor.image_mean = (mean / 255).tolist()  # the processor divides by 255 first
    processor.image_std = np.maximum(np.sqrt(np.maximum(square - mean**2, 0)) / 255, 1e-6).tolist()


def _size(processor: ViTImageProcessor) -> tuple[int, int]:
    height, width = processor.size.get("height"), processor.size.get("width")
    if not (height and width):
        raise ValueError(f"The image processor must resize to a height and a width, its size is {processor.size}")
    return height, width


class TransformedDataset(torch.utils.data.Dataset):
    """A multi-label dataset whose images go through a transform when they are read.

    What is random in the transform is torch's, and depends on seed, epoch and index alone: not on the number of
    workers, the order of reading, or what was read before. The caller's random state is left as it was.

    Args:
        dataset: with columns `image` and `labels`; others are not read.
        transform: from a PIL image to a tensor, for instance of `train_transform`.
        seed: of the transform.
        read: what opens an image; `picture_reader(processor)` decodes large ones no larger than needed.

    Item i is {"pixel_values": what the transform made, "labels": (L,) float32}.

    Raises:
        ValueError: if a column is missing; for an image that cannot be read, when its item is.

    Example:

        train = TransformedDataset(load_coco(images, annotations), train_transform(processor))
        train[0]["pixel_values"].shape  # (3, 224, 224)
    """

    def __init__(self, dataset: Dataset, transform: Transform, seed: int = 0, read: Read = open_picture):
        missing = [name for name in ("image", "labels") if name not in dataset.column_names]
        if missing:
            raise ValueError(f"The dataset has no column {' and '.join(missing)}, it has {dataset.column_names}")
        self.dataset = dataset.select_columns(["image", "labels"]).cast_column("image", ImageFeature(decode=False))
        self.transform = transform
        self.read = read
        self.seed = seed
        # Shared, because workers that outlive an epoch hold a copy of this object.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw other random numbers from now on, in running workers too."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        index = range(len(self))[index]  # negative ones count from the end
        row = self.dataset[index]
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the accelerator of the model too.
            torch.default_generator.manual_seed(seed_of(self.seed, int(self.epoch), index))
            return _transformed(row, self.transform, self.read)


def transform_stream(dataset: IterableDataset, transform: Transform, read: Read = open_picture) -> IterableDataset:
    """What `TransformedDataset` gives, for a streamed dataset: nothing is read before it is asked for.

    A stream has no indices, so the random numbers are those of the process that reads it.

    Example:

        stream = transform_stream(load_dataset("me/photos", split="train", streaming=True), transform)
    """
    rows = dataset.select_columns(["image", "labels"]).cast_column("image", ImageFeature(decode=False))
    return rows.map(_transformed, remove_columns=["image"], fn_kwargs={"transform": transform, "read": read})


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, such that neighbouring numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _transformed(row: dict[str, Any], transform: Transform, read: Read) -> dict[str, Tensor]:
    return {
        "pixel_values": transform(read(row["image"])),
        "labels": torch.tensor(row["labels"], dtype=torch.float32),
    }


def oversample(dataset: Dataset, threshold: float = 0.01, seed: int = 0) -> Dataset:
    """Repeat images of labels that fewer than `threshold` of the images have.

    An image is repeated max(1, √(threshold / frequency)) times for its rarest label's frequency, as in LVIS
    (https://arxiv.org/abs/1908.03195). Of what is not a whole number the seed decides whether to round
    it up, so that the expected count is exact.

    Args:
        dataset: with a column `labels`; a label's frequency counts the images where it is known.
        threshold: frequency, 0 to 1; the paper's is 0.01.
        seed: of the rounding.

    Returns:
        The dataset with repeated rows, neighbours of one another.

    Raises:
        TypeError: for a streamed dataset.
        ValueError: for a threshold outside [0, 1].

    >>> rare = Dataset.from_dict({"labels": [[1.0, 0.0]] * 99 + [[0.0, 1.0]]})
    >>> len(oversample(rare, threshold=0.04))  # the last image is repeated √(0.04 / 0.01) = 2 times
    101
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"Only a Dataset, whose labels can be counted, is oversampled, not a {type(dataset).__name__}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a frequency from 0 to 1, got {threshold}")
    labels = np.asarray(dataset.with_format("numpy", columns=["labels"])[:]["labels"])
    positive, known = labels == 1, labels >= 0
    frequency = positive.sum(0) / np.maximum(known.sum(0), 1)
    factor = np.sqrt(np.maximum(threshold / np.where(frequency > 0, frequency, 1), 1))
    repeats = np.where(positive, factor, 1).max(1)
    rounded = np.floor(repeats + np.random.default_rng(seed).random(len(repeats))).astype(int)
    return dataset.select(np.repeat(np.arange(len(rounded)), rounded))


NUM_VIEWS = (2, 4)  # least and most
SMALLEST_AREA = 0.01  # of the image
NEAR_WHOLE_AREA = (0.99, 1.0)
BETA = 0.4


class CropMix(v2.Transform):
    """Blend an image with crops of itself, of different scales.

    Two to four views of `size`: one near-whole, the others random resized crops, each from its own band of areas. In
    random order each view is blended into those before it, with a weight from Beta(0.4/n, 0.4/n), which is mostly near
    0 or 1; of the two that meet, the lighter has its colour channels permuted. Everything random is torch's.

    Args:
        size: (H, W) of what comes out.

    Raises:
        TypeError: for anything but a uint8 tensor (..., 3, H, W), or (..., 1, H, W) of grey levels.

    >>> image = torch.randint(256, (3, 48, 64), dtype=torch.uint8)
    >>> CropMix((32, 32))(image).shape
    torch.Size([3, 32, 32])
    """

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        for image in flat_inputs:
            if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.shape[-3:-2] not in ((1,), (3,)):
                found = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
                raise TypeError(f"CropMix takes uint8 tensors (..., 1 or 3, H, W), got {found}")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Boxes of the views in the order they are blended, weights and permutations: everything that is random."""
        height, width = v2.query_size(flat_inputs)
        num_views = int(torch.randint(NUM_VIEWS[0], NUM_VIEWS[1] + 1, ()))
        crops = [v2.RandomResizedCrop(self.size, scale=band) for band in _bands(num_views)]
        # With its usual aspect ratios RandomResizedCrop could not take nearly the whole of a wide image.
        crops.append(v2.RandomResizedCrop(self.size, scale=NEAR_WHOLE_AREA, ratio=(width / height, width / height)))
        boxes = [crop.make_params(flat_inputs) for crop in crops]
        return {
            "boxes": [boxes[i] for i in torch.randperm(num_views)],
            "weights": Beta(BETA / num_views, BETA / num_views).sample((num_views - 1,)).tolist(),
            "permutations": [torch.randperm(flat_inputs[0].shape[-3]) for _ in range(num_views - 1)],
        }

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        views = (
            F.resized_crop(
                inpt, **box, size=list(self.size), interpolation=v2.InterpolationMode.BICUBIC, antialias=True
            ).float()
            for box in params["boxes"]
        )
        mixed = next(views)
        for view, weight, permutation in zip(views, params["weights"], params["permutations"], strict=True):
            if weight < 0.5:
                mixed = mixed[..., permutation, :, :]
            else:
                view = view[..., permutation, :, :]
            mixed = torch.lerp(view, mixed, weight)
        return mixed.round_().clamp_(0, 255).to(torch.uint8)


def _bands(num_views: int) -> list[tuple[float, float]]:
    """Areas of all views but the near-whole one, as fractions of the image."""
    if num_views == 2:
        return [(SMALLEST_AREA, 1.0)]
    step = (1 - SMALLEST_AREA) / num_views
    return [(SMALLEST_AREA + i * step, SMALLEST_AREA + (i + 1) * step) for i in range(num_views - 1)]


class NoiseErasing(v2.RandomErasing):
    """With probability 0.5 fill a rectangle of 0.02 to 1/3 of the image with normal noise.

    Args:
        mean, std: (3,) of the noise, as fractions of the largest pixel value, as an image processor has them.

    >>> image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    >>> NoiseErasing(mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2])(image).dtype  # in and out uint8 (3, H, W)
    torch.uint8
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__(p=0.5, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), value="random")
        self.mean = 255 * torch.tensor(mean)[:, None, None]
        self.std = 255 * torch.tensor(std)[:, None, None]

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        params = super().make_params(flat_inputs)
        if params["v"] is not None:  # None: no rectangle fitted
            params["v"] = (params["v"] * self.std + self.mean).round_().clamp_(0, 255).to(torch.uint8)
        return params
