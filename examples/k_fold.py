"""K-fold cross-validation: how much the mAP of a small data set depends on which pictures are held out.

    python examples/k_fold.py photos --folds 5 --backbone_checkpoint imagenet

Every picture is held out once. Each fold trains a network of its own; the table shows their mAPs, mean and standard
deviation.
"""

import argparse
import statistics
from collections.abc import Iterator

import numpy as np
from scipy import sparse

from gkgnet_hf import create_image_processor
from gkgnet_hf.data.stratify import stratified_holdout
from gkgnet_hf.training import (
    MultiLabelTrainer,
    MultiLabelTrainingArguments,
    TransformedDataset,
    create_model,
    eval_transform,
    evaluate,
    label_names,
    load_multilabel_dataset,
    train_transform,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder or table, as for gkgnet-hf train")
    parser.add_argument("--split", default="train", help="the split that is divided")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--size", default="ti", help="ti, s, m, b, or a trained GKGNet")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--backbone_checkpoint", default="none", help="imagenet downloads weights to start from")
    options = parser.parse_args()

    data = load_multilabel_dataset(options.dataset, options.split)
    found = []
    for number, held_out in enumerate(folds(np.asarray(data["labels"]), options.folds)):
        training = np.setdiff1d(np.arange(len(data)), held_out)
        model = create_model(
            label_names(data), options.size, options.image_size, backbone_checkpoint=options.backbone_checkpoint
        )
        processor = create_image_processor(model.config)
        arguments = MultiLabelTrainingArguments(
            output_dir=f"k-fold/{number}",
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=2e-4,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            save_strategy="no",
            report_to="none",
            seed=number,
        )
        trainer = MultiLabelTrainer(
            model=model,
            args=arguments,
            train_dataset=TransformedDataset(data.select(training), train_transform(processor, "light")),
            eval_dataset=TransformedDataset(data.select(held_out), eval_transform(processor)),
            processing_class=processor,
        )
        trainer.train()
        found.append(evaluate(trainer.model, processor, data.select(held_out)).metrics["mAP"])
        print(f"fold {number}: {len(training)} training, {len(held_out)} held out, mAP {found[-1]:.1f}", flush=True)
    print(
        f"mAP {statistics.mean(found):.1f} ± {statistics.stdev(found):.1f} (standard deviation of {len(found)} folds)"
    )


def folds(labels: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Rows of each fold, every label about as frequent in each."""
    positive = sparse.csr_array(labels == 1)
    rows = np.arange(len(labels))
    for remaining in range(count, 1, -1):
        held_out = stratified_holdout(positive[rows], [str(row) for row in rows], share=1 / remaining)
        yield rows[held_out]
        rows = rows[~held_out]
    yield rows


if __name__ == "__main__":
    main()
