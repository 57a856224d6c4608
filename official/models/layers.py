"""Layers that stock Keras does not have right: batch norm, upsampling, stochastic depth."""

from __future__ import annotations

import contextlib
import math
import threading
from typing import Any, Iterator, Sequence, Tuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from losses.replicas import all_reduce
from official.hashing import hashed, mixed, named_seed

_MEAN = tf.distribute.ReduceOp.MEAN


class _Around(threading.local):
    """What the step that is being traced says to the layers inside it, past Keras' `call`: by the context
    managers below, and per thread, because a strategy traces every replica in a thread of its own.
    """

    statistics_kept = False
    statistics_waiting: list[Move] | None = None
    randomness: tuple[_Keys, tf.Tensor, int] | None = None


_step = _Around()


@keras.saving.register_keras_serializable("self_training")
class SyncBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation whose statistics are those of the global batch, on any number of replicas.

    Stock Keras uses two formulas: the fused kernel on one device, which puts Bessel's correction
    into the moving variance, and an uncorrected E[x^2] - E[x]^2 across replicas. The same run would
    then give other weights on two replicas than on one. Here the moving variance is the plain batch
    variance everywhere, and across replicas it is mean(var_i) + mean((mean_i - mean)^2), as in the
    original stack (modeling/architecture/nn_ops.py:75-102). Non-finite batch statistics are not
    taken into the moving ones, so that a skipped step leaves the layer as it was; inside
    `statistics_kept` none are.

    Input and output: float [batch, height, width, channels].
    """

    def add_weight(self, *args: Any, **options: Any) -> tf.Variable:
        """As Keras', but moving statistics are read from the first replica: all hold the same bits, and a
        mean of three of them, Keras' choice, is not always one of them, so that a run would not go on as it
        was.
        """
        if options.get("synchronization") == tf.VariableSynchronization.ON_READ:
            options["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA
        return super().add_weight(*args, **options)

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        if not training or not self.trainable:
            return super().call(inputs, training=False)
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            outputs, mean, variance = self._one_replica(inputs)
        else:
            outputs, mean, variance = self._many_replicas(inputs)
        self._move(self.moving_mean, mean)
        self._move(self.moving_variance, variance)
        return outputs

    def _one_replica(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        gamma, beta = self.gamma, self.beta
        if not self.scale:
            gamma = tf.ones([inputs.shape[-1]])
        if not self.center:
            beta = tf.zeros([inputs.shape[-1]])
        outputs, mean, corrected = tf.compat.v1.nn.fused_batch_norm(
            inputs, gamma, beta, epsilon=self.epsilon, is_training=True
        )
        count = (
            math.prod(inputs.shape[:-1])
            if inputs.shape.is_fully_defined()
            else tf.size(inputs) // inputs.shape[-1]
        )
        count = tf.cast(count, tf.float32)
        return outputs, mean, corrected * ((count - 1.0) / tf.maximum(count, 1.0))

    def _many_replicas(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        x = tf.cast(inputs, tf.float32)
        local_mean, local_variance = tf.nn.moments(x, axes=[0, 1, 2])
        mean = all_reduce(_MEAN, local_mean)
        spread = local_variance + tf.square(local_mean - mean)
        variance = all_reduce(_MEAN, spread)
        outputs = tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, self.epsilon)
        return tf.cast(outputs, inputs.dtype), mean, variance

    def _move(self, moving: tf.Variable, value: tf.Tensor) -> None:
        if _step.statistics_kept:
            return
        waiting = _step.statistics_waiting
        if waiting is not None:
            waiting.append((moving, value, self.momentum))
        else:
            _move_statistics([(moving, value, self.momentum)])


@contextlib.contextmanager
def statistics_together() -> Iterator[None]:
    """Batch norm's moving statistics are moved when this ends, all in a few operations, to the same bits."""
    waiting: list[Move] = []
    _step.statistics_waiting = waiting
    try:
        yield
        _step.statistics_waiting = None
        move_statistics(waiting)
    finally:
        _step.statistics_waiting = None


# A moving statistic [C], the batch's own [C], and the momentum.
Move = Tuple[tf.Variable, tf.Tensor, float]


@contextlib.contextmanager
def statistics_noted() -> Iterator[list[Move]]:
    """While active, batch norm's moving statistics stay as they are; gives what they would be moved by, for
    `move_statistics`.
    """
    waiting: list[Move] = []
    _step.statistics_waiting = waiting
    try:
        yield waiting
    finally:
        _step.statistics_waiting = None


def move_statistics(waiting: list[Move]) -> None:
    """Moves them, all in a few operations; one that has come twice is moved twice, one after the other."""
    while waiting:
        now = {id(moving): number for number, (moving, _, _) in reversed(list(enumerate(waiting)))}.values()
        _move_statistics([waiting[number] for number in sorted(now)])
        waiting = [move for number, move in enumerate(waiting) if number not in set(now)]


def _move_statistics(moves: list[tuple[tf.Variable, tf.Tensor, float]]) -> None:
    """moving -= (1 - momentum) (moving - value) for each (moving [C], value [C], momentum), but where that is
    not finite.
    """
    sizes = [moving.shape[0] for moving, _, _ in moves]
    before = tf.concat([moving.read_value() for moving, _, _ in moves], axis=0)
    values = tf.stop_gradient(tf.concat([tf.cast(value, moving.dtype) for moving, value, _ in moves], axis=0))
    shares = np.repeat(np.array([1.0 - momentum for _, _, momentum in moves], np.float32), sizes)
    step = (before - values) * shares
    step = tf.where(tf.math.is_finite(step), step, tf.zeros_like(step))
    for (moving, _, _), part in zip(moves, tf.split(step, sizes)):
        moving.assign_sub(part)


@keras.saving.register_keras_serializable("self_training")
class UpsampleNearest(keras.layers.Layer):
    """Doubles height and width by repetition, [B, H, W, C] -> [B, 2H, 2W, C].

    Stock `UpSampling2D` has a gradient without an XLA kernel (ResizeNearestNeighborGrad).
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        batch, height, width = _sides(inputs)
        channels = inputs.shape[-1]
        wide = tf.broadcast_to(inputs[:, :, None, :, None, :], [batch, height, 2, width, 2, channels])
        doubled = tf.reshape(wide, [batch, 2 * height, 2 * width, channels])
        return tf.ensure_shape(
            doubled, [inputs.shape[0], *(s and 2 * s for s in inputs.shape[1:3]), channels]
        )


def _sides(x: tf.Tensor) -> list:
    """Batch, height and width, as numbers where they are known."""
    dynamic = tf.shape(x)
    return [dynamic[i] if x.shape[i] is None else x.shape[i] for i in range(3)]


@keras.saving.register_keras_serializable("self_training")
class UpsampleBilinear(keras.layers.Layer):
    """Enlarges height and width by a whole factor, bilinearly with half-pixel centres; float in, float32
    inside.

    Stock `UpSampling2D` resizes in the compute dtype, and its gradient (ResizeBilinearGrad) has no
    kernel for reduced precision on every device.
    """

    def __init__(self, factor: int, **kwargs: Any) -> None:
        """Args: factor: of both sides; 1 does nothing."""
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.factor == 1:
            return inputs
        _, height, width = _sides(inputs)
        size = tf.stack([height * self.factor, width * self.factor])
        resized = tf.image.resize(tf.cast(inputs, tf.float32), size)
        static = [s and s * self.factor for s in inputs.shape[1:3]]
        return tf.cast(tf.ensure_shape(resized, [inputs.shape[0], *static, inputs.shape[-1]]), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}


def legacy_upsample(x: tf.Tensor, factor: int, name: str) -> tf.Tensor:
    """Enlarges a Keras tensor [B, H, W, C] by a power of two with TF1's bilinear kernel, out of layers that
    have a stock twin.

    Repetition, then the mean of as many pixels from each one on, with the last row and column there twice: at
    q f + r that is (1 - r / f) x[q] + r / f x[q + 1], as without half-pixel centres.
    """
    x = keras.layers.Concatenate(axis=1, name=f"{name}_last_row")([x, x[:, -1:]])
    x = keras.layers.Concatenate(axis=2, name=f"{name}_last_column")([x, x[:, :, -1:]])
    for step in range(factor.bit_length() - 1):
        x = UpsampleNearest(name=f"{name}_{step}")(x)
    x = keras.layers.AveragePooling2D((factor, 1), strides=1, name=f"{name}_mean_down")(x)
    x = keras.layers.AveragePooling2D((1, factor), strides=1, name=f"{name}_mean_across")(x)
    return keras.layers.Cropping2D(((0, 1), (0, 1)), name=name)(x)


@keras.saving.register_keras_serializable("self_training")
class Swish(keras.layers.Layer):
    """x sigmoid(x), element by element; its gradient in two passes over memory less than TensorFlow's, in
    float32.

    A CPU has no vector code for a sigmoid of bfloat16, and one of what it does have takes three times as
    long.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def swish(x):
            y = x * tf.sigmoid(x)

            def gradient(upstream):
                with tf.control_dependencies(
                    [upstream]
                ):  # computed again where it is needed, so as not to be kept
                    chance = tf.sigmoid(tf.cast(x, tf.float32))
                slope = chance + tf.cast(y, tf.float32) * (1.0 - chance)
                return tf.cast(slope, x.dtype) * upstream

            return y, gradient

        return swish(inputs)


@keras.saving.register_keras_serializable("self_training")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Stock, without bias or activation; on a CPU the gradients of bfloat16 are computed in float32.

    The kernels of bfloat16 take twice (of the weights) and seven times (of the input) as long there as those
    of float32.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if inputs.dtype != tf.bfloat16 or self.use_bias or not _cpu_alone():
            return super().call(inputs)
        options = dict(strides=[1, *self.strides, 1], padding=self.padding.upper())

        @tf.custom_gradient
        def convolved(x, kernel):
            def gradient(upstream):
                wide = [tf.cast(value, tf.float32) for value in (x, kernel, upstream)]
                of_input = tf.nn.depthwise_conv2d_backprop_input(tf.shape(x), wide[1], wide[2], **options)
                of_kernel = tf.nn.depthwise_conv2d_backprop_filter(wide[0], kernel.shape, wide[2], **options)
                return tf.cast(of_input, x.dtype), tf.cast(of_kernel, kernel.dtype)

            return tf.nn.depthwise_conv2d(x, kernel, **options), gradient

        return convolved(inputs, tf.cast(self.depthwise_kernel, inputs.dtype))


def _cpu_alone() -> bool:
    """Whether this process computes on CPUs."""
    return not any(device.device_type in ("GPU", "TPU") for device in tf.config.list_logical_devices())


@contextlib.contextmanager
def statistics_kept() -> Iterator[None]:
    """While active, batch norm normalises by its batch as ever but leaves its moving statistics alone."""
    _step.statistics_kept = True
    try:
        yield
    finally:
        _step.statistics_kept = False


class _Keys:
    """The two hashes of a step's words, made when a layer first draws, and once for all layers of a graph."""

    def __init__(self, words: Sequence[int | tf.Tensor]) -> None:
        self._words = words
        self._made: dict[Any, tuple[tf.Tensor, tf.Tensor]] = {}

    def __call__(self) -> tuple[tf.Tensor, tf.Tensor]:
        # Another's tensors are out of reach.
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        if graph not in self._made:
            self._made[graph] = (hashed(0, *self._words), hashed(1, *self._words))
        return self._made[graph]


@contextlib.contextmanager
def step_randomness(words: Sequence[int | tf.Tensor], slots: tf.Tensor, total: int) -> Iterator[None]:
    """While active, `StochasticDepth` and `Dropout` draw as a pure function of (words, layer, view, slot).

    Args:
      words: integers that name the draws, usually the run's seed, the step and the stream; hashed, never
        added.
      slots: int32 [batch], the place of each example of this replica in the global joint batch.
      total: the number of examples in the global joint batch.
    """
    _step.randomness = (_Keys(words), slots, total)
    try:
        yield
    finally:
        _step.randomness = None


def _uniform(examples: int | tf.Tensor, shape: list[int], index: int) -> tf.Tensor:
    """[examples, *shape] draws in [0, 1); examples may be several views of the slots, one after the other."""
    active = _step.randomness
    if active is None:
        return tf.random.uniform([examples, *shape])
    keys, slots, total = active
    views = max(1, examples // slots.shape[0]) if isinstance(examples, int) else 1
    draws = [hashed_uniform(_of_layer(keys(), index, view), [total, *shape]) for view in range(views)]
    return tf.concat([tf.gather(part, slots) for part in draws], axis=0)


def _of_layer(keys: tuple[tf.Tensor, tf.Tensor], index: int, view: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The step's keys for one view of one layer; the layer is hashed in Python, which keeps the step's graph
    small.
    """
    name = named_seed(index, view)
    halves = (name % 2**32, name // 2**32)
    return tuple(tf.bitwise.bitwise_xor(key, tf.constant(half, tf.uint32)) for key, half in zip(keys, halves))


def hashed_uniform(keys: tuple[tf.Tensor, tf.Tensor], shape: list[int]) -> tf.Tensor:
    """Float32 draws in [0, 1), a pure function of (keys, position) with the same bits on every device and
    under XLA.

    TensorFlow's own stateless Philox gives other numbers when XLA compiles it. This is a counter
    through the finaliser of MurmurHash3, once per key; with two of them no stream is a shifted other one.

    Args:
      keys: two uint32 scalars, see `official.hashing.hashed`.
      shape: of the result, static.
    """
    bits = tf.cast(tf.range(math.prod(shape)), tf.uint32)
    for key in keys:
        bits = mixed(bits + key)
    unit = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24
    return tf.reshape(unit, shape)


@keras.saving.register_keras_serializable("self_training")
class StochasticDepth(keras.layers.Layer):
    """Drops a residual branch per example; kept branches are divided by the survival probability.

    Source: tensorflow/tpu models/official/efficientnet/utils.py:276-291. keras-cv's layer draws with
    a stateful generator, tensorflow-addons' draws once for the whole batch.

    Input and output: float [batch, height, width, channels].
    """

    def __init__(self, survival_probability: float, index: int = 0, **kwargs: Any) -> None:
        """Args: survival_probability: in (0, 1]. index: tells the layers of one model apart."""
        super().__init__(**kwargs)
        self.survival_probability = survival_probability
        self.index = index

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training or self.survival_probability >= 1.0:
            return inputs
        draws = _uniform(_examples(inputs), [], self.index)
        keep = tf.cast(draws < self.survival_probability, inputs.dtype)
        return inputs * keep[:, None, None, None] / tf.cast(self.survival_probability, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        config = {"survival_probability": self.survival_probability, "index": self.index}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("self_training")
class Dropout(keras.layers.Layer):
    """Drops features of [batch, channels]; kept ones are divided by the probability of being kept.

    Stock Keras draws with a stateful generator, so that a resumed run or another number of replicas
    would drop others.
    """

    def __init__(self, rate: float, index: int = 10_000, **kwargs: Any) -> None:
        """Args: rate: in [0, 1). index: tells the layers of one model apart."""
        super().__init__(**kwargs)
        self.rate, self.index = rate, index

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training or self.rate <= 0.0:
            return inputs
        keep = tf.cast(_uniform(_examples(inputs), [inputs.shape[-1]], self.index) >= self.rate, inputs.dtype)
        return inputs * keep / tf.cast(1.0 - self.rate, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "index": self.index}


def _examples(inputs: tf.Tensor) -> int | tf.Tensor:
    return tf.shape(inputs)[0] if inputs.shape[0] is None else inputs.shape[0]
