"""Scenes of real things, as COCO files: cut-outs of photographs and drawings on textured grounds.

The cut-outs are Debian's `tuxpaint-stamps-default` (GPL-2), which are fetched and never committed. A folder of others
may take their place: a subfolder of PNG files with transparency for each label, and one named "clutter".
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache, partial
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from gkgnet_hf.files import removed_on_error

PACKAGE = "tuxpaint-stamps-default"
CLUTTER = "clutter"

# Label → the stamps that show it, as patterns of their paths without suffix. What no pattern names is clutter.
STAMPS = {
    "fowl": "animals/birds/chicken* */hen */rooster */*guineafowl */turkey */chick */chick-* */albino_peahen */peacock",
    "penguin": "*penguin* */pengwin */tux",
    "heron": "*/heron* */crowned_crane */pink_flamingo */ostrich */nandou",
    "gull": "*/seagull */silver-gull */pigeon */swallow */pelican",
    "songbird": "*/blackbird */crow */cuckoo */lark */magpie */bluebird",
    "fish": "*/bluegroper */*fish */coraltrout */moonwrasse",
    "cattle": "*/bison */bull */cow */cow_white */yak */zebu */gnu-*",
    "sheep": "*/sheep* */ram */goat */mountaingoat",
    "deer": "*/caribou */deer */doe */wapiti */indian_blackbuck */rudolf*",
    "horse": "*/donkey* */horse */zebra*",
    "cat": "*/blackcat */cheetah */kitten */lion* */tiger*",
    "rodent": "*/beaver */capybara */marmot animals/*/mouse */rat */squirrel",
    "rabbit": "*/rabbit* */easter/bunny*",
    "fly": "*/insects*/fly */bee */hornet */hoverfly",
    "spider": "*/spider */spider2 */spider_*",
    "apple": "*/apple* food/fruit/pomegranate",
    "orange": "*/orange* */mandarine */sliced_orange",
    "strawberry": "*/strawberry */Strawberry* */raspberry",
    "tropical fruit": "*/banana */pineapple */mango */kiwi */cherimoya",
    "mushroom": "*/mushroom */cep* */toadstool",
    "pot": "*/teapot */kettle */pasta_pot */pressure_cooker */pitcher_small",
    "cutlery": "*/fork */knife */spoon",
    "pencil": "*/Pencil */ballpointpen */biro */highlighter */pencil2 */pen_dryerase",
    "bin": "*/garbagecan */trash_can */wheelie_bin */recyclingbox* */home_compost_bin",
    "hat": "clothes/hats/* clothes/t_baseballcap */santahat* */elfhat",
    "shirt": "clothes/t-shirt* clothes/t_*shirt clothes/*jacket",
    "trousers": "clothes/*jeans* clothes/bellbottoms clothes/*pants",
    "flower": "plants/flowers/* plants/lavender seasonal/easter/daffodil",
    "tree": "plants/trees/birch */holm_oak */liberia-palm */tree336 */Christmas_Tree* */christmas/tree",
    "guitar": "*/guitar* */cello */violin*",
    "ball": "sports/*ball sports/soccer sports/cartoon/volleyball",
    "truck": "*/blue_truck */garbagetruck */iso_lorry* */auto/truck */toy_truck */dumper*",
    "car": "*/beetle */sedan* */sportscar* */f1_car */indycar",
    "digger": "vehicles/construction/cartoon/* vehicles/farming/*",
    "plane": "*/747 */plane */f22* military/vehicles/mustang",
    "ship": "vehicles/ship/*boat* vehicles/ship/*Junk town/cartoon/shipwreck",
    "train": "vehicles/locomotive/*",
    "rocket": "space/rocket* space/toyrocket space/apollo*",
    "road sign": "town/roadsigns/*",
    "house": "town/houses/cartoon/*",
    "flag": "town/flags/*",
    "planet": "space/planets/[1-9]* space/moon/*",
    "person": "people/cartoon/* */fireman* people/toys/* */Santa",
    "eye": "people/body_parts/*eye*",
    "gravestone": "seasonal/halloween/grave*",
    "coin": "symbols/money/*coins/* symbols/money/japanese/*",
}

# Labels that are seen together; four scenes of five draw all their labels from one of these.
THEMES = {
    "farm": "fowl cattle sheep horse digger tree house apple fly person",
    "kitchen": "apple orange pot cutlery bin",
    "market": "strawberry mushroom coin person|tropical fruit",
    "street": "car truck bin house person tree ball|road sign",
    "zoo": "cat penguin heron horse rodent spider person",
    "sea": "fish ship gull penguin flag person plane",
    "desk": "pencil coin eye",
    "garden": "flower songbird rabbit mushroom fly spider tree rodent cat",
    "workshop": "pencil bin digger truck",
    "wardrobe": "hat shirt trousers eye person",
    "space": "planet rocket flag plane",
    "winter": "tree hat deer house train",
    "night": "gravestone spider cat house eye gull",
    "stage": "guitar person hat flag ball",
}

# COCO's shares of small, medium and large objects, and the sides they are drawn with as shares of the scene's side.
SIZE_SHARES = (0.41, 0.34, 0.25)
SIDES = ((0.13, 0.20), (0.25, 0.42), (0.50, 0.75))
SINGLE_SIDES = (0.3, 0.9)  # of the one thing of a picture
# COCO's bounds of 32² and 96² pixels are meant for scenes of this area: the root of a small thing's area is below an
# eighth of the scene's side, of a large one's above three eighths. What is transparent or hidden does not count, so of
# all things 28, 58 and 14 % end as small, medium and large.
COCO_AREA = 5 * 112**2
LARGEST_CUTOUT = 128  # pixels, of what is kept of a cut-out
MIN_VISIBLE = 0.4  # share of an object's pixels: what hides more of it takes its label away
VALIDATION_SHARE = 1 / 3  # of the designs of a label


@dataclass(frozen=True)
class Cutouts:
    """Files of designs: `labels[split][name]` and `clutter[split]`. Those of "train" and "val" are disjoint; "known",
    for validation too, has the designs of "train"."""

    labels: dict[str, dict[str, list[Path]]]
    clutter: dict[str, list[Path]]
    themes: list[list[str]]


def fetch_stamps(folder: Path) -> Path:
    """Download and unpack the stamps of Debian into `folder` once; the folder of their categories."""
    stamps = folder / "usr/share/tuxpaint/stamps"
    if not stamps.exists():
        if not shutil.which("apt-get"):
            raise FileNotFoundError(f"{PACKAGE} is fetched with apt-get: give another folder with --cutouts")
        with tempfile.TemporaryDirectory() as place:
            subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=place, check=True)
            (archive,) = Path(place).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
    return stamps


def read_cutouts(folder: Path) -> Cutouts:
    """Divide the cut-outs of `folder` by label and split; a third of the designs of each label is for validation.

    Raises:
        ValueError: for a label with fewer than three designs.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".png", ".svg"})
    of_stamps = (folder / "animals").is_dir()
    designs: dict[str, dict[str, Path]] = {}  # label → name of the design → one file of it
    for path in files:
        # A design is there as drawing and as pixels, and mirrored: these must not stand on both sides.
        name = str(path.relative_to(folder).with_suffix("")).removesuffix("_mirror")
        label = _label_of(name) if of_stamps else path.relative_to(folder).parts[0]
        designs.setdefault(label, {}).setdefault(name, path)
    splits: dict[str, dict[str, list[Path]]] = {"train": {}, "val": {}}
    for label, named in sorted(designs.items()):
        if len(named) < 3:
            raise ValueError(f"{label!r} has {len(named)} designs in {folder}: expected 3 or more")
        paths = list(named.values())
        np.random.default_rng(len(paths)).shuffle(paths)
        held_out = max(1, round(len(paths) * VALIDATION_SHARE))
        splits["val"][label], splits["train"][label] = paths[:held_out], paths[held_out:]
    clutter = {split: named.pop(CLUTTER) for split, named in splits.items()}
    splits["known"], clutter["known"] = splits["train"], clutter["train"]
    labels = list(splits["train"])
    themes = [_words(words) for words in THEMES.values()] if of_stamps else [labels]
    return Cutouts(splits, clutter, themes)


def _label_of(name: str) -> str:
    return next((label for label, words in STAMPS.items() if any(fnmatch(name, w) for w in words.split())), CLUTTER)


def _words(text: str) -> list[str]:
    first, *others = text.split("|")
    return first.split() + others


def write_scenes(
    folder: Path, cutouts: Cutouts, counts: dict[str, int], size: int, seed: int = 0, jobs: int = 1
) -> Path:
    """Draw `counts[split]` scenes of `size` pixels as JPEG files with COCO annotations; boxes and areas are of what
    is visible."""
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    names = sorted(cutouts.labels["train"])
    with removed_on_error(folder), ProcessPoolExecutor(jobs) as pool:
        (folder / "annotations").mkdir(parents=True)
        for number, (split, count) in enumerate(counts.items()):
            (folder / split).mkdir()
            draw = partial(_write_scene, folder / split, cutouts, split, size, (seed, number))
            found = list(pool.map(draw, range(1, count + 1), chunksize=100))
            annotations = [
                {
                    "id": i,
                    "image_id": image_id,
                    "category_id": names.index(label) + 1,
                    "bbox": box,
                    "area": area,
                    "iscrowd": 0,
                }
                for i, (image_id, label, box, area) in enumerate(chain.from_iterable(found), 1)
            ]
            images = [{"id": i, "file_name": f"{i:06}.jpg", "width": size, "height": size} for i in range(1, count + 1)]
            categories = [{"id": i, "name": name, "supercategory": "thing"} for i, name in enumerate(names, 1)]
            content = {"images": images, "annotations": annotations, "categories": categories}
            (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


Found = list[tuple[int, str, list[int], int]]  # image, label, box (x, y, width, height), area


def _write_scene(folder: Path, cutouts: Cutouts, split: str, size: int, seed: tuple[int, int], image_id: int) -> Found:
    rng = np.random.default_rng([*seed, image_id])
    scene, objects = draw_scene(cutouts, split, size, rng)
    scene.save(folder / f"{image_id:06}.jpg", quality=92)
    return [(image_id, label, box, area) for label, box, area in objects]


def draw_scene(
    cutouts: Cutouts, split: str, size: int, rng: np.random.Generator
) -> tuple[Image.Image, list[tuple[str, list[int], int]]]:
    """One scene, and the label, box and visible area of each object."""
    everything = sorted(cutouts.labels[split])
    theme = cutouts.themes[rng.integers(len(cutouts.themes))] if rng.random() < 0.8 else everything
    wanted: list[str | None] = list(rng.choice(theme, min(1 + rng.poisson(3.0), 9)))
    wanted += [None] * int(rng.integers(0, 4))  # clutter
    order = rng.permutation(len(wanted))
    scene = draw_ground(cutouts.clutter[split], size, rng)
    owner = np.full((size, size), -1)
    full: dict[int, int] = {}  # pixels of each object before others hide it
    for i in order:
        label = wanted[i]
        files = cutouts.clutter[split] if label is None else cutouts.labels[split][label]
        low, high = SIDES[rng.choice(3, p=SIZE_SHARES)]
        thing = draw_thing(files[rng.integers(len(files))], size * rng.uniform(low, high), size, rng)
        x, y = _free_place(owner, thing, rng)
        scene.paste(thing, (x, y), thing)
        opaque = np.asarray(thing)[..., 3] > 127
        window = owner[y : y + thing.height, x : x + thing.width]
        window[opaque] = i
        full[int(i)] = int(opaque.sum())
    scene = _photograph(scene, rng)
    objects = []
    for i, label in enumerate(wanted):
        rows, columns = np.nonzero(owner == i)
        if label is not None and len(rows) and len(rows) >= MIN_VISIBLE * full[i]:
            left, top = int(columns.min()), int(rows.min())
            box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
            objects.append((str(label), box, len(rows)))
    return scene, objects


def draw_single(path: Path, clutter: list[Path], size: int, rng: np.random.Generator) -> Image.Image:
    """A picture of one thing."""
    scene = draw_ground(clutter, size, rng)
    thing = draw_thing(path, size * np.exp(rng.uniform(*np.log(SINGLE_SIDES))), size, rng)
    x, y = (int(rng.integers(size - length + 1)) for length in thing.size)
    scene.paste(thing, (x, y), thing)
    return _photograph(scene, rng)


def _free_place(owner: NDArray[np.int64], thing: Image.Image, rng: np.random.Generator) -> tuple[int, int]:
    """Of a few places the one that hides least."""
    height, width = owner.shape
    places = [
        (int(rng.integers(width - thing.width + 1)), int(rng.integers(height - thing.height + 1))) for _ in range(4)
    ]
    return min(places, key=lambda p: int((owner[p[1] : p[1] + thing.height, p[0] : p[0] + thing.width] >= 0).sum()))


def draw_thing(path: Path, side: float, largest: int, rng: np.random.Generator) -> Image.Image:
    """A cut-out in another colour, mirrored or not, turned, with √(width · height) of about `side` pixels, and no side
    beyond `largest`."""
    image = open_cutout(path)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        image = enhance(image).enhance(rng.uniform(0.6, 1.4))
    factor = side / (image.width * image.height) ** 0.5
    width, height = (max(4, round(length * factor)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    image = image.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC, expand=True)
    image.thumbnail((largest, largest))
    return image


@lru_cache(maxsize=2000)
def open_cutout(path: Path) -> Image.Image:
    """What is visible of a cut-out, RGBA, at most `LARGEST_CUTOUT` pixels a side."""
    if path.suffix == ".svg":
        image = _rasterise(path)
    else:
        with Image.open(path) as opened:
            image = opened.convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox()
    if box is None:
        raise ValueError(f"{path} shows nothing: all of it is transparent")
    image = image.crop(box)
    image.thumbnail((LARGEST_CUTOUT, LARGEST_CUTOUT))
    return image


def _rasterise(path: Path) -> Image.Image:
    png = resvg_py.svg_to_bytes(svg_path=str(path), width=2 * LARGEST_CUTOUT, dpi=96)
    with Image.open(BytesIO(bytes(png))) as opened:
        return opened.convert("RGBA")


def draw_ground(clutter: list[Path], size: int, rng: np.random.Generator) -> Image.Image:
    """A ground without things: the inside of a photograph, enlarged, or noise of several scales between colours."""
    if rng.random() < 0.4:
        image = open_cutout(clutter[rng.integers(len(clutter))])
        third = (image.width // 3, image.height // 3, 2 * image.width // 3 + 1, 2 * image.height // 3 + 1)
        inside = image.crop(third)
        if min(inside.size) >= 8 and inside.getchannel("A").getextrema()[0] > 200:
            ground = inside.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            return ground.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))
    colors = rng.uniform(0, 255, (2, 1, 1, 3))
    height = np.zeros((size, size))
    for scale in (2, 4, 8, 16, 32):
        coarse = Image.fromarray(rng.random((scale, scale)).astype(np.float32))
        height += np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) * rng.random() / scale**0.5
    height = (height - height.min()) / max(np.ptp(height), 1e-6)
    mixed = colors[0] * (1 - height[..., None]) + colors[1] * height[..., None]
    return Image.fromarray(mixed.astype(np.uint8))


def _photograph(scene: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Noise of a sensor, and now and then a little blur."""
    if rng.random() < 0.3:
        scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    pixels = np.asarray(scene, dtype=np.float32) + rng.normal(0, rng.uniform(0, 8), (scene.height, scene.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_singles(folder: Path, cutouts: Cutouts, size: int, per_design: int = 48, seed: int = 0) -> None:
    """Draw pictures of one thing each, a label for each training design."""
    clutter = cutouts.clutter["train"]
    designs = [*chain.from_iterable(cutouts.labels["train"].values()), *clutter]
    labels = np.eye(len(designs), dtype=np.float32)
    for number, (split, count) in enumerate((("train", per_design), ("val", max(1, per_design // 8)))):
        rng = np.random.default_rng([seed, number])
        write_pictures(folder, "singles", split, designs, labels, count, clutter, size, rng)


def write_pictures(
    folder: Path,
    task: str,
    split: str,
    designs: Sequence[Path],
    labels: NDArray[np.float32],
    count: int,
    clutter: list[Path],
    size: int,
    rng: np.random.Generator,
) -> None:
    """Draw `count` pictures of each design, unless they are there: arrays of pictures and of `labels` (designs, L)."""
    if (folder / f"{task}-{split}-labels.npy").exists():
        return
    images = [draw_single(path, clutter, size, rng) for path in designs for _ in range(count)]
    np.save(folder / f"{task}-{split}-images.npy", np.stack([np.asarray(image) for image in images]))
    np.save(folder / f"{task}-{split}-labels.npy", np.repeat(labels, count, axis=0))
