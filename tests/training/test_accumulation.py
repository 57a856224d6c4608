"""A batch that is passed in parts gives the step in one go; batch norm is the one difference, and none where
parts are alike.
"""

import numpy as np
import pytest
import tensorflow as tf

from official.data.pipeline import Worker, training_dataset
from official.errors import FlagError
from official.jobs.checks import check_flags
from official.models.layers import SyncBatchNormalization
from tests import tiny
from tests.training.test_step import assert_same, make_trainer, run, two_replicas, variant

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name, replicas",
    [
        ("classification", 1),
        pytest.param("detection+joint", 1, marks=SLOW),
        pytest.param("detection+joint", 2, marks=SLOW),
        pytest.param("segmentation", 2, marks=SLOW),
    ],
)
def test_two_parts_are_one_batch(name, replicas, monkeypatch):
    """Losses, averages, gradient norm and all weights after two steps, to 2e-3, where batch norm normalises
    by its moving statistics; with clipping, weight decay, stochastic depth, dropout and the average of the
    weights."""
    stock = tf.keras.layers.BatchNormalization.call

    @tf.autograph.experimental.do_not_convert
    def by_moving_statistics(self, inputs, training=None, mask=None):
        return stock(self, inputs, training=False)

    monkeypatch.setattr(SyncBatchNormalization, "call", by_moving_statistics)
    strategy = two_replicas() if replicas == 2 else None
    options = {**variant(name), "backbone_depth": 0.1, "weight_decay": 0.3}
    parts, whole = make_trainer(strategy=strategy, accumulate=2, **options), make_trainer(**options)
    found, expected = run(parts, 2), run(whole, 2)
    assert found[0][0].keys() == expected[0][0].keys() and "pseudo_loss" in found[0][0]
    assert_same(found, expected, 2e-3)
    averages = [float(trainer.averages.pseudo.read_value()) for trainer in (parts, whole)]
    assert parts.step == 2 and averages[0] == pytest.approx(averages[1], rel=1e-3)


def test_batch_norm_of_equal_parts_is_that_of_the_whole():
    """Two parts of the same images have the statistics of the batch that is both, so everything is the same,
    moving ones too.
    """
    options = dict(task="classification", survival_probability=1.0, dropout=0.0, backbone_depth=0.1)
    whole, parts = make_trainer(**options), make_trainer(accumulate=2, **options)
    half = next(parts.batches())[0]
    both = tf.nest.map_structure(lambda value: tf.concat([value, value], axis=0), half)
    for _ in range(2):
        found, expected = parts.train_step((half, half)), whole.train_step(both)
    for name in expected:
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-3, abs=1e-6), name
    for a, b in zip(parts.model.variables, whole.model.variables):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-4, err_msg=b.name)


@pytest.mark.parametrize("workers", [1, 2])
def test_parts_hold_the_examples_of_their_replica(workers):
    """Two replicas a worker: first both first parts, then both second parts; together the batch, each example
    at its place.
    """
    options = dict(
        source=tiny.scenes_source(count=16), prepare=lambda example, key: {"index": example["index"]}, batch_size=16, seed=3,
        stream="human", start_step=2,
    )  # fmt: skip
    whole = next(iter(training_dataset(replica_batch_size=16, **options)))["index"].numpy()
    assert len(set(whole)) == 16
    rows = 16 // (workers * 2 * 2)
    for worker in range(workers):
        dataset = training_dataset(
            replica_batch_size=rows, parts=2, worker=Worker(worker, workers), **options
        )
        for element, batch in zip(range(4), dataset):
            part, replica = element // 2, worker * 2 + element % 2
            first = (replica * 2 + part) * rows
            np.testing.assert_array_equal(batch["index"], whole[first : first + rows])


def test_what_cannot_be_passed_in_parts():
    with pytest.raises(FlagError, match="--batch_size=8: choose a multiple of 3, .*times --accumulate=3"):
        make_trainer(task="classification", accumulate=3)
    with pytest.raises(FlagError, match="cannot be passed in parts"):
        check_flags(tiny.experiment(task="contrastive", accumulate=2))
    assert (
        tiny.experiment(accumulate=1).fingerprint()
        == tiny.experiment().fingerprint()
        != tiny.experiment(accumulate=2).fingerprint()
    )
