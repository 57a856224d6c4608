"""Pixel cross-entropy: by hand, and nothing through ignored pixels."""

import numpy as np
import pytest
import tensorflow as tf

from losses.segmentation import labels_at, pixel_cross_entropy, valid_pixels


def test_by_hand():
    """Logits (ln 3, 0): p = (3/4, 1/4). Loss -ln(3/4) for class 0, -ln(1/4) for class 1, nothing for 255."""
    logits = tf.constant(np.broadcast_to(np.log([3.0, 1.0]), (1, 1, 3, 2)), tf.float32)
    labels = tf.constant([[[0, 1, 255]]])
    assert pixel_cross_entropy(logits, labels).numpy()[0] == pytest.approx(-np.log(0.75) - np.log(0.25), rel=1e-6)
    assert valid_pixels(labels).numpy().tolist() == [2.0]


def test_label_smoothing_by_hand():
    """s = 0.1, two classes: targets 0.95 and 0.05."""
    logits = tf.constant([[[[np.log(3.0), 0.0]]]], tf.float32)
    expected = -0.95 * np.log(0.75) - 0.05 * np.log(0.25)
    assert pixel_cross_entropy(logits, tf.constant([[[0]]]), label_smoothing=0.1).numpy()[0] == pytest.approx(expected, rel=1e-6)


def test_gradient_through_ignored_pixels_is_exactly_zero():
    logits = tf.constant(np.random.default_rng(0).normal(size=(2, 4, 4, 3)), tf.float32)
    labels = np.random.default_rng(1).integers(0, 3, (2, 4, 4))
    labels[:, :2] = 255
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = tf.reduce_sum(pixel_cross_entropy(logits, tf.constant(labels)))
    gradient = tape.gradient(loss, logits).numpy()
    assert (gradient[:, :2] == 0).all() and (gradient[:, 2:] != 0).all()


@pytest.mark.parametrize("dtype", [tf.uint8, tf.int32])
def test_everything_ignored_is_zero_and_finite(dtype):
    labels = tf.fill([1, 2, 2], tf.constant(255, dtype))
    assert pixel_cross_entropy(tf.ones([1, 2, 2, 5]) * 1e4, labels).numpy().tolist() == [0.0]


def test_labels_at_the_logits_size():
    """Nearest takes the top left of every cell; bilinear mixes class numbers: (0 + 4) / 2 = 2 between 0 and 4."""
    labels = tf.constant([[[0, 4, 1, 1], [0, 4, 1, 1], [2, 2, 255, 3], [2, 2, 3, 3]]], tf.uint8)
    assert labels_at(labels, (2, 2)).numpy().tolist() == [[[0, 1], [2, 255]]]
    assert labels_at(labels, (2, 2), method="bilinear").numpy()[0, 0].tolist() == [2, 1]
