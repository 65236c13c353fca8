"""What each process of test_distributed runs."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset

from gkgnet_hf import GKGNetForImageClassification
from gkgnet_hf.training import MultiLabelLoss, MultiLabelTrainer, MultiLabelTrainingArguments
from gkgnet_hf.training.sync_batch_norm import synchronize_batch_norm
from tests.test_models import NUM_LABELS, small_config

NUM_IMAGES = 24


class NumberedImages(Dataset):
    """Remembers which of its images were read."""

    def __init__(self, count):
        self.count, self.read = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.read.append(i)
        generator = torch.Generator().manual_seed(i)
        return {
            "pixel_values": torch.randn(3, 64, 64, generator=generator),
            "labels": torch.randint(0, 2, (NUM_LABELS,), generator=generator).float(),
        }


def build(output, batch_size, **arguments):
    torch.manual_seed(0)
    settings = dict(num_train_epochs=2, per_device_eval_batch_size=4, logging_steps=1, save_strategy="epoch")
    loss = arguments.pop("compute_loss_func", None)
    return MultiLabelTrainer(
        model=GKGNetForImageClassification(small_config()).double(),  # float32 flips near ties between neighbours
        args=MultiLabelTrainingArguments(
            output_dir=str(output),
            per_device_train_batch_size=batch_size,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **{**settings, **arguments},
        ),
        train_dataset=NumberedImages(NUM_IMAGES),
        eval_dataset=NumberedImages(13),
        compute_loss_func=loss,
    )


def train(output, batch_size):
    """Train a little and evaluate → what was seen; checkpoints in `output`."""
    trainer = build(output, batch_size)
    result = trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    read = list(trainer.train_dataset.read)
    prediction = trainer.predict(trainer.eval_dataset)
    metrics = {name: value for name, value in prediction.metrics.items() if "mAP" in name or "F1" in name}
    given = build(
        output, batch_size // 2, compute_loss_func=MultiLabelLoss(), gradient_accumulation_steps=2, max_steps=1
    )
    given.train()
    first_step = {name: given.state.log_history[0][name] for name in ("loss", "grad_norm")}
    return {"losses": losses, "read": read, "metrics": metrics, "steps": result.global_step, "given_loss": first_step}


def train_sharded():
    """Two steps of a fully sharded network and of a whole one, which must agree."""
    half = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    torch.manual_seed(0)
    images = torch.randn(8, 3, 64, 64, dtype=torch.float64)
    labels = torch.randint(0, 2, (8, NUM_LABELS)).double()
    whole, sharded = GKGNetForImageClassification(small_config()), GKGNetForImageClassification(small_config())
    sharded.load_state_dict(whole.state_dict())
    whole.double()
    shard(synchronize_batch_norm(sharded.double(), torch.device("cpu")))
    assert all(isinstance(p, DTensor) for p in sharded.parameters())
    one, two = (torch.optim.SGD(model.parameters(), lr=1e-3) for model in (whole, sharded))
    for _ in range(2):
        expected = whole(images, labels=labels).loss
        loss = sharded(images[half], labels=labels[half]).loss
        expected.backward(), loss.backward()
        dist.all_reduce(loss.detach())
        torch.testing.assert_close(loss / 2, expected)
        for optimizer in (one, two):
            optimizer.step()
            optimizer.zero_grad()
    for (name, p), q in zip(whole.named_parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(q.full_tensor(), p, msg=name)


def shard(model):
    """As accelerate does: the modules that must not be split, then the rest."""
    mesh = dist.init_device_mesh("cpu", (2,))
    for module in list(model.modules()):
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert isinstance(model, FSDPModule)


def main(output: Path) -> None:
    seen = train(output, batch_size=4)
    train_sharded()
    (output / f"seen-{dist.get_rank()}.json").write_text(json.dumps({**seen, "sharded": "equal"}))
    PartialState().destroy_process_group()  # its threads must not outlive the interpreter


if __name__ == "__main__":
    main(Path(sys.argv[1]))
