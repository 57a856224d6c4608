"""What a label store holds: boxes with scores, class maps with the winning probability, or classes of images.

A kind turns an image's labels into a TF Example and back, says what to count in a shard, and
applies thresholds on reading. The store itself (shards, checksums, resuming) is the same for both.
"""

from __future__ import annotations

import abc
import dataclasses
import os
import zlib
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Protocol, Sequence

import numpy as np
import tensorflow as tf

from official.data.formats.coco import to_coco
from official.data.formats.mask_files import SCORE_LEVELS, encode_class_map, read_class_map, stored_limit
from official.data.formats.tfrecord import (
    CLASS_KEY,
    CLASS_NAME_KEY,
    MASK_KEY,
    RecordOffsets,
    add_mask,
    encode_example,
    record_reader,
    records,
)
from official.data.pseudo_labels import BoxLabels, ClassLabels, L, MaskLabels, Row
from official.data.source import Annotations, DataError, Source
from official.evaluation.drawing import VOC_PALETTE
from official.experiment import PseudoLabels
from official.files import output_names, write_bytes, write_json
from official.self_training.label_columns import BoxColumns, batches, indices_of, joined

if TYPE_CHECKING:
    from official.self_training.label_store import LabelStore

SCORE_BINS = 20
SCORE_KEY = "image/segmentation/score/encoded"
CLASS_SCORE_KEY, PROBABILITIES_KEY = "image/class/score", "image/class/probabilities"


class LabelError(DataError):
    """A label store that cannot be used as asked."""


class LabelKind(Protocol[L]):
    """What a label store, and what looks into one, asks of a kind of label.

    Attributes:
      name: as `Task.label_kind`.
      one: what is kept or left out by a threshold.
      noun, unit: what is counted, and in which multiples; none: what an image without any is called.
    """

    name: str
    one: str
    noun: str
    unit: int = 1
    none: str

    # --- one image --------------------------------------------------------------------------------

    @abc.abstractmethod
    def encode(self, row: Row[L], names: Sequence[str]) -> tf.train.Example:
        """A record of the labels, without the image's pixels; names: of the classes."""

    @abc.abstractmethod
    def counts(self, labels: L, classes: int) -> dict[str, Any]:
        """What an image adds to a shard's numbers: integers, or arrays of them."""

    @abc.abstractmethod
    def highest(self, labels: L) -> float:
        """The highest score in the image, 0 to 1."""

    @abc.abstractmethod
    def confidence(self, labels: L, threshold: float) -> float:
        """What images are ranked by, 0 to 1."""

    @abc.abstractmethod
    def at(self, labels: L, limits: np.ndarray) -> dict[str, Any]:
        """The labels that reach the limits, float32 [classes], as `Drawing.draw` takes them."""

    @abc.abstractmethod
    def classes_at(self, labels: L, limits: np.ndarray) -> np.ndarray:
        """The class of everything that reaches the limits, integers [N]."""

    # --- a whole store ----------------------------------------------------------------------------

    @abc.abstractmethod
    def rows(self, paths: Sequence[str]) -> Iterator[Row[L]]:
        """Every image's labels, shard by shard: the inverse of `encode`."""

    @abc.abstractmethod
    def read(
        self,
        store: LabelStore,
        source: Source,
        limits: np.ndarray,
        probabilities: bool = False,
        ignore_above: float = 1.0,
    ) -> tuple[Source, np.ndarray, dict[str, Any]]:
        """(the source with its labels, whether or how surely each image has any, numbers for the summary);
        see `LabelStore.read`.
        """

    @abc.abstractmethod
    def export(self, store: LabelStore, folder: str, limits: np.ndarray) -> str:
        """Writes the labels that reach the limits as other tools open them; returns the path."""

    # --- where kinds may differ -------------------------------------------------------------------

    def borderline(self, threshold: float) -> float:
        """The `confidence` of an image that may as well be left out."""
        return threshold

    def shown_from(self, limits: np.ndarray) -> np.ndarray:
        """Down to which score the labels of every class are drawn."""
        return limits

    def used_scores(self, source: Source) -> np.ndarray:
        """Scores of the labels in use, for a histogram; none where they are not kept in memory."""
        return np.zeros(0)

    def chosen(self, source: Source, confidence: np.ndarray, options: PseudoLabels) -> np.ndarray:
        """The images that the student is shown: all, or those with a label."""
        return np.flatnonzero(confidence) if options.empty_pseudo_images == "drop" else np.arange(len(source))


class BoxKind(LabelKind[BoxLabels]):
    """Detections."""

    name, one, noun, none = "boxes", "box", "boxes", "no box"

    def shown_from(self, limits: np.ndarray) -> np.ndarray:
        """Unsure boxes are drawn too."""
        return np.minimum(limits, 0.3)

    def encode(self, row: Row[BoxLabels], names: Sequence[str]) -> tf.train.Example:
        """In the layout of the original stack."""
        boxes = row.labels.boxes
        objects = {
            "boxes": boxes,
            "classes": row.labels.classes,
            "scores": row.labels.scores,
            "crowd": np.zeros(len(boxes), bool),
            "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        }
        return encode_example(b"", row.id, row.file_name, row.size, objects, names)

    def counts(self, labels: BoxLabels, classes: int) -> dict[str, Any]:
        return {
            "boxes": len(labels.boxes),
            "images_without_boxes": int(len(labels.boxes) == 0),
            "score_histogram": np.histogram(labels.scores, bins=SCORE_BINS, range=(0.0, 1.0))[0],
            "class_counts": np.bincount(labels.classes, minlength=classes),
        }

    def rows(self, paths: Sequence[str]) -> Iterator[Row[BoxLabels]]:
        return (row for part in batches(paths) for row in part.rows())

    def highest(self, labels: BoxLabels) -> float:
        return float(labels.scores.max()) if len(labels.scores) else 0.0

    def confidence(self, labels: BoxLabels, threshold: float) -> float:
        """The highest score."""
        return self.highest(labels)

    def at(self, labels: BoxLabels, limits: np.ndarray) -> dict[str, np.ndarray]:
        """ "boxes" [N, 4], "classes" and "scores" [N]."""
        sure = labels.scores >= limits[labels.classes]
        return {
            "boxes": labels.boxes[sure],
            "classes": labels.classes[sure],
            "scores": labels.scores[sure],
        }

    def classes_at(self, labels: BoxLabels, limits: np.ndarray) -> np.ndarray:
        return labels.classes[labels.scores >= limits[labels.classes]]

    def read(
        self,
        store: LabelStore,
        source: Source,
        limits: np.ndarray,
        probabilities: bool = False,
        ignore_above: float = 1.0,
    ) -> tuple[Source, np.ndarray, dict[str, Any]]:
        lowest = np.minimum(limits, np.float32(ignore_above)) if ignore_above < 1.0 else limits
        stored = joined(
            [part.where(part.scores >= lowest[part.classes]) for part in batches(store.shard_paths())]
        )
        annotations, counts = _of_source(stored, source, limits, store.folder)
        labelled = source.with_annotations(annotations, store.categories())
        numbers = {"images_with_boxes": int((counts > 0).sum()), "boxes": int(counts.sum())}
        if ignore_above < 1.0:
            labelled = dataclasses.replace(labelled, sure_from=limits)
            numbers["uncertain_boxes"] = len(labelled.objects.boxes) - numbers["boxes"]
        return labelled, counts > 0, numbers

    def used_scores(self, source: Source) -> np.ndarray:
        """Scores of the boxes that are objects."""
        objects = source.objects
        if source.sure_from is None:
            return objects.scores
        return objects.scores[objects.scores >= source.sure_from[objects.classes]]

    def export(self, store: LabelStore, folder: str, limits: np.ndarray) -> str:
        """A COCO JSON with a "score" per annotation."""
        rows = list(store.rows())
        labelled = Source(
            word=store.folder,
            ids=np.array([row.id for row in rows]),
            sizes=np.array([row.size for row in rows]),
            read_image=lambda index: index,
            categories=store.categories(),
            annotations=Annotations.from_images([self.at(row.labels, limits) for row in rows]),
            file_names=np.array([row.file_name for row in rows]),
        )
        path = os.path.join(folder, "pseudo_labels_coco.json")
        write_json(path, to_coco(labelled, with_scores=True))
        return path


class MaskKind(LabelKind[MaskLabels]):
    """Class maps at the image's size in the network's input; reading enlarges them to the image's own.

    A pixel is used if its stored score is at least ceil(256 * threshold), which is exact for
    thresholds in steps of 1/256, 0.5 among them.
    """

    name, one, noun, unit, none = "masks", "pixel", "thousands of pixels", 1000, "all ignored"

    def borderline(self, threshold: float) -> float:
        """An image half of which is sure."""
        return 0.5

    def encode(self, row: Row[MaskLabels], names: Sequence[str]) -> tf.train.Example:
        """Class map and score as PNGs."""
        example = _without_boxes(row, names)
        add_mask(example, encode_class_map(row.labels.mask), names)
        example.features.feature[SCORE_KEY].bytes_list.value.append(encode_class_map(row.labels.score))
        return example

    def counts(self, labels: MaskLabels, classes: int) -> dict[str, Any]:
        return {
            "pixels": int(labels.mask.size),
            "score_histogram": np.histogram(labels.score, bins=SCORE_BINS, range=(0, SCORE_LEVELS))[0],
            "class_counts": np.bincount(labels.mask.ravel(), minlength=classes),
        }

    def rows(self, paths: Sequence[str]) -> Iterator[Row[MaskLabels]]:
        return map(self.parse, _records_of(paths))

    def parse(self, record: bytes) -> Row[MaskLabels]:
        """The inverse of `encode`."""
        feature = tf.train.Example.FromString(record).features.feature
        image = _identity(feature)
        mask, score = (
            _class_map(feature[key].bytes_list.value[0], image[0]) for key in (MASK_KEY, SCORE_KEY)
        )
        return Row(*image, MaskLabels(mask, score))

    def highest(self, labels: MaskLabels) -> float:
        return float(labels.score.max()) / SCORE_LEVELS

    def confidence(self, labels: MaskLabels, threshold: float) -> float:
        """The share of pixels that is sure at the threshold."""
        return float((labels.score >= stored_limit(threshold)).mean())

    def at(self, labels: MaskLabels, limits: np.ndarray) -> dict[str, np.ndarray]:
        """ "mask" uint8 [h, w], 255 where a pixel is not sure."""
        sure = labels.score >= stored_limit(limits)[labels.mask]
        return {"mask": np.where(sure, labels.mask, 255).astype(np.uint8)}

    def classes_at(self, labels: MaskLabels, limits: np.ndarray) -> np.ndarray:
        return labels.mask[labels.score >= stored_limit(limits)[labels.mask]]

    def read(
        self,
        store: LabelStore,
        source: Source,
        limits: np.ndarray,
        probabilities: bool = False,
        ignore_above: float = 1.0,
    ) -> tuple[Source, np.ndarray, dict[str, Any]]:
        stored, found, sure, pixels, sure_pixels = (
            stored_limit(limits),
            {},
            {},
            0,
            np.zeros(len(limits), np.int64),
        )
        paths = store.shard_paths()
        for number, path in enumerate(paths):
            for offset, record in records(path):
                row = self.parse(record)
                found[row.id] = (number, offset, len(record), zlib.crc32(record))
                counts = np.bincount(self.classes_at(row.labels, limits), minlength=len(limits))
                sure[row.id] = counts.any()
                pixels, sure_pixels = pixels + row.labels.mask.size, sure_pixels + counts
        _refuse_missing(store.folder, [i for i in source.ids if i not in found])
        read_record = record_reader(RecordOffsets.of(paths, [found[i] for i in source.ids]))
        any_sure = np.array([sure[i] for i in source.ids])
        labelled = source.with_masks(_mask_reader(read_record, source.sizes, stored), store.categories())
        numbers: dict[str, Any] = {
            "images_with_labels": int(any_sure.sum()),
            "labelled_pixels": round(int(sure_pixels.sum()) / max(1, pixels), 4),
        }
        numbers["pixels_per_class"] = {c.name: int(n) for c, n in zip(store.categories(), sure_pixels)}
        return labelled, any_sure, numbers

    def export(self, store: LabelStore, folder: str, limits: np.ndarray) -> str:
        """Palette PNGs of the images' own sizes and names, as VOC tools read them; the folder."""
        out = os.path.join(folder, "pseudo_masks")
        for row, name in zip(store.rows(), output_names(store.names(), ".png")):
            mask = enlarge_nearest(self.at(row.labels, limits)["mask"], row.size)
            write_bytes(os.path.join(out, name), encode_class_map(mask, VOC_PALETTE))
        return out


class ClassKind(LabelKind[ClassLabels]):
    """Classes of images; `confidence` and what `read` gives are the winner's score."""

    name, one, noun, none = "classes", "label", "labels", "unsure"

    def encode(self, row: Row[ClassLabels], names: Sequence[str]) -> tf.train.Example:
        """The class, 1-based as in ImageNet's TF Examples, and the probabilities."""
        example, labels = _without_boxes(row, names), row.labels
        feature = example.features.feature
        feature[CLASS_KEY].int64_list.value.append(labels.label + 1)
        feature[CLASS_NAME_KEY].bytes_list.value.append(names[labels.label].encode())
        feature[CLASS_SCORE_KEY].float_list.value.append(labels.score)
        feature[PROBABILITIES_KEY].float_list.value.extend(labels.probabilities.tolist())
        return example

    def counts(self, labels: ClassLabels, classes: int) -> dict[str, Any]:
        return {
            "labels": 1,
            "score_histogram": np.histogram([labels.score], bins=SCORE_BINS, range=(0.0, 1.0))[0],
            "class_counts": np.bincount([labels.label], minlength=classes),
        }

    def rows(self, paths: Sequence[str]) -> Iterator[Row[ClassLabels]]:
        return map(self.parse, _records_of(paths))

    def parse(self, record: bytes) -> Row[ClassLabels]:
        """The inverse of `encode`."""
        feature = tf.train.Example.FromString(record).features.feature
        labels = ClassLabels(
            label=int(feature[CLASS_KEY].int64_list.value[0]) - 1,
            score=float(feature[CLASS_SCORE_KEY].float_list.value[0]),
            probabilities=np.array(feature[PROBABILITIES_KEY].float_list.value, np.float32),
        )
        return Row(*_identity(feature), labels)

    def highest(self, labels: ClassLabels) -> float:
        return labels.score

    def confidence(self, labels: ClassLabels, threshold: float) -> float:
        return labels.score

    def at(self, labels: ClassLabels, limits: np.ndarray) -> dict[str, Any]:
        """ "class", -1 below the limit, and "score"."""
        sure = labels.score >= limits[labels.label]
        return {"class": labels.label if sure else -1, "score": labels.score}

    def classes_at(self, labels: ClassLabels, limits: np.ndarray) -> np.ndarray:
        return np.array([labels.label] if labels.score >= limits[labels.label] else [], np.int64)

    def read(
        self,
        store: LabelStore,
        source: Source,
        limits: np.ndarray,
        probabilities: bool = False,
        ignore_above: float = 1.0,
    ) -> tuple[Source, np.ndarray, dict[str, Any]]:
        """Of an image that is not sure, the class is -1 and the score 0."""
        place = {str(image_id): i for i, image_id in enumerate(source.ids)}
        classes, confidence = np.full(len(source), -1, np.int32), np.zeros(len(source), np.float32)
        soft, seen = None, set()
        for row in store.rows():
            i, labels = place.get(row.id), row.labels
            if i is None:
                continue
            seen.add(row.id)
            if labels.score >= limits[labels.label]:
                classes[i], confidence[i] = labels.label, max(labels.score, 1e-12)
            if probabilities:
                soft = np.zeros((len(source), len(limits)), np.float32) if soft is None else soft
                soft[i] = labels.probabilities
        _refuse_missing(store.folder, [i for i in source.ids if i not in seen])
        counts = np.bincount(classes[classes >= 0], minlength=len(limits))
        numbers = {
            "labels": int(counts.sum()),
            "per_class": {c.name: int(n) for c, n in zip(store.categories(), counts)},
        }
        return source.with_classes(classes, store.categories(), soft), confidence, numbers

    def chosen(self, source: Source, confidence: np.ndarray, options: PseudoLabels) -> np.ndarray:
        """The sure images; with --pseudo_images_per_class the surest of every class, repeated up to so many.

        Source: google-research/noisystudent filter_unlabel.py:52-88.
        """
        sure, wanted = np.flatnonzero(confidence), options.pseudo_images_per_class
        if not wanted:
            return sure
        parts = []
        for label in np.unique(source.image_labels[sure]):
            members = sure[source.image_labels[sure] == label]
            best = members[np.argsort(-confidence[members], kind="stable")][:wanted]
            parts.append(np.resize(best, wanted))
        return np.concatenate(parts)

    def export(self, store: LabelStore, folder: str, limits: np.ndarray) -> str:
        """A JSON list of file, class and score."""
        names, rows = [category.name for category in store.categories()], []
        for row in store.rows():
            for label in self.classes_at(row.labels, limits):
                name = row.file_name or row.id
                rows.append({"file_name": name, "class": names[label], "score": round(row.labels.score, 6)})
        path = os.path.join(folder, "pseudo_classes.json")
        write_json(path, rows)
        return path


KINDS: dict[str, LabelKind[Any]] = {kind.name: kind for kind in (BoxKind(), MaskKind(), ClassKind())}


def record_name(record: bytes) -> str:
    """File name, or else the id, of the image that a stored record is of."""
    image_id, file_name, _ = _identity(tf.train.Example.FromString(record).features.feature)
    return file_name or image_id


def _of_source(
    stored: BoxColumns, source: Source, limits: np.ndarray, folder: str
) -> tuple[Annotations, np.ndarray]:
    """(stored boxes in the order of the source's images, how many of each image reach the limits).

    Those that reach them are an image's first, because boxes beyond --max_boxes are left out.
    """
    place = indices_of(stored.ids, source.ids)
    _refuse_missing(folder, source.ids[place < 0])
    wanted = np.full(len(stored.ids), -1)
    wanted[place] = np.arange(len(place))
    image = wanted[stored.image]
    sure = stored.scores >= limits[stored.classes]
    order = np.lexsort((~sure, image))
    order = order[np.searchsorted(image[order], 0) :]  # images that the source lacks
    image, boxes = image[order], stored.boxes[order]
    annotations = Annotations(
        row_splits=np.searchsorted(image, np.arange(len(source) + 1)),
        boxes=boxes,
        classes=stored.classes[order],
        crowd=np.zeros(len(boxes), bool),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        scores=stored.scores[order],
    )
    return annotations, np.bincount(image[sure[order]], minlength=len(source))


def _without_boxes(row: Row, names: Sequence[str]) -> tf.train.Example:
    nothing = {"boxes": np.zeros((0, 4)), "classes": [], "crowd": [], "area": [], "scores": []}
    return encode_example(b"", row.id, row.file_name, row.size, nothing, names)


def _identity(feature: Mapping[str, Any]) -> tuple[str, str, tuple[int, int]]:
    """(id, file name, size) of a record."""
    names = (feature[f"image/{key}"].bytes_list.value[0].decode() for key in ("source_id", "filename"))
    height, width = (feature[f"image/{key}"].int64_list.value[0] for key in ("height", "width"))
    return *names, (height, width)


def _records_of(paths: Sequence[str]) -> Iterator[bytes]:
    return (record for path in paths for _, record in records(path))


def _class_map(content: bytes, image_id: str) -> np.ndarray:
    found = read_class_map(content)
    if isinstance(found, str):
        raise LabelError(f"image {image_id}: a class map of its labels cannot be read: {found}")
    return found


def _refuse_missing(folder: str, missing: Sequence[str] | np.ndarray) -> None:
    if len(missing):
        raise LabelError(f"{folder} has no labels for {len(missing)} images, the first is {missing[0]}")


def _mask_reader(
    read_record: Callable[[tf.Tensor], tf.Tensor], sizes: np.ndarray, stored: np.ndarray
) -> Callable[[tf.Tensor], tf.Tensor]:
    limits, sizes = tf.constant(stored, tf.int32), tf.constant(sizes, tf.int32)
    spec = {key: tf.io.FixedLenFeature([], tf.string) for key in (MASK_KEY, SCORE_KEY)}

    def read(index):
        found = tf.io.parse_single_example(read_record(index), spec)
        mask, score = (tf.io.decode_png(found[key], channels=1) for key in (MASK_KEY, SCORE_KEY))
        sure = tf.cast(score, tf.int32) >= tf.gather(limits, tf.cast(mask, tf.int32))
        masked = tf.where(sure, mask, tf.constant(255, tf.uint8))
        return tf.image.resize(masked, tf.gather(sizes, index), method="nearest")[..., 0]

    return read


def enlarge_nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A class map at another (height, width), half-pixel centres."""
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(int)
    return mask[rows][:, columns]
