"""tf.data pipelines whose order and draws are pure functions of (seed, step).

Training reads position p = step * batch + k. Epoch e = p // n is a permutation of the source keyed
by the hash of (seed, stream, e); augmentation draws from the hash of (seed, stream, e, image). A resumed run
starts at its step and needs no iterator state, and neither threads nor replicas change a number.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Sequence

import numpy as np
import tensorflow as tf

from augment import Policy
from augment.jitter import resize_and_crop, select_boxes
from losses.focal import IGNORED
from official import hashing
from official.data.example import NORMALIZATION, pad_rows
from official.data.source import Annotations, Source


@dataclasses.dataclass(frozen=True)
class Worker:
    """Which part of every global batch this input pipeline makes."""

    index: int = 0
    count: int = 1


def permuted(position: tf.Tensor, size: int, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(epoch, image) of a global position, int64; every epoch is another permutation of `size`; see
    official/hashing.py.
    """
    epoch, offset = position // size, position % size
    return epoch, hashing.permuted(offset, size, seed, epoch)


@tf.function(autograph=False)  # a graph that every dataset of a process calls
def _keys(seed: tf.Tensor, epoch: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """int32 [N, 2], the keys of all that is drawn for N images."""
    halves = tf.constant([[0, 1]], tf.int64)
    return tf.bitcast(hashing.hashed(seed, epoch[:, None], image[:, None], halves), tf.int32)


def stream_seed(seed: int, stream: str) -> int:
    """A seed for one stream of one run, below 2^63."""
    return hashing.named_seed(seed, stream)


def example_reader(source: Source) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """A graph function: image number -> example; see official/data/example.py."""
    columns, whole = source.annotations, {}
    if source.image_classes is not None:
        whole["class"] = tf.constant(source.image_classes)
    if source.image_probabilities is not None:
        whole["probabilities"] = tf.constant(source.image_probabilities)
    if columns is None and source.read_mask is None and not whole:
        nothing = Annotations.from_images([])
        columns = dataclasses.replace(nothing, row_splits=np.zeros(len(source) + 1, np.int64))
    sure_from = None if source.sure_from is None else tf.constant(source.sure_from)
    if columns is not None:
        splits = tf.constant(columns.row_splits)
        tables = {
            name: tf.constant(getattr(columns, name)) for name in ("boxes", "classes", "crowd", "scores")
        }

    def read(index):
        example = {"image": source.read_image(index), "index": index}
        example.update({name: tf.gather(table, index) for name, table in whole.items()})
        if source.read_mask is not None:
            example["mask"] = source.read_mask(index)
        if columns is not None:
            first, last = tf.unstack(tf.gather(splits, tf.stack([index, index + 1])))
            example.update({name: table[first:last] for name, table in tables.items()})
        if sure_from is not None:
            sure = example["scores"] >= tf.gather(sure_from, example["classes"])
            example["classes"] = tf.where(sure, example["classes"], IGNORED)
        return example

    return read


# An example and a key, to what one row of a batch holds.
Preparation = Callable[[dict[str, tf.Tensor], tf.Tensor], dict[str, tf.Tensor]]
# An example, to what one row of a batch holds for inference.
Fitting = Callable[[dict[str, tf.Tensor]], dict[str, Any]]


# Python as it stands: no branch or loop here hangs on a tensor, and AutoGraph would rewrite every function
# first.
as_it_is = tf.autograph.experimental.do_not_convert


def training_dataset(
    source: Source,
    *,
    prepare: Preparation,
    batch_size: int,
    replica_batch_size: int,
    seed: int,
    stream: str,
    start_step: int = 0,
    worker: Worker = Worker(),
    threads: int = 0,
    parts: int = 1,
) -> tf.data.Dataset:
    """An endless dataset of training batches, starting at `start_step`.

    Args:
      source: labelled.
      prepare: augments an example under an int32 [2] key and gives it static shapes; see `placing`.
      batch_size: examples per step over all replicas.
      replica_batch_size: examples per element; `batch_size / worker.count` must be a multiple.
      seed, stream: decide order and draws; "human" and "pseudo" streams differ.
      threads: readers; 0 lets tf.data choose.
      parts: in how many elements a replica gets its batch of a step: first all replicas' first parts, then
        their second ones.

    Returns:
      Batches as in official/data/example.py.
    """
    own = batch_size // worker.count
    replicas = own // (replica_batch_size * parts)
    key_seed = stream_seed(seed, stream)
    read = example_reader(source)

    def plan(step):
        """(step, image, key) of every example, for a whole step at once: alone each would cost 0.3 ms."""
        place = tf.range(own, dtype=tf.int64)
        if parts > 1:
            element, row = place // replica_batch_size, place % replica_batch_size
            place = (element % replicas * parts + element // replicas) * replica_batch_size + row
        epoch, image = permuted(step * batch_size + worker.index * own + place, len(source), key_seed)
        return tf.fill([own], step), image, _keys(tf.constant(key_seed, tf.int64), epoch, image)

    def load(step, image, key):
        return prepare({**read(image), "step": step}, key)

    dataset = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max // 2**20)
    dataset = dataset.map(as_it_is(plan), num_parallel_calls=1, deterministic=True).unbatch()
    dataset = dataset.map(as_it_is(load), num_parallel_calls=threads or tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(replica_batch_size, drop_remainder=True).prefetch(4)


def placing(
    augment: Policy, *, image_size: int, max_boxes: int = 100, legacy_resize: bool = False
) -> Preparation:
    """What dense tasks do to an example: augment, fit into the input, normalise, pad.

    Args:
      augment: `augment.policy(...)`.
      image_size: side of the network's input in pixels.
      max_boxes: rows of boxes; see `pack`.
      legacy_resize: sample as TF1 did.
    """
    options = {"output_size": image_size, "normalization": NORMALIZATION, "legacy_resize": legacy_resize}

    def prepare(example, key):
        if "crowd" in example:
            example = select_boxes(example, ~example["crowd"])
        return pack(augment.augment(example, key, **options), max_boxes)

    return prepare


def pack(example: dict[str, tf.Tensor], max_boxes: int) -> dict[str, tf.Tensor]:
    """A placed example with static shapes: the image with its mask, or its boxes padded."""
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
    prepare: Fitting,
    batch_size: int,
    first: int = 0,
    last: int | None = None,
    masks: bool = False,
    threads: int = 0,
) -> tf.data.Dataset:
    """Images first..last of a source in order, the last batch filled up.

    Args:
      prepare: example with "image" and, with `masks`, "mask" -> what one row holds; see `fitting`.

    Returns:
      Batches of what `prepare` gives and "index" int64 [B] (-1 in rows that only fill the batch).
    """
    last = len(source) if last is None else last
    padded = -(-(last - first) // batch_size) * batch_size

    def load(number):
        real = number < last
        place = tf.where(real, number, last - 1)
        example = {"image": source.read_image(place), "index": place}
        if masks:
            assert source.read_mask is not None
            example["mask"] = source.read_mask(place)
        return {**prepare(example), "index": tf.where(real, number, tf.constant(-1, tf.int64))}

    dataset = tf.data.Dataset.range(first, first + padded)
    dataset = dataset.map(as_it_is(load), num_parallel_calls=threads or tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(4)


def fitting(image_size: int, *, legacy_resize: bool = False) -> Fitting:
    """How dense tasks look at an image: resized to fit the input, at the top left.

    Returns:
      A preparation for `inference_dataset`: "images" float32 [S, S, 3] normalised, "scale" float32 [2]
      (network pixels per image pixel, y and x), "extent" float32 [2] (height and width of the
      image in the input) and, where there is a mask, "masks" uint8 [S, S], placed as the image is.
    """

    def prepare(example):
        placed = resize_and_crop(
            example, None, output_size=image_size, normalization=NORMALIZATION, legacy_resize=legacy_resize
        )
        names = {"images": "image", "scale": "scale", "extent": "extent", "masks": "mask"}
        return {ours: placed[name] for ours, name in names.items() if name in placed}

    return prepare


def fitting_all(image_sizes: Sequence[int], *, legacy_resize: bool = False) -> Fitting:
    """`fitting` into several inputs from one reading of the image: "images" is a tuple, one of every size."""
    each = [fitting(size, legacy_resize=legacy_resize) for size in image_sizes]
    return lambda example: {"images": tuple(prepare(example)["images"] for prepare in each)}
