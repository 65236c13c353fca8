"""transformers' Trainer with the multi-label loss and metrics, and the paper's recipe."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import EarlyStoppingCallback, EvalPrediction, PreTrainedModel, Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..evaluation.metrics import multilabel_metrics
from ..files import last_checkpoint, removed_on_error, written_whole
from ..hub.card import EditedCardError, check_card, published_card, write_card
from ..hub.model_folder import CARD_FILE
from ..modeling.modeling_gkgnet import GKGNetForImageClassification
from .arguments import MultiLabelTrainingArguments
from .augmented import EpochCallback
from .ema import WeightAverage
from .losses import MultiLabelLoss
from .schedule import step_schedule
from .sync_batch_norm import synchronize_batch_norm

logger = logging.getLogger(__name__)

# Beside the averaged weights of a checkpoint: the ones that training continues with.
TRAINING_WEIGHTS = "training_weights.safetensors"


class MultiLabelTrainer(Trainer):
    """Trainer of a model that scores labels: `MultiLabelLoss` to train, `multilabel_metrics` to evaluate.

    Args:
        model: what to train.
        args: `MultiLabelTrainingArguments`.
        loss: called with (logits, labels); default the `MultiLabelLoss` of the model's configuration.
        **kwargs: as for transformers' `Trainer`. An image processor given as `processing_class` is saved with every
            checkpoint.

    With `args.ema_decay` the average of the weights is what is evaluated and saved, and what the model holds after
    training.

    Example:

        trainer = MultiLabelTrainer(model=model, args=arguments, train_dataset=train, eval_dataset=validation)
        trainer.train()
        trainer.evaluate()["eval_mAP"]
    """

    args: MultiLabelTrainingArguments
    model: PreTrainedModel
    optimizer: Optimizer

    def __init__(
        self,
        model: GKGNetForImageClassification,
        args: MultiLabelTrainingArguments,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("compute_metrics", _metrics)
        self.loss = loss if loss is not None else MultiLabelLoss.from_config(model.config)
        self.average: WeightAverage | None = None
        super().__init__(model=model, args=args, **kwargs)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over the batch: the Trainer averages it
        self.add_callback(EpochCallback())
        if args.sync_batch_norm and args.world_size > 1:
            synchronize_batch_norm(model)
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Loss of a batch, a mean over its images, and on request the model's output."""
        labels = inputs["labels"]
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        loss = self.loss(outputs["logits"], labels)
        return (loss, outputs) if return_outputs else loss

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weights only: no bias, no norm, no position embedding."""
        return [name for name, p in model.named_parameters() if p.ndim > 1 and not name.endswith("pos_embed")]

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """The Trainer's optimiser; the patch nodes have groups of their own where their learning rate differs."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        factor = self.args.patch_learning_rate_factor
        if created and factor != 1:
            parameters = (model or self.model).named_parameters()
            patches = {id(p) for name, p in parameters if "backbone." in name}
            for group in list(optimizer.param_groups):
                inside = [p for p in group["params"] if id(p) in patches]
                group["params"] = [p for p in group["params"] if id(p) not in patches]
                optimizer.add_param_group({**group, "params": inside, "lr": factor * group["lr"]})
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """The Trainer's scheduler, or `step_schedule` with `args.lr_step_epochs`."""
        if self.args.lr_step_epochs is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        steps_per_epoch = -(-len(self.get_train_dataloader()) // self.args.gradient_accumulation_steps)
        self.lr_scheduler = step_schedule(
            optimizer or self.optimizer,
            milestones=[round(epoch * steps_per_epoch) for epoch in self.args.lr_step_epochs],
            warmup_steps=self.args.get_warmup_steps(num_training_steps),
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the Trainer's. True resumes from the newest whole checkpoint in the output folder.

        Raises:
            ValueError: for True where there is none.
        """
        if resume_from_checkpoint is True:
            checkpoint = last_checkpoint(str(self.args.output_dir))
            if checkpoint is None:
                raise ValueError(f"There is no whole checkpoint to resume from in {self.args.output_dir}")
            resume_from_checkpoint = str(checkpoint)
        if self.args.ema_decay is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("ema_decay needs the whole weights in every process, unlike FSDP and DeepSpeed")
            self.average = WeightAverage(self.model, self.args.ema_decay)
            self.add_callback(self.average)
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.average is not None:
            self.model.load_state_dict(self.average.average.module.state_dict())
            self._drop_average()
        return result

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        with self._averaged():
            return super().evaluation_loop(*args, **kwargs)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As the Trainer's. A card that somebody edited on the Hub is an error now, not hours later.

        The Hub is told to leave out the pickled arguments, which nothing loads.
        """
        super().init_hf_repo(token, private)
        if self.is_world_process_zero():
            check_card(str(self.args.output_dir), self.hub_model_id, self.args.hub_revision, self._published_card())
        ignored = Path(str(self.args.output_dir), ".gitignore")
        if self.is_world_process_zero() and not ignored.exists():
            ignored.parent.mkdir(parents=True, exist_ok=True)
            ignored.write_text(f"{TRAINING_ARGS_NAME}\n", encoding="utf-8")

    def create_model_card(  # type: ignore[override]
        self,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        dataset_tags: str | list[str] | None = None,
        **metadata: Any,
    ) -> None:
        """Write README.md of the output folder with `write_card`.

        If somebody edits the card on the Hub while the model trains, the run goes on, since nobody is there to ask, and
        their text is kept. README.md takes it over, and its former content moves to `_README-STEP.md`, which is not
        pushed.

        Args:
            model_name: not used; the card has the name of the repository or folder.
            finetuned_from, dataset_tags: transformers' names of `base_model` and `datasets`.
            **metadata: as in `write_card`.
        """
        if not self.is_world_process_zero():
            return
        repo_id = self.hub_model_id
        metrics, results = self._last_logged("eval_mAP"), self._last_logged("train_runtime")
        if results and self.args.load_best_model_at_end and "eval_mAP" not in self.state.log_history[-1]:
            metrics = {}  # they are of the last weights; the model has the best
        published = self._published_card()
        card = Path(str(self.args.output_dir), CARD_FILE)
        try:
            check_card(card.parent, repo_id, self.args.hub_revision, published)
        except EditedCardError:
            if not self.state.global_step:
                raise
            kept = card.rename(card.with_name(f"_{card.stem}-{self.state.global_step}.md"))
            logger.warning("Somebody edited the card of %s: it keeps their text. Yours is in %s", repo_id, kept)
        write_card(
            card.parent,
            repo_id=repo_id,
            revision=self.args.hub_revision,
            published=published,
            config=self.model.config,
            evaluation={"metrics": {k.removeprefix("eval_"): v for k, v in metrics.items()}} if metrics else None,
            training={**self.args.to_dict(), **results},
            **{"base_model": finetuned_from, "datasets": dataset_tags, **metadata},
        )

    def _published_card(self) -> str | None:
        repo_id: str | None = self.hub_model_id
        return published_card(repo_id, self.args.hub_revision, self.args.hub_token) if repo_id else None

    def _last_logged(self, name: str) -> dict[str, Any]:
        return next((entry for entry in reversed(self.state.log_history) if name in entry), {})

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero():
            try:
                self.create_model_card()
            except (OSError, ValueError) as error:  # training goes on
                logger.warning("Nothing is pushed this time: the card of %s: %s", self.hub_model_id, error)
                return
            for file in Path(checkpoint_folder).glob("*.py"):  # the code for those without this package
                shutil.copy(file, str(self.args.output_dir))
        super()._push_from_checkpoint(checkpoint_folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        with self._averaged(), written_whole(output_dir or str(self.args.output_dir)) as folder:
            super()._save(str(folder), state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with removed_on_error(Path(self._get_output_dir(trial), name)):
            super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average is not None and self.args.should_save:
            save_model(self.model, str(Path(output_dir, TRAINING_WEIGHTS)))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.average is not None and checkpoint is not None:
            if not (weights := Path(checkpoint, TRAINING_WEIGHTS)).is_file():
                raise ValueError(f"{checkpoint} was written without ema_decay and cannot be resumed with it")
            self.average.average.set(self.model)  # what a checkpoint calls the model is the average
            load_model(self.model, str(weights))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._drop_average()  # the best checkpoint holds the average of its time

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Of two checkpoints with the same metric the one of lower loss is better: few images soon give mAP 100."""
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        best = [e for e in self.state.log_history if e.get("step") == self.state.best_global_step and "eval_loss" in e]
        if best and metrics[name] == self.state.best_metric and metrics["eval_loss"] < best[-1]["eval_loss"]:
            self.state.best_metric = None
        return super()._determine_best_metric(metrics, trial)

    def _drop_average(self) -> None:
        if self.average is not None:
            self.remove_callback(self.average)
            self.average = None

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within it the model holds what is evaluated and saved."""
        if self.average is None:
            yield
        else:
            with self.average.applied(self.model):
                yield


def prediction_scores(predictions: Any) -> NDArray[np.float32]:
    """Probabilities (N, L) from what the Trainer gathers: logits, alone or first in a tuple."""
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return torch.from_numpy(logits).float().sigmoid().numpy()


def _metrics(prediction: EvalPrediction) -> dict[str, float]:
    return multilabel_metrics(prediction_scores(prediction.predictions), prediction.label_ids)
