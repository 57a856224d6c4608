"""The verdict in words, on runs whose numbers are known; the run that ended without a word is among them."""

import dataclasses
import math

import numpy as np
import pytest

from official.evaluation.evaluated import EvaluatedBoxes, EvaluatedClasses, EvaluatedMasks
from official.report import verdict as verdicts
from official.report.verdict import Commands, Facts, LabelFacts

COMMANDS = Commands(
    "runs/a",
    "runs/a/flags.cfg",
    "runs/a_2",
    {"labels": "--teacher=runs/a/teacher --label_store=runs/a/pseudo_labels"},
)


def models(**right):
    """Classifiers of 200 images, half of either class, of which each gets the first so many right."""
    ids, labels = [str(i) for i in range(200)], np.arange(200) % 2
    return {
        name: EvaluatedClasses(
            ids, ["cat", "dog"], labels, np.where(np.arange(200) < count, labels, 1 - labels)
        )
        for name, count in right.items()
    }


def facts(**right):
    evaluated = models(**right)
    labels = LabelFacts() if "student" in right else None
    return Facts(
        "top1", {n: right[n] / 200 for n in evaluated}, evaluated, labels, steps=dict.fromkeys(evaluated, 50)
    )


def said(given):
    found = verdicts.decide(given)
    return found, "\n".join(verdicts.lines(found, COMMANDS))


def detector(hits, objects=100):
    """A detector that finds the only object of so many of the images, and nothing wrong."""
    images = [{"id": i, "width": 100, "height": 100} for i in range(1, objects + 1)]
    box = {"bbox": [10.0, 10.0, 20.0, 20.0], "category_id": 1}
    truth = [{**box, "id": i, "image_id": i, "area": 400.0, "iscrowd": 0} for i in range(1, objects + 1)]
    found = [{**box, "image_id": i, "score": 0.9} for i in range(1, hits + 1)]
    return EvaluatedBoxes(
        {"images": images, "annotations": truth, "categories": [{"id": 1, "name": "cell"}]}, found
    )


def test_the_run_that_ended_without_a_word():
    """A teacher near nothing (recall 0.002), a control of recall 0.014, a student of none, 100 boxes on every
    image.
    """
    evaluated = {"teacher": detector(1, 500), "control": detector(7, 500), "student": detector(0, 500)}
    scores = {name: found.own()[0] for name, found in evaluated.items()}
    labels = LabelFacts(
        boxes=100.0, human_boxes=3.1, full=1.0, max_detections=100, matching=0.431, threshold="0.05"
    )
    found, text = said(
        Facts("AP", scores, evaluated, labels, steps={"teacher": 300, "control": 500, "student": 200})
    )
    assert found.word == verdicts.HURT and found.best == "control"
    assert (
        "self-training HURT: student less control −0.0" in text
        and "one seed" in text
        and "500 evaluation images" in text
    )
    assert "too weak to label: AP 0.010, below 0.050" in text and "--teacher_steps=600" in text
    assert "saturated: 100% of the images have about 100 boxes" in text and "people drew 3.1" in text
    assert (
        "next: python main.py --flagfile=runs/a/flags.cfg --model_dir=runs/a_2 --teacher=runs/a/teacher "
        "--label_store=runs/a/pseudo_labels --score_threshold=0.431" in text
    )
    assert "export/ holds the student (AP 0.000). The control is better (0.020)" in text
    assert "python main.py --job=export --model_dir=runs/a --checkpoint=runs/a/control" in text


def test_helped():
    found, text = said(facts(teacher=120, control=130, student=160))
    assert found.word == verdicts.HELPED and found.best == "student" and "self-training HELPED" in text
    assert "student less teacher +0.200 [" in text and "by class, student less control: cat +0.150 [" in text
    assert "export/" not in text and "why" not in text


def test_not_decided_and_the_control_scored_higher():
    found, text = said(facts(teacher=120, control=141, student=140))
    assert found.word == verdicts.UNDECIDED and found.best == "control"
    assert (
        "NOT DECIDED whether self-training helped" in text
        and "scored higher, which may be chance (0.705)" in text
    )


def test_the_same_three_digits_are_no_reason_to_export_another():
    found, text = said(
        dataclasses.replace(facts(teacher=120, student=120), scores={"teacher": 0.60004, "student": 0.6})
    )
    assert found.best == "student" and "export/" not in text


def test_without_control_that_is_said():
    found, text = said(facts(teacher=120, student=160))
    assert found.against == "teacher" and "--control tells what they alone bring" in text


def test_a_teacher_alone_has_no_word_but_an_interval():
    found, text = said(facts(teacher=120))
    assert found.word == "" and text.startswith("result: teacher top1 0.600 [0.5") and "student" not in text


def test_of_few_images_nothing_is_concluded():
    """Nine images, all of them better: the interval is above zero, and yet."""
    ids, zeros = list("abcdefghi"), np.zeros(9, int)
    evaluated = {
        name: EvaluatedClasses(ids, ["p", "q"], zeros, zeros + wrong)
        for name, wrong in (("teacher", 1), ("student", 0))
    }
    found, text = said(Facts("top1", {"teacher": 0.0, "student": 1.0}, evaluated, LabelFacts()))
    assert found.differences["student", "teacher"][0].low == 1.0 and found.word == verdicts.UNDECIDED
    assert "fewer than 10 images decide nothing" in text


def test_an_evaluation_of_an_earlier_version_has_no_interval():
    found, text = said(dataclasses.replace(facts(teacher=120, control=130, student=160), evaluated={}))
    assert (
        found.word == verdicts.UNDECIDED
        and "student less control +0.150 top1" in text
        and "no interval" in text
    )
    assert math.isnan(found.differences["student", "control"][0].low)
    assert found.to_json()["student - control"]["low"] is None


@pytest.mark.parametrize(
    "labels, text, flags",
    [
        (
            dict(boxes=12.0, human_boxes=3.0, matching=0.6, threshold="0.1"),
            "12.0 pseudo boxes an image; people drew 3.0",
            "--score_threshold=0.600",
        ),
        (
            dict(boxes=0.5, human_boxes=3.0, matching=0.2, threshold="0.9"),
            "0.50 pseudo boxes an image",
            "--score_threshold=0.200",
        ),
        (dict(boxes=0.5, human_boxes=3.0, threshold="0.9"), "taught as background", "--score_threshold=auto"),
        (
            dict(boxes=2.5, boxes_where_any=22.8, human_boxes=3.0, used=0.11),
            "11% of the images have pseudo boxes, 22.8 each",
            "",
        ),
        (dict(used=0.1, threshold="0.9"), "only 10% is labelled", "--score_threshold=0.3"),
        (dict(empty_classes=("ring", "bolt")), "no pseudo label of ring, bolt", ""),
    ],
)
def test_odd_labels(labels, text, flags):
    found = verdicts.reasons(Facts("AP", {"teacher": 0.3, "student": 0.3}, {}, LabelFacts(**labels)))
    assert len(found) == 1 and text in found[0].text and found[0].flags == flags


def test_plain_labels_need_no_word():
    given = Facts(
        "AP", {"teacher": 0.3, "student": 0.3}, {}, LabelFacts(boxes=2.4, human_boxes=3.0, used=0.9)
    )
    assert verdicts.reasons(given) == []


def test_a_class_that_is_hardly_learned():
    """Both classes are half of the images; all dogs and two of a hundred cats are right, so 0.02 against
    0.51.
    """
    ids, labels = [str(i) for i in range(200)], np.arange(200) % 2
    evaluated = EvaluatedClasses(ids, ["cat", "dog"], labels, np.where(np.arange(200) < 4, labels, 1))
    given = Facts(
        "top1",
        {"teacher": 0.51, "student": 0.51},
        {"teacher": evaluated, "student": evaluated},
        LabelFacts(),
        label_counts={"cat": 7, "dog": 90},
    )
    text = said(given)[1]
    assert "too weak" in text and "hardly" not in text  # a constant answer is right on half of the images
    better = EvaluatedClasses(ids, ["cat", "dog"], labels, np.where(np.arange(200) < 30, labels, 1))
    found = verdicts.reasons(
        dataclasses.replace(
            given,
            scores={"teacher": 0.575, "student": 0.575},
            evaluated={"teacher": better, "student": evaluated},
        )
    )
    assert [r.text for r in found] == ["hardly learned: cat (7 labels). Label more of it"] and found[
        0
    ].job == "review_labels"
    assert COMMANDS.of(found[0]) == "python main.py --job=review_labels --model_dir=runs/a"


def test_folders_with_blanks_are_quoted():
    commands = Commands("my runs/a", "my runs/a/flags.cfg", "my runs/a_2")
    assert commands.again() == "python main.py --flagfile='my runs/a/flags.cfg' --model_dir='my runs/a_2'"
    assert commands.export("control").endswith("--checkpoint='my runs/a/control'")


def test_a_class_on_one_side_alone():
    found = verdicts.reasons(
        Facts("AP", {"teacher": 0.3}, {}, unlabelled_classes=("cat",), unevaluated_classes=("dog",))
    )
    assert ["cat" in found[0].text, "dog" in found[1].text] == [True, True]


def test_a_control_that_still_rises():
    """0.40 at 80 % of the steps and 0.50 at the end: a fifth of the score is new."""
    assert verdicts.rising([(20, 0.1), (80, 0.40), (100, 0.50)]) == pytest.approx(0.2)
    assert verdicts.rising([(20, 0.5), (80, 0.49), (100, 0.50)]) == 0.0
    assert verdicts.rising([(100, 0.5)]) == 0.0 and verdicts.rising([(1, 0.0), (80, 0.0), (100, 0.0)]) == 0.0
    given = dataclasses.replace(
        facts(teacher=120, control=130, student=131), control_curve=[(20, 0.1), (80, 0.4), (100, 0.5)]
    )
    assert (
        "the control still improves (+20% in its last fifth)" in said(given)[1]
        and "--teacher_steps=100" in said(given)[1]
    )


def test_the_level_of_a_teacher_is_what_a_constant_answer_scores():
    """Pixels 60, 30, 10 of three classes: always the first has an IoU of 0.6, and a mean of 0.2. Images: the
    commonest class' share.
    """
    masks = EvaluatedMasks(["a"], list("pqr"), *np.array([[[30, 10, 5]], [[60, 30, 10]], [[60, 30, 10]]]))
    assert verdicts.weak_level(Facts("mIoU", {}, {"teacher": masks})) == pytest.approx(0.2)
    assert verdicts.weak_level(Facts("top1", {}, models(teacher=100))) == 0.5
    text = said(facts(teacher=90, control=130, student=150))[1]
    assert (
        "too weak to label: top1 0.450, below 0.525, about what naming the commonest class everywhere reaches"
        in text
    )


@pytest.mark.parametrize(
    "program, command", [("/usr/bin/self-train", "self-train"), ("main.py", "python main.py")]
)
def test_commands_call_the_program_as_it_was_called(monkeypatch, program, command):
    """There is no main.py where the wheel is installed."""
    monkeypatch.setattr("sys.argv", [program, "--job=self_train"])
    commands = Commands("runs/a", "runs/a/flags.cfg", "runs/a_2")
    assert commands.again() == f"{command} --flagfile=runs/a/flags.cfg --model_dir=runs/a_2"
    assert commands.export("teacher").startswith(f"{command} --job=export --model_dir=runs/a ")
