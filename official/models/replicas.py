"""Inference on all the replicas that a model was built for."""

from __future__ import annotations

from typing import Any, Callable, Hashable

import tensorflow as tf


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every program of evaluation and labelling is compiled by; on TPUs XLA compiles what the strategy
    runs inside.
    """
    return tf.function(function, reduce_retracing=True, autograph=False)


def spread(model: tf.keras.Model, function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function that calls the model, and shares every batch among the model's replicas.

    Args:
      model: built under a strategy's scope or under none; it decides the number of replicas.
      function: tensors with one size of the first axis -> nested tensors with that first axis.

    Returns:
      A function of the same tensors that returns what `function` returns for the whole batch, in order.
    """
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return compiled(function)

    @compiled
    def on_replicas(values):
        return strategy.run(lambda parts: function(*parts), args=(values,))

    def run(*tensors):
        count = tensors[0].shape[0]
        share = -(-count // replicas)
        # The last rows are repeated to make the shares equal, and cut off again.
        rows = tf.minimum(tf.range(share * replicas), count - 1)
        filled = [tf.gather(tensor, rows) for tensor in tensors]

        def part(context):
            first = context.replica_id_in_sync_group * share
            return tuple(tensor[first : first + share] for tensor in filled)

        found = on_replicas(strategy.experimental_distribute_values_from_function(part))
        return tf.nest.map_structure(
            lambda v: tf.concat(strategy.experimental_local_results(v), axis=0)[:count], found
        )

    return run


class Programs:
    """The compiled functions of one network in inference; each is made once."""

    def __init__(self, model: tf.keras.Model) -> None:
        self.model = model
        self._made: dict[Hashable, Callable[..., Any]] = {}

    def __call__(self, key: Hashable, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which calls the network, as `spread` compiles it; under a key that was given before,
        what was made then.
        """
        if key not in self._made:
            self._made[key] = spread(self.model, function)
        return self._made[key]


def programs_of(model: tf.keras.Model) -> Programs:
    """The programs of a network, its attribute `programs`; they are gone when it is."""
    found = getattr(model, "programs", None)
    if found is None or found.model is not model:  # of what stands in for a network: they run the network
        found = model.programs = Programs(model)
    return found


def logits_function(model: tf.keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Images -> "logits" in inference, on all the model's replicas."""
    return programs_of(model)("logits", lambda images: model({"images": images}, training=False)["logits"])
