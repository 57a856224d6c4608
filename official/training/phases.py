"""The phases of a run form a chain; each is known by the flags and the data that it depends on.

    teacher ──> labels ──> student          control (needs the teacher's steps alone)

A run that is started again with other flags goes on if everything that has begun is still what the flags
describe: with a finished teacher another --alpha, --score_threshold or --student_steps is taken as long as
the student has not begun, and --control may be added at any time. Where something that has begun would have
to be made anew, the run stops and says which flags of the command take what is still valid into a new folder.
It never removes or overwrites work that
is done, and never puts it aside either: a flag that was mistyped in the command that should go on is more
likely than a wish to start afresh.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Mapping

from official.experiment import (
    NOT_FINGERPRINTED,
    Augment,
    Experiment,
    Loss,
    Optimizer,
    Training,
    by_present_names,
)
from official.training.recovery import IMPORTED, last_checkpoint, phase_finished

TEACHER, LABELS, STUDENT, CONTROL = "teacher", "labels", "student", "control"
ALL = (TEACHER, LABELS, STUDENT, CONTROL, IMPORTED)

# Which phases depend on a flag; on those that are not listed all of them do.
_DEPENDING: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("control", "rounds"), ()),
    **dict.fromkeys(("student_steps", "student_augment"), (STUDENT, CONTROL)),
    **dict.fromkeys(("unlabeled_data", "score_floor", "label_scales", "label_flip"), (LABELS, STUDENT)),
    **dict.fromkeys(("label_temperature", "label_shard_size"), (LABELS, STUDENT)),
    **dict.fromkeys(
        ("joint_loss", "alpha", "ema_decay", "student_learning_rate", "pseudo_batch_size"), (STUDENT,)
    ),
    **dict.fromkeys(
        ("student_init", "score_threshold", "class_thresholds", "empty_pseudo_images"), (STUDENT,)
    ),
    **dict.fromkeys(("label_density", "ignore_above"), (STUDENT,)),
    **dict.fromkeys(("soft_labels", "pseudo_images_per_class"), (STUDENT,)),
    "eval_every": (TEACHER, LABELS, STUDENT, CONTROL),  # where it decides what goes on
}
# Which phases depend on a data set ("labeled": classes included).
ROLES = {
    "labeled": (TEACHER, STUDENT, CONTROL),
    "joint": (TEACHER, STUDENT, CONTROL),
    "unlabeled": (LABELS, STUDENT),
    "eval": (TEACHER, STUDENT, CONTROL),
}
_HOW_TO_TRAIN = {
    field.name for group in (Augment, Loss, Optimizer, Training) for field in dataclasses.fields(group)
} - {"teacher"}
# What these name is compared when it is open (ids, labels, weights), so that it may lie elsewhere than it
# did.
_PLACES = ("labeled_data", "unlabeled_data", "eval_data", "joint_data", "labeled_ids", "reviewed", "teacher")


def begun_phases(model_dir: str) -> list[str]:
    """The phases of a run that have left something, in the order of the chain."""
    found = [phase for phase in ALL if phase != LABELS and _has_begun(os.path.join(model_dir, phase))]
    if os.path.isfile(os.path.join(model_dir, "pseudo_labels", "plan.json")):
        found.append(LABELS)
    return sorted(found, key=ALL.index)


def _has_begun(folder: str) -> bool:
    return bool(last_checkpoint(folder))


def changed_flags(there: Mapping[str, Any], now: Experiment) -> dict[str, tuple[Any, Any]]:
    """The decisive flags that differ, {name: (there, now)}; one that an older run did not have meant its
    default.
    """
    flags, defaults, there = now.flags(), Experiment().flags(), by_present_names(there)
    names = [name for name in flags if name in now.decisive_flags() or name in there]
    pairs = {name: (there.get(name, defaults[name]), flags[name]) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and not _moved(name, pair)}


def _moved(name: str, pair: tuple[Any, Any]) -> bool:
    return name in _PLACES and all(pair) and "rest" not in pair


def depending(flag: str, given_teacher: bool = False) -> tuple[str, ...]:
    """The phases that depend on a flag; a teacher that was given, and its labels, do not depend on how this
    run trains.
    """
    found = _DEPENDING.get(flag, () if flag in NOT_FINGERPRINTED else ALL)
    if given_teacher and flag in _HOW_TO_TRAIN:
        found = tuple(phase for phase in found if phase not in (TEACHER, LABELS))
    return found


def spoiled(
    changed: Mapping[str, Any], begun: list[str], *, given_teacher: bool = False
) -> dict[str, list[str]]:
    """Of the phases that have begun, those that the changed flags do not describe any more, with these
    flags.
    """
    found = {phase: [name for name in changed if phase in depending(name, given_teacher)] for phase in begun}
    return {phase: names for phase, names in found.items() if names}


def way_out(model_dir: str, lost: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
    """Which flags take what is still valid of a run into a new folder.

    Args:
      lost: the phases that are not valid any more; flags: of the run, as it was.
    """
    teacher, labels = os.path.join(model_dir, TEACHER), os.path.join(model_dir, "pseudo_labels")
    if TEACHER in lost or not phase_finished(teacher):
        return "--model_dir=NEW"
    words = f"--model_dir=NEW --teacher={flags.get('teacher') or teacher}"
    store = flags.get("label_store") or labels
    if LABELS not in lost and os.path.isfile(os.path.join(store, "manifest.json")):
        words += f" --label_store={store}"
    return words
