"""--parallel_phases: the control in a process of its own ends with the bits of one phase after the other,
killed or not.
"""

import glob
import json
import os
import signal
import time

import pytest
import tensorflow as tf

from official.errors import FlagError, UserError
from official.jobs import beside
from official.jobs.training import control
from tests import tiny
from tests.forked_main import ForkedMain

FLAGS = dict(
    **{**tiny.LITE, "backbone_depth": 0.1},  # the process beside knows no backbone of the tests
    drawn_images=0, teacher_steps=9, student_steps=9, checkpoint_every=3, label_shard_size=8, control=True, compute_threads=1, eval_data="",
    max_level=4,
)  # fmt: skip
PHASES = ("teacher", "student", "control")


def start(folder, **more):
    return ForkedMain([*tiny.command_line(**FLAGS, **more), f"--model_dir={folder}"], export=False)


def wait_for(pattern, process):
    for _ in range(6000):
        if glob.glob(pattern) or process.poll() is not None:
            return
        time.sleep(0.02)


def control_process(folder):
    """The id of the process that trains the control."""
    with open(os.path.join(folder, beside.CONTROL_LOCK), encoding="utf-8") as file:
        return json.load(file)["pid"]


def is_gone(pid):
    """Within 10 s; a zombie is gone too, whoever has to collect it."""
    for _ in range(200):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def weights(folder):
    found = {}
    for phase in PHASES:
        with open(os.path.join(folder, phase, "result.json"), encoding="utf-8") as file:
            found[phase] = json.load(file)["weights_sha256"]
    return found


@pytest.mark.slow
def test_killed_then_asked_to_stop_then_finished_with_the_bits_of_one_after_the_other(tmp_path):
    """SIGKILL takes the process beside with it, SIGTERM lets both save; the same command goes on with
    both.
    """
    straight = start(tmp_path / "straight")
    _, error = straight.communicate()
    assert straight.returncode == 0, error.decode()[-2000:]
    folder = tmp_path / "beside"
    for number, step in ((signal.SIGKILL, 3), (signal.SIGTERM, 6)):
        process = start(folder, parallel_phases=True)
        wait_for(str(folder / f"control/checkpoints/step_*{step}"), process)
        other = control_process(folder)
        assert process.poll() is None and other != process.pid
        process.send_signal(number)
        _, error = process.communicate()
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), error.decode()[
            -2000:
        ]
        assert is_gone(other)
    process = start(folder, parallel_phases=True)
    _, error = process.communicate()
    assert process.returncode == 0, error.decode()[-2000:]
    assert weights(folder) == weights(tmp_path / "straight")
    assert not os.path.exists(folder / beside.CONTROL_LOCK)


def test_a_process_that_fails_is_told_with_what_it_said(monkeypatch, capfd):
    monkeypatch.setattr(
        beside, "own_command", lambda: ["sh", "-c", "echo a line; echo 'no disk' >&2; exit 3"]
    )
    with beside.Beside(tiny.experiment(parallel_phases=True), needed=True) as process:
        with pytest.raises(
            UserError, match="control: its process ended with 3.*goes on(.|\n)*a line\n  no disk"
        ):
            process.wait()
    with beside.Beside(tiny.experiment(), needed=True) as process:
        process.wait()  # without the flag there is none
        assert process._process is None


def test_its_progress_is_told_and_is_not_what_it_said_last(monkeypatch, capfd):
    said = "2026-01-02 03:04:05 control: step 20 of 60, loss 1.500\\nmore\\n"
    monkeypatch.setattr(beside, "own_command", lambda: ["sh", "-c", f"printf '{said}'"])
    with beside.Beside(tiny.experiment(parallel_phases=True), needed=True) as process:
        process.wait()
        assert list(process._lines) == ["more"]
    said = capfd.readouterr().err
    assert (
        said.count("control: step 20 of 60, loss 1.500") == 1
        and "03:04:05" not in said
        and "control: more" in said
    )


def test_the_other_process_gets_the_flags_of_the_run_and_half_of_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    experiment = tiny.experiment(parallel_phases=True, model_dir="a b/run", control=True)
    command = beside.command_of(experiment)
    for argument in (
        "--job=control",
        "--model_dir=a b/run",
        "--parallel_phases=False",
        "--compute_threads=3",
        "--batch_size=8",
    ):
        assert argument in command
    assert beside.computing_threads(tiny.experiment().runtime) == 0
    assert beside.computing_threads(tiny.experiment(compute_threads=2, parallel_phases=True).runtime) == 2
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["a", "b", "c", "d"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert beside._environment()["CUDA_VISIBLE_DEVICES"] == "6,7"


@pytest.mark.parametrize(
    "flags,words", [(dict(tpu="local"), "not on a TPU"), (dict(strategy="multi_worker"), "several workers")]
)
def test_where_phases_cannot_be_beside_each_other(flags, words, monkeypatch):
    monkeypatch.setattr(beside, "computing_threads", lambda runtime: 0)
    with pytest.raises(FlagError, match=words):
        beside.share_machine(tiny.experiment(parallel_phases=True, **flags).runtime)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["one"])
    with pytest.raises(FlagError, match="one GPU; two are needed"):
        beside.share_machine(tiny.experiment(parallel_phases=True).runtime)


def test_a_control_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="holds none: start the run first"):
        control(tiny.experiment(model_dir=str(tmp_path / "nothing")))
