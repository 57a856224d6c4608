"""The train step and the loop around it: one trainer for every task.

A step takes {"human": batch} or {"human": batch, "pseudo": batch}, makes ONE forward pass over the
concatenation, so that batch norm sees the joint batch, and asks the task for the losses of each
stream. Joint training adds a third stream, {"joint": batch}: pictures with classes, at a size of
their own, through the same backbone and a classification head; L + w L_cls (paper, section 5). The
paper says nothing of head, size or statistics: the head is a classifier's, the size is
--joint_image_size, and that pass is normalised by its own batch and leaves batch norm's moving
statistics to the pictures of the task. Every loss is a sum divided by a count that has been added up over all replicas, and the
gradients of the replicas are summed; so the numbers do not depend on how many replicas there are.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Callable, Iterator

import tensorflow as tf

from losses.joint import LossAverages, normalized_joint_loss, standard_joint_loss
from official.data.pipeline import Worker
from official.data.source import Source
from official.errors import FlagError, UserError, about_flags
from official.experiment import Experiment
from official.models.layers import statistics_kept, statistics_together, step_randomness
from official.tasks.classification import ClassificationTask
from official.tasks.task import Task, Tensors
from official.training.distribution import check_batch, distribute
from official.training.optimizer import build_optimizer, clip_by_global_norm, current_learning_rate
from official.training.weight_average import WeightAverage

KERNEL = r".*(kernel|weight):0$"  # what weight decay applies to, see also `Task.decays_biases`; original: base_config.py:18
BATCH_NORM = r".*(gamma|beta):0$"  # and, with --decay_batch_norm, these; paper, Table 12
_SUM = tf.distribute.ReduceOp.SUM


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training run inside an experiment.

    Attributes:
      name: "teacher", "student" or "control"; names the folder.
      steps: how many.
      human: the labelled source.
      pseudo: the pseudo-labelled source, or None.
      joint: a source with classes of pictures for joint training, or None.
      learning_rate: replaces the optimizer's when above 0.
      batch_flag: the option that sizes the human stream: "batch_size" or "teacher_batch_size".
      earlier_steps: those of the teachers before it; None: not known.
      stretch: factor on the schedule's boundaries and decay interval, which are meant for another number of steps.
      may_end: whether --patience ends it early.
    """

    name: str
    steps: int
    human: Source
    pseudo: Source | None = None
    learning_rate: float = 0.0
    joint: Source | None = None
    batch_flag: str = "batch_size"
    earlier_steps: int | None = 0
    stretch: float = 1.0
    may_end: bool = True


class NonFiniteError(UserError):
    """A loss or a gradient was not finite; the message names the step and the terms."""


class Trainer:
    """Owns a model, its optimizer and the step.

    Attributes:
      model, optimizer, averages (the loss averages), weight_average (None without one), step.
    """

    def __init__(self, task: Task, experiment: Experiment, phase: Phase, strategy: tf.distribute.Strategy):
        """Builds everything under the strategy's scope.

        Raises:
          ValueError: a batch size that the replicas cannot share evenly, or everything frozen.
        """
        self.task, self.experiment, self.phase, self.strategy = task, experiment, phase, strategy
        self.replicas = strategy.num_replicas_in_sync
        # With alpha = 0 the pseudo stream has no say, not even through batch norm.
        self.sources = {"human": phase.human}
        if phase.pseudo is not None and experiment.loss.alpha > 0.0:
            self.sources["pseudo"] = phase.pseudo
        if phase.joint is not None and experiment.loss.joint_weight > 0.0:
            self.sources["joint"] = phase.joint
        self.batch_sizes = self._batch_sizes()
        tf.keras.utils.set_random_seed(experiment.runtime.seed)
        with strategy.scope():
            self.model = task.build_model()
            self.tasks, self.joint_model = {name: task for name in self.sources}, None
            if "joint" in self.sources:
                self.tasks["joint"] = joint_task(experiment, phase.joint)
                self.joint_model = self.tasks["joint"].build_model(self.model.backbone)
            self.optimizer = build_optimizer(
                experiment.optimizer, phase.steps, learning_rate=phase.learning_rate, stretch=phase.stretch
            )
            self.variables = self._trained_variables()
            self.optimizer.build(self.variables)
            with about_flags():
                self.averages = LossAverages(experiment.loss.ema_decay)
            self.guard = _Guard(experiment.runtime.precision == "float16")
            decay = experiment.optimizer.weight_average
            self.weight_average = WeightAverage(self.model, decay) if decay else None
        self.decayed = [v for v in self.variables if self._is_decayed(v.name)]
        self._run_step = self._compile()

    @property
    def step(self) -> int:
        """Steps taken."""
        return int(self.optimizer.iterations.numpy())

    def checkpointed(self) -> dict[str, Any]:
        """What a checkpoint must hold for training to go on exactly."""
        found = {
            "model": self.model,
            "optimizer": self.optimizer,
            "averages": self.averages,
            "guard": self.guard,
            "joint_model": self.joint_model,
            "weight_average": self.weight_average,
        }
        return {name: part for name, part in found.items() if part is not None}

    def checkpoint_bytes(self) -> int:
        """About how much a checkpoint holds, in bytes."""
        held = [*self.model.variables, *self.optimizer.variables]
        held += self.joint_model.variables if self.joint_model is not None else []
        held += self.weight_average.shadows if self.weight_average is not None else []
        return sum(v.dtype.size * math.prod(v.shape) for v in {id(v): v for v in held}.values())

    def batches(self) -> Iterator[Tensors]:
        """Batches from the current step on, one per step."""
        start = self.step

        def make(worker: Worker, replicas: int) -> tf.data.Dataset:
            streams = {name: self._stream(name, start, worker, replicas) for name in self.batch_sizes}
            return tf.data.Dataset.zip(streams)

        return iter(distribute(self.strategy, make))

    def train_step(self, batch: Tensors) -> Tensors:
        """One step on one (distributed) batch; returns scalars by name."""
        return self._run_step(batch)

    def check(self, metrics: Tensors) -> None:
        """Raises NonFiniteError if the guard has stopped the run."""
        skipped, limit = int(self.guard.skipped.numpy()), self.experiment.runtime.max_nan_steps
        stopping = self.experiment.runtime.on_nan == "stop"
        if skipped == 0 or (not stopping and skipped <= limit):
            return
        terms = {name: float(value) for name, value in metrics.items() if not tf.math.is_finite(value)}
        raise NonFiniteError(
            f"{self.phase.name}: loss or gradient not finite at step {int(self.guard.first_bad.numpy())} "
            f"({skipped} step(s) skipped; terms not finite now: {sorted(terms) or 'none'}). Lower "
            "--learning_rate or --alpha, or set --clip_norm; --on_nan=skip goes on without such steps."
        )

    # --- inside -----------------------------------------------------------------------------------

    def _trained_variables(self) -> list[tf.Variable]:
        """All but the frozen ones; freezing does not stop batch norm's statistics (original: base_model.py:96-99)."""
        freeze, own = self.experiment.training.freeze, _connected(self.model)
        pattern = compiled("freeze", freeze)
        if self.joint_model is not None:
            known = {id(v) for v in own}
            own = own + [v for v in _connected(self.joint_model) if id(v) not in known]
        found = [v for v in own if not (freeze and pattern.match(v.name))]
        if not found:
            raise FlagError(f"--freeze={freeze} leaves nothing to train")
        return found

    def _batch_sizes(self) -> dict[str, int]:
        training = self.experiment.training
        flags = {"human": self.phase.batch_flag, "pseudo": "pseudo_batch_size", "joint": "joint_batch_size"}
        sizes = {name: getattr(training, flags[name]) for name in self.sources}
        for name, size in sizes.items():
            check_batch(self.strategy, flags[name], size)
        return sizes

    def _stream(self, name: str, start: int, worker: Worker, replicas: int) -> tf.data.Dataset:
        size = self.batch_sizes[name]
        return self.tasks[name].training_dataset(
            self.sources[name],
            batch_size=size,
            replica_batch_size=size // replicas,
            seed=self.experiment.runtime.seed,
            stream=f"{self.phase.name}/{name}",
            start_step=start,
            worker=worker,
            threads=self.experiment.runtime.threads,
        )

    def _compile(self) -> Callable[[Tensors], Tensors]:
        by_xla = self.experiment.runtime.xla and self.replicas == 1

        @tf.function(jit_compile=by_xla or None, autograph=False)  # no branch of the step hangs on a tensor
        def one_replica(batch):
            return self._replica_step(batch)

        @tf.function(autograph=False)
        def many_replicas(batch):
            metrics = self.strategy.run(self._replica_step, args=(batch,))
            return {k: self.strategy.experimental_local_results(v)[0] for k, v in metrics.items()}

        return one_replica if self.replicas == 1 else many_replicas

    def _replica_step(self, batch: dict[str, Tensors]) -> Tensors:
        """The step on one replica; the losses it returns are global."""
        targets = {name: self.tasks[name].encode(part) for name, part in batch.items()}
        counts = self._sum({name: self.tasks[name].count(target) for name, target in targets.items()})
        with tf.GradientTape() as tape:
            with statistics_together():
                outputs = self._forward(batch)
            shares, terms = {}, {}
            for name in batch:
                sums = self.tasks[name].loss_sums(outputs[name], targets[name])
                terms[name] = {k: v / self.tasks[name].normalizer(counts[name]) for k, v in sums.items()}
                shares[name] = tf.add_n(list(terms[name].values()))
            totals = self._sum({name: tf.stop_gradient(share) for name, share in shares.items()})
            loss, joint_metrics = self._join(shares, totals)
            decay = self._weight_decay_loss()
            scaled = self.guard.scaled(loss + decay / self.replicas)
        gradients = tape.gradient(scaled, self.variables)
        gradients = self._sum(self.guard.unscaled(gradients))
        total = self._sum(tf.stop_gradient(loss)) + decay
        gradients, norm = clip_by_global_norm(gradients, self.experiment.optimizer.clip_norm)
        metrics = {
            "loss": total,
            "weight_decay_loss": decay,
            "gradient_norm": norm,
            "learning_rate": current_learning_rate(self.optimizer),
            **joint_metrics,
            **self._term_metrics(totals, terms, counts),
        }
        self._apply(gradients, tf.math.is_finite(total) & tf.math.is_finite(norm))
        return metrics

    def _forward(self, batch: dict[str, Tensors]) -> dict[str, Tensors]:
        """One pass over the task's streams joined, and one over the classified pictures; outputs by stream."""
        parts = {name: part["images"] for name, part in batch.items() if name != "joint"}
        sizes = [part.shape[0] for part in parts.values()]
        words = (self.experiment.runtime.seed, tf.cast(self.optimizer.iterations, tf.int32))
        with step_randomness((*words, 0), *self._slots(sizes)):
            joined = self.model({"images": tf.concat(list(parts.values()), axis=0)}, training=True)
        split = {key: tf.split(value, sizes) for key, value in joined.items()}
        outputs = {name: {k: v[i] for k, v in split.items()} for i, name in enumerate(parts)}
        if "joint" in batch:
            images = batch["joint"]["images"]
            with step_randomness((*words, 1), *self._slots([images.shape[0]])), statistics_kept():
                outputs["joint"] = self.joint_model({"images": images}, training=True)
        return outputs

    def _slots(self, sizes: list[int]) -> tuple[tf.Tensor, int]:
        """The place of every example of this replica in the global joint batch, and that batch's size."""
        replica = 0
        if self.replicas > 1:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        slots, before = [], 0
        for size in sizes:
            slots.append(before + replica * size + tf.range(size))
            before += size * self.replicas
        return tf.concat(slots, axis=0), before

    def _join(self, shares: Tensors, totals: Tensors) -> tuple[tf.Tensor, Tensors]:
        """This replica's share of the loss, and what to report about the joining."""
        loss, reported = self._join_pseudo(shares, totals)
        if "joint" in shares:
            loss = loss + self.experiment.loss.joint_weight * shares["joint"]
        return loss, reported

    def _join_pseudo(self, shares: Tensors, totals: Tensors) -> tuple[tf.Tensor, Tensors]:
        if "pseudo" not in shares:
            return shares["human"], {}
        alpha = self.experiment.loss.alpha
        ratio = self.averages.update(totals["human"], totals["pseudo"])
        reported = {
            "human_loss_average": self.averages.human.read_value(),
            "pseudo_loss_average": self.averages.pseudo.read_value(),
            "loss_ratio": ratio,
        }
        if self.experiment.loss.joint_loss == "standard":
            loss = standard_joint_loss(shares["human"], shares["pseudo"], alpha)
            return loss, {**reported, "pseudo_weight": tf.constant(alpha)}
        loss = normalized_joint_loss(shares["human"], shares["pseudo"], alpha, ratio)
        return loss, {**reported, "pseudo_weight": alpha * ratio / (1.0 + alpha)}

    def _is_decayed(self, name: str) -> bool:
        if re.match(BATCH_NORM, name):
            return self.experiment.loss.decay_batch_norm
        return self.task.decays_biases or bool(re.match(KERNEL, name))

    def _weight_decay_loss(self) -> tf.Tensor:
        """weight_decay * 0.5 * sum of squares; outside the normalised data loss."""
        squares = [tf.nn.l2_loss(tf.cast(variable, tf.float32)) for variable in self.decayed]
        return self.experiment.loss.weight_decay * tf.add_n(squares or [tf.zeros([])])  # all kernels may be frozen

    def _term_metrics(self, totals: Tensors, terms: dict[str, Tensors], counts: Tensors) -> Tensors:
        metrics = {f"{name}_loss": total for name, total in totals.items()}
        metrics.update({f"{name}_count": count for name, count in counts.items()})
        parts = self._sum({f"{s}_{k}": tf.stop_gradient(v) for s, t in terms.items() for k, v in t.items()})
        return {**metrics, **parts}

    def _apply(self, gradients: list[tf.Tensor], finite: tf.Tensor) -> None:
        """Updates the weights, unless the step is not finite or the run has been stopped."""
        stop = self.experiment.runtime.on_nan == "stop"
        good = self.guard.admit(finite, self.optimizer.iterations, stop)
        self.optimizer.step(gradients, self.variables, good)
        if self.weight_average is not None:
            self.weight_average.update(self.model, self.optimizer.iterations.read_value())

    def _sum(self, values: Any) -> Any:
        """Adds up over replicas; no gradient flows back, and so none is prepared (see losses/replicas.py)."""
        if self.replicas == 1:
            return values
        flat = [tf.stop_gradient(value) for value in tf.nest.flatten(values)]
        summed = tf.distribute.get_replica_context().all_reduce(_SUM, flat)
        return tf.nest.pack_sequence_as(values, summed)


def _connected(model: tf.keras.Model) -> list[tf.Variable]:
    """The trainable variables that the outputs depend on; with --max_level=4 the backbone's last stages are not among them."""
    used = {id(v) for v in tf.keras.Model(model.inputs, model.outputs).variables}
    return [v for v in model.trainable_variables if id(v) in used]


def joint_task(experiment: Experiment, source: Source) -> ClassificationTask:
    """The classification task of the third stream: this experiment's augmentation, at --joint_image_size."""
    size = experiment.training.joint_image_size
    model = dataclasses.replace(experiment.model, image_size=size, linear_probe=False)
    return ClassificationTask(dataclasses.replace(experiment, model=model), source.categories)


class _Guard(tf.Module):
    """Remembers steps that were not finite, and scales the loss for float16."""

    GROWTH_STEPS = 2000

    def __init__(self, scale_loss: bool):
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


def compiled(flag: str, text: str) -> re.Pattern:
    """Compiles a flag's regular expression; raises FlagError where it is none."""
    try:
        return re.compile(text)
    except re.error as error:
        raise FlagError(f"--{flag}={text}: not a regular expression ({error})") from error
