"""Focal loss for dense classification, in the numerically stable logits form."""

from __future__ import annotations

import tensorflow as tf

BACKGROUND = -1
IGNORED = -2


def focal_loss(
    logits: tf.Tensor, class_targets: tf.Tensor, *, alpha: float = 0.25, gamma: float = 1.5
) -> tf.Tensor:
    """Focal loss of every image, summed over its anchors and classes, not normalised.

    A negative with logit z costs (1 - alpha) f(z) and a positive with logit -z costs alpha f(z), where
    f(z) = sigmoid(z)^gamma softplus(z). The modulator is computed from logits, exp(gamma (z - softplus(z))),
    so its gradient does not vanish for large |z| as keras-cv's probability form does. Every anchor has at
    most one positive, so weights are put on sums over classes, and the gradient is written out: together a
    third of the passes over memory that the formula takes as it is usually written.

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
    positive = class_targets >= 0
    own_class = tf.where(positive, class_targets, 0)[..., None]
    counted = tf.cast(class_targets != IGNORED, tf.float32)  # [batch, anchors]

    @tf.custom_gradient
    def summed(x):
        z = x * _by_class(class_targets, x, positive=-1.0, negative=1.0)
        cross_entropy = tf.math.softplus(z)
        modulator = tf.exp(gamma * (z - cross_entropy))
        loss = modulator * cross_entropy
        own = tf.gather(loss, own_class, batch_dims=2)[..., 0]
        by_anchor = (1.0 - alpha) * tf.reduce_sum(loss, axis=-1) + tf.where(
            positive, (2.0 * alpha - 1.0) * own, 0.0
        )

        def gradient(upstream):
            chance, focused = tf.sigmoid(z), gamma * loss
            # f'(z) = f(z) gamma (1 - sigmoid(z)) + modulator sigmoid(z).
            slope = chance * (modulator - focused) + focused
            weight = _by_class(class_targets, x, positive=-alpha, negative=1.0 - alpha)
            return slope * (weight * (upstream[:, None] * counted)[..., None])

        return tf.reduce_sum(counted * by_anchor, axis=1), gradient

    return summed(tf.cast(logits, tf.float32))


def _by_class(class_targets: tf.Tensor, like: tf.Tensor, *, positive: float, negative: float) -> tf.Tensor:
    """Float32 [batch, anchors, classes]: one number at the positives, another at all else."""
    return tf.one_hot(class_targets, like.shape[-1], on_value=positive, off_value=negative)
