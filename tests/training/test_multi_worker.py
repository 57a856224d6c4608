"""Two worker processes on one machine give the same run as one process."""

import json
import socket

import numpy as np

from tests import tiny
from tests.forked_main import ForkedMain

# Neither after two nor after four steps is a box found, so the phase ends there: the chief alone knows that, and says so.
FLAGS = dict(
    pictures=0, teacher_steps=8, job="train", eval_data="scenes:val,count=4", eval_every=2, patience=1, take="best", checkpoint_every=2,
)  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(model_dir, config=None):
    environment = {"TF_CONFIG": json.dumps(config)} if config else {}
    arguments = [*tiny.command_line(**FLAGS), f"--model_dir={model_dir}"]
    return ForkedMain(arguments, export=False, environment=environment)


def finish(process):
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error.decode()[-2000:]


def weights(model_dir):
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(model_dir / "teacher/checkpoints/step_00000004/state"))
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith("model/") and "VARIABLE_VALUE" in n]
    return {name: reader.get_tensor(name) for name in names}


def test_two_workers_are_one_run(tmp_path):
    """All weights after four steps, to 2e-3 (float32 sums in another order); both workers end the phase there."""
    workers = [f"localhost:{free_port()}" for _ in range(2)]
    configs = [{"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}} for i in range(2)]
    together = [start(tmp_path / "two", config) for config in configs]
    for process in together:
        finish(process)
    finish(start(tmp_path / "one"))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert set(one) == set(two) and len(one) > 100
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=2e-3, atol=2e-3, err_msg=name)
    summary = json.load(open(tmp_path / "two" / "summary.json"))
    assert (summary["teacher"]["steps"], summary["teacher"]["planned_steps"], summary["teacher"]["taken"]["step"]) == (4, 8, 4)
