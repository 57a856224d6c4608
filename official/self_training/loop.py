"""The paper's loop (section 3.1): train a teacher, label the unlabelled images, train a student.

    teacher   labels alone, `teacher_steps`
    labels    every unlabelled image, once
    student   starts from the teacher, human and pseudo labels together, `student_steps`
    control   labels alone: what the student must be compared with

Every phase leaves its result in its folder, so a run that is started again skips what is done.

What makes the control *fair*: it differs from the student in one thing, it sees no pseudo label. It is the
same network from the same first weights as the teacher (--init, --init_checkpoint), trained
  - as many steps as went into the student: the teacher's own, those of the teachers before it included (also
    of a --teacher that was trained elsewhere), plus the student's;
  - with the student's augmentation (--student_augment), the teacher's batch size and learning rate;
  - on the teacher's schedule stretched over those steps: --decay_boundaries and --decay_every, which are
    meant for the teacher's steps, are multiplied by all steps / teacher's steps (a cosine has no step of its
    own to stretch).
Where --patience ends teacher or student early, the control takes as many steps as they took, and is not ended
early itself: it sees the evaluation data no more often than they did. With --take=best each of the three
takes its own best.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any, Callable

import numpy as np
import tensorflow as tf

from official.data.source import Source
from official.data.unreadable import naming_unreadable
from official.experiment import Experiment
from official.files import write_json
from official.models.weights.import_checkpoint import initialize_backbone
from official.screen import note, warn
from official.self_training import thresholds
from official.self_training.inspect_labels import show_labels
from official.self_training.label_store import LabelStore
from official.self_training.labeler import label_source
from official.tasks.augmentation import student_options
from official.tasks.registry import build_task
from official.tasks.task import Task
from official.trained_model import ModelError, TrainedModel, check_classes, describe
from official.training.distribution import evaluation_scope, is_chief, require_workers, worker_of
from official.training.loading import fill_joint_head, fill_model, find_model, load_model, starting_weights
from official.training.recovery import weights_sha256
from official.training.run_phase import MADE_FROM, PhaseRun, kept_metrics, read_result, write_result
from official.training.run_plan import RunPlan
from official.training.sharing import evaluate_together
from official.training.summaries import Summaries
from official.training.trainer import Phase, Trainer


@dataclasses.dataclass(frozen=True)
class SelfTraining:
    """One run of the loop on opened data."""

    task: Task
    experiment: Experiment
    strategy: tf.distribute.Strategy
    labeled: Source
    unlabeled: Source | None
    evaluation: Source | None
    joint: Source | None = None  # images with classes, for joint training
    plan: RunPlan | None = None  # says how long it takes

    def train_teacher(self) -> dict[str, Any]:
        """Trains on labels alone, from `--init_checkpoint` or what `--init` says; or takes and evaluates
        `--teacher`.
        """
        options = self.experiment.training
        if options.teacher:
            return self._given_teacher(find_model(options.teacher, "--teacher"))
        return self._run(self._supervised("teacher", options.teacher_steps), *self._start("teacher"))

    def _given_teacher(self, teacher: TrainedModel) -> dict[str, Any]:
        """The result of a teacher that nobody has to train, evaluated as the network that it was trained as.

        Raises:
          ModelError: it knows other classes.
        """
        folder = os.path.join(self.experiment.runtime.model_dir, "teacher")
        done = read_result(folder)
        if done:
            return done
        check_classes(teacher, self.task.categories, f"--teacher={self.experiment.training.teacher}")
        with evaluation_scope(self.strategy):
            task, model = load_model(teacher, self.experiment)
        result: dict[str, Any] = {"steps": 0, "seconds": 0.0, "images_seen": 0, "skipped_steps": 0}
        result |= {
            "checkpoint": os.path.abspath(teacher.path),
            "weights_sha256": weights_sha256(model.variables),
        }
        chief = is_chief(self.strategy)
        if self.evaluation is not None:
            with naming_unreadable(self.evaluation):
                place = os.path.join(folder, "evaluation")
                metrics = evaluate_together(
                    self.strategy, task, model, self.evaluation, place, "evaluating teacher"
                )
            result.update(kept_metrics(task, metrics))
        return write_result(folder, result, chief=chief)

    def finished(self, phase: str) -> bool:
        """Whether a phase has left its result."""
        return bool(read_result(os.path.join(self.experiment.runtime.model_dir, phase)))

    def train_control(
        self, teacher_result: dict[str, Any] | None = None, student_result: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Trains on labels alone, as the module says.

        Args:
          teacher_result: what `train_teacher` returned; None: the teacher is --teacher, or is being trained
            beside.
          student_result: what `train_student` returned; None: it takes all its steps.
        """
        options = self.experiment.training
        start, origin = self._start("control")
        teacher_steps, teacher_origin = options.teacher_steps, origin
        if teacher_result or options.teacher:
            path = (
                teacher_result["checkpoint"]
                if teacher_result
                else find_model(options.teacher, "--teacher").path
            )
            teacher_steps, teacher_origin = describe(path).total_steps, describe(path).origin
        # All that it took, whichever checkpoint goes on.
        own = 0 if options.teacher else (teacher_result or {}).get("steps", 0)
        if own and teacher_steps:
            teacher_steps += own - describe(path).step
        before = teacher_steps or options.teacher_steps
        steps = before + (student_result or {}).get("steps", options.student_steps)
        planned = before + (options.teacher_steps - own if own else 0)
        if not teacher_steps:
            note(
                f"control: how long the teacher was trained is not known; --teacher_steps={before} stands "
                f"for it"
            )
        phase = self._supervised("control", steps, stretch=steps / planned, may_end=False)
        there = {name: teacher_origin.get(name, origin[name]) for name in origin}
        if there != origin:
            warn(f"the control is not fair: it starts from {origin}, the teacher from {there}")
        return self._as_student()._run(phase, start, origin)

    def _supervised(self, name: str, steps: int, **more: Any) -> Phase:
        """A phase on labels alone; teacher and control take one batch size."""
        own = self.experiment.training.teacher_batch_size > 0
        flag = "teacher_batch_size" if own else "batch_size"
        return Phase(name, steps, self.labeled, joint=self.joint, batch_flag=flag, **more)

    def make_labels(self, checkpoint: str) -> dict[str, Any] | None:
        """Labels the unlabelled images with the model in a checkpoint folder; returns the manifest.

        Several workers label a part of the shards each, and wait for the others'.
        """
        assert self.unlabeled is not None
        store, (worker, workers) = self.label_store(), worker_of(self.strategy)
        teacher = describe(checkpoint)
        with evaluation_scope(self.strategy):
            task, model = load_model(teacher, self.experiment)
        sha256 = weights_sha256(model.variables)
        options = task.experiment.pseudo_labels
        share = {
            "shard_index": options.shard_index * workers + worker,
            "num_shards": options.num_shards * workers,
        }
        mine = task.experiment.with_flags(share)
        manifest = label_source(task, model, self.unlabeled, store, mine, sha256, teacher.deciding())
        if manifest is None and workers > 1:
            return store.wait(functools.partial(require_workers, self.strategy))
        return manifest

    def read_labels(self) -> tuple[Source, dict[str, Any]]:
        """The pseudo-labelled source at the run's thresholds, and its numbers for the summary."""
        assert self.unlabeled is not None
        options = self.experiment.pseudo_labels
        store = self.label_store()
        chief = is_chief(self.strategy)
        threshold, by_class = thresholds.settle(self.experiment, self.labeled, store, chief=chief)
        pseudo, confidence, found = store.read(
            self.unlabeled,
            threshold,
            by_class,
            probabilities=options.soft_labels,
            ignore_above=options.ignore_above,
        )
        numbers = {
            "images": len(pseudo),
            **found,
            "threshold": options.score_threshold,
            "skipped": store.manifest()["skipped"],
        }
        chosen = store.kind().chosen(pseudo, confidence, options)
        if len(chosen) != len(pseudo) or (np.diff(chosen) != 1).any():
            pseudo = pseudo.subset(chosen)
            numbers["images_used"] = len(pseudo)
        folder = os.path.join(self.experiment.runtime.model_dir, "student")
        show_labels(Summaries(folder, chief=chief), self.task, pseudo, store)
        return pseudo, numbers

    def train_student(self, pseudo: Source, teacher_result: dict[str, Any]) -> dict[str, Any]:
        """Trains on human and pseudo labels together, from the teacher (what `train_teacher` returned) by
        default.
        """
        options, teacher = self.experiment.training, describe(teacher_result["checkpoint"])
        if options.student_init == "teacher":
            start: Callable[[Trainer], None] | None = functools.partial(_from_teacher, teacher)
            origin = teacher.origin
        else:
            init = "" if options.student_init == "scratch" else options.student_init
            start, origin = self._start("student", init)
        phase = Phase(
            "student",
            options.student_steps,
            self.labeled,
            pseudo,
            joint=self.joint,
            learning_rate=self.experiment.optimizer.student_learning_rate,
            earlier_steps=teacher.total_steps or None,
        )
        made_from = {"teacher": teacher_result["weights_sha256"], "labels": self.label_store().fingerprint()}
        origin = {**origin, "student_init": options.student_init, MADE_FROM: made_from}
        return self._as_student()._run(phase, start, origin)

    def _as_student(self) -> SelfTraining:
        """The same run with the student's augmentation."""
        experiment = student_options(self.experiment)
        return dataclasses.replace(
            self, experiment=experiment, task=build_task(experiment, self.task.categories)
        )

    def label_store(self) -> LabelStore:
        """The store that this run writes and reads."""
        folder = self.experiment.pseudo_labels.label_store
        return LabelStore(folder or os.path.join(self.experiment.runtime.model_dir, "pseudo_labels"))

    def _run(self, phase: Phase, initialize: Callable | None, origin: dict[str, Any]) -> dict[str, Any]:
        told = functools.partial(self.plan.measured, phase.name) if self.plan is not None else None
        return PhaseRun(
            self.task, self.experiment, phase, self.evaluation, self.strategy, initialize, origin, told
        ).run()

    def _start(self, phase: str, init: str = "") -> tuple[Callable[[Trainer], None] | None, dict[str, Any]]:
        """What gives a new trainer its first weights (None: they stay random), and what to call it.

        Args:
          phase: whose folder the report of what was set goes to.
          init: replaces --init, and --init_checkpoint with it.
        """
        options = self.experiment.training
        whole, init = ("", init) if init else (options.init_checkpoint, options.init)
        origin = {"init": _absolute(init), "init_checkpoint": _absolute(whole)}
        if whole:
            return functools.partial(self._from_whole, whole), origin
        return (None if init == "random" else functools.partial(self._from_file, phase, init)), origin

    def _from_whole(self, path: str, trainer: Trainer) -> None:
        model = find_model(path, "--init_checkpoint")
        check_classes(model, self.task.categories, f"--init_checkpoint={path}")
        _from_teacher(model, trainer)

    def _from_file(self, phase: str, init: str, trainer: Trainer) -> None:
        model = trainer.model
        weights = starting_weights(init, self.experiment.training, self.experiment.model, model.backbone)
        report = initialize_backbone(model, init, weights)
        if is_chief(self.strategy):
            write_json(os.path.join(self.experiment.runtime.model_dir, phase, "initialized.json"), report)


def _from_teacher(teacher: TrainedModel, trainer: Trainer) -> None:
    """Gives a trainer a whole network's weights, in joint training with its classification head.

    Raises:
      ModelError: the head knows other classes.
    """
    if trainer.joint_model is not None and teacher.joint_classes:
        assert trainer.phase.joint is not None
        classes = tuple(category.name for category in trainer.phase.joint.categories)
        if classes != teacher.joint_classes:
            raise ModelError(
                f"{teacher.path} was trained jointly on the classes {teacher.joint_classes}, --joint_data "
                f"has {classes}"
            )
        fill_joint_head(teacher, trainer.joint_model)
    fill_model(teacher, trainer.model)


def _absolute(path: str) -> str:
    return os.path.abspath(path) if os.path.exists(path) else path
