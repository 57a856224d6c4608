"""An exponential moving average of a model's weights, as EfficientNet and Noisy Student are evaluated by.

Source: tensorflow/tpu models/official/efficientnet/main.py (decay 0.9999, all trainable variables and
batch norm's moving statistics); the decay starts low, min(decay, (1 + t) / (10 + t)), as
`tf.train.ExponentialMovingAverage` with `num_updates` does. There the counter is read after the train op
has raised it, so the first step has t = 1 and the decay 2/11.
"""

from __future__ import annotations

import tensorflow as tf

from official.errors import FlagError


class WeightAverage(tf.Module):
    """Shadow variables, one per variable of a model, in the model's order.

    Like the loss averages they are kept per replica; every replica sees the same weights.
    """

    def __init__(self, model: tf.keras.Model, decay: float) -> None:
        """Args: decay: in (0, 1). Raises ValueError otherwise."""
        if not 0.0 < decay < 1.0:
            raise FlagError(f"weight_average={decay} is not in (0, 1)")
        super().__init__(name="weight_average")
        self.decay = decay
        self.shadows = [
            tf.Variable(
                tf.convert_to_tensor(variable),
                trainable=False,
                name=f"average_{i}",
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            for i, variable in enumerate(model.variables)
        ]

    def update(self, model: tf.keras.Model, steps_taken: tf.Tensor) -> None:
        """Moves the averages towards the weights that so many steps have led to (1 after the first)."""
        number = tf.cast(steps_taken, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + number) / (10.0 + number))
        for shadow, variable in zip(self.shadows, model.variables):
            value, weight = shadow.read_value(), tf.cast(1.0 - decay, shadow.dtype)
            shadow.assign(value - weight * (value - tf.cast(variable.read_value(), shadow.dtype)))

    def start_from(self, model: tf.keras.Model) -> None:
        """Sets the averages to the weights as they are."""
        for shadow, variable in zip(self.shadows, model.variables):
            shadow.assign(variable.numpy())

    def put_into(self, model: tf.keras.Model) -> None:
        """Replaces a model's weights by the averages."""
        for shadow, variable in zip(self.shadows, model.variables):
            variable.assign(shadow.numpy())
