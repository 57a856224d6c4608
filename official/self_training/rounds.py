"""A student that teaches the next one: the chain of phases run several times, each round in a folder of its
own.

    <model_dir>/            round 1, as a run of one round
    <model_dir>/round_2/    round 2: its teacher is round 1's student, which labels the unlabelled images anew
    <model_dir>/round_3/    ...

A round is a run folder like any other: `--job=inspect_labels --model_dir=RUN/round_2` looks at its labels. It
is known by its flags and its teacher, so a start that was killed goes on in the round that it was in, and
more --rounds continue a run that is finished.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from official.experiment import Experiment
from official.self_training.loop import SelfTraining
from official.tasks.registry import build_task
from official.training.distribution import is_chief
from official.training.phases import STUDENT, TEACHER
from official.training.recovery import ROUND
from official.training.run_folder import RunFolder
from official.training.run_phase import read_result, write_result


def round_folder(run: str, number: int) -> str:
    """Where round `number`, from 1, of a run is."""
    return run if number == 1 else os.path.join(run, f"{ROUND}{number}")


def round_experiment(experiment: Experiment, number: int) -> Experiment:
    """What a later round of a run is as a run of its own."""
    run = experiment.runtime.model_dir
    teacher = os.path.join(round_folder(run, number - 1), STUDENT)
    return experiment.with_flags(
        {"model_dir": round_folder(run, number), "teacher": teacher, "rounds": 1, "label_store": ""}
    )


def begin_round(loop: SelfTraining, number: int) -> tuple[SelfTraining, RunFolder]:
    """The loop and the folder of round `number`, from 2, of the run that `loop` is; the data is the same.

    The teacher has been evaluated as the last round's student: what was found is written as its result here.
    """
    experiment = round_experiment(loop.experiment, number)
    folder, chief = RunFolder(experiment), is_chief(loop.strategy)
    folder.claim(chief=chief)
    if chief:
        folder.note_categories(loop.labeled.categories)
        sources = {
            "labeled": loop.labeled,
            "unlabeled": loop.unlabeled,
            "eval": loop.evaluation,
            "joint": loop.joint,
        }
        for role, source in sources.items():
            if source is not None:
                folder.note_source(role, source)
        _hand_on(experiment)
    task = build_task(experiment, loop.task.categories)
    return dataclasses.replace(loop, experiment=experiment, task=task), folder


def _hand_on(experiment: Experiment) -> None:
    here = os.path.join(experiment.runtime.model_dir, TEACHER)
    evaluated = read_result(experiment.training.teacher)
    if evaluated and not read_result(here):
        evaluated["checkpoint"] = os.path.relpath(evaluated["checkpoint"], experiment.runtime.model_dir)
        write_result(
            here, {**evaluated, **dict.fromkeys(("steps", "seconds", "images_seen", "skipped_steps"), 0)}
        )


def joined_summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The summary of a run from those of its rounds: the last one's, and all of them as "rounds" if there are
    several.
    """
    return dict(rounds[-1]) if len(rounds) == 1 else {**rounds[-1], "rounds": rounds}
