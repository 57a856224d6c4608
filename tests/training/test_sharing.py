"""Evaluation shared by workers: one worker's numbers to the bit, parts that are there are taken, a dead
worker ends the wait.
"""

import os

import pytest
import tensorflow as tf

from official.tasks.registry import build_task
from official.training import distribution, sharing
from official.training.distribution import WorkerLost, require_agreement, workers_together
from official.training.sharing import evaluate_together, part_of
from tests import tiny

ONE = tf.distribute.get_strategy()


@pytest.mark.parametrize("images, batch, workers", [(7, 3, 2), (8, 4, 3), (1, 8, 3), (1000, 7, 5)])
def test_parts_are_whole_batches_and_all_images(images, batch, workers):
    parts = [part_of(images, batch, worker, workers) for worker in range(workers)]
    assert parts[0][0] == 0 and parts[-1][1] == images
    assert all(a[1] == b[0] for a, b in zip(parts, parts[1:])) and all(
        first % batch == 0 for first, last in parts if first < last
    )
    sizes = [last - first for first, last in parts]
    assert max(sizes) - min(sizes) <= 2 * batch


def tasks():
    """Pre-training before a release alone: its evaluation is a classifier's behind a longer fit."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name == "contrastive")) for name in tiny.TASKS]


@pytest.fixture(scope="module", params=tasks())
def evaluated(request, tmp_path_factory):
    """(task, model, source, metrics of one worker, the folder that it wrote to); the images or objects of
    seven in batches of three.
    """
    source = tiny.scenes_source(task=request.param, count=7)
    task = build_task(
        tiny.experiment(task=request.param, eval_batch_size=3, backbone_depth=0.1), source.categories
    )
    tf.keras.utils.set_random_seed(1)
    model = task.build_model()
    folder = tmp_path_factory.mktemp("one")
    return task, model, source, task.evaluate(model, source, str(folder)), folder


def as_worker(monkeypatch, number, workers):
    monkeypatch.setattr(sharing, "worker_of", lambda strategy: (number, workers))


@pytest.mark.parametrize("workers", [2, 4])  # of four one has nothing to look at
def test_the_numbers_are_one_workers(evaluated, workers, monkeypatch, tmp_path):
    task, model, source, expected, alone = evaluated
    for number in reversed(range(workers)):
        as_worker(monkeypatch, number, workers)
        found = evaluate_together(ONE, task, model, source, str(tmp_path), "")
        assert found == (expected if number == 0 else {})
    assert (
        sorted(os.listdir(tmp_path)) == sorted([*os.listdir(alone), "parts"])
        and os.listdir(tmp_path / "parts") == []
    )
    for name in os.listdir(alone):
        if name.endswith(".json"):
            assert (tmp_path / name).read_bytes() == (alone / name).read_bytes()


def test_what_has_been_seen_is_not_looked_at_again_but_of_other_weights(evaluated, monkeypatch, tmp_path):
    task, model, source, expected, _ = evaluated
    looked, look = [], task.look
    monkeypatch.setattr(
        task, "look", lambda *arguments: looked.append(arguments[2:4]) or look(*arguments), raising=False
    )
    as_worker(monkeypatch, 1, 2)
    for _ in range(2):
        evaluate_together(ONE, task, model, source, str(tmp_path), "")
    own = part_of(len(source), 3, 1, 2)
    assert looked == [own]
    weight = next(v for v in model.trainable_variables if "kernel" in v.name)
    before = weight.numpy()
    weight.assign(before + 1.0)
    evaluate_together(ONE, task, model, source, str(tmp_path), "")
    weight.assign(before)
    assert looked == [own] * 2
    as_worker(monkeypatch, 0, 2)
    assert evaluate_together(ONE, task, model, source, str(tmp_path), "") == expected


def test_nobody_waits_for_a_dead_worker(evaluated, monkeypatch, tmp_path):
    task, model, source, *_ = evaluated
    asked = []

    def dead(strategy, among):
        asked.extend(among)
        if len(asked) >= 3:
            raise WorkerLost("worker 1 has died")

    monkeypatch.setattr(sharing, "require_workers", dead)
    monkeypatch.setattr(sharing, "WAIT_SECONDS", 0.01)
    as_worker(monkeypatch, 0, 2)
    with pytest.raises(WorkerLost):
        evaluate_together(ONE, task, model, source, str(tmp_path), "")
    assert asked == [1, 1, 1]


def test_a_worker_whose_part_is_written_may_have_ended(evaluated, monkeypatch, tmp_path):
    """The run is over for it: of three the first to end is asked for nothing, and one that ends while it is asked is not missed."""
    task, model, source, expected, _ = evaluated
    as_worker(monkeypatch, 1, 3)
    evaluate_together(ONE, task, model, source, str(tmp_path), "")
    asked = []

    def gone(strategy, among):
        asked.extend(among)
        if len(asked) == 2:  # it writes its part and ends
            as_worker(monkeypatch, 2, 3)
            evaluate_together(ONE, task, model, source, str(tmp_path), "")
            raise WorkerLost("worker 2 has died")

    monkeypatch.setattr(sharing, "require_workers", gone)
    monkeypatch.setattr(sharing, "WAIT_SECONDS", 0.01)
    as_worker(monkeypatch, 0, 3)
    assert evaluate_together(ONE, task, model, source, str(tmp_path), "") == expected
    assert asked == [2, 2]


def test_errors_of_collectives_are_put_into_words(monkeypatch):
    """Of several workers; what is no worker's fault stays what it is."""
    for several, error, kind in (
        (True, tf.errors.UnavailableError(None, None, "socket closed"), WorkerLost),
        (True, tf.errors.InternalError(None, None, "Collective ops is aborted by: …"), WorkerLost),
        (True, tf.errors.InvalidArgumentError(None, None, "shapes"), tf.errors.InvalidArgumentError),
        (False, tf.errors.UnavailableError(None, None, "disk"), tf.errors.UnavailableError),
    ):
        monkeypatch.setattr(distribution, "several_workers", lambda strategy: several)
        with pytest.raises(kind) as caught, workers_together(ONE):
            raise error
        assert kind is not WorkerLost or "same command on all workers" in str(caught.value)


def test_workers_of_different_states_are_stopped(monkeypatch):
    require_agreement(ONE, 7)
    monkeypatch.setattr(
        distribution, "summed", lambda strategy, value: value * strategy.num_replicas_in_sync + 4
    )
    with pytest.raises(distribution.UserError, match="step 7.*one folder that all of them see"):
        require_agreement(ONE, 7)
