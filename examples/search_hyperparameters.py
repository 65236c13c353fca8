"""Search learning rate, weight decay and loss with optuna, through transformers' Trainer.

    pip install optuna
    python examples/search_hyperparameters.py photos --trials 20 --backbone_checkpoint imagenet

Prints the settings of the best trial as arguments of `gkgnet-hf train`. Trials that look hopeless after an epoch are
stopped early.
"""

import argparse
from typing import Any

import optuna

from gkgnet_hf import create_image_processor
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
    parser.add_argument("dataset", help="folder or table, as for gkgnet-hf train")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--size", default="ti", help="ti, s, m, b, or a trained GKGNet")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--backbone_checkpoint", default="none", help="imagenet downloads weights to start from")
    options = parser.parse_args()

    train = load_multilabel_dataset(options.dataset, "train")
    validation = load_multilabel_dataset(options.dataset, "validation", labels=label_names(train))
    losses = ["paper", "bce", "asymmetric"]

    def build(trial: optuna.Trial | None) -> Any:
        loss = trial.suggest_categorical("loss", losses) if trial is not None else "paper"
        return create_model(
            label_names(train),
            options.size,
            options.image_size,
            backbone_checkpoint=options.backbone_checkpoint,
            loss=loss,
        )

    processor = create_image_processor(build(None).config)
    trainer = MultiLabelTrainer(
        model_init=build,
        args=MultiLabelTrainingArguments(
            output_dir="search",
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=TransformedDataset(train, train_transform(processor, "light")),
        eval_dataset=TransformedDataset(validation, eval_transform(processor)),
        processing_class=processor,
    )
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {
            "learning_rate": trial.suggest_float("learning_rate", 3e-5, 3e-3, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.1),
        },
        compute_objective=lambda metrics: metrics["eval_mAP"],
        direction="maximize",
        n_trials=options.trials,
        backend="optuna",
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=1),
    )
    settings = {name: value if name == "loss" else f"{value:.3g}" for name, value in best.hyperparameters.items()}
    words = " ".join(f"--{name} {value}" for name, value in settings.items())
    print(f"best mAP {best.objective:.1f}: gkgnet-hf train custom --dataset {options.dataset} {words}")


if __name__ == "__main__":
    main()
