"""NT-Xent against hand numbers, a loop in NumPy, and itself on two replicas."""

import numpy as np
import pytest
import tensorflow as tf

from losses.contrastive import nt_xent


def by_loops(first, second, temperature):
    """CE_a + CE_b per image, straight from the paper's equation 1."""
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second))
    losses, hits = [], []
    for i in range(len(a)):
        total = 0.0
        for x, others, partners in ((a, a, b), (b, b, a)):
            right = np.exp(x[i] @ partners[i] / temperature)
            rest = sum(np.exp(x[i] @ v / temperature) for v in partners)
            rest += sum(np.exp(x[i] @ others[j] / temperature) for j in range(len(a)) if j != i)
            total -= np.log(right / rest)
        losses.append(total)
        hits.append(float(np.argmax([a[i] @ v for v in b]) == i))
    return losses, hits


def test_two_images_by_hand():
    """Orthogonal images, equal views, temperature 1: every view has one right (e^1) and two wrong (e^0)
    candidates.
    """
    views = tf.constant([[2.0, 0.0], [0.0, 5.0]])
    loss, hits = nt_xent(views, views, temperature=1.0)
    np.testing.assert_allclose(loss, [2 * (np.log(np.e + 2) - 1)] * 2, rtol=1e-6)
    assert hits.numpy().tolist() == [1, 1]


def test_a_hit_is_among_the_other_views_alone():
    """View a of image 0 is nearest to view a of image 1; of the views b its own is nearest, which is what the
    original counts.
    """
    first, second = tf.constant([[1.0, 0.0], [1.0, 0.1]]), tf.constant([[1.0, 0.3], [-1.0, 0.0]])
    assert nt_xent(first, second)[1].numpy().tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_against_loops(temperature):
    first, second = np.random.default_rng(0).normal(size=(2, 6, 5))
    loss, hits = nt_xent(
        tf.constant(first, tf.float32), tf.constant(second, tf.float32), temperature=temperature
    )
    expected = by_loops(first, second, temperature)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-4)
    assert hits.numpy().tolist() == expected[1]


def test_two_replicas_are_one_batch():
    """Losses and, added up over the replicas, gradients of the embeddings."""
    views = np.random.default_rng(1).normal(size=(2, 8, 4)).astype(np.float32)
    whole = tf.Variable(views)
    with tf.GradientTape() as tape:
        loss, _ = nt_xent(whole[0], whole[1], temperature=0.2)
        total = tf.reduce_sum(loss)
    expected = tape.gradient(total, whole).numpy()

    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )

    @tf.function
    def step():
        def replica():
            place = tf.distribute.get_replica_context().replica_id_in_sync_group
            own = tf.constant(views.reshape(2, 2, 4, 4))[:, place]
            with tf.GradientTape() as tape:
                tape.watch(own)
                loss, _ = nt_xent(own[0], own[1], temperature=0.2)
                share = tf.reduce_sum(loss)
            return loss, tape.gradient(share, own)

        return strategy.run(replica)

    losses, gradients = (
        np.stack([v.numpy() for v in strategy.experimental_local_results(r)]) for r in step()
    )
    np.testing.assert_allclose(losses.reshape(-1), loss.numpy(), rtol=1e-5)
    # Each replica's gradient holds what all replicas' losses say about its own images.
    np.testing.assert_allclose(np.concatenate(list(gradients), axis=1), expected, rtol=1e-4, atol=1e-6)


def test_finite_where_the_temperature_is_low():
    loss, _ = nt_xent(tf.ones([4, 3]), -tf.ones([4, 3]), temperature=0.01)
    assert np.isfinite(loss).all() and (loss.numpy() > 100).all()
