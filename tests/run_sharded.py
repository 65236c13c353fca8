"""What each process of test_distributed runs: a fully sharded network beside a whole one, two steps of both."""

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from gkgnet_hf import GKGNetForImageClassification
from gkgnet_hf.training.sync_batch_norm import synchronize_batch_norm
from tests.test_models import NUM_LABELS, small_config


def main() -> None:
    dist.init_process_group("gloo")
    half = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    torch.manual_seed(0)
    images = torch.randn(8, 3, 64, 64, dtype=torch.float64)
    labels = torch.randint(0, 2, (8, NUM_LABELS)).double()
    whole, sharded = GKGNetForImageClassification(small_config()), GKGNetForImageClassification(small_config())
    sharded.load_state_dict(whole.state_dict())
    whole.double()
    shard(synchronize_batch_norm(sharded.double()))
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
    print("equal")
    dist.destroy_process_group()


def shard(model: GKGNetForImageClassification) -> None:
    """As accelerate does: the modules that must not be split, then the rest."""
    for module in list(model.modules()):
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=dist.init_device_mesh("cpu", (2,)))
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (2,)))
    assert isinstance(model, FSDPModule)


if __name__ == "__main__":
    main()
