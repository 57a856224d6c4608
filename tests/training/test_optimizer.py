"""Schedules and optimizers by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from official.tasks.registry import build_task
from official.training.optimizer import (
    LARS,
    Adam,
    Momentum,
    RMSprop,
    WarmupSchedule,
    adapted,
    clip_by_global_norm,
)
from official.training.trainer import Phase, Trainer
from official.training.weight_average import WeightAverage
from tests import tiny


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
    rate = WarmupSchedule(
        0.28,
        231_500,
        schedule="step",
        warmup_steps=2000,
        boundaries=(217_610, 226_870),
        rates=(0.028, 0.0028),
    )
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


@pytest.mark.parametrize("build", [Momentum, Adam, RMSprop, LARS])
def test_a_step_that_is_not_good_leaves_everything_as_it_was(build):
    """Weight and state, to the bit; the step is counted, and the next one is that of a run without the bad
    gradient.
    """
    weight, other = tf.Variable([1.0, 2.0]), tf.Variable([1.0, 2.0])
    optimizer, without = (build(WarmupSchedule(0.1, 10, schedule="constant")) for _ in range(2))
    for made, variable in ((optimizer, weight), (without, other)):
        made.build([variable])
        made.step([tf.constant([1.0, -3.0])], [variable], tf.constant(True))
    before = [v.numpy() for v in (weight, *optimizer.variables[1:])]
    optimizer.step([tf.constant([math.nan, 1.0])], [weight], tf.constant(False))
    for old, new in zip(before, (weight, *optimizer.variables[1:])):
        np.testing.assert_array_equal(old, new.numpy())
    assert int(optimizer.iterations) == 2
    without.iterations.assign_add(1)  # Adam's correction counts steps
    for made, variable in ((optimizer, weight), (without, other)):
        made.step([tf.constant([2.0, 0.5])], [variable], tf.constant(True))
    np.testing.assert_array_equal(weight, other)
    assert (weight.numpy() != before[0]).all()


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
        weight, fed = (
            tf.compat.v1.get_variable("w", initializer=[start]),
            tf.compat.v1.placeholder(tf.float32, [1]),
        )
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
    """Weight (3, 4), gradient (0, 2): trust 0.001 * 5 / 2; v = 0.1 * trust * g, then 0.9 v + the same with
    the new norm.
    """
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
    assert not any(
        map(adapted, ("stem_bn/gamma:0", "stem_bn/beta:0", "predictions/bias:0", "head_supervised/kernel:0"))
    )


def test_lars_moves_weights_of_zero():
    kernel = tf.Variable([0.0], name="x/kernel")
    optimizer = LARS(WarmupSchedule(0.1, 10, schedule="constant"))
    optimizer.build([kernel])
    optimizer.apply_gradients([(tf.constant([1.0]), kernel)])
    np.testing.assert_allclose(kernel, [-0.1])


def test_exponential_schedule_is_a_staircase():
    rate = WarmupSchedule(
        0.256, 1000, schedule="exponential", decay_every=24, warmup_steps=10, decay_factor=0.97
    )
    found = [float(rate(step)) for step in (0, 5, 23, 24, 47, 48)]
    np.testing.assert_allclose(
        found, [0, 0.128, 0.256, 0.256 * 0.97, 0.256 * 0.97, 0.256 * 0.97**2], rtol=1e-5
    )
    with pytest.raises(ValueError, match="decay_every"):
        WarmupSchedule(0.1, 10, schedule="exponential")


def test_exponential_schedule_is_tf1s():
    """EfficientNet's decay_steps are 2.4 epochs, 750.684 steps of 4,096 images: after 350 epochs 145 decays,
    at the original's steps.
    """
    every = 2.4 * 1_281_167 / 4096
    rate = WarmupSchedule(0.256, 109_474, schedule="exponential", decay_every=every, warmup_steps=1563)
    steps = [1563, *(int(every * k) + d for k in (3, 20, 145) for d in (0, 1)), 109_473]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        step = tf.compat.v1.placeholder(tf.int64, [])
        theirs = tf.compat.v1.train.exponential_decay(0.256, step, every, 0.97, staircase=True)
        expected = [session.run(theirs, {step: s}) for s in steps]
    np.testing.assert_allclose([float(rate(s)) for s in steps], expected, rtol=1e-5)
    assert expected[5] != expected[6]  # the steps lie on both sides of a decay


def tf1_average(decay, first, weights):
    """Averages [steps, size] of a variable that starts at `first`, by TF1 as EfficientNet's main.py calls it.

    The average is applied after the train op, which raises the global step that its decay follows.
    """
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        fed = tf.compat.v1.placeholder(tf.float32, first.shape)
        variable = tf.compat.v1.get_variable("w", initializer=first)
        step = tf.compat.v1.train.get_or_create_global_step()
        train = tf.group(tf.compat.v1.assign(variable, fed), tf.compat.v1.assign_add(step, 1))
        average = tf.compat.v1.train.ExponentialMovingAverage(decay, num_updates=step)
        with tf.control_dependencies([train]):
            update = average.apply([variable])
        session.run(tf.compat.v1.global_variables_initializer())
        found = []
        for value in weights:
            session.run(update, {fed: value})
            found.append(session.run(average.average(variable)))
    return np.array(found)


@pytest.mark.parametrize("decay", [0.25, 0.9])
def test_weight_average_is_tf1s(decay):
    """The decay rises (2/11, 3/12 ... as (1 + t) / (10 + t), t = 1 after the first step) up to the one that
    is asked for.
    """
    model = tf.keras.Sequential([tf.keras.layers.Dense(2, input_shape=(3,))])
    kernel, average = model.variables[0], WeightAverage(model, decay)
    first, weights = kernel.numpy(), np.random.default_rng(0).normal(size=(30, 3, 2)).astype(np.float32)
    found = []
    for number, value in enumerate(weights):
        kernel.assign(value)
        average.update(model, tf.constant(number + 1))
        found.append(average.shadows[0].numpy())
    np.testing.assert_allclose(found, tf1_average(decay, first, weights), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[0], first * 2 / 11 + weights[0] * 9 / 11, rtol=1e-5)
    other = tf.keras.models.clone_model(model)
    average.put_into(other)
    np.testing.assert_array_equal(other.variables[0], found[-1])


def test_the_trainer_averages_after_its_step():
    """The trainer's own averages, fed with random gradients, are TF1's of the same weights; a skipped step
    counts too.
    """
    source = tiny.scenes_source(task="classification", count=4)
    experiment = tiny.experiment(task="classification", weight_average=0.9, on_nan="skip")
    trainer = Trainer(
        build_task(experiment, source.categories),
        experiment,
        Phase("teacher", 8, source),
        tf.distribute.get_strategy(),
    )
    place = next(i for i, v in enumerate(trainer.model.variables) if v.name == "predictions/kernel:0")
    kernel, shadow = trainer.model.variables[place], trainer.weight_average.shadows[place]
    first, weights, found = kernel.numpy(), [], []
    draws = np.random.default_rng(0)
    for number in range(4):
        gradients = [tf.constant(draws.normal(size=v.shape), tf.float32) for v in trainer.variables]
        trainer.keras_model.step.apply(gradients, tf.constant(number != 2))
        weights.append(kernel.numpy())
        found.append(shadow.numpy())
    assert (weights[1] == weights[2]).all() and (weights[0] != weights[1]).any() and trainer.step == 4
    np.testing.assert_allclose(found, tf1_average(0.9, first, weights), rtol=1e-5, atol=1e-7)


def test_weight_average_out_of_range():
    model = tf.keras.Sequential([tf.keras.layers.Dense(2, input_shape=(3,))])
    with pytest.raises(ValueError, match="not in"):
        WeightAverage(model, 1.0)
