"""A run killed with SIGKILL in any phase ends with the very same bits as one that was not."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests import tiny
from tests.forked_main import ForkedMain

FLAGS = dict(
    drawn_images=0, teacher_steps=24, student_steps=24, label_shard_size=2, eval_data="", checkpoint_every=3
)
JOINT = dict(joint_data="scenes:unlabeled,count=8", joint_weight=0.2, joint_batch_size=8, joint_image_size=32)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def arguments(model_dir, task):
    """The whole loop of a task; detection is trained jointly, so that its third stream is resumed too."""
    own = {"detection": JOINT, "contrastive": tiny.LITE}.get(task, {})  # one on a network that users have
    return [*tiny.command_line(**FLAGS, **own, task=task), f"--model_dir={model_dir}"]


def start(model_dir, task):
    """A run in a fork of a process that has TensorFlow imported; without an export, which depends on the
    weights alone.
    """
    return ForkedMain(arguments(model_dir, task), export=False)


def start_alone(model_dir, task):
    """A run in a process of its own from the first import on."""
    command = [sys.executable, "main.py", *arguments(model_dir, task)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(process):
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error.decode()[-2000:]


def wait_for(path, process):
    for _ in range(4000):
        if os.path.exists(path) or process.poll() is not None:
            return
        time.sleep(0.05)


def summary(model_dir):
    with open(model_dir / "summary.json") as file:
        return json.load(file)


def labels(model_dir):
    folder = model_dir / "pseudo_labels"
    return {
        name: (folder / name).read_bytes()
        for name in sorted(os.listdir(folder))
        if name.endswith(".tfrecord")
    }


def tasks():
    """Detection has every phase and stream, pre-training the fewest; what is between runs the same code,
    before a release.
    """
    return [
        pytest.param(t, marks=[pytest.mark.slow] * (t in ("segmentation", "classification")))
        for t in tiny.TASKS
    ]


@pytest.fixture(scope="module", params=tasks())
def straight(request, tmp_path_factory):
    """(task, the folder of a run that was not disturbed); one of them in a process of its own, as users start
    it.
    """
    folder = tmp_path_factory.mktemp("straight")
    finish((start_alone if request.param == "contrastive" else start)(folder, request.param))
    return request.param, folder


# Detection is killed three times: in the teacher, while labelling, and in the student. The phases are the
# same code for every task; what a task does itself is done again behind the first shards and the first steps.
KILL_POINTS = (
    "teacher/checkpoints/step_00000009",
    "pseudo_labels/labels-00002.tfrecord.json",
    "student/checkpoints/step_00000006",
)


def phases(task):
    return ("teacher", "student") if task in tiny.SELF_TRAINED else ("teacher",)


def test_killed_in_every_phase_and_still_bit_identical(straight, tmp_path):
    if straight[0] == "contrastive":
        pytest.skip("its one phase is trained by the same code; below, before a release")
    kill_and_compare(straight, tmp_path)


@pytest.mark.slow
def test_pretraining_killed_and_still_bit_identical(straight, tmp_path):
    if straight[0] != "contrastive":
        pytest.skip("above")
    kill_and_compare(straight, tmp_path)


def kill_and_compare(straight, tmp_path):
    """Kills a run in its phases, ends it, and compares it with one that was not disturbed."""
    (task, straight), killed = straight, 0
    points = {"detection": KILL_POINTS, "contrastive": KILL_POINTS[:1]}.get(task, KILL_POINTS[1:])
    for place in points:
        process = start(tmp_path, task)
        wait_for(tmp_path / place, process)
        time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed == len(points)
    finish(start(tmp_path, task))
    expected, found = summary(straight), summary(tmp_path)
    for phase in phases(task):
        assert found[phase]["weights_sha256"] == expected[phase]["weights_sha256"], phase
    if "student" in phases(task):
        assert labels(tmp_path) == labels(straight)
        assert found["pseudo_labels"] == expected["pseudo_labels"]


def test_sigterm_saves_and_says_how_to_go_on(straight, tmp_path):
    task, straight = straight
    if task != "contrastive":
        pytest.skip("the same code as for contrastive")
    process = start(tmp_path, task)
    wait_for(tmp_path / "teacher/checkpoints/step_00000003", process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert "The same command goes on from here" in error.decode()
    finish(start(tmp_path, task))
    last = phases(task)[-1]
    assert summary(tmp_path)[last]["weights_sha256"] == summary(straight)[last]["weights_sha256"]
