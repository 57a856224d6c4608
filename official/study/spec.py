"""A study as its file describes it: a base, axes of named changes, seeds, and what to show.

    title: Pre-training and self-training over augmentation (Table 2)
    base: ../quickstart.cfg            # a flagfile, beside this file or found as any flagfile is
    flags: {teacher_steps: 3000}       # for every run
    seeds: [0, 1, 2]
    runs:                              # what others start from; @NAME in a flag is its folder
      pretrained: {base: ../quickstart_pretraining_classification.cfg, flags: {teacher_steps: 4000}}
    axes:                              # every combination is a cell
      augment:
        S1: {augment: s1}
        S4: {augment: s4}
      method:
        random: {}
        pre-trained: {init: "@pretrained"}
        self-training: {learner: student}
    skip: [{augment: S1, method: self-training}]
    cells: {S4/random: {base: ../coco_s4.cfg, teacher_steps: 9000}}   # what a cell alone changes
    paper: {S4/self-training: 42.6}    # the paper's number of a cell, its values in the order of the axes
    tables: [{rows: augment, columns: method, differences: [[self-training, random]]}]
    figures:
      - {title: Gain, x: augment, lines: method, minus: random, paper: true, kind: lines}
      - {title: Losses, kind: curves, curve: pseudo_loss, lines: method, where: {augment: S1}}
    claims:
      - {id: F4, text: Self-training helps, plus: [S4/self-training], minus: [S4/random]}

`learner` says which run of a cell counts: `supervised` (labels alone, the default), `student` (self-trained
from the supervised run of the same flags), or `control` (labels alone, as many steps as teacher and student
together).
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from typing import Any, Mapping, Sequence

import yaml

from official.errors import FlagError
from official.experiment import Experiment, by_present_names
from official.flagfiles import OWN

LEARNERS = ("supervised", "student", "control")
CURVES = ("loss", "human_loss", "pseudo_loss")  # what is kept of a run over its steps
_KEYS = {
    "title",
    "text",
    "base",
    "flags",
    "seeds",
    "runs",
    "axes",
    "skip",
    "cells",
    "paper",
    "tables",
    "figures",
    "claims",
    "metric",
    "vary",
    "scale",
}
_MANAGED = (
    "job",
    "model_dir",
    "seed",
    "teacher",
    "label_store",
    "control",
    "rounds",
)  # a study decides these


class StudyError(FlagError):
    """A study file that cannot be used: the message names it, the place and the remedy."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination of the axes' values.

    Attributes:
      values: axis -> value.
      flags: what the values change.
      learner: see the head of this module.
      paper: the paper's number, if there is one.
      base: the flagfile that it starts from; empty: the study's.
    """

    values: Mapping[str, str]
    flags: Mapping[str, Any]
    learner: str
    paper: float | None = None
    base: str = ""

    @property
    def name(self) -> str:
        """The values in the order of the axes."""
        return "/".join(self.values.values())


@dataclasses.dataclass(frozen=True)
class Study:
    """A study file, read and checked; attributes as in the head of this module.

    Attributes:
      path: of the file; name: without folder and ending.
      vary: flags that take the seed's number, `seed` and, where a study draws other labels per seed,
        `split_seed`.
      metric: which of the results is shown; empty: the task's first.
      scale: multiplies the results so that they are in the paper's unit.
    """

    path: str
    title: str
    text: str
    base: str
    flags: Mapping[str, Any]
    seeds: tuple[int, ...]
    runs: Mapping[str, Mapping[str, Any]]
    axes: Mapping[str, Sequence[str]]
    cells: tuple[Cell, ...]
    tables: tuple[Mapping[str, Any], ...]
    figures: tuple[Mapping[str, Any], ...]
    claims: tuple[Mapping[str, Any], ...]
    vary: tuple[str, ...] = ("seed",)
    metric: str = ""
    scale: float = 100.0

    @property
    def name(self) -> str:
        """What the file is called."""
        return os.path.splitext(os.path.basename(self.path))[0]

    def cell(self, name: str) -> Cell:
        """The cell of that name; raises StudyError if there is none."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise StudyError(f"{self.path}: no cell {name!r}; there are {', '.join(c.name for c in self.cells)}")


def read_study(path: str) -> Study:
    """Reads a study file, looked for as it is given and among the ones that come with the program.

    Raises:
      StudyError: no such file, no YAML, keys or flags that nobody knows, an axis or a cell that is not there.
    """
    path = _found(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict) or not {"title", "base", "axes"} <= set(content):
        raise StudyError(f"{path}: a study has at least title, base and axes")
    _known(path, "study", content, _KEYS)
    axes = _axes(path, content["axes"])
    study = Study(
        path=path,
        title=str(content["title"]),
        text=str(content.get("text", "")).strip(),
        base=_base(path, content["base"]),
        flags=_flags(path, "flags", content.get("flags") or {}),
        seeds=_seeds(path, content.get("seeds", [0, 1, 2])),
        runs=_runs(path, content.get("runs") or {}),
        axes={name: tuple(values) for name, values in axes.items()},
        cells=_cells(
            path, axes, content.get("skip") or [], content.get("paper") or {}, content.get("cells") or {}
        ),
        tables=tuple(content.get("tables") or ()),
        figures=tuple(content.get("figures") or ()),
        claims=tuple(content.get("claims") or ()),
        vary=tuple(content.get("vary", ["seed"])),
        metric=str(content.get("metric", "")),
        scale=float(content.get("scale", 100.0)),
    )
    _check_shown(study)
    return study


def _found(path: str) -> str:
    head, tail = os.path.split(path)
    own = os.path.join(OWN, "studies", tail if tail.endswith((".yaml", ".yml")) else f"{tail}.yaml")
    for place in (path, *([own] if not head or head.endswith("studies") else [])):
        if os.path.isfile(place):
            return os.path.abspath(place)
    raise StudyError(
        f"--study={path}: no such file; studies that come with the program: {', '.join(_shipped())}"
    )


def _shipped() -> list[str]:
    folder = os.path.join(OWN, "studies")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(name[: -len(".yaml")] for name in names if name.endswith(".yaml"))


def _known(path: str, what: str, found: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(str(name) for name in set(found) - known)
    if unknown:
        raise StudyError(f"{path}: {what} has {', '.join(unknown)}; it may have {', '.join(sorted(known))}")


def _base(path: str, base: str) -> str:
    beside = os.path.join(os.path.dirname(path), str(base))
    return os.path.abspath(beside) if os.path.isfile(beside) else str(base)


def _flags(path: str, place: str, found: Mapping[str, Any], more: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise StudyError(f"{path}: {place}: flags are written NAME: VALUE, not {found!r}")
    found = by_present_names(found)
    _known(path, place, found, {*Experiment().flags(), *more} - set(_MANAGED))
    return found


def _seeds(path: str, seeds: Any) -> tuple[int, ...]:
    valid = isinstance(seeds, list) and seeds and all(isinstance(s, int) and s >= 0 for s in seeds)
    if not valid or len(set(seeds)) < len(seeds):
        raise StudyError(f"{path}: seeds: a list of different whole numbers, not {seeds!r}")
    return tuple(seeds)


def _runs(path: str, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    runs = {}
    for name, run in found.items():
        _known(path, f"runs: {name}", run or {}, {"base", "flags", "learner"})
        runs[name] = {
            "base": _base(path, (run or {}).get("base", "")),
            "flags": _flags(path, f"runs: {name}", (run or {}).get("flags") or {}),
            "learner": _learner(path, (run or {}).get("learner", "supervised")),
        }
    return runs


def _learner(path: str, word: str) -> str:
    if word not in LEARNERS:
        raise StudyError(f"{path}: learner: {word!r} is none of {', '.join(LEARNERS)}")
    return word


def _axes(path: str, found: Any) -> dict[str, dict[str, dict[str, Any]]]:
    if not isinstance(found, Mapping) or not found:
        raise StudyError(f"{path}: axes: name: {{value: {{flag: ...}}, ...}}")
    axes = {}
    for name, values in found.items():
        if not isinstance(values, Mapping) or not values:
            raise StudyError(f"{path}: axes: {name}: names its values, each with the flags that it changes")
        axes[str(name)] = {
            str(value): _flags(path, f"axes: {name}: {value}", flags or {}, ("learner",))
            for value, flags in values.items()
        }
    return axes


def _cells(
    path: str,
    axes: dict,
    skip: Sequence[Mapping[str, str]],
    paper: Mapping[str, float],
    own: Mapping[str, Any],
) -> tuple[Cell, ...]:
    for entry in skip:
        for axis, value in entry.items():
            if value not in axes.get(axis, ()):
                raise StudyError(f"{path}: skip: axis {axis!r} has no {value!r}")
    cells = []
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination))
        if any(entry.items() <= values.items() for entry in skip):
            continue
        flags: dict[str, Any] = {}
        for axis, value in values.items():
            twice = set(flags) & set(axes[axis][value])
            if twice:
                raise StudyError(f"{path}: cell {'/'.join(combination)}: two axes set {sorted(twice)}")
            flags.update(axes[axis][value])
        learner, name = _learner(path, flags.pop("learner", "supervised")), "/".join(combination)
        flags.update(_flags(path, f"cells: {name}", own.get(name) or {}, ("base",)))
        base = _base(path, flags.pop("base")) if "base" in flags else ""
        cells.append(Cell(values, flags, learner, paper.get(name), base))
    for what, names in (("paper", paper), ("cells", own)):
        unknown = set(map(str, names)) - {cell.name for cell in cells}
        if unknown:
            raise StudyError(
                f"{path}: {what}: no cells {sorted(unknown)}; there are {', '.join(c.name for c in cells)}"
            )
    return tuple(cells)


def _check_curves(study: Study, figure: Mapping[str, Any]) -> None:
    """Raises StudyError if a figure of losses does not name one, or not one cell for every line."""
    if figure.get("curve") not in CURVES:
        raise StudyError(f"{study.path}: figures: curve: {figure.get('curve')!r} is none of {CURVES}")
    where = figure.get("where") or {}
    others = [axis for axis in study.axes if axis != figure["lines"]]
    if sorted(where) != sorted(others) or any(where[a] not in study.axes[a] for a in others):
        raise StudyError(
            f"{study.path}: figures: where: names a value of each of {', '.join(others) or 'no axis'}, not "
            f"{where!r}"
        )


def _check_shown(study: Study) -> None:
    for table in study.tables:
        _known(study.path, "tables", table, {"title", "rows", "columns", "differences"})
        for axis in (table.get("rows"), table.get("columns")):
            if axis not in study.axes:
                raise StudyError(
                    f"{study.path}: tables: {axis!r} is no axis; the axes are {', '.join(study.axes)}"
                )
        for pair in table.get("differences", ()):
            if len(pair) != 2 or not set(pair) <= set(study.axes[table["columns"]]):
                raise StudyError(f"{study.path}: tables: differences: {pair} are not two of the columns")
    for figure in study.figures:
        kind = figure.get("kind", "lines")
        if kind not in ("lines", "bars", "curves"):
            raise StudyError(f"{study.path}: figures: kind: {kind!r} is neither lines nor bars nor curves")
        own = {"curve", "where"} if kind == "curves" else {"x", "minus", "paper"}
        _known(study.path, "figures", figure, {"title", "lines", "kind", *own})
        for axis in (*([] if kind == "curves" else [figure.get("x")]), figure.get("lines")):
            if axis not in study.axes:
                raise StudyError(
                    f"{study.path}: figures: {axis!r} is no axis; the axes are {', '.join(study.axes)}"
                )
        if kind == "curves":
            _check_curves(study, figure)
        if figure.get("minus") is not None and figure["minus"] not in study.axes[figure["lines"]]:
            raise StudyError(
                f"{study.path}: figures: minus: {figure['minus']!r} is not a value of {figure['lines']}"
            )
    for claim in study.claims:
        _known(study.path, "claims", claim, {"id", "text", "plus", "minus"})
        if not claim.get("plus") or len(claim["plus"]) != len(claim.get("minus", ())):
            raise StudyError(
                f"{study.path}: claims: {claim.get('id')}: as many cells under plus as under minus"
            )
        for name in [*claim["plus"], *claim["minus"]]:
            study.cell(name)
