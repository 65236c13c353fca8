"""What a training run is told: its arguments, its model and its data. A recipe is a file of these."""

import argparse
import copy
import logging
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from accelerate import ParallelismConfig
from transformers import TrainingArguments
from transformers.trainer_utils import SaveStrategy, SchedulerType

logger = logging.getLogger(__name__)


@dataclass
class MultiLabelTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with the defaults of the paper's recipe for AdamW.

    >>> arguments = MultiLabelTrainingArguments(output_dir="out", report_to="none")
    >>> arguments.learning_rate, arguments.weight_decay, arguments.max_grad_norm
    (0.0001, 0.05, 5.0)
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    weight_decay: float = field(
        default=0.05, metadata={"help": "Decay of weights; biases, norms and position embeddings have none."}
    )
    max_grad_norm: float = field(default=5.0, metadata={"help": "Largest gradient norm."})
    metric_for_best_model: str | None = field(
        default=None,
        metadata={
            "help": "Metric that decides the best model, where that is asked for: mAP, or loss with "
            "prediction_loss_only, unless you name another. Of several eval datasets name one, as eval_night_mAP."
        },
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Kept off: the dataset's transform makes pixel_values when an item is read."}
    )
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
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "On resuming, early stopping goes on counting where the checkpoint was."}
    )

    def __post_init__(self) -> None:
        wanted = self.load_best_model_at_end or self.save_strategy == SaveStrategy.BEST
        wanted |= self.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
        if wanted and self.metric_for_best_model is None:
            self.metric_for_best_model = "loss" if self.prediction_loss_only else "mAP"
        if isinstance(self.parallelism_config, dict):
            self.parallelism_config = ParallelismConfig(**self.parallelism_config)
        super().__post_init__()
        self.dataloader_persistent_workers &= self.dataloader_num_workers > 0  # torch raises otherwise
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every one is used
        if "tensorboard" in (self.report_to or ()) and not find_spec("tensorboard"):
            raise ValueError("report_to tensorboard needs the package tensorboard: pip install tensorboard")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1, got {self.ema_decay}")
        if self.patch_learning_rate_factor < 0:
            raise ValueError(f"patch_learning_rate_factor must not be negative, got {self.patch_learning_rate_factor}")
        if self.lr_step_epochs is not None and sorted(self.lr_step_epochs) != list(self.lr_step_epochs):
            raise ValueError(f"lr_step_epochs must ascend, got {self.lr_step_epochs}")
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError("early_stopping_patience needs load_best_model_at_end, which needs an eval_strategy")

    def __getstate__(self) -> dict[str, Any]:
        # The Trainer pickles its arguments beside every checkpoint, which may be handed on.
        return {**self.__dict__, "hub_token": None}

    # Copies would be made of what is pickled, and lack the token.
    def __copy__(self) -> "MultiLabelTrainingArguments":
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "MultiLabelTrainingArguments":
        memo[id(self)] = copied = object.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied


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
    oversample_threshold: float | None = field(
        default=None, metadata={"help": "Repeat images whose rarest label is on a smaller share of images, e.g. 0.01."}
    )
