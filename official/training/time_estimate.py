"""How long a run takes: a few real steps, timed."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tensorflow as tf

from official.data.source import Source
from official.experiment import Experiment
from official.tasks.task import Task
from official.training.trainer import Phase, Trainer

_LABELLED_BATCHES = 3  # the first one, which compiles, is not counted


def timed_steps(
    task: Task, experiment: Experiment, phase: Phase, strategy: tf.distribute.Strategy, steps: int
) -> dict[str, float]:
    """Seconds of the first step of a phase, which compiles it, and of one step after it (the median of
    `steps`).

    These are the steps that the phase would take, data and augmentation included; what they train is thrown
    away.
    """
    started = time.perf_counter()
    trainer = Trainer(task, experiment, phase, strategy)
    marks = []
    for _, batch in zip(range(steps + 1), trainer.batches()):
        float(trainer.train_step(batch)["loss"])  # waits for it
        marks.append(time.perf_counter())
    return {"first": marks[0] - started, "step": float(np.median(np.diff(marks)))}


def timed_labelling(task: Task, source: Source) -> float:
    """Seconds per image of labelling, and of evaluating, on one device."""
    batch = task.experiment.decoding.eval_batch_size
    last = min(len(source), _LABELLED_BATCHES * batch)
    marks, model = [], task.build_model()
    for _ in task.label(model, source, 0, last):
        marks.append(time.perf_counter())
    marks = marks[min(batch, last) - 1 :]  # from the end of the first batch
    return (marks[-1] - marks[0]) / max(1, len(marks) - 1)


def estimate(
    task: Task,
    experiment: Experiment,
    strategy: tf.distribute.Strategy,
    steps: int,
    labeled: Source,
    unlabeled: Source | None,
    evaluation: Source | None,
) -> dict[str, Any]:
    """Seconds of every part of a run, from real steps; the labelled images stand in for pseudo-labelled
    ones.
    """
    options = experiment.training
    flag = "teacher_batch_size" if options.teacher_batch_size else "batch_size"
    teacher = timed_steps(
        task, experiment, Phase("teacher", options.teacher_steps, labeled, batch_flag=flag), strategy, steps
    )
    found = {
        "seconds_per_teacher_step": teacher["step"],
        "teacher": teacher["first"] + teacher["step"] * options.teacher_steps,
    }
    each = timed_labelling(task, labeled) if task.needs_labels else 0.0
    phases = 1
    if unlabeled is not None:
        student = timed_steps(
            task, experiment, Phase("student", options.student_steps, labeled, labeled), strategy, steps
        )
        found |= {
            "seconds_per_student_step": student["step"],
            "seconds_per_labelled_image": each,
            "labels": each * len(unlabeled),
        }
        found["student"] = student["first"] + student["step"] * options.student_steps
        phases = 3 if options.control else 2
        if options.control:
            found["control"] = teacher["first"] + teacher["step"] * (
                options.teacher_steps + options.student_steps
            )
    if evaluation is not None:
        found["evaluation"] = each * len(evaluation) * phases
    total = sum(found.get(part, 0.0) for part in ("teacher", "labels", "student", "control", "evaluation"))
    return {name: round(seconds, 4) for name, seconds in {**found, "total": total}.items()}
