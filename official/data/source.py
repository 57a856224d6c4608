"""What a data set is once it has been opened: ids, boxes and a way to read image number i.

A `Source` is random access, so that the order of the data can be a pure function of (seed, step).
Boxes stay in memory (a hundred bytes an object); images stay where they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Callable, Iterable, Iterator, Mapping, Protocol, Sequence

import numpy as np
import tensorflow as tf

from official.data.frames import Frames
from official.data.input_report import DataError, InputReport, shown


@dataclasses.dataclass(frozen=True)
class Category:
    """A class of objects: the id used in files, which may have gaps, and its name."""

    id: int
    name: str


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The objects of every image of a source, one after the other.

    Attributes:
      row_splits: int64 [images + 1]; objects of image i are row_splits[i]:row_splits[i + 1].
      boxes: float32 [objects, 4], yxyx pixels of the stored image; may reach outside it.
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
        """Joins per-image dicts with "boxes", "classes" and, optionally, the other fields."""
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
        """The objects of one image, by field name."""
        rows = slice(self.row_splits[index], self.row_splits[index + 1])
        return {name: getattr(self, name)[rows] for name in _COLUMNS}

    def take(self, indices: Iterable[int]) -> Annotations:
        """The annotations of the given images, in that order."""
        indices = np.asarray(list(indices), np.int64)
        counts = self.counts()[indices]
        splits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.repeat(self.row_splits[indices] - splits[:-1], counts) + np.arange(splits[-1])
        return Annotations(splits, *(getattr(self, name)[rows] for name in _COLUMNS))

    def counts(self) -> np.ndarray:
        """Int64 [images], objects of every image."""
        return np.diff(self.row_splits)


_COLUMNS = ("boxes", "classes", "crowd", "area", "scores")


def _join(parts: Sequence[Any], dtype: Any, empty_shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.asarray(p, dtype) for p in parts]) if parts else np.zeros(empty_shape, dtype)


class Names(Protocol):
    """Text of every image: an array, or what is indexed as one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...

    def tolist(self) -> Any: ...


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
      image_classes: int32 [images], class index of every image, -1 where none is known; None for
        a source without classes of images.
      image_probabilities: float32 [images, classes], soft labels beside `image_classes`, or None.
      file_names: str [images], for lists and messages.
      report: what was skipped when it was opened.
      file_ids: object [images], ids as the file has them (integers or text), or None.
      category_ids: of every class, its id in the file, None for one that the file lacks; None: those of
        `categories`.
      frames: what the boxes of the file count in, where that is not the image as read.
      sure_from: float32 [classes]; in training, boxes of a lower score are neither object nor background.
        None: all are objects.
      cut_from: str [images], id of the image that each was cut out of; None: each is whole.
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
    file_names: Names | None = None
    report: InputReport = dataclasses.field(default_factory=InputReport)
    file_ids: np.ndarray | None = None
    category_ids: tuple[int | str | None, ...] | None = None
    frames: Frames | None = None
    sure_from: np.ndarray | None = None
    cut_from: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def objects(self) -> Annotations:
        """The annotations of a source that has boxes."""
        assert self.annotations is not None, f"{self.word} has no boxes"
        return self.annotations

    @property
    def image_labels(self) -> np.ndarray:
        """The `image_classes` of a source that has some."""
        assert self.image_classes is not None, f"{self.word} has no classes of images"
        return self.image_classes

    @property
    def names(self) -> Names:
        """The file names, or the ids where there are none."""
        return self.file_names if self.file_names is not None else self.ids

    def subset(self, indices: np.ndarray) -> Source:
        """The given images, in that order; an image may be given more than once."""
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
            file_ids=taken(self.file_ids),
            frames=self.frames and self.frames.take(indices),
            cut_from=taken(self.cut_from),
        )

    def without_labels(self) -> Source:
        """The images alone."""
        return self._labelled_with((), annotations=None)

    def with_masks(self, read_mask: Callable, categories: Sequence[Category]) -> Source:
        """The same images with masks in place of other labels."""
        return self._labelled_with(categories, read_mask=read_mask)

    def with_annotations(self, annotations: Annotations, categories: tuple[Category, ...]) -> Source:
        """The same images with other labels."""
        return self._labelled_with(categories, annotations=annotations)

    def with_classes(
        self,
        image_classes: np.ndarray | Sequence[int],
        categories: Sequence[Category],
        probabilities: np.ndarray | None = None,
    ) -> Source:
        """The same images with a class each in place of other labels; see the attributes."""
        classes = np.asarray(image_classes, np.int32)
        return self._labelled_with(categories, image_classes=classes, image_probabilities=probabilities)

    def _labelled_with(self, categories: Sequence[Category], **labels: Any) -> Source:
        nothing = dict.fromkeys(
            ("annotations", "read_mask", "image_classes", "image_probabilities", "category_ids", "sure_from")
        )
        return dataclasses.replace(self, categories=tuple(categories), **{**nothing, **labels})

    def aligned_to(self, categories: Sequence[Category]) -> Source:
        """The same source with its class indices in the order of `categories`, matched by name.

        Raises:
          DataError: the source has a class that `categories` lacks.
        """
        if not self.categories or tuple(categories) == self.categories:
            return self
        place, table = {category.name: i for i, category in enumerate(categories)}, self._places(categories)
        if self.image_classes is not None:
            classes = np.where(self.image_classes >= 0, table[self.image_classes], -1)
            return self.with_classes(classes, categories)
        if self.read_mask is not None:
            values, read = np.full(256, 255, np.uint8), self.read_mask
            values[: len(table)] = table
            return self.with_masks(
                lambda index: tf.gather(values, tf.cast(read(index), tf.int32)), categories
            )
        moved = dataclasses.replace(self.objects, classes=table[self.objects.classes])
        ids: list[int | str | None] = [None] * len(categories)
        for category, own in zip(self.categories, self.own_category_ids()):
            if category.name in place:
                ids[place[category.name]] = own
        return dataclasses.replace(self.with_annotations(moved, tuple(categories)), category_ids=tuple(ids))

    def _places(self, categories: Sequence[Category]) -> np.ndarray:
        """Int32 [classes], where each class is among `categories`; a class without an object may lack
        there.
        """
        place = {category.name: i for i, category in enumerate(categories)}
        unknown = {i: c.name for i, c in enumerate(self.categories) if c.name not in place}
        if self.annotations is not None:
            used = set(np.unique(self.annotations.classes).tolist())
            unknown = {i: name for i, name in unknown.items() if i in used}
        if unknown:
            names = [c.name for c in categories]
            raise DataError(
                f"{self.word}: classes {shown(unknown.values())} are not among the model's {shown(names, 20)}"
            )
        return np.array([place.get(c.name, -1) for c in self.categories], np.int32)

    def own_category_ids(self) -> tuple[int | str | None, ...]:
        """Of every class, its id in the file that labels are from; see `category_ids`."""
        return self.category_ids if self.category_ids is not None else tuple(c.id for c in self.categories)

    def coco_image_ids(self) -> list[int | str]:
        """Ids for COCO files: the file's own, or the ids themselves where they are integers, else 1, 2,
        ...
        """
        if self.file_ids is not None:
            return list(self.file_ids)
        if all(i.isdigit() and str(int(i)) == i for i in self.ids):
            return [int(i) for i in self.ids]
        return list(range(1, len(self) + 1))

    def short_name(self, index: int) -> str:
        """The file name of an image without folders, else its id: for captions."""
        return str(self.names[index]).rsplit("/", 1)[-1]

    def name_of(self, index: int) -> str:
        """File name and id of an image, for messages."""
        file = self.file_names[index] if self.file_names is not None else self.word
        return f"{file} (id {self.ids[index]})"


def needs_python(source: Source) -> bool:
    """Whether images or masks of a source are read by Python code inside the graph, which another machine
    cannot run.
    """
    for read in filter(None, (source.read_image, source.read_mask)):
        function = tf.function(read, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int64))
        graph = function.graph.as_graph_def()
        nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
        if any(node.op in ("PyFunc", "PyFuncStateless", "EagerPyFunc") for node in nodes):
            return True
    return False


def labeled_subset(source: Source, fraction: float, split_seed: int) -> tuple[Source, Source]:
    """Splits off a fixed share of the images: (labelled, rest).

    An image's place is the hash of (split_seed, id), so the choice does not depend on the machine,
    a library version or the order of the files, and a smaller fraction is part of a larger one. What was cut
    out of one image stays together: the share is then the nearest that does not divide one.

    Raises:
      DataError: the fraction is out of (0, 1] or leaves no image.
    """
    if not 0.0 < fraction <= 1.0:
        raise DataError(f"labeled_fraction={fraction} is not in (0, 1]")
    wholes = source.ids if source.cut_from is None else source.cut_from
    keys = [hashlib.sha256(f"{split_seed}:{i}".encode()).digest() for i in wholes]
    order = sorted(range(len(source)), key=keys.__getitem__)
    count = int(round(fraction * len(source)))
    if count == 0:
        raise DataError(f"labeled_fraction={fraction} of {len(source)} images leaves none")
    count = _between_wholes(np.array([str(wholes[i]) for i in order]), count)
    return source.subset(np.sort(order[:count])), source.subset(np.sort(order[count:]))


def _between_wholes(wholes: np.ndarray, count: int) -> int:
    """The number from 1 nearest to `count` after which a row of images, str [images], can be cut without
    dividing one.
    """
    borders = np.flatnonzero(np.append(wholes[1:] != wholes[:-1], True)) + 1
    return int(borders[np.argmin(np.abs(borders - count))])


def listed_subset(source: Source, wanted: Sequence[str]) -> tuple[Source, Source]:
    """Splits by a list of ids or file names: (listed, rest).

    Raises:
      DataError: an entry of the list is not in the source, or is the name of two of its files.
    """
    place: dict[str, list[int]] = {}
    for i, name in enumerate(source.names):
        for known in {str(name), str(name).rsplit("/", 1)[-1]}:
            place.setdefault(known, []).append(i)
    place.update({str(name): [i] for i, name in enumerate(source.ids)})
    missing = [name for name in wanted if str(name) not in place]
    if missing:
        raise DataError(
            f"{source.word}: {len(missing)} listed ids are not in it, the first is {missing[0]!r}"
        )
    several = next((name for name in wanted if len(place[str(name)]) > 1), None)
    if several is not None:
        raise DataError(
            f"{source.word}: {several!r} is the name of "
            f"{shown(source.names[i] for i in place[str(several)])}; list ids"
        )
    chosen = np.unique([place[str(name)][0] for name in wanted])
    return source.subset(chosen), source.subset(np.setdiff1d(np.arange(len(source)), chosen))
