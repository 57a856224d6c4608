"""A study made of runs that exist: what they differ in becomes its axis, teacher, control and student the
other.
"""

from __future__ import annotations

import glob
import os
from typing import Any, Mapping

from official.errors import UserError
from official.experiment import NOT_FINGERPRINTED, Experiment
from official.files import read_json
from official.study.results import Results
from official.study.spec import Cell, Study, StudyError

PHASES = ("teacher", "control", "student")
_NO_DIFFERENCE = NOT_FINGERPRINTED | {"seed"}
_SHOWN, _FITS = 60, 16  # letters of a value, and of a name under a figure


def gathered(pattern: str) -> Results:
    """The results of the run folders that a pattern names, e.g. `runs/seeds/*`.

    Runs that differ in --seed alone are one row. Two runs with the same flags and the same seed are an error,
    and so are runs of tasks with other metrics.

    Raises:
      StudyError: no finished run, or runs that cannot stand in one table.
    """
    runs = _runs(pattern)
    names, text = _short_names(_rows([flags for _, flags, _ in runs]))
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for (path, flags, summary), name in zip(runs, names):
        for phase in PHASES:
            if phase in summary:
                place = (f"{name}/{phase}", flags["seed"])
                if place in found:
                    raise StudyError(
                        f"--runs={pattern}: {path} and {found[place]['path']} have the same flags and the "
                        f"same seed"
                    )
                found[place] = {"result": summary[phase], "path": path}
    return Results(_study(pattern, runs, names, found, text), found)


def _runs(pattern: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(folder, all flags, summary) of every finished training run."""
    runs, skipped = [], []
    for path in sorted(glob.glob(os.path.expanduser(pattern))):
        try:
            saved, summary = read_json(os.path.join(path, "run.json")), _summary(path)
        except UserError as error:
            skipped.append(f"{path}: {error}")
            continue
        if saved and any(phase in summary for phase in PHASES):
            runs.append((path, {**Experiment().flags(), **saved["flags"]}, summary))
    if not runs:
        words = f" ({skipped[0]})" if skipped else ""
        raise StudyError(
            f"--runs={pattern}: no finished run there{words}; name run folders, e.g. --runs='runs/seeds/*'"
        )
    return runs


def _summary(path: str) -> dict[str, Any]:
    """Of the training; a later job on the run writes a summary of its own."""
    for name in ("summary_self_train.json", "summary_train.json", "summary_linear_eval.json", "summary.json"):
        place = os.path.join(path, name)
        if os.path.isfile(place):
            return read_json(place)
    return {}


def _rows(flags: list[Mapping[str, Any]]) -> list[str]:
    """What tells each run from the others: its values of the flags that differ; auto became one of the
    others' values.
    """
    names = [
        n for n in flags[0] if n not in _NO_DIFFERENCE and len({own.get(n) for own in flags} - {"auto"}) > 1
    ]
    if not names:
        return ["all runs"] * len(flags)
    return [", ".join(f"{n}={_short(own.get(n))}" for n in names).replace("/", "∕") for own in flags]


def _short_names(names: list[str]) -> tuple[list[str], str]:
    """Names that fit under a figure: themselves, or letters and what they stand for."""
    rows = list(dict.fromkeys(names))
    if max(map(len, rows)) <= _FITS:
        return names, ""
    letters = dict(zip(rows, map(_letters, range(len(rows)))))
    return [letters[name] for name in names], "; ".join(
        f"{letter}: {name}" for name, letter in letters.items()
    )


def _letters(number: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    before = _letters(number // 26 - 1) if number >= 26 else ""
    return before + chr(ord("A") + number % 26)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"…{text[-_SHOWN:]}"


def _study(
    pattern: str, runs: list, names: list[str], found: Mapping[tuple[str, int], Any], text: str
) -> Study:
    tasks = {flags["task"] for _, flags, _ in runs}
    if len(tasks) > 1:
        raise StudyError(
            f"--runs={pattern}: runs of several tasks ({', '.join(sorted(tasks))}) have no number in common"
        )
    rows = list(dict.fromkeys(names))
    phases = [phase for phase in PHASES if any(cell.endswith(f"/{phase}") for cell, _ in found)]
    pairs = [["student", other] for other in ("teacher", "control") if {"student", other} <= set(phases)]
    cells = tuple(Cell({"run": row, "phase": phase}, {}, phase) for row in rows for phase in phases)
    table = {"title": "Results", "rows": "run", "columns": "phase", "differences": pairs}
    figure = {"title": "Results", "x": "run", "lines": "phase", "kind": "bars"}
    return Study(
        path=pattern,
        title=f"{len(runs)} runs: {pattern}",
        text=text,
        base="",
        flags={},
        runs={},
        seeds=tuple(sorted({flags["seed"] for _, flags, _ in runs})),
        axes={"run": rows, "phase": phases},
        cells=cells,
        tables=(table,),
        figures=(figure,) if len(rows) > 1 else (),
        claims=(),
    )
