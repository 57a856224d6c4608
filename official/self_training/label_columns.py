"""Stored boxes as columns: what a store of a million images is read with, in place of a row an image.

Records are parsed by TensorFlow some thousands at a time; of the boxes only those that are used are kept.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Iterator, Sequence

import numpy as np
import tensorflow as tf

from official.data.pseudo_labels import BoxLabels, Row

RECORDS_AT_ONCE = 4096
_CORNERS = tuple(f"image/object/bbox/{name}" for name in ("ymin", "xmin", "ymax", "xmax"))
_CLASS, _SCORE = "image/object/class/label", "image/object/score"
_WHOLE = {
    "image/source_id": tf.string,
    "image/filename": tf.string,
    "image/height": tf.int64,
    "image/width": tf.int64,
}


@dataclasses.dataclass(frozen=True)
class BoxColumns:
    """Labels of some images.

    Attributes:
      ids, file_names: bytes [images], UTF-8.
      sizes: int64 [images, 2], height and width.
      image: int64 [boxes], which of the images, rising.
      boxes: float32 [boxes, 4] yxyx pixels; scores: float32 [boxes]; classes: int32 [boxes].
    """

    ids: np.ndarray
    file_names: np.ndarray
    sizes: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def where(self, kept: np.ndarray) -> BoxColumns:
        """Some of the boxes, bool [boxes]; all of the images."""
        return dataclasses.replace(self, **{name: getattr(self, name)[kept] for name in _OF_BOXES})

    def rows(self) -> Iterator[Row[BoxLabels]]:
        """A row an image."""
        splits = np.searchsorted(self.image, np.arange(len(self.ids) + 1)).tolist()
        whole = zip(self.ids.tolist(), self.file_names.tolist(), self.sizes.tolist(), splits[:-1], splits[1:])
        for image_id, file_name, size, first, last in whole:
            labels = BoxLabels(self.boxes[first:last], self.scores[first:last], self.classes[first:last])
            yield Row(image_id.decode(), file_name.decode(), tuple(size), labels)


_OF_BOXES = ("image", "boxes", "scores", "classes")


def batches(paths: Sequence[str]) -> Iterator[BoxColumns]:
    """The labels of shards in their order, some thousands of images at a time.

    Raises:
      ValueError: a record with more of one thing about a box than of another.
    """
    ragged = {
        name: tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64) for name in (*_CORNERS, _SCORE)
    }
    ragged[_CLASS] = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    spec = {**ragged, **{name: tf.io.FixedLenFeature([], dtype) for name, dtype in _WHOLE.items()}}
    records = tf.data.TFRecordDataset(list(paths), buffer_size=1 << 20)
    parsed = records.batch(RECORDS_AT_ONCE).map(lambda several: tf.io.parse_example(several, spec))
    for found in parsed.prefetch(1):
        yield _columns(found)


def _columns(found: dict[str, Any]) -> BoxColumns:
    splits = found[_SCORE].row_splits.numpy()
    for name in (*_CORNERS, _CLASS):
        if not np.array_equal(found[name].row_splits.numpy(), splits):
            raise ValueError(f"a label record has another number of {name} than of {_SCORE}")
    image = np.repeat(np.arange(len(splits) - 1), np.diff(splits))
    sizes = np.stack([found["image/height"].numpy(), found["image/width"].numpy()], axis=1)
    corners = np.stack([found[name].values.numpy() for name in _CORNERS], axis=1)
    return BoxColumns(
        ids=found["image/source_id"].numpy().astype(bytes),
        file_names=found["image/filename"].numpy().astype(bytes),
        sizes=sizes,
        image=image,
        boxes=corners * np.tile(sizes, 2).astype(np.float32)[image],
        scores=found[_SCORE].values.numpy(),
        classes=found[_CLASS].values.numpy().astype(np.int32) - 1,
    )


def joined(parts: Sequence[BoxColumns]) -> BoxColumns:
    """One after the other; file names, which nobody needs of all, are left out."""
    starts = np.cumsum([0, *(len(part.ids) for part in parts)])
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("ids", "boxes", "scores", "classes")
    }
    image = np.concatenate([part.image + start for part, start in zip(parts, starts)])
    sizes = np.concatenate([part.sizes for part in parts])
    return BoxColumns(file_names=np.zeros(0, bytes), sizes=sizes, image=image, **columns)


def indices_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where in `ids` (bytes [N], all different) every one of `wanted` (text [M]) is; int64 [M], -1 where it
    is not.
    """
    wanted = np.char.encode(np.asarray(wanted, str), "utf-8") if len(wanted) else np.zeros(0, bytes)
    if np.array_equal(ids, wanted):
        return np.arange(len(ids))
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    place = order[np.minimum(np.searchsorted(ids[order], wanted), len(ids) - 1)]
    return np.where(ids[place] == wanted, place, -1)
