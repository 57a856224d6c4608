"""Pixel-wise cross-entropy with an ignore label."""

from __future__ import annotations

from typing import Sequence

import tensorflow as tf

IGNORE = 255


def pixel_cross_entropy(
    logits: tf.Tensor, labels: tf.Tensor, *, ignore_label: int = IGNORE, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Softmax cross-entropy of every image, summed over its valid pixels, not normalised.

    Ignored pixels have neither a loss nor a gradient. The original divides by the number of valid
    pixels without a floor, so a batch of ignored pixels is NaN there; dividing is the caller's.

    Args:
      logits: float [batch, height, width, classes].
      labels: integer [batch, height, width]; class indices, or `ignore_label`.
      label_smoothing: s gives targets (1 - s) one-hot + s / classes.

    Returns:
      float32 [batch].

    Source: tensorflow/tpu models/official/detection/modeling/losses.py:541-592.
    """
    logits = tf.cast(logits, tf.float32)
    valid = labels != tf.cast(ignore_label, labels.dtype)
    safe = tf.where(valid, tf.cast(labels, tf.int32), 0)
    classes = logits.shape[-1]
    targets = tf.one_hot(
        safe, classes, 1.0 - label_smoothing + label_smoothing / classes, label_smoothing / classes
    )
    loss = tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits)
    return tf.reduce_sum(tf.where(valid, loss, 0.0), axis=[1, 2])


def valid_pixels(labels: tf.Tensor, *, ignore_label: int = IGNORE) -> tf.Tensor:
    """Float32 [batch]: how many pixels of every image have a label."""
    return tf.reduce_sum(tf.cast(labels != tf.cast(ignore_label, labels.dtype), tf.float32), axis=[1, 2])


def labels_at(
    labels: tf.Tensor, size: tuple[int, int], *, method: str = "nearest", legacy_resize: bool = False
) -> tf.Tensor:
    """Class maps at the logits' size.

    A label must be taken from where its logit will be put when logits are enlarged: with half-pixel
    centres that is the middle of the cell, with TF1's legacy kernel its top left pixel. Mixing the
    two shifts every mask by one and a half pixels (stride 4).

    Args:
      labels: uint8 [batch, height, width].
      size: (height, width); they divide the labels' own.
      method: "nearest" takes one pixel of every cell, which is what the original's bilinear legacy
        kernel does at whole ratios; the middle of an even cell lies between pixels, so half a pixel
        of shift remains without `legacy_resize`. "bilinear" interpolates the class numbers with
        half-pixel centres and truncates, the artefact that re-implementations of the original show
        at borders (a class between two others, or next to 255).
      legacy_resize: logits are enlarged as TF1 did.

    Returns:
      int32 [batch, *size].
    """
    step = (labels.shape[1] // size[0], labels.shape[2] // size[1])
    if method == "nearest":
        first = (0, 0) if legacy_resize else (step[0] // 2, step[1] // 2)
        return tf.cast(labels[:, first[0] :: step[0], first[1] :: step[1]], tf.int32)
    resized = tf.image.resize(tf.cast(labels, tf.float32)[..., None], size)[..., 0]
    return tf.cast(resized, tf.int32)


def resize_logits(
    logits: tf.Tensor, size: Sequence[int] | tf.Tensor, *, legacy_resize: bool = False
) -> tf.Tensor:
    """Float [batch, h, w, classes] to [batch, *size, classes], bilinearly; see `labels_at` for the kernel."""
    return tf.raw_ops.ResizeBilinear(images=logits, size=size, half_pixel_centers=not legacy_resize)
