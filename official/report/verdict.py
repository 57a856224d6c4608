"""Whether self-training helped, how sure that is, why, what is best and what to do next; from numbers alone.

The student is compared with the fair control where there is one, else with its teacher (which had fewer
steps, and that is said). It *helped* if the whole 95 % interval of the difference is above zero, *hurt* if it
is below, and is *not decided* otherwise. Reasons are given only where the numbers show them, each with the
command that would do something about it.
"""

from __future__ import annotations

import dataclasses
import math
from shlex import quote
from typing import Any, Mapping, Sequence

import numpy as np

from official.evaluation import bootstrap
from official.evaluation.bootstrap import Interval, Scored
from official.evaluation.evaluated import Evaluated, EvaluatedClasses, EvaluatedMasks
from official.screen import called_as

HELPED, HURT, UNDECIDED = "helped", "hurt", "not decided"
FEWEST_IMAGES = 10  # of fewer evaluation images nothing is concluded
WEAK_AP = 0.05  # of a teacher below it most boxes are wrong
ABOVE_CONSTANT = 1.05  # of masks and classes: a teacher has to be so many times as good as a constant answer
SATURATED = 0.9  # share of --max_detections that an image is full from
TOO_MANY, TOO_FEW = 3.0, 0.2  # pseudo boxes an image, in units of the boxes that people drew
STILL_RISING = 0.03  # share of its score that a control gained in its last fifth
_OF_ALL = 0.8
HARDLY = 0.2  # share of the whole score below which a class is hardly learned


@dataclasses.dataclass(frozen=True)
class Reason:
    """Something that the numbers show, and the flags or the job that would change it ("" where none
    would).
    """

    text: str
    flags: str = ""
    keeps: str = ""  # "labels": what the next run can take over
    job: str = ""  # on this very run, in place of another run


@dataclasses.dataclass(frozen=True)
class LabelFacts:
    """Pseudo labels in use, beside those of people.

    Attributes:
      boxes: in use, an image; None for other labels than boxes. boxes_where_any: an image that has one.
      human_boxes: an image, of people; None: not known.
      full: share of the images with at least 90 % of `max_detections` boxes in use.
      matching: the score at which there would be as many boxes an image as people drew; None: not known.
      threshold: in use, as text. empty_classes: that people labelled and that have no pseudo label.
      used: share of the images with a label in use.
    """

    boxes: float | None = None
    boxes_where_any: float = 0.0
    human_boxes: float | None = None
    full: float = 0.0
    max_detections: int = 0
    matching: float | None = None
    threshold: str = ""
    empty_classes: tuple[str, ...] = ()
    used: float = 1.0


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a verdict is made of.

    Attributes:
      metric: the number that decides. scores: of every phase, by name, in the order teacher, control,
        student.
      evaluated: of the phases whose evaluation says something of single images.
      labels: None without a student.
      unlabelled_classes: evaluated, but no image to learn them from. unevaluated_classes: labelled, but not
        in the evaluation set.
      label_counts: labels of people by class; {} where that is not known.
      control_curve: (step, score) of the control's evaluations. steps: of every phase.
    """

    metric: str
    scores: Mapping[str, float]
    evaluated: Mapping[str, Evaluated]
    labels: LabelFacts | None = None
    unlabelled_classes: tuple[str, ...] = ()
    unevaluated_classes: tuple[str, ...] = ()
    label_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    control_curve: Sequence[tuple[int, float]] = ()
    steps: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """See the module.

    Attributes:
      word: HELPED, HURT, UNDECIDED, or "" where there is no student.
      scores: of every phase. by_class: of every phase, by class. differences: ("student", "control") and so
        on -> whole, by class.
      images: that it was evaluated on; 0: not known.
    """

    metric: str
    word: str
    scores: dict[str, Interval]
    by_class: dict[str, dict[str, Interval]]
    differences: dict[tuple[str, str], tuple[Interval, dict[str, Interval]]]
    best: str
    images: int
    reasons: list[Reason]

    @property
    def against(self) -> str:
        """What the student is compared with first."""
        return "control" if "control" in self.scores else "teacher"

    def to_json(self) -> dict[str, Any]:
        """What `summary.json` holds."""

        def named(found: Mapping[str, Interval]) -> dict[str, Any]:
            return {name: value.to_json() for name, value in found.items()}

        scores = {
            phase: {**value.to_json(), "per_class": named(self.by_class.get(phase, {}))}
            for phase, value in self.scores.items()
        }
        return {
            "metric": self.metric,
            "word": self.word,
            "best": self.best,
            "images": self.images,
            "seeds": 1,
            "scores": scores,
            **{
                f"{a} - {b}": {**whole.to_json(), "per_class": named(of)}
                for (a, b), (whole, of) in self.differences.items()
            },
            "reasons": [dataclasses.asdict(reason) for reason in self.reasons],
        }


def decide(facts: Facts) -> Verdict:
    """The verdict on a run."""
    models = bootstrap.scored(facts.evaluated) if facts.evaluated else {}
    names = next(iter(facts.evaluated.values())).class_names if models else []
    images = len(next(iter(facts.evaluated.values())).ids) if models else 0
    nothing = math.nan
    scores = {
        p: bootstrap.interval(models[p].whole) if p in models else Interval(v, nothing, nothing)
        for p, v in facts.scores.items()
    }
    by_class = {
        p: {n: bootstrap.interval(m.by_class[:, k]) for k, n in enumerate(names)} for p, m in models.items()
    }
    differences = {
        ("student", other): _difference(facts, models, other, names)
        for other in ("control", "teacher")
        if {"student", other} <= set(facts.scores)
    }
    best = _best(facts.scores)
    word = _word(differences, images)
    return Verdict(facts.metric, word, scores, by_class, differences, best, images, reasons(facts))


def _best(scores: Mapping[str, float]) -> str:
    """The phase of the highest score; the student, where it shows the same three digits."""
    if "student" in scores and round(scores["student"], 3) >= round(max(scores.values()), 3):
        return "student"
    return max(scores, key=lambda phase: scores[phase]) if scores else ""


def _difference(
    facts: Facts, models: Mapping[str, Scored], other: str, names: list[str]
) -> tuple[Interval, dict[str, Interval]]:
    if {"student", other} <= set(models):
        return bootstrap.difference(models["student"], models[other], names)
    return Interval(facts.scores["student"] - facts.scores[other], math.nan, math.nan), {}


def _word(differences: Mapping[tuple[str, str], tuple[Interval, Any]], images: int) -> str:
    if not differences:
        return ""
    first = next(iter(differences.values()))[0]
    return {1: HELPED, -1: HURT, 0: UNDECIDED}[first.sign if images >= FEWEST_IMAGES else 0]


# --- reasons --------------------------------------------------------------------------------------


def reasons(facts: Facts) -> list[Reason]:
    """What the numbers show, weightiest first."""
    found = []
    if facts.labels is not None:
        weak = _weak_teacher(facts)
        found += [*weak, *_odd_labels(facts.labels), *([] if weak else _weak_classes(facts))]
    if facts.unlabelled_classes:
        found.append(
            Reason(
                f"no training image shows {_listed(facts.unlabelled_classes)}, which the evaluation data "
                f"has: label some"
            )
        )
    if facts.unevaluated_classes:
        found.append(
            Reason(
                f"the evaluation data has no {_listed(facts.unevaluated_classes)}: these classes are not "
                f"evaluated"
            )
        )
    gained = rising(facts.control_curve)
    if gained > STILL_RISING:
        steps = 2 * facts.steps.get("teacher", 0)
        text = (
            f"the control still improves ({gained:+.0%} in its last fifth): teacher and control are not "
            f"trained out"
        )
        found.append(Reason(text, f"--teacher_steps={steps}" if steps else ""))
    return found


def _weak_teacher(facts: Facts) -> list[Reason]:
    score, level, why = facts.scores.get("teacher", math.nan), weak_level(facts), ""
    if facts.metric != "AP":
        level, why = level * ABOVE_CONSTANT, ", about what naming the commonest class everywhere reaches"
    if not score < level:
        return []
    steps = 2 * facts.steps.get("teacher", 0)
    text = (
        f"the teacher is too weak to label: {facts.metric} {score:.3f}, below {level:.3f}{why}; most of "
        f"its labels are wrong"
    )
    return [Reason(text, f"--teacher_steps={steps}" if steps else "")]


def weak_level(facts: Facts) -> float:
    """The score below which a teacher's labels are not worth learning: 0.05 AP, else what a constant answer
    scores.
    """
    evaluated = facts.evaluated.get("teacher")
    if facts.metric == "AP":
        return WEAK_AP
    if isinstance(evaluated, EvaluatedMasks):
        true = evaluated.true.sum(axis=0)
        return float(true.max() / max(1, true.sum()) / max(1, np.count_nonzero(true)))
    if isinstance(evaluated, EvaluatedClasses) and len(evaluated.labels):
        return float(np.bincount(evaluated.labels).max() / len(evaluated.labels))
    return 0.0


def _odd_labels(labels: LabelFacts) -> list[Reason]:
    found, human = [], labels.human_boxes
    beside = f"; people drew {human:.1f}" if human is not None else ""
    keeping = (
        f"--score_threshold={labels.matching:.3f}"
        if labels.matching is not None
        else "--score_threshold=auto"
    )
    would = (
        f" (from {labels.matching:.3f} on there would be as many as people draw)"
        if labels.matching is not None
        else ""
    )
    if labels.full > 0.5:
        found.append(
            Reason(
                f"the pseudo labels are saturated: {labels.full:.0%} of the images have about "
                f"{labels.max_detections} boxes, which is "
                f"--max_detections{beside}. The threshold {labels.threshold} lets everything through{would}",
                keeping,
                "labels",
            )
        )
    elif labels.boxes is not None and human and labels.boxes > TOO_MANY * human:
        text = (
            f"{labels.boxes:.1f} pseudo boxes an image{beside}: the threshold {labels.threshold} keeps "
            f"too many{would}"
        )
        found.append(Reason(text, keeping, "labels"))
    elif labels.boxes is not None and human and labels.boxes < TOO_FEW * human:
        text = (
            f"{labels.boxes:.2f} pseudo boxes an image{beside}: what the threshold {labels.threshold} "
            f"leaves out is taught as background{would}"
        )
        found.append(Reason(text, keeping, "labels"))
    elif labels.boxes is not None and human and labels.boxes_where_any > TOO_MANY * human:
        text = (
            f"{labels.used:.0%} of the images have pseudo boxes, {labels.boxes_where_any:.1f} "
            f"each{beside}: most are wrong"
        )
        found.append(Reason(text))
    elif labels.boxes is None and labels.used < TOO_FEW:
        text = f"only {labels.used:.0%} is labelled at the threshold {labels.threshold}"
        found.append(Reason(text, "--score_threshold=0.3", "labels"))
    if labels.empty_classes:
        text = (
            f"no pseudo label of {_listed(labels.empty_classes)}: the teacher is never sure of it. Label "
            f"more of it"
        )
        found.append(Reason(text, job="review_labels"))
    return found


def _weak_classes(facts: Facts) -> list[Reason]:
    """Classes that even the best model hardly finds, where it finds the others."""
    evaluated = facts.evaluated.get(_best(facts.scores))
    if evaluated is None:
        return []
    whole, by_class = evaluated.own()
    weak = [name for name, value in zip(evaluated.class_names, by_class) if value < HARDLY * whole]
    if not weak:
        return []
    said = [
        f"{name} ({facts.label_counts[name]} labels)" if name in facts.label_counts else name for name in weak
    ]
    return [Reason(f"hardly learned: {_listed(said)}. Label more of it", job="review_labels")]


def rising(curve: Sequence[tuple[int, float]]) -> float:
    """Share of its last score that a curve gained in the last fifth of its steps; 0 where it is too short to
    say.
    """
    points = sorted(dict(curve).items())
    if len(points) < 3 or points[-1][1] <= 0.0:
        return 0.0
    before = [value for step, value in points if step <= _OF_ALL * points[-1][0]]
    return 1.0 - max(before) / points[-1][1] if before else 0.0


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# --- words ----------------------------------------------------------------------------------------

_SAID = {
    HELPED: "self-training HELPED",
    HURT: "self-training HURT",
    UNDECIDED: "NOT DECIDED whether self-training helped",
}


def headline(verdict: Verdict) -> str:
    """One line."""
    if not verdict.word:
        parts = [
            f"{phase} {verdict.metric} {value.text()}".removeprefix("model ")
            for phase, value in verdict.scores.items()
        ]
        return ", ".join(parts) + (f" on {verdict.images} images" if verdict.images else "")
    value = verdict.differences["student", verdict.against][0]
    return f"{_SAID[verdict.word]}: student less {verdict.against} {value.text(signed=True)} {verdict.metric}"


def how_sure(verdict: Verdict) -> str:
    """What the interval is, and is not."""
    if not verdict.images:
        return "no interval: the evaluation says nothing of single images (it was made by an earlier version)"
    few = (
        f"; fewer than {FEWEST_IMAGES} images decide nothing"
        if verdict.word and verdict.images < FEWEST_IMAGES
        else ""
    )
    seed = "; one seed, another would move it too" if verdict.word else ""
    return f"95 % interval of a bootstrap over {verdict.images} evaluation images{few}{seed}"


def lines(verdict: Verdict, commands: Commands) -> list[str]:
    """The verdict on the screen."""
    found = [f"{'verdict' if verdict.word else 'result'}: {headline(verdict)}", f"  ({how_sure(verdict)})"]
    for (a, b), (whole, by_class) in verdict.differences.items():
        if b != verdict.against:
            found.append(f"  {a} less {b} {whole.text(signed=True)}")
        elif 1 < len(by_class):
            found.append(f"  by class, {a} less {b}: " + class_line(by_class))
    if verdict.word and verdict.against == "teacher":
        found.append("  the student had more steps than the teacher: --control tells what they alone bring")
    label = "why" if verdict.word in (HURT, UNDECIDED) else "seen"
    found += [f"  {label}: {reason.text}" for reason in verdict.reasons]
    found += [f"  next: {command}" for command in commands.next(verdict)]
    return found + export_lines(verdict, commands)


def class_line(by_class: Mapping[str, Interval], most: int = 8) -> str:
    """`a +0.1 [..], b ...`: all, or the classes that changed most."""
    order = list(by_class)
    if len(order) > most:
        order = sorted(order, key=lambda name: by_class[name].value)
        order = order[: most // 2] + order[-most // 2 :]
    return ", ".join(f"{name} {by_class[name].text(signed=True)}" for name in order)


def export_lines(verdict: Verdict, commands: Commands) -> list[str]:
    """What was exported, and how to export what is better."""
    if not verdict.word or verdict.best == "student":
        return []
    best, student = verdict.scores[verdict.best].value, verdict.scores["student"].value
    value = verdict.differences.get(("student", verdict.best))
    surely = value is not None and value[0].sign < 0 and verdict.images >= FEWEST_IMAGES
    text = "is better" if surely else "scored higher, which may be chance"
    return [
        (
            f"  export/ holds the student ({verdict.metric} {student:.3f}). The {verdict.best} {text} "
            f"({best:.3f}); to export it:"
        ),
        f"    {commands.export(verdict.best)}",
    ]


@dataclasses.dataclass(frozen=True)
class Commands:
    """Commands that go on from a run.

    Attributes:
      run: its folder. flagfile: that repeats it. new: a folder that is not there yet.
      taking: flags that take the teacher, and those that take its labels too, into a new run.
    """

    run: str
    flagfile: str
    new: str
    taking: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def next(self, verdict: Verdict) -> list[str]:
        """What the reasons of a verdict ask for, each once."""
        return list(
            dict.fromkeys(self.of(reason) for reason in verdict.reasons if reason.flags or reason.job)
        )

    def of(self, reason: Reason) -> str:
        """The run again with what a reason asks for, or its job on this one."""
        if reason.job:
            return f"{called_as()} --job={reason.job} --model_dir={quote(self.run)}"
        return " ".join(filter(None, (self.again(), self.taking.get(reason.keeps, ""), reason.flags)))

    def again(self) -> str:
        """The same run in another folder."""
        return f"{called_as()} --flagfile={quote(self.flagfile)} --model_dir={quote(self.new)}"

    def export(self, phase: str) -> str:
        """A phase's model in the place of the student's."""
        return (
            f"{called_as()} --job=export --model_dir={quote(self.run)} "
            f"--checkpoint={quote(f'{self.run}/{phase}')}"
        )
