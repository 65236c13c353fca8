"""The Trainer: optimiser, schedule, average of the weights, checkpoints."""

import copy
import inspect
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from gkgnet_hf import GKGNetForImageClassification, create_image_processor
from gkgnet_hf.files import last_checkpoint, written_whole
from gkgnet_hf.training import MultiLabelTrainer, MultiLabelTrainingArguments

from .test_models import NUM_LABELS, small_config


class RandomImages(torch.utils.data.Dataset):
    """The same random images and labels for everybody."""

    def __init__(self, offset=0):
        self.offset = offset

    def __len__(self):
        return 20

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i + self.offset)
        return {
            "pixel_values": torch.randn(3, 64, 64, generator=generator),
            "labels": torch.randint(0, 2, (NUM_LABELS,), generator=generator).float(),
        }


def build_trainer(output, callbacks=(), args=MultiLabelTrainingArguments, **arguments):
    """A trainer of a small network on random images. `arguments` are those of the Trainer or of `args`."""
    torch.manual_seed(0)
    model = GKGNetForImageClassification(small_config(drop_path_rate=0.3))
    of_trainer = inspect.signature(Trainer.__init__).parameters.keys() & arguments.keys()
    own = {name: arguments.pop(name) for name in of_trainer}
    settings = dict(
        max_steps=8,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        save_steps=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    defaults = dict(
        model=None if "model_init" in own else model,
        train_dataset=RandomImages(),
        eval_dataset=RandomImages(),
        processing_class=create_image_processor(model.config),
        callbacks=list(callbacks),
    )
    return MultiLabelTrainer(args=args(output_dir=str(output), **{**settings, **arguments}), **{**defaults, **own})


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class Kill(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(tmp_path):
    step = random.SystemRandom().randint(3, 7)
    script = f"from tests.test_trainer import *; build_trainer({str(tmp_path / 'killed')!r}, [Kill({step})], "
    script += "ema_decay=0.9).train()"
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (tmp_path / "killed" / "checkpoint-100").mkdir()  # what a process leaves that is killed while it writes

    resumed = build_trainer(tmp_path / "killed", ema_decay=0.9)
    resumed.train(resume_from_checkpoint=True)
    whole = build_trainer(tmp_path / "whole", ema_decay=0.9)
    whole.train()
    assert resumed.state.global_step == whole.state.global_step == 8
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("steps", [5, 7])  # at the end of an epoch, and in the middle of one
def test_with_workers_that_persist_and_evaluations_a_run_resumes_bit_for_bit(tmp_path, steps):
    settings = dict(
        dataloader_num_workers=1,
        dataloader_persistent_workers=True,
        gradient_accumulation_steps=1,
        max_steps=12,
        save_steps=steps,
        eval_strategy="steps",
        eval_steps=steps,
        load_best_model_at_end=True,
        greater_is_better=False,
        early_stopping_patience=9,
        ema_decay=0.9,
        ema_warmup=True,
        lr_step_epochs=[0.8, 2],
        warmup_steps=3,
        compute_metrics=lambda _: {"mAP": 1.0},
        logging_steps=1,
    )
    whole, resumed = (build_trainer(tmp_path, **settings) for _ in range(2))
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{steps}"))
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())
    assert curve(resumed, steps) == curve(whole, steps)
    assert early_stopping_count(resumed) == early_stopping_count(whole) > 0


def curve(trainer, after):
    return [
        {name: entry[name] for name in ("loss", "grad_norm", "learning_rate", "ema_decay", "step")}
        for entry in trainer.state.log_history
        if "loss" in entry and entry["step"] > after
    ]


def early_stopping_count(trainer):
    (callback,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback))
    return callback.early_stopping_patience_counter


def test_without_a_whole_checkpoint_there_is_nothing_to_resume(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text('{"epoch": 1')
    assert last_checkpoint(tmp_path) is None
    with pytest.raises(ValueError, match=rf"no whole checkpoint to resume from in {tmp_path}"):
        build_trainer(tmp_path).train(resume_from_checkpoint=True)


@pytest.fixture
def small_disk():
    """Files cannot grow beyond 100 kB, like on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_an_error_and_leaves_no_half_checkpoint(tmp_path, small_disk):
    class Fill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                small_disk()

    with pytest.raises((OSError, SafetensorError)):
        build_trainer(tmp_path, [Fill()]).train()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-2"]
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_a_full_disk_leaves_the_earlier_model_as_it_was(tmp_path, small_disk):
    trainer = build_trainer(tmp_path)
    trainer.save_model()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    torch.nn.init.ones_(trainer.model.patch_classifier.bias)
    small_disk()
    with pytest.raises((OSError, SafetensorError)):
        trainer.save_model()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_folder_is_replaced_only_as_a_whole(tmp_path):
    with written_whole(tmp_path / "new") as folder:
        (folder / "a").write_text("one")
    with suppress(KeyError), written_whole(tmp_path / "new") as folder:
        (folder / "a").write_text("two")
        raise KeyError
    assert [(p.name, p.read_text()) for p in (tmp_path / "new").iterdir()] == [("a", "one")]


def test_checkpoints_hold_the_average_and_the_processor_and_load_without_a_warning(tmp_path, caplog, monkeypatch):
    trainer = build_trainer(tmp_path, max_steps=4, ema_decay=0.5)
    trainer.train()
    saved = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    assert_same_weights(saved, trainer.model.state_dict())
    last = load_file(tmp_path / "checkpoint-4" / "training_weights.safetensors")
    assert not torch.equal(saved["patch_classifier.weight"], last["patch_classifier.weight"])
    assert (tmp_path / "checkpoint-4" / "preprocessor_config.json").is_file()
    monkeypatch.setattr(transformers.logging.get_logger(), "propagate", True)
    caplog.clear()
    GKGNetForImageClassification.from_pretrained(tmp_path / "checkpoint-4")
    assert not caplog.text


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_follows_its_definition_and_is_what_is_evaluated(tmp_path, warmup):
    weights, seen, decays = [], [], []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            weights.append(model.patch_classifier.weight.detach().clone())

        def on_log(self, args, state, control, logs, **kwargs):
            decays.extend([logs["ema_decay"]] if "ema_decay" in logs else [])

    settings = dict(max_steps=3, logging_steps=1, eval_strategy="steps", eval_steps=3)
    trainer = build_trainer(tmp_path, [Watch()], ema_decay=0.5, ema_warmup=warmup, **settings)
    trainer.compute_metrics = lambda _: (
        seen.append(trainer.model.patch_classifier.weight.detach().clone()) or {"mAP": 1.0}
    )
    trainer.train()
    average = weights[0]
    for step, weight in enumerate(weights[1:], 1):
        decay = min(0.5, 1 - (1 + step) ** (-2 / 3)) if warmup else 0.5
        assert decays[step] == pytest.approx(decay)
        average = decay * average + (1 - decay) * weight
    assert trainer.model.gkgnet.backbone.stem.conv1.norm.num_batches_tracked == 3  # integers are no averages
    torch.testing.assert_close(seen[0], average)
    torch.testing.assert_close(trainer.model.patch_classifier.weight.detach(), average)
    assert not torch.allclose(seen[0], weights[-1])


def test_the_best_average_is_loaded_at_the_end(tmp_path):
    scores = iter([3.0, 9.0, 1.0])
    trainer = build_trainer(
        tmp_path,
        max_steps=6,
        ema_decay=0.5,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        early_stopping_patience=5,
    )
    trainer.compute_metrics = lambda _: {"mAP": next(scores)}
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert_same_weights(load_file(tmp_path / "checkpoint-4" / "model.safetensors"), trainer.model.state_dict())


def test_of_equal_metrics_the_lower_loss_is_best(tmp_path):
    trainer = build_trainer(tmp_path, max_steps=6, eval_strategy="steps", eval_steps=2, load_best_model_at_end=True)
    trainer.compute_metrics = lambda _: {"mAP": 100.0}
    trainer.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    assert min(losses, key=losses.get) != 2
    assert trainer.state.best_global_step == min(losses, key=losses.get)


def test_without_the_average_a_run_goes_on_from_the_weights_that_were_trained(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, model, **kwargs):
            seen.append(model.patch_classifier.weight.detach().clone())

    build_trainer(tmp_path, max_steps=4, ema_decay=0.9).train()
    build_trainer(tmp_path, [Watch()], max_steps=6).train(resume_from_checkpoint=True)
    trained = load_file(tmp_path / "checkpoint-4" / "training_weights.safetensors")
    assert torch.equal(seen[0], trained["patch_classifier.weight"])


@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9, "save_only_model": True}])
def test_a_checkpoint_without_the_trained_weights_cannot_be_resumed_with_an_average(settings, tmp_path):
    build_trainer(tmp_path, max_steps=2, **settings).train()
    with pytest.raises(ValueError, match="written without ema_decay, or with save_only_model, cannot be resumed"):
        build_trainer(tmp_path, ema_decay=0.9).train(resume_from_checkpoint=True)


def test_callbacks_see_the_average_at_the_end_of_training(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_train_end(self, args, state, control, model, **kwargs):
            seen.append(model.patch_classifier.weight.detach().clone())

    trainer = build_trainer(tmp_path, [Watch()], max_steps=2, ema_decay=0.5)
    trainer.train()
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")["patch_classifier.weight"]
    assert torch.equal(seen[0], saved)


def test_an_average_of_sharded_weights_is_an_error(tmp_path):
    trainer = build_trainer(tmp_path, ema_decay=0.5)
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="ema_decay needs the whole weights in every process"):
        trainer.train()


def test_training_stops_early_when_map_does_not_rise(tmp_path):
    trainer = build_trainer(
        tmp_path, eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, early_stopping_patience=1
    )
    trainer.compute_metrics = lambda _: {"mAP": 50.0}
    trainer.train()
    assert trainer.state.global_step == 4


def test_step_schedule_follows_epochs(tmp_path):
    trainer = build_trainer(tmp_path, max_steps=-1, num_train_epochs=4, warmup_steps=0.25, lr_step_epochs=[2, 3])
    trainer.create_optimizer()
    schedule = trainer.create_scheduler(num_training_steps=20)  # 5 steps an epoch
    rates = []
    for _ in range(20):
        rates.append(schedule.get_last_lr()[0] / 1e-3)
        trainer.optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.001 + 0.999 * step / 5 for step in range(5)])
    assert rates[5:10] == pytest.approx([1] * 5)
    assert rates[10:15] == pytest.approx([0.1] * 5)
    assert rates[15:] == pytest.approx([0.01] * 5)


def test_step_schedule_needs_a_dataset_of_known_length(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from RandomImages()

    with pytest.raises(ValueError, match="lr_step_epochs needs a train_dataset of known length, got Stream"):
        build_trainer(tmp_path, train_dataset=Stream(), lr_step_epochs=[1]).train()


def test_patch_nodes_may_learn_more_slowly_and_norms_do_not_decay(tmp_path):
    trainer = build_trainer(tmp_path, patch_learning_rate_factor=0.1)
    optimizer = trainer.create_optimizer()
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    settings = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert settings.keys() == set(names.values())
    assert settings["gkgnet.backbone.stem.conv1.conv.weight"] == pytest.approx((1e-4, 0.05))
    assert settings["gkgnet.backbone.stem.conv1.norm.weight"] == pytest.approx((1e-4, 0))
    assert settings["gkgnet.backbone.stem.pos_embed"] == pytest.approx((1e-4, 0))
    assert settings["gkgnet.label_embedding.weight"] == pytest.approx((1e-3, 0.05))
    assert settings["patch_classifier.bias"] == pytest.approx((1e-3, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ema_decay": 1.0}, "ema_decay must be between 0 and 1, got 1.0"),
        ({"lr_step_epochs": [50, 10]}, r"lr_step_epochs must ascend, got \[50, 10\]"),
        ({"patch_learning_rate_factor": -1}, "must not be negative, got -1"),
        ({"early_stopping_patience": 3}, "needs load_best_model_at_end"),
    ],
)
def test_wrong_arguments_are_clear_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelTrainingArguments(use_cpu=True, **arguments)


def test_copies_of_the_arguments_hold_the_token_and_pickles_do_not():
    arguments = MultiLabelTrainingArguments(use_cpu=True, hub_token="secret")
    assert copy.copy(arguments).hub_token == "secret"
    assert copy.deepcopy(arguments) == arguments
    assert pickle.loads(pickle.dumps(arguments)).hub_token is None


def test_gradient_checkpointing_and_half_precision_train(tmp_path):
    trainer = build_trainer(tmp_path, max_steps=2, gradient_checkpointing=True, bf16=True, logging_steps=1)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(torch.isfinite(torch.tensor(losses)))


def test_tensorboard_reads_the_log(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer = build_trainer(tmp_path, max_steps=2, logging_steps=1, report_to="tensorboard")
    trainer.train()
    files = list(tmp_path.rglob("events.out.tfevents.*"))
    events = event_accumulator.EventAccumulator(str(files[0].parent))
    events.Reload()
    assert len(events.Scalars("train/loss")) == 2
