"""The web page, driven in a real browser: pictures in, labels out, and the patches of `explain` on the picture."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gkgnet_hf import create_image_processor
from gkgnet_hf.data.digits import make_digits
from gkgnet_hf.explain import explain

from .networks import small_classifier

gradio = pytest.importorskip("gradio")

from gkgnet_hf import app  # noqa: E402, needs Gradio
from gkgnet_hf.app import create_app, label_bars, launch_app, write_space  # noqa: E402, needs Gradio

NAMES = ["cat", "dog", "<b>owl</b>", "${1+1}", "{{7*7}}"]


@pytest.fixture(scope="module")
def model():
    return small_classifier(NAMES, image_size=96, decision_threshold=[0.1, 0.1, 0.1, 0.1, 0.99])


@pytest.fixture(scope="module")
def processor(model):
    return create_image_processor(model.config)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = make_digits(tmp_path_factory.mktemp("data") / "digits", num_train=1, num_validation=3) / "val"
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="module")
def address(model, processor, scenes):
    page = create_app(model, processor, examples=scenes)
    yield launch_app(page, wait=False)
    page.close()


@pytest.fixture(params=[(1280, 900), (390, 800)], ids=["desktop", "phone"])
def page(request, browser, address):
    """The page, and every address that it asked for, in `page.asked`."""
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    page.asked = []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.goto(address)
    page.wait_for_selector("#pictures input[type=file]", state="attached", timeout=60_000)
    yield page
    page.close()


def drop(page, *files):
    page.set_input_files("#pictures input[type=file]", [str(file) for file in files])


def marked(page):
    """The patches that the picture of the page marks, by group."""
    shapes = page.locator("#drawing svg rect[data-patch]")
    pairs = shapes.evaluate_all("all => all.map(one => [+one.dataset.group, +one.dataset.patch])")
    return {group: sorted(patch for of, patch in pairs if of == group) for group in (1, 2)}


def drawn(page, title):
    page.locator("#drawing figcaption", has_text=re.compile(re.escape(title))).wait_for(timeout=60_000)


def chosen(page, count):
    """Wait until so many labels are chosen."""
    page.wait_for_function(f"document.querySelectorAll('#bars button.chosen').length == {count}")


def test_a_picture_gets_its_labels_and_each_label_shows_the_patches_of_explain(page, address, model, processor, scenes):
    seen = explain(model, processor, scenes[0], NAMES)
    order = np.argsort(-seen.scores, kind="stable")
    drop(page, scenes[0])
    drawn(page, f"Where {NAMES[order[0]]} looked at stage 4")
    shown = page.locator("#bars button")
    assert [text.split("\n") for text in shown.all_inner_texts()] == [
        [NAMES[row], f"{seen.scores[row]:.0%}"] for row in order
    ]
    for row in order[1:3]:
        page.locator("#bars button").nth(list(order).index(row)).click()
        drawn(page, f"Where {NAMES[row]} looked at stage 4")
        neighbors = seen.label_stages[4].neighbors[row]
        assert marked(page) == {1: sorted(neighbors[0].tolist()), 2: sorted(neighbors[1].tolist())}
    page.get_by_role("radio", name="2", exact=True).check()
    drawn(page, f"Where {NAMES[order[2]]} looked at stage 2")
    neighbors = seen.label_stages[2].neighbors[order[2]]
    assert marked(page) == {1: sorted(neighbors[0].tolist()), 2: sorted(neighbors[1].tolist())}
    outside = [url for url in page.asked if not url.startswith((address, "data:", "blob:"))]
    assert outside == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # nothing is cut at the side


def test_a_click_into_the_picture_shows_the_neighbours_of_that_patch(page, model, processor, scenes):
    drop(page, scenes[1])
    drawn(page, "Where")
    picture = page.locator("#drawing svg.gkgnet-picture")
    box = picture.bounding_box()
    picture.click(position={"x": box["width"] * 0.5, "y": box["height"] * 0.9})
    drawn(page, "A patch and its neighbours at stage 4")
    seen = explain(model, processor, scenes[1])
    patch = seen.patch_at(0.5 * seen.image.width, 0.9 * seen.image.height, stage=4)
    neighbors = seen.patch_stages[4].neighbors[:, patch]
    assert marked(page) == {1: sorted(neighbors[0].tolist()), 2: sorted(neighbors[1].tolist())}


def test_a_broken_file_gets_a_message_and_the_others_are_read(page, scenes, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    drop(page, scenes[0], broken, scenes[2])
    drawn(page, "Where")
    message = page.get_by_text("broken.png cannot be used")
    message.wait_for(timeout=60_000)
    assert "broken.png cannot be used: it is not a picture of a known format" in message.inner_text()
    assert page.locator("#pictures img").count() == 2


def test_a_picture_that_is_pasted_is_looked_at_and_clearing_leaves_nothing(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async () => {
            const canvas = new OffscreenCanvas(200, 100);
            canvas.getContext('2d').fillRect(20, 20, 50, 50);
            const picture = await canvas.convertToBlob({type: 'image/png'});
            await navigator.clipboard.write([new ClipboardItem({'image/png': picture})]);
        }"""
    )
    page.locator("#pictures").get_by_label("Paste from Clipboard").click()
    drawn(page, "Where")
    page.locator("#pictures").get_by_label("Clear").click()
    page.locator("#drawing svg.gkgnet-picture").wait_for(state="detached", timeout=60_000)
    assert page.locator("#bars button").count() == 0


def test_a_picture_that_is_added_is_shown_and_a_deleted_one_is_gone(page, scenes, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (3000, 1000)).save(wide)
    drop(page, scenes[0])
    drawn(page, "Where")
    drop(page, wide)
    page.locator("#drawing svg.gkgnet-picture[viewBox='0 0 1024 341']").wait_for(timeout=60_000)
    page.locator("#pictures").get_by_label("Delete image").nth(1).click(force=True)
    page.locator("#drawing svg.gkgnet-picture[viewBox='0 0 1024 341']").wait_for(state="detached", timeout=60_000)
    assert page.locator("#pictures .grid-container img").count() == 1


def test_the_keyboard_moves_the_threshold(page, scenes):
    drop(page, scenes[0])
    drawn(page, "Where")
    page.get_by_label("one threshold").check()
    page.locator("input[type=number]:visible").fill("0")
    page.keyboard.press("Enter")
    chosen(page, 5)
    page.locator("input[type=range]:visible").press("End")
    chosen(page, 0)
    assert page.locator("input[type=number]:visible").input_value() == "1"


def test_a_heat_map_that_is_asked_for_takes_the_place_of_a_patch(page, scenes):
    drop(page, scenes[0])
    drawn(page, "Where")
    page.locator("#drawing svg.gkgnet-picture").click()
    drawn(page, "A patch and its neighbours")
    assert page.locator("#drawing svg line").count() > 0  # from the patch to its neighbours
    page.get_by_label("a heat map").check()
    drawn(page, "Heat map of")
    assert page.locator("#drawing svg line").count() == 0
    assert marked(page)[1]


def test_the_downloads_hold_the_labels_that_are_chosen(page, model, processor, scenes):
    drop(page, scenes[0], scenes[1])
    drawn(page, "Where")
    files = {}
    for kind in ("JSON", "CSV"):
        page.wait_for_function("kind => !document.getElementById(kind)?.disabled", arg=kind.lower())
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Download {kind}").click()
        files[kind] = download.value.path().read_text()
    expected = []
    for scene in scenes[:2]:
        scores = dict(zip(NAMES, explain(model, processor, scene, NAMES).scores.tolist(), strict=True))
        thresholds = dict(zip(NAMES, model.config.decision_threshold, strict=True))
        expected.append((scene.name, {name for name in NAMES if scores[name] >= thresholds[name]}))
    rows = json.loads(files["JSON"])
    assert [(row["image"], {label["label"] for label in row["labels"]}) for row in rows] == expected
    lines = list(csv.DictReader(files["CSV"].splitlines()))
    assert [(line["image"], line["label"]) for line in lines] == [
        (row["image"], label["label"]) for row in rows for label in row["labels"]
    ]


def test_the_downloads_are_written_where_gradio_deletes_them(tmp_path, monkeypatch):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = app._write([{"image": "a.png", "labels": [{"label": "cat", "score": 0.5}]}])
    assert [Path(file).name for file in files] == ["labels.json", "labels.csv"]
    assert {Path(file).parents[1] for file in files} == {tmp_path / "gradio"}
    assert [path.name for path in tmp_path.iterdir()] == ["gradio"]


def test_another_rule_chooses_other_labels(page, model, processor, scenes):
    drop(page, scenes[0])
    drawn(page, "Where")
    page.get_by_label("a number of labels").check()
    chosen(page, 3)
    names = [text.split("\n")[0] for text in page.locator("#bars button.chosen").all_inner_texts()]
    scores = explain(model, processor, scenes[0], NAMES).scores
    assert names == [NAMES[row] for row in np.argsort(-scores, kind="stable")[:3]]


def test_an_example_is_looked_at(page, scenes):
    page.locator("#examples button.thumbnail-lg, #examples .thumbnail-item").first.click()
    drawn(page, "Where")
    assert page.locator("#bars button").count() == len(NAMES)


class TestBars:
    def test_of_many_labels_the_highest_are_shown(self, processor):
        many = small_classifier(map(str, range(1000)), image_size=96)
        seen = explain(many, processor, Image.new("RGB", (96, 96)))
        bars = label_bars(seen, seen.labels[0], np.full(1000, 0.5))
        assert bars.count("<button") == 100
        assert "900 labels of lower score are not shown" in bars


class TestSpace:
    def test_a_space_is_three_files(self, tmp_path):
        write_space(tmp_path / "space", "me/my-gkgnet")
        readme = (tmp_path / "space" / "README.md").read_text()
        assert readme.startswith("---\ntitle: ")
        assert f"sdk_version: {gradio.__version__}" in readme
        assert "gkgnet-hf[app]" in (tmp_path / "space" / "requirements.txt").read_text()
        code = (tmp_path / "space" / "app.py").read_text()
        compile(code, "app.py", "exec")
        assert "MODEL = 'me/my-gkgnet'" in code

    def test_its_page_starts(self, tmp_path, model, processor, monkeypatch):
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        write_space(tmp_path / "space", "me/my-gkgnet")
        code = (tmp_path / "space" / "app.py").read_text().replace("me/my-gkgnet", str(tmp_path / "model"))
        launched = []
        monkeypatch.setattr(gradio.Blocks, "launch", lambda page, **settings: launched.append(settings))
        exec(compile(code, "app.py", "exec"), {})
        assert launched == [{"max_file_size": "25mb"}]

    def test_nothing_is_replaced(self, tmp_path):
        (tmp_path / "app.py").write_text("mine")
        with pytest.raises(FileExistsError, match=r"already holds app\.py"):
            write_space(tmp_path, "me/my-gkgnet")
        assert [file.name for file in tmp_path.iterdir()] == ["app.py"]

    @pytest.mark.parametrize("name", ["gkgnet", "../me/x", "me/x\nsdk: docker"])
    def test_what_is_no_name_on_the_hub_is_refused(self, tmp_path, name):
        with pytest.raises(ValueError, match=r"."):
            write_space(tmp_path, name)
        assert not list(tmp_path.iterdir())


def test_a_network_without_label_nodes_is_refused(processor):
    with pytest.raises(ValueError, match="no label nodes"):
        create_app(small_classifier(NAMES, image_size=96, num_label_blocks=(0, 0, 0, 0)), processor)
