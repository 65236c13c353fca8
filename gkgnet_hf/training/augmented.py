"""From dataset rows to model inputs, with augmentation that a seed decides."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from .transforms import Transform


class TransformedDataset(torch.utils.data.Dataset):
    """A multi-label dataset whose images go through a transform when they are read.

    What is random in the transform is torch's, and depends on seed, epoch and index alone: not on the number of
    workers, the order of reading, or what was read before. The caller's random state is left as it was.

    Args:
        dataset: with columns `image` and `labels`; others are not read.
        transform: from a PIL image to a tensor, for instance of `train_transform`.
        seed: of the transform.

    Item i is {"pixel_values": what the transform made, "labels": (L,) float32}.

    Raises:
        ValueError: if a column is missing.

    Example:

        train = TransformedDataset(load_coco(images, annotations), train_transform(processor))
        train[0]["pixel_values"].shape  # (3, 224, 224)
    """

    def __init__(self, dataset: Dataset, transform: Transform, seed: int = 0):
        missing = [name for name in ("image", "labels") if name not in dataset.column_names]
        if missing:
            raise ValueError(f"The dataset has no column {' and '.join(missing)}, it has {dataset.column_names}")
        self.dataset = dataset.select_columns(["image", "labels"])
        self.transform = transform
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
        entropy = np.random.SeedSequence([self.seed, int(self.epoch), index])
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the accelerator of the model too.
            torch.default_generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
            return _transformed(row, self.transform)


class EpochCallback(TrainerCallback):
    """Tells the training data which epoch begins.

    accelerate does so itself, but not where several processes share the data nor in an epoch that is resumed half-way.
    """

    def on_epoch_begin(
        self, args: Any, state: TrainerState, control: Any, train_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Called by the Trainer."""
        epoch = int(state.epoch or 0)
        for part in (train_dataloader, train_dataloader.dataset):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)


def transform_stream(dataset: IterableDataset, transform: Transform) -> IterableDataset:
    """What `TransformedDataset` gives, for a streamed dataset: nothing is read before it is asked for.

    A stream has no indices, so the random numbers are those of the process that reads it.

    Example:

        stream = transform_stream(load_dataset("me/photos", split="train", streaming=True), transform)
    """
    rows = dataset.select_columns(["image", "labels"])
    return rows.map(_transformed, remove_columns=["image"], fn_kwargs={"transform": transform})


def _transformed(row: dict[str, Any], transform: Transform) -> dict[str, Tensor]:
    return {
        "pixel_values": transform(row["image"]),
        "labels": torch.tensor(row["labels"], dtype=torch.float32),
    }
