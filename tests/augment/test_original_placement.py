"""Resize, crop, pad, flip and normalisation against the original's, and its real draws of offsets.

Origin, conventions and declared differences: tests/golden/original/README.md.
"""

import numpy as np
import pytest
import tensorflow as tf

from augment.jitter import random_flip, resize_and_crop
from official.data.example import NORMALIZATION
from tests.golden.vectors import forced, load

VECTORS, INDEX = load("placement")
KEY = tf.constant([3, 4])
SHORT = 16  # whose label map the original makes one column narrower than the image
CASES = pytest.mark.parametrize("case", INDEX["cases"], ids=lambda case: f"{case['case']:02d}")


def part(case, name):
    return VECTORS[f"case{case['case']:02d}_{name}"]


def pixel_boxes(case, normalised):
    return normalised * np.float32([case["height"], case["width"]] * 2)


def placed(case, boxes, mask=None):
    """Our placement with the original's draws; "classes" says which of `boxes` (pixels) were kept."""
    example = {
        "image": tf.constant(part(case, "image")),
        "boxes": tf.constant(boxes),
        "classes": tf.range(len(boxes)),
    }
    if mask is not None:
        example["mask"] = tf.constant(mask)
    still = case["scale_min"] == case["scale_max"] == 1.0
    with forced(*([] if still else [[case["scale_draw"], *case["offset_draws"]]])):
        return resize_and_crop(
            example, KEY, output_size=case["output"], normalization=NORMALIZATION, legacy_resize=True,
            jitter_min=case["scale_min"], jitter_max=case["scale_max"],
        )  # fmt: skip


@CASES
def test_image_boxes_and_where_they_lie(case):
    boxes = pixel_boxes(case, part(case, "boxes"))
    found = {name: value.numpy() for name, value in placed(case, boxes).items()}
    np.testing.assert_allclose(
        found["image"][..., case["stored_channels"]], part(case, "out_image"), atol=2e-6
    )
    np.testing.assert_allclose(found["scale"], case["image_info_scale_yx"], rtol=1e-7)
    np.testing.assert_array_equal(found["classes"], part(case, "kept"))
    unfiltered, limit = part(case, "out_boxes_unfiltered"), case["output"] - 1
    np.testing.assert_allclose(np.minimum(found["boxes"], limit), unfiltered[found["classes"]], atol=1e-5)
    # Up to the border where the original stops a pixel before it.
    exact = boxes * np.tile(found["scale"], 2) - np.tile(case["offset_yx"], 2)
    expected = np.clip(exact, 0, np.tile(found["extent"], 2))[found["classes"]]
    np.testing.assert_allclose(found["boxes"], expected, atol=1e-4)


@CASES
def test_offset(case):
    """Read off boxes of one pixel all over the image: of those that are not cut."""
    strips = [[y, 0, y + 1, case["width"]] for y in range(case["height"])]
    strips += [[0, x, case["height"], x + 1] for x in range(case["width"])]
    strips = np.array(strips, np.float32)
    found = placed(case, strips)
    corners = strips[found["classes"], :2] * found["scale"] - found["boxes"][:, :2]
    np.testing.assert_allclose(corners.numpy().max(axis=0), case["offset_yx"], atol=1e-3)


def legacy_label_map(mask, size, offset, output):
    """The original's arithmetic in NumPy: nearest neighbour floor(i * in / out), crop, padding of 255."""
    rows, columns = (
        np.minimum(np.floor(np.arange(n) * np.float32(side / n)).astype(int), side - 1)
        for n, side in zip(size, mask.shape)
    )
    shown = mask[rows][:, columns][offset[0] : offset[0] + output, offset[1] : offset[1] + output]
    padded = np.full((output, output), 255, np.uint8)
    padded[: shown.shape[0], : shown.shape[1]] = shown
    return padded


@CASES
def test_label_map(case):
    mask, expected = part(case, "mask"), part(case, "out_mask")
    found = placed(case, np.zeros([0, 4], np.float32), mask)["mask"].numpy()
    if case["case"] != SHORT:
        np.testing.assert_array_equal(found, expected)
        return
    # Ours is as wide as the image; at the original's width the same formula gives the original's map.
    sides = np.array([case["height"], case["width"]])
    whole = np.rint(sides * case["image_info_scale_yx"]).astype(int)
    short = np.trunc(np.float32(case["image_info_scale_yx"]) * np.float32(sides)).astype(int)
    assert (whole - short).tolist() == [0, 1]
    np.testing.assert_array_equal(found, legacy_label_map(mask, whole, case["offset_yx"], case["output"]))
    np.testing.assert_array_equal(expected, legacy_label_map(mask, short, case["offset_yx"], case["output"]))


def test_flip():
    image, boxes, mask = (VECTORS[f"flip_{name}"] for name in ("image", "boxes", "mask"))
    scale = np.tile(np.float32(image.shape[:2]), 2)
    before = {"image": tf.constant(image), "boxes": tf.constant(boxes * scale), "mask": tf.constant(mask)}
    with forced(INDEX["flip"]["draw"]):
        after = random_flip(before, KEY)
    np.testing.assert_array_equal(after["image"], VECTORS["flip_out_image"])
    np.testing.assert_array_equal(after["mask"], VECTORS["flip_out_mask"])
    np.testing.assert_allclose(after["boxes"], VECTORS["flip_out_boxes"] * scale, atol=4e-6)
    with forced(0.5):  # "mirrored when the draw > 0.5"
        np.testing.assert_array_equal(random_flip(before, KEY)["image"], image)


def test_normalisation():
    """All 256 values of every channel."""
    values = VECTORS["normalize_in"]
    found = resize_and_crop(
        {"image": tf.constant(values)}, None, output_size=values.shape[:2], normalization=NORMALIZATION
    )
    np.testing.assert_allclose(found["image"], VECTORS["normalize_out"], atol=1e-6)


@pytest.fixture(scope="module")
def offsets():
    """(Our offsets over the largest possible ones [n, 2], True where 20 pixels or more were free).

    As many draws as the original took, of its image size, output size and scale; pixels are not looked at.
    """
    setting = INDEX["offset_histogram"]
    height, width = setting["image"]
    strips = [[y, 0, y + 1, width] for y in range(height)] + [[0, x, height, x + 1] for x in range(width)]
    strips = tf.constant(strips, tf.float32)
    example = {
        "image": tf.zeros([height, width, 3], tf.uint8),
        "boxes": strips,
        "classes": tf.range(len(strips)),
    }
    options = dict(
        output_size=setting["output"], jitter_min=setting["scale_min"], jitter_max=setting["scale_max"]
    )

    def one(number):
        found = resize_and_crop(example, tf.stack([20, number]), **options)
        corners = tf.gather(strips, found["classes"])[:, :2] * found["scale"] - found["boxes"][:, :2]
        free = tf.round(found["scale"] * tf.constant([height, width], tf.float32)) - setting["output"]
        return tf.round(tf.reduce_max(corners, axis=0)), free

    calls = setting["calls"] + 200  # enough for as many draws with 20 pixels free
    dataset = tf.data.Dataset.range(calls, output_type=tf.int32).map(one).batch(calls)
    offset, free = next(iter(dataset.as_numpy_iterator()))
    return offset / np.maximum(free, 1), free >= 20


def chi_square(ours, theirs):
    """Of two histograms of different totals; 27.9 is p = 0.001 at 9 degrees of freedom."""
    a, b = np.sqrt(theirs.sum() / ours.sum()), np.sqrt(ours.sum() / theirs.sum())
    return ((a * ours - b * theirs) ** 2 / (ours + theirs)).sum()


def deciles(fractions):
    return np.histogram(fractions, bins=10, range=(0, 1))[0]


def test_offsets_are_drawn_as_the_original_draws_them(offsets):
    fractions, free = offsets
    pooled = fractions[free][: INDEX["offset_histogram"]["draws"]]
    assert len(pooled) == INDEX["offset_histogram"]["draws"]
    assert chi_square(deciles(pooled), VECTORS["offset_histogram_deciles"]) < 27.9
    for axis, name in enumerate("yx"):
        own = fractions[:, axis][free[:, axis]]
        assert chi_square(deciles(own), VECTORS[f"offset_histogram_deciles_{name}"]) < 27.9
    assert pooled.mean() == pytest.approx(float(VECTORS["offset_fraction_mean"]), abs=0.02)
    ours = np.quantile(pooled, np.linspace(0, 1, 21))
    np.testing.assert_allclose(ours, VECTORS["offset_quantiles"], atol=0.044)  # Kolmogorov-Smirnov, p = 0.001


def test_the_axes_have_offsets_of_their_own(offsets):
    fractions, free = offsets
    both = fractions[free.all(axis=1)]
    assert len(both) > 500 and abs(np.corrcoef(both.T)[0, 1]) < 0.13  # 3 deviations of 1 / sqrt(500)
