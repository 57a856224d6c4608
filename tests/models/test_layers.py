"""Batch norm, upsampling and stochastic depth."""

import numpy as np
import pytest
import tensorflow as tf

from official.hashing import hashed
from official.models.layers import (
    DepthwiseConv2D,
    StochasticDepth,
    Swish,
    SyncBatchNormalization,
    UpsampleBilinear,
    UpsampleNearest,
    _uniform,
    hashed_uniform,
    legacy_upsample,
    statistics_together,
    step_randomness,
)  # fmt: skip

keras = tf.keras


def normal(*shape):
    return np.random.default_rng(0).normal(3.0, 2.0, shape).astype(np.float32)


def test_batch_norm_output_and_moving_statistics_by_hand():
    """The moving variance is the plain one (stock Keras adds Bessel's correction on one device)."""
    x = normal(4, 2, 2, 3)
    layer = SyncBatchNormalization(momentum=0.9, epsilon=1e-3)
    y = layer(x, training=True).numpy()
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-3), atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * variance, rtol=1e-5)
    expected = (x - layer.moving_mean) / np.sqrt(layer.moving_variance + 1e-3)
    np.testing.assert_allclose(layer(x, training=False), expected, atol=1e-5)


def test_two_replicas_are_one_batch():
    x = normal(8, 2, 2, 3)
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        layer = SyncBatchNormalization(momentum=0.9)
        layer.build(x.shape)

    @tf.function
    def run(parts):
        return strategy.run(lambda part: layer(part, training=True), args=(parts,))

    parts = strategy.experimental_distribute_values_from_function(
        lambda ctx: tf.constant(x[4 * ctx.replica_id_in_sync_group :][:4])
    )
    found = np.concatenate([v.numpy() for v in run(parts).values])
    alone = SyncBatchNormalization(momentum=0.9)
    np.testing.assert_allclose(found, alone(x, training=True), atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance.numpy(), alone.moving_variance, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_mean.numpy(), alone.moving_mean, rtol=1e-5)


def test_non_finite_statistics_are_not_remembered():
    layer = SyncBatchNormalization(momentum=0.9)
    x = normal(2, 2, 2, 2)
    layer(x, training=True)
    before = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    layer(x * np.array([np.nan, np.nan], np.float32), training=True)
    np.testing.assert_array_equal(layer.moving_mean, before[0])
    np.testing.assert_array_equal(layer.moving_variance, before[1])


def test_statistics_moved_together_are_the_same_bits():
    """Layers of other momenta, one of them twice, one with a NaN; outside of the context they move at
    once.
    """
    layers, others = ([SyncBatchNormalization(momentum=m) for m in (0.9, 0.99, 0.5)] for _ in range(2))
    first, second = normal(2, 2, 2, 3), normal(2, 2, 2, 5) * np.array([1, np.nan, 1, 1, 1], np.float32)
    with statistics_together():
        for layer, x in zip((*layers, layers[0]), (first, second, first * 2.0, first + 1.0)):
            layer(x, training=True)
        assert (layers[0].moving_mean.numpy() == 0.0).all()
    for layer, x in zip((*others, others[0]), (first, second, first * 2.0, first + 1.0)):
        layer(x, training=True)
    for layer, other in zip(layers, others):
        np.testing.assert_array_equal(layer.moving_mean, other.moving_mean)
        np.testing.assert_array_equal(layer.moving_variance, other.moving_variance)
        assert np.isfinite(layer.moving_mean).all() and (layer.moving_mean.numpy() != 0.0).any()


def test_upsampling_equals_stock_and_compiles_with_its_gradient():
    x = tf.constant(normal(2, 3, 4, 5))
    np.testing.assert_array_equal(UpsampleNearest()(x), keras.layers.UpSampling2D(2)(x))
    layer = UpsampleNearest()

    @tf.function(jit_compile=True)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(loss, x)

    np.testing.assert_allclose(gradient(x), 8 * x, rtol=1e-6)


def values_and_gradients(layer, x, *weights, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) * upstream)
    return [tf.cast(value, tf.float32).numpy() for value in (y, *tape.gradient(loss, [x, *weights]))]


def test_swish_and_its_gradient_are_tensorflows():
    """Over all that float32 tells apart of a sigmoid; in bfloat16 to a step of it (2^-8)."""
    x, upstream = tf.linspace(-30.0, 30.0, 4001), normal(4001)
    expected = values_and_gradients(tf.nn.silu, x, upstream=upstream)
    for found, wanted in zip(values_and_gradients(Swish(), x, upstream=upstream), expected):
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-6)
    narrow = values_and_gradients(Swish(dtype="bfloat16"), tf.cast(x, tf.bfloat16), upstream=upstream)
    rounded = values_and_gradients(
        tf.nn.silu, tf.cast(tf.cast(x, tf.bfloat16), tf.float32), upstream=upstream
    )
    for found, wanted in zip(narrow, rounded):
        np.testing.assert_allclose(found, wanted, rtol=2**-6, atol=2**-7)


@pytest.mark.parametrize("strides,kernel,side", [(1, 3, 8), (2, 5, 9)])
def test_depthwise_gradients_of_bfloat16_are_those_of_float32(strides, kernel, side):
    """Float32 is stock to the bit; bfloat16 is float32 but for the rounding of its terms and sums, which
    processors do at different places: at worst after each of the k x k terms, by 2^-9 of the sum of their
      sizes."""
    own, narrow = (
        DepthwiseConv2D(kernel, strides=strides, padding="same", use_bias=False, dtype=kind)
        for kind in ("float32", "mixed_bfloat16")
    )
    stock = tf.keras.layers.DepthwiseConv2D(kernel, strides=strides, padding="same", use_bias=False)
    x = tf.cast(tf.cast(normal(2, side, side, 3), tf.bfloat16), tf.float32)
    weights = tf.cast(tf.cast(normal(kernel, kernel, 3, 1), tf.bfloat16), tf.float32)
    for layer in (own, narrow, stock):
        layer.build(x.shape)
        layer.set_weights([weights])
    upstream = tf.cast(tf.cast(normal(*stock(x).shape), tf.bfloat16), tf.float32)
    expected = values_and_gradients(stock, x, stock.depthwise_kernel, upstream=upstream)
    for found, wanted in zip(values_and_gradients(own, x, own.depthwise_kernel, upstream=upstream), expected):
        np.testing.assert_array_equal(found, wanted)
    narrow_x = tf.cast(x, tf.bfloat16)
    found = values_and_gradients(narrow, narrow_x, narrow.depthwise_kernel, upstream=upstream)
    stock.set_weights([abs(weights)])
    sizes = values_and_gradients(stock, abs(x), stock.depthwise_kernel, upstream=abs(upstream))
    for values, wanted, size in zip(found, expected, sizes):
        assert (abs(tf.cast(values, tf.float32) - wanted) <= kernel**2 * 2**-9 * size).numpy().all()


def test_bilinear_upsampling_by_hand():
    """Half-pixel centres as stock Keras; TF1's kernel starts on the pixel itself: 0, 1, 2, 3, 4, 4, 4, 4
    between 0 and 4.
    """
    x = tf.constant(normal(2, 3, 4, 5))
    np.testing.assert_allclose(
        UpsampleBilinear(4)(x), keras.layers.UpSampling2D(4, interpolation="bilinear")(x), atol=1e-6
    )
    ramp = tf.reshape(tf.constant([0.0, 4.0]), [1, 1, 2, 1])
    inputs = keras.Input((None, None, 1))
    found = keras.Model(inputs, legacy_upsample(inputs, 4, "up"))(ramp)
    np.testing.assert_allclose(tf.reshape(found, [4, 8])[0], [0, 1, 2, 3, 4, 4, 4, 4])
    inputs = keras.Input((None, None, 5))
    for factor in (2, 8, 32):
        found = keras.Model(inputs, legacy_upsample(inputs, factor, "up"))(x)
        expected = tf.compat.v1.image.resize_bilinear(x, [3 * factor, 4 * factor])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_stochastic_depth_drops_per_example_and_keeps_the_mean():
    layer = StochasticDepth(0.7)
    x = tf.ones([4000, 1, 1, 2])
    y = layer(x, training=True).numpy()
    assert (y[:, 0, 0, 0] == y[:, 0, 0, 1]).all()  # one draw per example
    assert set(np.round(np.unique(y), 4)) == {0.0, np.round(np.float32(1 / 0.7), 4)}
    assert y.mean() == pytest.approx(1.0, abs=4 * np.sqrt(0.3 / 0.7 / 4000))
    np.testing.assert_array_equal(layer(x, training=False), x)


def test_stochastic_depth_is_a_function_of_seed_and_slot():
    layer, x = StochasticDepth(0.5, index=3), tf.ones([8, 1, 1, 1])
    with step_randomness((1, 7), tf.range(8), 8):
        whole = layer(x, training=True).numpy()
    with step_randomness((1, 7), tf.constant([4, 5, 6, 7]), 8):
        half = layer(x[:4], training=True).numpy()
    with step_randomness((1, 8), tf.range(8), 8):
        next_step = layer(x, training=True).numpy()
    np.testing.assert_array_equal(whole[4:], half)
    assert (whole != next_step).any()


def stream(*words, shape=(4096,)):
    return hashed_uniform((hashed(0, *words), hashed(1, *words)), list(shape))


def test_draws_are_the_same_under_xla():
    """TensorFlow's Philox is not: that is why the layers have draws of their own."""
    for shape in ([5], [17, 3]):
        plain = tf.function(lambda step: stream(3, step, shape=shape))  # noqa: B023
        compiled = tf.function(lambda step: stream(3, step, shape=shape), jit_compile=True)  # noqa: B023
        np.testing.assert_array_equal(plain(tf.constant(-7)), compiled(tf.constant(-7)))


def test_draws_are_uniform_and_independent():
    """Mean, deviation, chi-square over 64 bins (p = 0.001: 103), and no correlation between seeds or
    neighbours.
    """
    rows = np.stack([stream(0, step).numpy() for step in range(16)])
    assert 0 <= rows.min() and rows.max() < 1
    assert abs(rows.mean() - 0.5) < 0.004 and abs(rows.std() - 12**-0.5) < 0.003
    counts = np.histogram(rows, bins=64, range=(0, 1))[0]
    assert ((counts - 1024) ** 2 / 1024).sum() < 103
    correlations = np.corrcoef(rows)[np.triu_indices(16, 1)]
    assert np.abs(correlations).max() < 0.07
    assert np.abs(np.corrcoef(rows[0, :-1], rows[0, 1:])[0, 1]) < 0.06
    shifted = stream(1, 0).numpy()
    assert np.abs(np.corrcoef(rows[0], shifted)[0, 1]) < 0.06


SLOTS, INDICES = 128, (0, 1, 2, 3, 10_000, 100_003)


def layer_streams(seed, step, joint):
    """The draws [layers * views, SLOTS] that a step's layers see; the last index has two views."""
    with step_randomness((seed, step, joint), tf.range(SLOTS), SLOTS):
        return tf.concat(
            [tf.reshape(_uniform(2 * SLOTS, [], index), [2, SLOTS]) for index in INDICES], axis=0
        )


@pytest.fixture(scope="module")
def all_streams():
    """[streams, SLOTS] of 4 seeds, 4 steps, the main and the joint pass, 6 layers and 2 views."""
    run = tf.function(layer_streams)
    names = [
        (tf.constant(seed), tf.constant(step), tf.constant(joint))
        for seed in range(4)
        for step in range(4)
        for joint in (0, 1)
    ]
    return np.concatenate([run(*name).numpy() for name in names])


def test_no_two_layers_steps_seeds_or_views_draw_the_same(all_streams):
    """384 streams: no two equal, none another one shifted, no correlation (|r| of the 73,536 pairs below 5.5
    deviations).

    Where seed, layer and view are added, layer 3 of seed 0 is layer 2 of seed 1.
    """
    assert len(all_streams) == 4 * 4 * 2 * len(INDICES) * 2
    values = np.round(all_streams * 2**24).astype(np.int64)
    shared = values.size - len(np.unique(values))
    assert shared < 140  # 49,152 draws of 2^24: 72 by chance, 128 more for every pair of streams that is one
    pairs = np.corrcoef(all_streams)[np.triu_indices(len(all_streams), 1)]
    assert np.abs(pairs).max() < 5.5 / SLOTS**0.5
    assert abs(pairs.std() * SLOTS**0.5 - 1) < 0.05  # as broad as chance makes it


def test_layers_draw_the_same_under_xla(all_streams):
    found = tf.function(layer_streams, jit_compile=True)(tf.constant(0), tf.constant(0), tf.constant(0))
    np.testing.assert_array_equal(found, all_streams[: 2 * len(INDICES)])


def test_stochastic_depth_is_the_same_under_xla():
    layer, ones = StochasticDepth(0.5, index=3), tf.ones([16, 1, 1, 1])

    def dropped():
        with step_randomness((1, 2), tf.range(16), 16):
            return layer(ones, training=True)

    plain = tf.function(dropped)().numpy()
    np.testing.assert_array_equal(plain, tf.function(dropped, jit_compile=True)())
    assert set(plain.ravel()) == {0.0, 2.0}
