"""Schedules and optimizers by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from official.training.optimizer import LARS, Adam, Momentum, RMSprop, WarmupSchedule, adapted, clip_by_global_norm
from official.training.weight_average import WeightAverage


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


@pytest.mark.parametrize("build", [lambda r: Momentum(r), lambda r: Adam(r), lambda r: RMSprop(r), lambda r: LARS(r)])
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


def tf1(build, gradients, start=1.0):
    """The same run with a TF1 optimizer."""
    with tf.Graph().as_default():
        weight, fed = tf.compat.v1.get_variable("w", initializer=[start]), tf.compat.v1.placeholder(tf.float32, [1])
        step = build().apply_gradients([(fed, weight)])
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            values = []
            for gradient in gradients:
                session.run(step, {fed: [gradient]})
                values.append(float(session.run(weight)[0]))
    return values


GRADIENTS = np.random.default_rng(1).normal(size=7).astype(np.float32)


def test_nesterov_agrees_with_tf1():
    ours = run(Momentum(WarmupSchedule(0.1, 10, schedule="constant"), 0.9, True), GRADIENTS)
    theirs = tf1(lambda: tf.compat.v1.train.MomentumOptimizer(0.1, 0.9, use_nesterov=True), GRADIENTS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_rmsprop_agrees_with_tf1():
    """EfficientNet's: decay 0.9, momentum 0.9, epsilon 0.001, squares starting at one."""
    ours = run(RMSprop(WarmupSchedule(0.05, 10, schedule="constant")), GRADIENTS)
    theirs = tf1(lambda: tf.compat.v1.train.RMSPropOptimizer(0.05, 0.9, 0.9, 0.001), GRADIENTS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_lars_by_hand():
    """Weight (3, 4), gradient (0, 2): trust 0.001 * 5 / 2; v = 0.1 * trust * g, then 0.9 v + the same with the new norm."""
    kernel, bias = tf.Variable([3.0, 4.0], name="dense/kernel"), tf.Variable([3.0, 4.0], name="dense/bias")
    optimizer = LARS(WarmupSchedule(0.1, 10, schedule="constant"), 0.9)
    optimizer.build([kernel, bias])
    gradient = tf.constant([0.0, 2.0])
    optimizer.apply_gradients([(gradient, kernel), (gradient, bias)])
    first = 0.1 * 0.001 * 5 / 2 * 2
    np.testing.assert_allclose(kernel, [3, 4 - first], rtol=1e-7)
    np.testing.assert_allclose(bias, [3, 4 - 0.2], rtol=1e-6)  # trust 1
    optimizer.apply_gradients([(gradient, kernel), (gradient, bias)])
    second = 0.9 * first + 0.1 * 0.001 * np.hypot(3, 4 - first) / 2 * 2
    np.testing.assert_allclose(kernel, [3, 4 - first - second], rtol=1e-6)
    assert adapted("projection_0/kernel:0") and adapted("block1a_dwconv/depthwise_kernel:0")
    assert not any(map(adapted, ("stem_bn/gamma:0", "stem_bn/beta:0", "predictions/bias:0", "head_supervised/kernel:0")))


def test_lars_moves_weights_of_zero():
    kernel = tf.Variable([0.0], name="x/kernel")
    optimizer = LARS(WarmupSchedule(0.1, 10, schedule="constant"))
    optimizer.build([kernel])
    optimizer.apply_gradients([(tf.constant([1.0]), kernel)])
    np.testing.assert_allclose(kernel, [-0.1])


def test_exponential_schedule_is_a_staircase():
    rate = WarmupSchedule(0.256, 1000, schedule="exponential", decay_every=24, warmup_steps=10, decay_factor=0.97)
    found = [float(rate(step)) for step in (0, 5, 23, 24, 47, 48)]
    np.testing.assert_allclose(found, [0, 0.128, 0.256, 0.256 * 0.97, 0.256 * 0.97, 0.256 * 0.97**2], rtol=1e-5)
    with pytest.raises(ValueError, match="decay_every"):
        WarmupSchedule(0.1, 10, schedule="exponential")


def test_weight_average_agrees_with_tf():
    """tf.train.ExponentialMovingAverage with num_updates, which starts with a low decay."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(2, input_shape=(3,))])
    number = tf.Variable(0, dtype=tf.int64)
    average, theirs = WeightAverage(model, 0.9), tf.train.ExponentialMovingAverage(0.9, num_updates=number)
    theirs.apply(model.variables)  # the first call copies the weights
    for v in model.variables:
        theirs.average(v).assign(v)
    for step in range(30):
        for v in model.variables:
            v.assign_add(tf.random.normal(v.shape))
        number.assign(step)
        theirs.apply(model.variables)
        average.update(model, tf.constant(step))
    other = tf.keras.models.clone_model(model)
    average.put_into(other)
    for found, v in zip(other.variables, model.variables):
        np.testing.assert_allclose(found, theirs.average(v), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="not in"):
        WeightAverage(model, 1.0)
