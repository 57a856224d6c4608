"""What can be known to go wrong before anything is written or trained: flags, and flags together.

Data is opened, and `--teacher`, `--init_checkpoint` and `--init` are found, before a run folder is claimed
too; what is here would otherwise show only when the teacher is trained, or in the middle of its first step.
"""

from __future__ import annotations

import os
import tempfile
from typing import Callable, Iterator, Sequence

import tensorflow as tf

from official.data.source import Category
from official.data.text_lists import read_id_list
from official.errors import FlagError, UserError
from official.experiment import Experiment
from official.self_training.label_store import parse_thresholds
from official.self_training.thresholds import AUTO
from official.tasks.registry import task_class
from official.training.distribution import check_batch
from official.training.loading import starting_weights
from official.training.optimizer import build_schedule
from official.training.phases import STUDENT, begun_phases
from official.training.step import compiled

_OWN_INITS = ("teacher", "scratch")  # of --student_init; all else is a backbone's weights


def check_flags(experiment: Experiment) -> None:
    """Checks what the options of a training job say by themselves.

    Raises:
      FlagError: all that is wrong, a line each; nothing has been written.
    """
    _raise(_problems(experiment))


def check_run(experiment: Experiment, strategy: tf.distribute.Strategy, *, pseudo: bool) -> None:
    """Checks what else a training job needs, besides its data.

    Args:
      pseudo: whether a student is trained.

    Raises:
      FlagError: batches that the replicas cannot share, unreadable files, a place that cannot be written.
    """
    flags = ["teacher_batch_size" if experiment.training.teacher_batch_size else "batch_size"]
    flags += ["batch_size", "pseudo_batch_size"] if pseudo else []
    flags += ["joint_batch_size"] if experiment.loss.joint_weight > 0.0 else []
    sizes = experiment.flags()
    checks: list[Callable[[], object]] = [
        _of(check_batch, strategy, name, sizes[name], sizes["accumulate"]) for name in dict.fromkeys(flags)
    ]
    if experiment.data.labeled_ids:
        checks.append(_of(read_id_list, experiment.data.labeled_ids))
    if pseudo:
        checks.append(_of(_check_student_init, experiment))
        checks.append(_of(_check_writable, "label_store", experiment.pseudo_labels.label_store))
    _raise(_failures(checks))


def check_thresholds(experiment: Experiment, categories: Sequence[Category]) -> None:
    """Raises FlagError if --class_thresholds names a class that the data do not have."""
    names = [category.name for category in categories]
    unknown = sorted(set(parse_thresholds(experiment.pseudo_labels.class_thresholds)) - set(names))
    if unknown:
        raise FlagError(f"--class_thresholds names {unknown}; the classes are {names}")


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise FlagError("\n".join(problems))


def _of(check: Callable, *args: object) -> Callable[[], object]:
    return lambda: check(*args)


def _failures(checks: Sequence[Callable[[], object]]) -> list[str]:
    """The messages of those that fail, each once."""
    found = []
    for check in checks:
        try:
            check()
        except UserError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def _problems(experiment: Experiment) -> list[str]:
    checks = [_of(compiled, "freeze", experiment.training.freeze)]
    checks += task_class(experiment.model.task).check(experiment)
    checks += [
        _of(build_schedule, experiment.optimizer, steps, stretch) for steps, stretch in _lengths(experiment)
    ]
    checks += [_of(parse_thresholds, experiment.pseudo_labels.class_thresholds)]
    problems = (_shares_of_one, _uncertain_boxes, _evaluating, _at_scale)
    return [*(line for found in problems for line in found(experiment)), *_failures(checks)]


def _at_scale(experiment: Experiment) -> Iterator[str]:
    """Options that are for other jobs."""
    if experiment.pseudo_labels.engine != "local":
        yield (
            f"--engine={experiment.pseudo_labels.engine} is for --job=pseudo_label; train with its store: "
            f"--label_store"
        )


def _shares_of_one(experiment: Experiment) -> Iterator[str]:
    """Decays of 1 never take a new value in."""
    for name, value in (
        ("ema_decay", experiment.loss.ema_decay),
        ("weight_average", experiment.optimizer.weight_average),
    ):
        if value >= 1.0:
            yield (
                f"--{name}={value}: an average with this decay would stay at its first value; choose one "
                f"below 1"
            )


def _evaluating(experiment: Experiment) -> Iterator[str]:
    """What is decided by evaluations needs some."""
    options, data = experiment.training, experiment.data
    found = [f"--patience={options.patience}"] if options.patience else []
    found += ["--take=best"] if options.take == "best" else []
    for flag in found:
        if not experiment.runtime.eval_every:
            yield f"{flag} looks at evaluations while training: it needs --eval_every=STEPS"
        if not (data.eval_data or data.eval_fraction):
            yield f"{flag} looks at evaluations: it needs --eval_data or --eval_fraction"
    if options.patience and options.control and experiment.runtime.parallel_phases:
        yield (
            "--patience with --parallel_phases: the control takes as many steps as teacher and student, "
            "and begins before that is known"
        )


def _uncertain_boxes(experiment: Experiment) -> Iterator[str]:
    """Options of pseudo boxes that cannot do what they say."""
    options, task = experiment.pseudo_labels, experiment.model.task
    boxes = task_class(task).label_kind == "boxes"
    if not boxes and options.score_threshold == AUTO:
        yield f"--score_threshold=auto counts boxes, --task={task} has none: give a number"
    if not boxes and options.ignore_above < 1.0:
        yield (
            f"--ignore_above={options.ignore_above} is for boxes; --task={task} ignores what is below "
            f"--score_threshold"
        )
    if options.ignore_above < options.score_floor:
        yield (
            f"--ignore_above={options.ignore_above} is below --score_floor={options.score_floor}: no box is "
            "stored there; lower --score_floor"
        )


def _lengths(experiment: Experiment) -> list[tuple[int, float]]:
    """(steps, stretch) of the phases; see official/self_training/loop.py."""
    options = experiment.training
    both = options.teacher_steps + options.student_steps
    return [(options.teacher_steps, 1.0), (options.student_steps, 1.0), (both, both / options.teacher_steps)]


def _check_student_init(experiment: Experiment) -> None:
    init = experiment.training.student_init
    if init not in (*_OWN_INITS, "random") and STUDENT not in begun_phases(experiment.runtime.model_dir):
        try:
            starting_weights(init, experiment.training, experiment.model)
        except UserError as error:
            raise FlagError(f"--student_init={init}: {error}") from error


def _check_writable(flag: str, place: str) -> None:
    """Whether a folder can be written, or made in the nearest one above that is there."""
    if not place:
        return
    there = os.path.abspath(place)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise FlagError(f"--{flag}={place}: {there} is a file, not a folder")
    if there == os.path.abspath(place):
        return  # a store that is finished is only read
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise FlagError(
            f"--{flag}={place}: {there} cannot be written ({error.strerror}); name another place"
        ) from error
