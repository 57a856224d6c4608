"""S1 to S4 as functions and as Keras layers: presets, formats, replay, and boxes that stay inside."""

import numpy as np
import pytest
import tensorflow as tf

import augment

GENERATOR = np.random.default_rng(3)
IMAGE = tf.constant(GENERATOR.integers(0, 255, (50, 70, 3), np.uint8))
MASK = tf.constant(GENERATOR.integers(0, 4, (50, 70), np.uint8))
BOXES = tf.constant([[5, 10, 30, 40], [20, 2, 45, 60], [1, 1, 3, 4]], tf.float32)
EXAMPLE = {"image": IMAGE, "mask": MASK, "boxes": BOXES, "classes": tf.constant([0, 1, 2])}
NAMES = ("none", "s1", "s2", "s3", "s4")


def test_presets_are_the_papers():
    found = {name: augment.policy(name) for name in NAMES}
    ranges = {name: (p.jitter_min, p.jitter_max) for name, p in found.items()}
    assert ranges == {"none": (1, 1), "s1": (0.8, 1.2), "s2": (0.8, 1.2), "s3": (0.5, 2.0), "s4": (0.5, 2.0)}
    assert [p.autoaugment for p in found.values()] == ["", "", "v0", "v0", ""]
    assert [p.randaugment_layers for p in found.values()] == [0, 0, 0, 0, 1]
    assert found["s4"].randaugment_magnitude == 10 and [p.flip for p in found.values()] == [
        False,
        True,
        True,
        True,
        True,
    ]


def test_parts_can_be_replaced():
    changed = augment.policy("s4", randaugment_layers=-1, autoaugment="v2", jitter_max=1.5, flip=False)
    assert (changed.randaugment_layers, changed.autoaugment, changed.jitter_max, changed.flip) == (
        0,
        "v2",
        1.5,
        False,
    )
    assert augment.policy("s3", autoaugment="none").autoaugment == ""
    assert augment.policy("s4", randaugment_ops="image").settings.translate_const == 100
    for wrong in (dict(autoaugment="v7"), dict(randaugment_ops="x"), dict(jitter_min=3.0)):
        with pytest.raises(ValueError):
            augment.policy("s3", **wrong)


@pytest.mark.parametrize("name", NAMES)
def test_boxes_inside_columns_in_step_and_graph_agrees(name):
    policy = augment.policy(name)
    run = tf.function(lambda key: policy.augment(EXAMPLE, key, output_size=64))
    for k in range(12):
        key = tf.constant([2, k])
        found = run(key)
        boxes = found["boxes"].numpy()
        assert (
            found["image"].shape == (64, 64, 3)
            and found["mask"].shape == (64, 64)
            and len(boxes) == len(found["classes"])
        )
        assert (boxes >= 0).all() and (boxes <= 64).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        assert set(np.unique(found["mask"])) <= {0, 1, 2, 3, 255}
        if k < 2:
            eager = policy.augment(EXAMPLE, key, output_size=64)
            np.testing.assert_allclose(found["image"], eager["image"], atol=1e-3)
            np.testing.assert_allclose(found["boxes"], eager["boxes"], atol=1e-4)
            for field in ("mask", "classes"):
                np.testing.assert_array_equal(found[field], eager[field])


def test_minimum_box_size():
    keep_all = augment.policy("none").augment(EXAMPLE, tf.constant([0, 0]), output_size=70)
    keep_large = augment.policy("none", min_box_size=4.0).augment(
        EXAMPLE, tf.constant([0, 0]), output_size=70
    )
    assert keep_all["classes"].numpy().tolist() == [0, 1, 2] and keep_large["classes"].numpy().tolist() == [
        0,
        1,
    ]


def test_pixels_do_not_depend_on_parallel_calls():
    policy = augment.policy("s4")

    def images_of(calls):
        data = tf.data.Dataset.range(16).map(
            lambda i: policy.augment(EXAMPLE, tf.stack([7, tf.cast(i, tf.int32)]), output_size=64)["image"],
            num_parallel_calls=calls,
        )
        return np.stack(list(data.as_numpy_iterator()))

    one, eight = images_of(1), images_of(8)
    np.testing.assert_array_equal(one, eight)
    assert len({image.tobytes() for image in one}) > 12  # a translation by 250 pixels leaves only grey


# --- as Keras layers -------------------------------------------------------------------------------


def batch(dtype=tf.uint8):
    boxes = tf.constant([[[10, 5, 40, 30], [2, 20, 60, 45], [-1, -1, -1, -1]]] * 2, tf.float32)  # xyxy
    return {
        "images": tf.cast(tf.stack([IMAGE, IMAGE]), dtype), "segmentation_masks": tf.stack([MASK, MASK]),
        "bounding_boxes": {"boxes": boxes, "classes": tf.constant([[0, 1, -1]] * 2, tf.float32)},
        "key": tf.constant([[1, 2], [1, 2]]), "name": tf.constant(["a", "b"]),
    }  # fmt: skip


def test_layer_keeps_dtype_shape_padding_and_other_entries():
    for dtype in (tf.uint8, tf.float32):
        layer = augment.policy("s4", boxes="xyxy", size=(64, 96))
        found = layer(batch(dtype))
        assert found["images"].shape == (2, 64, 96, 3) and found["images"].dtype == dtype
        assert found["bounding_boxes"]["boxes"].shape == (2, 3, 4) and found["bounding_boxes"][
            "classes"
        ].shape == (2, 3)
        assert found["segmentation_masks"].shape == (2, 64, 96) and found["name"].numpy().tolist() == [
            b"a",
            b"b",
        ]
        assert (found["bounding_boxes"]["classes"].numpy()[:, 2] == -1).all()
        np.testing.assert_array_equal(found["images"][0], found["images"][1])  # one key, one result


def test_layer_is_the_function_in_another_format():
    layer = augment.policy("s2", boxes="xyxy", size=64)
    found = layer(batch())
    example = {"image": IMAGE, "mask": MASK, "boxes": BOXES[:2], "classes": tf.constant([0, 1])}
    expected = layer.augment(example, tf.constant([1, 2]))
    np.testing.assert_array_equal(found["images"][0], np.round(expected["image"]).astype(np.uint8))
    real = found["bounding_boxes"]["classes"].numpy()[0] >= 0
    np.testing.assert_allclose(
        found["bounding_boxes"]["boxes"].numpy()[0][real][:, [1, 0, 3, 2]], expected["boxes"], atol=1e-4
    )
    np.testing.assert_array_equal(found["segmentation_masks"][0], expected["mask"])


@pytest.mark.parametrize("form", ["xyxy", "rel_yxyx", "xywh", "center_xywh"])
def test_box_formats_mean_the_same(form):
    import keras_cv

    boxes = batch()["bounding_boxes"]["boxes"][0, :2]
    given = keras_cv.bounding_box.convert_format(boxes, source="xyxy", target=form, images=IMAGE)
    inputs = {
        "images": IMAGE,
        "bounding_boxes": {"boxes": given, "classes": tf.constant([0.0, 1.0])},
        "key": tf.constant([3, 3]),
    }
    found = augment.policy("s1", boxes=form, size=64)(inputs)["bounding_boxes"]["boxes"]
    back = keras_cv.bounding_box.convert_format(
        found, source=form, target="yxyx", images=tf.zeros([64, 64, 3])
    )
    expected = augment.policy("s1").augment(
        {**EXAMPLE, "boxes": BOXES[:2], "classes": tf.constant([0, 1])}, tf.constant([3, 3]), output_size=64
    )
    np.testing.assert_allclose(back[: len(expected["boxes"])], expected["boxes"], atol=1e-3)


def test_layers_survive_serialisation():
    layers = [
        augment.policy("s4", boxes="yxyx", size=64, randaugment_magnitude=7.0, seed=4),
        augment.Operation("Rotate_BBox", level=3.0, boxes="yxyx"),
    ]
    for layer in layers:
        config = tf.keras.saving.serialize_keras_object(layer)
        copy = tf.keras.saving.deserialize_keras_object(config)
        assert copy.get_config() == layer.get_config()
        inputs = {"images": IMAGE, "key": tf.constant([4, 4])}
        np.testing.assert_array_equal(copy(inputs)["images"], layer(inputs)["images"])


def test_seeded_layers_draw_the_same_sequence_and_run_in_tf_data_and_a_model():
    def three(seed):
        layer = augment.policy("s1", size=32, seed=seed)
        return [layer(IMAGE).numpy() for _ in range(3)]

    assert all((a == b).all() for a, b in zip(three(0), three(0)))  # seed 0 counts as one
    assert any((a != b).any() for a, b in zip(three(0), three(1)))
    layer = augment.policy("s4", boxes="xyxy", size=32, seed=1)
    data = (
        tf.data.Dataset.from_tensors({k: v for k, v in batch().items() if k != "key"})
        .unbatch()
        .map(layer)
        .batch(2)
    )
    found = next(iter(data))
    assert found["images"].shape == (2, 32, 32, 3) and "key" not in found  # the same entries as came in
    model = tf.keras.Sequential([tf.keras.Input((50, 70, 3)), augment.policy("s2", size=32, seed=1)])
    assert model(tf.stack([IMAGE, IMAGE])).shape == (2, 32, 32, 3)


def test_ragged_images():
    ragged = tf.ragged.stack([IMAGE, IMAGE[:30, :20]])
    assert augment.policy("s1", size=32)(ragged).shape == (2, 32, 32, 3)
    turned = augment.Operation("Rotate", level=10.0)(ragged)
    assert turned[1].to_tensor().shape == (30, 20, 3)


def test_boxes_without_a_format_are_refused():
    with pytest.raises(ValueError, match='boxes="yxyx"'):
        augment.policy("s1")(batch())
