"""Learning-rate schedules and the two optimizers.

A gradient of NaN means "leave this weight and its state as they are": that is how the trainer skips
a step on every kind of device without a branch. Stock Keras optimizers would take the NaN in.
"""

from __future__ import annotations

import math

import tensorflow as tf

from official.experiment import Optimizer as Options

keras = tf.keras


@keras.saving.register_keras_serializable("self_training")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then cosine decay to 0, steps, or constant.

    Source: tensorflow/tpu models/official/detection/modeling/learning_rates.py:28-63.
    """

    def __init__(
        self, learning_rate, total_steps, *, schedule="cosine", warmup_steps=0, warmup_learning_rate=0.0,
        boundaries=(), rates=(),
    ):  # fmt: skip
        """Builds the schedule.

        Args:
          learning_rate: after warm-up.
          total_steps: where the cosine reaches 0.
          schedule: "cosine", "step" or "constant".
          warmup_steps, warmup_learning_rate: length and start of the warm-up.
          boundaries, rates: for "step": from step boundaries[i] on the rate is rates[i].

        Raises:
          ValueError: warm-up longer than training, or boundaries and rates of different length.
        """
        if warmup_steps > total_steps:
            raise ValueError(f"warmup_steps={warmup_steps} is more than the {total_steps} steps of training")
        if len(boundaries) != len(rates):
            raise ValueError(f"{len(boundaries)} decay_boundaries but {len(rates)} decay_rates")
        self.config = {
            "learning_rate": learning_rate, "total_steps": total_steps, "schedule": schedule,
            "warmup_steps": warmup_steps, "warmup_learning_rate": warmup_learning_rate,
            "boundaries": tuple(boundaries), "rates": tuple(rates),
        }  # fmt: skip

    def __call__(self, step):
        options = self.config
        step = tf.cast(step, tf.float32)
        warmup, peak = float(options["warmup_steps"]), options["learning_rate"]
        rate = tf.constant(peak, tf.float32)
        if options["schedule"] == "cosine":
            progress = (step - warmup) / max(1.0, options["total_steps"] - warmup)
            rate = peak * 0.5 * (1.0 + tf.cos(math.pi * tf.clip_by_value(progress, 0.0, 1.0)))
        elif options["schedule"] == "step":
            for boundary, value in zip(options["boundaries"], options["rates"]):
                rate = tf.where(step >= boundary, value, rate)
        start = options["warmup_learning_rate"]
        rising = start + (peak - start) * step / max(1.0, warmup)
        return tf.where(step < warmup, rising, rate)

    def get_config(self):
        return dict(self.config)


@keras.saving.register_keras_serializable("self_training")
class Momentum(keras.optimizers.Optimizer):
    """v = m v + g; w -= lr v, as in TF1.

    Keras' SGD keeps lr inside v, which differs whenever the learning rate changes.
    """

    def __init__(self, learning_rate=0.1, momentum=0.9, name="momentum", **kwargs):
        super().__init__(name=name, jit_compile=False, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.momentum = momentum

    def build(self, var_list):
        super().build(var_list)
        if not getattr(self, "velocities", None):
            self.velocities = [self.add_variable_from_reference(v, "velocity") for v in var_list]

    def update_step(self, gradient, variable):
        skip = tf.math.is_nan(gradient)
        velocity = self.velocities[self._index_dict[self._var_key(variable)]]
        moved = tf.where(skip, velocity, self.momentum * velocity + gradient)
        velocity.assign(moved)
        rate = tf.cast(self.learning_rate, variable.dtype)
        variable.assign_sub(tf.where(skip, tf.zeros_like(gradient), rate * moved))

    def get_config(self):
        rate = self._serialize_hyperparameter(self._learning_rate)
        return {**super().get_config(), "learning_rate": rate, "momentum": self.momentum}


@keras.saving.register_keras_serializable("self_training")
class Adam(keras.optimizers.Optimizer):
    """Adam with bias correction (Kingma & Ba, algorithm 1), and the NaN convention of this module."""

    def __init__(self, learning_rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-7, name="adam", **kwargs):
        super().__init__(name=name, jit_compile=False, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, var_list):
        super().build(var_list)
        if not getattr(self, "first_moments", None):
            self.first_moments = [self.add_variable_from_reference(v, "m") for v in var_list]
            self.second_moments = [self.add_variable_from_reference(v, "v") for v in var_list]

    def update_step(self, gradient, variable):
        skip = tf.math.is_nan(gradient)
        place = self._index_dict[self._var_key(variable)]
        first, second = self.first_moments[place], self.second_moments[place]
        first.assign(tf.where(skip, first, self.beta_1 * first + (1 - self.beta_1) * gradient))
        second.assign(tf.where(skip, second, self.beta_2 * second + (1 - self.beta_2) * gradient**2))
        step = tf.cast(self.iterations + 1, variable.dtype)
        rate = tf.cast(self.learning_rate, variable.dtype)
        correction = tf.sqrt(1 - tf.pow(self.beta_2, step)) / (1 - tf.pow(self.beta_1, step))
        change = rate * correction * first / (tf.sqrt(second) + self.epsilon)
        variable.assign_sub(tf.where(skip, tf.zeros_like(gradient), change))

    def get_config(self):
        rate = self._serialize_hyperparameter(self._learning_rate)
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), "learning_rate": rate, **own}


def build_optimizer(options: Options, total_steps: int, *, learning_rate: float = 0.0) -> keras.optimizers.Optimizer:
    """The optimizer that the options describe.

    Args:
      total_steps: of this phase.
      learning_rate: replaces `options.learning_rate` when above 0.
    """
    schedule = WarmupSchedule(
        learning_rate or options.learning_rate,
        total_steps,
        schedule=options.schedule,
        warmup_steps=min(options.warmup_steps, total_steps),
        warmup_learning_rate=options.warmup_learning_rate,
        boundaries=_numbers(options.decay_boundaries),
        rates=_numbers(options.decay_rates),
    )
    if options.optimizer == "adam":
        return Adam(schedule)
    return Momentum(schedule, options.momentum)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",") if part.strip()]


def current_learning_rate(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """The rate of the step about to be taken (the optimizer's own attribute is that of the last one)."""
    return tf.cast(optimizer._learning_rate(optimizer.iterations), tf.float32)


def clip_by_global_norm(gradients: list[tf.Tensor], clip_norm: float) -> tuple[list[tf.Tensor], tf.Tensor]:
    """(gradients scaled to a norm of at most `clip_norm`, their norm before); 0 turns clipping off."""
    norm = tf.linalg.global_norm(gradients)
    if clip_norm <= 0.0:
        return gradients, norm
    factor = clip_norm / tf.maximum(norm, clip_norm)
    return [gradient * factor for gradient in gradients], norm
