"""Released GKGNet and Pyramid ViG files → folders that transformers or timm load."""

import json
import os
from pathlib import Path
from typing import Any, Literal

import timm
from timm.models import save_for_hf
from torch import Tensor

from ..files import check_new_folder, written_whole
from ..modeling.image_processing_gkgnet import create_image_processor
from ..modeling.modeling_gkgnet import GKGNetForImageClassification
from ..modeling.original_files import read_state_dict
from ..modeling.timm_gkgnet import checkpoint_filter_fn
from .card import write_card
from .card_text import RELEASED_LICENSE
from .model_folder import CONFIG_FILE, read_values, without_second_num_classes
from .released import LABEL_EMBEDDING, check_tensors, load_released_checkpoint, read_variant

Format = Literal["transformers", "timm"]
CLASSIFIER = "prediction.4.weight"  # of a Pyramid ViG file: (classes, 1024, 1, 1)


def convert_checkpoint(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    format: Format = "transformers",
    labels: list[str] | None = None,
) -> Path:
    """Convert a released file into a folder, which is written whole or not at all: safetensors and a model card.

    | file | `"transformers"` | `"timm"` |
    | --- | --- | --- |
    | GKGNet | `GKGNetForImageClassification` and its image processor | `gkgnet_*`, patch nodes without classifier |
    | Pyramid ViG | an error: its classifier is another one | `pvig_*` |

    A folder in timm's format is read by timm (`local-dir:OUT`, or `hf-hub:` once it is pushed) and by transformers as
    a TimmWrapper. The weights keep the licence of the file.

    Args:
        checkpoint: a `.pth`, `.pth.tar` or `.safetensors` file.
        out: a new or empty folder.
        format: who is to load it.
        labels: names of the classifier's labels in the file's order.

    Returns:
        `out` as a Path.

    Raises:
        FileExistsError: if `out` exists and is not empty.
        FileNotFoundError: if there is no file.
        ValueError: for a file that is neither, or one that cannot be had in this format; for `labels` of another count
            than the classifier's, or without a classifier; as in `load_released_checkpoint`.

    Example:

        convert_checkpoint("gkgnet_coco_576.pth", "gkgnet-coco-576", labels=names)
        convert_checkpoint("pvig_s_82.1.pth.tar", "pvig-s", format="timm")
    """
    out = Path(out)
    check_new_folder(out)
    tensors = read_state_dict(checkpoint)
    if LABEL_EMBEDDING in tensors:
        model = load_released_checkpoint(tensors, labels)
        with written_whole(out) as folder:
            if format == "timm":
                _save_patch_nodes(model, folder, labels)
            else:
                model.save_pretrained(folder)
                create_image_processor(model.config).save_pretrained(folder)
            write_card(folder, converted_from=Path(checkpoint).name, license=RELEASED_LICENSE)
        return out
    if CLASSIFIER not in tensors or "pos_embed" not in tensors:
        raise ValueError(
            f"{checkpoint} must be a released GKGNet file, with {LABEL_EMBEDDING}, or one of Pyramid ViG, with "
            f"{CLASSIFIER} and pos_embed, got tensors such as {sorted(tensors)[:5]}"
        )
    if format == "transformers":
        raise ValueError(
            f"{checkpoint} is of Pyramid ViG, whose classifier GKGNetForImageClassification does not have: convert it "
            "with the format timm, which transformers reads too"
        )
    with written_whole(out) as folder:
        _save_pyramid_vig(tensors, folder, labels)
        write_card(folder, converted_from=Path(checkpoint).name)
    return out


def _save_patch_nodes(model: GKGNetForImageClassification, folder: Path, labels: list[str] | None) -> None:
    if labels is not None:
        raise ValueError("labels are for a classifier: in timm a GKGNet file gives the patch nodes alone")
    tensors = model.gkgnet.backbone.state_dict()
    # Without classifier, and without the hidden layer in front of it; images are resized without a crop.
    arguments = {"num_classes": 0, "head_hidden_size": 0}
    _save_timm("gkgnet", tensors, folder, arguments, {"crop_mode": "squash", "license": RELEASED_LICENSE})


def _save_pyramid_vig(tensors: dict[str, Tensor], folder: Path, labels: list[str] | None) -> None:
    num_classes = len(tensors[CLASSIFIER])
    if labels is not None and len(labels) != num_classes:
        raise ValueError(f"labels must name the file's {num_classes} classes in order, got {len(labels)}")
    # The licence of the original files need not be that of this one, which does not say.
    _save_timm("pvig", tensors, folder, {"num_classes": num_classes}, {"license": None}, labels)


def _save_timm(
    family: str,
    tensors: dict[str, Tensor],
    folder: Path,
    arguments: dict[str, Any],
    differences: dict[str, Any] | None = None,
    labels: list[str] | None = None,
) -> None:
    """Write the timm model that these tensors, under original or own names, are exactly those of.

    Args:
        arguments: of the model, beside its image size.
        differences: of preprocessing and licence from those of the family.
    """
    variant, image_size = read_variant(tensors["pos_embed" if "pos_embed" in tensors else "stem.pos_embed"])
    arguments = {**arguments, "img_size": image_size}
    configuration = {
        "input_size": (3, *image_size),
        "pool_size": tuple(-(-side // 32) for side in image_size),
        "tag": None,
        **(differences or {}),
    }
    model: Any = timm.create_model(f"{family}_{variant}", pretrained_cfg_overlay=configuration, **arguments)
    tensors = checkpoint_filter_fn(tensors, model)
    check_tensors(tensors, model.state_dict(), originals={})
    model.load_state_dict(tensors)
    save_for_hf(model, str(folder), {"label_names": labels} if labels else None, arguments, safe_serialization=True)
    config = without_second_num_classes(read_values(folder / CONFIG_FILE))
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
