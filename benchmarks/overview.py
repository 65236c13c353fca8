"""The picture at the top of README: scenes of Fluent Emoji, a small network that learns them, and where it looked.

    python -m benchmarks.overview --output overview

Fetches Microsoft's Fluent Emoji (MIT licence) with npm, draws 8,000 scenes, trains, and draws overview.jpg.
"""

import argparse
import subprocess
import sys
import tarfile
from pathlib import Path

from PIL import Image
from transformers import AutoImageProcessor

from gkgnet_hf.explain import explain
from gkgnet_hf.predict import load_model

from .paper import scenes

PACKAGE = "@lobehub/fluent-emoji-3d"
SCENE_SIZE, SHOWN_SIZE = 144, 480
# Label → code points of the emoji that show it.
EMOJI = {
    "dog": "1f436 1f415 1f9ae 1f429 1f415-200d-1f9ba 1f43a",
    "cat": "1f431 1f408 1f408-200d-2b1b 1f63a 1f405 1f42f",
    "fruit": "1f34e 1f34f 1f350 1f34a 1f34b 1f351 1f353",
    "car": "1f697 1f698 1f699 1f695 1f696",
    "truck": "1f69a 1f69b 1f6fb 1f692 1f691",
    "bicycle": "1f6b2 1f6f4 1f6f5 1f3cd-fe0f",
    "tree": "1f332 1f333 1f334 1f384",
    "flower": "1f337 1f338 1f339 1f33a 1f33b 1f33c",
    "bird": "1f426 1f985 1f986 1f9a2 1f989 1f99c",
    "ball": "26bd 1f3c0 26be 1f3be 1f3d0",
    "house": "1f3e0 1f3e1 1f3da-fe0f 1f3d8-fe0f",
    "horse": "1f40e 1f434 1f984 1f993",
    "boat": "26f5 1f6a4 1f6a2 1f6f6",
    "plane": "2708-fe0f 1f6e9-fe0f 1f6eb 1f6ec",
    "fish": "1f41f 1f420 1f421 1f988",
    "cake": "1f382 1f370 1f9c1 1f967",
    "hat": "1f452 1f3a9 1f9e2 1f451",
    "umbrella": "2602-fe0f 2614 26f1-fe0f 1f302",
    "book": "1f4d5 1f4d7 1f4d8 1f4d9 1f4da",
    "insect": "1f98b 1f41d 1f41e",
    "person": "1f468 1f469 1f9d1 1f466 1f467 1f474",
    "bear": "1f43b 1f43c 1f9f8 1f43b-200d-2744-fe0f",
    "cup": "2615 1f375 1f379 1f37a 1f964",
    "guitar": "1f3b8 1f3bb 1fa95",
}
CLUTTER = [f"{code:x}" for code in range(0x1F4A0, 0x1F530)]
THEMES = [
    ["dog", "cat", "bird", "horse", "fish", "bear", "insect"],
    ["car", "truck", "bicycle", "house", "tree", "person"],
    ["fruit", "cake", "cup", "book", "hat"],
    ["boat", "plane", "fish", "bird", "person"],
    ["flower", "tree", "insect", "bird", "dog", "house"],
    ["guitar", "person", "hat", "ball", "umbrella", "book"],
]


def main() -> None:
    """Make what is not there yet, then the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overview", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scene", type=int, default=23, help="number of the scene that is shown")
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    folder = options.output
    scenes.LARGEST_CUTOUT = 256  # shown larger than the network sees them
    found = scenes.read_cutouts(fetch_emoji(folder / "emoji"))
    cutouts = scenes.Cutouts(found.labels, found.clutter, THEMES)
    data = scenes.write_scenes(folder / "scenes", cutouts, {"train": 8000, "val": 500}, SCENE_SIZE, jobs=2)
    shown = scenes.write_scenes(folder / "shown", cutouts, {"train": 60}, SHOWN_SIZE, seed=1)
    if not (folder / "model").exists():
        words = ["train", "digits", "--dataset", str(data), "--output_dir", str(folder / "model")]
        words += ["--image_size", "128", "--max_steps", str(options.steps)]
        subprocess.run([sys.executable, "-m", "gkgnet_hf", *words], check=True)
    draw(folder / "model", shown / "train" / f"{options.scene:06}.jpg", folder / "overview.jpg")


def fetch_emoji(folder: Path) -> Path:
    """A folder of cut-outs for each label and one of clutter."""
    if folder.exists():
        return folder
    place = folder.parent
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=place, check=True)
    (archive,) = place.glob("*.tgz")
    with tarfile.open(archive) as content:
        content.extractall(place, filter="data")
    for label, codes in {**EMOJI, scenes.CLUTTER: " ".join(CLUTTER)}.items():
        (folder / label).mkdir(parents=True)
        for code in codes.split():
            source = place / "package" / "assets" / f"{code}.webp"
            if source.exists():
                Image.open(source).convert("RGBA").save(folder / label / f"{code}.png")
    return folder


def draw(model_folder: Path, scene: Path, path: Path) -> None:
    """The three labels with the highest scores, each with the patches that it gathered from."""
    model = load_model(str(model_folder))
    seen = explain(model, AutoImageProcessor.from_pretrained(model_folder), scene)
    seen.save(path, labels=seen.labels[:3], stage=3)


if __name__ == "__main__":
    main()
