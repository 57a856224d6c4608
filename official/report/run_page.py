"""`report.html` of a run or an evaluation: the verdict, curves, tables, images, and how to repeat it."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from official.data.holdout import class_counts
from official.data.source import Source
from official.evaluation.bootstrap import Interval
from official.evaluation.coco_matching import RECALLS
from official.evaluation.coco_scores import ALL, curves_of
from official.evaluation.confusion import box_confusion
from official.evaluation.evaluated import Evaluated, EvaluatedBoxes, EvaluatedClasses, EvaluatedMasks
from official.experiment import Experiment
from official.files import read_json
from official.report import plots
from official.report import verdict as verdicts
from official.report.curves import read_curves
from official.report.drawing_rows import Shown, drawing_rows
from official.report.html import Page
from official.report.label_facts import StoredBoxes, human_sides
from official.report.verdict import Commands, Verdict

MOST_ROWS = 100  # classes in a table; a page of a thousand is read by nobody
MOST_CURVES = 8


@dataclasses.dataclass(frozen=True)
class Ended:
    """What is known of a job that has ended; what a job has none of stays empty.

    Attributes:
      results: of every model (phase) its metrics, steps and seconds. evaluated: what its evaluation found.
      folders: of its evaluation. logs: of its TensorBoard events.
      words: the verdict as it was printed. numbers: the summary's "pseudo_labels".
      changed: flags that differ from their defaults, {name: (value, default)}.
      notes: the summary's versions, seconds, seed, skipped inputs, and the warnings about the data.
    """

    title: str
    experiment: Experiment
    task: Shown
    results: Mapping[str, Mapping[str, Any]]
    evaluated: Mapping[str, Evaluated] = dataclasses.field(default_factory=dict)
    folders: Mapping[str, str] = dataclasses.field(default_factory=dict)
    logs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    evaluation: Source | None = None
    labeled: Source | None = None
    unlabeled: Source | None = None
    verdict: Verdict | None = None
    words: Sequence[str] = ()
    commands: Commands | None = None
    stored: StoredBoxes | None = None
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    changed: Mapping[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The model that the page is about: the student, or what there is."""
        return next((name for name in ("student", "control", "teacher", "model") if name in self.results), "")


def page(ended: Ended) -> str:
    """The page as HTML; a part that cannot be drawn is one line of it."""
    found = Page(ended.title)
    parts: tuple[Callable[[Page, Ended], None], ...] = (
        _verdict,
        _scores,
        _classes,
        _curves,
        _precision_recall,
        _confusion,
        _labels,
        drawing_rows,
        _data,
        _flags,
    )
    for part in parts:
        inner = Page("")
        inner.out.seek(0)
        inner.out.truncate()
        try:
            part(inner, ended)
        except Exception as error:  # one part less is better than no page
            found.text(
                f"this part could not be made: {part.__name__.strip('_')}: {type(error).__name__}: {error}",
                "note",
            )
        else:
            found.raw(inner.out.getvalue())
    return found.html()


# --- words and tables -----------------------------------------------------------------------------


def _verdict(out: Page, ended: Ended) -> None:
    verdict = ended.verdict
    if verdict is None:
        if ended.words:
            out.box(list(ended.words))
        elif ended.evaluation is None:
            out.box(["Nothing has been evaluated: no --eval_data and no --eval_fraction"], "open")
        return
    kind = {verdicts.HELPED: "good", verdicts.HURT: "bad", verdicts.UNDECIDED: "open"}.get(verdict.word, "")
    head = verdicts.headline(verdict)
    lines = [head[:1].upper() + head[1:], f"({verdicts.how_sure(verdict)})"]
    whole = verdict.differences.get(("student", "teacher"))
    if whole is not None and verdict.against != "teacher":
        lines.append(f"student less teacher {whole[0].text(signed=True)}")
    out.box(lines, kind)
    if verdict.reasons:
        out.bullets([reason.text for reason in verdict.reasons])
    if ended.commands is not None:
        commands = ended.commands.next(verdict)
        if commands:
            out.text("What to try next:")
            out.code("\n".join(commands))
        better = [line.strip() for line in verdicts.export_lines(verdict, ended.commands)]
        if better:
            out.text(better[0])
            out.code("\n".join(better[1:]))


def _scores(out: Page, ended: Ended) -> None:
    if not ended.results:
        return
    metrics = [name for name in ended.task.metrics if any(name in row for row in ended.results.values())]
    rows = []
    for name, result in ended.results.items():
        interval = ended.verdict.scores.get(name) if ended.verdict else None
        cells = [f"{result[m]:.3f}" if result.get(m, -1.0) >= 0.0 else "–" for m in metrics]
        if interval is not None and metrics:
            cells[0] = interval.text()
        rows.append(
            [name, *cells, *(f"{result[key]:,.0f}" if key in result else "–" for key in ("steps", "seconds"))]
        )
    out.heading("Scores")
    out.table(["", *metrics, "steps", "seconds"], rows)
    out.bullets(_ended_early(ended), "note")
    if ended.verdict is not None and ended.verdict.images:
        out.text(
            "In brackets: 95 % intervals of a bootstrap over the evaluation images, of each score alone.",
            "note",
        )


def _ended_early(ended: Ended) -> list[str]:
    lines = []
    for name, row in ended.results.items():
        if "planned_steps" in row:
            lines.append(
                f"{name} ended after {row['steps']:,} of {row['planned_steps']:,} steps, as it no longer "
                f"gained (--patience)"
            )
        if "taken" in row:
            taken = (
                f"{name} is its checkpoint of step {row['taken']['step']:,}, the best of "
                f"{row['taken']['evaluations']} evaluations"
            )
            lines.append(
                f"{taken}: chosen on the evaluation data, so its score there is too good (--take=best)"
            )
    return lines


def _classes(out: Page, ended: Ended) -> None:
    verdict = ended.verdict
    if verdict is None or not verdict.by_class or len(ended.task.categories) < 2:
        return
    names = [category.name for category in ended.task.categories]
    trained = _counts(ended.labeled)
    evaluated = _evaluated(ended)
    pseudo = _pseudo_counts(ended, names)
    pair = verdict.differences.get(("student", verdict.against))
    head = [
        "class",
        *(["labels"] if trained else []),
        *(["pseudo labels"] if pseudo else []),
        *(["to be found"] if evaluated else []),
        *verdict.by_class,
    ]
    head += [f"student less {verdict.against}"] if pair else []
    rows: list[list[Any]] = []
    kinds = {}
    for name in sorted(names, key=lambda n: -evaluated.get(n, 0))[:MOST_ROWS]:
        cells = [
            name,
            *([f"{trained[name]:,}"] if trained else []),
            *([f"{pseudo.get(name, 0):,}"] if pseudo else []),
        ]
        cells += [f"{evaluated.get(name, 0):,}"] if evaluated else []
        cells += [_number(of.get(name)) for of in verdict.by_class.values()]
        if pair:
            difference = pair[1].get(name)
            kinds[len(rows), len(cells)] = {1: "holds", -1: "fails"}.get(
                difference.sign if difference else 0, ""
            )
            cells.append(difference.text(signed=True) if difference else "–")
        rows.append(cells)
    out.heading(f"{verdict.metric} by class")
    out.table(head, rows, kinds)
    if len(names) > MOST_ROWS:
        out.text(f"{len(names) - MOST_ROWS} rarer classes are left out here; summary.json has all.", "note")
    if pair and 1 < len(pair[1]) <= 40:
        order = sorted(pair[1].items(), key=lambda item: -item[1].value)
        drawn = [(name, i.value, i.low, i.high) for name, i in [("all", pair[0]), *order]]
        out.svg(
            plots.intervals(
                drawn,
                title=f"student less {verdict.against}, {verdict.metric}",
                x="difference, 95 % interval",
            ),
            "differences by class",
        )


def _number(value: Interval | None) -> str:
    return f"{value.value:.3f}" if value is not None and math.isfinite(value.value) else "–"


def _counts(source: Source | None) -> dict[str, int]:
    """Labels by class; {} where masks would have to be read for it."""
    if source is None or not source.categories or source.read_mask is not None:
        return {}
    return {c.name: int(n) for c, n in zip(source.categories, class_counts(source))}


def _evaluated(ended: Ended) -> dict[str, int]:
    """What there is to be found of every class: objects, images, or images with a pixel of it."""
    evaluated = next(iter(ended.evaluated.values()), None)
    if evaluated is None:
        return {}
    if isinstance(evaluated, EvaluatedBoxes):
        counts = evaluated.objects.sum(axis=1)
    elif isinstance(evaluated, EvaluatedClasses):
        counts = np.bincount(evaluated.labels, minlength=len(evaluated.class_names))
    else:
        assert isinstance(evaluated, EvaluatedMasks)
        counts = (evaluated.true > 0).sum(axis=0)
    return {name: int(n) for name, n in zip(evaluated.class_names, counts)}


def _pseudo_counts(ended: Ended, names: Sequence[str]) -> dict[str, int]:
    if ended.stored is not None:
        counts = np.bincount(ended.stored.classes[ended.stored.used], minlength=len(names))
        return {name: int(n) for name, n in zip(names, counts)}
    return dict(ended.numbers.get("pixels_per_class", ended.numbers.get("per_class", {})))


# --- drawings -------------------------------------------------------------------------------------


def _curves(out: Page, ended: Ended) -> None:
    curves = {name: read_curves(folder) for name, folder in ended.logs.items()}
    curves = {name: found for name, found in curves.items() if found}
    metric = ended.task.metrics[0]
    evaluated = {
        name: found[f"evaluation/{metric}"]
        for name, found in curves.items()
        if len(found.get(f"evaluation/{metric}", ())) > 1
    }
    loss = {
        name: found["train/loss"] for name, found in curves.items() if len(found.get("train/loss", ())) > 1
    }
    parts = {}
    for stream in ("human", "pseudo"):
        found = curves.get("student", {}).get(f"train/{stream}_loss", ())
        if len(found) > 1 and "train/pseudo_loss" in curves["student"]:
            parts[f"{stream} labels"] = found
    if not (evaluated or loss):
        return
    out.heading("Training")
    if evaluated:
        out.svg(
            plots.lines(evaluated, title=f"{metric} on the evaluation data", x="step", y=metric),
            f"{metric} over steps",
        )
    if loss:
        values = [value for points in loss.values() for _, value in points]
        log = min(values) > 0 and max(values) > 20 * min(values)
        out.svg(plots.lines(loss, title="training loss", x="step", y="loss", log=log), "loss over steps")
    if len(parts) == 2:
        out.svg(
            plots.lines(parts, title="the student's loss by kind of label", x="step", y="loss"),
            "human and pseudo loss",
        )


def _precision_recall(out: Page, ended: Ended) -> None:
    boxes = {
        name: evaluated
        for name, evaluated in ended.evaluated.items()
        if isinstance(evaluated, EvaluatedBoxes)
    }
    if not boxes:
        return
    curves = {name: curves_of(evaluated.matched) for name, evaluated in boxes.items()}
    out.heading("Precision and recall")
    for place, iou in ((0, 0.5), (5, 0.75)):
        drawn = {}
        for name, found in curves.items():
            known = found.precision[place, :, :, ALL]
            known = known[:, (known > -1).any(axis=0)]
            if known.size:
                drawn[name] = list(zip(RECALLS.tolist(), known.mean(axis=1).tolist()))
        if drawn:
            svg = plots.lines(
                drawn,
                title=f"at IoU {iou:g}, mean of the classes",
                x="recall",
                y="precision",
                limits=(-0.02, 1.02),
            )
            out.svg(svg, f"precision over recall at IoU {iou:g}")
    found, evaluated = curves[ended.shown], boxes[ended.shown]
    common = np.argsort(-evaluated.objects.sum(axis=1), kind="stable")[:MOST_CURVES]
    drawn = {
        evaluated.class_names[k]: list(zip(RECALLS.tolist(), found.precision[0, :, k, ALL].tolist()))
        for k in common
        if evaluated.objects[k].any()
    }
    if len(evaluated.class_names) > 1 and drawn:
        title = f"{ended.shown}, at IoU 0.5" + (
            f", the {MOST_CURVES} commonest classes" if len(evaluated.class_names) > MOST_CURVES else ""
        )
        out.svg(
            plots.lines(drawn, title=title, x="recall", y="precision", limits=(-0.02, 1.02)),
            "precision over recall by class",
        )


def _confusion(out: Page, ended: Ended) -> None:
    evaluated, names = ended.evaluated.get(ended.shown), [category.name for category in ended.task.categories]
    note = "Rows add up to 100 %."
    if isinstance(evaluated, EvaluatedBoxes) and evaluated.iou_type == "bbox":
        least = evaluated.best_score()
        matrix, rows, columns = (
            box_confusion(evaluated, least),
            [*evaluated.class_names, "no object"],
            [*evaluated.class_names, "not found"],
        )
        note += (
            f" Boxes with score ≥ {least:.2f}, where this model's F1 is highest, matched at IoU 0.5 "
            f"without regard to the class."
        )
    elif isinstance(evaluated, EvaluatedClasses):
        matrix = np.zeros((len(names), len(names)), np.int64)
        np.add.at(matrix, (evaluated.labels, evaluated.predicted), 1)
        rows = columns = names
    elif isinstance(evaluated, EvaluatedMasks):
        matrix = np.array(
            read_json(os.path.join(ended.folders[ended.shown], "metrics.json"))["confusion_matrix"]
        )
        rows = columns = names
        note += " Pixels."
    else:
        return
    out.heading("Which class is taken for which")
    out.svg(plots.confusion(matrix, rows, columns, title=ended.shown), "confusion matrix")
    out.text(note, "note")


def _labels(out: Page, ended: Ended) -> None:
    numbers, stored = ended.numbers, ended.stored
    if not numbers and stored is None:
        return
    out.heading("Pseudo labels")
    threshold = ended.experiment.pseudo_labels.score_threshold
    at = float(threshold) if not isinstance(threshold, str) else None
    if stored is None:
        known = {key: value for key, value in numbers.items() if isinstance(value, (int, float, str))}
        out.table(
            ["", ""],
            [
                [key.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)]
                for key, value in known.items()
            ],
        )
        counts = ended.notes.get("score_histogram")
        if counts:
            unit = {"masks": "pixels", "classes": "images"}[ended.task.label_kind]
            out.svg(
                plots.counted(np.array(counts), title=f"scores of all {unit}", x="score", y=unit, at=at),
                "score histogram",
            )
        return
    used = np.bincount(stored.image[stored.used], minlength=stored.images)
    lines = [
        (
            f"{stored.used.sum():,} of {len(stored.scores):,} stored boxes are in use (threshold "
            f"{threshold}), "
            f"on {np.count_nonzero(used):,} of {stored.images:,} images: {used.mean():.2f} an image"
        )
    ]
    human = None
    if ended.labeled is not None and ended.labeled.annotations is not None:
        human = ended.labeled.annotations.counts()
        lines[0] += f"; people drew {human.mean():.2f}"
    out.bullets(lines)
    scores = {"stored": stored.scores, "in use": stored.scores[stored.used]}
    out.svg(
        plots.histogram(
            scores, title="scores of the pseudo boxes", x="score", bins=np.linspace(0, 1, 41), at=at, log=True
        ),
        "score histogram",
    )
    if human is None or ended.labeled is None:
        return
    sides = {"human": human_sides(ended.labeled), "in use": stored.sides[stored.used]}
    out.svg(
        plots.histogram(
            sides,
            title="size of the boxes",
            x="side, as a share of the image's",
            bins=np.linspace(0, 1, 31),
            share=True,
        ),
        "size histogram",
    )
    most = int(max(human.max(initial=1), np.percentile(used, 99.5) if len(used) else 1, 1))
    counts = {"human": np.minimum(human, most), "in use": np.minimum(used, most)}
    bins = np.arange(most + 2) - 0.5 if most < 40 else np.linspace(-0.5, most + 0.5, 41)
    out.svg(
        plots.histogram(counts, title="boxes an image", x="boxes", bins=bins, share=True), "boxes an image"
    )


# --- the data and the run -------------------------------------------------------------------------


def _data(out: Page, ended: Ended) -> None:
    rows = []
    for role, source in (
        ("labelled", ended.labeled),
        ("unlabelled", ended.unlabeled),
        ("evaluation", ended.evaluation),
    ):
        if source is not None and len(source):
            height, width = (np.median(source.sizes[:, k]) for k in (0, 1))
            counts = _counts(source)
            rows.append(
                [
                    role,
                    f"{len(source):,}",
                    f"{width:.0f} × {height:.0f}",
                    f"{sum(counts.values()):,}" if counts else "–",
                    str(source.word),
                ]
            )
    if not rows:
        return
    out.heading("Data")
    out.table(
        ["", "images", "median size", "labels", "from"], rows, {(r, 4): "text" for r in range(len(rows))}
    )
    skipped = {role: counts for role, counts in ended.notes.get("skipped_inputs", {}).items() if counts}
    lines = [
        f"{role}: " + ", ".join(f"{reason} {number}" for reason, number in counts.items())
        for role, counts in skipped.items()
    ]
    if lines:
        out.text("Repaired or skipped:")
        out.bullets(lines)
    if ended.notes.get("warnings"):
        out.text("Warnings before the run:")
        out.bullets(ended.notes["warnings"])


def _flags(out: Page, ended: Ended) -> None:
    out.heading("How it was made")
    if ended.commands is not None:
        out.text("The same run in another folder:")
        out.code(ended.commands.again())
    if ended.changed:
        rows = [[f"--{name}", str(value), str(default)] for name, (value, default) in ended.changed.items()]
        with out.folded(f"{len(rows)} flags that differ from their defaults"):
            out.table(
                ["flag", "here", "default"], rows, {(r, c): "text" for r in range(len(rows)) for c in (1, 2)}
            )
    versions = ended.notes.get("versions", {})
    with out.folded("Versions and seconds"):
        out.table(
            ["", ""],
            [
                [str(name), str(value)]
                for name, value in {"seed": ended.notes.get("seed", ""), **versions}.items()
            ],
        )
        out.table(
            ["part", "seconds"],
            [[name, f"{value:,.1f}"] for name, value in ended.notes.get("seconds", {}).items()],
        )
