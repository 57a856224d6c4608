"""Box regression loss on encoded boxes."""

from __future__ import annotations

import tensorflow as tf


def huber_loss(
    predictions: tf.Tensor, box_targets: tf.Tensor, positive: tf.Tensor, *, delta: float = 0.1
) -> tf.Tensor:
    """Huber loss of every image, summed over positive anchors and the four coordinates.

    `0.5 e^2` for |e| <= delta, else `delta |e| - 0.5 delta^2` (not divided by delta).
    The original stack masks coordinates whose target is exactly 0; here the mask is the matched
    anchor, so that a perfectly centred anchor is still taught to stay where it is.

    Args:
      predictions: float [batch, anchors, 4], encoded (dy, dx, dh, dw).
      box_targets: float32 [batch, anchors, 4], encoded the same way.
      positive: bool [batch, anchors], the matched anchors.
      delta: where the loss turns linear.

    Returns:
      float32 [batch].

    Source: tensorflow/tpu models/official/detection/modeling/losses.py:469-483.
    """
    error = tf.abs(tf.cast(predictions, tf.float32) - box_targets)
    quadratic = tf.minimum(error, delta)
    loss = 0.5 * quadratic**2 + delta * (error - quadratic)
    return tf.reduce_sum(tf.cast(positive, tf.float32)[..., None] * loss, axis=[1, 2])
