"""What a training run is told: its model, its data and how to train. A recipe is a file of these.

The command shows them in its help, so this file imports nothing that takes long.
"""

import argparse
import logging
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)

RECIPES = files(__package__) / "recipes"


def recipe_names() -> list[str]:
    """Recipes that come with the package.

    >>> "coco-448" in recipe_names()
    True
    """
    return sorted(Path(file.name).stem for file in RECIPES.iterdir() if file.name.endswith(".yaml"))


@dataclass
class OwnTrainingArguments:
    """What `MultiLabelTrainingArguments` adds to transformers' `TrainingArguments`."""

    lr_step_epochs: list[float] | None = field(
        default=None,
        metadata={
            "help": "Multiply the learning rate by 0.1 at these epochs, after a linear warm-up from a thousandth of it "
            "over warmup_steps; replaces lr_scheduler_type."
        },
    )
    patch_learning_rate_factor: float = field(
        default=1.0, metadata={"help": "Learning rate of the patch nodes over that of everything else."}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Average the weights with this decay, such as 0.9997. The average is evaluated and saved."},
    )
    ema_warmup: bool = field(
        default=False,
        metadata={
            "help": "Start the average with a low decay that rises to ema_decay, so that in a short run it forgets the "
            "weights of the start. The log shows the decay of each step as ema_decay."
        },
    )
    sync_batch_norm: bool = field(
        default=True, metadata={"help": "Batch statistics over all processes, where there are several."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better metric_for_best_model."}
    )


class Renamed(argparse.Action):
    """Stores the value, and says once what an old name is called now."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if option_string not in self.option_strings[:2]:  # those of the field itself; aliases follow
            logger.warning("%s is called %s now; the old name goes in the next version", option_string, self.dest)
        setattr(namespace, self.dest, values)


@dataclass
class ModelArguments:
    """Which network to train, and from which weights.

    >>> ModelArguments(model_name_or_path="ti", config={"num_groups": 1}).backbone_checkpoint is None
    True
    """

    model_name_or_path: str = field(
        default="s",
        metadata={
            "help": "A size (ti, s, m, b), or a GKGNet to start from: a folder, a name on the Hub or a released file. "
            "Labels that it knows by name are kept.",
            "aliases": ["--model"],
            "action": Renamed,
        },
    )
    backbone_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "What the patch nodes of a size start from: imagenet downloads the ImageNet weights of Pyramid ViG "
            "of that size, a path reads that file of Pyramid ViG or timm, none starts at random. With another GKGNet, "
            "imagenet and none change nothing."
        },
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the images in pixels (default: the model's own, 224 for a size)."}
    )
    loss: Literal["paper", "asymmetric", "bce", "focal", "hill", "splc"] | None = field(
        default=None,
        metadata={
            "help": "Loss of multi-label training: paper, asymmetric, bce or focal; hill or splc where positive labels "
            "are missing (default: the model's own, paper for a size)."
        },
    )
    config: dict[str, Any] | None = field(
        default=None, metadata={"help": "Other fields of GKGNetConfig as JSON, for instance '{\"num_groups\": 1}'."}
    )

    def __post_init__(self) -> None:
        if self.backbone_checkpoint == "none":
            self.backbone_checkpoint = None


@dataclass
class DataArguments:
    """Which images and labels to train on, and how to show them to the network.

    >>> DataArguments(dataset="photos").augmentation
    'light'
    """

    dataset: str = field(
        metadata={"help": "A folder, table or file of labels in a format of docs/data.md, or a dataset on the Hub."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str | None = field(
        default="validation",
        metadata={"help": "Split to evaluate on; a tenth of the images where the dataset has no such split."},
    )
    dataset_config_name: str | None = field(
        default=None,
        metadata={
            "help": "Configuration of a dataset on the Hub.",
            "aliases": ["--config_name", "--config-name"],
            "action": Renamed,
        },
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of the images, if it is not detected."})
    label_column: list[str] | None = field(
        default=None,
        metadata={"help": "Column of the labels, or one column per label, if it is not detected.", "action": "extend"},
    )
    separator: str | None = field(
        default=None, metadata={"help": "What separates label names in one text column; '' for one name a cell."}
    )
    blank: str | None = field(
        default=None,
        metadata={
            "help": "What an empty cell in a column of answers means: negative or unknown, if it is not detected."
        },
    )
    minus_one: str | None = field(
        default=None,
        metadata={
            "help": "What -1 in a column of answers means: negative, unknown or positive, if it is not detected."
        },
    )
    none_label: str | None = field(
        default=None, metadata={"help": "Name that says that an image has none of the labels, as 'No Finding'."}
    )
    ignore_case: bool = field(default=False, metadata={"help": "Read label names that differ in case as one."})
    image_dir: str | None = field(
        default=None, metadata={"help": "Folder of the pictures that a table names, if it is not detected."}
    )
    image_suffix: str | None = field(
        default=None,
        metadata={"help": "Suffix that the names of pictures in a table lack, such as .jpg, if it is not detected."},
    )
    encoding: str | None = field(default=None, metadata={"help": "Encoding of a table that is not UTF-8, as cp1252."})
    labels: list[str] | None = field(
        default=None,
        metadata={"help": "Label names in their order (default: those of the training split).", "action": "extend"},
    )
    keep_unlabeled: bool = field(default=False, metadata={"help": "Keep images without any label."})
    streaming: bool = field(default=False, metadata={"help": "Read the dataset while training; needs max_steps."})
    check_data: bool = field(default=True, metadata={"help": "Decode every image once before training."})
    on_bad_image: Literal["error", "skip"] = field(
        default="error",
        metadata={"help": "Stop at images that are missing or corrupt or badly labelled, or list and skip them."},
    )
    augmentation: Literal["paper", "light", "none"] = field(
        default="light", metadata={"help": "Random changes to the training images."}
    )
    allow_urls: bool = field(
        default=False, metadata={"help": "Fetch the pictures behind web addresses that the data name."}
    )
    oversample_threshold: float | None = field(
        default=None, metadata={"help": "Repeat images whose rarest label is on a smaller share of images, e.g. 0.01."}
    )
