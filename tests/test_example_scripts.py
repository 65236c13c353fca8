"""What people start from: the example scripts of transformers and timm, on a small folder of images.

The source distributions of the two libraries leave their scripts out, so the tests make the scripts' calls in their
order. `test_timms_own_scripts_run_unchanged` runs timm's scripts themselves where a checkout is at hand.
"""

import json
import os
import subprocess
import sys
from argparse import Namespace

import datasets
import pytest
import timm
import torch
from PIL import Image
from timm import utils
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.models import load_checkpoint, model_parameters, resume_checkpoint
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from torchvision import transforms
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

from gkgnet_hf import GKGNetForImageClassification, create_image_processor

from .test_models import WIDTHS, small_config

SMALL = dict(embed_dims=WIDTHS, depths=(1, 1, 1, 1))
COLORS = {"blue": (30, 30, 200), "red": (200, 30, 30)}


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Two splits of twelve images in two classes, as `ImageFolder` wants them."""
    root = tmp_path_factory.mktemp("images")
    for split in ("train", "validation"):
        for name, color in COLORS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(6):
                Image.new("RGB", (40 + i, 36), tuple(c + 3 * i for c in color)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A saved model of five labels with its processor."""
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    model = GKGNetForImageClassification(small_config(depths=(1, 1, 1, 1), image_size=32))
    model.save_pretrained(folder)
    create_image_processor(model.config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
def test_the_flow_of_run_image_classification(image_folder, pretrained, tmp_path, problem_type):
    dataset = datasets.load_dataset(
        "imagefolder",
        data_files={split: str(image_folder / split / "**") for split in ("train", "validation")},
        cache_dir=str(tmp_path / "cache"),
    )
    names = dataset["train"].features["label"].names
    config = AutoConfig.from_pretrained(
        pretrained,
        num_labels=len(names),
        label2id={name: str(i) for i, name in enumerate(names)},
        id2label={str(i): name for i, name in enumerate(names)},
        finetuning_task="image-classification",
        **({"problem_type": problem_type} if problem_type else {}),
    )
    model = AutoModelForImageClassification.from_pretrained(pretrained, config=config, ignore_mismatched_sizes=True)
    processor = AutoImageProcessor.from_pretrained(pretrained)
    size = (processor.size["height"], processor.size["width"])
    normalize = transforms.Normalize(mean=processor.image_mean, std=processor.image_std)
    steps = [transforms.ToTensor(), normalize]
    train = transforms.Compose([transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *steps])
    evaluate = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), *steps])
    for split, transform in (("train", train), ("validation", evaluate)):

        def transform_batch(batch, transform=transform):
            return {**batch, "pixel_values": [transform(image.convert("RGB")) for image in batch["image"]]}

        dataset[split].set_transform(transform_batch)

    def collate(examples):
        return {
            "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
            "labels": torch.tensor([example["label"] for example in examples]),
        }

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path / "output"),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            remove_unused_columns=False,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())},
        processing_class=processor,
        data_collator=collate,
    )
    result = trainer.train()
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    trainer.create_model_card(finetuned_from=str(pretrained), tasks="image-classification", tags=["vision"])

    assert {"eval_loss", "eval_accuracy"} <= metrics.keys()
    saved = json.loads((tmp_path / "output" / "config.json").read_text())
    assert saved["id2label"] == {"0": "blue", "1": "red"}
    assert saved["label2id"] == {"blue": 0, "red": 1}
    classify = pipeline("image-classification", model=str(tmp_path / "output"), device="cpu")
    answer = classify(Image.new("RGB", (40, 40), COLORS["red"]))
    assert {entry["label"] for entry in answer} == set(names)


@pytest.mark.parametrize("name", ["gkgnet_ti", "pvig_ti"])
def test_the_flow_of_timms_train_and_validate(image_folder, tmp_path, name):
    args = Namespace(
        model=name,
        img_size=32,
        opt="adamw",
        lr=1e-3,
        weight_decay=0.05,
        momentum=0.9,
        layer_decay=0.7,
        sched="cosine",
        epochs=1,
        warmup_epochs=0,
    )
    model = timm.create_model(
        name,
        pretrained=False,
        in_chans=3,
        num_classes=2,
        drop_rate=0.1,
        drop_path_rate=0.1,
        drop_block_rate=None,
        global_pool=None,
        bn_momentum=None,
        bn_eps=None,
        scriptable=False,
        checkpoint_path="",
        **SMALL,
    )
    model.get_classifier().weight.data.mul_(0.5)
    model.set_grad_checkpointing(enable=True)
    data_config = resolve_data_config(vars(args), model=model)
    optimizer = create_optimizer_v2(model, **optimizer_kwargs(cfg=args))
    average = utils.ModelEmaV3(model, decay=0.9)
    train, validation = (
        create_loader(
            create_dataset("", root=str(image_folder), split=split, is_training=training, batch_size=6),
            input_size=data_config["input_size"],
            batch_size=6,
            is_training=training,
            interpolation=data_config["interpolation"],
            mean=data_config["mean"],
            std=data_config["std"],
            num_workers=0,
            persistent_workers=False,
            device=torch.device("cpu"),
        )
        for split, training in (("train", True), ("validation", False))
    )
    saver = utils.CheckpointSaver(model, optimizer, args, average, checkpoint_dir=tmp_path, recovery_dir=tmp_path)
    scheduler, epochs = create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=len(train))
    loss_function, losses = LabelSmoothingCrossEntropy(0.1), []
    for epoch in range(epochs):
        model.train()
        for images, targets in train:
            loss = loss_function(model(images), targets)
            loss.backward(create_graph=False)
            utils.dispatch_clip_grad(model_parameters(model, exclude_head=True), value=0.02, mode="agc")
            optimizer.step()
            optimizer.zero_grad()
            average.update(model)
            losses.append(loss.item())
        accuracy = validate(model, validation)
        scheduler.step(epoch + 1, accuracy)
        saver.save_checkpoint(epoch, metric=accuracy)
    assert len(losses) == 2
    assert torch.tensor(losses).isfinite().all()

    best, fresh = tmp_path / "model_best.pth.tar", timm.create_model(name, num_classes=2, **SMALL)
    assert resume_checkpoint(fresh, str(best), create_optimizer_v2(fresh, **optimizer_kwargs(cfg=args))) == 1
    assert all(torch.equal(fresh.state_dict()[key], tensor) for key, tensor in model.state_dict().items())
    assert validate(fresh, validation) == accuracy
    load_checkpoint(fresh, str(best), use_ema=True)
    assert all(torch.equal(fresh.state_dict()[key], tensor) for key, tensor in average.module.state_dict().items())


def validate(model, loader):
    """Accuracy in percent of the first answer."""
    model.eval()
    meter = utils.AverageMeter()
    with torch.inference_mode():
        for images, targets in loader:
            top1, _ = utils.accuracy(model(images), targets, topk=(1, 5))
            meter.update(top1.item(), len(images))
    return meter.avg


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gkgnet_ti", "pvig_ti"])
def test_timms_own_scripts_run_unchanged(image_folder, tmp_path, name):
    checkout = os.environ.get("TIMM_CHECKOUT")
    if not checkout:
        pytest.skip(f"set TIMM_CHECKOUT to a checkout of pytorch-image-models v{timm.__version__} to run its scripts")
    shared = ["--model", name, "--num-classes", "2", "--img-size", "32", "--batch-size", "6", "--device", "cpu"]
    output = ["--output", str(tmp_path), "--experiment", "run"]
    training = ["--epochs", "1", "--warmup-epochs", "0", "--opt", "adamw", "--lr", "1e-3", "--model-ema", *output]
    run_script(checkout, "train.py", "--data-dir", str(image_folder), *shared, *training, "--workers", "1")
    checkpoint = ["--checkpoint", str(tmp_path / "run" / "model_best.pth.tar")]
    results = ["--results-file", str(tmp_path / "results.json"), "--results-format", "json"]
    run_script(checkout, "validate.py", str(image_folder), *shared, *checkpoint, *results, "--workers", "0")
    assert 0 <= json.loads((tmp_path / "results.json").read_text())["top1"] <= 100


def run_script(checkout, script, *words):
    """Run a script in its checkout with this package imported first."""
    start = f"import gkgnet_hf, runpy; runpy.run_path({script!r}, run_name='__main__')"
    process = subprocess.run([sys.executable, "-c", start, *words], cwd=checkout, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
