"""What every replica keeps for itself is read from the first one: a mean of three equal float32 numbers may differ from them."""

import numpy as np
import pytest
import tensorflow as tf

from losses.joint import LossAverages
from official.models.layers import SyncBatchNormalization


def batch_norm():
    layer = SyncBatchNormalization()
    layer.build([None, 2, 2, 1])
    return [layer.moving_mean, layer.moving_variance]


def averages():
    made = LossAverages()
    return [made.human, made.pseudo]


def test_a_mean_of_three_is_not_always_one_of_them():
    """Why this matters; with two it always is, so two replicas cannot show it."""
    x = np.float32(0.1) * np.arange(1, 100, dtype=np.float32)
    assert np.any((x + x + x) / np.float32(3) != x) and not np.any((x + x) / np.float32(2) != x)


@pytest.mark.parametrize("make", [batch_norm, averages])
def test_the_first_replica_is_read(make):
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        variables = make()

    def own():
        number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
        for variable in variables:
            variable.assign(tf.zeros_like(variable) + 3.0 + number)

    strategy.run(tf.function(own))
    for variable in variables:
        assert np.unique(variable.numpy()).tolist() == [3.0]
