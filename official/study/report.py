"""What a study leaves for people and programs: study.json, results.csv, figures, report.md and one
self-contained report.html.
"""

from __future__ import annotations

import csv
import math
import os
from typing import Any, Mapping, Sequence

from official.files import whole_file, write_bytes, write_json
from official.report.html import Page, escape
from official.study.figures import draw
from official.study.results import Estimate, Results

_CLASS = {"holds": "holds", "does not hold": "fails"}


def write_report(results: Results, folder: str, notes: Sequence[str] = ()) -> str:
    """Writes all of it; returns the path of report.html.

    Args:
      notes: lines for the end: failed runs, the machine.
    """
    os.makedirs(folder, exist_ok=True)
    write_json(os.path.join(folder, "study.json"), results.to_json())
    _write_csv(results, os.path.join(folder, "results.csv"))
    figures = []
    for number, figure in enumerate(results.study.figures, 1):
        drawn = draw(results, figure)
        for kind, content in drawn.items():
            write_bytes(os.path.join(folder, f"figure_{number}.{kind}"), content)
        figures.append((figure.get("title", ""), drawn["svg"]))
    _write_text(os.path.join(folder, "report.md"), markdown(results, notes))
    path = os.path.join(folder, "report.html")
    _write_text(path, page(results, figures, notes))
    return path


def _write_text(path: str, text: str) -> None:
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def _write_csv(results: Results, path: str) -> None:
    rows = list(results.rows())
    names = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def number(value: Estimate, *, signed: bool = False) -> str:
    """`12.3 ± 0.4` (sample standard deviation), `12.3` of one seed, a dash of none."""
    if not value.values:
        return "–"
    text = f"{value.mean:+.1f}" if signed else f"{value.mean:.1f}"
    spread = f" ± {value.deviation:.1f}" if math.isfinite(value.deviation) else ""
    return (text + spread).replace("-", "−")


def interval(value: Estimate) -> str:
    """`+1.2 [0.4, 2.0]`: the mean difference and its 95 % interval."""
    if not value.values:
        return "–"
    inside = f" [{value.low:+.1f}, {value.high:+.1f}]" if math.isfinite(value.low) else " (one seed)"
    return f"{value.mean:+.1f}{inside}".replace("-", "−")


def tables(results: Results) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, head, rows) of the study's tables, then of its claims; cells as text."""
    found = [_table(results, table) for table in results.study.tables]
    claims = [
        [c["id"], c["text"], interval(c["difference"]), str(len(c["difference"].values)), c["verdict"]]
        for c in results.claims()
    ]
    if claims:
        found.append(
            ("Claims of the paper", ["", "claim", "difference, 95 % interval", "seeds", "here"], claims)
        )
    return found


def _table(results: Results, table: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """The table's rows and columns for every combination of the other axes, and paired differences at the
    end.
    """
    study, row_axis, column_axis = results.study, table["rows"], table["columns"]
    others = [axis for axis in study.axes if axis not in (row_axis, column_axis)]
    pairs = [tuple(pair) for pair in table.get("differences", ())]
    columns = list(study.axes[column_axis])
    head = [" / ".join([*others, row_axis]), *columns, *(f"{a} less {b}" for a, b in pairs)]
    rows = []
    combinations = dict.fromkeys(tuple(c.values[a] for a in (*others, row_axis)) for c in study.cells)
    for values in combinations:
        names = {
            c.values[column_axis]: c
            for c in study.cells
            if tuple(c.values[a] for a in (*others, row_axis)) == values
        }
        cells = [_cell(results, names.get(column)) for column in columns]
        differences = [
            interval(results.difference([names[a].name], [names[b].name]))
            if a in names and b in names
            else "–"
            for a, b in pairs
        ]
        rows.append([" / ".join(values), *cells, *differences])
    return table.get("title", study.title), head, rows


def _cell(results: Results, cell: Any) -> str:
    if cell is None:
        return ""
    paper = f" ({cell.paper:g})" if cell.paper is not None else ""
    lost = len(results.diverged(cell.name))
    if not lost:
        return number(results.cell(cell.name)) + paper
    found = results.cell(cell.name)
    if not found.values:
        return f"diverged{paper}"
    return f"{number(found)}{paper}, {lost} of {lost + len(found.values)} diverged"


def _notes(results: Results, notes: Sequence[str]) -> list[str]:
    done, total = results.finished()
    study = results.study
    lines = [
        f"{done} of {total} results ({len(study.cells)} cells, seeds {', '.join(map(str, study.seeds))})."
    ]
    times = f" times {study.scale:g}" if study.scale != 1.0 else ""
    lines.append(
        f"{results.metric}{times}: mean ± standard deviation over the seeds; the paper's number in brackets "
        f"where it has one."
    )
    lines.append(
        "Differences are paired by seed, with Student's 95 % interval. A claim holds if its interval is "
        "above zero, does not hold if it is below, and is undecided at this scale otherwise."
    )
    if any(results.diverged(cell.name) for cell in study.cells):
        lines.append(
            "A run whose loss was not finite any more has diverged; it is in no mean, and counts as 0 in a "
            "difference."
        )
    return [*lines, *notes]


def markdown(results: Results, notes: Sequence[str] = ()) -> str:
    """The report as Markdown."""
    parts = [
        f"# {results.study.title}",
        results.study.text,
        "\n".join(f"- {line}" for line in _notes(results, notes)),
    ]
    for number_, figure in enumerate(results.study.figures, 1):
        parts.append(f"![{figure.get('title', '')}](figure_{number_}.svg)")
    for title, head, rows in tables(results):
        lines = [
            f"| {' | '.join(head)} |",
            f"|{'---|' * len(head)}",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
        parts.append(f"## {title}\n\n" + "\n".join(lines))
    return "\n\n".join(part for part in parts if part) + "\n"


def page(results: Results, figures: Sequence[tuple[str, bytes]], notes: Sequence[str] = ()) -> str:
    """The report as one HTML file that needs no other file and no network."""
    found = Page(results.study.title)
    found.raw("<p>" + ";<br>".join(map(escape, results.study.text.split("; "))) + "</p>")
    for text, svg in figures:
        found.svg(svg, text)
    for text, head, rows in tables(results):
        found.heading(text)
        found.table(
            head,
            rows,
            {(r, c): _kind(cell, head[c]) for r, row in enumerate(rows) for c, cell in enumerate(row)},
        )
    found.heading("How to read this")
    found.bullets(_notes(results, notes), "note")
    return found.html()


def _kind(cell: str, column: str) -> str:
    return "text" if column == "claim" else _CLASS.get(cell, "")
