"""Rounds of self-training from one flag: the same as runs by hand, each in its folder, and bit-identical
after kill -9.
"""

import json
import os
import signal
import time

import pytest

from official.jobs.training import table
from official.training.phases import depending
from official.training.recovery import find_checkpoint
from tests import tiny
from tests.forked_main import ForkedMain

FLAGS = dict(
    task="classification",
    drawn_images=0,
    teacher_steps=4,
    student_steps=6,
    label_shard_size=4,
    checkpoint_every=2,
    rounds=2,
    eval_data="scenes:val,count=2",
)


def started(model_dir, **flags):
    return ForkedMain([*tiny.command_line(**{**FLAGS, **flags}), f"--model_dir={model_dir}"])


def finished(process):
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error.decode()[-2000:]


def summary(folder):
    with open(os.path.join(folder, "summary.json")) as file:
        return json.load(file)


def weights(folder):
    return [
        (r["teacher"]["weights_sha256"], r["student"]["weights_sha256"]) for r in summary(folder)["rounds"]
    ]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("rounds") / "run")
    finished(started(folder))
    return folder


def test_every_round_has_its_results(straight):
    found = summary(straight)
    first, second = found["rounds"]
    assert found["student"] == second["student"] != first["student"]
    assert second["teacher"]["weights_sha256"] == first["student"]["weights_sha256"]
    assert second["teacher"]["top1"] == first["student"]["top1"] and second["teacher"]["steps"] == 0
    for folder in (straight, os.path.join(straight, "round_2")):
        for place in (
            "student/result.json",
            "pseudo_labels/manifest.json",
            "run.json",
            "data/labeled_ids.json",
            "summary.json",
        ):
            assert os.path.isfile(os.path.join(folder, place)), place
    assert summary(os.path.join(straight, "round_2"))["student"] == second["student"]
    assert found["images_seen"] == 4 * 8 + 2 * 6 * 16
    assert find_checkpoint(straight).startswith(os.path.join(straight, "round_2", "student"))
    exported = json.load(open(os.path.join(straight, "export", "export.json")))
    assert exported["weights_sha256"] == second["student"]["weights_sha256"]


@pytest.mark.slow
def test_a_second_round_is_the_run_that_is_started_by_hand(straight, tmp_path):
    hand = str(tmp_path / "hand")
    finished(started(hand, rounds=1, teacher=os.path.join(straight, "student")))
    assert summary(hand)["student"]["weights_sha256"] == summary(straight)["student"]["weights_sha256"]


# Killed in the first round's student, in the second's labels and in the second's student; begun with one
# round alone.
KILL_POINTS = (
    "student/checkpoints/step_00000002",
    "round_2/pseudo_labels/labels-00001.tfrecord.json",
    "round_2/student/checkpoints/step_00000002",
)


@pytest.mark.slow
def test_killed_in_any_round_and_still_bit_identical(straight, tmp_path):
    folder, killed = str(tmp_path / "run"), 0
    for number, place in enumerate(KILL_POINTS):
        process = started(folder, rounds=1 if number == 0 else 2)
        for _ in range(8000):
            if os.path.exists(os.path.join(folder, place)) or process.poll() is not None:
                break
            time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed == len(KILL_POINTS)
    kept = {
        place: os.stat(os.path.join(folder, place)).st_mtime_ns
        for place in ("teacher/result.json", "student/result.json")
    }
    finished(started(folder))
    assert weights(folder) == weights(straight)
    assert {place: os.stat(os.path.join(folder, place)).st_mtime_ns for place in kept} == kept


def test_more_rounds_go_on_from_a_finished_run():
    assert depending("rounds") == ()


def test_every_round_has_its_lines_in_the_table():
    row = {"AP": 0.1, "steps": 5, "seconds": 3.0, "checkpoint": "run/teacher/checkpoints/step_5"}
    labels = {"boxes": 7, "threshold": 0.5, "images_with_boxes": 2, "images": 4}
    chains = [
        {"teacher": row, "student": {**row, "AP": 0.1 * n}, "pseudo_labels": {**labels, "boxes": n}}
        for n in (2, 3)
    ]
    lines = table({**chains[-1], "rounds": chains}, ("AP",)).splitlines()
    assert [line.split()[:3] for line in lines[2:6]] == [
        ["teacher", "1", "0.100"], ["student", "1", "0.200"], ["teacher", "2", "0.100"], ["student", "2", "0.300"],
    ]  # fmt: skip
    assert lines[6].startswith("round 1: pseudo labels: 2 boxes") and lines[7].startswith(
        "round 2: pseudo labels: 3 boxes"
    )
    assert table(chains[0], ("AP",)).splitlines()[2].split()[:2] == ["teacher", "0.100"]
