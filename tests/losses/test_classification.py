"""Cross-entropy of whole images against hand numbers."""

import numpy as np
import tensorflow as tf

from losses.classification import class_cross_entropy, known_labels

LOGITS = tf.constant([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
LABELS = tf.constant([2, 0, -1])


def log_softmax(row):
    return row - np.log(np.exp(row).sum())


def test_by_hand():
    found = class_cross_entropy(LOGITS, LABELS).numpy()
    # log(e^1 + e^2 + e^4) - 4 = 0.169846; log 3; unknown.
    np.testing.assert_allclose(found, [0.169846, np.log(3), 0.0], atol=1e-6)
    assert known_labels(LABELS).numpy().tolist() == [1, 1, 0]


def test_label_smoothing():
    found = class_cross_entropy(LOGITS, LABELS, label_smoothing=0.3).numpy()
    logs = log_softmax(np.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(found[0], -(0.1 * logs[0] + 0.1 * logs[1] + 0.8 * logs[2]), rtol=1e-6)
    assert found[2] == 0.0


def test_soft_labels_take_the_place_of_hard_ones_and_are_not_smoothed():
    soft = tf.constant([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.3, 0.3, 0.4]])
    found = class_cross_entropy(LOGITS, LABELS, probabilities=soft, label_smoothing=0.3).numpy()
    logs = log_softmax(np.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(found, [-(np.array([0.2, 0.3, 0.5]) * logs).sum(), np.log(3), 0.0], rtol=1e-6)


def test_no_gradient_through_unknown_labels():
    with tf.GradientTape() as tape:
        tape.watch(LOGITS)
        loss = tf.reduce_sum(class_cross_entropy(LOGITS, LABELS))
    gradient = tape.gradient(loss, LOGITS).numpy()
    assert (gradient[2] == 0).all() and (gradient[:2] != 0).all()
    soft = tf.nn.softmax(LOGITS[:1]).numpy()[0]
    np.testing.assert_allclose(gradient[0], soft - [0, 0, 1], rtol=1e-5)
