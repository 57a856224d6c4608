"""What tasks do in Keras' `fit`, `evaluate` and `predict`, held against what they do for the command line;
networks of one layer.
"""

import dataclasses

import keras_cv
import numpy as np
import pytest
import tensorflow as tf

from official.data.example import normalize
from official.data.keras_dataset import source_dataset
from official.tasks import keras_data
from official.tasks.registry import build_task
from tests import tiny

keras = tf.keras


def network(task, classes):
    """Class maps at a quarter of the size, or classes, that follow from the pixels."""
    keras.utils.set_random_seed(1)
    images = keras.Input((None, None, 3), name="images")
    if task == "segmentation":
        x = keras.layers.Conv2D(classes, 4, strides=4, padding="same")(images)
    else:
        x = keras.layers.Dense(classes)(
            keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(images))
        )
    return keras.Model({"images": images}, {"logits": x})


def opened(task):
    """(task, a source of three images of 48 x 80 pixels, these images)."""
    source = tiny.scenes_source(count=3, task=task)
    made = build_task(tiny.experiment(task=task, augment="none"), source.categories)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 80, 3), np.uint8)
    other = dataclasses.replace(
        source.subset(np.arange(3)),
        sizes=np.full((3, 2), [48, 80], np.int32),
        read_image=lambda i: tf.gather(images, i),
    )
    return made, source, other, images


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_predict_is_what_the_jobs_predict(task):
    """Of images that are not the network's size."""
    made, _, other, images = opened(task)
    net = network(task, len(made.categories))
    expected = list(made.predict(net, other, 0, 3))
    found = {
        k: v.numpy()
        for k, v in tf.function(lambda x: made.found(net, x, "yxyx"))(tf.constant(images)).items()
    }
    floats = made.found(net, tf.constant(images, tf.float32) + 0.2, "yxyx")
    for i, row in enumerate(expected):
        label, score = (row["mask"], row["score"]) if task == "segmentation" else (row["class"], row["score"])
        np.testing.assert_array_equal(found["classes"][i], label)
        np.testing.assert_array_equal(floats["classes"][i], label)
        np.testing.assert_allclose(found["confidence"][i], score, rtol=1e-5)
    assert len(np.unique(found["confidence"])) > 2
    if task == "classification":
        np.testing.assert_allclose(found["probabilities"].sum(axis=-1), 1.0, rtol=1e-5)


def test_masks_of_a_dict_are_the_trainers():
    made, source, _, _ = opened("segmentation")
    batch = next(iter(made.training_dataset(source, batch_size=3, replica_batch_size=3, seed=0, stream="s")))
    given = next(iter(source_dataset(source.subset(batch["index"].numpy())).batch(3)))
    for masks in (given["segmentation_masks"], tf.cast(given["segmentation_masks"], tf.float32)[..., None]):
        found = made.batch_of({**given, "segmentation_masks": masks}, "yxyx")
        np.testing.assert_allclose(found["images"], batch["images"], atol=1e-5)
        np.testing.assert_array_equal(found["masks"], batch["masks"])
        assert found["masks"].dtype == tf.uint8
    assert made.batch_of(batch, "yxyx") is batch


def test_labels_of_a_dict():
    made = opened("classification")[0]
    images = tf.fill([2, 32, 32, 3], 9.0)
    found = made.batch_of({"images": images, "labels": tf.constant([[3], [-1]])}, "yxyx")
    assert found["class"].numpy().tolist() == [3, -1] and "probabilities" not in found
    np.testing.assert_allclose(found["images"], normalize(images))
    soft = tf.constant([[0.1, 0.6, 0.1, 0.1, 0.1], [0.0, 0.0, 0.0, 0.0, 1.0]])
    found = made.batch_of({"images": images, "labels": soft}, "yxyx")
    assert found["class"].numpy().tolist() == [1, 4]
    np.testing.assert_array_equal(found["probabilities"], soft)


def test_labels_that_do_not_fit():
    images = tf.zeros([2, 4, 4, 3])
    with pytest.raises(tf.errors.InvalidArgumentError, match="neither 255 .* nor of a class from 0 to 4"):
        keras_data.class_maps(tf.fill([2, 4, 4], 5), images, 5)
    assert keras_data.class_maps(tf.fill([2, 4, 4], 255), images, 5).dtype == tf.uint8
    with pytest.raises(ValueError, match="beside images of shape"):
        keras_data.class_maps(tf.zeros([2, 8, 8]), images, 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not below 5"):
        keras_data.class_labels(tf.constant([1, 5]), 5)
    with pytest.raises(ValueError, match=r"class indices \[B\] or probabilities \[B, 5\]"):
        keras_data.class_labels(tf.zeros([2, 4]), 5)
    with pytest.raises(ValueError, match='needs "images" and "segmentation_masks"'):
        opened("segmentation")[0].batch_of({"images": images}, "yxyx")


def test_what_keras_metrics_are_given():
    """Ignored pixels and unknown classes weigh nothing; numbers by hand."""
    made = opened("segmentation")[0]
    masks = tf.constant([[[0] * 8, [1] * 8, [255] * 8, [2] * 8] * 2], tf.uint8)
    logits = tf.one_hot(tf.zeros([1, 2, 2], tf.int32), len(made.categories))  # background everywhere
    metric = keras.metrics.SparseCategoricalAccuracy()
    truth, found, weight = made.compared(None, {"logits": logits}, {"masks": masks}, "yxyx")
    assert truth.shape == found.shape == weight.shape == (1, 8, 8)
    assert float(keras.metrics.Accuracy()(truth, found, weight)) == pytest.approx(1 / 3)
    made = opened("classification")[0]
    logits = tf.constant([[9.0, 0, 0, 0, 0], [9.0, 0, 0, 0, 0], [9.0, 0, 0, 0, 0]])
    labels = {"class": tf.constant([0, 1, -1])}
    truth, found, weight = made.compared(None, {"logits": logits}, labels, "yxyx")
    assert float(metric(truth, found, weight)) == pytest.approx(1 / 2)


def test_coco_metrics_of_perfect_boxes():
    """Boxes that are found where they are, in another format than ours: every AP and recall is 1."""
    source = tiny.scenes_source(count=4)
    made = build_task(tiny.experiment(augment="none"), source.categories)
    batch = made.batch_of(
        next(iter(source_dataset(source, bounding_box_format="center_xywh").batch(4))), "center_xywh"
    )
    given = next(iter(source_dataset(source, bounding_box_format="center_xywh").batch(4)))["bounding_boxes"]
    perfect = {
        "boxes": batch["boxes"], "classes": batch["classes"], "scores": tf.cast(batch["classes"] >= 0, tf.float32),
        "count": tf.reduce_sum(tf.cast(batch["classes"] >= 0, tf.int32), axis=1),
    }  # fmt: skip
    size = tf.shape(batch["images"])[1:3]
    found = made._in_keras_words(perfect, perfect["boxes"], "center_xywh", size)
    np.testing.assert_allclose(
        found["boxes"], tf.where((given["classes"] >= 0)[..., None], given["boxes"], -1.0), atol=1e-3
    )
    metric = keras_cv.metrics.BoxCOCOMetrics("center_xywh", evaluate_freq=1)
    metric.update_state({"boxes": found["boxes"], "classes": tf.cast(batch["classes"], tf.float32)}, found)
    assert float(metric.result()["MaP"]) == pytest.approx(1.0)
