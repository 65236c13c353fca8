"""What is in a multi-label dataset, in a few numbers."""

from dataclasses import dataclass

from datasets import Dataset, IterableDataset

from .labels import POSITIVE, UNKNOWN, label_names, stored_labels
from .words import counted, shown


@dataclass(frozen=True)
class DatasetSummary:
    """Counts of a dataset; printed, a short text.

    Args:
        labels: the L label names.
        images: number of images; None for a stream, of which only the names are known.
        positives: for each label the number of images where it is there.
        unknowns: for each label the number of images where that is not known.

    >>> print(DatasetSummary(["cat", "dog"], images=4, positives=[3, 1], unknowns=[0, 2]))
    4 images, 2 labels, 1.0 labels per image
    most frequent: cat (3 images), rarest: dog (1 image)
    unknown: 25.0 % of all answers
    """

    labels: list[str]
    images: int | None = None
    positives: list[int] | None = None
    unknowns: list[int] | None = None

    @property
    def labels_per_image(self) -> float | None:
        """Mean number of labels that are there."""
        return sum(self.positives) / self.images if self.positives and self.images else None

    @property
    def unknown_share(self) -> float | None:
        """Fraction of the images × labels that is not known."""
        return sum(self.unknowns) / (self.images * len(self.labels)) if self.unknowns and self.images else None

    @property
    def by_frequency(self) -> list[tuple[str, int]]:
        """Labels that are there, with their number of images, the most frequent first."""
        counts = zip(self.labels, self.positives or [], strict=False)
        return sorted(((label, count) for label, count in counts if count), key=lambda pair: -pair[1])

    @property
    def never_there(self) -> list[str]:
        """Labels that no image has."""
        return [label for label, count in zip(self.labels, self.positives or [], strict=False) if not count]

    def __str__(self) -> str:
        if self.images is None:
            return f"a stream of images, {counted(len(self.labels), 'label')}"
        images, labels = counted(self.images, "image"), counted(len(self.labels), "label")
        lines = [f"{images}, {labels}, {self.labels_per_image:.1f} labels per image"]
        if counts := self.by_frequency:
            lines.append(f"most frequent: {_images(*counts[0])}, rarest: {_images(*counts[-1])}")
        if self.unknown_share:
            lines.append(f"unknown: {100 * self.unknown_share:.1f} % of all answers")
        if never := self.never_there:
            lines.append(f"never there: {', '.join(map(shown, never[:10]))}{', …' if len(never) > 10 else ''}")
        return "\n".join(lines)


def summarize(dataset: Dataset | IterableDataset) -> DatasetSummary:
    """Count the labels of a multi-label dataset; no image is decoded.

    Args:
        dataset: with the features of `multilabel_features`.

    Raises:
        ValueError: if it has not that shape.

    Example:

        print(summarize(load_multilabel_dataset("photos", "train")))
    """
    names = label_names(dataset)
    if isinstance(dataset, IterableDataset):
        return DatasetSummary(names)
    labels = stored_labels(dataset)
    return DatasetSummary(names, len(dataset), labels.count(POSITIVE).tolist(), labels.count(UNKNOWN).tolist())


def _images(label: str, count: int) -> str:
    return f"{shown(label)} ({counted(count, 'image')})"
