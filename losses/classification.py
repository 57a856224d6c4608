"""Softmax cross-entropy of whole images, with hard or soft labels.

Source: tensorflow/tpu models/official/efficientnet/main.py (label smoothing);
google-research/noisystudent main.py:444-449, 517-550 (soft labels are not smoothed).
"""

from __future__ import annotations

import tensorflow as tf


def class_cross_entropy(
    logits: tf.Tensor,
    labels: tf.Tensor,
    *,
    probabilities: tf.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tf.Tensor:
    """Cross-entropy per image.

    Args:
      logits: float [B, C].
      labels: int32 [B], -1 where nothing is known.
      probabilities: float32 [B, C], soft labels that take the place of `labels` where those are known.
      label_smoothing: hard labels become (1 - s) one_hot + s / C.

    Returns:
      float32 [B], 0 where the label is -1.
    """
    logits = tf.cast(logits, tf.float32)
    classes = logits.shape[-1]
    targets = probabilities
    if targets is None:
        hard = tf.one_hot(labels, classes)
        targets = (1.0 - label_smoothing) * hard + label_smoothing / classes
    loss = -tf.reduce_sum(tf.stop_gradient(targets) * tf.nn.log_softmax(logits), axis=-1)
    known = labels >= 0
    return tf.where(known, loss, tf.zeros_like(loss))


def known_labels(labels: tf.Tensor) -> tf.Tensor:
    """Float32 [B]: 1 where an image has a label."""
    return tf.cast(labels >= 0, tf.float32)
