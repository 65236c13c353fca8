"""transformers' Trainer with the paper's recipe: schedule, average of the weights, multi-label metrics."""

import copy
import json
import logging
import shutil
import weakref
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import CommitOperationAdd, HfApi
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, LRScheduler, MultiStepLR
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, SaveStrategy, TrainOutput
from transformers.utils import SAFE_WEIGHTS_NAME, PushInProgress

from ..evaluation.metrics import multilabel_metrics
from ..files import last_checkpoint, removed_on_error, written_whole
from ..hub.card import EditedCardError, check_card, published_card, write_card
from ..hub.model_folder import CARD_FILE, STATE_FILE, is_own_file, published_content, published_files
from ..modeling.modeling_gkgnet import LOSS_FIELDS, loss_settings, multi_label_loss
from ..predict import probabilities
from .checkpoints import (
    check_callbacks,
    check_checkpoint,
    check_optimizer,
    check_scheduler,
    reading,
    writing,
)
from .sync_batch_norm import synchronize_batch_norm
from .training_arguments import MultiLabelTrainingArguments
from .transforms import seed_of

logger = logging.getLogger(__name__)

# Beside the averaged weights of a checkpoint: the ones that training continues with.
TRAINING_WEIGHTS = "training_weights.safetensors"
# Of a checkpoint that is pushed to be resumed elsewhere, beside the files of its model.
TRAINING_STATE = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", STATE_FILE, TRAINING_WEIGHTS)
METRICS = ("loss", *multilabel_metrics([[0.5]], [[1]]))


class MultiLabelTrainer(Trainer):
    """transformers' Trainer that evaluates with `multilabel_metrics` and knows `MultiLabelTrainingArguments`.

    The loss is the model's own, which its configuration describes. For another one pass `compute_loss_func`, for
    instance a `MultiLabelLoss`. The metrics count a label as predicted from a probability of 0.5 on, whatever the
    configuration's `decision_threshold`.

    Args:
        *args, **kwargs: as for transformers' `Trainer`. With plain `TrainingArguments` the arguments that
            `MultiLabelTrainingArguments` adds have their defaults. An image processor given as `processing_class` is
            saved with every checkpoint.

    A step: `_StepCallback` seeds torch, the model computes its loss, transformers clips and steps, `_StepCallback`
    updates the average. With `ema_decay` the model is evaluated and saved with the average of its weights, and holds it
    after training.

    A run that is stopped and resumed reaches the same weights, bit for bit on a CPU: what torch draws at random in a
    step depends on seed, step and process alone. One that had come to its end is not trained further.

    Raises:
        ValueError: for `label_smoothing_factor`, which smooths over classes that exclude each other (use the
            configuration's `label_smoothing`), a `metric_for_best_model` that no evaluation gives, or what the
            default metrics cannot do, without `compute_metrics`: the `problem_type` "regression"
            and `preprocess_logits_for_metrics`.

    Example:

        trainer = MultiLabelTrainer(model=model, args=arguments, train_dataset=train, eval_dataset=validation)
        trainer.train()
        trainer.evaluate()["eval_mAP"]
    """

    args: TrainingArguments
    model: PreTrainedModel
    optimizer: Optimizer

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("compute_metrics", default_metrics)
        self.average: ModelEmaV3 | None = None
        self.first_step = 0  # of this call of train
        self.resumed_from = Path()
        super().__init__(*args, **kwargs)
        problem_type = getattr(getattr(self.model, "config", None), "problem_type", None)
        if self.args.label_smoothing_factor and problem_type != "single_label_classification":
            raise ValueError(
                "label_smoothing_factor is for images with one label each: set label_smoothing in the model's "
                f"configuration instead, got {self.args.label_smoothing_factor}"
            )
        _check_metric(self.args.metric_for_best_model, self.compute_metrics is default_metrics, self.eval_dataset)
        if self.compute_metrics is default_metrics:
            if problem_type == "regression":
                raise ValueError("problem_type='regression' has no default metrics: pass compute_metrics")
            if self.preprocess_logits_for_metrics is not None:
                raise ValueError(
                    "The default metrics need logits: with preprocess_logits_for_metrics pass compute_metrics"
                )
            self.compute_metrics = partial(default_metrics, problem_type=problem_type)  # type: ignore[call-arg]
        self.add_callback(_StepCallback(weakref.proxy(self)))  # so that `del trainer` frees its memory at once
        if (patience := self._argument("early_stopping_patience")) is not None:
            self.add_callback(EarlyStoppingCallback(patience))

    def _argument(self, name: str) -> Any:
        """An argument that `MultiLabelTrainingArguments` adds; its default where plain `TrainingArguments` are used."""
        return getattr(self.args, name, getattr(MultiLabelTrainingArguments, name))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the Trainer's. True resumes from the newest whole checkpoint in the output folder.

        Raises:
            FileNotFoundError: if the checkpoint is not there.
            ValueError: for True where there is none, and for a checkpoint with other labels, of another network or
                with files of another kind; the message names the file.
        """
        if resume_from_checkpoint is True:
            checkpoint = last_checkpoint(str(self.args.output_dir))
            if checkpoint is None:
                raise ValueError(f"There is no whole checkpoint to resume from in {self.args.output_dir}")
            resume_from_checkpoint = str(checkpoint)
        if resume_from_checkpoint:
            labels = getattr(getattr(self.model, "config", None), "id2label", None)
            self.resumed_from = Path(resume_from_checkpoint)
            check_checkpoint(self.resumed_from, labels)
        set_seed(self.args.seed)  # the order of the images must not depend on what this process did before
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.average = None

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self._argument("sync_batch_norm") and self.args.world_size > 1:
            synchronize_batch_norm(self.model, self.args.device)
        if (decay := self._argument("ema_decay")) is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("ema_decay needs the whole weights in every process, unlike FSDP and DeepSpeed")
            self.average = ModelEmaV3(self.model, decay=decay, use_warmup=self._argument("ema_warmup"))
        return super()._prepare_for_training(*args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As the Trainer's, which takes a step before it sees that a run had come to its end inside an epoch."""
        stoppers = [c for c in self.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
        stopped = any(c.early_stopping_patience_counter >= c.early_stopping_patience for c in stoppers)
        if self.state.global_step >= self.state.max_steps or stopped:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        if self.average is not None:  # now, so that on_train_end of every callback sees the weights that stay
            self.model.load_state_dict(self.average.module.state_dict())
            self.average = None
        return super()._finalize_training(*args, **kwargs)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weights only: no bias, no norm, no position embedding."""
        return [name for name, p in model.named_parameters() if p.ndim > 1 and not name.endswith("pos_embed")]

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """The Trainer's optimiser; the patch nodes have groups of their own where their learning rate differs."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        factor = self._argument("patch_learning_rate_factor")
        if created and factor != 1:
            parameters = (model or self.model).named_parameters()
            patches = {id(p) for name, p in parameters if "backbone." in name}
            for group in list(optimizer.param_groups):
                inside = [p for p in group["params"] if id(p) in patches]
                group["params"] = [p for p in group["params"] if id(p) not in patches]
                optimizer.add_param_group({**group, "params": inside, "lr": factor * group["lr"]})
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """The Trainer's scheduler, or the paper's with `lr_step_epochs`.

        The paper's warms up linearly from a thousandth of the learning rate, and divides it by ten at each of these
        epochs.
        """
        epochs = self._argument("lr_step_epochs")
        if epochs is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        if not isinstance(self.train_dataset, Sized):
            raise ValueError(
                f"lr_step_epochs needs a train_dataset of known length, got {type(self.train_dataset).__name__}"
            )
        optimizer = optimizer or self.optimizer
        steps_per_epoch = -(-len(self.get_train_dataloader()) // self.args.gradient_accumulation_steps)
        schedulers: list[LRScheduler] = [MultiStepLR(optimizer, [round(epoch * steps_per_epoch) for epoch in epochs])]
        if warmup_steps := self.args.get_warmup_steps(num_training_steps):
            schedulers.append(LinearLR(optimizer, start_factor=1e-3, total_iters=warmup_steps))
        self.lr_scheduler = ChainedScheduler(schedulers, optimizer)  # type: ignore[assignment]
        self._created_lr_scheduler = True
        return self.lr_scheduler  # type: ignore[return-value]

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """As the Trainer's, but no image is left out of an evaluation, and training drops a last batch of one image.

        Batch statistics of one image are not defined where the feature map has one pixel.
        """
        drop_last = self.args.dataloader_drop_last
        alone = is_training and not drop_last and self._last_image_is_alone()
        if alone:
            _warn_once("The last batch of an epoch would be one image, which is left out")
        self.args.dataloader_drop_last = (drop_last or alone) and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)  # type: ignore[misc]
        finally:
            self.args.dataloader_drop_last = drop_last

    def _last_image_is_alone(self) -> bool:
        """Whether the last training batch is one image; of several processes the data is evened out."""
        if self.args.world_size > 1 or not isinstance(self.train_dataset, Sized):
            return False
        size = self._train_batch_size  # auto_find_batch_size may have lowered it
        return size > 1 and len(self.train_dataset) > size and len(self.train_dataset) % size == 1

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's: predictions (N, L), labels and metrics, with the averaged weights where there are some."""
        with self._averaged():
            return super().evaluation_loop(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's, with the decay of the average in this step as `ema_decay`."""
        if self.average is not None and "learning_rate" in logs:
            logs["ema_decay"] = self.average.get_decay(self.state.global_step)
        super().log(logs, *args, **kwargs)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within it the model holds what is evaluated and saved."""
        average, self.average = self.average, None  # None, so that nested blocks do not swap back
        if average is not None:
            _swap(self.model, average.module)
        try:
            yield
        finally:
            if average is not None:
                _swap(self.model, average.module)
            self.average = average

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Of two checkpoints with the same metric the one of lower loss is better: few images soon give mAP 100."""
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        if self.state.best_metric is None and np.isnan(metrics.get(name, 0)):
            raise ValueError(
                f"{name} is NaN and cannot decide the best model. mAP is NaN where no evaluation image has a positive "
                "label; the loss is NaN where training diverged"
            )
        # With several datasets the loss is that of the metric's own: eval_night_loss for eval_night_mAP.
        losses = [key for key in metrics if key.endswith("_loss") and name.startswith(key.removesuffix("loss"))]
        loss = max(losses, key=len, default="")
        best = [e for e in self.state.log_history if e.get("step") == self.state.best_global_step and loss in e]
        if best and metrics[name] == self.state.best_metric and metrics[loss] < best[-1][loss]:
            self.state.best_metric = None
        return super()._determine_best_metric(metrics, trial)

    def _load_best_model(self) -> None:
        with reading(Path(str(self.state.best_model_checkpoint), SAFE_WEIGHTS_NAME)):
            super()._load_best_model()
        self.average = None  # the best checkpoint holds the average of its time

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        with self._averaged(), written_whole(output_dir or str(self.args.output_dir)) as folder:
            super()._save(str(folder), state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        checkpoint = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        with writing(checkpoint), removed_on_error(checkpoint):
            super()._save_checkpoint(model, trial)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """As the Trainer's, but a file is never half written."""
        if not self.is_world_process_zero():
            return
        everything = Path(str(self.args.output_dir), "all_results.json")
        with written_whole(everything.parent) as folder:
            names = [f"{split}_results.json"]
            if combined:
                names.append(everything.name)
                earlier = json.loads(everything.read_text(encoding="utf-8")) if everything.exists() else {}
            for name in names:
                values = {**earlier, **metrics} if name == everything.name else metrics
                (folder / name).write_text(json.dumps(values, indent=4, sort_keys=True), encoding="utf-8")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average is not None and self.args.should_save:
            save_model(self.model, str(Path(output_dir, TRAINING_WEIGHTS)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with reading(Path(resume_from_checkpoint, SAFE_WEIGHTS_NAME)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        absent = {*(self.model._keys_to_ignore_on_save or ()), *(self.model._tied_weights_keys or ())}
        if names := sorted({*load_result.missing_keys, *load_result.unexpected_keys} - absent):
            raise ValueError(f"it is of another network, {len(names)} tensors differ: {', '.join(names[:5])}")
        super()._issue_warnings_after_load(load_result)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(Path(checkpoint or "", "rng_state.pth")):
            super()._load_rng_state(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with reading(Path(checkpoint or "", SCALER_NAME)):
            super()._load_scaler(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        self._check_scheduler(Path(checkpoint, SCHEDULER_NAME))
        settings = [copy.copy(group) for group in self.optimizer.param_groups]
        with reading(file := Path(checkpoint, OPTIMIZER_NAME)):
            super()._load_optimizer_and_scheduler(checkpoint)
            check_optimizer(file, self.optimizer, settings)
        if (weights := Path(checkpoint, TRAINING_WEIGHTS)).is_file():
            # The model of such a checkpoint is the average. If there is a self.average, it is a copy of it by now.
            with reading(weights):
                load_model(self.model, str(weights))
        elif self.average is not None:
            raise ValueError(
                f"{checkpoint} has no {weights.name}: a checkpoint that was written without ema_decay, or with "
                "save_only_model, cannot be resumed with ema_decay"
            )

    def _check_scheduler(self, file: Path) -> None:
        if file.is_file() and self.lr_scheduler is not None and not self.is_deepspeed_enabled:
            with reading(file):
                check_scheduler(file, torch.load(file, map_location="cpu", weights_only=True), self.lr_scheduler)

    def _load_callback_state(self) -> None:
        callbacks = [*self.callback_handler.callbacks, self.control]
        check_callbacks(self.resumed_from / STATE_FILE, self.state.stateful_callbacks, callbacks)  # type: ignore[arg-type]
        super()._load_callback_state()
        for callback in self.callback_handler.callbacks:  # its count is the checkpoint's, its patience today's
            if isinstance(callback, EarlyStoppingCallback) and self._argument("early_stopping_patience") is not None:
                callback.early_stopping_patience = self._argument("early_stopping_patience")

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As the Trainer's. A card that somebody edited on the Hub is an error now, not hours later."""
        super().init_hf_repo(token, private)
        if self.is_world_process_zero():
            check_card(str(self.args.output_dir), self.hub_model_id, self.args.hub_revision, self._published_card())

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
        metrics, results = self._last_logged("eval_mAP"), self._training_results()
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

    def _training_results(self) -> dict[str, Any]:
        """Time and loss of the training; of one that had come to its end before, as they were written then."""
        if self.state.global_step > self.first_step:
            return self._last_logged("train_runtime")
        written = Path(str(self.args.output_dir), "train_results.json")
        return json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}

    def _published_card(self) -> str | None:
        repo_id: str | None = self.hub_model_id
        return published_card(repo_id, self.args.hub_revision, self.args.hub_token) if repo_id else None

    def _last_logged(self, name: str) -> dict[str, Any]:
        return next((entry for entry in reversed(self.state.log_history) if name in entry), {})

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **metadata: Any,
    ) -> Any:
        """As the Trainer's, but of the output folder only `published_files` are published.

        Args:
            commit_message, blocking, token, revision, private: as in the Trainer.
            **metadata: as in `create_model_card`.

        Returns:
            What the Hub says of the commit, or with `blocking=False` its Future; None in all processes but the first.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token or self.args.hub_token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        if tags := getattr(self.model, "model_tags", None):
            given = metadata.get("tags") or []
            metadata["tags"] = list(dict.fromkeys([*([given] if isinstance(given, str) else given), *tags]))
        self.create_model_card(**metadata)
        self._finish_current_push()
        folder = Path(str(self.args.output_dir))
        return self._upload(folder, published_files(folder), commit_message, token, revision, not blocking)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As the Trainer's, with the files of `push_to_hub`; where the strategy says so, the checkpoint too."""
        strategy, running = self.args.hub_strategy, getattr(self, "push_in_progress", None)
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        if running is not None and not running.is_done() and not self.args.hub_always_push:
            return
        try:
            self.create_model_card()
        except (OSError, ValueError) as error:  # training goes on
            logger.warning("Nothing is pushed this time: the card of %s: %s", self.hub_model_id, error)
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        output, checkpoint = Path(str(self.args.output_dir)), Path(checkpoint_folder)
        with written_whole(output) as folder:
            for name in published_files(checkpoint):
                shutil.copy(checkpoint / name, folder / name)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
        step = f"step {self.state.global_step}"
        if self.args.save_strategy != SaveStrategy.STEPS:
            step = f"epoch {int(self.state.epoch or 0)}"
        message = f"Training in progress, {step}"
        jobs = [self._upload(output, published_files(output), message, in_background=True)]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            found = {path.name for pattern in TRAINING_STATE for path in checkpoint.glob(pattern) if is_own_file(path)}
            names = sorted({*published_files(checkpoint), *found})
            place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
            jobs.append(self._upload(checkpoint, names, f"{message}, checkpoint", in_background=True, place=place))
        if running is None or running.is_done():
            self.push_in_progress = PushInProgress(jobs)  # type: ignore[arg-type, assignment]
        else:
            running.jobs.extend(jobs)

    def _upload(
        self,
        folder: Path,
        names: list[str],
        message: str,
        token: str | None = None,
        revision: str | None = None,
        in_background: bool = False,
        place: str = ".",
    ) -> Any:
        """Commit these files of a folder to the model's repository, into the folder `place` of it."""
        api: Any = HfApi(library_name="gkgnet_hf")
        return api.create_commit(
            str(self.hub_model_id),
            [CommitOperationAdd(f"{Path(place, name)}", published_content(folder / name)) for name in names],
            commit_message=message,
            token=token if token is not None else self.args.hub_token,
            revision=revision or self.args.hub_revision,
            run_as_future=in_background,
        )


class _StepCallback(TrainerCallback):
    """What happens around each step of a `MultiLabelTrainer`: random numbers before it, the average after it."""

    def __init__(self, trainer: MultiLabelTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.trainer.first_step = state.global_step
        parts: list[Any] = [*self.trainer.model.modules(), self.trainer.compute_loss_func]
        self.correcting = [part for part in parts if hasattr(type(part), "corrects_labels")]

    def on_epoch_begin(
        self, args: Any, state: TrainerState, control: Any, train_dataloader: Any = None, **kwargs: Any
    ) -> None:
        # accelerate does so itself, but not with several processes, nor in an epoch that is resumed half-way.
        for part in (train_dataloader, train_dataloader.dataset):
            if hasattr(part, "set_epoch"):
                part.set_epoch(int(state.epoch or 0))

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        # The state that a checkpoint keeps would not do: a loader whose workers persist draws a number when it starts
        # its workers, which a resumed run does later than one that was not stopped.
        torch.manual_seed(seed_of(args.seed, state.global_step, args.process_index))
        for part in self.correcting:  # as in the paper of this correction, a network that has learned one epoch
            part.corrects_labels = (state.epoch or 0) >= 1

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self.trainer.average is not None:
            self.trainer.average.update(self.trainer.model, step=state.global_step)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        for part in self.correcting:
            part.corrects_labels = True


class MultiLabelLoss(nn.Module):
    """One of the losses of `LOSSES`, by default the paper's, summed over labels, averaged over the batch.

    The Trainers of transformers take it as `compute_loss_func`; gradient accumulation and several processes then give
    the mean over all images of a step.

    Args:
        name: "paper", "asymmetric", "bce", "focal", "hill" or "splc".
        label_weights: (L,) factor of each label's loss.
        **settings: any of `LOSS_FIELDS`, as in `multi_label_loss`; the defaults are those of the loss of that name.

    Attributes:
        corrects_labels: False keeps "splc" from changing labels. `MultiLabelTrainer` does so in the first epoch, here
            and in `GKGNetForImageClassification`.

    Raises:
        TypeError: for another setting.
        ValueError: for another name.

    Example:

        trainer = MultiLabelTrainer(..., compute_loss_func=MultiLabelLoss("asymmetric", gamma_negative=3))

    >>> loss = MultiLabelLoss("bce")
    >>> round(loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).item(), 4)
    1.3863
    """

    corrects_labels = True

    def __init__(self, name: str = "paper", *, label_weights: Tensor | None = None, **settings: float):
        super().__init__()
        preset = loss_settings(name)
        for other in settings.keys() - set(LOSS_FIELDS):
            raise TypeError(f"{other} is no setting of the loss; it has {', '.join(LOSS_FIELDS)}")
        self.settings = {**preset, **settings}
        self.label_weights: Tensor | None
        self.register_buffer("label_weights", label_weights)

    def forward(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Loss of a batch, a scalar.

        Args:
            outputs: logits (B, L), or a model's output that has them as `logits` or, in a tuple, first.
            labels: (B, L) of 1 (positive), 0 (negative), and −1 or NaN (unknown). Or, with two labels or more, class
                ids (B,) of images with one label each.
            num_items_in_batch: how many labels all batches of a training step have together, as the Trainer counts
                them. The losses of the batches then add up to the mean over all their images.
        """
        if isinstance(outputs, tuple):
            outputs = outputs[0]
        logits = outputs if isinstance(outputs, Tensor) else outputs["logits"]
        settings = self.settings if self.corrects_labels else {**self.settings, "correction_threshold": 1.0}
        loss = multi_label_loss(logits, labels, label_weights=self.label_weights, **settings)
        return loss if num_items_in_batch is None else loss * labels.numel() / num_items_in_batch

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


def prediction_scores(predictions: Any, problem_type: str | None = None) -> NDArray[np.float32]:
    """Probabilities (N, L) from what the Trainer gathers: logits, alone or first in a tuple, or a list of batches."""
    if isinstance(predictions, list):
        return np.concatenate([prediction_scores(batch, problem_type) for batch in predictions])
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return probabilities(torch.from_numpy(logits), problem_type)


def default_metrics(prediction: EvalPrediction, problem_type: str | None = None) -> dict[str, float]:
    """`multilabel_metrics` of what the Trainer gathers. Labels may be class ids (N,) of images with one label each."""
    scores, labels = prediction_scores(prediction.predictions, problem_type), prediction.label_ids
    labels = np.concatenate(labels) if isinstance(labels, list) else np.asarray(labels)
    if labels.ndim == 1:
        labels = np.eye(scores.shape[1])[labels] if scores.shape[1] > 1 else labels[:, None]
    return multilabel_metrics(scores, labels)


def _check_metric(name: str | None, default: bool, eval_dataset: Any) -> None:
    """Raise ValueError now, and not after the first epoch, for a metric that an evaluation does not give."""
    if name is None:
        return
    if default and not name.endswith(METRICS):
        raise ValueError(
            f"metric_for_best_model must be one of {', '.join(METRICS)}, or any of your own compute_metrics, got {name}"
        )
    metric = name.removeprefix("eval_")
    if isinstance(eval_dataset, dict) and not metric.startswith(tuple(f"{key}_" for key in eval_dataset)):
        names = ", ".join(f"eval_{key}_{metric}" for key in eval_dataset)
        raise ValueError(f"With several eval datasets metric_for_best_model must be one of them: {names}; got {name}")


@torch.no_grad()
def _swap(one: nn.Module, other: nn.Module) -> None:
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        kept = a.clone()
        a.copy_(b)
        b.copy_(kept)


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
