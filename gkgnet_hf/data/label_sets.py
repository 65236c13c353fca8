"""Names of labels, in order: of well-known datasets, or from a file."""

from pathlib import Path

from .readers.voc import VOC_LABELS

# The categories of MS-COCO (https://cocodataset.org) in the order of their ids.
COCO_LABELS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
LABEL_SETS = {"coco": COCO_LABELS, "voc": VOC_LABELS}


def read_labels(source: str) -> list[str]:
    """The label names that a word of `LABEL_SETS`, or a text file with a name on each line, stands for.

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: for a file without names, or with one twice.

    >>> read_labels("voc")[:3]
    ['aeroplane', 'bicycle', 'bird']
    """
    if source in LABEL_SETS:
        return list(LABEL_SETS[source])
    if not Path(source).is_file():
        raise FileNotFoundError(f"Labels are {', '.join(LABEL_SETS)} or a file with a name on each line, got {source}")
    names = [line.strip() for line in Path(source).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{source} must name labels, it is empty")
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{source} must name each label once, got twice: {', '.join(doubles)}")
    return names
