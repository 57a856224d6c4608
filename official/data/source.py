"""What a data set is once it has been opened: ids, boxes and a way to read picture number i.

A `Source` is random access, so that the order of the data can be a pure function of (seed, step).
Boxes stay in memory (a hundred bytes an object); pictures stay where they are.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from typing import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Category:
    """A class of objects: the id used in files, which may have gaps, and its name."""

    id: int
    name: str


class DataError(ValueError):
    """Input that cannot be used; the message names the file and what would be right."""


class InputReport:
    """Counts and lists what was skipped or repaired while a source was opened."""

    MAX_ENTRIES = 10_000  # listed one by one; all are counted

    def __init__(self):
        self.counts: collections.Counter = collections.Counter()
        self.entries: list[dict] = []
        self.skipped_images = 0

    def note(self, reason: str, file: str, image_id: object = None) -> None:
        """Counts one box dropped or picture repaired."""
        self.counts[reason] += 1
        if len(self.entries) < self.MAX_ENTRIES:
            self.entries.append({"reason": reason, "file": str(file), "image_id": image_id})

    def skip_image(self, reason: str, file: str, image_id: object = None) -> None:
        """Counts one picture left out."""
        self.skipped_images += 1
        self.note(reason, file, image_id)

    def check(self, word: str, total: int, max_skipped_fraction: float) -> None:
        """Fails if too many pictures, or all of them, were left out.

        Raises:
          DataError: names the most frequent reason and its first file.
        """
        left = total - self.skipped_images
        if self.skipped_images and (left <= 0 or self.skipped_images > max_skipped_fraction * total):
            first = self.entries[0]
            raise DataError(
                f"{word}: {self.skipped_images} of {total} images cannot be used "
                f"({dict(self.counts)}); the first is {first['file']} (id {first['image_id']}): "
                f"{first['reason']}. Mend the files, or allow more with --max_skipped_fraction."
            )
        if left <= 0:
            raise DataError(f"{word}: holds no image")


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The objects of every picture of a source, one after the other.

    Attributes:
      row_splits: int64 [images + 1]; objects of picture i are row_splits[i]:row_splits[i + 1].
      boxes: float32 [objects, 4], yxyx pixels of the stored picture; may reach outside it.
      classes: int32 [objects], index into the source's categories.
      crowd: bool [objects]; ignored in training and by COCO's crowd rule in evaluation.
      area: float32 [objects], square pixels.
      scores: float32 [objects], 1 for human labels.
    """

    row_splits: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    scores: np.ndarray

    @staticmethod
    def from_images(images: Sequence[Mapping[str, np.ndarray]]) -> Annotations:
        """Joins per-picture dicts with "boxes", "classes" and, optionally, the other fields."""
        counts = [len(image["classes"]) for image in images]
        splits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        boxes = _join([np.reshape(image["boxes"], (-1, 4)) for image in images], np.float32, (0, 4))
        box_area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

        def column(name, dtype, default):
            parts = [image.get(name, np.full(n, default)) for image, n in zip(images, counts)]
            return _join(parts, dtype, (0,))

        area = column("area", np.float32, np.nan)
        return Annotations(
            row_splits=splits,
            boxes=boxes,
            classes=column("classes", np.int32, 0),
            crowd=column("crowd", bool, False),
            area=np.where(np.isfinite(area), area, box_area).astype(np.float32),
            scores=column("scores", np.float32, 1.0),
        )

    def of(self, index: int) -> dict[str, np.ndarray]:
        """The objects of one picture, by field name."""
        rows = slice(self.row_splits[index], self.row_splits[index + 1])
        return {name: getattr(self, name)[rows] for name in _COLUMNS}

    def take(self, indices: Iterable[int]) -> Annotations:
        """The annotations of the given pictures, in that order."""
        return Annotations.from_images([self.of(i) for i in indices])

    def counts(self) -> np.ndarray:
        """Int64 [images], objects of every picture."""
        return np.diff(self.row_splits)


_COLUMNS = ("boxes", "classes", "crowd", "area", "scores")


def _join(parts, dtype, empty_shape) -> np.ndarray:
    return np.concatenate([np.asarray(p, dtype) for p in parts]) if parts else np.zeros(empty_shape, dtype)


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened data set.

    Attributes:
      word: what was said on the command line.
      ids: str [images], unique, and the same on every machine.
      sizes: int32 [images, 2], (height, width) as read.
      read_image: graph function, int64 index of `ids` -> uint8 [height, width, 3].
      categories: in the order of the class indices; empty for an unlabelled source.
      annotations: boxes; None for a source without boxes.
      read_mask: graph function, int64 index -> uint8 [height, width], class indices or 255 where
        nothing is said; None for a source without masks.
      image_classes: int32 [images], class index of every picture, -1 where none is known; None for
        a source without classes of pictures.
      image_probabilities: float32 [images, classes], soft labels beside `image_classes`, or None.
      file_names: str [images], for lists and messages.
      report: what was skipped when it was opened.
    """

    word: str
    ids: np.ndarray
    sizes: np.ndarray
    read_image: Callable[[tf.Tensor], tf.Tensor]
    categories: tuple[Category, ...] = ()
    annotations: Annotations | None = None
    read_mask: Callable[[tf.Tensor], tf.Tensor] | None = None
    image_classes: np.ndarray | None = None
    image_probabilities: np.ndarray | None = None
    file_names: np.ndarray | None = None
    report: InputReport = dataclasses.field(default_factory=InputReport)

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, indices: np.ndarray) -> Source:
        """The given pictures, in that order; a picture may be given more than once."""
        indices = np.asarray(indices, np.int64)
        table = tf.constant(indices)

        def taken(column):
            return column[indices] if column is not None else None

        def moved(read):
            return read and (lambda index: read(tf.gather(table, index)))

        return dataclasses.replace(
            self,
            ids=self.ids[indices],
            sizes=self.sizes[indices],
            read_image=moved(self.read_image),
            read_mask=moved(self.read_mask),
            annotations=self.annotations and self.annotations.take(indices),
            image_classes=taken(self.image_classes),
            image_probabilities=taken(self.image_probabilities),
            file_names=taken(self.file_names),
        )

    def without_labels(self) -> Source:
        """The pictures alone."""
        return self._labelled_with((), annotations=None)

    def with_masks(self, read_mask: Callable, categories: Sequence[Category]) -> Source:
        """The same pictures with masks in place of other labels."""
        return self._labelled_with(categories, read_mask=read_mask)

    def with_annotations(self, annotations: Annotations, categories: tuple[Category, ...]) -> Source:
        """The same pictures with other labels."""
        return self._labelled_with(categories, annotations=annotations)

    def with_classes(
        self, image_classes: np.ndarray, categories: Sequence[Category], probabilities: np.ndarray | None = None
    ) -> Source:
        """The same pictures with a class each in place of other labels; see the attributes."""
        classes = np.asarray(image_classes, np.int32)
        return self._labelled_with(categories, image_classes=classes, image_probabilities=probabilities)

    def _labelled_with(self, categories: Sequence[Category], **labels) -> Source:
        nothing = dict.fromkeys(("annotations", "read_mask", "image_classes", "image_probabilities"))
        return dataclasses.replace(self, categories=tuple(categories), **{**nothing, **labels})

    def aligned_to(self, categories: Sequence[Category]) -> Source:
        """The same source with its class indices in the order of `categories`, matched by name.

        Raises:
          DataError: the source has a class that `categories` lacks.
        """
        if not self.categories or tuple(categories) == self.categories:
            return self
        place = {category.name: i for i, category in enumerate(categories)}
        unknown = [c.name for c in self.categories if c.name not in place]
        if unknown:
            raise DataError(f"{self.word}: classes {unknown} are not among the model's {sorted(place)}")
        table = np.array([place[c.name] for c in self.categories], np.int32)
        if self.image_classes is not None:
            moved = np.where(self.image_classes >= 0, table[self.image_classes], -1)
            return self.with_classes(moved, categories)
        if self.read_mask is not None:
            values, read = np.full(256, 255, np.uint8), self.read_mask
            values[: len(table)] = table
            return self.with_masks(lambda index: tf.gather(values, tf.cast(read(index), tf.int32)), categories)
        moved = dataclasses.replace(self.annotations, classes=table[self.annotations.classes])
        return self.with_annotations(moved, tuple(categories))

    def coco_image_ids(self) -> list[int]:
        """Integer ids for COCO files: the ids themselves where they are integers, else 1, 2, ..."""
        if all(i.isdigit() and str(int(i)) == i for i in self.ids):
            return [int(i) for i in self.ids]
        return list(range(1, len(self) + 1))

    def name_of(self, index: int) -> str:
        """File name and id of a picture, for messages."""
        file = self.file_names[index] if self.file_names is not None else self.word
        return f"{file} (id {self.ids[index]})"


def labeled_subset(source: Source, fraction: float, split_seed: int) -> tuple[Source, Source]:
    """Splits off a fixed share of the pictures: (labelled, rest).

    A picture's place is the hash of (split_seed, id), so the choice does not depend on the machine,
    a library version or the order of the files, and a smaller fraction is part of a larger one.

    Raises:
      DataError: the fraction is out of (0, 1] or leaves no picture.
    """
    if not 0.0 < fraction <= 1.0:
        raise DataError(f"labeled_fraction={fraction} is not in (0, 1]")
    keys = [hashlib.sha256(f"{split_seed}:{i}".encode()).digest() for i in source.ids]
    order = sorted(range(len(source)), key=keys.__getitem__)
    count = int(round(fraction * len(source)))
    if count == 0:
        raise DataError(f"labeled_fraction={fraction} of {len(source)} images leaves none")
    return source.subset(np.sort(order[:count])), source.subset(np.sort(order[count:]))


def listed_subset(source: Source, wanted: Sequence[str]) -> tuple[Source, Source]:
    """Splits by a list of ids or file names: (listed, rest).

    Raises:
      DataError: an entry of the list is not in the source.
    """
    names = source.file_names if source.file_names is not None else source.ids
    place = {str(name).rsplit("/", 1)[-1]: i for i, name in enumerate(names)}
    place.update({str(name): i for i, name in enumerate(source.ids)})
    missing = [name for name in wanted if str(name) not in place]
    if missing:
        raise DataError(f"{source.word}: {len(missing)} listed ids are not in it, the first is {missing[0]!r}")
    chosen = np.unique([place[str(name)] for name in wanted])
    return source.subset(chosen), source.subset(np.setdiff1d(np.arange(len(source)), chosen))


def clean_boxes(
    objects: dict[str, np.ndarray], size: tuple[int, int], report: InputReport, file: str, image_id: object
) -> dict[str, np.ndarray]:
    """Drops boxes that cannot be learnt from, and counts them.

    Args:
      objects: columns of one picture, "boxes" as float [N, 4] yxyx.
      size: (height, width).

    Returns:
      The columns without boxes that are not finite, have no positive area or lie outside.
    """
    boxes = np.asarray(objects["boxes"], np.float64).reshape(-1, 4)
    height, width = size
    finite = np.isfinite(boxes).all(axis=1)
    safe = np.where(finite[:, None], boxes, 0.0)
    positive = (safe[:, 2] > safe[:, 0]) & (safe[:, 3] > safe[:, 1])
    inside = (safe[:, 0] < height) & (safe[:, 1] < width) & (safe[:, 2] > 0) & (safe[:, 3] > 0)
    for reason, bad in (
        ("box with a coordinate that is not a number", ~finite),
        ("box with zero or negative width or height", finite & ~positive),
        ("box outside its image", finite & positive & ~inside),
    ):
        for _ in range(int(bad.sum())):
            report.note(reason, file, image_id)
    keep = finite & positive & inside
    return {name: np.asarray(column)[keep] for name, column in objects.items()}
