"""A step whose batch does not fit into memory at once: it is passed in parts, and the weights move once.

What comes out is the step in one go, to rounding: counts and losses are those of the whole batch, stochastic
depth and dropout draw by an example's place in it, weight decay, clipping, the optimizer and the averages
come once. Two things need care:

  - the normalised joint loss weighs the pseudo gradient by losses of the whole batch, this step's included.
    They are found by passing all parts forward once more, before the gradients: a student's step takes about
    a third longer;
  - batch norm normalises every part by itself, as it would in a smaller batch: that is the one difference.
    Its moving statistics move once a step, by the mean over the parts.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

import tensorflow as tf

from official.models.layers import move_statistics, statistics_kept, statistics_noted
from official.tasks.task import Tensors
from official.training.optimizer import clip_by_global_norm, current_learning_rate
from official.training.step import JointStep


class AccumulatedStep:
    """Drives a `JointStep` over the parts of a batch, from the host: a part is one call on all replicas."""

    def __init__(
        self, step: JointStep, strategy: tf.distribute.Strategy, parts: int, *, by_xla: bool = False
    ) -> None:
        """Args: parts: how many; by_xla: compiles the calls with XLA (one replica)."""
        self.step, self.strategy, self.parts = step, strategy, parts
        # Moving statistics and their momentum, in the order of the forward pass.
        self._moves: list[tuple[tf.Variable, float]] = []
        self._count, self._pass, self._add, self._finish = (
            self._on_replicas(function, by_xla)
            for function in (self._counts, self._losses, self._gradients, self._end)
        )

    def __call__(self, batches: Sequence[dict[str, Tensors]]) -> Tensors:
        """One step on the parts of a batch, in order; scalars over all replicas by name."""
        counts = _added([self._local(self._count(batch)) for batch in batches])
        ahead = None
        if "pseudo" in batches[0] and self.step.experiment.loss.joint_loss != "standard":
            passed = (self._pass(batch, counts, tf.constant(part)) for part, batch in enumerate(batches))
            ahead = _added([self._local(losses) for losses in passed])
        carried = None
        for part, batch in enumerate(batches):
            carried = self._add(batch, counts, ahead, tf.constant(part), carried)
        return self._local(self._finish(counts, carried))

    def _on_replicas(self, function: Callable, by_xla: bool) -> Callable:
        if self.step.replicas == 1:
            return tf.function(function, jit_compile=by_xla or None, autograph=False)
        return tf.function(lambda *arguments: self.strategy.run(function, args=arguments), autograph=False)

    def _local(self, values: Any) -> Any:
        """One replica's copy of values that are the same on all."""
        return tf.nest.map_structure(lambda value: self.strategy.experimental_local_results(value)[0], values)

    # --- on one replica ---------------------------------------------------------------------------

    def _counts(self, batch: dict[str, Tensors]) -> Tensors:
        tasks = self.step.tasks
        targets = {name: tasks[name].encode(part) for name, part in batch.items()}
        return self.step.sum({name: tasks[name].count(target) for name, target in targets.items()})

    def _shares(
        self, batch: dict[str, Tensors], counts: Tensors, part: tf.Tensor
    ) -> tuple[Tensors, dict[str, Tensors]]:
        targets = {name: self.step.tasks[name].encode(stream) for name, stream in batch.items()}
        self.step.part = (part, self.parts)
        try:
            return self.step.shares(self.step.forward(batch), targets, counts)
        finally:
            self.step.part = (0, 1)

    def _losses(self, batch: dict[str, Tensors], counts: Tensors, part: tf.Tensor) -> Tensors:
        """The streams' losses of one part, summed over replicas; changes nothing."""
        with statistics_kept():
            shares, _ = self._shares(batch, counts, part)
        return self.step.sum(shares)

    def _gradients(
        self,
        batch: dict[str, Tensors],
        counts: Tensors,
        ahead: Tensors | None,
        part: tf.Tensor,
        carried: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Adds one part's gradients, losses and statistics to those before it, of this replica alone."""
        step = self.step
        ratio = None if ahead is None else _ratio_after(step.averages, ahead)
        with tf.GradientTape() as tape:
            with statistics_noted() as noted:
                shares, terms = self._shares(batch, counts, part)
            loss = step.weighted(shares, ratio)
            decay = step.weight_decay_loss() / (step.replicas * self.parts)
            scaled = step.guard.scaled(loss + decay)
        self._moves = [(moving, momentum) for moving, _, momentum in noted]
        found = {
            "gradients": step.guard.unscaled(tape.gradient(scaled, step.variables)),
            "loss": loss,
            "shares": shares,
            "terms": terms,
            "statistics": tf.concat([tf.zeros([0]), *(tf.cast(v, tf.float32) for _, v, _ in noted)], axis=0),
        }
        return found if carried is None else tf.nest.map_structure(tf.add, carried, found)

    def _end(self, counts: Tensors, carried: dict[str, Any]) -> Tensors:
        """Moves weights, averages and statistics by what all parts have come to."""
        step = self.step
        totals, decay = step.sum(carried["shares"]), step.weight_decay_loss()
        joined = {}
        if "pseudo" in totals:
            joined = step.joining(step.averages.update(totals["human"], totals["pseudo"]))
        total = step.sum(carried["loss"]) + decay
        limit = step.experiment.optimizer.clip_norm
        gradients, norm = clip_by_global_norm(step.sum(carried["gradients"]), limit)
        metrics = {
            "loss": total,
            "weight_decay_loss": decay,
            "gradient_norm": norm,
            "learning_rate": current_learning_rate(step.optimizer),
            **joined,
            **step.term_metrics(totals, carried["terms"], counts),
        }
        if self._moves:  # a frozen network has none
            sizes = [moving.shape[0] for moving, _ in self._moves]
            means = tf.split(carried["statistics"] / self.parts, sizes)
            found = zip(self._moves, means)
            move_statistics([(moving, mean, momentum) for (moving, momentum), mean in found])
        step.apply(gradients, tf.math.is_finite(total) & tf.math.is_finite(norm))
        return metrics


def _added(parts: Sequence[Tensors]) -> Tensors:
    return {name: tf.add_n([part[name] for part in parts]) for name in parts[0]}


def _ratio_after(averages: Any, totals: Tensors) -> tf.Tensor:
    """The ratio that `LossAverages.update` will return for these losses; changes nothing."""
    return averages.after(totals["human"], totals["pseudo"])[2]
