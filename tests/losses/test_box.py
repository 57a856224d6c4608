"""Huber loss by hand."""

import numpy as np
import tensorflow as tf

from losses.box import huber_loss


def test_hand_computed():
    """Errors 0.05 (0.5 * 0.0025), 0.1 (0.005), 0.3 (0.1 * 0.3 - 0.005 = 0.025) and 0: 0.03125."""
    predictions = tf.constant([[[0.05, 0.1, -0.3, 0.0], [9.0, 9.0, 9.0, 9.0]]])
    found = huber_loss(predictions, tf.zeros([1, 2, 4]), tf.constant([[True, False]]), delta=0.1)
    np.testing.assert_allclose(found, [0.03125], rtol=1e-6)


def test_no_positive_is_zero_and_batches_stay_apart():
    predictions = tf.ones([2, 3, 4])
    positive = tf.constant([[False] * 3, [True, False, False]])
    found = huber_loss(predictions, tf.zeros([2, 3, 4]), positive, delta=0.1)
    np.testing.assert_allclose(found, [0.0, 4 * (0.1 - 0.005)], rtol=1e-6)


def test_a_target_of_exactly_zero_is_trained():
    """The original masks it away; a centred anchor would never learn to stay."""
    found = huber_loss(tf.fill([1, 1, 4], 0.1), tf.zeros([1, 1, 4]), tf.constant([[True]]), delta=0.1)
    np.testing.assert_allclose(found, [4 * 0.005], rtol=1e-5)


def test_agrees_with_keras():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 1, 5, 4)).astype(np.float32)
    found = huber_loss(tf.constant(a), tf.constant(b), tf.ones([1, 5], tf.bool), delta=0.1)
    keras = tf.keras.losses.Huber(0.1, reduction="sum")(b, a) * 4  # Keras takes the mean over 4
    np.testing.assert_allclose(found[0], keras, rtol=1e-5)
