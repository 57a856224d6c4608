"""Two or three worker processes on one machine give the same run as one process, stop together, and go on
when one was killed.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from official.training import distribution
from tests import tiny
from tests.forked_main import HANGS_BEFORE, ForkedMain

# Neither after two nor after four steps is a box found, so the phase ends there: the chief alone knows that,
# and says so.
FLAGS = dict(
    **tiny.LITE, drawn_images=0, teacher_steps=8, job="train", eval_data="scenes:val,count=4", eval_every=2, patience=1, take="best", checkpoint_every=2,
)  # fmt: skip
WHOLE = dict(  # the task whose networks are built soonest
    **{**tiny.LITE, "backbone_depth": 0.1}, task="classification", drawn_images=0, teacher_steps=24, student_steps=12, checkpoint_every=5, label_shard_size=8, eval_batch_size=2,
)  # fmt: skip
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENDS_WITHIN = 90.0  # seconds after another worker has died; docs/scale.md says so


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(model_dir, config=None, environment=None, **flags):
    environment = {**(environment or {}), **({"TF_CONFIG": json.dumps(config)} if config else {})}
    arguments = [*tiny.command_line(**(flags or FLAGS)), f"--model_dir={model_dir}"]
    return ForkedMain(arguments, export=False, environment=environment)


def start_several(model_dir, count=2, environments=None, **flags):
    workers = [f"localhost:{free_port()}" for _ in range(count)]
    configs = [{"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}} for i in range(count)]
    return [
        start(model_dir, config, (environments or {}).get(i), **flags) for i, config in enumerate(configs)
    ]


def finish(process):
    _, error = process.communicate(timeout=900)
    assert process.returncode == 0, error.decode()[-2000:]


def wait_for(path, processes):
    for _ in range(20_000):
        if os.path.exists(path) or any(process.poll() is not None for process in processes):
            return
        time.sleep(0.02)


def weights(model_dir, phase="teacher", step=4):
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(model_dir / f"{phase}/checkpoints/step_{step:08d}/state"))
    names = [
        n for n in reader.get_variable_to_shape_map() if n.startswith("model/") and "VARIABLE_VALUE" in n
    ]
    return {name: reader.get_tensor(name) for name in names}


def results(model_dir):
    """Of both phases: weights and scores; and the bytes of the label shards."""
    found = {}
    for phase in ("teacher", "student"):
        with open(model_dir / phase / "result.json", encoding="utf-8") as file:
            found[phase] = {
                k: v
                for k, v in json.load(file).items()
                if k in ("weights_sha256", "top1", "top5", "per_class")
            }
    return {**found, "labels": labels(model_dir)}


def labels(model_dir):
    folder = model_dir / "pseudo_labels"
    return {
        name: (folder / name).read_bytes()
        for name in sorted(os.listdir(folder))
        if name.endswith(".tfrecord")
    }


@pytest.mark.slow
def test_two_workers_are_one_run(tmp_path):
    """All weights after four steps, to 2e-3 (float32 sums in another order); both workers end the phase
    there.
    """
    for process in start_several(tmp_path / "two"):
        finish(process)
    finish(start(tmp_path / "one"))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert set(one) == set(two) and len(one) > 100
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=2e-3, atol=2e-3, err_msg=name)
    summary = json.load(open(tmp_path / "two" / "summary.json"))
    assert (
        summary["teacher"]["steps"],
        summary["teacher"]["planned_steps"],
        summary["teacher"]["taken"]["step"],
    ) == (4, 8, 4)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a whole run of two workers that nobody disturbed, and what each said."""
    folder = tmp_path_factory.mktemp("straight")
    processes = start_several(folder, **WHOLE)
    said = [process.communicate(timeout=900)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return folder, said


@pytest.mark.slow
def test_labels_and_scores_are_those_of_one_process(straight, tmp_path):
    """One process with the same teacher writes the same shards and gives it the same score; both workers have
    labelled.
    """
    folder, said = straight
    assert all(re.search(r"labelling: \d+ ", words) for words in said)
    finish(start(tmp_path, **WHOLE, teacher=str(folder / "teacher")))
    assert labels(tmp_path) == labels(folder) and len(labels(folder)) >= 2  # a shard each
    # Weights: a given teacher is known by its averaged weights, one that was trained by those that moved.
    scores = [
        {k: v for k, v in results(place)["teacher"].items() if k != "weights_sha256"}
        for place in (tmp_path, folder)
    ]
    assert scores[0] == scores[1] and len(scores[0]) == 3
    assert os.listdir(folder / "teacher" / "evaluation" / "parts") == []


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_all_after_the_same_step(straight, tmp_path):
    processes = start_several(tmp_path, **WHOLE)
    wait_for(tmp_path / "teacher/checkpoints/step_00000005", processes)
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=300)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2, said
    steps = [re.findall(r"teacher saved at step (\d+) of 24", words) for words in said]
    assert steps[0] == steps[1] and int(steps[0][0]) % 10 == 0
    assert os.path.exists(tmp_path / f"teacher/checkpoints/step_{int(steps[0][0]):08d}")
    for process in start_several(tmp_path, **WHOLE):
        finish(process)
    assert results(tmp_path) == results(straight[0])


THREE = {**WHOLE, "batch_size": 6, "pseudo_batch_size": 6, "teacher_steps": 12, "student_steps": 6}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The folder of a whole run of three workers that nobody disturbed."""
    folder = tmp_path_factory.mktemp("three")
    for process in start_several(folder, 3, **THREE):
        finish(process)
    return folder


@pytest.mark.slow
def test_three_workers_are_one_run(three, tmp_path):
    """Their teacher's weights are one process's to 2e-3; with that teacher given, one process writes the same
    labels.
    """
    finish(start(tmp_path / "one", **THREE))
    own, wanted = (weights(folder, step=12) for folder in (three, tmp_path / "one"))
    assert set(own) == set(wanted) and len(own) > 100
    for name in own:
        np.testing.assert_allclose(own[name], wanted[name], rtol=2e-3, atol=2e-3, err_msg=name)
    finish(start(tmp_path / "labels", **THREE, teacher=str(three / "teacher")))
    assert labels(tmp_path / "labels") == labels(three)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_one_of_three_dies_in_training(three, victim, tmp_path):
    """The chief or another: both that are left end with a word, and three new ones finish the run to the
    bit.
    """
    processes = start_several(tmp_path, 3, **THREE)
    wait_for(tmp_path / "teacher/checkpoints/step_00000005", processes)
    kill_and_see_the_others_end(processes, victim)
    for process in start_several(tmp_path, 3, **THREE):
        finish(process)
    assert results(tmp_path) == results(three)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_dies_in_an_evaluation(straight, victim, tmp_path):
    """One is killed before its part of the evaluation is written, when the other's part is: the chief waits,
    the other goes on to the labels.
    """
    parts = tmp_path / "teacher/evaluation/parts"
    processes = start_several(
        tmp_path, environments={victim: {HANGS_BEFORE: "official.training.sharing:_write"}}, **WHOLE
    )
    wait_for(parts, processes)
    time.sleep(1.0)
    assert [name[-6:] for name in os.listdir(parts)] == [f"-{1 - victim}.npz"]
    kill_and_see_the_others_end(processes, victim)
    for process in start_several(tmp_path, **WHOLE):
        finish(process)
    assert results(tmp_path) == results(straight[0]) and os.listdir(parts) == []


def kill_and_see_the_others_end(processes, victim):
    assert [process.poll() for process in processes] == [None] * len(processes)
    processes[victim].send_signal(signal.SIGKILL)
    died = time.monotonic()
    for process in processes:
        if process is not processes[victim]:
            _, error = process.communicate(timeout=300)
            assert process.returncode == 1 and "has died or cannot be reached" in error.decode(), (
                error.decode()[-2000:]
            )
    assert time.monotonic() - died < ENDS_WITHIN


def test_only_those_that_are_named_are_asked(monkeypatch):
    asked = []
    health = SimpleNamespace(
        check_collective_ops_peer_health=lambda peer, timeout_in_ms: asked.append(peer[-1])
    )
    monkeypatch.setattr(distribution, "context", SimpleNamespace(context=lambda: health))
    monkeypatch.setattr(distribution, "worker_of", lambda strategy: (1, 4))
    monkeypatch.setattr(distribution, "_tasks", lambda strategy: [("worker", number) for number in range(4)])
    distribution.require_workers(None)
    distribution.require_workers(None, (1, 3))
    assert asked == ["0", "2", "3", "3"]


WAITS = """
import time
from official.errors import UserError
from official.experiment import Runtime
from official.training.distribution import build_strategy, require_workers, summed, worker_of
strategy = build_strategy(Runtime())
print("worker", *worker_of(strategy), "of", summed(strategy, 1), flush=True)
try:
    while True:
        require_workers(strategy)
        time.sleep(0.2)
except UserError as error:
    print(type(error).__name__, error, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_waits_for_a_dead_one_is_told(victim):
    """Without any collective under way: in the middle of an evaluation, or of the labels."""
    workers = [f"localhost:{free_port()}" for _ in range(2)]
    configs = [
        json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}}) for i in range(2)
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WAITS], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "-1"},
        )
        for config in configs
    ]  # fmt: skip
    try:
        for i, process in enumerate(processes):  # keras-cv says something first
            assert (
                next(line for line in process.stdout if line.startswith("worker")) == f"worker {i} 2 of 2\n"
            )
        time.sleep(1.0)
        assert [process.poll() for process in processes] == [None, None]
        processes[victim].kill()
        died = time.monotonic()
        said = processes[1 - victim].communicate(timeout=300)[0]
        assert time.monotonic() - died < ENDS_WITHIN
        assert f"WorkerLost worker {victim} of this run has died" in said
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    "place, victim",
    [
        ("teacher/checkpoints/step_00000010", 0),
        ("pseudo_labels/labels-00001.tfrecord.json", 0),
        ("pseudo_labels/labels-00001.tfrecord.json", 1),
        ("student/checkpoints/step_00000005", 0),
        ("student/checkpoints/step_00000005", 1),
    ],
)
def test_a_worker_that_dies_ends_the_other_and_the_same_command_goes_on(straight, place, victim, tmp_path):
    processes = start_several(tmp_path, **WHOLE)
    wait_for(tmp_path / place, processes)
    kill_and_see_the_others_end(processes, victim)
    for process in start_several(tmp_path, **WHOLE):
        finish(process)
    assert results(tmp_path) == results(straight[0])
