"""The one example format: what every source gives, every augmentation maps to itself, every task takes.

An example is a dict:
    image    uint8 [H, W, 3]        RGB
    boxes    float32 [N, 4]         yxyx, pixels of `image`
    classes  int32 [N]              index of the class, 0-based; -2: a pseudo box that may be an object or not
    mask     uint8 [H, W]           class indices, 255 where nothing is said (segmentation)
    class    int32 []               of the whole image, -1: none known (classification)
    probabilities  float32 [C]      soft label beside `class`, where there is one
    step     int64 []               the training step that it is for
    crowd    bool [N]
    scores   float32 [N]            1 for human labels, the teacher's score for pseudo labels
    index    int64 []               which image of its source; the id is `source.ids[index]`
A batch for training has static shapes:
    images   float32 [B, S, S, 3]   normalised, zeros outside the image
    boxes    float32 [B, M, 4]      -1 in padding rows
    classes  int32 [B, M]           -1 in padding rows, -2 for what may be an object or not
    masks    uint8 [B, S, S]        for segmentation, in place of boxes and classes
    class    int32 [B]              for classification (and `probabilities` float32 [B, C])
    index    int64 [B]
"""

from __future__ import annotations

import tensorflow as tf

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# (mean, deviation) of pixels in [0, 255]; taken out before padding, so padding is the mean colour.
# Source: tensorflow/tpu models/official/detection/utils/input_utils.py:80-95.
NORMALIZATION = (tuple(255.0 * m for m in IMAGENET_MEAN), tuple(255.0 * s for s in IMAGENET_STD))


def normalize(image: tf.Tensor) -> tf.Tensor:
    """Pixels in 0..255, [..., 3] of any dtype, as the networks take them, float32."""
    mean, deviation = NORMALIZATION
    return (tf.cast(image, tf.float32) - mean) / deviation


def checked_range(images: tf.Tensor) -> tf.Tensor:
    """The images, unless they are floats of which none is above 1: black to a network that takes 0..255.

    Raises:
      InvalidArgumentError: such images; XLA leaves the check out.
    """
    images = tf.convert_to_tensor(images)
    if not images.dtype.is_floating:
        return images
    highest = tf.cast(tf.reduce_max(images), tf.float32)
    words = "the images of a batch are all in 0..1; the model takes 0..255 (it normalises them itself)"
    good = (highest > 1.0) | (highest <= 0.0) | tf.math.is_nan(highest)
    with tf.control_dependencies([tf.debugging.Assert(good, [words, highest])]):
        return tf.identity(images)


def denormalize(image: tf.Tensor) -> tf.Tensor:
    """A normalised image back to uint8 pixels."""
    pixels = (tf.cast(image, tf.float32) * IMAGENET_STD + IMAGENET_MEAN) * 255.0
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0.0, 255.0), tf.uint8)


def pad_rows(values: tf.Tensor, rows: int, fill: float) -> tf.Tensor:
    """The first `rows` rows of `values`, padded with `fill` to exactly `rows`."""
    values = values[:rows]
    missing = rows - tf.shape(values)[0]
    paddings = [[0, missing]] + [[0, 0]] * (values.shape.rank - 1)
    padded = tf.pad(values, paddings, constant_values=tf.cast(fill, values.dtype))
    return tf.ensure_shape(padded, [rows, *values.shape[1:]])
