"""What was made faster gives the pixels of the plain way, bit for bit."""

import numpy as np
import pytest
import tensorflow as tf

import augment
from augment import color, geometry, jitter
from official.data.example import NORMALIZATION


def plain_color(image, factor):
    return color.blend(tf.image.rgb_to_grayscale(image), image, factor)  # broadcast over the channels


def plain_equalize(image):
    """A look-up per channel with a histogram of fixed width, as the original's."""
    channels = []
    for k in range(3):
        values = tf.cast(image[..., k], tf.int32)
        counts = tf.histogram_fixed_width(values, [0, 255], nbins=256)
        channels.append(tf.gather(color._equalizing_table(tf.stack([counts] * 3))[0], values))
    return tf.stack(channels, axis=-1)


@pytest.fixture(scope="module")
def images():
    """Noise of several contrasts and sizes, one pixel and a flat image among them."""
    rng = np.random.default_rng(0)
    found = [np.full((9, 30, 3), 77, np.uint8), rng.integers(0, 256, (1, 1, 3), np.uint8)]
    for _ in range(100):
        low, high = np.sort(rng.integers(0, 257, 2))
        found.append(rng.integers(low, max(high, low + 1), (*rng.integers(1, 50, 2), 3), np.uint8))
    return found


def on_any_size(function):
    return tf.function(function, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])


@pytest.mark.parametrize("name, quick, plain", [
    ("color", color.color, plain_color), ("equalize", lambda image, _: color.equalize(image), lambda image, _: plain_equalize(image)),
])  # fmt: skip
def test_pixel_operations(images, name, quick, plain):
    for factor in (0.1, 1.9) if name == "color" else (0.0,):
        quick_one, plain_one = (on_any_size(lambda image, f=f: f(image, factor)) for f in (quick, plain))
        for image in images:
            np.testing.assert_array_equal(quick_one(image), plain_one(image))


@pytest.mark.parametrize("preset", ("s1", "s4"))
@pytest.mark.parametrize("legacy", (False, True))
def test_placed_images(images, preset, legacy, monkeypatch):
    """Two hundred draws of scale, crop and operation: images that become larger, smaller and much smaller."""
    policy = augment.policy(preset)

    def placed(image, key):
        return policy.augment(
            {"image": image}, key, output_size=24, normalization=NORMALIZATION, legacy_resize=legacy
        )["image"]

    signature = [tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int32)]
    quick = tf.function(placed, input_signature=signature)
    found = [quick(image, [1, k]).numpy() for k in range(2) for image in images]
    resize = lambda image, resizing, *, random: tf.raw_ops.ResizeBilinear(images=image[None], **resizing)[0]  # noqa: E731
    monkeypatch.setattr(jitter, "_resized", resize)
    monkeypatch.setattr(color, "color", plain_color)
    monkeypatch.setattr(color, "equalize", plain_equalize)
    plain = tf.function(lambda image, key: placed(image, key), input_signature=signature)
    for number, image in enumerate(2 * images):
        np.testing.assert_array_equal(found[number], plain(image, [1, number // len(images)]))
    assert len({array.tobytes() for array in found}) > 150


def test_a_warp_reads_what_its_positions_say(images):
    """NumPy, pixel by pixel; positions outside read the fill."""
    rng = np.random.default_rng(1)
    signature = [tf.TensorSpec([None, None, 3], tf.uint8), *[tf.TensorSpec([None, None], tf.int32)] * 2]
    warp = tf.function(lambda image, y, x: geometry.warp_pixels(image, y, x, 9), input_signature=signature)
    for image in images[:40]:
        height, width = image.shape[:2]
        y, x = rng.integers(-3, height + 3, (height, width)), rng.integers(-90, width + 90, (height, width))
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        expected = np.where(inside[..., None], image[y.clip(0, height - 1), x.clip(0, width - 1)], 9)
        np.testing.assert_array_equal(warp(image, y, x), expected)
        rows = y[:, :1]
        np.testing.assert_array_equal(warp(image, rows, x), warp(image, np.broadcast_to(rows, x.shape), x))
