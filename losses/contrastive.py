"""NT-Xent, SimCLR's loss over the two views of every image of the global batch.

For view a of image i the candidates are all views b of the batch and all views a but its own; the
right one is view b of i. L = sum over i of (CE_a(i) + CE_b(i)); the original divides it by the
number of images, so it is twice the mean over views.

Source: google-research/simclr objective.py:35-127.
"""

from __future__ import annotations

import tensorflow as tf

from losses.replicas import all_reduce

_SELF = 1e9  # taken off a view's similarity to itself
_SUM = tf.distribute.ReduceOp.SUM


def nt_xent(first: tf.Tensor, second: tf.Tensor, *, temperature: float = 0.1) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss of this replica's images against the images of all replicas.

    Args:
      first, second: float [B, D], embeddings of the two views; they are normalised here.
      temperature: divides the cosine similarities.

    Returns:
      (float32 [B]: CE_a + CE_b per image; float32 [B]: 1 where of all views b view a is nearest to its own,
      which the original reports as contrast_acc). Inside a replica context the gradient reaches the
      embeddings of the other replicas, so that adding up the replicas' gradients gives that of the whole
      batch.
    """
    first, second = (tf.math.l2_normalize(tf.cast(v, tf.float32), axis=-1) for v in (first, second))
    all_first, all_second, offset = _gathered(first, second)
    count = first.shape[0]
    own = tf.range(count) + offset
    mask = tf.one_hot(own, all_first.shape[0]) * _SELF

    def scores(a, b):
        return tf.matmul(a, b, transpose_b=True) / temperature

    across_first = scores(first, all_second)
    logits_first = tf.concat([across_first, scores(first, all_first) - mask], axis=1)
    logits_second = tf.concat([scores(second, all_first), scores(second, all_second) - mask], axis=1)
    loss = sum(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=own, logits=logits)
        for logits in (logits_first, logits_second)
    )
    hits = tf.argmax(across_first, axis=1, output_type=tf.int32) == own
    return loss, tf.cast(hits, tf.float32)


def _gathered(first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """([global B, D] of both views, this replica's first row in them).

    Every replica lays its rows into zeros and the sum is taken, which has a gradient everywhere.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync if context else 1
    if replicas == 1:
        return first, second, tf.constant(0)
    count, place = first.shape[0], context.replica_id_in_sync_group
    here = tf.reshape(tf.one_hot(place, replicas), [replicas, 1, 1])
    spread = [tf.reshape(here * view[None], [replicas * count, -1]) for view in (first, second)]
    # One by one: the gradient of a reduced list needs every member to be used.
    gathered = [all_reduce(_SUM, view) for view in spread]
    return gathered[0], gathered[1], place * count
