"""Checkpoints appear whole or not at all."""

import json
import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from official.files import write_json
from official.training.recovery import (
    CheckpointDamaged,
    Checkpoints,
    checkpoint_steps,
    damage,
    restore_checkpoint,
    result_checkpoint,
    weights_sha256,
)
from official.training.stopping import Interrupted, StopRequest


def keeper(folder, value=0.0, keep=2):
    variable = tf.Variable([value, value])
    return Checkpoints(str(folder), {"state": variable}, keep=keep), variable


def test_saved_and_restored(tmp_path):
    checkpoints, variable = keeper(tmp_path)
    variable.assign([1.5, -2.0])
    checkpoints.save(7)
    variable.assign([0.0, 0.0])
    assert checkpoints.restore_latest() == 7
    np.testing.assert_array_equal(variable, [1.5, -2.0])


def test_the_last_few_and_the_best_are_kept(tmp_path):
    checkpoints, _ = keeper(tmp_path, keep=2)
    for step, score in ((1, 0.1), (2, 0.9), (3, 0.2), (4, 0.3), (5, None)):
        checkpoints.save(step)
        if score is not None:
            checkpoints.note_score(step, score)
    assert checkpoints.steps() == [2, 4, 5] and checkpoints.best() == 2


def test_a_half_written_checkpoint_does_not_exist(tmp_path):
    checkpoints, variable = keeper(tmp_path)
    checkpoints.save(1)
    os.makedirs(tmp_path / "step_00000002")  # killed before its JSON was written
    (tmp_path / ".tmp_chief_00000003").mkdir()
    (tmp_path / "step_00000003.tmp-01234567-1-2-89abcdef").mkdir()  # of a dead process of another machine
    again, _ = keeper(tmp_path)
    assert again.steps() == [1] and again.restore_latest() == 1
    assert sorted(os.listdir(tmp_path)) == ["step_00000001", "step_00000002"]
    again.save(2)
    assert checkpoint_steps(str(tmp_path)) == [1, 2]


def test_nothing_to_restore(tmp_path):
    assert keeper(tmp_path)[0].restore_latest() == 0
    assert checkpoint_steps(str(tmp_path / "nowhere")) == []


def test_another_models_checkpoint_is_refused(tmp_path):
    checkpoints, _ = keeper(tmp_path)
    path = checkpoints.save(1)
    other = tf.train.Checkpoint(state=tf.Variable([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="another model"):
        restore_checkpoint(other, path)
    with pytest.raises(ValueError, match="another model"):
        restore_checkpoint(tf.train.Checkpoint(thing=tf.Variable(0.0)), path)
    with pytest.raises(ValueError, match="no checkpoint in"):
        restore_checkpoint(other, str(tmp_path / "gone"))


def test_signals_become_a_request():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        stop.check("nothing yet")
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM.*same command") as caught:
            stop.check("saved at step 3")
    assert caught.value.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_weights_fingerprint():
    import hashlib

    a, b = tf.Variable([1.0, 2.0], name="a"), tf.Variable([3], name="b", dtype=tf.int32)
    expected = hashlib.sha256(
        b"a:0" + np.float32([1, 2]).tobytes() + b"b:0" + np.int32([3]).tobytes()
    ).hexdigest()
    assert weights_sha256([b, a]) == expected
    assert weights_sha256([a, tf.Variable([4], name="b", dtype=tf.int32)]) != expected


def test_json_is_replaced_whole(tmp_path):
    path = str(tmp_path / "x.json")
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.load(open(path)) == {"a": 1}


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


DAMAGE = {
    "truncated": lambda folder: os.truncate(folder / "state.data-00000-of-00001", 5),
    "flipped": lambda folder: _flip(folder / "state.data-00000-of-00001"),
    "flipped index": lambda folder: _flip(folder / "state.index"),
    "zero length": lambda folder: os.truncate(folder / "state.index", 0),
    "missing": lambda folder: os.remove(folder / "state.data-00000-of-00001"),
    "garbage JSON": lambda folder: (folder / "checkpoint.json").write_text("{garbage"),
    "JSON of another kind": lambda folder: (folder / "checkpoint.json").write_text("[1, 2]"),
    "another step": lambda folder: (folder / "checkpoint.json").write_text(
        (folder / "checkpoint.json").read_text().replace('"step": 2', '"step": 3')
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_put_aside_for_the_one_before_it(tmp_path, capsys, kind):
    checkpoints, variable = keeper(tmp_path)
    for step in (1, 2):
        variable.assign([step, step])
        checkpoints.save(step)
    checkpoints.note_score(2, 0.5)  # rewrites the JSON, which is sealed again
    assert not damage(str(tmp_path / "step_00000002"))
    DAMAGE[kind](tmp_path / "step_00000002")
    with pytest.raises(CheckpointDamaged, match="step_00000002 is damaged.*trains on from step 1"):
        restore_checkpoint(checkpoints.checkpoint, str(tmp_path / "step_00000002"))
    variable.assign([9.0, 9.0])
    assert checkpoints.restore_latest() == 1
    np.testing.assert_array_equal(variable, [1.0, 1.0])
    assert "step_00000002 is damaged" in capsys.readouterr().err
    assert checkpoints.steps() == [1] and (tmp_path / "step_00000002.damaged").is_dir()
    checkpoints.save(2)
    assert checkpoints.steps() == [1, 2] and not damage(str(tmp_path / "step_00000002"))


def test_nothing_but_damage_begins_anew_untouched(tmp_path):
    checkpoints, variable = keeper(tmp_path)
    checkpoints.save(1)
    DAMAGE["flipped"](tmp_path / "step_00000001")
    variable.assign([9.0, 9.0])
    assert checkpoints.restore_latest() == 0
    np.testing.assert_array_equal(variable, [9.0, 9.0])


@pytest.mark.parametrize("kind", ["truncated", "flipped", "flipped index", "zero length", "missing"])
def test_checkpoints_of_earlier_versions_have_tensorflows_checksums(tmp_path, kind):
    checkpoints, _ = keeper(tmp_path)
    path = tmp_path / "step_00000001"
    checkpoints.save(1)
    (path / "checkpoint.json").write_text('{"step": 1}')
    assert not damage(str(path)) and checkpoints.restore_latest() == 1
    DAMAGE[kind](path)
    assert damage(str(path))


def test_a_checkpoint_without_room_leaves_nothing(tmp_path, monkeypatch):
    checkpoints, _ = keeper(tmp_path)
    checkpoints.save(1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("official.training.recovery.sync_folder", full)
    with pytest.raises(OSError):
        checkpoints.save(2)
    assert os.listdir(tmp_path) == ["step_00000001"]


def test_the_checkpoint_of_a_result(tmp_path, monkeypatch):
    """A given teacher stays the one that was given, also where the run itself has a checkpoint of that phase
    and step.
    """
    monkeypatch.chdir(tmp_path)
    step = os.path.join("student", "checkpoints", "step_00000006")
    for run in ("run", "run/round_2", "other"):
        os.makedirs(os.path.join(run, step))

    def named(folder, checkpoint):
        return os.path.relpath(result_checkpoint(folder, {"checkpoint": checkpoint}))

    assert named("run/student", step) == f"run/{step}" == named("run/student/", step)
    assert named("run/teacher", str(tmp_path / "other" / step)) == f"other/{step}"  # a teacher from elsewhere
    assert (
        named("run/round_2/teacher", os.path.join("..", step)) == f"run/{step}"
    )  # the student of the round before
    assert named("run/student", f"/gone/{step}") == f"run/{step}"  # as earlier versions wrote it, moved since
    assert named("run/student", f"runs/there/{step}") == f"run/{step}"
    assert (
        result_checkpoint("run/teacher", {"checkpoint": f"/gone/{step}"}) == f"/gone/{step}"
    )  # never the run's own student
