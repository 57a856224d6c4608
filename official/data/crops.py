"""Objects cut out of a source with boxes: one image an object, with its class."""

from __future__ import annotations

import dataclasses
from typing import Callable

import numpy as np
import tensorflow as tf

from official.data.source import DataError, Source

MARGIN = 1.2  # side of the square crop over the longer side of the box
SMALLEST_SIDE = 8.0  # pixels; smaller objects are left out


def object_crops(source: Source) -> Source:
    """A source over the objects of another one.

    The crop is a square around the box, `MARGIN` times its longer side, cut off where the image
    ends. Crowds and objects with a longer side below `SMALLEST_SIDE` are left out and counted.

    Raises:
      DataError: no object is left.
    """
    columns = source.objects
    owner = np.repeat(np.arange(len(source)), columns.counts())
    boxes = columns.boxes.astype(np.float64)
    longer = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    small = ~columns.crowd & (longer < SMALLEST_SIDE)
    for place in np.flatnonzero(small):
        source.report.note(
            "object too small to be cut out", source.name_of(owner[place]), source.ids[owner[place]]
        )
    chosen = np.flatnonzero(~columns.crowd & ~small)
    if not len(chosen):
        raise DataError(f"{source.word}: no object of at least {SMALLEST_SIDE:.0f} pixels to cut out")
    frames = _frames(boxes[chosen], longer[chosen], source.sizes[owner[chosen]])
    number = np.arange(len(owner)) - columns.row_splits[owner]
    return dataclasses.replace(
        source.without_labels(),
        ids=np.array([f"{source.ids[owner[i]]}#{number[i]}" for i in chosen]),
        sizes=(frames[:, 2:] - frames[:, :2]).astype(np.int32),
        read_image=_reader(source, owner[chosen], frames),
        file_names=source.file_names[owner[chosen]] if source.file_names is not None else None,
        file_ids=None,
        frames=None,
        cut_from=source.ids[owner[chosen]],
    ).with_classes(columns.classes[chosen], source.categories)


def _frames(boxes: np.ndarray, longer: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Int64 [N, 4] (top, left, bottom, right), at least one pixel and inside the images."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (MARGIN * longer / 2)[:, None]
    low = np.clip(np.floor(centres - half), 0, sizes - 1)
    high = np.clip(np.ceil(centres + half), low + 1, sizes)
    return np.concatenate([low, high], axis=1).astype(np.int64)


def _reader(source: Source, owner: np.ndarray, frames: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    owners, table = tf.constant(owner, tf.int64), tf.constant(frames)

    def read(index):
        top, left, bottom, right = tf.unstack(tf.gather(table, index))
        return source.read_image(tf.gather(owners, index))[top:bottom, left:right]

    return read
