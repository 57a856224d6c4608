"""Focal loss for dense classification, in the numerically stable logits form."""

from __future__ import annotations

import tensorflow as tf

BACKGROUND = -1
IGNORED = -2


def focal_loss(
    logits: tf.Tensor, class_targets: tf.Tensor, *, alpha: float = 0.25, gamma: float = 1.5
) -> tf.Tensor:
    """Focal loss of every image, summed over its anchors and classes, not normalised.

    The modulator is computed from logits, `exp(-gamma * (z * x + softplus(-x)))`, so its gradient
    does not vanish for large |x| as keras-cv's probability form does.

    Args:
      logits: float [batch, anchors, classes].
      class_targets: int32 [batch, anchors]; >= 0 is a class, -1 background (every class is a
        negative), -2 ignored (contributes nothing).
      alpha: weight of the positive class; negatives get `1 - alpha`.
      gamma: focusing exponent; the original stack uses 1.5, the focal-loss paper 2.0.

    Returns:
      float32 [batch].

    Source: tensorflow/tpu models/official/detection/modeling/losses.py:24-90, 403-431.
    """
    logits = tf.cast(logits, tf.float32)
    targets = tf.one_hot(class_targets, logits.shape[-1], dtype=tf.float32)  # all zero for -1, -2
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
    modulator = tf.exp(-gamma * (targets * logits + tf.math.softplus(-logits)))
    weight = targets * alpha + (1.0 - targets) * (1.0 - alpha)
    counted = tf.cast(class_targets != IGNORED, tf.float32)[..., None]
    return tf.reduce_sum(counted * weight * modulator * cross_entropy, axis=[1, 2])
