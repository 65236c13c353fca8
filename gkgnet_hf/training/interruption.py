"""Signals that stop a training run: it writes a checkpoint and ends."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

logger = logging.getLogger(__name__)


class Stopped(KeyboardInterrupt):
    """A training run was told to stop. `exit_code` is what a shell expects of it."""

    def __init__(self, number: int, where: str):
        super().__init__(f"stopped by {signal.Signals(number).name} {where}")
        self.exit_code = 128 + number


class StopOnSignal(TrainerCallback):
    """Lets the step that runs come to its end and writes a checkpoint when SIGINT or SIGTERM comes.

    A second signal ends the run at once, as does one outside the steps, where the last checkpoint has what there is.
    Of several processes each would stop at another step, so that all end at once.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.waits = False
        self.received: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """What Python calls when a signal comes."""
        if os.getpid() != self.process:  # a process that reads images; it ends with this one
            return
        if self.received is not None or not self.waits:
            raise Stopped(number, "")
        self.received = number
        logger.info("Stopping after this step; the same again stops at once")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.waits = args.world_size == 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self.received is not None:
            if args.save_strategy == SaveStrategy.NO:
                raise Stopped(self.received, f"at step {state.global_step}, without a checkpoint: save_strategy is no")
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self.received is not None:
            where = f"at step {state.global_step}: go on with --resume_from_checkpoint last"
            raise Stopped(self.received, where)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.waits = False


@contextmanager
def stopped_by_signals() -> Iterator[StopOnSignal]:
    """Within it SIGINT and SIGTERM raise `Stopped`; once the callback that it gives is a trainer's, after a checkpoint.

    In other threads than the main one, where Python takes no signals, nothing changes.
    """
    callback = StopOnSignal()
    if threading.current_thread() is not threading.main_thread():
        yield callback
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, callback.handle) for number in numbers}
    try:
        yield callback
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
