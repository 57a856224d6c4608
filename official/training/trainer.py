"""The data of one phase, and the loop's view of its model: batches from any step on, one compiled step, the
guard.

The step itself is `official/training/step.py`, through `SelfTrainingModel.train_step` as in Keras' `fit`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Callable, Iterator

import tensorflow as tf

from official.data.pipeline import Worker
from official.data.source import Source
from official.experiment import Experiment
from official.tasks.task import Task, Tensors
from official.training.accumulation import AccumulatedStep
from official.training.distribution import check_batch, distribute
from official.training.guard import NonFiniteError as NonFiniteError
from official.training.keras_model import SelfTrainingModel
from official.training.memory import check_memory
from official.training.optimizer import build_optimizer


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training run inside an experiment.

    Attributes:
      name: "teacher", "student" or "control"; names the folder.
      steps: how many.
      human: the labelled source.
      pseudo: the pseudo-labelled source, or None.
      joint: a source with classes of images for joint training, or None.
      learning_rate: replaces the optimizer's when above 0.
      batch_flag: the option that sizes the human stream: "batch_size" or "teacher_batch_size".
      earlier_steps: those of the teachers before it; None: not known.
      stretch: factor on the schedule's boundaries and decay interval, which are meant for another number of
        steps.
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


class Trainer:
    """Owns a Keras model that self-trains, and its data.

    Attributes:
      keras_model: whose `train_step` is run; what it is made of (`model` the network, `joint_model`, `tasks`,
        `optimizer`, `averages` of the losses, `weight_average` (None without one), `guard`, `variables` that
        are trained and those that are `decayed`) is also here.
      sources, batch_sizes: by stream.
    """

    def __init__(
        self, task: Task, experiment: Experiment, phase: Phase, strategy: tf.distribute.Strategy
    ) -> None:
        """Builds everything under the strategy's scope.

        Raises:
          FlagError: a batch size that the replicas cannot share evenly or that cannot fit into memory, or
            everything frozen.
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
            joint = self.sources["joint"].categories if "joint" in self.sources else ()
            self.keras_model = SelfTrainingModel(task, joint_classes=joint, experiment=experiment)
            optimizer = build_optimizer(
                experiment.optimizer, phase.steps, learning_rate=phase.learning_rate, stretch=phase.stretch
            )
            self.keras_model.compile(optimizer)
        made = self.keras_model.step
        assert made.optimizer is not None  # of `compile`
        self.model, self.joint_model, self.tasks, self.optimizer = (
            made.network,
            made.joint_network,
            made.tasks,
            made.optimizer,
        )
        self.averages, self.guard, self.weight_average = made.averages, made.guard, made.weight_average
        self.variables, self.decayed = made.variables, made.decayed
        here = len(strategy.extended.worker_devices) if self.replicas > 1 else 1
        check_memory(experiment, self.model, self.batch_sizes, share=here / self.replicas)
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

    def batches(self) -> Iterator[Any]:
        """Batches from the current step on, one per step; with --accumulate a tuple of their parts."""
        start, parts = self.step, self.experiment.training.accumulate

        def make(worker: Worker, replicas: int) -> tf.data.Dataset:
            streams = {name: self._stream(name, start, worker, replicas) for name in self.batch_sizes}
            return tf.data.Dataset.zip(streams)

        dataset = iter(distribute(self.strategy, make))
        return dataset if parts == 1 else zip(*[dataset] * parts)

    def train_step(self, batch: Any) -> Tensors:
        """One step on one (distributed) batch; returns scalars by name."""
        return self._run_step(batch)

    def check(self, metrics: Tensors) -> None:
        """Raises NonFiniteError if the guard has stopped the run."""
        self.keras_model.step.check(metrics, self.phase.name)

    # --- inside -----------------------------------------------------------------------------------

    def _batch_sizes(self) -> dict[str, int]:
        training = self.experiment.training
        flags = {"human": self.phase.batch_flag, "pseudo": "pseudo_batch_size", "joint": "joint_batch_size"}
        sizes = {name: getattr(training, flags[name]) for name in self.sources}
        for name, size in sizes.items():
            check_batch(self.strategy, flags[name], size, training.accumulate)
        return sizes

    def _stream(self, name: str, start: int, worker: Worker, replicas: int) -> tf.data.Dataset:
        size = self.batch_sizes[name]
        return self.tasks[name].training_dataset(
            self.sources[name],
            batch_size=size,
            replica_batch_size=size // (replicas * self.experiment.training.accumulate),
            parts=self.experiment.training.accumulate,
            seed=self.experiment.runtime.seed,
            stream=f"{self.phase.name}/{name}",
            start_step=start,
            worker=worker,
            threads=self.experiment.runtime.threads,
        )

    def _compile(self) -> Callable[[Any], Tensors]:
        by_xla, parts = (
            self.experiment.runtime.xla and self.replicas == 1,
            self.experiment.training.accumulate,
        )
        if parts > 1:
            return AccumulatedStep(self.keras_model.step, self.strategy, parts, by_xla=by_xla)

        @tf.function(jit_compile=by_xla or None, autograph=False)  # no branch of the step hangs on a tensor
        def one_replica(batch):
            return self.keras_model.train_step(batch)

        @tf.function(autograph=False)
        def many_replicas(batch):
            metrics = self.strategy.run(self.keras_model.train_step, args=(batch,))
            return {k: self.strategy.experimental_local_results(v)[0] for k, v in metrics.items()}

        return one_replica if self.replicas == 1 else many_replicas
