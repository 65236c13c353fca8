"""One run of one network: from patch weights and scenes to a file of results."""

import json
import math
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from gkgnet_hf.evaluation import multilabel_metrics
from gkgnet_hf.evaluation.metrics import average_precision, size_metrics
from gkgnet_hf.modeling.modeling_gkgnet import loss_settings, multi_label_loss

from .networks import NETWORKS, GKGNet, load_patch_weights, patch_weights
from .scenes import COCO_AREA

BATCH_SIZE = 32
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
DEVICE = (torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None) or torch.device("cpu")


@dataclass(frozen=True)
class Pictures:
    """Pictures (N, size, size, 3) of uint8, their labels (N, L) and the area of the largest object of each (N, L)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.float32]
    areas: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Run:
    """What decides about a run. Equal runs on equal machines have equal results."""

    network: str
    learning_rate: float
    seed: int
    steps: int
    start: str | None = None  # name of the run whose patch weights it starts from
    task: str = "scenes"  # or "singles", one label a picture; or "tags", one thing a picture with many labels
    loss: str = "paper"
    labels: str = "complete"  # "half": half of the positives are marked negative; "single": all but one
    changes: dict[str, Any] = field(default_factory=dict)  # of the configuration
    pictures: int | None = None  # the first so many of the training set; None for all
    label_rate: float = 1.0  # learning rate of what is not patch nodes ÷ that of patch nodes
    label_loss: float = 0.0  # weight of a second loss, of what label nodes say alone

    @property
    def name(self) -> str:
        """The stem of its files."""
        words = [self.task, self.network, f"lr{self.learning_rate:g}", f"steps{self.steps}", f"seed{self.seed}"]
        words += [self.loss] * (self.loss != "paper") + [self.labels] * (self.labels != "complete")
        words += [f"{self.pictures}pictures"] * (self.pictures is not None)
        words += [f"labels×{self.label_rate:g}"] * (self.label_rate != 1)
        words += [f"labels+{self.label_loss:g}"] * (self.label_loss != 0)
        words += [f"{key}={value}" for key, value in self.changes.items()]
        if self.start is not None:
            words.append(f"after ({self.start})")
        return " ".join(words).replace("/", "÷")


def train(run: Run, train_set: Pictures, val_sets: dict[str, Pictures], folder: Path) -> dict[str, Any]:
    """Train and evaluate, unless the folder has the result already: `result["raw"]["val"]["mAP"]` and the like, with
    the last weights or their moving average ("ema"), for each of `val_sets`."""
    result_file = folder / f"{run.name}.json"
    if result_file.exists():
        return json.loads(result_file.read_text())
    torch.manual_seed(run.seed)
    rng = np.random.default_rng(run.seed)
    num_labels = train_set.labels.shape[1]
    model = NETWORKS[run.network](num_labels, **run.changes)
    if run.start is not None:
        load_patch_weights(model, load_file(folder / f"{run.start}.safetensors"))
    model.to(DEVICE)
    optimizer = torch.optim.AdamW(_parameter_groups(model, run))
    rates = [group["lr"] for group in optimizer.param_groups]
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=run.steps, pct_start=0.1)
    ema = ModelEmaV3(model, decay=0.995, use_warmup=True)
    targets = hide_labels(train_set.labels[: run.pictures], run.labels, np.random.default_rng(0))
    order = np.concatenate(
        [rng.permutation(len(targets)) for _ in range(math.ceil(run.steps * BATCH_SIZE / len(targets)))]
    )
    losses = []
    start = time.perf_counter()
    model.train()
    for step in range(run.steps):
        rows = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
        images = augment(torch.from_numpy(train_set.images[rows]).to(DEVICE))
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = loss_of(run, model, images, torch.from_numpy(targets[rows]).to(DEVICE), step, len(targets))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        scheduler.step()
        ema.update(model, step=step)
        losses.append(loss.detach())
    result = {
        "run": asdict(run),
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "seconds": time.perf_counter() - start,
        "loss": [part.mean().item() for part in torch.stack(losses).double().tensor_split(20)],
        "raw": {name: evaluate(run, model, val_set) for name, val_set in val_sets.items()},
        "ema": {name: evaluate(run, ema.module, val_set) for name, val_set in val_sets.items()},
    }
    if run.task == "singles":
        save_file({k: v.contiguous() for k, v in patch_weights(ema.module).items()}, folder / f"{run.name}.safetensors")
    temporary = result_file.with_suffix(".tmp")
    temporary.write_text(json.dumps(result))
    temporary.replace(result_file)
    return result


def loss_of(run: Run, model: nn.Module, images: Tensor, targets: Tensor, step: int, num_pictures: int) -> Tensor:
    """The loss of a batch; C-Tran's counts on the labels that it was not told. `label_loss` adds one of label nodes."""
    if run.task == "singles":
        return F.cross_entropy(model(images).float(), targets.argmax(1), label_smoothing=0.1)
    parts = model.parts(images) if run.label_loss else ()
    logits = parts[0] + parts[1] if parts else model(images, labels=targets)
    if isinstance(logits, tuple):
        logits, counted = logits
        targets = torch.where(counted, targets, -1)
    settings = loss_settings(run.loss)
    if step * BATCH_SIZE < num_pictures:  # its paper corrects labels from the second epoch on
        settings["correction_threshold"] = 1.0
    loss = multi_label_loss(logits.float(), targets, **settings)
    if parts:
        loss = loss + run.label_loss * multi_label_loss(parts[0].float(), targets, **settings)
    return loss


@torch.inference_mode()
def evaluate(run: Run, model: nn.Module, val_set: Pictures) -> dict[str, Any]:
    """mAP, overall and by size, and the AP of each label; of GKGNet also the mAP of label nodes and of pooled patches
    alone, and where label nodes look; of single labels the share of first guesses that is right."""
    model.eval()
    batches = (
        _normalise(torch.tensor(val_set.images[first : first + 100], device=DEVICE))
        for first in range(0, len(val_set.images), 100)
    )
    outputs = [model.parts(batch) if isinstance(model, GKGNet) else (model(batch),) for batch in batches]
    parts = [torch.cat(part).float().cpu() for part in zip(*outputs, strict=True)]
    logits = torch.stack(parts).sum(0)
    if run.task == "singles":
        right = logits.argmax(1).numpy() == val_set.labels.argmax(1)
        return {"accuracy": 100 * float(right.mean())}
    scores = logits.sigmoid().numpy()
    metrics = multilabel_metrics(scores, val_set.labels)
    found = {"mAP": metrics["mAP"], "CF1": metrics["CF1"], "OF1": metrics["OF1"]}
    if len(parts) == 2:
        of_parts = (multilabel_metrics(part.sigmoid().numpy(), val_set.labels)["mAP"] for part in parts)
        found |= dict(zip(("mAP_label_nodes", "mAP_pooled_patches"), of_parts, strict=True))
    if isinstance(model, GKGNet):
        found |= model.looks(_normalise(torch.tensor(val_set.images[:100], device=DEVICE)))
    if val_set.areas is not None:
        areas = val_set.areas * COCO_AREA / val_set.images.shape[1] ** 2
        found |= size_metrics(scores, val_set.labels, areas)
    return found | {"AP": [round(float(ap), 2) for ap in average_precision(scores, val_set.labels)]}


def hide_labels(labels: NDArray[np.float32], kind: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Mark positives as negative, as annotators do who overlook them: half of them, or all but one of an image."""
    if kind == "complete":
        return labels
    chance = np.where(labels == 1, rng.random(labels.shape), 0)
    if kind == "half":
        return (chance > 0.5).astype(np.float32)
    return ((chance == chance.max(1, keepdims=True)) & (labels == 1)).astype(np.float32)


def augment(images: Tensor) -> Tensor:
    """(B, H, W, 3) of uint8 → (B, 3, H, W), normalised, each mirrored or not, shifted, scaled and lit anew, by numbers
    drawn on the CPU: equal on all devices."""
    batch, device = len(images), images.device
    scale = torch.empty(batch).uniform_(0.8, 1.1)
    mirror = torch.randint(0, 2, (batch,)) * 2.0 - 1
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale * mirror, scale
    theta[:, :, 2] = torch.empty(batch, 2).uniform_(-0.12, 0.12)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    grid = F.affine_grid(theta.to(device), list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    light = torch.empty(batch, 3, 1, 1).uniform_(0.85, 1.15) * torch.empty(batch, 1, 1, 1).uniform_(0.7, 1.3)
    return _normalise_pixels((pixels * light.to(device)).clamp(0, 1))


def _normalise(images: Tensor) -> Tensor:
    return _normalise_pixels(images.permute(0, 3, 1, 2).float() / 255)


def _normalise_pixels(pixels: Tensor) -> Tensor:
    return (pixels - MEAN.to(pixels.device)) / STD.to(pixels.device)


def _parameter_groups(model: nn.Module, run: Run) -> list[dict[str, Any]]:
    """Patch nodes and the rest, with weight decay and without."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        key = ("backbone" in name, parameter.ndim > 1 and "embed" not in name)
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": run.learning_rate * (1 if of_patches else run.label_rate),
            "weight_decay": 0.05 if decays else 0.0,
        }
        for (of_patches, decays), parameters in groups.items()
    ]


@lru_cache
def _pictures(folder: Path, task: str, split: str) -> Pictures:
    images, labels = (np.load(folder / f"{task}-{split}-{what}.npy", mmap_mode="r") for what in ("images", "labels"))
    areas = folder / f"{task}-{split}-areas.npy"
    return Pictures(images, np.asarray(labels), np.load(areas) if areas.exists() else None)


def train_job(job: tuple[Path, Run]) -> tuple[str, dict[str, Any]]:
    """The name and the result of a run, in a process of its own."""
    folder, run = job
    splits = ["val"] if run.task == "singles" else ["val", "known"]
    val_sets = {split: _pictures(folder, run.task, split) for split in splits}
    return run.name, train(run, _pictures(folder, run.task, "train"), val_sets, folder / "runs")


def one_thread() -> None:
    """What such a process does first: runs go side by side, on a core each."""
    torch.set_num_threads(1)
