"""One reader per format.

A reader is a function of a path and `ReadOptions`. It returns None where the path is not its format, and else what
reads each split (`Splits`). The first that knows a path reads it, so what is more special stands first. The next format
is one new file, and its line here.
"""

from collections.abc import Callable
from pathlib import Path

from ..annotations import Splits
from ..options import ReadOptions
from .celeba import read_celeba
from .coco import read_coco
from .cvat import read_cvat
from .datumaro import read_datumaro
from .fiftyone import read_fiftyone
from .folders import read_label_folders
from .json_files import read_json
from .label_studio import read_label_studio
from .nuswide import read_nuswide
from .sidecars import read_sidecars
from .tables import read_tables
from .text_lists import read_text_lists
from .voc import read_voc
from .yolo import read_yolo

Reader = Callable[[Path, ReadOptions], Splits | None]

READERS: dict[str, Reader] = {
    "CelebA": read_celeba,
    "NUS-WIDE": read_nuswide,
    "Pascal VOC": read_voc,
    "YOLO": read_yolo,
    "CVAT": read_cvat,
    "Datumaro": read_datumaro,
    "FiftyOne": read_fiftyone,
    "Label Studio": read_label_studio,
    "COCO": read_coco,
    "table": read_tables,
    "files beside the pictures": read_sidecars,
    "JSON": read_json,
    "text list": read_text_lists,
    "a folder per label": read_label_folders,
}
