"""The figures of a study as SVG: lines over an axis with intervals, and what the paper found beside them."""

from __future__ import annotations

import math
from typing import Any, Mapping

from official.report.plots import COLOURS, MARKS, canvas, saved
from official.study.results import Estimate, Results, estimate


def draw(results: Results, figure: Mapping[str, Any]) -> dict[str, bytes]:
    """A figure of the study as {"svg": ..., "png": ...}.

    Args:
      figure: see official/study/spec.py: "x" and "lines" name axes; "kind" is lines or bars; with "minus"
        every line is the paired difference to that one, else the results themselves; with "paper" the paper's
        numbers are drawn hollow. Of kind curves: a loss over the steps, a thin line a seed. Where runs have
        diverged there is a cross.
    """
    if figure.get("kind") == "curves":
        return _curves(results, figure)
    study, x_axis, line_axis = results.study, figure["x"], figure["lines"]
    minus = figure.get("minus")
    with canvas(5.4, 3.6, figure.get("title", study.title)) as (drawn, axes):
        values = list(study.axes[x_axis])
        names = [name for name in study.axes[line_axis] if name != minus]
        for k, name in enumerate(names):
            points = [(i, _point(results, x_axis, x, line_axis, name, minus)) for i, x in enumerate(values)]
            (_bars if figure.get("kind") == "bars" else _line)(axes, points, name, k, len(names))
            if figure.get("paper"):
                _paper_line(axes, results, (x_axis, values, line_axis, name, minus), k)
        axes.set_xticks(range(len(values)), values)
        axes.set_xlabel(x_axis)
        unit = f"{results.metric}{' × 100' if study.scale == 100.0 else ''}"
        axes.set_ylabel(f"{unit}, difference to {minus}" if minus else unit)
        _crosses(axes, results, (x_axis, values, line_axis, names, minus))
        if minus:
            axes.axhline(0.0, color="0.5", linewidth=0.8)
        # Over no line and no bar.
        drawn.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        return {kind: saved(drawn, kind) for kind in ("svg", "png")}


def _curves(results: Results, figure: Mapping[str, Any]) -> dict[str, bytes]:
    with canvas(5.4, 3.6, figure.get("title", results.study.title)) as (drawn, axes):
        for k, name in enumerate(results.study.axes[figure["lines"]]):
            color, label = COLOURS[k % len(COLOURS)], name
            for cell in _names(results, {**figure["where"], figure["lines"]: name}):
                lost = results.diverged(cell)
                for seed, points in results.curves(cell, figure["curve"]).items():
                    axes.plot(*zip(*points), color=color, linewidth=1.0, alpha=0.8, label=label)
                    label = "_"  # once in the legend
                    if seed in lost:
                        axes.plot(*points[-1], marker="X", color=color, markersize=9, linestyle="none")
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel(figure["curve"].replace("_", " "))
        drawn.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        return {kind: saved(drawn, kind) for kind in ("svg", "png")}


def _crosses(axes: Any, results: Results, what: tuple[str, list[str], str, list[str], str | None]) -> None:
    """Crosses at the foot of the figure where runs of a line, or of what it is compared with, have diverged;
    beside them how many.
    """
    x_axis, values, line_axis, names, minus = what
    label = "diverged"
    for k, name in enumerate(names):
        for i, x in enumerate(values):
            cells = [c for n in (name, minus) if n for c in _names(results, {x_axis: x, line_axis: n})]
            lost = sum(len(results.diverged(cell)) for cell in cells)
            if lost:
                place = dict(transform=axes.get_xaxis_transform(), clip_on=False)
                shift = 0.12 * (k - (len(names) - 1) / 2)
                axes.plot([i + shift], [0.03], marker="X", color=COLOURS[k % len(COLOURS)], linestyle="none",
                          label=label, **place)  # fmt: skip
                axes.text(i + shift + 0.06, 0.015, str(lost), fontsize=7, **place)
                label = "_"


def _names(results: Results, fixed: Mapping[str, str]) -> list[str]:
    return [cell.name for cell in results.study.cells if fixed.items() <= cell.values.items()]


def _point(results: Results, x_axis: str, x: str, line_axis: str, name: str, minus: str | None) -> Estimate:
    """A result, or the difference to another line; other axes are averaged over."""
    plus = _names(results, {x_axis: x, line_axis: name})
    if minus is None:
        return _mean_of(results, plus)
    return results.difference(plus, _names(results, {x_axis: x, line_axis: minus}))


def _mean_of(results: Results, cells: list[str]) -> Estimate:
    values = [results.values(name) for name in cells]
    seeds = [s for s in results.study.seeds if values and all(s in found for found in values)]
    return estimate({s: sum(found[s] for found in values) / len(values) for s in seeds})


def _bars(axes: Any, points: list[tuple[int, Estimate]], name: str, k: int, bars: int) -> None:
    drawn, width = [(i, e) for i, e in points if math.isfinite(e.mean)], 0.8 / bars
    axes.bar(
        [i + width * (k - (bars - 1) / 2) for i, _ in drawn],
        [e.mean for _, e in drawn],
        width,
        label=name,
        yerr=_whiskers(drawn),
        color=COLOURS[k % len(COLOURS)],
        capsize=3,
        ecolor="0.25",
    )


def _whiskers(drawn: list[tuple[int, Estimate]]) -> list[list[float]]:
    """Lengths below and above the means, none where there is one seed."""
    below = [e.mean - e.low if math.isfinite(e.low) else 0.0 for _, e in drawn]
    return [below, [e.high - e.mean if math.isfinite(e.high) else 0.0 for _, e in drawn]]


def _line(axes: Any, points: list[tuple[int, Estimate]], name: str, k: int, lines: int) -> None:
    drawn = [(i, e) for i, e in points if math.isfinite(e.mean)]
    shift = 0.08 * (k - (lines - 1) / 2)  # intervals do not hide each other
    axes.errorbar(
        [i + shift for i, _ in drawn],
        [e.mean for _, e in drawn],
        yerr=_whiskers(drawn),
        label=name,
        color=COLOURS[k % len(COLOURS)],
        marker=MARKS[k % len(MARKS)],
        markersize=5,
        capsize=3,
        linewidth=1.4,
    )


def _paper_line(
    axes: Any, results: Results, what: tuple[str, list[str], str, str, str | None], k: int
) -> None:
    x_axis, values, line_axis, name, minus = what
    points = []
    for i, x in enumerate(values):
        rows = [
            [results.study.cell(c).paper for c in _names(results, {x_axis: x, line_axis: n})]
            for n in (name, minus)
            if n
        ]
        numbers = [[v for v in row if v is not None] for row in rows]
        if all(numbers) and numbers == rows:
            means = [sum(row) / len(row) for row in numbers]
            points.append((i, means[0] - means[1] if minus else means[0]))
    if points:
        axes.plot(
            *zip(*points),
            label=f"{name}, the paper",
            color=COLOURS[k % len(COLOURS)],
            marker=MARKS[k % len(MARKS)],
            markerfacecolor="white",
            linestyle=":",
            linewidth=1.0,
        )
