"""From whatever people label with to one shape of dataset: `image`, `labels`, and the names of the labels."""

from .checks import check_images
from .labels import label_names
from .readers.coco import load_coco
from .readers.voc import load_voc
from .sources import MultiLabelSource, load_folder, load_multilabel_dataset
from .summary import summarize
from .to_multilabel import to_multilabel

__all__ = [
    "MultiLabelSource",
    "check_images",
    "label_names",
    "load_coco",
    "load_folder",
    "load_multilabel_dataset",
    "load_voc",
    "summarize",
    "to_multilabel",
]
