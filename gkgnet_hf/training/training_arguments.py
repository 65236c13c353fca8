"""transformers' `TrainingArguments` with those of this package."""

import copy
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from accelerate import ParallelismConfig
from transformers import TrainingArguments
from transformers.trainer_utils import SaveStrategy, SchedulerType

from ..threads import check_num_workers
from .arguments import OwnTrainingArguments


@dataclass
class MultiLabelTrainingArguments(OwnTrainingArguments, TrainingArguments):
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
        check_num_workers(self.dataloader_num_workers, "dataloader_num_workers")
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
