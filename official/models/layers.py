"""Layers that stock Keras does not have right: batch norm, upsampling, stochastic depth."""

from __future__ import annotations

import contextlib
import threading

import tensorflow as tf

keras = tf.keras


@keras.saving.register_keras_serializable("self_training")
class SyncBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation whose statistics are those of the global batch, on any number of replicas.

    Stock Keras uses two formulas: the fused kernel on one device, which puts Bessel's correction
    into the moving variance, and an uncorrected E[x^2] - E[x]^2 across replicas. The same run would
    then give other weights on two replicas than on one. Here the moving variance is the plain batch
    variance everywhere, and across replicas it is mean(var_i) + mean((mean_i - mean)^2), as in the
    original stack (modeling/architecture/nn_ops.py:75-102). Non-finite batch statistics are not
    taken into the moving ones, so that a skipped step leaves the layer as it was.

    Input and output: float [batch, height, width, channels].
    """

    def call(self, inputs, training=None, mask=None):
        if not training or not self.trainable:
            return super().call(inputs, training=False)
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            outputs, mean, variance = self._one_replica(inputs)
        else:
            outputs, mean, variance = self._many_replicas(inputs)
        self._move(self.moving_mean, mean)
        self._move(self.moving_variance, variance)
        return outputs

    def _one_replica(self, inputs):
        outputs, mean, corrected = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        return outputs, mean, corrected * (count - 1.0) / tf.maximum(count, 1.0)

    def _many_replicas(self, inputs):
        x = tf.cast(inputs, tf.float32)
        local_mean, local_variance = tf.nn.moments(x, axes=[0, 1, 2])
        context = tf.distribute.get_replica_context()
        mean = context.all_reduce(tf.distribute.ReduceOp.MEAN, local_mean)
        spread = local_variance + tf.square(local_mean - mean)
        variance = context.all_reduce(tf.distribute.ReduceOp.MEAN, spread)
        outputs = tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, self.epsilon)
        return tf.cast(outputs, inputs.dtype), mean, variance

    def _move(self, moving, value):
        value = tf.stop_gradient(tf.cast(value, moving.dtype))
        step = (moving - value) * (1.0 - self.momentum)
        moving.assign_sub(tf.where(tf.math.is_finite(step), step, tf.zeros_like(step)))


@keras.saving.register_keras_serializable("self_training")
class UpsampleNearest(keras.layers.Layer):
    """Doubles height and width by repetition, [B, H, W, C] -> [B, 2H, 2W, C].

    Stock `UpSampling2D` has a gradient without an XLA kernel (ResizeNearestNeighborGrad).
    """

    def call(self, inputs):
        batch, height, width = _sides(inputs)
        channels = inputs.shape[-1]
        wide = tf.broadcast_to(inputs[:, :, None, :, None, :], [batch, height, 2, width, 2, channels])
        doubled = tf.reshape(wide, [batch, 2 * height, 2 * width, channels])
        return tf.ensure_shape(doubled, [inputs.shape[0], *(s and 2 * s for s in inputs.shape[1:3]), channels])


def _sides(x: tf.Tensor) -> list:
    """Batch, height and width, as numbers where they are known."""
    dynamic = tf.shape(x)
    return [dynamic[i] if x.shape[i] is None else x.shape[i] for i in range(3)]


@keras.saving.register_keras_serializable("self_training")
class UpsampleBilinear(keras.layers.Layer):
    """Enlarges height and width by a whole factor, bilinearly with half-pixel centres; float in, float32 inside.

    Stock `UpSampling2D` resizes in the compute dtype, and its gradient (ResizeBilinearGrad) has no
    kernel for reduced precision on every device.
    """

    def __init__(self, factor: int, **kwargs):
        """Args: factor: of both sides; 1 does nothing."""
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        if self.factor == 1:
            return inputs
        _, height, width = _sides(inputs)
        size = tf.stack([height * self.factor, width * self.factor])
        resized = tf.image.resize(tf.cast(inputs, tf.float32), size)
        static = [s and s * self.factor for s in inputs.shape[1:3]]
        return tf.cast(tf.ensure_shape(resized, [inputs.shape[0], *static, inputs.shape[-1]]), inputs.dtype)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


_step_randomness = threading.local()


@contextlib.contextmanager
def step_randomness(seed: tf.Tensor, slots: tf.Tensor, total: int):
    """While active, `StochasticDepth` draws as a pure function of (seed, slot).

    Args:
      seed: int32 [2], usually (run seed, step).
      slots: int32 [batch], the place of each example of this replica in the global joint batch.
      total: the number of examples in the global joint batch.
    """
    _step_randomness.value = (seed, slots, total)
    try:
        yield
    finally:
        _step_randomness.value = None


@keras.saving.register_keras_serializable("self_training")
class StochasticDepth(keras.layers.Layer):
    """Drops a residual branch per example; kept branches are divided by the survival probability.

    Source: tensorflow/tpu models/official/efficientnet/utils.py:276-291. keras-cv's layer draws with
    a stateful generator, tensorflow-addons' draws once for the whole batch.

    Input and output: float [batch, height, width, channels].
    """

    def __init__(self, survival_probability: float, index: int = 0, **kwargs):
        """Args: survival_probability: in (0, 1]. index: tells the layers of one model apart."""
        super().__init__(**kwargs)
        self.survival_probability = survival_probability
        self.index = index

    def call(self, inputs, training=None):
        if not training or self.survival_probability >= 1.0:
            return inputs
        keep = tf.cast(self._uniform(inputs) < self.survival_probability, inputs.dtype)
        return inputs * keep[:, None, None, None] / tf.cast(self.survival_probability, inputs.dtype)

    def _uniform(self, inputs):
        active = getattr(_step_randomness, "value", None)
        if active is None:
            return tf.random.uniform([tf.shape(inputs)[0]])
        seed, slots, total = active
        # Philox by name: the default algorithm differs between devices.
        draws = tf.random.stateless_uniform(
            [total], seed=seed + tf.constant([self.index + 1, 0], seed.dtype), alg="philox"
        )
        return tf.gather(draws, slots)

    def get_config(self):
        config = {"survival_probability": self.survival_probability, "index": self.index}
        return {**super().get_config(), **config}
