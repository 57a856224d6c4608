"""Horizontal flip and scale jitter with crop and pad, for pictures with boxes.

An example is a dict with "image" uint8 [H, W, 3], "boxes" float32 [N, 4] (yxyx pixels) and per-box
columns ("classes" and any other of length N). A key is an int32 [2] seed for stateless draws.
"""

from __future__ import annotations

from typing import Sequence

import tensorflow as tf

Example = dict


def random_flip(example: Example, key: tf.Tensor) -> Example:
    """Mirrors picture and boxes left to right with probability one half.

    Source: tensorflow/tpu .../utils/object_detection/preprocessor.py:49-66, 277-296.
    """
    draw = tf.random.stateless_uniform([], seed=key, alg="philox")
    return tf.cond(draw > 0.5, lambda: flip(example), lambda: dict(example))


def flip(example: Example) -> Example:
    """Mirrors picture and boxes left to right."""
    width = tf.cast(tf.shape(example["image"])[1], tf.float32)
    y1, x1, y2, x2 = tf.unstack(example["boxes"], axis=1)
    boxes = tf.stack([y1, width - x2, y2, width - x1], axis=1)
    return {**example, "image": tf.reverse(example["image"], [1]), "boxes": boxes}


def resize_and_crop(
    example: Example,
    key: tf.Tensor | None,
    *,
    output_size: int,
    jitter_min: float = 1.0,
    jitter_max: float = 1.0,
    fill: Sequence[float] = (0.0, 0.0, 0.0),
    legacy_resize: bool = False,
) -> Example:
    """Scales to fit s * output_size with s ~ U[jitter_min, jitter_max], crops, pads bottom and right.

    The aspect ratio is kept. The crop's offset is random, and quadratic in its draw, only along an
    axis that is longer than the output. With jitter 1..1 nothing is random and `key` may be None.

    Args:
      example: see the head of this module.
      key: int32 [2].
      output_size: side of the square output in pixels.
      jitter_min, jitter_max: range of the scale.
      fill: pixel values of the padding.
      legacy_resize: sample as TF1 did, without half-pixel centres.

    Returns:
      The example with "image" float32 [S, S, 3] in 0..255, boxes scaled, shifted and clipped to the
      picture's part of the output with those of no area dropped (and their columns), and
      "scale" float32 [2] (y, x), "extent" float32 [2]: height and width of the picture in the output.

    Source: tensorflow/tpu .../utils/input_utils.py:126-216, 463-487; box_utils.py:170-202, 525-532
    (which clips to size - 1; here boxes may reach the border itself).
    """
    image = example["image"]
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    active = jitter_min != 1.0 or jitter_max != 1.0
    desired = tf.constant([output_size, output_size], tf.float32)
    offset = tf.zeros([2], tf.int32)
    target = desired
    if active:
        draws = tf.random.stateless_uniform([3], seed=key, alg="philox")
        target = tf.round((jitter_min + (jitter_max - jitter_min) * draws[0]) * desired)
    scaled = tf.maximum(tf.round(tf.reduce_min(target / size) * size), 1.0)
    scale = scaled / size
    if active:
        offset = tf.cast(tf.maximum(scaled - desired, 0.0) * draws[1:] ** 2, tf.int32)
    resized = tf.raw_ops.ResizeBilinear(
        images=image[None], size=tf.cast(scaled, tf.int32), half_pixel_centers=not legacy_resize
    )[0]
    cropped = resized[offset[0] : offset[0] + output_size, offset[1] : offset[1] + output_size]
    extent = tf.shape(cropped)[:2]
    missing = output_size - extent
    fill = tf.constant(fill, tf.float32)
    padded = tf.pad(cropped - fill, [[0, missing[0]], [0, missing[1]], [0, 0]]) + fill
    shift = tf.cast(tf.tile(offset, [2]), tf.float32)
    boxes = example["boxes"] * tf.tile(scale, [2]) - shift
    placed = {**example, "image": tf.ensure_shape(padded, [output_size, output_size, 3]), "boxes": boxes}
    extent = tf.cast(extent, tf.float32)
    return {**clip_boxes(placed, extent), "scale": scale, "extent": extent}


def clip_boxes(example: Example, extent: tf.Tensor) -> Example:
    """Clips boxes to (height, width) and drops those left without area, with their columns."""
    boxes = tf.clip_by_value(example["boxes"], 0.0, tf.tile(extent, [2]))
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return select_boxes({**example, "boxes": boxes}, keep)


PER_BOX = ("boxes", "classes", "crowd", "scores")


def select_boxes(example: Example, keep: tf.Tensor) -> Example:
    """Keeps the boxes where `keep` (bool [N]) is true, with their columns."""
    kept = {name: tf.boolean_mask(example[name], keep) for name in PER_BOX if name in example}
    return {**example, **kept}
