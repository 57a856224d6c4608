"""Pixel operations against Pillow's golden vectors, by hand, and at their edges."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from augment import color, ops
from augment.geometry import Settings

GOLDEN = json.load(
    open(os.path.join(os.path.dirname(os.path.dirname(__file__)), "golden", "augment_pillow.json"))
)
IMAGE = tf.constant(np.array(GOLDEN["input"], np.uint8))
# Pillow rounds the smoothed image, the grey one and its mean where the original truncates, and
# stretches in float64: one level apart.
TOLERANCE = {"color": 1, "contrast": 1, "sharpness": 1, "autocontrast": 1}
FUNCTIONS = {
    "equalize": color.equalize,
    "autocontrast": color.autocontrast,
    "invert": color.invert,
    "solarize": lambda image, value: color.solarize(image, int(value)),
    "posterize": lambda image, value: color.posterize(image, int(value)),
    "color": color.color,
    "brightness": color.brightness,
    "contrast": lambda image, value: color.contrast(image, value, true_mean=True),
    "sharpness": color.sharpness,
}
CASES = [name for name in GOLDEN["outputs"] if name.split()[0] in FUNCTIONS]


@pytest.mark.parametrize("case", CASES)
def test_as_pillow_does(case):
    name, *values = case.split()
    found = FUNCTIONS[name](IMAGE, *map(float, values)).numpy()
    assert found.dtype == np.uint8
    difference = np.abs(found.astype(int) - np.array(GOLDEN["outputs"][case]))
    assert difference.max() <= TOLERANCE.get(name, 0)


def constant(value, height=4, width=5):
    return tf.fill([height, width, 3], tf.constant(value, tf.uint8))


def test_blend_by_hand():
    """100 + 0.5 (51 - 100) = 75.5 -> 75; 100 + 1.9 (200 - 100) = 290 -> 255; 100 + 1.9 (10 - 100) < 0 ->
    0.
    """
    a = tf.constant([100, 100, 100], tf.uint8)
    assert color.blend(a, tf.constant([51, 51, 51], tf.uint8), 0.5).numpy().tolist() == [75] * 3
    assert color.blend(a, tf.constant([200, 10, 100], tf.uint8), 1.9).numpy().tolist() == [255, 0, 100]


def test_contrast_quirk_by_hand():
    """20 pixels: the original's grey is 20 / 256 -> 0, so factor 0.5 halves; the true mean of a flat image
    keeps it.
    """
    assert (color.contrast(constant(90), 0.5).numpy() == 45).all()
    assert (color.contrast(constant(90), 0.5, true_mean=True).numpy() == 90).all()
    large = tf.fill([256, 300, 3], tf.constant(100, tf.uint8))  # over 65,280 pixels: white
    assert (color.contrast(large, 1.9).numpy() == 0).all()  # 255 + 1.9 (100 - 255) < 0
    assert (color.contrast(large, 0.5).numpy() == 177).all()


def test_the_grey_of_contrast_is_the_number_of_pixels_over_256():
    """255, 256 and 511 pixels: 0, 1 and 1."""
    for height, width, grey in ((15, 17, 0), (16, 16, 1), (7, 73, 1)):
        assert (color.contrast(constant(90, height, width), 0.0).numpy() == grey).all()


def test_equalize_needs_255_pixels_below_the_brightest():
    """255 of 10 and one of 20: the step is 255 // 255 = 1, the table 0, 255. With 254 it is 0: no change."""
    for count, expected in ((255, {0, 255}), (254, {10, 20})):
        row = np.full((1, count + 1, 3), 10, np.uint8)
        row[0, 0] = 20
        assert set(np.unique(color.equalize(tf.constant(row)))) == expected


def test_levels_are_cut_to_whole_arguments():
    """Posterize at 7: 2.8 -> 2 bits. Solarize at 7: 179.2 -> 179."""
    pixels = IMAGE.numpy()
    np.testing.assert_array_equal(at_level("Posterize", 7.0), pixels & 0b11000000)
    np.testing.assert_array_equal(at_level("Solarize", 7.0), np.where(pixels < 179, pixels, 255 - pixels))


def test_solarize_add_by_hand():
    image = tf.constant([[[0, 100, 127], [128, 200, 255]]], tf.uint8)
    assert color.solarize_add(image, 110).numpy().tolist() == [[[110, 210, 237], [128, 200, 255]]]
    assert color.solarize_add(image, 165).numpy().tolist() == [[[165, 255, 255], [128, 200, 255]]]


def test_posterize_to_no_bits_keeps_one_as_tensorflow_shifts_do():
    assert color.posterize(tf.constant([[[127, 128, 255]]], tf.uint8), 0).numpy().tolist() == [
        [[0, 128, 128]]
    ]


def at_level(name, level, **settings):
    example = ops.apply(
        {"image": IMAGE}, name, level=level, key=tf.constant([0, 0]), settings=Settings(**settings)
    )
    return example["image"].numpy()


@pytest.mark.parametrize("name", ["Solarize", "Posterize"])
def test_solarize_and_posterize_weaken_or_strengthen(name):
    def changed(level, way):
        return np.abs(at_level(name, level, solarize_posterize=way).astype(int) - IMAGE.numpy()).sum()

    weakening = [changed(level, "weakening") for level in (2.0, 6.0, 10.0)]
    strengthening = [changed(level, "strengthening") for level in (0.0, 6.0, 10.0)]
    assert weakening == sorted(weakening, reverse=True) and strengthening == sorted(strengthening)
    assert strengthening[0] == 0 < strengthening[2]
    if name == "Solarize":
        assert changed(10.0, "weakening") == changed(15.0, "weakening") == 0  # no threshold above 256


def test_levels_that_wrap_in_uint8():
    """Threshold 256 is 0 and 384 is 128; Posterize shifts by 8 - 10 bits, which keeps one."""
    pixels = IMAGE.numpy()
    np.testing.assert_array_equal(at_level("Solarize", 10.0), 255 - pixels)
    np.testing.assert_array_equal(at_level("Solarize", 15.0), np.where(pixels < 128, pixels, 255 - pixels))
    np.testing.assert_array_equal(at_level("Posterize", 27.0), pixels & 128)
    np.testing.assert_array_equal(at_level("Posterize", 27.0, solarize_posterize="weakening"), pixels)


@pytest.mark.parametrize("name", ["equalize", "autocontrast", "invert"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_tiny_images(name, shape):
    image = tf.constant(np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8))
    assert FUNCTIONS[name](image).shape == image.shape
    assert color.sharpness(image, 1.9).numpy().tolist() == image.numpy().tolist()  # all border


def test_flat_images_stay():
    for function in (color.equalize, color.autocontrast):
        assert (function(constant(90)).numpy() == 90).all()
    assert (color.sharpness(constant(90), 1.9).numpy() == 90).all()  # 13 * 90 / 13 is exactly 90


def test_rectangles_by_hand():
    found = color.fill_rectangle(constant(7), 1, 2, 3, 5, 128).numpy()
    assert (found[1:3, 2:5] == 128).all() and (found == 7).sum() == (20 - 6) * 3
    np.testing.assert_array_equal(color.fill_rectangle(constant(7), 2, 2, 2, 4, 128), constant(7))
