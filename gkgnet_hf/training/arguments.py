"""Training arguments: transformers' own, with the paper's values as defaults."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class MultiLabelTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with the defaults of the paper's recipe for AdamW.

    >>> arguments = MultiLabelTrainingArguments(output_dir="out", report_to="none")
    >>> arguments.learning_rate, arguments.weight_decay, arguments.max_grad_norm
    (0.0001, 0.05, 5.0)
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    weight_decay: float = field(
        default=0.05, metadata={"help": "Decay of weights; biases, norms and position embeddings have none."}
    )
    max_grad_norm: float = field(default=5.0, metadata={"help": "Largest gradient norm."})
    metric_for_best_model: str | None = field(default="mAP", metadata={"help": "Metric that decides the best model."})
    greater_is_better: bool | None = field(default=True, metadata={"help": "Whether higher is better in it."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Kept off: the dataset's transform makes pixel_values when an item is read."}
    )
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Columns that hold labels."}
    )
