"""Focal loss against its closed form in float64."""

import numpy as np
import pytest
import tensorflow as tf

from losses.focal import focal_loss


def closed_form(logit, target, alpha, gamma):
    p = 1.0 / (1.0 + np.exp(-np.float64(logit)))
    return -alpha * (1 - p) ** gamma * np.log(p) if target else -(1 - alpha) * p**gamma * np.log1p(-p)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("logit", [-8.0, -2.0, -0.5, 0.0, 0.5, 2.0, 8.0])
def test_one_logit_matches_the_closed_form(logit, gamma):
    for target in (0, 1):
        classes = tf.constant([[0 if target else -1]])
        found = focal_loss(tf.constant([[[logit]]]), classes, alpha=0.25, gamma=gamma)
        assert found.numpy()[0] == pytest.approx(closed_form(logit, target, 0.25, gamma), rel=2e-5)


def test_gamma_zero_alpha_half_is_half_the_cross_entropy():
    logits = tf.constant([[[0.3, -1.2, 2.0]]])
    found = focal_loss(logits, tf.constant([[2]]), alpha=0.5, gamma=0.0).numpy()[0]
    entropy = np.log1p(np.exp(0.3)) + np.log1p(np.exp(-1.2)) + np.log1p(np.exp(-2.0))
    assert found == pytest.approx(0.5 * entropy, rel=1e-6)


def test_ignored_anchors_add_nothing_and_background_adds_something():
    logits = tf.constant([[[1.0, 2.0], [3.0, -1.0]]])
    both_ignored = focal_loss(logits, tf.constant([[-2, -2]])).numpy()[0]
    one_background = focal_loss(logits, tf.constant([[-1, -2]])).numpy()[0]
    assert both_ignored == 0.0
    expected = closed_form(1.0, 0, 0.25, 1.5) + closed_form(2.0, 0, 0.25, 1.5)
    assert one_background == pytest.approx(expected, rel=1e-5)


def test_gradient_survives_large_logits():
    """keras-cv's probability form clips at 1e-7 and is flat beyond |x| of about 16."""
    logits = tf.Variable([[[40.0]]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(focal_loss(logits, tf.constant([[-1]])))
    assert tape.gradient(loss, logits).numpy()[0, 0, 0] == pytest.approx(0.75, rel=1e-5)


def test_gradient_matches_finite_differences():
    logits = tf.constant(np.linspace(-3, 3, 12, dtype=np.float32).reshape(1, 4, 3))
    classes = tf.constant([[0, -1, 2, -2]])
    found, numeric = tf.test.compute_gradient(lambda x: tf.reduce_sum(focal_loss(x, classes)), [logits])
    np.testing.assert_allclose(found[0], numeric[0], atol=5e-3)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("deviation", [1.0, 8.0])
def test_losses_and_gradients_of_many_anchors_match_the_closed_form(deviation, gamma):
    """Losses to 1e-6; gradients to 1e-5 of the largest: float32 holds z - softplus(z) of z = 20 to 2e-6."""
    draws = np.random.default_rng(0)
    logits = tf.constant(draws.normal(-1.0, deviation, (2, 300, 7)), tf.float32)
    classes = draws.integers(-2, 7, (2, 300)).astype(np.int32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = focal_loss(logits, tf.constant(classes), alpha=0.3, gamma=gamma)
        total = tf.reduce_sum(losses * [1.0, -2.0])
    sign = np.where(classes[..., None] == np.arange(7), -1.0, 1.0)
    z = logits.numpy().astype(np.float64) * sign
    weight = np.where(sign < 0, 0.3, 0.7) * (classes != -2)[..., None]
    entropy = np.logaddexp(0.0, z)
    chance = np.exp(z - entropy)
    np.testing.assert_allclose(losses, (weight * chance**gamma * entropy).sum((1, 2)), rtol=1e-6)
    slope = chance**gamma * (gamma * entropy * np.exp(-entropy) + chance)
    expected = weight * slope * sign * np.array([1.0, -2.0])[:, None, None]
    np.testing.assert_allclose(tape.gradient(total, logits), expected, atol=1e-5 * np.abs(expected).max())
