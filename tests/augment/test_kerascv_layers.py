"""The named layers in a Keras program: columns, ranges, formats, training switch, saving, keras-cv beside
them.
"""

import keras_cv
import numpy as np
import pytest
import tensorflow as tf

import augment

IMAGES = np.random.default_rng(5).integers(0, 255, (2, 40, 56, 3)).astype(np.uint8)
BOXES = np.array([[[1, 1, 6, 6], [50, 33, 55, 39], [-1, -1, -1, -1]]] * 2, np.float32)  # xyxy, in two corners
KEY = tf.constant([[1, 2], [3, 4]])


def batch():
    classes = np.array([[7, 5, -1]] * 2, np.float32)
    confidence = np.array([[0.7, 0.5, -1]] * 2, np.float32)  # a tenth of the class
    return {
        "images": IMAGES,
        "bounding_boxes": {"boxes": BOXES, "classes": classes, "confidence": confidence},
    }


def layers(size=None, **options):
    operations = [augment.RandAugment(10, 1, **options), augment.AutoAugment("v0", **options)]
    options["size"] = size
    return operations + [
        augment.LargeScaleJitter(0.5, 2.0, **options), augment.AugmentS1(**options), augment.AugmentS2(**options),
        augment.AugmentS3(**options), augment.AugmentS4(**options),
    ]  # fmt: skip


def test_presets_as_classes_are_the_policies():
    for number, layer in enumerate(layers(size=32)[3:], 1):
        given, expected = layer.get_config(), augment.policy(f"s{number}", size=32).get_config()
        assert {k: v for k, v in given.items() if k not in ("name", "seed")} == {
            k: v for k, v in expected.items() if k not in ("name", "seed")
        }
        assert isinstance(layer, keras_cv.layers.BaseImageAugmentationLayer)


def test_confidence_stays_with_its_box_and_ragged_is_dense():
    dense = {k: tf.constant(v) for k, v in batch()["bounding_boxes"].items()}
    ragged = {k: tf.RaggedTensor.from_tensor(v[:, :2], ragged_rank=1) for k, v in dense.items()}
    layer = augment.LargeScaleJitter(1.5, 2.0, size=32, bounding_box_format="xyxy")
    seen = set()
    for k in range(8):
        key = tf.constant([[k, 2], [k, 4]])
        found = layer({"images": IMAGES, "bounding_boxes": dense, "key": key})["bounding_boxes"]
        real = found["classes"].numpy() >= 0
        np.testing.assert_allclose(
            found["confidence"].numpy()[real] * 10, found["classes"].numpy()[real], rtol=1e-6
        )
        assert (found["confidence"].numpy()[~real] == -1).all()
        seen.update(tuple(classes[kept]) for classes, kept in zip(found["classes"].numpy(), real))
        example = {
            "image": tf.constant(IMAGES[0]),
            "boxes": BOXES[0][:2][:, [1, 0, 3, 2]],
            "classes": tf.constant([7, 5]),
        }
        expected = layer.augment(example, key[0])  # the column of classes goes through the function itself
        np.testing.assert_array_equal(found["classes"].numpy()[0][real[0]], expected["classes"])
        other = layer({"images": IMAGES, "bounding_boxes": ragged, "key": key})["bounding_boxes"]
        np.testing.assert_array_equal(other["boxes"].numpy(), found["boxes"].numpy()[:, :2])
    assert (5.0,) in seen and (7.0,) in seen  # either box was cropped away alone, or the test shows nothing


@pytest.mark.parametrize("stated", [None, (0, 1)])
def test_zero_to_one_is_the_same_image(stated):
    for layer in (augment.AugmentS1(size=32, value_range=stated), augment.RandAugment(value_range=stated)):
        whole = layer({"images": IMAGES, "key": KEY})["images"].numpy().astype(np.float32)
        unit = layer({"images": tf.constant(IMAGES / 255.0, tf.float32), "key": KEY})["images"].numpy()
        assert unit.max() <= 1.0 and whole.max() > 100
        np.testing.assert_allclose(unit * 255, whole, atol=0.51)
    dark = tf.ones([8, 8, 3])
    found = augment.AugmentS1(value_range=(0, 255), flip=False, jitter_min=1.0, jitter_max=1.0)(dark)
    np.testing.assert_array_equal(found, dark)
    with pytest.raises(ValueError, match="keeps the size"):
        augment.RandAugment(size=32)
    with pytest.raises(ValueError, match="value_range"):
        augment.AugmentS1(value_range=(-1, 1))


def test_not_training_leaves_the_image_alone():
    for layer in layers(boxes="xyxy"):
        found = layer(batch(), training=False)
        np.testing.assert_array_equal(found["images"], IMAGES)
        np.testing.assert_array_equal(found["bounding_boxes"]["boxes"], BOXES)
    fixed = augment.AugmentS4(size=(40, 56), boxes="xyxy")
    np.testing.assert_allclose(fixed(batch(), training=False)["images"], IMAGES, atol=1)
    model = tf.keras.Sequential([tf.keras.Input((40, 56, 3)), augment.RandAugment()])
    np.testing.assert_array_equal(model.predict(IMAGES.astype(np.float32), verbose=0), IMAGES)


def test_in_a_keras_file(tmp_path):
    for number, layer in enumerate(layers(size=(40, 56), boxes="xyxy", seed=3)):
        copy = type(layer).from_config(layer.get_config())
        assert copy.get_config() == layer.get_config()
        if number in (0, 6):
            path = str(tmp_path / f"{number}.keras")
            tf.keras.Sequential([tf.keras.Input((40, 56, 3)), layer]).save(path)
            loaded = tf.keras.models.load_model(path).layers[-1]
            assert type(loaded) is type(layer) and loaded.get_config() == layer.get_config()
        inputs = {"images": IMAGES[0], "key": KEY[0]}
        np.testing.assert_array_equal(copy(inputs)["images"], layer(inputs)["images"])


def test_beside_keras_cv():
    chain = keras_cv.layers.Augmenter(
        [
            keras_cv.layers.RandomFlip("horizontal", bounding_box_format="xyxy"),
            augment.AugmentS1(size=32, boxes="xyxy"),
        ]
    )
    inputs = batch()
    inputs = {"images": inputs["images"].astype(np.float32), "bounding_boxes": inputs["bounding_boxes"]}
    del inputs["bounding_boxes"]["confidence"]  # keras-cv's flip drops it
    data = tf.data.Dataset.from_tensors(inputs).map(chain)
    found = next(iter(data))
    assert found["images"].shape == (2, 32, 32, 3)
    assert found["bounding_boxes"]["boxes"].shape[-1] == 4
    pipeline = keras_cv.layers.RandomAugmentationPipeline([augment.RandAugment()], augmentations_per_image=1)
    assert pipeline(inputs["images"]).shape == (2, 40, 56, 3)
