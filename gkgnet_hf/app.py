"""The web page of `gkgnet-hf app`: pictures in, labels out, and what each label looked at. It runs as a Space too.

The page is Gradio's; the bars of the labels and the picture with its patches are drawn here, as HTML and SVG.
"""

import base64
import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.metadata import version
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read while Gradio is imported

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from huggingface_hub.utils import validate_repo_id
from numpy.typing import NDArray
from transformers import BaseImageProcessor

from .data.words import csv_cell, shown
from .explain import Explanation, explain
from .explain.figures import GROUP_COLORS
from .files import written_whole
from .modeling.modeling_gkgnet import GKGNetForImageClassification
from .predict import choose_labels, find_images, label_thresholds, model_label_names

LARGEST_UPLOAD = "25mb"
LARGEST_SIDE = 1024  # pixels of a picture in the page
MOST_PICTURES = 50
MOST_BARS = 100
MOST_EXAMPLES = 12

PATCHES, HEAT = "patches", "a heat map"

OWN, ONE, TOP = "each label's threshold", "one threshold", "a number of labels"

TITLE = "What is in the picture, and where did it look?"

# Each button of a label and each click into the picture becomes an event with its data.
ON_CLICK = """
element.addEventListener('click', event => {
  const label = event.target.closest('[data-label]');
  if (label) { trigger('click', {label: label.dataset.label}); return; }
  const picture = event.target.closest('svg.gkgnet-picture');
  if (!picture) return;
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
  trigger('click', {x: point.x, y: point.y});
});
"""

STYLE = """
.gkgnet-bars { display: grid; gap: 4px; max-height: 32rem; overflow-y: auto; }
.gkgnet-bars button { display: grid; grid-template-columns: minmax(6rem, 1fr) 2fr 3.5rem; gap: 8px; align-items: center;
  min-height: 44px; padding: 4px 8px; border: 2px solid transparent; border-radius: 6px; text-align: left;
  background: var(--background-fill-secondary); color: var(--body-text-color); cursor: pointer; }
.gkgnet-bars button[aria-pressed=true] { border-color: #0072b2; }
.gkgnet-bars button:focus-visible { outline: 3px solid #0072b2; }
.gkgnet-bars .name { overflow-wrap: anywhere; font-weight: 400; }
.gkgnet-bars .chosen .name { font-weight: 700; }
.gkgnet-bars .track { position: relative; height: 14px; border-radius: 3px; background: #8884; }
.gkgnet-bars .fill { height: 100%; border-radius: 3px; background: #7a8794; }
.gkgnet-bars .chosen .fill { background: #0072b2; }
.gkgnet-bars .mark { position: absolute; top: -3px; width: 2px; height: 20px; background: currentColor; }
.gkgnet-bars .score { text-align: right; font-variant-numeric: tabular-nums; }
svg.gkgnet-picture { width: 100%; height: auto; max-height: 75vh; cursor: crosshair; touch-action: manipulation; }
svg.gkgnet-picture rect { vector-effect: non-scaling-stroke; }
.gkgnet-legend { display: flex; flex-wrap: wrap; gap: 4px 16px; padding: 6px 0; }
.gkgnet-legend i { display: inline-block; width: 14px; height: 14px; margin-right: 6px; vertical-align: -2px; }
"""


@dataclass(frozen=True)
class Picture:
    """One picture of the page: its file, and what its labels saw, in the order of the model's labels."""

    file: str
    seen: Explanation

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.file).name


def create_app(
    model: GKGNetForImageClassification,
    processor: BaseImageProcessor,
    examples: Sequence[str | os.PathLike[str]] = (),
    title: str = TITLE,
) -> gr.Blocks:
    """The page, ready to `launch`.

    Args:
        model: a GKGNet with its classifier and label nodes.
        processor: its image processor.
        examples: picture files, or folders of them, to choose from; the first twelve are shown.
        title: the page's heading.

    Returns:
        Gradio's application. `launch_app` starts it with the settings of the command.

    Raises:
        ValueError: if the model has no label nodes.

    Example:

        launch_app(create_app(model, processor, examples=["photos"]))
    """
    if model.label_classifier is None:
        raise ValueError("The model has no label nodes, so there is nothing to see that its labels looked at")
    known = [str(file) for file in find_images(examples)][:MOST_EXAMPLES] if examples else []
    events = _Events(model, processor, known)
    stages = [stage for stage, count in enumerate(model.config.num_label_blocks, start=1) if count]
    with gr.Blocks(analytics_enabled=False, title=title, delete_cache=(3600, 3600)) as page:
        _connect(_lay_out(title, stages, len(events.choice.names), known), events)
    return page


@dataclass(frozen=True)
class _Layout:
    """What is on the page.

    `state` holds the pictures, the number of the one that is shown, the label that is looked at, and the point of a
    patch that is looked at in its place.
    """

    gallery: gr.Gallery
    drawing: gr.HTML
    bars: gr.HTML
    stage: gr.Radio
    kind: gr.Radio
    rule: gr.Radio
    threshold: gr.Slider
    count: gr.Slider
    downloads: list[gr.DownloadButton]
    examples: gr.Gallery | None
    state: list[gr.State]


def _lay_out(title: str, stages: list[int], num_labels: int, known: list[str]) -> _Layout:
    """Place everything into the page that is open."""
    state = [gr.State([]), gr.State(0), gr.State(None), gr.State(None)]
    gr.Markdown(f"# {title}")
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            gallery = gr.Gallery(
                label="Pictures: drop, paste or choose them",
                sources=["upload", "clipboard"],
                type="filepath",
                file_types=["image"],
                columns=5,
                height=200,
                allow_preview=False,
                interactive=True,
                elem_id="pictures",
            )
            drawing = gr.HTML(js_on_load=ON_CLICK, css_template=STYLE, elem_id="drawing")
        with gr.Column(scale=2, min_width=320):
            gr.Markdown("Click a label to see where it looked, or the picture to see a patch and its neighbours.")
            bars = gr.HTML(js_on_load=ON_CLICK, css_template=STYLE, elem_id="bars")
            stage = gr.Radio(stages, value=stages[-1], label="Stage of the network: the first has the finest patches")
            kind = gr.Radio([PATCHES, HEAT], value=PATCHES, label="Where a label looked, as")
            rule = gr.Radio([OWN, ONE, TOP], value=OWN, label="Labels are chosen by")
            threshold = gr.Slider(0, 1, value=0.5, step=0.01, label="Threshold", visible=False)
            count = gr.Slider(1, num_labels, value=min(3, num_labels), step=1, label="Labels", visible=False)
            with gr.Row():
                downloads = [gr.DownloadButton(f"Download {name}", interactive=False) for name in ("JSON", "CSV")]
    examples = _example_gallery(known) if known else None
    return _Layout(gallery, drawing, bars, stage, kind, rule, threshold, count, downloads, examples, state)


def _example_gallery(known: list[str]) -> gr.Gallery:
    return gr.Gallery(
        known, label="Examples", columns=6, height=160, allow_preview=False, interactive=False, elem_id="examples"
    )


def _connect(page: _Layout, events: "_Events") -> None:
    """Say what each event changes. Whatever it is, the page is rendered again afterwards."""
    pictures, number, label, point = page.state
    controls = [page.stage, page.kind, page.rule, page.threshold, page.count]
    shown_again: Any = {
        "fn": events.render,
        "inputs": [*page.state, *controls],
        "outputs": [page.drawing, page.bars, *page.downloads],
    }
    # Only `change` tells of pictures that were pasted or cleared.
    page.gallery.change(events.put, [page.gallery, pictures], [*page.state, page.gallery]).then(**shown_again)
    page.gallery.select(events.pick_picture, pictures, [number, label, point]).then(**shown_again)
    page.bars.click(events.pick_label, None, [label, point]).then(**shown_again)
    page.drawing.click(events.pick_patch, [pictures, number], point).then(**shown_again)
    page.rule.change(
        lambda rule: (gr.Slider(visible=rule == ONE), gr.Slider(visible=rule == TOP)),
        page.rule,
        [page.threshold, page.count],
    )
    page.kind.change(lambda: None, None, point).then(**shown_again)
    # `change`, as the keyboard moves a slider without a release; of many values the last one counts.
    moved = [page.stage.change, page.rule.change, page.threshold.change, page.count.change]
    gr.on(moved, **shown_again, trigger_mode="always_last", show_progress="hidden")
    if page.examples is not None:
        page.examples.select(events.try_example, None, [*page.state, page.gallery]).then(**shown_again)


class _Events:
    """What happens on the page."""

    def __init__(self, model: GKGNetForImageClassification, processor: BaseImageProcessor, known: list[str]):
        names = model_label_names(model)
        self.model = model
        self.processor = processor
        self.known = known
        self.choice = _Choice(names, label_thresholds(model.config.decision_threshold, len(names)))

    def read(self, file: str) -> Picture | None:
        """The picture, or None and a message in the page."""
        try:
            return Picture(file, _small(explain(self.model, self.processor, file, self.choice.names)))
        except (OSError, ValueError) as error:
            reason = str(error).removeprefix(f"{file}: ").replace(file, "the file")  # whose folder is the page's own
            gr.Warning(escape(f"{Path(file).name} cannot be used: {reason}"), duration=None)
            return None

    def put(self, items: list[tuple[str, str | None]] | None, pictures: list[Picture]) -> Any:
        """The pictures that are in the gallery now; those that are new are read, and the first of them is shown."""
        files = [file for file, _ in items or []]
        if files == [picture.file for picture in pictures]:  # the gallery tells of what came from here, too
            return gr.skip()
        if len(files) > MOST_PICTURES:
            gr.Warning(f"The page takes {MOST_PICTURES} pictures; gkgnet-hf predict takes any number", duration=None)
        there = {picture.file: picture for picture in pictures}
        read_now = [there.get(file) or self.read(file) for file in files[:MOST_PICTURES]]
        pictures = [picture for picture in read_now if picture]
        number = next((number for number, picture in enumerate(pictures) if picture.file not in there), 0)
        label = self.choice.best(pictures[number].seen) if pictures else None
        return pictures, number, label, None, [(picture.file, picture.name) for picture in pictures]

    def try_example(self, event: gr.SelectData) -> Any:
        """An example takes the place of all pictures."""
        return self.put([(self.known[event.index], None)], [])

    def pick_picture(self, pictures: list[Picture], event: gr.SelectData) -> tuple[Any, ...]:
        """A picture of the gallery is shown, and its best label."""
        number = min(event.index, len(pictures) - 1)
        return number, self.choice.best(pictures[number].seen), None

    def pick_label(self, event: gr.EventData) -> tuple[str, None]:
        """A label takes the place of the point."""
        return event._data["label"], None

    def pick_patch(self, pictures: list[Picture], number: int, event: gr.EventData) -> Any:
        """A point of the picture, if the network sees it."""
        x, y = event._data["x"], event._data["y"]
        left, top, right, bottom = pictures[number].seen.area
        return (x, y) if left <= x < right and top <= y < bottom else None

    def render(
        self,
        pictures: list[Picture],
        number: int,
        label: str,
        point: tuple[float, float] | None,
        stage: int,
        kind: str,
        *rule: Any,
    ) -> tuple[Any, ...]:
        """The drawing, the bars and the two files to download."""
        if not pictures:
            return "", "", gr.DownloadButton(interactive=False), gr.DownloadButton(interactive=False)
        seen = pictures[number].seen
        if point is not None:
            drawn = neighbors_picture(seen, *point, stage)
        else:
            drawn = (heat_picture if kind == HEAT else patches_picture)(seen, label, stage)
        rows = [{"image": picture.name, "labels": self.choice.labels(picture.seen, *rule)} for picture in pictures]
        files = (gr.DownloadButton(value=file, interactive=True) for file in _write(rows))
        return drawn, label_bars(seen, label, self.choice.lowest(seen, *rule)), *files


@dataclass(frozen=True)
class _Choice:
    """Which labels of a picture are chosen, by the rule that the page is set to."""

    names: list[str]
    thresholds: NDArray[np.float64]

    def lowest(self, seen: Explanation, rule: str, threshold: float, count: float) -> NDArray[np.float64]:
        """The lowest score (L,) at which each label is chosen."""
        if rule == TOP:
            return np.full(len(self.names), np.sort(seen.scores)[-int(count)], dtype=np.float64)
        return self.thresholds if rule == OWN else np.full(len(self.names), threshold)

    def labels(self, seen: Explanation, rule: str, threshold: float, count: float) -> list[dict[str, Any]]:
        """The chosen labels with their scores, highest first."""
        lowest = self.lowest(seen, rule, threshold, count)
        return choose_labels(seen.scores, self.names, lowest, int(count) if rule == TOP else None)

    def best(self, seen: Explanation) -> str:
        """The label of highest score."""
        return self.names[int(seen.scores.argmax())]


def _small(seen: Explanation) -> Explanation:
    """The same on the picture as the page shows it; fifty photos in their own size would fill the memory."""
    image = seen.image.copy()
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    across, down = image.width / seen.image.width, image.height / seen.image.height
    left, top, right, bottom = seen.area
    return replace(seen, image=image, area=(left * across, top * down, right * across, bottom * down))


def _write(rows: list[dict[str, Any]]) -> list[str]:
    """The labels of pictures as a JSON and a CSV file, in Gradio's cache, which deletes them in time."""
    table = StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(("image", "label", "score"))
    labels = ((row["image"], found) for row in rows for found in row["labels"])
    writer.writerows((csv_cell(image), csv_cell(found["label"]), found["score"]) for image, found in labels)
    texts = {"labels.json": json.dumps(rows, indent=2), "labels.csv": table.getvalue()}
    return [save_bytes_to_cache(text.encode(), name, get_upload_folder()) for name, text in texts.items()]


def label_bars(seen: Explanation, label: str, lowest: NDArray[np.float64]) -> str:
    """HTML: a button a label with its score as a bar and a mark at its threshold, highest score first.

    Args:
        seen: what is shown.
        label: the one whose button is pressed.
        lowest: (L,) the lowest score at which each label is chosen.
    """
    rows = np.argsort(-seen.scores, kind="stable")[:MOST_BARS]
    buttons = []
    for row in rows.tolist():
        key, name, score = escape(seen.labels[row]), escape(shown(seen.labels[row])), float(seen.scores[row])
        chosen = score >= lowest[row]
        buttons.append(
            f'<button type="button" data-label="{key}" aria-pressed="{str(seen.labels[row] == label).lower()}"'
            f' class="{"chosen" if chosen else ""}" aria-label="{name}, {score:.0%}{", chosen" if chosen else ""}">'
            f'<span class="name">{name}</span><span class="track"><span class="fill" style="display:block;'
            f'width:{100 * score:.1f}%"></span><span class="mark" style="left:{100 * min(lowest[row], 1):.1f}%"></span>'
            f'</span><span class="score">{score:.0%}</span></button>'
        )
    more = len(seen.labels) - len(rows)
    rest = f"<p>{more:,} labels of lower score are not shown.</p>" if more else ""
    return f'<div class="gkgnet-bars">{"".join(buttons)}{rest}</div>'


def patches_picture(seen: Explanation, label: str, stage: int) -> str:
    """HTML: the picture with the patches that a label gathered from, the fuller the more they gave."""
    looks, boxes, row = seen.label_stages[stage], seen.boxes(stage), seen.index(label)
    strongest = max(float(looks.shares[row].max()), 1e-9)
    shapes = [
        _rect(
            boxes[patch],
            group,
            int(patch),
            fill=0.1 + 0.5 * float(share) / strongest,
            title=f"{share:.0%} of the label",
        )
        for group in range(looks.neighbors.shape[1])
        for patch, share in zip(looks.neighbors[row, group], looks.shares[row, group], strict=True)
    ]
    return _picture(seen, f"Where {shown(label)} looked at stage {stage}", shapes, looks.neighbors.shape[1])


def heat_picture(seen: Explanation, label: str, stage: int) -> str:
    """HTML: the picture under a label's heat map at a stage."""
    heat, boxes = seen.heat_map(label, stage).ravel(), seen.boxes(stage)
    strength = np.sqrt(heat / max(float(heat.max()), 1e-9))
    shapes = [
        _rect(
            boxes[patch], 0, int(patch), fill=0.75 * float(strength[patch]), title=f"{heat[patch]:.1%}", outline=False
        )
        for patch in np.flatnonzero(heat)
    ]
    return _picture(seen, f"Heat map of {shown(label)} at stage {stage}", shapes, 0)


def neighbors_picture(seen: Explanation, x: float, y: float, stage: int) -> str:
    """HTML: the picture with the patch at pixel (x, y) and its neighbours in each group."""
    looks, patch = seen.patch_stages[stage], seen.patch_at(x, y, stage)
    home, sources = seen.boxes(stage)[patch], seen.source_boxes(stage)
    middle = (home[:2] + home[2:]) / 2
    shapes = []
    for group, neighbors in enumerate(looks.neighbors[:, patch]):
        for neighbor in neighbors.tolist():
            end = (sources[neighbor][:2] + sources[neighbor][2:]) / 2
            shapes.append(
                f'<line x1="{middle[0]:.1f}" y1="{middle[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" '
                f'stroke="{_color(group)}" stroke-width="1.5" vector-effect="non-scaling-stroke"/>'
            )
            shapes.append(_rect(sources[neighbor], group, neighbor, fill=0.3, title=f"neighbour in group {group + 1}"))
    for color, width in (("white", 5), ("black", 2)):
        shapes.append(_outline(home, color, width))
    return _picture(seen, f"A patch and its neighbours at stage {stage}", shapes, looks.neighbors.shape[0])


def _picture(seen: Explanation, title: str, shapes: list[str], num_groups: int) -> str:
    width, height = seen.image.size
    legend = "".join(
        f'<span><i style="background:{_color(group)}"></i>group {group + 1}</span>' for group in range(num_groups)
    )
    return (
        f'<figure style="margin:0"><svg class="gkgnet-picture" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}"><image href="{_data_url(seen)}" width="{width}" height="{height}"/>'
        f"{''.join(shapes)}</svg><figcaption>{escape(title)}</figcaption>"
        f'<div class="gkgnet-legend">{legend}</div></figure>'
    )


def _data_url(seen: Explanation) -> str:
    content = BytesIO()
    seen.image.save(content, "jpeg", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _rect(box: NDArray[np.float32], group: int, patch: int, fill: float, title: str, outline: bool = True) -> str:
    """A box in its group's colour; each further group's lies a little inside, so that both are seen."""
    left, top, right, bottom = box.tolist()
    by_x, by_y = 0.06 * group * (right - left), 0.06 * group * (bottom - top)
    stroke = f'stroke="{_color(group)}" stroke-width="2"' if outline else ""
    return (
        f'<rect data-group="{group + 1}" data-patch="{patch}" x="{left + by_x:.1f}" y="{top + by_y:.1f}" '
        f'width="{right - left - 2 * by_x:.1f}" height="{bottom - top - 2 * by_y:.1f}" fill="{_color(group)}" '
        f'fill-opacity="{fill:.2f}" {stroke}><title>{title}</title></rect>'
    )


def _outline(box: NDArray[np.float32], color: str, width: int) -> str:
    left, top, right, bottom = box.tolist()
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" fill="none" '
        f'stroke="{color}" stroke-width="{width}"/>'
    )


def _color(group: int) -> str:
    return GROUP_COLORS[group % len(GROUP_COLORS)]


def launch_app(page: gr.Blocks, port: int | None = None, share: bool = False, wait: bool = True) -> str:
    """Serve a page on this machine alone (127.0.0.1).

    Args:
        page: as `create_app` makes it.
        port: to listen on; default, the first free one from 7860 on.
        share: make Gradio's public link too.
        wait: return only when the server is interrupted.

    Returns:
        The address.

    Raises:
        OSError: if the port is in use.
    """
    system = ["system-ui", "sans-serif"]  # no fonts from elsewhere
    try:
        _, address, public = page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=LARGEST_UPLOAD,
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            theme=gr.themes.Default(font=system, font_mono=["ui-monospace", "monospace"]),
        )
    except OSError as error:
        raise OSError(f"The page cannot listen on {f'port {port}' if port else 'any port'}: it is in use") from error
    if wait:
        print(f"The page is at {address}" + (f" and for everybody at {public}" if public else ""), flush=True)
        page.block_thread()
    return address


SPACE_README = """---
title: {title}
emoji: 🔎
colorFrom: blue
colorTo: yellow
sdk: gradio
sdk_version: {gradio}
app_file: app.py
models:
- {model}
---

What each label of a picture looked at, with [{model}](https://huggingface.co/{model}).
"""

SPACE_APP = """from gkgnet_hf.app import LARGEST_UPLOAD, create_app
from gkgnet_hf.modeling.image_processing_gkgnet import load_image_processor
from gkgnet_hf.predict import load_model

MODEL = {model!r}

model = load_model(MODEL)
create_app(model, load_image_processor(MODEL, model.config.num_channels)).launch(max_file_size=LARGEST_UPLOAD)
"""


def write_space(directory: str | os.PathLike[str], model: str, title: str = TITLE) -> None:
    """Write the three files of a Space of Hugging Face that shows a model: README.md, requirements.txt, app.py.

    Args:
        directory: the folder; must not hold any of them.
        model: name of the model on the Hub, "user/name".
        title: of the Space.

    Raises:
        ValueError: if `model` is no name on the Hub.
        FileExistsError: if the folder holds one of the files.
    """
    validate_repo_id(model)
    if model.count("/") != 1:
        raise ValueError(f"A Space loads its model from the Hub: the model must be user/name, got {model}")
    files = {
        "README.md": SPACE_README.format(title=json.dumps(title), gradio=gr.__version__, model=model),
        "requirements.txt": f"gkgnet-hf[app]=={version('gkgnet-hf')}\n",
        "app.py": SPACE_APP.format(model=model),
    }
    directory = Path(directory)
    if there := [name for name in files if (directory / name).exists()]:
        raise FileExistsError(f"{directory} already holds {', '.join(there)}")
    with written_whole(directory) as folder:
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
