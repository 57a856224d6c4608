"""Schedules and optimizers by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from official.training.optimizer import Adam, Momentum, WarmupSchedule, clip_by_global_norm


def test_warmup_then_cosine():
    """The paper's: 0.0032 -> 0.32 over 1,000 steps, then cosine to 0."""
    rate = WarmupSchedule(0.32, 45_000, warmup_steps=1000, warmup_learning_rate=0.0032)
    assert float(rate(0)) == pytest.approx(0.0032)
    assert float(rate(500)) == pytest.approx(0.0032 + 0.5 * (0.32 - 0.0032))
    assert float(rate(1000)) == pytest.approx(0.32)
    assert float(rate(12_000)) == pytest.approx(0.16 * (1 + math.cos(math.pi * 11 / 44)), rel=1e-5)
    assert float(rate(45_000)) == pytest.approx(0.0, abs=1e-7)


def test_steps():
    """SpineNet-143: x 0.1 at 217,610 and 226,870."""
    rate = WarmupSchedule(0.28, 231_500, schedule="step", warmup_steps=2000, boundaries=(217_610, 226_870), rates=(0.028, 0.0028))
    found = [float(rate(step)) for step in (0, 2000, 217_609, 217_610, 226_870)]
    np.testing.assert_allclose(found, [0.0, 0.28, 0.28, 0.028, 0.0028], rtol=1e-6)


def test_bad_schedules():
    with pytest.raises(ValueError, match="warmup_steps"):
        WarmupSchedule(0.1, 10, warmup_steps=11)
    with pytest.raises(ValueError, match="decay"):
        WarmupSchedule(0.1, 10, boundaries=(1,), rates=())


def run(optimizer, gradients, start=1.0):
    weight = tf.Variable([start])
    optimizer.build([weight])
    values = []
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant([gradient]), weight)])
        values.append(float(weight[0]))
    return values


def test_momentum_by_hand_while_the_rate_changes():
    """v: 1, 2.9, 1.61; rates 0.1, 0.05, 0.0 -> w: 0.9, 0.755, 0.755. Keras' SGD keeps the rate in v."""
    rate = WarmupSchedule(0.1, 3, schedule="step", boundaries=(1, 2), rates=(0.05, 0.0))
    np.testing.assert_allclose(run(Momentum(rate, 0.9), [1.0, 2.0, -1.0]), [0.9, 0.755, 0.755], rtol=1e-6)


def test_adam_agrees_with_keras():
    gradients = np.random.default_rng(0).normal(size=6).astype(np.float32)
    ours = run(Adam(WarmupSchedule(0.01, 10, schedule="constant")), gradients)
    keras = run(tf.keras.optimizers.Adam(0.01), gradients)
    np.testing.assert_allclose(ours, keras, rtol=1e-5)


@pytest.mark.parametrize("build", [lambda r: Momentum(r), lambda r: Adam(r)])
def test_a_nan_gradient_leaves_everything_as_it_was(build):
    constant = WarmupSchedule(0.1, 10, schedule="constant")
    if build(constant).__class__ is Momentum:
        assert run(build(constant), [1.0, float("nan"), 2.0])[2] == pytest.approx(run(build(constant), [1.0, 2.0])[1])
    values = run(build(constant), [1.0, float("nan")])
    assert values[0] == values[1]


def test_clipping_by_hand():
    """Norm of (3, 4) is 5; clipped to 1 it is (0.6, 0.8); below the limit nothing changes."""
    gradients = [tf.constant([3.0]), tf.constant([4.0])]
    clipped, norm = clip_by_global_norm(gradients, 1.0)
    assert float(norm) == pytest.approx(5.0)
    np.testing.assert_allclose([float(g[0]) for g in clipped], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(clip_by_global_norm(gradients, 6.0)[0][0], [3.0])
    np.testing.assert_allclose(clip_by_global_norm(gradients, 0.0)[0][0], [3.0])
