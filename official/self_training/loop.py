"""The paper's loop (section 3.1): train a teacher, label the unlabelled pictures, train a student.

    teacher   labels alone, `teacher_steps`
    labels    every unlabelled picture, once
    student   starts from the teacher, human and pseudo labels together, `student_steps`
    control   labels alone, teacher's plus student's steps: what the student must be compared with

Every phase leaves its result in its folder, so a run that is started again skips what is done.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import tensorflow as tf

from official.data.source import Source
from official.files import read_json, write_json
from official.experiment import Experiment
from official.models.import_checkpoint import initialize_backbone
from official.self_training.label_store import LabelStore
from official.self_training.labeler import label_source
from official.tasks.augmentation import student_options
from official.tasks.registry import build_task
from official.tasks.task import Task
from official.training.distribution import is_chief, judging_scope
from official.training.recovery import find_checkpoint, restore_checkpoint, weights_sha256
from official.training.run_phase import RESULT, PhaseRun, kept_metrics
from official.training.summaries import Summaries
from official.training.trainer import Phase
from official.training.weight_average import WeightAverage


@dataclasses.dataclass(frozen=True)
class SelfTraining:
    """One run of the loop on opened data."""

    task: Task
    experiment: Experiment
    strategy: tf.distribute.Strategy
    labeled: Source
    unlabeled: Source | None
    evaluation: Source | None
    joint: Source | None = None  # pictures with classes, for joint training

    def train_teacher(self) -> dict[str, Any]:
        """Trains on labels alone, from `--init_checkpoint` or what `--init` says; or takes and judges `--teacher`."""
        if self.experiment.training.teacher:
            return self._given_teacher(find_checkpoint(self.experiment.training.teacher))
        steps = self.experiment.training.teacher_steps
        return self._run(self._supervised("teacher", steps), self._initial_weights("teacher"))

    def _given_teacher(self, checkpoint: str) -> dict[str, Any]:
        """The result of a teacher that nobody has to train.

        Raises:
          ValueError: it knows other classes.
        """
        folder = os.path.join(self.experiment.runtime.model_dir, "teacher")
        done = read_json(os.path.join(folder, RESULT))
        if done:
            return done
        self._check_classes(checkpoint)
        with judging_scope(self.strategy):
            model = load_weights(self.task, checkpoint)
        result = {"steps": 0, "seconds": 0.0, "images_seen": 0, "skipped_steps": 0, "checkpoint": checkpoint}
        result["weights_sha256"] = weights_sha256(model.variables)
        if is_chief(self.strategy):
            if self.evaluation is not None:
                metrics = self.task.evaluate(model, self.evaluation, os.path.join(folder, "evaluation"), "evaluating teacher")
                result.update(kept_metrics(self.task, metrics))
            write_json(os.path.join(folder, RESULT), result)
        return result

    def _check_classes(self, checkpoint: str) -> None:
        run = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(checkpoint))))
        known = [c["name"] for c in read_json(os.path.join(run, "run.json")).get("categories", [])]
        wanted = [category.name for category in self.task.categories]
        if known and known != wanted:
            raise ValueError(f"--teacher: {run} knows the classes {known}, the labelled data have {wanted}")

    def train_control(self) -> dict[str, Any]:
        """Trains on labels alone by the teacher's recipe, for teacher's plus student's steps."""
        options = self.experiment.training
        steps = options.teacher_steps + options.student_steps
        return self._run(self._supervised("control", steps), self._initial_weights("control"))

    def _supervised(self, name: str, steps: int) -> Phase:
        """A phase on labels alone; teacher and control take one batch size: they differ in length alone."""
        own = self.experiment.training.teacher_batch_size > 0
        flag = "teacher_batch_size" if own else "batch_size"
        return Phase(name, steps, self.labeled, joint=self.joint, batch_flag=flag)

    def make_labels(self, checkpoint: str) -> dict[str, Any] | None:
        """Labels the unlabelled pictures with the model in a checkpoint folder; returns the manifest."""
        store = self.label_store()
        if not is_chief(self.strategy):
            return store.wait()
        with judging_scope(self.strategy):
            model = load_weights(self.task, checkpoint)
        sha256 = weights_sha256(model.variables)
        return label_source(self.task, model, self.unlabeled, store, self.experiment, sha256)

    def read_labels(self) -> tuple[Source, dict[str, Any]]:
        """The pseudo-labelled source at the run's thresholds, and its numbers for the summary."""
        options = self.experiment.pseudo_labels
        store = self.label_store()
        thresholds = parse_thresholds(options.class_thresholds)
        pseudo, surety, found = store.read(
            self.unlabeled, options.score_threshold, thresholds, probabilities=options.soft_labels
        )
        numbers = {
            "images": len(pseudo),
            **found,
            "threshold": options.score_threshold,
            "skipped": store.manifest()["skipped"],
        }
        chosen = store.kind().chosen(pseudo, surety, options)
        if len(chosen) != len(pseudo) or (np.diff(chosen) != 1).any():
            pseudo = pseudo.subset(chosen)
            numbers["images_used"] = len(pseudo)
        self._show_labels(pseudo, store)
        return pseudo, numbers

    def train_student(self, pseudo: Source, teacher_checkpoint: str) -> dict[str, Any]:
        """Trains on human and pseudo labels together, from the teacher by default."""
        options = self.experiment.training

        def from_teacher(model):
            restore_weights(self.task, model, teacher_checkpoint)

        if options.student_init == "teacher":
            start = from_teacher
        else:
            init = options.init if options.student_init == "scratch" else options.student_init
            start = self._initial_weights("student", init)
        rate = self.experiment.optimizer.student_learning_rate
        phase = Phase("student", options.student_steps, self.labeled, pseudo, rate, self.joint)
        student = student_options(self.experiment)
        return dataclasses.replace(self, experiment=student, task=build_task(student, self.task.categories))._run(phase, start)

    def label_store(self) -> LabelStore:
        """The store that this run writes and reads."""
        folder = self.experiment.pseudo_labels.label_store
        return LabelStore(folder or os.path.join(self.experiment.runtime.model_dir, "pseudo_labels"))

    def _run(self, phase: Phase, initialize) -> dict[str, Any]:
        return PhaseRun(self.task, self.experiment, phase, self.evaluation, self.strategy, initialize).run()

    def _initial_weights(self, phase: str, init: str = ""):
        """A function that gives a new model its first weights, or None for random ones.

        Args:
          phase: whose folder the report of what was set goes to.
          init: replaces --init, and --init_checkpoint with it.
        """
        options = self.experiment.training
        if options.init_checkpoint and not init:
            return lambda model: restore_weights(self.task, model, find_checkpoint(options.init_checkpoint))
        init = init or options.init
        if init == "random":
            return None

        def from_file(model):
            report = initialize_backbone(model, init, options.weights_dir, self.experiment.model.backbone)
            if is_chief(self.strategy):
                write_json(os.path.join(self.experiment.runtime.model_dir, phase, "initialized.json"), report)

        return from_file

    def _show_labels(self, pseudo: Source, store: LabelStore) -> None:
        folder = os.path.join(self.experiment.runtime.model_dir, "student", "logs")
        summaries = Summaries(folder, chief=is_chief(self.strategy))
        summaries.histogram("pseudo_labels/used_scores", store.kind().used_scores(pseudo), 0)
        histogram = store.manifest()["score_histogram"]  # of every stored score, by bins of equal width
        centres = (np.arange(len(histogram)) + 0.5) / len(histogram)
        summaries.histogram("pseudo_labels/stored_scores", np.repeat(centres, np.minimum(histogram, 10_000)), 0)
        pictures = []
        for i in range(min(self.experiment.runtime.pictures, len(pseudo))):
            image = pseudo.read_image(tf.constant(i, tf.int64)).numpy()
            pictures.append(self.task.draw(image, self._pseudo_labels_of(pseudo, i)))
        summaries.pictures("pseudo_labels", pictures, 0)
        summaries.flush()

    def _pseudo_labels_of(self, pseudo: Source, index: int) -> dict[str, Any]:
        if pseudo.annotations is not None:
            return pseudo.annotations.of(index)
        if pseudo.image_probabilities is not None:
            return {"class": pseudo.image_classes[index], "score": pseudo.image_probabilities[index].max()}
        return self.task.human_labels(pseudo, index)


def load_weights(task: Task, checkpoint: str) -> tf.keras.Model:
    """A new model with the weights of a checkpoint folder."""
    model = task.build_model()
    restore_weights(task, model, checkpoint)
    return model


def restore_weights(task: Task, model: tf.keras.Model, checkpoint: str) -> None:
    """Puts the weights of a checkpoint folder into a model: the averaged ones where the run keeps an average."""
    decay = task.experiment.optimizer.weight_average
    if not decay:
        restore_checkpoint(tf.train.Checkpoint(model=model), checkpoint, partial=True)
        return
    average = WeightAverage(model, decay)
    restore_checkpoint(tf.train.Checkpoint(weight_average=average), checkpoint, partial=True)
    average.put_into(model)


def parse_thresholds(text: str) -> dict[str, float]:
    """`disc=0.6,ring=0.4` -> {"disc": 0.6, "ring": 0.4}.

    Raises:
      ValueError: an entry without a number.
    """
    found = {}
    for entry in filter(None, text.split(",")):
        name, _, value = entry.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise ValueError(f"class_thresholds: {entry!r} is not NAME=NUMBER") from None
    return found
