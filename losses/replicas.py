"""Sums and means over replicas, with their gradients, that are quick to trace."""

from __future__ import annotations

import tensorflow as tf


def all_reduce(operation: tf.distribute.ReduceOp, value: tf.Tensor) -> tf.Tensor:
    """`ReplicaContext.all_reduce` of one tensor; its gradient is the same reduction of the gradients.

    Stock `all_reduce` looks, each time it is called, for variables between its inputs and its outputs. The
    outputs depend on the other replicas' inputs too, and behind these it walks through all that has been
    built so far, in a time that grows with its square (tensorflow/python/ops/custom_gradient.py,
    `_get_dependent_variables`). Such walks end at a `stop_gradient`.

    Args:
      value: any shape, float.
    """
    context = tf.distribute.get_replica_context()

    @tf.custom_gradient
    def reduced(x):
        return context.all_reduce(operation, tf.stop_gradient(x)), lambda gradient: all_reduce(
            operation, gradient
        )

    return reduced(value)
