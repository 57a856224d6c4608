"""The normalised loss of Appendix B, by hand and by its laws."""

import numpy as np
import pytest
import tensorflow as tf

from losses.joint import LossAverages, normalized_joint_loss, standard_joint_loss


def test_three_steps_by_hand():
    """Decay 0.9: human 2, 1, 4 -> 0.2, 0.28, 0.652; pseudo 1, 3, 1 -> 0.1, 0.39, 0.451."""
    averages, alpha, found = LossAverages(0.9), 0.5, []
    for human, pseudo in ((2.0, 1.0), (1.0, 3.0), (4.0, 1.0)):
        ratio = averages.update(tf.constant(human), tf.constant(pseudo))
        found.append(normalized_joint_loss(human, pseudo, alpha, ratio).numpy())
    np.testing.assert_allclose(averages.human, 0.652, rtol=1e-6)
    np.testing.assert_allclose(averages.pseudo, 0.451, rtol=1e-6)
    expected = [
        (2 + 0.5 * (0.2 / 0.1) * 1) / 1.5,
        (1 + 0.5 * (0.28 / 0.39) * 3) / 1.5,
        (4 + 0.5 * (0.652 / 0.451) * 1) / 1.5,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_default_decay_is_the_papers():
    assert LossAverages().decay == 0.9997


def test_rescaling_the_pseudo_loss_changes_nothing():
    generator = np.random.default_rng(1)
    pairs = generator.uniform(0.5, 3.0, (20, 2)).astype(np.float32)
    for scale in np.float32([1e-3, 7.0, 1e3]):
        plain, scaled = LossAverages(0.97), LossAverages(0.97)
        for human, pseudo in pairs:
            a = normalized_joint_loss(human, pseudo, 2.0, plain.update(human, pseudo))
            b = normalized_joint_loss(human, scale * pseudo, 2.0, scaled.update(human, scale * pseudo))
            np.testing.assert_allclose(a, b, rtol=1e-4)


def test_size_does_not_grow_with_alpha():
    """With equal losses the normalised loss is L_h for every alpha; the standard one is (1 + alpha) L_h."""
    for alpha in (0.25, 1.0, 5.0):
        ratio = LossAverages(0.5).update(tf.constant(3.0), tf.constant(3.0))
        assert normalized_joint_loss(3.0, 3.0, alpha, ratio).numpy() == pytest.approx(3.0)
        assert standard_joint_loss(3.0, 3.0, alpha) == pytest.approx(3.0 * (1 + alpha))


def test_alpha_zero_is_the_human_loss():
    assert normalized_joint_loss(
        tf.constant(1.7), tf.constant(9.0), 0.0, tf.constant(3.0)
    ).numpy() == np.float32(1.7)
    assert standard_joint_loss(1.7, 9.0, 0.0) == 1.7


def test_the_ratio_has_no_gradient():
    averages, x, y = LossAverages(0.9), tf.Variable(2.0), tf.Variable(5.0)
    with tf.GradientTape() as tape:
        loss = normalized_joint_loss(x, y, 3.0, averages.update(x, y))
    gradients = tape.gradient(loss, [x, y])
    np.testing.assert_allclose(gradients, [1 / 4, 3 * (2 / 5) / 4], rtol=1e-6)


def test_no_gradient_flows_through_a_ratio_that_has_one():
    """Whoever makes the ratio: d/dx of (x + 3 r x) / 4 with r = x at x = 2 is (1 + 6) / 4, not (1 + 12) /
    4.
    """
    x = tf.Variable(2.0)
    with tf.GradientTape() as tape:
        loss = normalized_joint_loss(x, x, 3.0, x * 1.0)
    assert float(tape.gradient(loss, x)) == pytest.approx(7 / 4)


def test_zero_and_non_finite_losses():
    averages = LossAverages(0.9)
    assert averages.update(tf.constant(1.0), tf.constant(0.0)).numpy() == 1.0  # no pseudo loss yet
    before = averages.human.numpy(), averages.pseudo.numpy()
    averages.update(tf.constant(float("nan")), tf.constant(1.0))
    averages.update(tf.constant(1.0), tf.constant(float("inf")))
    assert (averages.human.numpy(), averages.pseudo.numpy()) == before


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match="ema_decay"):
        LossAverages(decay)
