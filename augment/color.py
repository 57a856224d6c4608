"""Pixel operations: uint8 [H, W, 3] in, the same out, no boxes touched.

Written here rather than taken over: keras-cv's layers compute in float, draw their own strength and
lack half of these operations; tensorflow-addons' `equalize` is a per-channel loop, its `sharpness`
has another kernel. Arithmetic on rows of length W * 3 is used throughout, because TensorFlow's
broadcasting over a last axis of 3 and its `tf.where` cost five to ten times a plain pass on a CPU.

Source: tensorflow/tpu models/official/detection/utils/autoaugment_utils.py ("AA" below).
"""

from __future__ import annotations

import tensorflow as tf


def blend(degenerate: tf.Tensor, image: tf.Tensor, factor: float) -> tf.Tensor:
    """`degenerate + factor * (image - degenerate)`, truncated; clipped only outside 0 < factor < 1.

    Args:
      degenerate, image: uint8 or float32 tensors of one shape (degenerate may be a scalar).
      factor: 0 gives `degenerate`, 1 gives `image`.

    Returns:
      uint8, shape of `image`. Source: AA:151-191.
    """
    if factor == 1.0:
        return tf.cast(image, tf.uint8)
    start = tf.cast(degenerate, tf.float32)
    mixed = start + factor * (tf.cast(image, tf.float32) - start)
    if not 0.0 < factor < 1.0:
        mixed = tf.clip_by_value(mixed, 0.0, 255.0)
    return tf.cast(mixed, tf.uint8)


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Away from (factor < 1: towards) the grey image. Source: AA:262-265."""
    rows, _ = _as_rows(image)
    grey = tf.cast(tf.reshape(tf.image.rgb_to_grayscale(image), [-1, 1]), tf.float32)
    # Every value three times, sooner than by tf.repeat.
    grey = tf.reshape(tf.matmul(grey, tf.ones([1, 3])), tf.shape(rows))
    return tf.reshape(blend(grey, rows, factor), tf.shape(image))


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Away from (factor < 1: towards) black. Source: AA:285-288."""
    return blend(tf.constant(0.0), image, factor)


def contrast(image: tf.Tensor, factor: float, *, true_mean: bool = False) -> tf.Tensor:
    """Away from (factor < 1: towards) a constant grey.

    Args:
      true_mean: False is the original's quirk: the grey is min(pixels / 256, 255), because the code adds up
        histogram counts instead of intensities; an image of more than 65,280 pixels is blended
        with white. True: the mean of the grey image, as google/automl mended it.

    Source: AA:268-282; google/automl efficientdet/aug/autoaugment.py:276.
    """
    if true_mean:
        grey = tf.floor(tf.reduce_mean(tf.cast(tf.image.rgb_to_grayscale(image), tf.float32)))
    else:
        pixels = tf.cast(tf.reduce_prod(tf.shape(image)[:2]), tf.float32)
        grey = tf.floor(tf.clip_by_value(pixels / 256.0, 0.0, 255.0))
    return blend(grey, image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Away from (factor < 1: towards) the image smoothed by [[1,1,1],[1,5,1],[1,1,1]] / 13.

    The outermost pixels stay. Sums are exact integers; the original's float kernel may truncate a
    whole number to the one below. Source: AA:1104-1130.
    """
    small = tf.reduce_any(tf.shape(image)[:2] < 3)
    return tf.cond(small, lambda: image, lambda: _sharpen(image, factor))


def _sharpen(image: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    pixels = tf.cast(image, tf.float32)
    centre = pixels[1:-1, 1:-1]
    columns = pixels[:-2] + pixels[1:-1] + pixels[2:]
    total = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:] + 4.0 * centre
    smooth = tf.floor(total * (1.0 / 13.0) + 1e-3)  # total is whole and below 3316: exact
    inner = blend(smooth, centre, factor)
    rows = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)
    return tf.concat([image[:1], rows, image[-1:]], axis=0)


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches every channel to 0..255; a channel of one value stays. Source: AA:1065-1101."""
    rows, width = _as_rows(image)
    low = tf.reduce_min(tf.reshape(tf.reduce_min(rows, axis=0), [width, 3]), axis=0)
    high = tf.reduce_max(tf.reshape(tf.reduce_max(rows, axis=0), [width, 3]), axis=0)
    low, high = tf.cast(low, tf.float32), tf.cast(high, tf.float32)
    flat = high <= low
    scale = tf.where(flat, 1.0, 255.0 / tf.where(flat, 1.0, high - low))
    offset = tf.where(flat, 0.0, -low * scale)
    stretched = tf.cast(rows, tf.float32) * tf.tile(scale, [width]) + tf.tile(offset, [width])
    return tf.reshape(tf.cast(tf.clip_by_value(stretched, 0.0, 255.0), tf.uint8), tf.shape(image))


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Flattens every channel's histogram, as Pillow does. Source: AA:1133-1170."""
    rows, width = _as_rows(image)
    places = tf.cast(rows, tf.int32) + tf.tile(tf.constant([0, 256, 512]), [width])
    counts = tf.raw_ops.DenseBincount(
        input=tf.reshape(places, [-1]), size=768, weights=tf.zeros([0], tf.int32)
    )
    table = tf.reshape(_equalizing_table(tf.reshape(counts, [3, 256])), [-1])
    return tf.reshape(tf.gather(table, places), tf.shape(image))


def _equalizing_table(counts: tf.Tensor) -> tf.Tensor:
    """Int32 histograms [3, 256] -> uint8 look-up tables [3, 256]."""
    levels = tf.range(256)
    last = tf.reduce_max(tf.where(counts > 0, levels, 0), axis=1)
    step = (tf.reduce_sum(counts, axis=1) - tf.gather(counts, last, batch_dims=1)) // 255
    step = step[:, None]
    before = tf.cumsum(counts, axis=1, exclusive=True)
    table = (before + step // 2) // tf.maximum(step, 1)
    return tf.cast(tf.where(step > 0, tf.minimum(table, 255), levels), tf.uint8)


def invert(image: tf.Tensor) -> tf.Tensor:
    """255 - x."""
    return 255 - image


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts pixels at or above `threshold`; 256 inverts none.

    The original's threshold is a uint8, in which 256 is 0; `augment.ops` says which one a level means.
    Source: AA:245-249.
    """
    if threshold >= 256:
        return image
    if threshold <= 0:
        return invert(image)
    above = tf.cast(image > tf.constant(threshold - 1, tf.uint8), tf.uint8) * 255
    return tf.bitwise.bitwise_xor(image, above)


def solarize_add(image: tf.Tensor, addition: int, threshold: int = 128) -> tf.Tensor:
    """Adds `addition` (0..255) to pixels below `threshold`, saturating. Source: AA:252-259."""
    room = tf.minimum(tf.constant(min(addition, 255), tf.uint8), 255 - image)
    return image + tf.cast(image < tf.constant(threshold, tf.uint8), tf.uint8) * room


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Keeps the top `bits` bits.

    0 keeps one bit, as TensorFlow's clamped shifts do in the original (Pillow gives black).
    Source: AA:291-294.
    """
    mask = 0xFF & ~((1 << (8 - min(max(bits, 1), 8))) - 1)
    return tf.bitwise.bitwise_and(image, tf.constant(mask, tf.uint8))


def fill_rectangle(
    image: tf.Tensor,
    top: int | tf.Tensor,
    left: int | tf.Tensor,
    bottom: int | tf.Tensor,
    right: int | tf.Tensor,
    fill: int,
) -> tf.Tensor:
    """Paints rows top..bottom - 1, columns left..right - 1; the rectangle must lie inside."""
    return paste(
        image,
        tf.fill([bottom - top, right - left, image.shape[-1]], tf.constant(fill, image.dtype)),
        top,
        left,
    )


def paste(image: tf.Tensor, patch: tf.Tensor, top: int | tf.Tensor, left: int | tf.Tensor) -> tf.Tensor:
    """Lays a patch [h, w, C] into [H, W, C]; it must lie inside."""
    bottom, right = top + tf.shape(patch)[0], left + tf.shape(patch)[1]
    rows = image[top:bottom]
    middle = tf.concat([rows[:, :left], patch, rows[:, right:]], axis=1)
    return tf.concat([image[:top], middle, image[bottom:]], axis=0)


def _as_rows(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """([H, W * 3], W)."""
    shape = tf.shape(image)
    return tf.reshape(image, [shape[0], shape[1] * 3]), shape[1]
