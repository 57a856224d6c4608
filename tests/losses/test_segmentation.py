"""Pixel cross-entropy: by hand, and nothing through ignored pixels."""

import numpy as np
import pytest
import tensorflow as tf

from losses.segmentation import labels_at, pixel_cross_entropy, resize_logits, valid_pixels


def test_by_hand():
    """Logits (ln 3, 0): p = (3/4, 1/4). Loss -ln(3/4) for class 0, -ln(1/4) for class 1, nothing for 255."""
    logits = tf.constant(np.broadcast_to(np.log([3.0, 1.0]), (1, 1, 3, 2)), tf.float32)
    labels = tf.constant([[[0, 1, 255]]])
    assert pixel_cross_entropy(logits, labels).numpy()[0] == pytest.approx(
        -np.log(0.75) - np.log(0.25), rel=1e-6
    )
    assert valid_pixels(labels).numpy().tolist() == [2.0]


def test_label_smoothing_by_hand():
    """s = 0.1, two classes: targets 0.95 and 0.05."""
    logits = tf.constant([[[[np.log(3.0), 0.0]]]], tf.float32)
    expected = -0.95 * np.log(0.75) - 0.05 * np.log(0.25)
    assert pixel_cross_entropy(logits, tf.constant([[[0]]]), label_smoothing=0.1).numpy()[0] == pytest.approx(
        expected, rel=1e-6
    )


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
    """Legacy: top left of every 2 x 2 cell. Half-pixel centres: its middle. Bilinear mixes: (0 + 4 + 0 + 4) /
    4 = 2.
    """
    labels = tf.constant([[[0, 4, 1, 1], [0, 4, 1, 1], [2, 2, 255, 3], [2, 2, 3, 3]]], tf.uint8)
    assert labels_at(labels, (2, 2), legacy_resize=True).numpy().tolist() == [[[0, 1], [2, 255]]]
    assert labels_at(labels, (2, 2)).numpy().tolist() == [[[4, 1], [2, 3]]]
    assert labels_at(labels, (2, 2), method="bilinear").numpy()[0, 0].tolist() == [2, 1]


@pytest.mark.parametrize("legacy", [True, False])
def test_masks_are_not_shifted_by_the_stride(legacy):
    """A square's labels at stride 4, taken as perfect logits and enlarged again, keep their centre.

    With half-pixel centres half a pixel of shift remains, with the legacy kernel, which has no
    samples beyond the last, a whole one and a half towards the end; mixing them up gave both at once.
    """
    y, x = np.mgrid[0:64, 0:64]
    square = ((abs(y - 31.5) < 12) & (abs(x - 31.5) < 12)).astype(np.uint8)
    small = labels_at(tf.constant(square[None]), (16, 16), legacy_resize=legacy)
    logits = tf.one_hot(small, 2, on_value=5.0, off_value=-5.0)
    found = tf.argmax(resize_logits(logits, [64, 64], legacy_resize=legacy), axis=-1).numpy()[0]
    rows = np.flatnonzero(found.any(axis=1))
    assert abs((rows[0] + rows[-1]) / 2 - 31.5) <= (1.5 if legacy else 0.5)
