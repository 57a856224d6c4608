"""What a job says when it has ended: the verdict on the screen and in `summary.json`, and the report.

Nothing here may fail a run that has been trained: what goes wrong is said in one line.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Callable, Mapping

import numpy as np
import tensorflow as tf

from official.data.holdout import class_counts
from official.data.source import Source
from official.evaluation.drawing import sheet, write_png
from official.evaluation.evaluated import Evaluated, read_evaluated
from official.experiment import Experiment
from official.files import read_json, whole_file, write_bytes
from official.flags import as_arguments
from official.report import run_page
from official.report import verdict as verdicts
from official.report.curves import read_curves
from official.report.label_facts import StoredBoxes, box_facts, other_facts
from official.report.predictions import Predictions
from official.report.run_page import Ended
from official.report.verdict import Commands, Facts, LabelFacts, Verdict
from official.screen import note
from official.self_training.label_store import MANIFEST
from official.self_training.loop import SelfTraining
from official.self_training.stored_boxes import stored_boxes
from official.tasks.task import Task
from official.training.phases import way_out
from official.training.run_folder import RunFolder

PHASES = ("teacher", "control", "student")
FLAGFILE, REPORT = "flags.cfg", "report.html"


@dataclasses.dataclass
class Ending:
    """What has been found out about a run that has ended; see `conclude`."""

    folder: RunFolder
    loop: SelfTraining
    run: str
    results: dict[str, Any]
    evaluated: dict[str, Evaluated] = dataclasses.field(default_factory=dict)
    stored: StoredBoxes | None = None
    verdict: Verdict | None = None
    words: list[str] = dataclasses.field(default_factory=list)
    commands: Commands | None = None


def conclude(folder: RunFolder, loop: SelfTraining, summary: dict[str, Any]) -> Ending:
    """The verdict on a run, and the lines that say it.

    Args:
      loop: of the last round. summary: of the job, with a result for every phase.
    """
    run = loop.experiment.runtime.model_dir
    found = Ending(folder, loop, run, {phase: summary[phase] for phase in PHASES if phase in summary})
    try:
        found.commands = commands(folder.path, folder.experiment)
        if loop.evaluation is not None and loop.task.needs_labels:
            found.evaluated = evaluated_phases(run, found.results)
            if "student" in summary and loop.task.label_kind == "boxes":
                found.stored = stored_boxes(loop.experiment, loop.label_store())
            found.verdict = verdicts.decide(_facts(found, summary))
            found.words = verdicts.lines(found.verdict, found.commands)
    except Exception as error:  # whatever it is, the run is trained and its numbers are there
        found.words = [f"no verdict: {type(error).__name__}: {error}"]
    return found


def report(ending: Ending, summary: Mapping[str, Any]) -> str:
    """Writes `report.html` into the run folder; returns the line that says where, or why there is none."""
    try:
        ended = _ended(ending, summary)
    except Exception as error:  # nothing that people look at may fail a run
        return f"no report: {type(error).__name__}: {error}"
    return write_report(ended, os.path.join(ending.folder.path, REPORT))


def _ended(ending: Ending, summary: Mapping[str, Any]) -> Ended:
    loop = ending.loop
    return Ended(
        title=os.path.basename(os.path.abspath(ending.folder.path)),
        experiment=loop.experiment,
        task=loop.task,
        results=ending.results,
        evaluated=ending.evaluated,
        folders={
            phase: evaluation_folder(ending.run, phase, ending.results[phase]) for phase in ending.evaluated
        },
        logs={phase: os.path.join(ending.run, phase) for phase in ending.results},
        evaluation=loop.evaluation,
        labeled=loop.labeled,
        unlabeled=loop.unlabeled,
        verdict=ending.verdict,
        words=ending.words,
        commands=ending.commands,
        stored=ending.stored,
        numbers=summary.get("pseudo_labels", {}),
        changed=changed(ending.folder.experiment),
        notes={**summary, **_more_notes(ending)},
    )


def _more_notes(ending: Ending) -> dict[str, Any]:
    place = os.path.join(ending.folder.path, "data", "warnings.json")
    notes = {"warnings": (read_json(place) or []) if os.path.isfile(place) else []}
    if "student" in ending.results and ending.stored is None:
        manifest = os.path.join(ending.loop.label_store().folder, MANIFEST)
        notes["score_histogram"] = (read_json(manifest) or {}).get("score_histogram")
    return notes


def report_evaluation(
    folder: RunFolder,
    task: Task,
    summary: Mapping[str, Any],
    *,
    source: Source | None = None,
    evaluated: Callable[[], Evaluated | None] | None = None,
) -> str:
    """Writes `evaluation/report.html` of one evaluated model; returns the line that says where, or why there
    is none.

    Args:
      summary: of job=evaluate. source: the evaluation images, None where there are only files.
      evaluated: gives what the evaluation found; None: it is read from the run folder.
    """
    place, metrics = os.path.join(folder.path, "evaluation"), summary["evaluation"]
    try:
        found = evaluated() if evaluated else read_evaluated(place)
        known = {} if found is None else {"model": found}
        verdict = verdicts.decide(Facts(task.metrics[0], {"model": metrics[task.metrics[0]]}, known))
    except Exception as error:
        return f"no report: {type(error).__name__}: {error}"
    ended = Ended(
        title=f"{os.path.basename(os.path.abspath(folder.path))}: evaluation",
        experiment=task.experiment,
        task=task,
        results={"model": metrics},
        evaluated=known,
        folders={"model": place},
        evaluation=source,
        verdict=verdict,
        changed=changed(task.experiment),
        notes=summary,
    )
    return write_report(ended, os.path.join(place, REPORT))


def write_report(ended: Ended, path: str) -> str:
    """Writes a report; returns the line that says where it is, or why there is none."""
    try:
        write_bytes(path, run_page.page(ended).encode())
    except Exception as error:  # nothing that people look at may fail a run
        return f"no report: {type(error).__name__}: {error}"
    return f"{'report':<12} {path}"


def commands(run: str, experiment: Experiment) -> Commands:
    """Commands that go on from a run; writes the flagfile that repeats it."""
    path = os.path.join(run, FLAGFILE)
    with whole_file(path, flush=False) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("\n".join(flag_lines(experiment)) + "\n")
    number = next(n for n in range(2, 1000) if not os.path.exists(f"{run.rstrip('/')}_{n}"))
    new, flags = f"{run.rstrip('/')}_{number}", experiment.flags()
    taking = way_out(run, {}, flags).removeprefix("--model_dir=NEW").strip()
    return Commands(run, path, new, {"labels": taking})


def flag_lines(experiment: Experiment) -> list[str]:
    """The flags that differ from their defaults, as a flagfile has them; all but --model_dir."""
    return as_arguments({name: value for name, (value, _) in changed(experiment).items()})


def changed(experiment: Experiment) -> dict[str, tuple[Any, Any]]:
    """Flags that differ from their defaults, but for --model_dir and what `auto` was found to be: {name:
    (value, default)}.
    """
    defaults, found = Experiment().flags(), ("input_normalization", "resnet_pool")
    left_out = {"model_dir", *(name for name in found if name not in experiment.given)}
    return {
        n: (v, defaults[n]) for n, v in experiment.flags().items() if v != defaults[n] and n not in left_out
    }


def beside_each_other(
    folder: str, loop: SelfTraining, summary: Mapping[str, Any], new: bool, most: int = 8
) -> str | None:
    """One sheet: human labels and what every phase found in the same evaluation images, as their evaluations
    left it.

    Args:
      folder: of the run. loop, summary: of its last round. new: whether the student is; a sheet of an older
        one is kept.

    Returns:
      Its path; None without evaluation data, or where nothing was left (said).
    """
    run, source, task = loop.experiment.runtime.model_dir, loop.evaluation, loop.task
    path = os.path.join(folder, "drawings", "teacher_student.png")
    if source is None or (not new and os.path.isfile(path)):
        return None if source is None else path
    try:
        results = {phase: summary[phase] for phase in PHASES if phase in summary}
        least = loop.experiment.pseudo_labels.drawn_from
        found = {
            p: Predictions(evaluated, evaluation_folder(run, p, results[p]), source, least)
            for p, evaluated in evaluated_phases(run, results).items()
        }
        drawings, captions = [], []
        for i in range(min(most, len(source))):
            image = source.read_image(tf.constant(i, tf.int64)).numpy()
            everything = {
                "human": task.human_labels(source, i),
                **{p: found[p].of(i) for p in results if p in found},
            }
            columns = {name: objects for name, objects in everything.items() if objects is not None}
            drawings += [task.draw(image, objects) for objects in columns.values()]
            captions += [f"{source.short_name(i)}: human", *list(columns)[1:]]
        width = len(drawings) // max(1, min(most, len(source)))
        return write_png(path, sheet(drawings, columns=2 * width, captions=captions, legend=task.legend()))
    except Exception as error:  # an image may not fail a run
        note(f"no drawing of teacher and student: {type(error).__name__}: {error}")
        return None


def evaluation_folder(run: str, phase: str, result: Mapping[str, Any]) -> str:
    """Where a phase's evaluation is: in its own folder, or in that of the run that its weights are from."""
    own = os.path.join(run, phase, "evaluation")
    return (
        own
        if os.path.isdir(own)
        else os.path.join(os.path.dirname(os.path.dirname(result["checkpoint"])), "evaluation")
    )


def evaluated_phases(run: str, summary: Mapping[str, Any]) -> dict[str, Evaluated]:
    """What the evaluation of every phase found, image by image, where that is known."""
    found = {
        phase: read_evaluated(evaluation_folder(run, phase, summary[phase]))
        for phase in PHASES
        if phase in summary
    }
    return {phase: evaluated for phase, evaluated in found.items() if evaluated is not None}


def _facts(ending: Ending, summary: Mapping[str, Any]) -> Facts:
    loop, run, metric = ending.loop, ending.run, ending.loop.task.metrics[0]
    phases = [phase for phase, result in ending.results.items() if metric in result]
    unlabelled, unevaluated = _one_sided_classes(loop)
    control = read_curves(os.path.join(run, "control")) if "control" in summary else {}
    return Facts(
        metric=metric,
        scores={phase: summary[phase][metric] for phase in phases},
        evaluated=ending.evaluated if set(ending.evaluated) == set(phases) else {},
        labels=_label_facts(ending, summary) if "student" in summary else None,
        unlabelled_classes=unlabelled,
        unevaluated_classes=unevaluated,
        label_counts=_label_counts(loop),
        control_curve=control.get(f"evaluation/{metric}", ()),
        steps={phase: summary[phase]["steps"] for phase in phases},
    )


def _label_facts(ending: Ending, summary: Mapping[str, Any]) -> LabelFacts:
    experiment, labeled = ending.loop.experiment, ending.loop.labeled
    if ending.stored is not None:
        return box_facts(experiment, labeled, ending.stored)
    return other_facts(experiment, labeled, summary["pseudo_labels"])


def _label_counts(loop: SelfTraining) -> dict[str, int]:
    if loop.labeled.read_mask is not None:
        return {}
    return {c.name: int(n) for c, n in zip(loop.labeled.categories, class_counts(loop.labeled))}


def _one_sided_classes(loop: SelfTraining) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(classes that only the evaluation data shows, those that only the labelled data shows); masks are not
    read for it.
    """
    if loop.labeled.read_mask is not None or loop.evaluation is None:
        return (), ()
    own, evaluated = (np.asarray(class_counts(source)) for source in (loop.labeled, loop.evaluation))
    names = [category.name for category in loop.task.categories]
    pairs = list(zip(names, own, evaluated))
    return tuple(n for n, a, b in pairs if b and not a), tuple(n for n, a, b in pairs if a and not b)
