"""The command `gkgnet-hf`: every subcommand is one call into the library.

A command imports what it calls, so that help and usage errors come at once.
"""

import csv
import dataclasses
import inspect
import io
import json
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, get_type_hints

import typer

from .training.arguments import DataArguments, ModelArguments, OwnTrainingArguments, recipe_names

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BaseImageProcessor

    from .evaluation.results import Evaluation
    from .modeling.modeling_gkgnet import GKGNetForImageClassification
    from .predict.collection import Summary

FEW_POSITIVES = 10
MOST_PROBLEMS = 20
LONGEST_MESSAGE = 2000  # characters; some quote what they could not read

# Names of options in the last version; they stay for one more.
FORMER_OPTIONS = {"config-name": "dataset-config-name"}


@cache  # of every word, so that a warning comes once
def _option_name(word: str) -> str:
    """The name of an option, which may also be written as in recipes (`--top_k`) or as in the last version."""
    name = word.replace("_", "-")
    if (now := FORMER_OPTIONS.get(name, name)) != name:
        typer.echo(f"--{name} is called --{now} now; the old name goes in the next version", err=True)
    return now


app = typer.Typer(
    help="GKGNet: train, evaluate and use networks that recognise all labels in an image.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"token_normalize_func": _option_name},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"gkgnet-hf {version('gkgnet-hf')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    _: Annotated[
        bool, typer.Option("--traceback", help="Show where an error comes from; also after a command.")
    ] = False,
) -> None:
    """Options of the command itself."""


data_app = typer.Typer(help="Look at a data set, or make one.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

Model = Annotated[str, typer.Argument(help="Folder of a model, or its name on the Hub.", show_default=False)]
Source = Annotated[
    str, typer.Argument(help="Folder or file in a format of docs/data.md, or name on the Hub.", show_default=False)
]
DatasetConfigName = Annotated[str | None, typer.Option(help="Configuration of a dataset on the Hub.")]
OnBadImage = Annotated[
    Literal["error", "skip"],
    typer.Option(help="Stop with an error at images that cannot be used, or list and skip them."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per batch.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")]


# How a data set is read; types and help are those of the arguments of recipes.
READ_OPTIONS = (
    *("image_column", "label_column", "separator", "blank", "minus_one", "none_label", "ignore_case"),
    *("image_dir", "image_suffix", "encoding", "keep_unlabeled", "on_bad_image", "allow_urls"),
)


def _reads_data(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of a data set; they come as a dictionary in its argument `options`."""

    def read(**given: Any) -> None:
        options = {name: given.pop(name) for name in READ_OPTIONS}
        command(**given, options={**options, "label_column": options["label_column"] or None})

    types, arguments = get_type_hints(DataArguments), {field.name: field for field in dataclasses.fields(DataArguments)}
    shared = []
    for name in READ_OPTIONS:
        switch = [f"--{name.replace('_', '-')}"] if types[name] is bool else []  # without its negation
        option = typer.Option(*switch, help=arguments[name].metadata["help"])
        kind = inspect.Parameter.KEYWORD_ONLY
        shared.append(
            inspect.Parameter(name, kind, annotation=Annotated[types[name], option], default=arguments[name].default)
        )
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
        if name != "options"
    ]
    read.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    read.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    read.__name__, read.__doc__ = command.__name__, command.__doc__
    return read


def _argument_list() -> str:
    """Help of every argument of a recipe that is this package's own."""
    lines = []
    for title, part in {"Model": ModelArguments, "Data": DataArguments, "Training": OwnTrainingArguments}.items():
        lines += ["\b", f"{title}:"]
        for argument in dataclasses.fields(part):
            default = "" if argument.default in (None, dataclasses.MISSING) else f" [default: {argument.default}]"
            text = f"  --{argument.name}  {argument.metadata['help']}{default}"
            lines += textwrap.wrap(text, width=76, initial_indent="  ", subsequent_indent=" " * 8)
        lines.append("")
    return "\n".join(lines)


@app.command(
    context_settings={"ignore_unknown_options": True},
    epilog=_argument_list() + "\nAnd every argument of transformers' TrainingArguments, such as --output_dir, "
    "--num_train_epochs, --per_device_train_batch_size, --learning_rate, --bf16, --report_to tensorboard and "
    "--resume_from_checkpoint last. On several devices: accelerate launch -m gkgnet_hf train ...",
)
def train(
    recipe_or_flags: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE_OR_FLAGS",
            help=f"A recipe ({', '.join(recipe_names())}, or a YAML file), then whatever differs.",
            show_default=False,
        ),
    ],
) -> None:
    """Train a network from a recipe, and evaluate it.

    The output folder then holds the model, its image processor, the metrics, and the recipe with what the
    command line changed: `gkgnet-hf train OUTPUT/recipe.yaml --output_dir NEW` does the same again.
    """
    from accelerate import PartialState

    from .training.experiment import run_training
    from .training.recipe import read_recipe

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    recipe = read_recipe(recipe_or_flags)
    metrics = run_training(recipe)
    PartialState().destroy_process_group()  # its threads must not outlive the interpreter
    if recipe.training.process_index == 0:
        if "eval_mAP" in metrics:
            typer.echo(f"\nValidation mAP {metrics['eval_mAP']:.1f}, CF1 {metrics['eval_CF1']:.1f}")
        typer.echo(f"Model: {recipe.training.output_dir}")


@app.command()
@_reads_data
def evaluate(
    model: Model,
    dataset: Source,
    split: Annotated[
        str, typer.Option(help="Split to evaluate on, or all. Without such a split, a held-out tenth of the images.")
    ] = "validation",
    dataset_config_name: DatasetConfigName = None,
    options: dict[str, Any] = {},  # noqa: B006
    batch_size: BatchSize = 16,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 0,
    as_json: AsJson = False,
    per_label: Annotated[Path | None, typer.Option(help="Write a CSV file with the metrics of each label.")] = None,
    fit: Annotated[
        Literal["per-label", "global"] | None,
        typer.Option(
            "--fit-thresholds",
            help="Find the decision thresholds with the highest F1 on this split, and keep them in the model's folder.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page with curves, sliders and the worst pictures."),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="OTHER-MODEL", help="Put another model beside this one in that page.")
    ] = None,
    mistakes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="List likely mislabelled pictures in a .csv or .json for Label Studio."),
    ] = None,
) -> None:
    """Measure how good a model is.

    mAP, precision, recall and F1 on a data set with known labels; docs/evaluate.md says what they mean.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if fit and not Path(model).is_dir():
        raise ValueError(f"--fit-thresholds writes into the model's folder, and {model} is none")
    if per_label and not per_label.absolute().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {per_label.parent} to write {per_label.name} into")
    if compare and not report:
        raise ValueError("--compare puts another model into the page of --report FILE.html, which is not given")
    if report or mistakes:
        from .evaluation import report as reports

        reports.check_files(report, mistakes)  # before the long work

    from .evaluation.results import evaluate as evaluate_model
    from .files import written_whole

    network, processor = _load(model)
    other = _load(compare) if compare else None
    if other:
        reports.check_same_labels(network, other[0])
    data, name = _load_data(network, dataset, dataset_config_name, options, split)
    result = evaluate_model(network, processor, data, batch_size, num_workers)
    if fit:
        result = result.fitted(per_label=fit == "per-label")
    typer.echo(json.dumps(result.to_dict(), indent=2) if as_json else result)  # before a full disk can lose it
    if per_label:
        _write_per_label(result, per_label)
    if fit:
        network.config.decision_threshold = result.threshold
        with written_whole(model) as folder:
            network.config.save_pretrained(folder)
        if fit == "per-label":
            _warn_of_few(result)
        typer.echo(f"\n{model}/config.json now holds the thresholds, fitted to these same images", err=True)
    if report:
        second = other and (_short_name(compare), reports.evaluate_other(*other, data, result, batch_size, num_workers))
        pictures = reports.Pictures(data, network, processor)
        shown = {"model": _short_name(model), "dataset": f"{_short_name(dataset)}, split {name or split}"}
        typer.echo(f"\n{reports.write_report(report, result, pictures, other=second, **shown)}", err=True)
    if mistakes:
        found = reports.find_mistakes(result.scores, result.targets)
        typer.echo(f"\n{reports.write_mistakes(mistakes, found, data, result.label_names, result.targets)}", err=True)


@app.command()
@_reads_data
def explain_score(
    model: Model,
    dataset: Annotated[
        str, typer.Argument(help="Folder or file in COCO's format, for it has boxes.", show_default=False)
    ],
    split: Annotated[
        str, typer.Option(help="Split to look at. Without such a split, a held-out tenth of the images.")
    ] = "validation",
    options: dict[str, Any] = {},  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Measure whether labels look at their objects.

    The pointing game on a data set with boxes: label nodes, pooled patches, Grad-CAM, the centre and chance.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from .data.readers.coco import read_boxes
    from .evaluation.pointing import pointing_game

    network, processor = _load(model)
    data, name = _load_data(network, dataset, None, options, split)
    result = pointing_game(network, processor, data, read_boxes(dataset, name or split))
    typer.echo(json.dumps(result.to_dict(), indent=2) if as_json else result)


@app.command("app")
def web_page(
    model: Model,
    examples: Annotated[
        list[str] | None, typer.Option(help="Image file or folder to choose from in the page; may be given again.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; default, the first free one from 7860.")
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Make a public link through Gradio's servers.")] = False,
    space: Annotated[
        Path | None, typer.Option(help="Do not start: write the files of a Hugging Face Space into this folder.")
    ] = None,
) -> None:
    """Open a web page that labels pictures.

    Drop pictures, see their labels, and click a label to see where it looked.
    """
    try:
        from .app import create_app, launch_app, write_space
    except ModuleNotFoundError as error:
        raise ImportError(f"The page needs Gradio (pip install 'gkgnet-hf[app]'): {error}") from error
    if space is not None:
        write_space(space, model)
        typer.echo(f"{space} holds a Space: push it to huggingface.co/spaces")
        return
    launch_app(create_app(*_load(model), examples or []), port, share)


@app.command()
def predict(
    model: Model,
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, patterns as 'a/*.jpg', tables, data sets, WebDataset shards, or - for a list "
            "of files.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            help="Write results to NAME.parquet (a folder of parts), NAME.csv or NAME.jsonl, or sidecars (a file of "
            "tags beside each image). A run over the same output goes on where the last one stopped."
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of labels per image, whatever their score. With --threshold, the largest number."
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest score of a label (default: the model's own, else 0.5).")
    ] = None,
    label_table: Annotated[
        Path | None,
        typer.Option(
            help="CSV with a row a label: label, category, threshold, rename, exclude, implies (docs/predict.md)."
        ),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="A label to leave out; may be given again.")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="OLD=NEW, a label's name; may be given again.")] = None,
    embeddings: Annotated[
        Literal["patches", "labels"] | None,
        typer.Option(help="Keep vectors that describe each image too: one (patches), or one for each label (labels)."),
    ] = None,
    batch_size: BatchSize = 16,
    num_workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Processes that read images, by default half the cores with --output; with Ray, actors."
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="With --output: compute exactly as without it, which is slower.")
    ] = False,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray: on all machines of a Ray cluster, which share files.")
    ] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster; default, this machine alone.")] = None,
    shard: Annotated[str, typer.Option(help="N/M labels part N of M, as 3/8; for several processes.")] = "1/1",
    split: Annotated[str | None, typer.Option(help="Of a data set; default, all.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Of a table: the column with the images.")] = None,
    image_dir: Annotated[str | None, typer.Option(help="Folder of the images that a table names.")] = None,
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Fetch the images behind web addresses.")] = False,
    sidecar_name: Annotated[
        Literal["picture.jpg.txt", "picture.txt"], typer.Option(help="What a file of tags is called.")
    ] = "picture.jpg.txt",
    sidecar_separator: Annotated[str, typer.Option(help="Between tags.")] = ", ",
    existing: Annotated[
        Literal["append", "replace", "skip"], typer.Option(help="What becomes of a file of tags that is there.")
    ] = "append",
    as_json: AsJson = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV, a line for each label, in place of the table.")
    ] = False,
    on_bad_image: Annotated[
        Literal["skip", "error"], typer.Option(help="List images that cannot be used and go on, or stop with an error.")
    ] = "skip",
) -> None:
    """Name all labels in images: a few, or a million."""
    _check_predict_options(output, as_json, as_csv, embeddings, engine, shard)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from .data.options import ReadOptions
    from .predict.collection import label_collection, multiply_shards, parse_shard
    from .predict.outputs import Parts, Printed, Sidecars
    from .predict.predictor import Predictor
    from .predict.rows import SHARD_SUFFIX, STANDARD_INPUT, read_rows

    part = multiply_shards(parse_shard(shard), *(_number_of_process(name) for name in ("RANK", "WORLD_SIZE")))
    predictor = Predictor(
        model,
        exact=exact or output is None,
        embeddings=embeddings,
        threshold=threshold,
        top_k=top_k,
        table=label_table,
        exclude=exclude or (),
        rename=dict(_pair(text) for text in rename or ()),
    )
    options = ReadOptions(image_column=image_column, image_dir=image_dir, allow_urls=allow_urls)
    read = partial(read_rows, sources, options, split)
    results: Any
    if output is None:
        results = Printed("json" if as_json else "csv" if as_csv else "text")
    elif output == "sidecars":
        results = Sidecars(sidecar_name == "picture.txt", sidecar_separator, existing)
    else:
        results = Parts(output, predictor.rules.names, predictor.manifest, "{}-of-{}".format(*part))
    if engine == "ray":
        from .predict.ray_engine import label_on_ray

        done = label_on_ray(predictor, read(), results, address, batch_size, num_workers, on_bad_image)
    else:
        workers = num_workers if num_workers is not None else 0 if output is None else _half_the_cores()
        streamed = any(source == STANDARD_INPUT or source.endswith(SHARD_SUFFIX) for source in sources)
        total = None if streamed or output is None else lambda: sum(1 for _ in read())
        done = label_collection(predictor, read(), results, batch_size, workers, part, on_bad_image, total)
    _report(done, results.problems)
    if output is not None:
        typer.echo(f"{done}", err=True)


def _check_predict_options(
    output: str | None, as_json: bool, as_csv: bool, embeddings: str | None, engine: str, shard: str
) -> None:
    """Raise ValueError for options of `predict` that contradict each other."""
    if as_json and as_csv:
        raise ValueError("--json and --csv exclude each other")
    if output is not None and (as_json or as_csv):
        raise ValueError("--json and --csv print; with --output, the name of the output says the format")
    if engine == "ray" and (output in (None, "sidecars") or shard != "1/1"):
        raise ValueError("--engine ray divides the images itself and needs an --output of .parquet, .csv or .jsonl")
    if output is None and embeddings:
        raise ValueError("--embeddings need an --output to be kept in")


def _half_the_cores() -> int:
    """How many processes read images: one to eight."""
    return max(1, min(8, (os.cpu_count() or 1) // 2))


def _report(done: "Summary", problems: list[tuple[str, str]]) -> None:
    """List the images that cannot be used; ValueError if there was nothing else."""
    from .data.words import shown

    if done.failed and not done.labelled and not done.skipped:
        image, problem = problems[0]
        raise ValueError(f"No image could be used. {image}: {problem}")
    for image, problem in problems[:MOST_PROBLEMS]:
        typer.echo(shown(f"{image}: {problem}"), err=True)
    if (more := len(problems) - MOST_PROBLEMS) > 0:
        typer.echo(f"... and {more:,} more that cannot be used", err=True)


def _number_of_process(name: str) -> int:
    """RANK or WORLD_SIZE, which torchrun and accelerate set."""
    text = os.environ.get(name) or str(int(name == "WORLD_SIZE"))
    if not text.isdecimal():
        raise ValueError(f"The environment variable {name} must be a number, got {text}")
    return int(text)


def _pair(text: str) -> tuple[str, str]:
    """OLD=NEW → both."""
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise ValueError(f"--rename must be OLD=NEW, got {text}")
    return old, new


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A released file of GKGNet or Pyramid ViG.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    format: Annotated[
        Literal["transformers", "timm"], typer.Option(help="Who is to load the folder.")
    ] = "transformers",
    labels: Annotated[
        str | None, typer.Option(help="Names of the labels: coco, voc, or a file with a name on each line.")
    ] = None,
    check_labels: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="Score this data set, and say which order of its labels fits best."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of that data set.")] = "validation",
) -> None:
    """Convert a released file into a folder of safetensors.

    A GKGNet file becomes a model of transformers, or with --format timm a backbone without its classifier; a Pyramid
    ViG file becomes a classifier of timm. The file does not name its labels: --labels does, and --check-labels
    measures whether they stand in that order.
    """
    if check_labels and format == "timm":
        raise ValueError("--check-labels needs the classifier of GKGNet, which --format timm leaves out")

    from .data.label_sets import read_labels
    from .data.labels import label_names
    from .data.sources import load_multilabel_dataset
    from .evaluation.label_order import check_label_count, check_label_order
    from .hub.convert import convert_checkpoint
    from .hub.released import load_released_checkpoint

    names = read_labels(labels) if labels else None
    data = load_multilabel_dataset(check_labels, split, labels=names) if check_labels else None
    if data is not None:  # before anything is written
        check_label_count(load_released_checkpoint(checkpoint), data)
    folder = convert_checkpoint(checkpoint, out, format, names)
    typer.echo(f"{folder}: the weights keep the licence of {checkpoint}")
    if data is not None:
        typer.echo(check_label_order(*_load(str(folder)), data).describe(label_names(data)))


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    format: Annotated[Literal["onnx", "pt2"], typer.Option(help="What the runtime reads.")] = "onnx",
    layout: Annotated[
        Literal["plain", "tagger"], typer.Option(help="tagger adds the tables that tagger tools read (docs/export.md).")
    ] = "plain",
    label_table: Annotated[
        Path | None, typer.Option(help="For taggers: categories, thresholds and names, as of predict.")
    ] = None,
) -> None:
    """Write a model for other runtimes.

    The file takes any number of images of any size. --format onnx writes model.onnx, for onnxruntime and others; it
    needs the extra export. --format pt2 writes model.pt2, for torch.export.load. The labels and the settings of the
    image processor stand beside it.
    """
    from .export import export_model
    from .modeling.image_processing_gkgnet import load_image_processor
    from .predict import load_model

    network = load_model(model)
    processor = load_image_processor(model, network.config.num_channels)
    if layout == "tagger":
        if format != "onnx":
            raise ValueError("--layout tagger is written with --format onnx")
        from .tagger import export_tagger

        typer.echo(export_tagger(network, processor, out, label_table, _label_counts(model)))
        return
    if label_table is not None:
        raise ValueError("--label-table belongs to --layout tagger")
    typer.echo(export_model(network, processor, out, format))


def _label_counts(model: str) -> dict[str, int]:
    """How many images of the evaluation beside a model have each label; empty where there is none."""
    try:
        content = json.loads(Path(model, "evaluation.json").read_text(encoding="utf-8"))
        return {str(row["label"]): int(row["positives"]) for row in content["per_label"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of a model, of transformers or timm.", show_default=False)],
    repo: Annotated[
        str,
        typer.Argument(help="Repository on the Hub, as user/name; created if it does not exist.", show_default=False),
    ],
    private: Annotated[bool, typer.Option("--private", help="Make it private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch (default: main); created if it does not exist.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose it in a pull request.")] = False,
    overwrite_card: Annotated[
        bool, typer.Option("--overwrite-card", help="Replace the model card, even if somebody edited it on the Hub.")
    ] = False,
) -> None:
    """Publish a model on the Hub, in one commit.

    This publishes the configurations, the weights as safetensors, the network's code, the model card, a licence, the
    recipe and the results. Nothing else in the folder is published, and no link is followed. If somebody edited the
    model card on the Hub, the push stops and says how to fetch their text.
    """
    from .hub.push import push_folder

    logging.basicConfig(format="%(message)s")
    logging.getLogger("gkgnet_hf").setLevel(logging.INFO)
    typer.echo(push_folder(folder, repo, private, revision, create_pr, overwrite_card))


@app.command()
def card(
    folder: Annotated[Path, typer.Argument(help="Folder of a model, of transformers or timm.", show_default=False)],
    repo_id: Annotated[
        str | None,
        typer.Option(help="Repository that the card's snippets load, as user/name (default: the folder's name)."),
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights, such as apache-2.0 (default: that of the card so far).")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Name on the Hub of the data that the model learned from.")
    ] = None,
) -> None:
    """Write a model's card, README.md.

    It is made from what the folder holds: metadata, use, labels, the results of evaluation.json, the settings of
    recipe.yaml, limits, licence and citation. The text above and below its generated part is yours and is kept, and so
    are metadata that you add.
    """
    from .hub.card import write_card

    typer.echo(write_card(folder, repo_id=repo_id, license=license, datasets=dataset))


@data_app.command("inspect")
@_reads_data
def inspect_data(
    dataset: Source,
    split: Annotated[str | None, typer.Option(help="Split of the dataset (default: all that it has).")] = None,
    dataset_config_name: DatasetConfigName = None,
    check_data: Annotated[bool, typer.Option(help="Decode every image.")] = True,
    preview: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Write a picture of 16 images with their labels.")
    ] = None,
    options: dict[str, Any] = {},  # noqa: B006
) -> None:
    """Print what is understood of a data set.

    And what was assumed where nothing says it.
    """
    from .data.inspection import check_sheet, describe, load_splits_to_inspect, write_contact_sheet
    from .data.sources import MultiLabelSource

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if preview is not None:
        check_sheet(preview)  # before the long work
    source = MultiLabelSource(dataset, dataset_config_name, **options)
    datasets = load_splits_to_inspect(source, split, check_data)
    typer.echo(describe(source, datasets))
    if preview is not None:
        typer.echo(f"\n{write_contact_sheet(datasets, preview)}")


@data_app.command("convert")
@_reads_data
def convert_data(
    dataset: Source,
    out: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    dataset_config_name: DatasetConfigName = None,
    push: Annotated[str | None, typer.Option(metavar="USER/NAME", help="Upload it to the Hub as this dataset.")] = None,
    options: dict[str, Any] = {},  # noqa: B006
) -> None:
    """Write a data set as an imagefolder.

    That is a folder for each split, with its pictures and a metadata.parquet.
    """
    from huggingface_hub import create_repo, upload_folder
    from huggingface_hub.utils import validate_repo_id

    from .data.imagefolder import write_imagefolder
    from .data.sources import MultiLabelSource

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if push is not None:
        validate_repo_id(push)
    source = MultiLabelSource(dataset, dataset_config_name, **options)
    typer.echo(write_imagefolder(source, out))
    for sentence in source.assumptions:
        typer.echo(f"assumed: {sentence}", err=True)
    if push is not None:
        create_repo(push, repo_type="dataset", exist_ok=True)
        typer.echo(upload_folder(repo_id=push, repo_type="dataset", folder_path=out).commit_url)


@data_app.command("make-digits")
def make_digit_scenes(
    directory: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    train: Annotated[int, typer.Option(min=1, help="Training scenes.")] = 8000,
    validation: Annotated[int, typer.Option(min=1, help="Validation scenes.")] = 1000,
    image_size: Annotated[int, typer.Option(min=32, help="Side in pixels.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same scenes.")] = 0,
) -> None:
    """Draw scenes of handwritten digits as COCO files."""
    from .data.digits import make_digits

    typer.echo(make_digits(directory, train, validation, image_size, seed))


def _load_data(
    network: "GKGNetForImageClassification",
    dataset: str,
    dataset_config_name: str | None,
    options: dict[str, Any],
    split: str,
) -> "tuple[Dataset, str | None]":
    """A split with the model's labels, all of whose images can be read, and the name that the split has in the data."""
    from .data.checks import check_images
    from .data.sources import MultiLabelSource
    from .predict import model_label_names

    source = MultiLabelSource(dataset, dataset_config_name, **{**options, "labels": model_label_names(network)})
    data: Any = source.load(split)
    for sentence in source.assumptions:
        logging.info("%s", sentence)
    name = source.split_read(split)
    return check_images(data, options["on_bad_image"], split=name, num_channels=network.config.num_channels), name


def _short_name(source: str | None) -> str:
    """What a page calls a model or data set: its name on the Hub, or the last part of its path."""
    path = Path(source or "")
    return path.resolve().name if path.exists() else str(source)


def _load(model: str) -> "tuple[GKGNetForImageClassification, BaseImageProcessor]":
    import torch

    from .modeling.image_processing_gkgnet import load_image_processor
    from .predict import load_model

    network = load_model(model)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is not None:
        network.to(device)  # type: ignore[arg-type]
    return network, load_image_processor(model, network.config.num_channels)


def _write_per_label(result: "Evaluation", path: Path) -> None:
    from .files import written_whole

    columns = result.per_label
    rows = zip(result.label_names, *(values.tolist() for values in columns.values()), strict=True)
    with written_whole(path.absolute().parent) as folder:
        (folder / path.name).write_text(_csv(["label", *columns], rows), encoding="utf-8")


def _warn_of_few(result: "Evaluation") -> None:
    from .data.words import shown

    counts = zip(result.label_names, result.per_label["positives"], strict=True)
    if few := [shown(name) for name, count in counts if count < FEW_POSITIVES]:
        typer.echo(f"Fewer than {FEW_POSITIVES} images have {', '.join(few)}: such thresholds are guesses", err=True)


def _csv(header: list[str], rows: Any) -> str:
    from .data.words import csv_cell

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([csv_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return text.getvalue()


def main() -> None:
    """Run the command. An error is one line on stderr and exit code 2; `--traceback`, at any place, shows the rest."""
    words = [word for word in sys.argv[1:] if word != "--traceback"]
    try:
        sys.exit(_run(words))
    except KeyboardInterrupt as stop:
        _stop(stop, getattr(stop, "exit_code", 130), str(stop) or "stopped")
    except BrokenPipeError:  # who reads the output wants no more of it
        _drop_output()
        sys.exit(1)
    except Exception as error:
        _stop(error, 2, _message(error))


def _run(words: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        with command.make_context("gkgnet-hf", words) as context:
            command.invoke(context)
        code = 0
    except typer.Exit as done:  # of --help and --version
        code = done.exit_code
    sys.stdout.flush()  # while a full disk can still be reported
    return code


def _message(error: Exception) -> str:
    if hasattr(error, "format_message"):  # typer's own, whose base class differs from version to version
        return error.format_message()
    text = str(error)
    if "Original Traceback" in text:  # of a process that reads images
        text = text.strip().splitlines()[-1]
    if getattr(getattr(error, "response", None), "status_code", None) == 401:  # of the Hub
        text += " (log in with `hf auth login`, or set HF_TOKEN)"
    # A KeyError says no more than the key.
    explains = isinstance(error, ValueError | OSError | ImportError) or type(error).__module__ != "builtins"
    if text and explains:
        return text
    return f"{type(error).__name__}{': ' if text else ''}{text} (--traceback shows where)"


def _drop_output() -> None:
    """What is still to be written has no place, and Python must not try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stop(error: BaseException, code: int, message: str) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    if "--traceback" in sys.argv:
        traceback.print_exception(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message, err=True)
    else:
        line = " ".join(message[:LONGEST_MESSAGE].split())
        # Nothing in it steers a terminal.
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
        typer.echo(f"gkgnet-hf: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
