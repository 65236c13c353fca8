"""What each process of test_distributed runs: train a little, evaluate, write what it saw."""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from torch.utils.data import Dataset

from gkgnet_hf import GKGNetForImageClassification
from gkgnet_hf.training import MultiLabelTrainer, MultiLabelTrainingArguments
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


def main(output: Path, batch_size: int) -> None:
    torch.manual_seed(0)
    train, validation = NumberedImages(NUM_IMAGES), NumberedImages(13)
    trainer = MultiLabelTrainer(
        model=GKGNetForImageClassification(small_config()).double(),  # float32 flips near ties between neighbours
        args=MultiLabelTrainingArguments(
            output_dir=str(output),
            num_train_epochs=2,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=4,
            logging_steps=1,
            save_strategy="epoch",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=train,
        eval_dataset=validation,
    )
    result = trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    read = list(train.read)
    prediction = trainer.predict(validation)
    metrics = {name: value for name, value in prediction.metrics.items() if "mAP" in name or "F1" in name}
    seen = {"losses": losses, "read": read, "metrics": metrics, "steps": result.global_step}
    (output / f"seen-{trainer.args.process_index}.json").write_text(json.dumps(seen))
    PartialState().destroy_process_group()  # its threads must not outlive the interpreter


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
