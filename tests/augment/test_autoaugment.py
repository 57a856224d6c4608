"""Policies and RandAugment: their tables, and how often each part is drawn."""

import numpy as np
import pytest
import tensorflow as tf

from augment import ops
from augment.autoaugment import POLICIES, autoaugment, parse
from augment.randaugment import BOX_OPERATIONS, IMAGE_OPERATIONS, SETS, randaugment

IMAGE = tf.constant(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
EXAMPLE = {"image": IMAGE, "boxes": tf.constant([[5, 5, 20, 30.0]]), "classes": tf.constant([1])}


def test_tables():
    """Sizes and first and last entries as in the original's file; every operation exists."""
    assert {name: len(policy) for name, policy in POLICIES.items()} == {
        "v0": 5,
        "v1": 20,
        "v2": 15,
        "v3": 15,
        "imagenet": 25,
    }
    assert POLICIES["v1"][:5] == POLICIES["v0"]
    assert POLICIES["v0"][0] == (("TranslateX_BBox", 0.6, 4), ("Equalize", 0.8, 10))
    assert POLICIES["v0"][4] == (("Rotate_BBox", 0.6, 10), ("Color", 1.0, 6))
    assert POLICIES["v1"][19] == (("SolarizeAdd", 0.6, 8), ("Brightness", 0.8, 10))
    assert POLICIES["v2"][1] == (("Rotate_BBox", 0.4, 8), ("Sharpness", 0.4, 2), ("Rotate_BBox", 0.8, 10))
    assert POLICIES["v3"][14] == (("SolarizeAdd", 0.8, 6), ("Equalize", 0.8, 8))
    for policy in POLICIES.values():
        for sub_policy in policy:
            assert all(
                name in ops.OPERATIONS and 0 <= p <= 1 and 0 <= level <= 10 for name, p, level in sub_policy
            )
    assert len(BOX_OPERATIONS) == 10 and len(IMAGE_OPERATIONS) == 16
    assert SETS["image"][1].cutout_const == 40 and SETS["image"][1].translate_const == 100


def draw_many(function, count):
    run = tf.function(function)
    return [run(tf.constant([11, k])) for k in range(count)]


def chi_square(counts, expected):
    return float(((np.asarray(counts) - expected) ** 2 / expected).sum())


def test_sub_policies_are_drawn_uniformly(monkeypatch):
    """500 images, five sub-policies that each paint another value: chi-square, p = 0.001 at 4 degrees."""
    names = [f"Paint{i}" for i in range(5)]
    for i, name in enumerate(names):
        painted = tf.fill(tf.shape(IMAGE), tf.constant(i, tf.uint8))
        monkeypatch.setitem(ops.OPERATIONS, name, lambda e, *rest, painted=painted: {**e, "image": painted})
    monkeypatch.setitem(POLICIES, "paint", parse("\n".join(f"{name} 1 5" for name in names)))
    found = draw_many(lambda key: autoaugment(dict(EXAMPLE), key, version="paint")["image"][0, 0, 0], 500)
    assert chi_square(np.bincount([int(v) for v in found], minlength=5), 100) < 18.5


def test_probabilities_are_kept(monkeypatch):
    """Two operations with 0.6 and 0.2: 300 +- 4 deviations and 100 +- 4 deviations of 500, independent."""
    add = lambda amount: lambda e, *rest: {**e, "image": e["image"] + tf.constant(amount, tf.uint8)}  # noqa: E731
    monkeypatch.setitem(ops.OPERATIONS, "Add1", add(1))
    monkeypatch.setitem(ops.OPERATIONS, "Add2", add(2))
    monkeypatch.setitem(POLICIES, "add", parse("Add1 .6 5; Add2 .2 5"))
    example = {"image": tf.zeros([1, 1, 3], tf.uint8)}
    found = np.array(
        [
            int(v)
            for v in draw_many(
                lambda key: autoaugment(dict(example), key, version="add")["image"][0, 0, 0], 500
            )
        ]
    )
    assert abs((found & 1).sum() - 300) < 44 and abs((found & 2).sum() / 2 - 100) < 36
    assert abs((found == 3).sum() - 60) < 30


def test_randaugment_draws_uniformly_and_always_applies(monkeypatch):
    for i in range(4):
        painted = tf.fill([1, 1, 3], tf.constant(i + 1, tf.uint8))
        monkeypatch.setitem(ops.OPERATIONS, f"Paint{i}", lambda e, *rest, painted=painted: {"image": painted})
    example, names = {"image": tf.zeros([1, 1, 3], tf.uint8)}, tuple(f"Paint{i}" for i in range(4))
    found = draw_many(lambda key: randaugment(dict(example), key, operations=names)["image"][0, 0, 0], 400)
    counts = np.bincount([int(v) for v in found], minlength=5)
    assert counts[0] == 0 and chi_square(counts[1:], 100) < 16.3


@pytest.mark.parametrize("version", POLICIES)
def test_policies_run_and_repeat(version):
    """The same key gives the same bits, other keys other images; the shape stays.

    Compiled for v0 alone: of the larger ones only the number of branches is new, and
    tests/augment/test_original_ops.py compiles every operation.
    """

    def run(key):
        return autoaugment(dict(EXAMPLE), key, version=version)

    run = tf.function(run) if version == "v0" else run
    found = [run(tf.constant([5, k])) for k in range(25)]
    again = run(tf.constant([5, 3]))
    np.testing.assert_array_equal(found[3]["image"], again["image"])
    assert len({f["image"].numpy().tobytes() for f in found}) > 5
    assert all(f["image"].shape == IMAGE.shape and f["image"].dtype == tf.uint8 for f in found)


def test_magnitude_fifteen_is_beyond_the_scale():
    """The ResNet-101 study: translation by 375 pixels, so an image of 60 is all grey."""
    moved = ops.apply(dict(EXAMPLE), "TranslateX_BBox", level=15.0, key=tf.constant([0, 0]))
    assert (moved["image"].numpy() == 128).all()


def test_unknown_names():
    with pytest.raises(ValueError, match="v0"):
        autoaugment(EXAMPLE, tf.constant([0, 0]), version="v9")
    with pytest.raises(ValueError, match="Rotate_BBox"):
        ops.apply(EXAMPLE, "Rotat", level=1.0, key=tf.constant([0, 0]))
