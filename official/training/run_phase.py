"""Runs one phase (teacher, student or control) from its last checkpoint to its end, and evaluates it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import time
from typing import Any, Callable, Mapping

import numpy as np
import tensorflow as tf

from official.data.pipeline import example_reader
from official.data.source import Source
from official.data.unreadable import naming_unreadable
from official.experiment import Experiment
from official.files import read_json, require_space, write_json
from official.screen import duration, stamped, warn
from official.tasks.task import Task
from official.trained_model import ModelError, TrainedModel, describe, described
from official.training.distribution import (
    chiefs,
    evaluation_scope,
    is_chief,
    require_agreement,
    several_workers,
    summed,
    workers_together,
)
from official.training.progress import SHOWN_METRICS, PhaseProgress
from official.training.recovery import (
    RESULT,
    Checkpoints,
    last_checkpoint,
    newest_whole,
    result_checkpoint,
    weights_sha256,
)
from official.training.sharing import evaluate_together
from official.training.stopping import StopRequest
from official.training.summaries import Summaries
from official.training.trainer import Phase, Trainer

MADE_FROM = "made_from"  # in a description's origin: fingerprints of the teacher and of the labels
CHECK_EVERY = 10  # steps between looks at the guard and updates of the progress bar
# The first step traces the network forward and backward: measured on CPUs, so many times what building it
# takes (2.3 to 3.3, four networks).
GRAPH_SHARE = 3.0
# A loss that explodes: so many times the lowest so far (1, where that is lower), but at most 10,000.
EXPLODED, EXPLODED_AT_MOST = 100.0, 1e4


@dataclasses.dataclass
class PhaseRun:
    """A phase in its folder `<model_dir>/<name>`: checkpoints, logs, evaluation, result.json.

    Attributes:
      initialize: gives a new trainer its first weights; None: they stay random.
      origin: what it starts from, for the description of its checkpoints.
      told: (seconds of the first step, of one after it, steps left) -> what to say of the time, once steps
        are measured.
    """

    task: Task
    experiment: Experiment
    phase: Phase
    eval_source: Source | None
    strategy: tf.distribute.Strategy
    initialize: Callable[[Trainer], None] | None = None
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)
    told: Callable[[float, float, int], str] | None = None

    def run(self) -> dict[str, Any]:
        """Trains what is left, evaluates, and returns the result (also when it was there already).

        Raises:
          Interrupted: a signal came; the state is saved.
          NonFiniteError: see `Trainer.check`; the last good checkpoint is kept.
          WorkerLost: another worker has died.
        """
        with workers_together(self.strategy):
            return self._run()

    def _run(self) -> dict[str, Any]:
        self.folder = os.path.join(self.experiment.runtime.model_dir, self.phase.name)
        self.chief = is_chief(self.strategy)
        done = read_result(self.folder)
        if not done:
            newest_whole(os.path.join(self.folder, "checkpoints"), chief=self.chief)
        self._check_origin()
        if done:
            return done
        began = time.time()
        self.trainer = Trainer(self.task, self.experiment, self.phase, self.strategy)
        self.build_seconds = time.time() - began
        self.checkpoints = Checkpoints(
            os.path.join(self.folder, "checkpoints"),
            self.trainer.checkpointed(),
            keep=self.experiment.runtime.keep_checkpoints,
            chief=self.chief,
        )
        restored = self.checkpoints.restore_latest()
        meta = self.checkpoints.meta(restored) if restored else {}
        self.seconds_before = float(meta.get("seconds", 0.0))
        self.scores = {int(step): score for step, score in meta.get("scores", {}).items()}
        # The last evaluation of this start, and its step.
        self.evaluated: tuple[int, dict[str, Any]] = (
            0,
            {},
        )
        self.started = time.time()
        if not restored and self.chief:
            self._require_space()
        self.lowest, self.exploded = math.inf, False  # losses of this start
        if not restored and self.initialize:
            self.initialize(self.trainer)
            if self.trainer.weight_average is not None:
                self.trainer.weight_average.start_from(self.trainer.model)
        self.summaries = Summaries(self.folder, chief=self.chief)
        options = self.experiment
        self.summaries.flags(options.flags(), Experiment().flags(), options.decisive_flags())
        self._train()
        seconds, step = self._seconds(), self.trainer.step
        metrics = self.evaluated[1] if self.evaluated[0] == step else self._evaluate(step)
        taken = self._taken(step)
        if taken != step:
            self.checkpoints.restore(taken)
            metrics = self._evaluated()[1]
        return self._finish(metrics, seconds, step, taken)

    def _require_space(self) -> None:
        """Whether the disk takes the checkpoints of this phase and of those that follow it.

        Raises:
          UserError: how much is missing, before hours of training have gone into it.
        """
        runtime, steps = self.experiment.runtime, self.phase.steps
        # The best, and one being written.
        kept = min(runtime.keep_checkpoints + 2, -(-steps // runtime.checkpoint_every))
        later = {
            "teacher": 1 + self.experiment.training.control,
            "student": int(self.experiment.training.control),
        }
        phases = 1 + (later.get(self.phase.name, 0) if runtime.job == "self_train" else 0)
        require_space(
            self.folder, self.trainer.checkpoint_bytes() * kept * phases, f"{phases * kept} checkpoints"
        )

    def _check_origin(self) -> None:
        """Raises ModelError where the phase has begun with another teacher or other labels."""
        last, now = last_checkpoint(self.folder), self.origin.get(MADE_FROM, {})
        there = describe(last).origin.get(MADE_FROM, now) if last and now else now
        differing = [name for name in now if there.get(name) != now[name]]
        if differing:
            raise ModelError(
                f"{self.folder} was made from another {' and other '.join(differing)} than are given now "
                f"({there} there, {now} now). Give it those again, or use another --model_dir."
            )

    def _seconds(self) -> float:
        """Of training, those of earlier starts (up to the checkpoint that this one went on from) included."""
        return round(self.seconds_before + time.time() - self.started, 2)

    def _save(self, step: int, **more: Any) -> None:
        scores = {str(evaluated): score for evaluated, score in self.scores.items()}
        meta = {"seconds": self._seconds(), **({"scores": scores} if scores else {}), **more}
        self.checkpoints.save(step, meta, self._description(step, ended="score" in more).to_json())

    def _description(self, step: int, *, ended: bool) -> TrainedModel:
        joint = self.phase.joint if self.trainer.joint_model is not None else None
        before = self.phase.earlier_steps
        return described(
            self.experiment,
            self.task.categories,
            phase=self.phase.name,
            step=step,
            steps=step if ended else self.phase.steps,
            averaged=self.trainer.weight_average is not None,
            total_steps=0 if before is None else before + step,
            joint_classes=tuple(c.name for c in joint.categories) if joint else (),
            origin=self.origin,
        )

    # --- training ---------------------------------------------------------------------------------

    def _train(self) -> None:
        trainer, steps = self.trainer, self.phase.steps
        first = trainer.step
        require_agreement(self.strategy, first)
        if first >= steps:
            return
        if self._due(first) and first not in self.scores:  # the start before was stopped in between
            self._evaluate(first)
        if self._ends(first):
            return
        self._warn_of_xla()
        runtime = self.experiment.runtime
        self.progress = PhaseProgress(
            self.phase.name,
            steps,
            first=first,
            images=sum(trainer.batch_sizes.values()),
            shown=self.chief,
            told=self.told,
            every={"evaluation": runtime.eval_every, "checkpoint": runtime.checkpoint_every},
        )
        with self.progress, naming_unreadable(*trainer.sources.values()), StopRequest() as stop:
            self.progress.building(_building(trainer.model, self.build_seconds))
            clock, since = time.time(), first
            for step, batch in zip(range(first + 1, steps + 1), trainer.batches()):
                if step == first + 1:
                    self._show_batch(batch, first)
                metrics = trainer.train_step(batch)
                if step % CHECK_EVERY == 0 or step == steps or step == first + 1:
                    trainer.check(metrics)
                    self._watch(float(metrics["loss"]), step)
                    self.progress.step(step, float(metrics["loss"]))
                if step % runtime.summary_every == 0 or step == steps:
                    rate = (step - since) * self.progress.images / max(1e-9, time.time() - clock)
                    self.summaries.scalars({**metrics, "images_per_second": rate}, step)
                    clock, since = time.time(), step
                self._keep(step, metrics)
                if self._due(step) and self._ends(step):
                    break
                self._check_stop(stop, step, metrics)

    def _warn_of_xla(self) -> None:
        on_cpu = not any(device.device_type in ("GPU", "TPU") for device in tf.config.list_logical_devices())
        if self.experiment.runtime.xla and on_cpu and self.trainer.replicas == 1 and self.chief:
            warn(
                f"{self.phase.name}: --xla compiles the whole step before the first one, which takes many "
                "minutes on a CPU; without --xla the first step comes after seconds."
            )

    def _watch(self, loss: float, step: int) -> None:
        """Says once that the loss explodes: finite, so the guard lets it pass, but nothing is learned any
        more.
        """
        self.lowest = min(self.lowest, loss)
        limit = min(EXPLODED * max(1.0, self.lowest), EXPLODED_AT_MOST)
        if loss > limit and not self.exploded:
            self.exploded = True
            warn(
                f"{self.phase.name}: the loss explodes ({loss:.3g} at step {step}): nothing is "
                "learned any more. Lower --learning_rate or --alpha, set --clip_norm, or lengthen "
                "--warmup_steps, and begin anew in another --model_dir."
            )

    def _keep(self, step: int, metrics: dict) -> None:
        due = self._due(step)
        if step % self.experiment.runtime.checkpoint_every == 0 or step == self.phase.steps or due:
            self.trainer.check(metrics)
            with self.progress.between("checkpoint"):
                self._save(step)
        if due:
            with self.progress.between("evaluation"):
                found = self._evaluate(step)
            if found:
                self.progress.evaluated(step, found, self.task.metrics, since_best(self.scores)[1])

    def _due(self, step: int) -> bool:
        """Whether a step that is not the last is one to evaluate after."""
        every = self.experiment.runtime.eval_every
        return bool(
            every and self.eval_source is not None and step and step % every == 0 and step < self.phase.steps
        )

    def _ends(self, step: int) -> bool:
        """Whether the phase ends after this step because it no longer gains; then its checkpoint says so.

        The chief decides, from scores that are in the checkpoint: a start that goes on comes to the same.
        """
        patience = self.experiment.training.patience
        if not patience or not self.phase.may_end:
            return False
        count, words = since_best(self.scores)
        if not chiefs(self.strategy, int(count >= patience)):
            return False
        with self.progress.between("checkpoint") if hasattr(self, "progress") else contextlib.nullcontext():
            self._save(step, score=self.scores.get(step))
        if self.chief:
            often = f"{count} evaluations" if count > 1 else "an evaluation"
            stamped(
                f"{self.phase.name}: ends at step {step} of {self.phase.steps}: no gain in {often}, {words} "
                f"(--patience={patience})"
            )
        return True

    def _check_stop(self, stop: StopRequest, step: int, metrics: dict) -> None:
        """Saves and ends if a signal has come; of several workers to any of them, and all end after the same
        step.
        """
        if several_workers(self.strategy) and step % CHECK_EVERY == 0:
            if summed(self.strategy, int(stop.signal_number > 0)) and not stop.signal_number:
                stop.signal_number = signal.SIGTERM
        elif several_workers(self.strategy):
            return
        if stop.signal_number and step < self.phase.steps:
            self.trainer.check(metrics)
            self._save(step)
            self.summaries.flush()
            stop.check(f"{self.phase.name} saved at step {step} of {self.phase.steps}")

    # --- evaluating ----------------------------------------------------------------------------------

    def _evaluate(self, step: int) -> dict[str, Any]:
        if self.eval_source is None:
            return {}
        model, metrics = self._evaluated()
        self.evaluated = (step, metrics)
        if not self.chief:
            return {}
        scalars = {k: v for k, v in metrics.items() if isinstance(v, float)}
        self.summaries.scalars(scalars, step, prefix="evaluation")
        self.summaries.scalars(metrics.get("per_class", {}), step, prefix="evaluation_per_class")
        for name, drawing in self.task.summary_drawings(metrics).items():
            self.summaries.drawings(f"evaluation_{name}", [drawing], step)
        self.scores[step] = float(metrics[self.task.metrics[0]])
        if step in self.checkpoints.steps():
            self.checkpoints.note_score(step, self.scores[step])
        self._show_predictions(model, step)
        return metrics

    def _evaluated(self) -> tuple[tf.keras.Model, dict[str, Any]]:
        """The model that is evaluated, and on the chief its metrics."""
        assert self.eval_source is not None
        model = self._model_to_evaluate()
        with naming_unreadable(self.eval_source):
            folder, words = os.path.join(self.folder, "evaluation"), f"evaluating {self.phase.name}"
            return model, evaluate_together(self.strategy, self.task, model, self.eval_source, folder, words)

    def _taken(self, last: int) -> int:
        """The step whose checkpoint goes on (--take), on every worker."""
        if self.experiment.training.take == "last" or self.eval_source is None:
            return last
        return chiefs(self.strategy, (self.checkpoints.best() or last) if self.chief else 0)

    def _model_to_evaluate(self) -> tf.keras.Model:
        """The model itself, on all its replicas; or a copy, for the averaged weights or where there are
        several workers.

        Reading averaged variables is collective over workers, so every worker makes the copy, and
        looks with it at its part of the images.
        """
        if self.trainer.weight_average is None and not several_workers(self.strategy):
            return self.trainer.model
        return self.trainer.keras_model.plain_network(evaluation_scope(self.strategy))

    def _show_predictions(self, model: tf.keras.Model, step: int) -> None:
        assert self.eval_source is not None
        count = min(self.experiment.runtime.drawn_images, len(self.eval_source))
        if not count or not self.task.needs_labels:  # such a task predicts nothing
            return
        read = example_reader(self.eval_source)
        drawings = []
        for i, objects in enumerate(self.task.predict(model, self.eval_source, 0, count)):
            image = read(tf.constant(i, tf.int64))["image"].numpy()
            both = {
                "human": self.task.human_labels(self.eval_source, i),
                self.phase.name: self.task.shown(objects),
            }
            drawings.append(self.task.draw_beside(self.eval_source.short_name(i), image, both))
        self.summaries.drawings("predictions", drawings, step)

    def _show_batch(self, batch: Any, step: int) -> None:
        """Images of this machine's first batch (or part of it), as the network sees them, with labels."""
        count = self.experiment.runtime.drawn_images
        if not count or not self.chief:
            return
        first = batch if self.experiment.training.accumulate == 1 else batch[0]
        for name, stream in first.items():
            own = {key: self.strategy.experimental_local_results(value) for key, value in stream.items()}
            some = {key: np.concatenate([v.numpy() for v in values])[:count] for key, values in own.items()}
            self.summaries.drawings(
                f"training_{name}", self.trainer.tasks[name].training_drawings(some), step
            )

    def _finish(self, metrics: dict[str, Any], seconds: float, steps: int, taken: int) -> dict[str, Any]:
        result = {
            **kept_metrics(self.task, metrics),
            "steps": steps,
            "weights_sha256": weights_sha256(self.trainer.model.variables),
            "seconds": round(seconds, 2),
            "images_seen": steps * sum(self.trainer.batch_sizes.values()),
            "skipped_steps": int(self.trainer.guard.skipped.numpy()),
            "checkpoint": os.path.relpath(self.checkpoints.path(taken), os.path.dirname(self.folder)),
        }
        if self.experiment.training.take == "best":
            result["taken"] = {"step": taken, "because": "best", "evaluations": len(self.scores)}
        if steps < self.phase.steps:
            result["planned_steps"] = self.phase.steps
        self.summaries.flush()
        if self.chief:
            scores = "".join(
                f", {name} {metrics[name]:.3f}"
                for name in self.task.metrics[:SHOWN_METRICS]
                if name in metrics
            )
            of_step = f" (of step {taken}, the best)" if taken != steps else ""
            stamped(f"{self.phase.name}: {steps} steps in {duration(seconds)}{scores}{of_step}")
        return write_result(self.folder, result, chief=self.chief)


def since_best(scores: Mapping[int, float]) -> tuple[int, str]:
    """How many evaluations have come after the first of the best ones, and which that is, in words; scores by
    step.
    """
    if not scores:
        return 0, ""
    steps = sorted(scores)
    best = max(steps, key=lambda step: (scores[step], -step))
    count = len(steps) - 1 - steps.index(best)
    if not count:
        return 0, "the best so far" if scores[best] > 0.0 else ""
    return count, f"best {scores[best]:.3f} at step {best}"


def _building(model: tf.keras.Model, seconds: float) -> str:
    """What is built before the first step; `seconds` is what the network has just taken on this machine."""
    about = duration(GRAPH_SHARE * seconds) if seconds >= 1.0 else "a moment"
    return (
        f"building the graph of the training step ({len(model.trainable_variables)} variables), which "
        f"takes about {about}"
    )


def read_result(folder: str) -> dict[str, Any]:
    """What a finished phase left, {} if it is not finished; its "checkpoint" is a path that can be opened."""
    result = read_json(os.path.join(folder, RESULT))
    return {**result, "checkpoint": result_checkpoint(folder, result)} if result else {}


def write_result(folder: str, result: dict[str, Any], *, chief: bool = True) -> dict[str, Any]:
    """Writes what a finished phase leaves, "checkpoint" relative to the run or absolute; returns it as
    `read_result`.
    """
    if chief:
        write_json(os.path.join(folder, RESULT), result)
    return {**result, "checkpoint": result_checkpoint(folder, result)}


def kept_metrics(task: Task, metrics: dict[str, Any]) -> dict[str, Any]:
    """What a phase's result holds of an evaluation."""
    return {name: metrics[name] for name in (*task.metrics, "per_class", "coco_stats") if name in metrics}
