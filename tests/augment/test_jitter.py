"""Flip, scale jitter, crop and pad: boxes by hand and by the law that a drawn box stays under its box."""

import numpy as np
import pytest
import tensorflow as tf

import augment
from augment.jitter import flip, random_flip, resize_and_crop
from tests.golden.vectors import forced


def example(height, width, boxes=((1, 2, 5, 8),), classes=None):
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    classes = np.arange(len(boxes), dtype=np.int32) if classes is None else classes
    return {"image": tf.constant(image), "boxes": tf.constant(boxes), "classes": tf.constant(classes)}


KEY = tf.constant([1, 2])


def test_flip_by_hand_and_twice():
    before = example(10, 20)
    after = flip(before)
    np.testing.assert_array_equal(after["boxes"], [[1, 12, 5, 18]])
    np.testing.assert_array_equal(after["image"], before["image"].numpy()[:, ::-1])
    np.testing.assert_array_equal(flip(after)["boxes"], before["boxes"])


def test_half_of_the_keys_flip():
    before = example(4, 6)
    flipped = sum(
        bool((random_flip(before, tf.constant([7, k]))["boxes"] != before["boxes"]).numpy().any())
        for k in range(400)
    )
    assert abs(flipped - 200) < 4 * 10  # four standard deviations


def test_no_jitter_keeps_aspect_and_pads_bottom_right():
    """100 x 50 into 64: scale 0.64, so 64 x 32, and columns 32.. are fill."""
    found = resize_and_crop(example(100, 50, [[10, 5, 60, 45]]), None, output_size=64, fill=(1.0, 2.0, 3.0))
    np.testing.assert_allclose(found["scale"], [0.64, 0.64], rtol=1e-6)
    np.testing.assert_allclose(found["extent"], [64, 32])
    np.testing.assert_allclose(found["boxes"], [[6.4, 3.2, 38.4, 28.8]], rtol=1e-5)
    np.testing.assert_allclose(
        found["image"][:, 32:], np.broadcast_to([1.0, 2.0, 3.0], (64, 32, 3)), atol=1e-4
    )


def test_rounded_size_gives_two_scales():
    """30 x 47 into 64: round(30 * 64 / 47) = 41 rows, so y scales by 41 / 30 and x by 64 / 47."""
    found = resize_and_crop(example(30, 47), None, output_size=64)
    np.testing.assert_allclose(found["scale"], [41 / 30, 64 / 47], rtol=1e-6)


def test_the_longer_side_is_rounded_before_the_scale_is_taken():
    """100 x 70 to 0.6245 of 100: 62, so 43.4 -> 43 columns (of 62.45 they would be 43.715 -> 44)."""
    with forced([0.1245, 0.0, 0.0]):
        found = resize_and_crop(example(100, 70), KEY, output_size=100, jitter_min=0.5, jitter_max=1.5)
    assert found["extent"].numpy().tolist() == [62, 43]


def test_identity_when_the_size_is_right():
    before = example(64, 64)
    after = resize_and_crop(before, None, output_size=64)
    np.testing.assert_allclose(after["image"], before["image"], atol=1e-4)
    np.testing.assert_array_equal(after["boxes"], before["boxes"])


@pytest.mark.parametrize("legacy", [False, True])
def test_resize_matches_tf1_and_tf2(legacy):
    before = example(20, 20)
    after = resize_and_crop(before, None, output_size=40, legacy_resize=legacy)
    if legacy:
        expected = tf.compat.v1.image.resize_bilinear(before["image"][None], [40, 40])[0]
    else:
        expected = tf.image.resize(before["image"], [40, 40])
    np.testing.assert_allclose(after["image"], expected, atol=1e-3)


def test_boxes_that_leave_the_crop_go_with_their_columns():
    boxes = [[0, 0, 10, 10], [90, 90, 100, 100]]
    kept_sets = set()
    for k in range(60):
        found = resize_and_crop(
            example(100, 100, boxes), tf.constant([3, k]), output_size=100, jitter_min=1.9, jitter_max=1.9
        )
        assert len(found["boxes"]) == len(found["classes"])
        kept_sets.add(tuple(found["classes"].numpy()))
        if len(found["boxes"]):
            assert found["boxes"].numpy().min() >= 0 and found["boxes"].numpy().max() <= 100
    assert {(), (0,)} & kept_sets and len(kept_sets) > 1


def test_scale_and_offset_are_uniform():
    """Each in ten bins, chi-square with 9 degrees of freedom below 27.9 (p = 0.001); y and x are drawn
    apart.
    """
    rows, columns = np.indices((256, 256))
    places = {
        "image": tf.constant(np.stack([rows, columns, rows], axis=2).astype(np.uint8))
    }  # a pixel says where it was

    @tf.function
    def draw(key):
        jittered = resize_and_crop(places, key, output_size=50, jitter_min=0.5, jitter_max=2.0)
        cropped = resize_and_crop(
            places, key + 1, output_size=8, jitter_min=32.0, jitter_max=32.0
        )  # of 256, as stored
        return jittered["scale"][0] * 256 / 50, cropped["image"][0, 0]

    drawn = [draw(tf.constant([5, k])) for k in range(1000)]
    offsets = np.array([corner for _, corner in drawn])[:, :2]
    for values, low, high in (
        ([s for s, _ in drawn], 0.5, 2.0),
        (offsets[:, 0], 0, 248),
        (offsets[:, 1], 0, 248),
    ):
        counts, _ = np.histogram(values, bins=10, range=(low, high))
        assert ((counts - 100) ** 2 / 100).sum() < 27.9
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.1


@pytest.mark.parametrize("trial", range(40))
def test_a_drawn_rectangle_stays_under_its_box(trial):
    generator = np.random.default_rng(trial)
    height, width = generator.integers(30, 120, 2)
    y1, x1 = generator.integers(0, height - 12), generator.integers(0, width - 12)
    y2, x2 = generator.integers(y1 + 10, height + 1), generator.integers(x1 + 10, width + 1)
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    before = {
        "image": tf.constant(image),
        "boxes": tf.constant([[y1, x1, y2, x2]], tf.float32),
        "classes": tf.constant([0]),
    }
    policy = augment.policy("s1", jitter_min=0.5, jitter_max=2.0)
    found = policy.augment(before, tf.constant([8, trial]), output_size=64)
    bright = found["image"].numpy()[..., 0] > 127
    if bright.any():
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        drawn = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
        np.testing.assert_allclose(found["boxes"][0], drawn, atol=1.01)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 300), (300, 1), (4000, 30)])
def test_extreme_shapes(height, width):
    found = augment.policy("s1").augment(example(height, width, []), KEY, output_size=32)
    assert found["image"].shape == (32, 32, 3) and found["boxes"].shape == (0, 4)


def test_eager_and_tf_data_agree():
    before, policy = example(50, 70), augment.policy("s1")
    eager = policy.augment(before, KEY, output_size=64)
    graph = next(
        iter(tf.data.Dataset.from_tensors(before).map(lambda e: policy.augment(e, KEY, output_size=64)))
    )
    for name in eager:
        np.testing.assert_array_equal(eager[name], graph[name])


def test_presets():
    assert augment.policy("s1").jitter_min == 0.8 and augment.policy("s1").jitter_max == 1.2
    assert not augment.policy("none").flip
    with pytest.raises(ValueError, match="s1"):
        augment.policy("s9")
    with pytest.raises(ValueError, match="empty"):
        augment.policy("s1", jitter_min=2.0)
