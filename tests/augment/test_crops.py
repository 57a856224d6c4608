"""Random and centre crops: where they lie, what is done to their pixels."""

import numpy as np
import pytest
import tensorflow as tf

from augment.crops import PicturePolicy, centre_crop, centre_frame, random_resized_crop

# Each pixel says where it is: rows in the first channel, columns in the second.
ROWS, COLUMNS = np.mgrid[0:60, 0:80].astype(np.float32)
PLACES = tf.constant(np.stack([ROWS, COLUMNS, np.full_like(ROWS, 7)], -1))


def frames(count=200, **options):
    """(top, left, height, width) of crops, read off the resized coordinates (bicubic leaves ramps as they are)."""
    crop = tf.function(lambda key: random_resized_crop(PLACES, key, 16, **options))
    found = []
    for i in range(count):
        pixels = crop(tf.constant([5, i])).numpy()
        steps = (pixels[9, 8, 0] - pixels[8, 8, 0], pixels[8, 9, 1] - pixels[8, 8, 1])
        height, width = (16 * s for s in steps)
        found.append((pixels[8, 8, 0] - height / 2, pixels[8, 8, 1] - width / 2, height, width))
        assert np.allclose(pixels[..., 2], 7, atol=1e-4)
    return np.array(found)


def test_area_aspect_and_place():
    found = frames()
    area, aspect = found[:, 2] * found[:, 3] / 4800, found[:, 3] / found[:, 2]
    assert area.min() > 0.07 and area.max() <= 1.01 and 0.2 < np.median(area) < 0.8
    assert aspect.min() > 0.72 and aspect.max() < 1.38
    assert found[:, 0].std() > 3 and found[:, 1].std() > 3
    assert (frames(50, area=(0.5, 1.0))[:, 2:].prod(axis=1) > 0.48 * 4800).all()


def test_the_same_key_gives_the_same_crop():
    a, b, c = (random_resized_crop(PLACES, tf.constant([1, k]), 8).numpy() for k in (2, 2, 3))
    assert (a == b).all() and (a != c).any()


def test_where_no_crop_fits_it_is_the_centre():
    """A strip of 4 x 400 pixels has no part with an aspect of 3/4..4/3 and a tenth of its area."""
    strip = tf.constant(np.tile(np.arange(400, dtype=np.float32)[None, :, None], (4, 1, 3)))
    found = random_resized_crop(strip, tf.constant([0, 0]), 4, area=(0.5, 1.0)).numpy()
    assert 196 < found.min() and found.max() < 204


def test_centre_crop_by_hand():
    """60 x 80: a square of 0.875 * 60 = 52.5 -> 52 pixels, rows 4..55, columns 14..65."""
    top_left, sides = centre_frame(tf.constant([60, 80, 3]))
    assert sides.numpy().tolist() == [52, 52] and top_left.numpy().tolist() == [4, 14]
    found = centre_crop(PLACES, 52).numpy()
    np.testing.assert_allclose(found, PLACES.numpy()[4:56, 14:66], atol=1e-4)


def picture():
    return tf.constant(np.random.default_rng(0).integers(0, 256, (40, 50, 3)), tf.uint8)


@pytest.mark.parametrize("options", [{}, {"autoaugment": "imagenet"}, {"randaugment_layers": 2}, {"crop": False, "flip": False}])
def test_policies_keep_type_and_size_and_repeat(options):
    policy = PicturePolicy(**options)
    run = tf.function(lambda key: policy.augment(picture(), key, 24))
    found = [run(tf.constant([3, k])).numpy() for k in range(6)]
    assert all(f.dtype == np.uint8 and f.shape == (24, 24, 3) for f in found)
    again = run(tf.constant([3, 0])).numpy()
    assert (found[0] == again).all()
    assert any((found[0] != f).any() for f in found[1:]) == (options.get("crop") is not False)


def test_flip_is_even():
    policy = PicturePolicy(crop=False)
    plain = centre_crop(picture(), 24).numpy()
    plain = np.clip(plain, 0, 255).astype(np.uint8)
    run = tf.function(lambda key: policy.augment(picture(), key, 24))
    found = [run(tf.constant([9, k])).numpy() for k in range(200)]
    mirrored = sum((f == plain[:, ::-1]).all() for f in found)
    assert mirrored + sum((f == plain).all() for f in found) == 200 and 70 < mirrored < 130
