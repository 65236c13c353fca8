"""`make demo`: scenes of handwritten digits → training → safetensors → reload → prediction, on a laptop's CPU."""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline, set_seed

from ..modeling.configuration_gkgnet import GKGNetConfig
from ..modeling.image_processing_gkgnet import create_image_processor
from ..modeling.modeling_gkgnet import GKGNetForImageClassification
from .arguments import MultiLabelTrainingArguments
from .data.coco import load_coco
from .data.digits import make_digits
from .trainer import MultiLabelTrainer
from .transforms import processor_transform

IMAGE_SIZE = 96


def main() -> None:
    """Run the demo and print what it reached."""
    parser = argparse.ArgumentParser(prog="python -m gkgnet_hf.training.demo", description=__doc__)
    parser.add_argument("directory", type=Path, help="new folder for the scenes and the model")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of 32 images (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=8000, help="training scenes (default: %(default)s)")
    options = parser.parse_args()
    if options.directory.exists():
        parser.error(f"{options.directory} is there already; name a new folder or remove it")
    start = time.perf_counter()
    set_seed(0)

    digits = make_digits(options.directory / "digits", num_train=options.scenes, image_size=IMAGE_SIZE)
    train, validation = (
        load_coco(digits / split, digits / "annotations" / f"instances_{split}.json") for split in ("train", "val")
    )
    model_directory = train_model(train, validation, options.directory / "model", options.steps)
    show_predictions(model_directory, validation)
    print(f"\nScenes: {digits}\nModel: {model_directory}\nTime: {time.perf_counter() - start:.0f} s")


def train_model(train: Dataset, validation: Dataset, directory: Path, steps: int) -> Path:
    """Train a small GKGNet, print its metrics beside chance, save it with its image processor."""
    names = train.features["label_ids"].feature.names
    config = GKGNetConfig(
        hidden_sizes=(32, 64, 128, 192),
        depths=(1, 1, 2, 1),
        image_size=IMAGE_SIZE,
        drop_path_rate=0.0,
        id2label=dict(enumerate(names)),
    )
    model = GKGNetForImageClassification(config)
    processor = create_image_processor(config)
    transform = processor_transform(processor)
    trainer = MultiLabelTrainer(
        model=model,
        args=MultiLabelTrainingArguments(
            output_dir=str(directory),
            max_steps=steps,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=100,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            warmup_steps=50,
            logging_steps=100,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=train.with_transform(transform),
        eval_dataset=validation.with_transform(transform),
    )
    print(f"Training {model.num_parameters():,} parameters on {len(train)} scenes, {steps} steps of 32")
    trainer.train()
    metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    metrics["chance mAP"] = 100 * float(np.array(validation["labels"]).mean())
    print_metrics(metrics)
    trainer.save_model()
    processor.save_pretrained(directory)
    (directory / "metrics.json").write_text(json.dumps(metrics, indent=2))
    return directory


def print_metrics(metrics: dict[str, float]) -> None:
    """Print the metric table, all decisions beside the top three."""
    print(f"\nValidation mAP {metrics['mAP']:.1f} (chance {metrics['chance mAP']:.1f})\n")
    print(f"{'':>12}{'all':>8}{'top 3':>8}")
    for name in ("CP", "CR", "CF1", "OP", "OR", "OF1"):
        print(f"{name:>12}{metrics[name]:8.1f}{metrics[f'{name}_top3']:8.1f}")


def show_predictions(model_directory: Path, validation: Dataset, count: int = 5) -> None:
    """Reload the saved model as a stranger would and predict a few scenes."""
    model = AutoModelForImageClassification.from_pretrained(model_directory)
    processor = AutoImageProcessor.from_pretrained(model_directory)
    classify = pipeline("image-classification", model=model, image_processor=processor)
    names = validation.features["label_ids"].feature.names
    print(f"\n{'scene':>12}  {'digits in it':16}predicted")
    for row in validation.select(range(count)):
        scores = classify(row["image"], top_k=len(names))
        predicted = ", ".join(f"{s['label']} ({s['score']:.2f})" for s in scores if s["score"] >= 0.5)
        print(f"{row['image_id']:>12}  {', '.join(names[i] for i in row['label_ids']):16}{predicted}")


if __name__ == "__main__":
    main()
