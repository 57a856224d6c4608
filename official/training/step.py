"""The train step: one for every task, for the command line's trainer and for Keras' `fit`.

A step takes {"human": batch} or {"human": batch, "pseudo": batch}, makes ONE forward pass over the
concatenation, so that batch norm sees the joint batch, and asks the task for the losses of each stream. Joint
training adds a third stream, {"joint": batch}: images with classes, at a size of their own, through the same
backbone and a classification head; L + w L_cls (paper, section 5). The paper says nothing of head, size or
statistics: the head is a classifier's, the size is --joint_image_size, and that pass is normalised by its own
batch and leaves batch norm's moving statistics to the images of the task. Every loss is a sum divided by a
count that has been added up over all replicas, and the gradients of the replicas are summed; so the numbers
do not depend on how many replicas there are.
"""

from __future__ import annotations

import re
from typing import Any, Mapping

import tensorflow as tf

from losses.joint import LossAverages, normalized_joint_loss, standard_joint_loss
from official.errors import FlagError, about_flags
from official.experiment import Experiment
from official.models.layers import statistics_kept, statistics_together, step_randomness
from official.tasks.task import Task, Tensors
from official.training.guard import NOT_FINITE, Guard, NonFiniteError
from official.training.optimizer import clip_by_global_norm, current_learning_rate, take_step
from official.training.weight_average import WeightAverage

# What weight decay applies to, see also `Task.decays_biases`; original: base_config.py:18.
KERNEL = r".*(kernel|weight):0$"
BATCH_NORM = r".*(gamma|beta):0$"  # and, with --decay_batch_norm, these; paper, Table 12
STREAMS = ("human", "pseudo", "joint")
_SUM = tf.distribute.ReduceOp.SUM


class JointStep:
    """One step on one replica.

    Attributes:
      tasks: by stream; those that there are not tasks for are not looked at.
      network, joint_network: what is trained; the second one, of the third stream, may be None.
      averages, guard, weight_average: what a step remembers besides the weights; the last may be None.
      optimizer, variables, decayed: see `train_with`.
    """

    def __init__(
        self,
        tasks: dict[str, Task],
        experiment: Experiment,
        network: tf.keras.Model,
        joint_network: tf.keras.Model | None = None,
    ) -> None:
        """Makes the variables; under the strategy's scope.

        Raises:
          FlagError: --ema_decay or --weight_average out of bounds.
        """
        self.tasks, self.task, self.experiment = tasks, tasks["human"], experiment
        self.network, self.joint_network = network, joint_network
        self.replicas = tf.distribute.get_strategy().num_replicas_in_sync
        # Which part of a batch in how many is passed, see accumulation.py.
        self.part: tuple[int | tf.Tensor, int] = (
            0,
            1,
        )
        self.optimizer: tf.keras.optimizers.Optimizer | None = None
        self.variables: list[tf.Variable] = []
        self.decayed: list[tf.Variable] = []
        with about_flags():
            self.averages = LossAverages(experiment.loss.ema_decay)
        self.guard = Guard(experiment.runtime.precision == "float16")
        decay = experiment.optimizer.weight_average
        self.weight_average = WeightAverage(network, decay) if decay else None

    def train_with(self, optimizer: tf.keras.optimizers.Optimizer) -> None:
        """Takes an optimizer, and all variables that can be trained and are not frozen; under the strategy's
        scope.

        Raises:
          FlagError: everything is frozen.
        """
        self.optimizer, self.variables = optimizer, self._trained_variables()
        self.decayed = [v for v in self.variables if self._is_decayed(v.name)]
        optimizer.build(self.variables)

    def __call__(self, batch: dict[str, Tensors]) -> Tensors:
        """The step on one replica; the losses it returns are global."""
        targets = {name: self.tasks[name].encode(part) for name, part in batch.items()}
        counts = self.sum({name: self.tasks[name].count(target) for name, target in targets.items()})
        with tf.GradientTape() as tape:
            with statistics_together():
                outputs = self.forward(batch)
            shares, terms = self.shares(outputs, targets, counts)
            totals = self.sum({name: tf.stop_gradient(share) for name, share in shares.items()})
            loss, joint_metrics = self._join(shares, totals)
            decay = self.weight_decay_loss()
            scaled = self.guard.scaled(loss + decay / self.replicas)
        gradients = tape.gradient(scaled, self.variables)
        gradients = self.sum(self.guard.unscaled(gradients))
        total = self.sum(tf.stop_gradient(loss)) + decay
        gradients, norm = clip_by_global_norm(gradients, self.experiment.optimizer.clip_norm)
        metrics = {
            "loss": total,
            "weight_decay_loss": decay,
            "gradient_norm": norm,
            "learning_rate": current_learning_rate(self.optimizer),
            **joint_metrics,
            **self.term_metrics(totals, terms, counts),
        }
        self.apply(gradients, tf.math.is_finite(total) & tf.math.is_finite(norm))
        return metrics

    def measure(self, batch: dict[str, Tensors], network: tf.keras.Model) -> tuple[Tensors, Tensors]:
        """(losses by name over all replicas, the network's outputs) of the human stream in inference; changes
        nothing."""
        part = batch["human"]
        targets = self.task.encode(part)
        outputs = network({"images": part["images"]}, training=False)
        sums = self.sum({**self.task.loss_sums(outputs, targets), "count": self.task.count(targets)})
        divisor = self.task.normalizer(sums.pop("count"))
        losses = {name: value / divisor for name, value in sums.items()}
        return {"loss": tf.add_n(list(losses.values())), **losses}, outputs

    def check(self, metrics: Mapping[str, Any], name: str) -> None:
        """Raises NonFiniteError if the guard has stopped the training called `name`; metrics: of the last
        step.
        """
        skipped, limit = int(self.guard.skipped.numpy()), self.experiment.runtime.max_nan_steps
        stopping = self.experiment.runtime.on_nan == "stop"
        if skipped == 0 or (not stopping and skipped <= limit):
            return
        terms = [name for name, value in metrics.items() if not tf.math.is_finite(value)]
        raise NonFiniteError(
            f"{name}: {NOT_FINITE} {int(self.guard.first_bad.numpy())} "
            f"({skipped} step(s) skipped; terms not finite now: {sorted(terms) or 'none'}). Lower "
            "--learning_rate or --alpha, or set --clip_norm; --on_nan=skip goes on without such steps."
        )

    # --- inside -----------------------------------------------------------------------------------

    def _trained_variables(self) -> list[tf.Variable]:
        """All but the frozen ones; freezing does not stop batch norm's statistics (original:
        base_model.py:96-99)."""
        freeze, own = self.experiment.training.freeze, _connected(self.network)
        pattern = compiled("freeze", freeze)
        if self.joint_network is not None:
            known = {id(v) for v in own}
            own = own + [v for v in _connected(self.joint_network) if id(v) not in known]
        found = [v for v in own if not (freeze and pattern.match(v.name))]
        if not found:
            raise FlagError(f"--freeze={freeze} leaves nothing to train")
        return found

    def forward(self, batch: dict[str, Tensors]) -> dict[str, Tensors]:
        """One pass over the task's streams joined, and one over the classified images; outputs by stream."""
        parts = {name: part["images"] for name, part in batch.items() if name != "joint"}
        sizes = [_rows(part) for part in parts.values()]
        assert self.optimizer is not None  # `train_with`
        words = (self.experiment.runtime.seed, tf.cast(self.optimizer.iterations, tf.int32))
        with step_randomness((*words, 0), *self._slots(sizes)):
            joined = self.network({"images": tf.concat(list(parts.values()), axis=0)}, training=True)
        split = {key: tf.split(value, sizes) for key, value in joined.items()}
        outputs = {name: {k: v[i] for k, v in split.items()} for i, name in enumerate(parts)}
        if "joint" in batch:
            assert self.joint_network is not None
            images = batch["joint"]["images"]
            with step_randomness((*words, 1), *self._slots([_rows(images)])), statistics_kept():
                outputs["joint"] = self.joint_network({"images": images}, training=True)
        return outputs

    def _slots(self, sizes: list[int]) -> tuple[tf.Tensor, int]:
        """The place of every example of this replica in the global joint batch, and that batch's size."""
        replica = 0
        if self.replicas > 1:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        (part, parts), slots, before = self.part, [], 0
        for size in sizes:
            slots.append(before + (replica * parts + part) * size + tf.range(size))
            before += size * self.replicas * parts
        return tf.concat(slots, axis=0), before

    def shares(
        self, outputs: Tensors, targets: Tensors, counts: Tensors
    ) -> tuple[Tensors, dict[str, Tensors]]:
        """This replica's share of every stream's loss, and of its terms, by stream."""
        terms = {}
        for name in targets:
            sums = self.tasks[name].loss_sums(outputs[name], targets[name])
            terms[name] = {k: v / self.tasks[name].normalizer(counts[name]) for k, v in sums.items()}
        return {name: tf.add_n(list(parts.values())) for name, parts in terms.items()}, terms

    def _join(self, shares: Tensors, totals: Tensors) -> tuple[tf.Tensor, Tensors]:
        """This replica's share of the loss, and what to report about the joining."""
        if "pseudo" not in shares:
            return self.weighted(shares, None), {}
        ratio = self.averages.update(totals["human"], totals["pseudo"])
        return self.weighted(shares, ratio), self.joining(ratio)

    def weighted(self, shares: Tensors, ratio: tf.Tensor | None) -> tf.Tensor:
        """The streams' shares joined; ratio: of the loss averages, where there is a pseudo stream."""
        options, loss = self.experiment.loss, shares["human"]
        if "pseudo" in shares and options.joint_loss == "standard":
            loss = standard_joint_loss(shares["human"], shares["pseudo"], options.alpha)
        elif "pseudo" in shares:
            loss = normalized_joint_loss(shares["human"], shares["pseudo"], options.alpha, ratio)
        return loss + options.joint_weight * shares["joint"] if "joint" in shares else loss

    def joining(self, ratio: tf.Tensor) -> Tensors:
        """What to report about the joining, once the averages have taken the step's losses in."""
        alpha, standard = self.experiment.loss.alpha, self.experiment.loss.joint_loss == "standard"
        return {
            "human_loss_average": self.averages.human.read_value(),
            "pseudo_loss_average": self.averages.pseudo.read_value(),
            "loss_ratio": ratio,
            "pseudo_weight": tf.constant(alpha) if standard else alpha * ratio / (1.0 + alpha),
        }

    def _is_decayed(self, name: str) -> bool:
        if re.match(BATCH_NORM, name):
            return self.experiment.loss.decay_batch_norm
        return self.task.decays_biases or bool(re.match(KERNEL, name))

    def weight_decay_loss(self) -> tf.Tensor:
        """weight_decay * 0.5 * sum of squares; outside the normalised data loss."""
        squares = [tf.nn.l2_loss(tf.cast(variable, tf.float32)) for variable in self.decayed]
        total = tf.add_n(squares or [tf.zeros([])])  # all kernels may be frozen
        return self.experiment.loss.weight_decay * total

    def term_metrics(self, totals: Tensors, terms: dict[str, Tensors], counts: Tensors) -> Tensors:
        metrics = {f"{name}_loss": total for name, total in totals.items()}
        metrics.update({f"{name}_count": count for name, count in counts.items()})
        parts = self.sum({f"{s}_{k}": tf.stop_gradient(v) for s, t in terms.items() for k, v in t.items()})
        return {**metrics, **parts}

    def apply(self, gradients: list[tf.Tensor], finite: tf.Tensor) -> None:
        """Updates the weights, unless the step is not finite or the run has been stopped."""
        stop = self.experiment.runtime.on_nan == "stop"
        assert self.optimizer is not None  # `train_with`
        good = self.guard.admit(finite, self.optimizer.iterations, stop)
        take_step(self.optimizer, gradients, self.variables, good)
        if self.weight_average is not None:
            self.weight_average.update(self.network, self.optimizer.iterations.read_value())

    def sum(self, values: Any) -> Any:
        """Adds up over replicas; no gradient flows back, and so none is prepared (see losses/replicas.py)."""
        if self.replicas == 1:
            return values
        flat = [tf.stop_gradient(value) for value in tf.nest.flatten(values)]
        summed = tf.distribute.get_replica_context().all_reduce(_SUM, flat)
        return tf.nest.pack_sequence_as(values, summed)


def _connected(model: tf.keras.Model) -> list[tf.Variable]:
    """The trainable variables that the outputs depend on; with --max_level=4 the backbone's last stages are
    not among them."""
    used = {id(v) for v in tf.keras.Model(model.inputs, model.outputs).variables}
    return [v for v in model.trainable_variables if id(v) in used]


def _rows(images: tf.Tensor) -> int | tf.Tensor:
    """How many images a batch has: a number where the dataset fixes it, as replicas, XLA and TPUs want it."""
    return tf.shape(images)[0] if images.shape[0] is None else images.shape[0]


def compiled(flag: str, text: str) -> re.Pattern:
    """Compiles a flag's regular expression; raises FlagError where it is none."""
    try:
        return re.compile(text)
    except re.error as error:
        raise FlagError(f"--{flag}={text}: not a regular expression ({error})") from error
