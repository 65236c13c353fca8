"""Label pictures with an exported model where PyTorch is not installed.

    pip install numpy pillow onnxruntime
    python examples/onnx_without_torch.py my-gkgnet-onnx a.jpg b.jpg

`gkgnet-hf export my-gkgnet my-gkgnet-onnx` makes the folder. Pictures are prepared with the settings of the model's
image processor. Pillow and torchvision round a resized picture differently, by one step of 255 at most.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder that gkgnet-hf export wrote")
    parser.add_argument("pictures", type=Path, nargs="+")
    options = parser.parse_args()

    session = onnxruntime.InferenceSession(options.model / "model.onnx")
    config = json.loads((options.model / "config.json").read_text())
    settings = json.loads((options.model / "preprocessor_config.json").read_text())
    names = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
    thresholds = np.broadcast_to(config.get("decision_threshold", 0.5), len(names))
    for path in options.pictures:
        (logits,) = session.run(["logits"], {"pixel_values": prepare(path, settings)[None]})
        scores = 1 / (1 + np.exp(-logits[0]))
        chosen = sorted(np.flatnonzero(scores >= thresholds), key=lambda i: -scores[i])
        print(f"{path}: " + ", ".join(f"{names[i]} ({scores[i]:.2f})" for i in chosen))


def prepare(path: Path, settings: dict) -> np.ndarray:
    """A picture as the network takes it: (3, H, W) float32, resized without cropping, scaled and normalised."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    size = (settings["size"]["width"], settings["size"]["height"])
    image = image.resize(size, Image.Resampling(settings["resample"]))
    pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) * settings["rescale_factor"]
    mean, std = (np.array(settings[name], dtype=np.float32)[:, None, None] for name in ("image_mean", "image_std"))
    return (pixels - mean) / std


if __name__ == "__main__":
    main()
