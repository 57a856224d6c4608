"""job=check_data on the tiny experiment, and the quick part of it at the start of a run."""

import json
import os

import numpy as np
import pytest

from official import jobs
from official.data.source import Annotations
from official.experiment import experiment_from
from official.jobs.check_data import telling_images
from official.jobs.data_checks import class_warnings, crowded_warnings, quick_checks
from tests import tiny

SMALL = dict(anchor_scale=6.0, min_level=4, drawn_images=0)


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    flags = dict(
        SMALL,
        job="check_data",
        unlabeled_data="scenes:train,count=4",
        model_dir=str(folder),
        check_steps=2,
        control=True,
    )
    summary = jobs.run(tiny.experiment(**flags))
    with open(folder / "data" / "check.json") as file:
        return folder, flags, summary, json.load(file)


def test_the_report_holds_what_was_looked_at(checked):
    folder, _, summary, report = checked
    assert report["sets"]["labeled"]["images"] == 16 and report["sets"]["unlabeled"]["images"] == 4
    scenes = tiny.scenes_source()
    assert report["sets"]["labeled"]["objects"] == len(scenes.annotations.boxes)
    between = report["duplicates"]["between"]
    assert between["unlabeled in labeled"]["same"]["count"] == 4
    assert between["labeled in labeled"]["same"]["count"] == between["eval in labeled"]["same"]["count"] == 0
    assert set(report["drawings"]) == {"labeled", "eval"} and all(
        map(os.path.getsize, report["drawings"].values())
    )
    assert report["skipped"]["labeled"]["counts"] == {}
    assert summary["check"]["report"] == str(folder / "data" / "check.json")
    assert not os.path.exists(folder / "run.json")  # a run with these flags, or others, may begin here


def test_it_warns_of_shared_images_and_of_anchors(checked):
    text = "\n".join(checked[3]["warnings"])
    assert "4 of 4 unlabelled images are labelled images too" in text
    assert "--anchor_scale=" in text and "fewer than 10 evaluation objects" in text


def test_following_the_proposal_raises_the_best_possible_recall(checked, tmp_path):
    _, flags, _, report = checked
    before = report["anchors"]
    value = before["anchor_scale"]["value"]
    again = jobs.run(
        tiny.experiment(**{**flags, "anchor_scale": value, "check_steps": 0, "model_dir": str(tmp_path)})
    )
    after = again["check"]["anchors"]
    assert after["recall"] == before["anchor_scale"]["recall"] > before["recall"] + 0.1
    assert after["per_class"].keys() == before["per_class"].keys()


def test_the_time_is_the_sum_of_its_parts(checked):
    seconds = checked[3]["seconds"]
    parts = ("teacher", "labels", "student", "control", "evaluation")
    assert seconds["total"] == pytest.approx(sum(seconds[p] for p in parts), abs=0.01)
    assert seconds["teacher"] > 12 * seconds["seconds_per_teacher_step"] > 0
    assert seconds["labels"] == pytest.approx(4 * seconds["seconds_per_labelled_image"], abs=0.001)
    first = seconds["teacher"] - 12 * seconds["seconds_per_teacher_step"]
    assert seconds["control"] == pytest.approx(first + 24 * seconds["seconds_per_teacher_step"], abs=0.01)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_other_tasks_are_looked_at_too(tmp_path, task, capsys):
    flags = dict(
        task=task,
        job="check_data",
        model_dir=str(tmp_path),
        check_steps=0,
        unlabeled_data="rest",
        eval_data="",
        eval_fraction=0.25,
    )
    summary = jobs.run(tiny.experiment(**flags))
    report = json.load(open(tmp_path / "data" / "check.json"))
    assert "held out for evaluation: 4 of 1" in capsys.readouterr().out  # of 15 or 16 images with objects
    assert "anchors" not in report and set(report["sets"]) == {"labeled", "eval"}
    assert report["duplicates"]["between"]["eval in labeled"]["same"]["count"] == 0
    assert set(summary["check"]["drawings"]) == {"labeled", "eval"}


def test_objects_beyond_the_limits_are_counted(scenes):
    """Of twelve boxes ten are learnt; three crowds count for nothing."""
    boxes = [{"boxes": [[0, 0, 9, 9]] * 15, "classes": [0] * 15, "crowd": [False] * 12 + [True] * 3}]
    full = scenes.subset([0]).with_annotations(Annotations.from_images(boxes), scenes.categories)
    found = crowded_warnings(
        tiny.experiment(max_boxes=10, max_detections=12), {"labeled": full, "eval": full}
    )
    assert (
        len(found) == 1
        and "more than --max_boxes=10 objects, 2 of which are never learnt; --max_boxes=12" in found[0]
    )
    assert "11 labelled objects are written twice" in class_warnings("labeled", full)[1]


def test_the_quick_part_reads_no_image(scenes, monkeypatch):
    """A source whose images cannot be read passes."""

    def never(index):
        raise AssertionError("read")

    blind = scenes.subset(range(16))
    object.__setattr__(blind, "read_image", never)
    found = quick_checks(tiny.experiment(**SMALL), {"labeled": blind, "unlabeled": None, "eval": blind})
    assert any(
        "16 of 16 evaluation images are labelled images too" in line or "16 of 16 labelled images" in line
        for line in found
    )


def test_a_run_prints_the_quick_part(tmp_path, capsys, monkeypatch):
    experiment = tiny.experiment(
        job="train",
        model_dir=str(tmp_path),
        teacher_steps=1,
        eval_data="scenes:train,count=4",
        drawn_images=0,
        anchor_scale=6.0,
        checkpoint_every=1,
    )
    monkeypatch.setattr(
        "official.jobs.training.SelfTraining.train_teacher", lambda self: 1 / 0
    )  # warned before anything is trained
    with pytest.raises(ZeroDivisionError):
        jobs.run(experiment)
    printed = capsys.readouterr().err
    kept = json.load(open(tmp_path / "data" / "warnings.json"))
    assert kept and all(f"WARNING: {line}" in printed for line in kept)
    assert "4 of 4 evaluation images are labelled images too (scores are too good)" in printed


def test_the_sheet_shows_every_class_and_the_extremes(scenes):
    chosen = telling_images(scenes)
    counts = scenes.annotations.counts()
    assert chosen[int(np.argmax(counts))] == "most objects" and len(chosen) == 16
    shown = {int(c) for i in chosen for c in scenes.annotations.of(i)["classes"]}
    assert shown == set(np.unique(scenes.annotations.classes).tolist())


def test_flags_of_a_run_are_those_of_the_check(checked):
    """What decides the check decides the run; the number of timed steps does not."""
    _, flags, _, _ = checked
    one, other = (tiny.experiment(**{**flags, "check_steps": n}) for n in (0, 5))
    assert one.fingerprint() == other.fingerprint()
    assert experiment_from({"job": "check_data"}).runtime.job in jobs.JOBS
