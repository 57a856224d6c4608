"""Geometric operations on an image, its boxes and its mask together.

An example is a dict: "image" uint8 [H, W, 3]; where there are any, "boxes" float32 [N, 4] (yxyx
pixels) with per-box columns, and "mask" uint8 [H, W]. The output keeps the image's size. Pixels
are sampled by their nearest neighbour; what comes from outside is `Settings.fill` in the image
and `Settings.ignore_label` in the mask.

Not by tensorflow-addons' `translate`, `transform` and `rotate`, which the original's `contrib.image` became:
with the channel that the original carries along to know what came from outside they take 8.6 ms where this
takes 0.2 to 1.5 (640 x 480 pixels, one core; `python -m benchmarks.augmentation --profile`), which would add
86 % to the cost of an S4 image; the op beneath them alone takes 3.3 ms and would add a quarter. Here
translation is a slice and a pad, shear and rotation gather whole pixels by index. Source positions are
computed in that op's order, in float32, and rounded as it rounds (halves away from zero), so the pixels are
its pixels; tests compare them. keras-cv's layers interpolate, mirror at the border and cannot move boxes
along.

Source: tensorflow/tpu models/official/detection/utils/autoaugment_utils.py:787-1027, 1173-1216.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Callable

import tensorflow as tf

from augment.jitter import select_boxes

SLIVER = 0.05  # of the side: what the original leaves of a box that was moved out of the image


@dataclasses.dataclass(frozen=True)
class Settings:
    """Constants of the operations; the defaults are the original detection stack's.

    Attributes:
      fill: grey value of pixels from outside and of cut-outs.
      ignore_label: mask value of pixels from outside.
      cutout_const, translate_const: pixels at level 10.
      cutout_bbox_const, translate_bbox_const: the same for operations inside boxes.
      reference_size: 0 is the original: those constants are pixels of the stored image, whatever
        its size (a translation by 250 pixels empties a small one). Above 0 they are meant for
        images whose longer side is this, and scale with the image.
      bbox_cutout_fraction: of the box, at level 10.
      solarize_posterize: "original" is the original with its quirks: both weaken as the level grows, and
        their arguments wrap in uint8 (Solarize's threshold at levels 10 and 15 is 0 and 128: the whole image
        is inverted, or its brighter half; Posterize at 27 keeps one bit). "weakening" does without the
        wrapping (threshold at most 256, which inverts nothing, and at most 8 bits). "strengthening" turns
        them round as well: threshold 256 - 25.6 level, bits 8 - 0.4 level.
      contrast_true_mean: see `augment.color.contrast`.
      exact_boxes: False is the original: box corners are cut to whole pixels before and after, and
        a box that leaves the image stays as a sliver at the border. True: corners stay exact and
        a box that leaves is dropped.
    """

    fill: int = 128
    ignore_label: int = 255
    cutout_const: float = 100.0
    translate_const: float = 250.0
    cutout_bbox_const: float = 50.0
    translate_bbox_const: float = 120.0
    reference_size: int = 0
    bbox_cutout_fraction: float = 0.75
    solarize_posterize: str = "original"
    contrast_true_mean: bool = False
    exact_boxes: bool = False

    def pixels(self, constant: float, level: float, size: tf.Tensor) -> tf.Tensor:
        """Float32 scalar: a constant in pixels at a level (of 10), for an image of (height, width) `size`."""
        value = tf.constant(constant * level / 10.0, tf.float32)
        if not self.reference_size:
            return value
        return value * tf.cast(tf.reduce_max(size), tf.float32) / self.reference_size


IMAGE_SETTINGS = Settings(cutout_const=40.0, translate_const=100.0)  # of the sixteen image operations


# --- pixels ----------------------------------------------------------------------------------------


def shift_pixels(image: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, fill: int) -> tf.Tensor:
    """Output (y, x) reads the pixel nearest to (y + rows, x + columns); [H, W, C] of any dtype, float32
    scalars.
    """
    shape = tf.shape(image)
    limit, offset = shape[:2], tf.stack([rows, columns])
    whole = tf.cast(tf.floor(offset + 0.5), tf.int32)  # a half is rounded up wherever the source lies inside
    # The first output whose source lies inside: above -0.5, since -0.5 itself is rounded away from zero.
    before = tf.clip_by_value(tf.cast(tf.floor(-offset - 0.5), tf.int32) + 1, 0, limit)
    low = tf.clip_by_value(before + whole, 0, limit)
    high = tf.maximum(tf.clip_by_value(limit + whole, 0, limit), low)
    kept = image[low[0] : high[0], low[1] : high[1]]
    after = limit - before - (high - low)
    paddings = tf.concat([tf.stack([before, after], axis=1), [[0, 0]]], axis=0)
    return tf.reshape(tf.pad(kept, paddings, constant_values=tf.constant(fill, image.dtype)), shape)


def warp_pixels(image: tf.Tensor, source_y: tf.Tensor, source_x: tf.Tensor, fill: int) -> tf.Tensor:
    """Output (y, x) reads pixel (source_y, source_x), each int32 [H, W] or broadcast to it."""
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    # A frame of `fill`, one pixel wide, is what every position outside reads: two clips in place of four
    # comparisons.
    framed = tf.pad(image, [[1, 1], [1, 1], [0, 0]], constant_values=tf.constant(fill, image.dtype))
    place = (tf.clip_by_value(source_y, -1, height) + 1) * (width + 2) + (
        tf.clip_by_value(source_x, -1, width) + 1
    )
    pixels = tf.reshape(framed, [(height + 2) * (width + 2), image.shape[-1]])
    return tf.reshape(tf.gather(pixels, tf.reshape(tf.broadcast_to(place, shape[:2]), [-1])), shape)


def shear_pixels(image: tf.Tensor, slope: tf.Tensor, fill: int, *, axis: str) -> tf.Tensor:
    """axis "x": output (y, x) reads (y, x + slope * y); axis "y": (y + slope * x, x)."""
    rows, columns = _grid(image)
    if axis == "x":
        columns = _nearest(tf.cast(columns, tf.float32) + slope * tf.cast(rows, tf.float32))
    else:
        rows = _nearest(slope * tf.cast(columns, tf.float32) + tf.cast(rows, tf.float32))
    return warp_pixels(image, rows, columns, fill)


def rotate_pixels(image: tf.Tensor, degrees: tf.Tensor, fill: int) -> tf.Tensor:
    """Turns counter-clockwise about the centre of the image."""
    angle = degrees * (math.pi / 180.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    rows, columns = (tf.cast(part, tf.float32) for part in _grid(image))
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32) - 1.0)
    offset_x = (width - _rounded(cos * width - sin * height)) / 2.0
    offset_y = (height - _rounded(sin * width + cos * height)) / 2.0
    source_x = _nearest(_rounded(cos * columns + -sin * rows) + offset_x)
    source_y = _nearest(_rounded(sin * columns + cos * rows) + offset_y)
    return warp_pixels(image, source_y, source_x, fill)


def _grid(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Row numbers [H, 1] and column numbers [1, W], int32."""
    shape = tf.shape(image)
    return tf.range(shape[0])[:, None], tf.range(shape[1])[None]


def _rounded(total: tf.Tensor) -> tf.Tensor:
    """A float32 sum as it is.

    A graph's optimizers turn ([1, W] + [H, 1]) + number into [1, W] + ([H, 1] + number), which is rounded
    otherwise and puts pixels on a border to their other neighbour; they do not look through this node.
    """
    return tf.ensure_shape(total, total.shape)


def _nearest(value: tf.Tensor) -> tf.Tensor:
    """Int32; halves away from zero where the result is 0 or more (below, what it reads lies outside anyway).

    0.49999997 is the float32 before one half: with 0.5 the number just below a half would be rounded up.
    """
    return tf.cast(tf.floor(_rounded(value) + 0.49999997), tf.int32)


# --- boxes -----------------------------------------------------------------------------------------


def _hull(boxes: tf.Tensor, move: Callable) -> tf.Tensor:
    """The box around the four moved corners; move: (y, x) -> (y, x), float32 [N, 4] each."""
    y1, x1, y2, x2 = tf.unstack(boxes, axis=1)
    y, x = move(tf.stack([y1, y1, y2, y2], axis=1), tf.stack([x1, x2, x1, x2], axis=1))
    low = [tf.reduce_min(y, axis=1), tf.reduce_min(x, axis=1)]
    return tf.stack(low + [tf.reduce_max(y, axis=1), tf.reduce_max(x, axis=1)], axis=1)


def _truncate(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.cast(value, tf.int32), tf.float32)


def move_boxes(example: dict, move: Callable, settings: Settings, origin: float = 0.0) -> dict:
    """Moves the corners of all boxes, clips them to the image, and treats those that left it.

    Args:
      move: (y, x) -> (y, x), relative to the origin.
      origin: as a share of height and width; 0 is the top left corner, 0.5 the centre.
    """
    if "boxes" not in example:
        return example
    size = tf.cast(tf.shape(example["image"])[:2], tf.float32)
    limits = tf.concat([size, size], axis=0)
    relative = example["boxes"] - origin * limits
    if settings.exact_boxes:
        boxes = tf.clip_by_value(_hull(relative, move) + origin * limits, 0.0, limits)
        keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return select_boxes({**example, "boxes": boxes}, keep)
    moved = _truncate(_hull(_truncate(relative), move)) + origin * limits
    return {**example, "boxes": _leave_sliver(tf.clip_by_value(moved, 0.0, limits), size)}


def _leave_sliver(boxes: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """The original's repair of extents that are exactly zero. Source: AA:456-485."""
    low, high = boxes[:, :2], boxes[:, 2:]
    empty = high == low
    repaired_high = tf.where(empty, tf.maximum(high, SLIVER * size), high)
    repaired_low = tf.where(empty, tf.minimum(low, (1.0 - SLIVER) * size), low)
    return tf.concat([repaired_low, repaired_high], axis=1)


# --- operations ------------------------------------------------------------------------------------


def _on_pixels(example: dict, function: Callable, settings: Settings) -> dict:
    """Applies function(pixels [H, W, C], fill) to the image and to the mask."""
    moved = {**example, "image": function(example["image"], settings.fill)}
    if "mask" in example:
        moved["mask"] = function(example["mask"][..., None], settings.ignore_label)[..., 0]
    return moved


def translate(example: dict, pixels: tf.Tensor, settings: Settings = Settings(), *, axis: str) -> dict:
    """Output reads `pixels` further along the axis: contents move left ("x") or up ("y") for pixels > 0."""
    pixels = tf.cast(pixels, tf.float32)
    rows, columns = (0.0, pixels) if axis == "x" else (pixels, 0.0)
    moved = _on_pixels(example, lambda image, fill: shift_pixels(image, rows, columns, fill), settings)
    distance = tf.floor(pixels + 0.5) if settings.exact_boxes else _truncate(pixels)
    if axis == "x":
        return move_boxes(moved, lambda y, x: (y, x - distance), settings)
    return move_boxes(moved, lambda y, x: (y - distance, x), settings)


def shear(example: dict, slope: tf.Tensor, settings: Settings = Settings(), *, axis: str) -> dict:
    """Shears about the top left corner; "x": contents of row y move left by slope * y."""
    moved = _on_pixels(example, lambda image, fill: shear_pixels(image, slope, fill, axis=axis), settings)
    half = 0.5 if settings.exact_boxes else 0.0  # pixel centres lie half a pixel inside their edges
    if axis == "x":
        return move_boxes(moved, lambda y, x: (y, x - slope * (y - half)), settings)
    return move_boxes(moved, lambda y, x: (y - slope * (x - half), x), settings)


def rotate(example: dict, degrees: tf.Tensor, settings: Settings = Settings()) -> dict:
    """Turns counter-clockwise about the centre; a box becomes the hull of its turned corners."""
    moved = _on_pixels(example, lambda image, fill: rotate_pixels(image, degrees, fill), settings)
    angle = degrees * (math.pi / 180.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    return move_boxes(moved, lambda y, x: (y * cos - x * sin, y * sin + x * cos), settings, origin=0.5)
