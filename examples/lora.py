"""Fine-tune with LoRA (peft): a small file of changes beside the weights that they change.

    pip install peft
    python examples/lora.py my-gkgnet photos --output my-adapter

Two things that a network of convolutions and batch norm asks for:

- LoRA sits on the 1 × 1 convolutions without groups and on the linear layers; peft does not split a grouped one.
- Batch norm's running statistics change in training, and peft would not save them. Here they are frozen: batch norm
  stays in eval mode, so the adapter alone says what changed. The classifier is trained whole (`modules_to_save`).
"""

import argparse

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from gkgnet_hf import GKGNetForImageClassification, create_image_processor
from gkgnet_hf.training import (
    MultiLabelTrainer,
    MultiLabelTrainingArguments,
    TransformedDataset,
    create_model,
    eval_transform,
    label_names,
    load_multilabel_dataset,
    train_transform,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a trained GKGNet: folder or name on the Hub")
    parser.add_argument("dataset", help="folder or table, as for gkgnet-hf train")
    parser.add_argument("--output", default="my-adapter")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--batch_size", type=int, default=16)
    options = parser.parse_args()

    train = load_multilabel_dataset(options.dataset, "train")
    base = create_model(label_names(train), options.model)  # labels that it knew keep their weights
    base.save_pretrained(options.output)  # what the adapter is for
    create_image_processor(base.config).save_pretrained(options.output)
    processor = create_image_processor(base.config)
    model = get_peft_model(base, lora_config(base, options.rank))
    model.print_trainable_parameters()
    freeze_batch_norm(model)
    trainer = MultiLabelTrainer(
        model=model,
        args=MultiLabelTrainingArguments(
            output_dir=f"{options.output}-run",
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=1e-3,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=TransformedDataset(train, train_transform(processor, "light")),
    )
    trainer.train()
    model.save_pretrained(f"{options.output}/adapter")

    loaded = load(options.output)
    image = eval_transform(processor)(train[0]["image"])[None]
    with torch.inference_mode():
        difference = (loaded(image).logits - model.eval()(image).logits).abs().max().item()
    print(f"saved and loaded: logits differ by {difference:.1e}")


def lora_config(model: nn.Module, rank: int) -> LoraConfig:
    """LoRA on every layer that takes it, and the classifiers whole."""
    names = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size == (1, 1))
        or (isinstance(module, nn.Linear) and "classifier" not in name)
    ]
    classifiers = [name for name, _ in model.named_children() if name.endswith("_classifier")]
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, modules_to_save=classifiers)


def freeze_batch_norm(model: nn.Module) -> None:
    """Keep batch norm in eval mode whatever `model.train()` says."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]


def load(folder: str) -> PeftModel:
    """The model with its adapter."""
    base = GKGNetForImageClassification.from_pretrained(folder)
    return PeftModel.from_pretrained(base, f"{folder}/adapter").eval()


if __name__ == "__main__":
    main()
