"""From whatever people label with to one shape of dataset: `image`, `labels`, and the names of the labels.

The way of a source, a file for each step:

1. `sources.py` finds its format; `readers/` has one reader per format.
2. `columns.py` finds the columns of images, labels and splits; `places.py` finds the pictures.
3. `cells.py` says what a cell means, with `label_text.py` for names in text.
4. `annotations.py` puts the rows together; `labels.py` stores them as ids and hands them out as dense rows.
5. `checks.py` finds rows and pictures that cannot be used; `pictures.py` opens pictures.
6. `splits.py` takes a split or holds one out, with `stratify.py`.

`inspection.py`, `summary.py` and `imagefolder.py` show and write what came out.
"""

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
