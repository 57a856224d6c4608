"""tf.data pipelines whose order and draws are pure functions of (seed, step).

Training reads position p = step * batch + k. Epoch e = p // n is a permutation of the source keyed
by (seed, stream, e); picture and augmentation follow from (seed, stream, e, picture). A resumed run
starts at its step and needs no iterator state, and neither threads nor replicas change a number.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Callable, Iterator

import numpy as np
import tensorflow as tf

from augment import Policy
from augment.jitter import resize_and_crop, select_boxes
from official.data.example import NORMALIZATION, pad_rows
from official.data.source import Annotations, Source



@dataclasses.dataclass(frozen=True)
class Worker:
    """Which part of every global batch this input pipeline makes."""

    index: int = 0
    count: int = 1


def permuted(position: tf.Tensor, size: int, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(epoch, picture) of a global position, int64 scalars; every epoch is a permutation of `size`."""
    epoch, offset = position // size, position % size
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    picture = tf.random.experimental.index_shuffle(offset, key, tf.constant(size - 1, tf.int64))
    return epoch, picture


def stream_seed(seed: int, stream: str) -> int:
    """A seed for one stream of one run, below 2^31."""
    return zlib.crc32(f"{seed}/{stream}".encode()) & 0x7FFFFFFF


def example_reader(source: Source) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """A graph function: picture number -> example; see official/data/example.py."""
    columns = source.annotations
    if columns is None and source.read_mask is None:
        nothing = Annotations.from_images([])
        columns = dataclasses.replace(nothing, row_splits=np.zeros(len(source) + 1, np.int64))
    if columns is not None:
        splits = tf.constant(columns.row_splits)
        tables = {name: tf.constant(getattr(columns, name)) for name in ("boxes", "classes", "crowd", "scores")}

    def read(index):
        example = {"image": source.read_image(index), "index": index}
        if source.read_mask is not None:
            example["mask"] = source.read_mask(index)
        if columns is not None:
            first, last = tf.unstack(tf.gather(splits, tf.stack([index, index + 1])))
            example.update({name: table[first:last] for name, table in tables.items()})
        return example

    return read


def training_dataset(
    source: Source,
    *,
    batch_size: int,
    replica_batch_size: int,
    image_size: int,
    augment: Policy,
    seed: int,
    stream: str,
    start_step: int = 0,
    worker: Worker = Worker(),
    max_boxes: int = 100,
    legacy_resize: bool = False,
    threads: int = 0,
) -> tf.data.Dataset:
    """An endless dataset of training batches, starting at `start_step`.

    Args:
      source: labelled.
      batch_size: examples per step over all replicas.
      replica_batch_size: examples per element; `batch_size / worker.count` must be a multiple.
      image_size: side of the network's input in pixels.
      augment: `augment.policy(...)`.
      seed, stream: decide order and draws; "human" and "pseudo" streams differ.
      threads: readers; 0 lets tf.data choose.

    Returns:
      Batches as in official/data/example.py.
    """
    own = batch_size // worker.count
    key_seed = stream_seed(seed, stream)
    read = example_reader(source)

    def load(number):
        step, place = number // own, number % own
        position = (step + start_step) * batch_size + worker.index * own + place
        epoch, picture = permuted(position, len(source), key_seed)
        example = read(picture)
        if "crowd" in example:
            example = select_boxes(example, ~example["crowd"])
        key = tf.cast(tf.stack([key_seed + epoch * 1_000_003, picture]) % 2**31, tf.int32)
        options = {"output_size": image_size, "normalization": NORMALIZATION, "legacy_resize": legacy_resize}
        return pack(augment.augment(example, key, **options), max_boxes)

    dataset = tf.data.Dataset.range(np.iinfo(np.int64).max // 2**20)
    dataset = dataset.map(load, num_parallel_calls=threads or tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(replica_batch_size, drop_remainder=True).prefetch(4)


def pack(example: dict[str, tf.Tensor], max_boxes: int) -> dict[str, tf.Tensor]:
    """A placed example with static shapes: the picture with its mask, or its boxes padded."""
    packed = {"images": example["image"], "index": example["index"]}
    if "mask" in example:
        return {**packed, "masks": example["mask"]}
    return {
        **packed,
        "boxes": pad_rows(example["boxes"], max_boxes, -1.0),
        "classes": pad_rows(example["classes"], max_boxes, -1),
    }


def inference_dataset(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    first: int = 0,
    last: int | None = None,
    legacy_resize: bool = False,
    masks: bool = False,
    threads: int = 0,
) -> tf.data.Dataset:
    """Pictures first..last of a source in order, resized to fit, the last batch filled up.

    Returns:
      Batches of "images" float32 [B, S, S, 3] normalised, "scale" float32 [B, 2] (network pixels
      per picture pixel, y and x), "extent" float32 [B, 2] (height and width of the picture in the
      input), "index" int64 [B] (-1 in rows that only fill the batch); with `masks`, "masks" uint8
      [B, S, S], placed as the pictures are.
    """
    last = len(source) if last is None else last
    padded = -(-(last - first) // batch_size) * batch_size

    def load(number):
        real = number < last
        place = tf.where(real, number, last - 1)
        example = {"image": source.read_image(place)}
        if masks:
            example["mask"] = source.read_mask(place)
        placed = resize_and_crop(
            example, None, output_size=image_size, normalization=NORMALIZATION, legacy_resize=legacy_resize
        )
        index = tf.where(real, number, tf.constant(-1, tf.int64))
        found = {"images": placed["image"], "index": index, **{name: placed[name] for name in ("scale", "extent")}}
        return {**found, "masks": placed["mask"]} if masks else found

    dataset = tf.data.Dataset.range(first, first + padded)
    dataset = dataset.map(load, num_parallel_calls=threads or tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(4)


def iterate_numpy(dataset: tf.data.Dataset) -> Iterator[dict[str, np.ndarray]]:
    """Batches as NumPy arrays."""
    return iter(dataset.as_numpy_iterator())
