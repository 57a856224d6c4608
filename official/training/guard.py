"""What a step that is not finite does: it changes no weight, is remembered, and lowers float16's loss
scale."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from official.errors import UserError

NOT_FINITE = "loss or gradient not finite at step"


class NonFiniteError(UserError):
    """A loss or a gradient was not finite; the message names the step and the terms."""


class Guard(tf.Module):
    """Remembers steps that were not finite, and scales the loss for float16."""

    GROWTH_STEPS = 2000

    def __init__(self, scale_loss: bool) -> None:
        super().__init__(name="guard")
        self.scale_loss = scale_loss
        self.skipped = _state(0, tf.int64, "skipped")
        self.first_bad = _state(-1, tf.int64, "first_bad")
        self.loss_scale = _state(2.0**15 if scale_loss else 1.0, tf.float32, "loss_scale")
        self.good_steps = _state(0, tf.int64, "good_steps")

    def admit(self, finite: tf.Tensor, step: tf.Tensor, stop: bool) -> tf.Tensor:
        """Whether this step's update is applied; a stopped run applies no further one."""
        overflow = tf.constant(False)
        if self.scale_loss:
            overflow = ~finite & (self.loss_scale > 1.0)
            self._rescale(finite)
        bad = ~finite & ~overflow
        good = finite & (self.skipped.read_value() == 0) if stop else finite
        first = self.first_bad.read_value()
        self.first_bad.assign(tf.where(bad & (first < 0), step, first))
        self.skipped.assign(self.skipped.read_value() + tf.cast(bad, tf.int64))
        return good

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss that gradients are taken of."""
        return loss * self.loss_scale if self.scale_loss else loss

    def unscaled(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients of the loss itself."""
        return [gradient / self.loss_scale for gradient in gradients] if self.scale_loss else gradients

    def _rescale(self, finite: tf.Tensor) -> None:
        grown = self.good_steps.read_value() + 1 >= self.GROWTH_STEPS
        scale = self.loss_scale.read_value()
        larger = tf.where(grown, scale * 2.0, scale)
        self.loss_scale.assign(tf.where(finite, larger, tf.maximum(scale / 2.0, 1.0)))
        counted = tf.where(grown, tf.zeros([], tf.int64), self.good_steps.read_value() + 1)
        self.good_steps.assign(tf.where(finite, counted, tf.zeros([], tf.int64)))


def _state(value: Any, dtype: tf.DType, name: str) -> tf.Variable:
    return tf.Variable(
        tf.constant(value, dtype),
        trainable=False,
        name=name,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
