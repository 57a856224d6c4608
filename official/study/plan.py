"""The runs that a study is made of, each once however many cells need it.

A cell's supervised run is the teacher of its self-trained one; one store of labels serves every student of a
teacher; one pre-training serves all that start from it. A run is known by the flags that its phases depend on
(the table of official/training/phases.py) and by the runs that it starts from, so two cells that differ in
nothing that matters to a run share it, and a study that is changed keeps what is still true.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any, Mapping

from official.experiment import NOT_FINGERPRINTED, Experiment
from official.flags import as_arguments, experiment_from_arguments
from official.screen import called_as
from official.study.spec import Cell, Study, StudyError
from official.tasks.augmentation import student_options
from official.training.phases import LABELS, STUDENT, TEACHER, depending

RUNS, RUN = "runs", "run"  # <study>/runs/<key>/run is the run folder


@dataclasses.dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
      key: name of its folder: the kind and a digest of what decides it.
      kind: supervised, labels, student or control.
      flags: what its flagfile says, but for the folders of `needs`.
      places: flag -> (key of the run whose folder it names, path below that folder).
      phase: where in its summary the result is.
      steps: how many it trains.
      title: the first cell and the seed that it is for.
    """

    key: str
    kind: str
    flags: Mapping[str, Any]
    places: Mapping[str, tuple[str, str]]
    phase: str
    steps: int
    title: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the runs that must be finished first."""
        return tuple(dict.fromkeys(key for key, _ in self.places.values()))


@dataclasses.dataclass(frozen=True)
class Plan:
    """All runs of a study, in an order in which each comes after what it needs, and which cell each result is
    of.
    """

    runs: Mapping[str, Run]
    results: Mapping[tuple[str, int], str]  # (cell, seed) -> key


def plan(study: Study) -> Plan:
    """The runs of a study.

    Raises:
      StudyError: @NAME of a run that the study does not describe.
    """
    planner = _Planner(study)
    results = {
        (cell.name, seed): planner.of_cell(cell, seed).key for seed in study.seeds for cell in study.cells
    }
    return Plan(planner.runs, results)


class _Planner:
    """Collects the runs."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.runs: dict[str, Run] = {}
        self._title = ""

    def of_cell(self, cell: Cell, seed: int) -> Run:
        """The run whose result is the cell's, and with it all that it needs."""
        flags, self._title = {**self.study.flags, **cell.flags}, f"{cell.name}, seed {seed}"
        return self._learner(cell.learner, cell.base or self.study.base, flags, seed, cell.name)

    def _learner(self, learner: str, base: str, flags: Mapping[str, Any], seed: int, where: str) -> Run:
        values, places = self._opened(flags, seed, where)
        varied = dict.fromkeys(self.study.vary, seed)
        given = as_arguments({**values, **varied, "control": False, "rounds": 1})
        experiment = experiment_from_arguments([f"--flagfile={base}", *given], f"{self.study.path}: {where}")
        if learner == "control":
            return self._add("control", _control(experiment), places, TEACHER)
        supervised = self._add("supervised", experiment, places, TEACHER)
        return supervised if learner == "supervised" else self._student(experiment, places, supervised)

    def _student(self, experiment: Experiment, places: dict[str, tuple[str, str]], teacher: Run) -> Run:
        labels = self._add("labels", experiment, {"checkpoint": (teacher.key, "")}, LABELS)
        started = (
            ("student_init", "init") if experiment.training.student_init == "scratch" else ("student_init",)
        )
        places = {name: place for name, place in places.items() if name in started}
        places |= {"teacher": (teacher.key, TEACHER), "label_store": (labels.key, "pseudo_labels")}
        return self._add("student", experiment, places, STUDENT)

    def _opened(
        self, flags: Mapping[str, Any], seed: int, where: str
    ) -> tuple[dict[str, Any], dict[str, tuple[str, str]]]:
        """(flags that are values, flags that name the folder of another run)."""
        values, places = {}, {}
        for name, value in flags.items():
            if not (isinstance(value, str) and value.startswith("@")):
                values[name] = value
                continue
            wanted = value[1:]
            if wanted not in self.study.runs:
                raise StudyError(
                    f"{self.study.path}: {where}: {name}: no run {wanted!r}; there are "
                    f"{sorted(self.study.runs)}"
                )
            run = self.study.runs[wanted]
            found = self._learner(run["learner"], run["base"], run["flags"], seed, wanted)
            places[name] = (found.key, found.phase)
        return values, places

    def _add(
        self, kind: str, experiment: Experiment, places: Mapping[str, tuple[str, str]], phase: str
    ) -> Run:
        flags = _flags_of(experiment, kind)
        # A run that others start from is known by what decides it, not by where it lies.
        decisive = {
            name: value
            for name, value in flags.items()
            if name not in NOT_FINGERPRINTED and name not in places
        }
        text = json.dumps(
            [kind, decisive, {name: list(place) for name, place in sorted(places.items())}], sort_keys=True
        )
        key = f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
        steps = {LABELS: 0, STUDENT: experiment.training.student_steps}.get(
            phase, experiment.training.teacher_steps
        )
        if key not in self.runs:
            self.runs[key] = Run(key, kind, flags, dict(places), phase, steps, self._title)
        return self.runs[key]


_JOBS = {"supervised": "train", "control": "train", "labels": "pseudo_label", "student": "self_train"}
_PHASES = {"supervised": TEACHER, "control": TEACHER, "labels": LABELS, "student": STUDENT}
_LEFT_OUT = frozenset(
    ("model_dir", "label_store", "teacher", "checkpoint", "study", "workers", "runs", "dry_run", "teraflops")
)


def _flags_of(experiment: Experiment, kind: str) -> dict[str, Any]:
    """The flags of a run of that kind that are not the defaults and that it depends on, or that decide no
    number.
    """
    defaults, phase, found = Experiment().flags(), _PHASES[kind], {"job": _JOBS[kind]}
    for name, value in experiment.flags().items():
        matters = (
            name in NOT_FINGERPRINTED or phase in depending(name) or (kind == "labels" and name in _READ)
        )
        if value != defaults[name] and matters and name not in (*_LEFT_OUT, "job"):
            found[name] = value
    return found


_READ = ("labeled_data", "labeled_fraction", "labeled_ids", "split_seed")  # what `rest` is the rest of


def _control(experiment: Experiment) -> Experiment:
    """The fair control as a supervised run of its own; see official/self_training/loop.py.

    Raises:
      StudyError: --patience, with which it would have to know how long teacher and student were.
    """
    if experiment.training.patience:
        raise StudyError(
            "patience and a control do not go together in a study: it takes as many steps as teacher and "
            "student, which are runs of their own"
        )
    options, optimizer = experiment.training, experiment.optimizer
    both = options.teacher_steps + options.student_steps
    stretch = both / options.teacher_steps
    boundaries = [str(round(int(b) * stretch)) for b in optimizer.decay_boundaries.split(",") if b.strip()]
    changes = {"teacher_steps": both, "decay_every": optimizer.decay_every * stretch, "student_augment": ""}
    return student_options(experiment).with_flags({**changes, "decay_boundaries": ",".join(boundaries)})


def flagfile(run: Run, root: str) -> str:
    """The text of the flagfile that repeats a run of the study whose folder is `root`."""
    places = {
        name: os.path.join(root, RUNS, key, RUN, below).rstrip("/")
        for name, (key, below) in run.places.items()
    }
    flags = {**run.flags, **places}
    head = f"# {run.title}: {run.kind}. Repeat it by: {called_as()} --flagfile=THIS --model_dir=RUN"
    return "\n".join([head, *as_arguments(flags)]) + "\n"
