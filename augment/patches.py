"""Operations that touch only what is inside boxes: `*_Only_BBoxes` and `BBox_Cutout`.

Every box is chosen by its own coin, the chosen ones are worked on one after the other in random
order, so overlaps compound; boxes stay where they are. keras-cv and tensorflow-addons have none.

Source: tensorflow/tpu models/official/detection/utils/autoaugment_utils.py:488-784, 1219-1348.
"""

from __future__ import annotations

from typing import Callable

import tensorflow as tf

from augment.color import fill_rectangle, paste
from augment.geometry import Settings

Patch = Callable[[dict, tf.Tensor], dict]


def only_boxes(example: dict, probability: float, key: tf.Tensor, patch_op: Patch) -> dict:
    """Applies `patch_op` to the contents of boxes, each with probability / 3.

    Args:
      example: "image" uint8 [H, W, 3], "boxes" float32 [N, 4] and, optionally, "mask" uint8 [H, W].
      probability: of the policy; the original divides it by three (AA:488-502).
      patch_op: (example with "image" [h, w, 3] and, if there is one, "mask", key) -> the same shapes.
    """
    if "boxes" not in example:
        return example
    boxes, size = example["boxes"], tf.shape(example["image"])[:2]
    draws = tf.random.stateless_uniform([2, tf.shape(boxes)[0]], key, alg="philox")
    order = tf.argsort(draws[0])
    chosen = tf.boolean_mask(order, tf.gather(draws[1], order) < probability / 3.0)
    pixels = {name: example[name] for name in ("image", "mask") if name in example}

    def body(i, pixels):
        top, left, bottom, right = _inclusive(boxes[chosen[i]], size)
        patch = {name: value[top : bottom + 1, left : right + 1] for name, value in pixels.items()}
        patch = patch_op(patch, tf.random.experimental.stateless_fold_in(key, i))
        return i + 1, {name: _lay(pixels[name], patch[name], top, left) for name in pixels}

    _, pixels = tf.while_loop(lambda i, _: i < tf.shape(chosen)[0], body, (0, pixels))
    return {**example, **pixels}


def _inclusive(box: tf.Tensor, size: tf.Tensor) -> list[tf.Tensor]:
    """First and last row and column of a box: trunc(min) .. min(trunc(max), side - 1) (AA:505-557)."""
    corners = tf.cast(box, tf.int32)
    last = tf.concat([size, size], axis=0) - 1
    return tf.unstack(tf.clip_by_value(corners, 0, last))


def _lay(pixels: tf.Tensor, patch: tf.Tensor, top: int | tf.Tensor, left: int | tf.Tensor) -> tf.Tensor:
    if pixels.shape.rank == 3:
        return tf.ensure_shape(paste(pixels, patch, top, left), pixels.shape)
    return tf.ensure_shape(paste(pixels[..., None], patch[..., None], top, left)[..., 0], pixels.shape)


def bbox_cutout(example: dict, fraction: float, key: tf.Tensor, settings: Settings = Settings()) -> dict:
    """Greys a rectangle of `fraction` of one random box's sides, centred in the box; may leave the box.

    No box: nothing happens. Source: AA:1219-1348.
    """
    if "boxes" not in example:
        return example

    def cut():
        image, boxes = example["image"], example["boxes"]
        height, width = tf.unstack(tf.shape(image)[:2])
        draws = tf.random.stateless_uniform([3], key, alg="philox")
        number = tf.cast(draws[0] * tf.cast(tf.shape(boxes)[0], tf.float32), tf.int32)
        y1, x1, y2, x2 = tf.unstack(tf.cast(boxes[number], tf.int32))
        half_height = tf.cast(fraction * tf.cast(y2 - y1 + 1, tf.float32) / 2.0, tf.int32)
        half_width = tf.cast(fraction * tf.cast(x2 - x1 + 1, tf.float32) / 2.0, tf.int32)
        centre_y = y1 + tf.cast(draws[1] * tf.cast(y2 - y1 + 1, tf.float32), tf.int32)
        centre_x = x1 + tf.cast(draws[2] * tf.cast(x2 - x1 + 1, tf.float32), tf.int32)
        return cut_out(image, centre_y, centre_x, half_height, half_width, settings.fill)

    image = tf.cond(tf.shape(example["boxes"])[0] > 0, cut, lambda: example["image"])
    return {**example, "image": image}


def cut_out(
    image: tf.Tensor,
    centre_y: int | tf.Tensor,
    centre_x: int | tf.Tensor,
    half_height: int | tf.Tensor,
    half_width: int | tf.Tensor,
    fill: int,
) -> tf.Tensor:
    """Fills rows centre_y - half .. centre_y + half - 1, columns likewise, clipped at the borders."""
    size = tf.shape(image)[:2]
    centre, half = tf.stack([centre_y, centre_x]), tf.stack([half_height, half_width])
    low, high = tf.clip_by_value(centre - half, 0, size), tf.clip_by_value(centre + half, 0, size)
    return fill_rectangle(image, low[0], low[1], high[0], high[1], fill)


def random_cutout(image: tf.Tensor, half: int, key: tf.Tensor, fill: int) -> tf.Tensor:
    """Cutout of side 2 * half about a pixel drawn uniformly from the whole image. Source: AA:194-242."""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    centre = tf.cast(tf.random.stateless_uniform([2], key, alg="philox") * size, tf.int32)
    return cut_out(image, centre[0], centre[1], half, half, fill)
