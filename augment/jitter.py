"""Horizontal flip and scale jitter with crop and pad, for images with boxes and masks.

An example is a dict with "image" uint8 [H, W, 3] and, where there are any, "boxes" float32 [N, 4]
(yxyx pixels) with per-box columns ("classes" and others of length N), and "mask" uint8 [H, W]. A
key is an int32 [2] seed for stateless draws.
"""

from __future__ import annotations

import functools
from typing import Sequence

import tensorflow as tf

Example = dict


def random_flip(example: Example, key: tf.Tensor) -> Example:
    """Mirrors image, boxes and mask left to right with probability one half.

    Source: tensorflow/tpu .../utils/object_detection/preprocessor.py:49-66, 277-296.
    """
    draw = tf.random.stateless_uniform([], seed=key, alg="philox")
    return tf.cond(draw > 0.5, lambda: flip(example), lambda: dict(example))


def flip(example: Example) -> Example:
    """Mirrors image, boxes and mask left to right."""
    flipped = {**example, "image": tf.reverse(example["image"], [1])}
    if "mask" in example:
        flipped["mask"] = tf.reverse(example["mask"], [1])
    if "boxes" in example:
        width = tf.cast(tf.shape(example["image"])[1], tf.float32)
        y1, x1, y2, x2 = tf.unstack(example["boxes"], axis=1)
        flipped["boxes"] = tf.stack([y1, width - x2, y2, width - x1], axis=1)
    return flipped


def resize_and_crop(
    example: Example,
    key: tf.Tensor | None,
    *,
    output_size: int | Sequence[int] | tf.Tensor,
    jitter_min: float = 1.0,
    jitter_max: float = 1.0,
    fill: Sequence[float] = (0.0, 0.0, 0.0),
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    ignore_label: int = 255,
    min_box_size: float = 0.0,
    legacy_resize: bool = False,
) -> Example:
    """Scales to fit s * output_size with s ~ U[jitter_min, jitter_max], crops, pads bottom and right.

    The aspect ratio is kept. The crop's offset is random, uniform in the room that there is, one draw
    each for y and x, only along an axis that is longer than the output. With jitter 1..1 nothing is random
    and `key` may be None.

    Args:
      example: see the head of this module.
      key: int32 [2].
      output_size: side of the square output in pixels, or its (height, width).
      jitter_min, jitter_max: range of the scale.
      fill: pixel values of the padding.
      normalization: (mean, deviation) per channel in pixel values, taken out before padding; the
        padding is then zero, the mean colour, and `fill` is not used.
      ignore_label: mask value of the padding.
      min_box_size: boxes with a shorter side in the output are dropped; 0 drops those of no area.
      legacy_resize: sample as TF1 did, without half-pixel centres.

    Returns:
      The example with "image" float32 [h, w, 3], in 0..255 or normalised; boxes scaled, shifted and
      clipped to the image's part of the output, those too small dropped with their columns;
      "mask" (nearest neighbour); "scale" float32 [2] (y, x) and "extent" float32 [2]: height and
      width of the image in the output.

    Source: tensorflow/tpu .../utils/input_utils.py:126-216, 463-526; box_utils.py:170-202, 525-532
    (which clips to size - 1; here boxes may reach the border itself).
    """
    image = example["image"]
    scaled, offset = _placement(image, key, output_size, jitter_min, jitter_max)
    scale = tf.cast(scaled, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32)
    frame = _Frame(scaled, offset, output_size, not legacy_resize)
    pixels = frame.crop(_resized(image, frame.resizing, random=key is not None))
    placed = {**example, "image": frame.pad(*_normalized(pixels, normalization, fill))}
    if "mask" in example:
        resized = tf.raw_ops.ResizeNearestNeighbor(images=example["mask"][None, ..., None], **frame.resizing)
        label = tf.constant(ignore_label, tf.uint8)
        placed["mask"] = frame.pad(frame.crop(resized[0]) - label, label)[
            ..., 0
        ]  # uint8 wraps round and back
    extent = tf.cast(tf.shape(pixels)[:2], tf.float32)
    placed = {**placed, "scale": scale, "extent": extent}
    if "boxes" not in example:
        return placed
    placed["boxes"] = example["boxes"] * tf.tile(scale, [2]) - tf.cast(tf.tile(offset, [2]), tf.float32)
    return clip_boxes(placed, extent, min_box_size)


def _resized(image: tf.Tensor, resizing: dict, *, random: bool) -> tf.Tensor:
    """Float32 [h, w, 3] by `tf.raw_ops.ResizeBilinear`.

    Its kernel takes half as long again from uint8 as from float32 for the same result, which pays for the
    cast unless the image is made much smaller. Inference, whose graphs are exported, does without the
    condition.
    """
    if not random:
        return tf.raw_ops.ResizeBilinear(images=image[None], **resizing)[0]
    worth_it = 2 * tf.reduce_prod(resizing["size"]) >= tf.reduce_prod(tf.shape(image)[:2])
    whole = functools.partial(tf.raw_ops.ResizeBilinear, **resizing)
    return tf.cond(
        worth_it,
        lambda: whole(images=tf.cast(image, tf.float32)[None])[0],
        lambda: whole(images=image[None])[0],
    )


def _placement(
    image: tf.Tensor,
    key: tf.Tensor | None,
    output_size: int | Sequence[int] | tf.Tensor,
    jitter_min: float,
    jitter_max: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """(size of the scaled image, offset of the crop in it), int32 [2] each."""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    desired = tf.cast(tf.broadcast_to(output_size, [2]), tf.float32)
    active = jitter_min != 1.0 or jitter_max != 1.0
    target, offset = desired, tf.zeros([2], tf.int32)
    if active:
        draws = tf.random.stateless_uniform([3], seed=key, alg="philox")
        target = tf.round((jitter_min + (jitter_max - jitter_min) * draws[0]) * desired)
    scaled = tf.maximum(tf.round(tf.reduce_min(target / size) * size), 1.0)
    if active:
        offset = tf.cast(tf.maximum(scaled - desired, 0.0) * draws[1:], tf.int32)
    return tf.cast(scaled, tf.int32), offset


class _Frame:
    """Where the resized image is cut and padded to the output size."""

    def __init__(
        self,
        scaled: tf.Tensor,
        offset: tf.Tensor,
        output_size: int | Sequence[int] | tf.Tensor,
        half_pixel_centers: bool,
    ) -> None:
        self.resizing = {"size": scaled, "half_pixel_centers": half_pixel_centers}
        self.offset, self.size = offset, tf.broadcast_to(output_size, [2])
        self.static = static_size(output_size)

    def crop(self, pixels: tf.Tensor) -> tf.Tensor:
        top, left = tf.unstack(self.offset)
        return pixels[top : top + self.size[0], left : left + self.size[1]]

    def pad(self, pixels: tf.Tensor, fill: tf.Tensor | None = None) -> tf.Tensor:
        """Zeros at the bottom and right; `fill` is added afterwards."""
        missing = self.size - tf.shape(pixels)[:2]
        padded = tf.pad(pixels, [[0, missing[0]], [0, missing[1]], [0, 0]])
        padded = padded if fill is None else padded + fill
        return tf.ensure_shape(padded, [*self.static, pixels.shape[-1]])


def static_size(size: int | Sequence[int] | tf.Tensor | None) -> tuple[int | None, int | None]:
    """(height, width) of a side or a pair, None where only the run knows."""
    if isinstance(size, int):
        return size, size
    return tuple(size) if isinstance(size, (list, tuple)) else (None, None)


def _normalized(
    pixels: tf.Tensor, normalization: tuple[Sequence[float], Sequence[float]] | None, fill: Sequence[float]
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """(what is padded with zeros, what is added after padding); see the head of `augment.color` for the
    rows.
    """
    if normalization is None:
        if not any(fill):
            return pixels, None
        fill = tf.constant(fill, tf.float32)
        return pixels - fill, fill
    shape = tf.shape(pixels)
    mean, deviation = (tf.tile(tf.constant(part, tf.float32), shape[1:2]) for part in normalization)
    rows = (tf.reshape(pixels, [shape[0], -1]) - mean) / deviation
    return tf.reshape(rows, [shape[0], shape[1], 3]), None


def clip_boxes(example: Example, extent: tf.Tensor, min_box_size: float = 0.0) -> Example:
    """Clips boxes to (height, width); drops those without area or too small, with their columns."""
    boxes = tf.clip_by_value(example["boxes"], 0.0, tf.tile(extent, [2]))
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = tf.reduce_all((sides > 0.0) & (sides >= min_box_size), axis=1)
    return select_boxes({**example, "boxes": boxes}, keep)


PER_BOX = ("boxes", "classes", "crowd", "scores")


def select_boxes(example: Example, keep: tf.Tensor) -> Example:
    """Keeps the boxes where `keep` (bool [N]) is true, with their columns."""
    kept = {name: tf.boolean_mask(example[name], keep) for name in PER_BOX if name in example}
    return {**example, **kept}
