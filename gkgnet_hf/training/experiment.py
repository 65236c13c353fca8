"""A training run from its recipe: data, network, training, evaluation, and a folder with everything."""

import json
import logging
import tempfile
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray
from transformers import set_seed

from ..data.checks import drop_bad_images, find_bad_images
from ..data.labels import label_names
from ..data.options import ReadOptions
from ..data.pictures import picture_reader
from ..data.sources import MultiLabelSource
from ..data.splits import split_kind
from ..data.summary import summarize
from ..evaluation.results import evaluate_scores, label_areas
from ..files import held_for_training, last_checkpoint, written_whole
from ..hub.card import inherited_metadata
from ..hub.model_folder import CARD_FILE, EVALUATION_FILE, RECIPE_FILE, without_paths
from ..modeling.configuration_gkgnet import VARIANTS, GKGNetConfig
from ..modeling.image_processing_gkgnet import create_image_processor
from ..predict import model_label_names
from .initialize import create_model
from .interruption import StopOnSignal, stopped_by_signals
from .recipe import Recipe
from .trainer import MultiLabelTrainer, prediction_scores
from .transforms import (
    Read,
    Transform,
    TransformedDataset,
    eval_transform,
    fit_mean_and_std,
    oversample,
    train_transform,
    transform_stream,
)

logger = logging.getLogger(__name__)

BAD_IMAGES_FILE = "bad_images.csv"
SHUFFLE_BUFFER = 1000  # images of a stream in memory, still encoded


def run_training(recipe: Recipe) -> dict[str, float]:
    """Train, evaluate and save what a recipe describes.

    The output folder then holds the model and its image processor, `recipe.yaml` (file and command line together), the
    metrics (`all_results.json`, and `evaluation.json` with those of each label), the model card (`README.md`), the
    checkpoints, and `bad_images.csv` if images were skipped.

    Args:
        recipe: from `read_recipe`. With `resume_from_checkpoint: last` (or the folder of a checkpoint) training goes on
            where it was.

    Returns:
        Metric name → value; of the validation split with the prefix `eval_`.

    Raises:
        FileExistsError: if the output folder holds a training run that is not to be resumed.
        BlockingIOError: if another process trains into the output folder.
        OSError: if the output folder cannot be written.
        ValueError: for data or weights that do not fit; see `load_multilabel_dataset` and `create_model`.
        Stopped: a KeyboardInterrupt, when SIGINT or SIGTERM comes; while the network trains, after a checkpoint.

    Example:

        run_training(read_recipe(["digits", "--dataset", "digits", "--output_dir", "my-model"]))
    """
    if recipe.data.streaming:
        _check_streaming(recipe)
    output = Path(str(recipe.training.output_dir))
    output.mkdir(parents=True, exist_ok=True)
    alone = held_for_training(output) if recipe.training.process_index == 0 else nullcontext()
    with stopped_by_signals() as stop, alone:
        return _run(recipe, output, stop)


def _run(recipe: Recipe, output: Path, stop: StopOnSignal) -> dict[str, float]:
    _check_output(recipe, output)
    set_seed(recipe.training.seed)
    train, validation, eval_split = load_datasets(recipe, output)
    areas = label_areas(validation) if validation is not None else None  # an error of theirs comes before training
    trainer = build_trainer(recipe, train, validation)
    trainer.add_callback(stop)
    if trainer.is_world_process_zero():
        with written_whole(output) as folder:
            recipe.save(folder / RECIPE_FILE)
        resumed = recipe.training.resume_from_checkpoint and (output / CARD_FILE).is_file()
        trainer.create_model_card(**({} if resumed else _origin(recipe)))  # people may have changed it since
    resume = recipe.training.resume_from_checkpoint
    result = trainer.train(resume_from_checkpoint=True if resume == "last" else resume)
    trainer.save_model(str(output), _internal_call=True)  # pushed at the end, with the evaluation
    metrics = result.metrics
    if trainer.state.global_step > trainer.first_step:
        trainer.save_metrics("train", metrics)
    else:
        logger.info("Training had come to its end: nothing is left to train")
    if validation is not None:
        metrics = {**metrics, **_evaluate(trainer, recipe, eval_split, areas)}
    trainer.create_model_card()
    if recipe.training.push_to_hub:
        trainer.push_to_hub()
    return metrics


def load_datasets(
    recipe: Recipe, output: Path
) -> tuple[Dataset | IterableDataset, Dataset | IterableDataset | None, str | None]:
    """The training and validation splits of a recipe, checked, with the same labels, and what the latter is called."""
    data, main_process = recipe.data, recipe.training.process_index == 0
    bad_images_file = output / BAD_IMAGES_FILE if main_process else None
    options = {field.name: getattr(data, field.name) for field in fields(ReadOptions) if hasattr(data, field.name)}
    source = MultiLabelSource(
        data.dataset, data.dataset_config_name, data.streaming, bad_images_file=bad_images_file, **options
    )
    datasets = []
    labels = data.labels
    for split in (data.train_split, data.eval_split):
        if split is None:
            continue
        if split == data.eval_split and recipe.training.load_best_model_at_end:
            _check_not_test(split, source)
        dataset = source.load(split, labels, hold_out=data.eval_split is not None)
        labels = label_names(dataset)
        if isinstance(dataset, Dataset) and data.check_data:
            bad = find_bad_images(dataset, split, _num_channels(recipe)) if main_process else None
            (bad,) = broadcast_object_list([bad])
            dataset = drop_bad_images(dataset, bad, data.on_bad_image, bad_images_file)
        if main_process:
            logger.info("%s, %s: %s", data.dataset, source.split_read(split), summarize(dataset))
        datasets.append(dataset)
    if main_process:
        for sentence in source.assumptions:
            logger.info("%s", sentence)
    if data.eval_split is None:
        return datasets[0], None, None
    return datasets[0], datasets[1], source.split_read(data.eval_split)


def _num_channels(recipe: Recipe) -> int:
    """The channels of the model to be trained, before it is made."""
    given = (recipe.model.config or {}).get("num_channels")
    start = recipe.model.model_name_or_path
    if given is not None or start in VARIANTS or Path(start).is_file():
        return 3 if given is None else given
    return GKGNetConfig.from_pretrained(start).num_channels


def _check_not_test(split: str, source: MultiLabelSource) -> None:
    """A checkpoint that the test images choose would look better on them than it is."""
    if split_kind(source.split_read(split)) == "test":
        raise ValueError(
            f"eval_split {split} would choose the best checkpoint: pass --load_best_model_at_end false, and the last "
            "one is measured on it, or another --eval_split"
        )


def build_trainer(
    recipe: Recipe, train: Dataset | IterableDataset, validation: Dataset | IterableDataset | None
) -> MultiLabelTrainer:
    """The trainer of a recipe on these splits."""
    model = create_model(
        label_names(train),
        recipe.model.model_name_or_path,
        image_size=recipe.model.image_size,
        backbone_checkpoint=recipe.model.backbone_checkpoint,
        loss=recipe.model.loss,
        **(recipe.model.config or {}),
    )
    processor = create_image_processor(model.config)
    if model.config.num_channels not in (1, 3):
        fit_mean_and_std(processor, train)
    seed, read = recipe.training.seed, picture_reader(processor)
    if isinstance(train, IterableDataset):
        train = train.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
    elif recipe.data.oversample_threshold is not None:
        train = oversample(train, recipe.data.oversample_threshold, seed)
    return MultiLabelTrainer(
        model=model,
        args=recipe.training,
        train_dataset=_transformed(train, train_transform(processor, recipe.data.augmentation), seed, read),
        eval_dataset=None if validation is None else _transformed(validation, eval_transform(processor), seed, read),
        processing_class=processor,
    )


def _evaluate(
    trainer: MultiLabelTrainer, recipe: Recipe, eval_split: str | None, areas: NDArray[np.float32] | None
) -> dict[str, float]:
    """Metrics of the validation split; all that is known of it goes into the output folder."""
    prediction = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")  # type: ignore[arg-type]
    metrics = prediction.metrics or {}
    trainer.log(metrics)
    trainer.save_metrics("eval", metrics)
    if trainer.is_world_process_zero():
        evaluation = evaluate_scores(
            prediction_scores(prediction.predictions, trainer.model.config.problem_type),
            prediction.label_ids,  # type: ignore[arg-type]
            label_names=model_label_names(trainer.model),  # type: ignore[arg-type]
            threshold=trainer.model.config.decision_threshold,
            areas=areas,
        )
        source = without_paths({"dataset": recipe.data.dataset, "split": eval_split})
        with written_whole(str(recipe.training.output_dir)) as folder:
            text = json.dumps({**source, **evaluation.to_dict()}, indent=2)
            (folder / EVALUATION_FILE).write_text(text, encoding="utf-8")
    return metrics


def _origin(recipe: Recipe) -> dict[str, Any]:
    """Metadata of the card that only this machine knows: whether what a recipe names is a path or on the Hub."""
    on_hub = not Path(recipe.data.dataset).expanduser().exists()
    return {**inherited_metadata(recipe.model.model_name_or_path), "datasets": recipe.data.dataset if on_hub else None}


def _check_streaming(recipe: Recipe) -> None:
    if recipe.training.max_steps <= 0:
        raise ValueError("streaming needs max_steps, since a stream does not say how long it is")
    for name, value in (
        ("lr_step_epochs", recipe.training.lr_step_epochs),
        ("oversample_threshold", recipe.data.oversample_threshold),
    ):
        if value is not None:
            raise ValueError(f"{name} needs the whole dataset, which streaming does not read: set it to null")


def _check_output(recipe: Recipe, output: Path) -> None:
    if recipe.training.process_index == 0:
        trained_before = (output / "model.safetensors").exists() or last_checkpoint(output)
        if trained_before and not recipe.training.resume_from_checkpoint:
            raise FileExistsError(
                f"{output} holds a training run already: go on with it by --resume_from_checkpoint last, or name "
                "another folder with --output_dir"
            )
        tempfile.TemporaryFile(dir=output).close()  # a folder that cannot be written is an error now, not hours later


def _transformed(
    dataset: Dataset | IterableDataset, transform: Transform, seed: int, read: Read
) -> TransformedDataset | IterableDataset:
    if isinstance(dataset, IterableDataset):
        return transform_stream(dataset, transform, read)
    return TransformedDataset(dataset, transform, seed, read)
