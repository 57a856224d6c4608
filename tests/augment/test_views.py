"""SimCLR's views: every part against NumPy or stock TensorFlow, and how often it happens."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf

from augment.views import ViewPolicy, apply_in_order, color_jitter, gaussian_blur, greyscale

IMAGE = np.random.default_rng(0).uniform(size=(12, 14, 3)).astype(np.float32)


def test_blur_against_numpy():
    """Separable, zeros outside, 2 * (k // 2) + 1 taps that add up to one."""
    sigma, radius = 0.8, 2
    taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    padded = np.pad(IMAGE, ((0, 0), (radius, radius), (0, 0)))
    rows = sum(t * padded[:, i : i + 14] for i, t in enumerate(taps))
    padded = np.pad(rows, ((radius, radius), (0, 0), (0, 0)))
    expected = sum(t * padded[i : i + 12] for i, t in enumerate(taps))
    np.testing.assert_allclose(gaussian_blur(tf.constant(IMAGE), tf.constant(sigma), 5), expected, atol=1e-6)
    np.testing.assert_allclose(
        gaussian_blur(tf.constant(IMAGE), tf.constant(sigma), 4), expected, atol=1e-6
    )  # even: one more


def test_greyscale():
    found = greyscale(tf.constant(IMAGE)).numpy()
    np.testing.assert_allclose(found[..., 0], IMAGE @ [0.2989, 0.587, 0.114], atol=1e-4)
    assert (found[..., 0] == found[..., 1]).all() and (found[..., 0] == found[..., 2]).all()


def test_parts_run_in_the_given_order_and_clip():
    parts = (lambda x: x + 0.9, lambda x: x * 0.5, lambda x: x - 0.2)
    start = tf.constant([[[0.4]]])
    # 0.4 + 0.9 -> 1.0 (clipped), * 0.5, - 0.2; and 0.4 - 0.2, * 0.5, + 0.9 -> 1.0
    assert float(apply_in_order(start, tf.constant([0, 1, 2]), parts)) == pytest.approx(0.3)
    assert float(apply_in_order(start, tf.constant([2, 1, 0]), parts)) == pytest.approx(1.0)


def test_jitter_stays_in_range_and_grows_with_strength():
    def distance(strength):
        run = tf.function(lambda key: color_jitter(tf.constant(IMAGE), key, strength))
        found = [run(tf.constant([1, k])).numpy() for k in range(40)]
        assert all(f.min() >= 0 and f.max() <= 1 for f in found)
        return np.mean([np.abs(f - IMAGE).mean() for f in found])

    assert 0.0 < distance(0.1) < distance(0.5) < distance(1.0)
    with pytest.raises(ValueError, match="above 1.25"):
        color_jitter(tf.constant(IMAGE), tf.constant([0, 0]), 1.3)


def test_every_part_of_the_jitter_by_what_the_others_leave_alone():
    """Strength 0.5: brightness, contrast and saturation times 0.6 to 1.4, hue within a tenth of a turn either
    way.

    On one colour contrast does nothing and brightness moves the value alone, saturation the saturation alone,
    hue the hue alone (nothing is clipped); on greys saturation and hue do nothing, and only contrast moves
    the spread over the mean.
    """
    colour, greys = (
        np.full((4, 4, 3), colorsys.hsv_to_rgb(0.5, 0.4, 0.4), np.float32),
        np.full((4, 4, 3), 0.3, np.float32),
    )
    greys[::2] = 0.4
    run = tf.function(lambda key: [color_jitter(tf.constant(image), key, 0.5) for image in (colour, greys)])
    found = [run(tf.constant([2, k])) for k in range(60)]
    hue, saturation, value = np.transpose(
        [colorsys.rgb_to_hsv(*one.numpy()[0, 0].tolist()) for one, _ in found]
    )
    contrast = [np.ptp(two) / np.mean(two) * 3.5 for _, two in found]
    for factor in (saturation / 0.4, value / 0.4, contrast):
        assert 0.6 - 1e-3 < min(factor) < 0.75 and 1.25 < max(factor) < 1.4 + 1e-3
    assert -0.1 - 1e-3 < min(hue - 0.5) < -0.06 and 0.06 < max(hue - 0.5) < 0.1 + 1e-3


PIXELS = tf.constant(np.random.default_rng(1).integers(0, 256, (30, 30, 3)), tf.uint8)


def views(policy, count, batch_key=(0, 0), size=20):
    run = tf.function(lambda key: policy.view(PIXELS, key, tf.constant(batch_key), size))
    return [run(tf.constant([4, k])).numpy() for k in range(count)]


def test_a_fifth_of_the_views_is_grey():
    found = views(ViewPolicy(blur=False), 300)
    grey = sum(np.ptp(v, axis=-1).max() < 1e-5 for v in found)
    assert 32 < grey < 92  # 60 +- 4.5 deviations
    assert all(v.shape == (20, 20, 3) and v.min() >= 0 and v.max() <= 1 for v in found)


def test_half_of_the_views_is_blurred_by_one_sigma_per_batch():
    sharp = views(ViewPolicy(blur=False, strength=0.0), 100)
    one, other = (views(ViewPolicy(strength=0.0), 100, key) for key in ((0, 1), (0, 2)))
    blurred = [(a != b).any() for a, b in zip(sharp, one)]
    assert 28 < sum(blurred) < 72
    assert blurred == [
        (a != b).any() for a, b in zip(sharp, other)
    ]  # the coin is the image's, the sigma the batch's
    changed = [i for i, b in enumerate(blurred) if b]
    assert all((one[i] != other[i]).any() for i in changed)
    own = [views(ViewPolicy(strength=0.0, blur_per_image=True), 100, key) for key in ((0, 1), (0, 2))]
    assert all((a == b).all() for a, b in zip(*own))


def test_where_no_crop_fits_a_view_is_the_whole_image():
    """SimCLR has no fallback to the centre: half the area of 4 x 400 pixels cannot be cut out at an aspect of
    3/4 to 4/3.
    """
    strip = np.tile(np.linspace(0, 255, 400)[None, :, None], (4, 1, 3)).astype(np.uint8)
    policy = ViewPolicy(strength=0.0, blur=False, smallest_area=0.5, legacy_resize=True)
    found = policy.view(tf.constant(strip), tf.constant([1, 2]), tf.constant([0, 0]), 20).numpy()
    whole = np.clip(tf.compat.v1.image.resize_bicubic(strip[None] / 255.0, [20, 20])[0], 0, 1)
    assert np.abs(found - whole).max() < 1e-5 or np.abs(found - whole[:, ::-1]).max() < 1e-5
