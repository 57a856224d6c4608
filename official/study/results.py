"""What the runs of a study found: means over seeds, paired differences with intervals, and the claims that
they decide.

Differences are paired: both sides of one have the same seed, that is the same first weights (where they start
from none), order of the data and draws. Intervals are Student's t over the seeds. A claim is the mean of the
cells under `plus` less that of those under `minus`, again seed by seed, and the rule was here before the runs
were: it holds if the whole 95 % interval is above zero, does not hold if it is below, and is undecided at
this scale otherwise. A run whose loss was not finite any more has diverged: it stands in no mean, but in a
difference it counts as 0, the result of a network that finds nothing.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Iterable, Mapping, Sequence

import numpy as np

from official.study.plan import Plan
from official.study.spec import Study
from official.study.workers import DIVERGED, Ledger

HOLDS, FAILS, UNDECIDED, UNKNOWN = "holds", "does not hold", "undecided at this scale", "not run yet"
# Student's t, two-sided 95 %, for 1..30 degrees of freedom.
_T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
    2.080,
    2.074,
    2.069,
    2.064,
    2.060,
    2.056,
    2.052,
    2.048,
    2.045,
    2.042,
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
      values: by seed, only those that are finished.
      mean, deviation: sample mean and sample standard deviation; nan where there are too few values.
      low, high: 95 % interval of the mean; nan with fewer than two values.
    """

    values: Mapping[int, float]
    mean: float
    deviation: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Numbers, None for what is not known."""
        numbers = {name: getattr(self, name) for name in ("mean", "deviation", "low", "high")}
        known = {name: round(value, 6) if math.isfinite(value) else None for name, value in numbers.items()}
        return {"seeds": {str(seed): round(value, 6) for seed, value in self.values.items()}, **known}


def estimate(values: Mapping[int, float]) -> Estimate:
    """Mean, spread and interval of values by seed."""
    numbers = np.array(list(values.values()), np.float64)
    if not len(numbers):
        return Estimate({}, math.nan, math.nan, math.nan, math.nan)
    if len(numbers) == 1:
        return Estimate(dict(values), float(numbers[0]), math.nan, math.nan, math.nan)
    deviation = float(numbers.std(ddof=1))
    freedom = len(numbers) - 1
    quantile = _T[freedom - 1] if freedom <= len(_T) else 1.96
    half = quantile * deviation / math.sqrt(len(numbers))
    mean = float(numbers.mean())
    return Estimate(dict(values), mean, deviation, mean - half, mean + half)


class Results:
    """The finished results of a study, in the paper's unit."""

    def __init__(self, study: Study, found: Mapping[tuple[str, int], Mapping[str, Any] | None]) -> None:
        """Args: found: (cell, seed) -> a run's "result", its metrics by name; None, or nothing, if it is not
        finished.
        """
        self.study = study
        self.found = {
            (cell.name, seed): found.get((cell.name, seed)) for cell in study.cells for seed in study.seeds
        }
        self.metric = study.metric or _first_metric(self.found.values())

    @staticmethod
    def of_plan(study: Study, plan: Plan, ledger: Ledger) -> Results:
        """The results of a study's own runs."""
        return Results(study, {place: ledger.result(key) for place, key in plan.results.items()})

    def values(self, cell: str) -> dict[int, float]:
        """Seed -> result of a cell."""
        rows = {seed: self.found.get((cell, seed)) for seed in self.study.seeds}
        return {
            s: float(r["result"][self.metric]) * self.study.scale
            for s, r in rows.items()
            if r and self.metric in r["result"]
        }

    def diverged(self, cell: str) -> dict[int, int]:
        """Seed -> step at which a cell's loss was not finite any more."""
        rows = {seed: self.found.get((cell, seed)) for seed in self.study.seeds}
        return {seed: int(row[DIVERGED]) for seed, row in rows.items() if row and DIVERGED in row}

    def curves(self, cell: str, name: str) -> dict[int, list[tuple[int, float]]]:
        """Seed -> (step, value) of a loss of a cell's runs."""
        rows = {seed: self.found.get((cell, seed)) for seed in self.study.seeds}
        found = {seed: row.get("curves", {}).get(name, []) for seed, row in rows.items() if row}
        return {seed: [(step, value) for step, value in points] for seed, points in found.items() if points}

    def cell(self, cell: str) -> Estimate:
        """The result of a cell."""
        return estimate(self.values(cell))

    def difference(self, plus: Sequence[str], minus: Sequence[str]) -> Estimate:
        """Mean of the cells `plus` less that of the cells `minus`, of the seeds for which all are
        finished; what diverged counts as 0.
        """
        sides = [
            [{**self.values(name), **dict.fromkeys(self.diverged(name), 0.0)} for name in names]
            for names in (plus, minus)
        ]
        seeds = [s for s in self.study.seeds if all(s in values for side in sides for values in side)]
        means = [{s: float(np.mean([values[s] for values in side])) for s in seeds} for side in sides]
        return estimate({s: means[0][s] - means[1][s] for s in seeds})

    def claims(self) -> list[dict[str, Any]]:
        """Every claim with its difference and verdict."""
        found = []
        for claim in self.study.claims:
            difference = self.difference(claim["plus"], claim["minus"])
            found.append({**claim, "difference": difference, "verdict": verdict(difference)})
        return found

    def finished(self) -> tuple[int, int]:
        """(cells times seeds that are finished, all of them)."""
        return sum(row is not None for row in self.found.values()), len(self.found)

    def to_json(self) -> dict[str, Any]:
        """What `study.json` holds."""
        cells = {}
        for cell in self.study.cells:
            row = {"values": dict(cell.values), "learner": cell.learner, **self.cell(cell.name).to_json()}
            lost = self.diverged(cell.name)
            cells[cell.name] = {**row, "paper": cell.paper, **({DIVERGED: lost} if lost else {})}
        claims = [{**claim, "difference": claim["difference"].to_json()} for claim in self.claims()]
        done, total = self.finished()
        return {
            "title": self.study.title,
            "metric": self.metric,
            "scale": self.study.scale,
            "finished": done,
            "of": total,
            "cells": cells,
            "claims": claims,
        }

    def rows(self) -> Iterable[dict[str, Any]]:
        """One row per cell and seed, for the CSV."""
        for cell in self.study.cells:
            for seed in self.study.seeds:
                row = self.found[cell.name, seed]
                numbers = (
                    {k: v for k, v in row["result"].items() if isinstance(v, (int, float))} if row else {}
                )
                more = {DIVERGED: row[DIVERGED]} if row and DIVERGED in row else {}
                yield {**cell.values, "learner": cell.learner, "seed": seed, **numbers, **more}


def verdict(difference: Estimate) -> str:
    """What a difference says of the claim that it is above zero; the rule is in the head of this module."""
    if not difference.values:
        return UNKNOWN
    if difference.low > 0.0:
        return HOLDS
    return FAILS if difference.high < 0.0 else UNDECIDED


def _first_metric(found: Iterable[Mapping[str, Any] | None]) -> str:
    for row in found:
        if row:
            for name in ("AP", "mIoU", "top1", "contrast_accuracy"):
                if name in row["result"]:
                    return name
    return "AP"
