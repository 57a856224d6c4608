"""Checkpoints appear whole or not at all."""

import json
import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from official.training.recovery import (
    Checkpoints,
    Interrupted,
    StopRequest,
    checkpoint_steps,
    restore_checkpoint,
    weights_sha256,
    write_json,
)


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
    again, _ = keeper(tmp_path)
    assert again.steps() == [1] and again.restore_latest() == 1
    assert not (tmp_path / ".tmp_chief_00000003").exists()
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
    expected = hashlib.sha256(b"a:0" + np.float32([1, 2]).tobytes() + b"b:0" + np.int32([3]).tobytes()).hexdigest()
    assert weights_sha256([b, a]) == expected
    assert weights_sha256([a, tf.Variable([4], name="b", dtype=tf.int32)]) != expected


def test_json_is_replaced_whole(tmp_path):
    path = str(tmp_path / "x.json")
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.load(open(path)) == {"a": 1}
