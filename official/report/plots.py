"""Drawings of a page as SVG: colours that colour-blind people tell apart, the same bytes for the same
numbers.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any, Iterator, Mapping, Sequence

import numpy as np

# Okabe and Ito's colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "osD^vP*"
PHASE_COLOURS = {
    "teacher": COLOURS[0],
    "control": COLOURS[4],
    "student": COLOURS[1],
    "human": COLOURS[6],
    "model": COLOURS[0],
}
_MOST_CLASSES = 30  # in a confusion matrix
_MOST_POINTS = 300  # of a line


@contextlib.contextmanager
def canvas(width: float = 4.8, height: float = 3.1, title: str = "") -> Iterator[tuple[Any, Any]]:
    """A figure and its axes, closed in the end."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    try:
        if title:
            axes.set_title(title, fontsize=10)
        axes.grid(axis="y", alpha=0.3)
        yield figure, axes
    finally:
        pyplot.close(figure)


def saved(figure: Any, kind: str = "svg") -> bytes:
    """A figure as SVG or PNG; the same figure is the same file."""
    import matplotlib

    content = io.BytesIO()
    metadata = {"svg": {"Date": None}, "png": {}}[kind]
    with matplotlib.rc_context({"svg.hashsalt": "study"}):
        figure.savefig(content, format=kind, dpi=150, metadata=metadata)
    return content.getvalue()


def lines(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x: str,
    y: str,
    log: bool = False,
    limits: tuple[float, float] | None = None,
) -> bytes:
    """Curves by name over one axis; names of phases have their own colours."""
    with canvas(title=title) as (figure, axes):
        for k, (name, points) in enumerate(curves.items()):
            kept = _thinned(points)
            mark = MARKS[k % len(MARKS)] if len(kept) < 25 else None
            color = PHASE_COLOURS.get(name, COLOURS[k % len(COLOURS)])
            axes.plot(*zip(*kept), label=name, color=color, marker=mark, markersize=4, linewidth=1.4)
        if log:
            axes.set_yscale("log")
        if limits:
            axes.set_xlim(*limits)
            axes.set_ylim(*limits)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)  # over no line
        return saved(figure)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= _MOST_POINTS:
        return list(points)
    rows = np.unique(np.linspace(0, len(points) - 1, _MOST_POINTS).astype(int))
    return [points[row] for row in rows]


def histogram(
    values: Mapping[str, np.ndarray],
    *,
    title: str,
    x: str,
    bins: np.ndarray,
    share: bool = False,
    at: float | None = None,
    log: bool = False,
) -> bytes:
    """Outlined histograms over the same bins.

    Args:
      share: of each one's values instead of counts. at: a vertical line, such as a threshold.
    """
    with canvas(title=title) as (figure, axes):
        for k, (name, column) in enumerate(values.items()):
            counts = np.histogram(column, bins)[0].astype(np.float64)
            counts = counts / max(1, len(column)) if share else counts
            color = PHASE_COLOURS.get(name, COLOURS[k % len(COLOURS)])
            axes.stairs(
                counts,
                bins,
                label=f"{name} ({len(column):,})",
                color=color,
                fill=k == 0,
                alpha=0.45 if k == 0 else 1,
                linewidth=1.5,
            )
        if at is not None:
            axes.axvline(at, color="0.3", linestyle=":", label=f"threshold {at:g}")
        if log:
            axes.set_yscale("symlog", linthresh=1)
        axes.set_xlabel(x)
        axes.set_ylabel("share" if share else "number")
        figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        return saved(figure)


def counted(counts: np.ndarray, *, title: str, x: str, y: str, at: float | None = None) -> bytes:
    """Counts of bins of equal width from 0 to 1; `at` is a vertical line, such as a threshold."""
    with canvas(title=title) as (figure, axes):
        axes.stairs(counts, np.linspace(0, 1, len(counts) + 1), color=COLOURS[0], fill=True, alpha=0.45)
        if at is not None:
            axes.axvline(at, color="0.3", linestyle=":", label=f"threshold {at:g}")
            figure.legend(loc="outside lower center", fontsize=8, frameon=False)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        return saved(figure)


def confusion(matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str) -> bytes:
    """Shares of every row as a heat map, with numbers where they are legible; the rows with most entries
    where there are many.
    """
    matrix = np.asarray(matrix, np.float64)
    if len(rows) > _MOST_CLASSES:
        kept = np.sort(np.argsort(-matrix.sum(axis=1), kind="stable")[:_MOST_CLASSES])
        extra = np.arange(len(rows), len(columns))
        matrix = matrix[np.ix_(kept, np.concatenate([kept, extra]))]
        columns = [columns[k] for k in (*kept, *extra)]
        rows = [rows[k] for k in kept]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.36 * len(columns)
    with canvas(max(3.6, side + 0.4), max(2.6, 1.4 + 0.36 * len(rows)), title) as (figure, axes):
        axes.grid(False)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.set_xlabel("called", fontsize=8)
        axes.set_ylabel("is", fontsize=8)
        if len(columns) <= 20:
            for i, j in zip(*np.nonzero(shares >= 0.005)):
                color = "white" if shares[i, j] > 0.55 else "black"
                axes.text(
                    j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color=color
                )
        return saved(figure)


def intervals(rows: Sequence[tuple[str, float, float, float]], *, title: str, x: str) -> bytes:
    """Numbers with their intervals below each other, a line at zero: (name, value, low, high), nan for no
    interval.
    """
    with canvas(4.8, 1.1 + 0.26 * len(rows), title) as (figure, axes):
        axes.grid(axis="x", alpha=0.3)
        axes.grid(False, axis="y")
        for k, (_name, value, low, high) in enumerate(rows):
            color = COLOURS[2] if low > 0 else COLOURS[1] if high < 0 else "0.45"
            if np.isfinite(low):
                axes.plot([low, high], [k, k], color=color, linewidth=2)
            axes.plot(value, k, "o", color=color, markersize=5)
        axes.axvline(0.0, color="0.3", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(x)
        return saved(figure)
