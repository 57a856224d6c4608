"""Random and centre crops: where they lie, what is done to their pixels."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from augment.autoaugment import autoaugment
from augment.crops import STYLES, ImagePolicy, centre_crop, centre_frame, random_resized_crop
from augment.geometry import IMAGE_SETTINGS
from augment.randaugment import IMAGE_OPERATIONS, randaugment

GOLDEN = os.path.join(os.path.dirname(__file__), "..", "golden", "crops_original.npz")

# Each pixel says where it is: rows in the first channel, columns in the second.
ROWS, COLUMNS = np.mgrid[0:60, 0:80].astype(np.float32)
PLACES = tf.constant(np.stack([ROWS, COLUMNS, np.full_like(ROWS, 7)], -1))


def frames(count=200, **options):
    """(top, left, height, width) of crops, read off the resized coordinates (bicubic leaves ramps as they
    are).
    """
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


STRIP = tf.constant(np.tile(np.arange(400, dtype=np.float32)[None, :, None], (4, 1, 3)))


@pytest.mark.parametrize("style", STYLES)
def test_where_no_crop_fits(style):
    """A strip of 4 x 400 pixels has no part with an aspect of 3/4..4/3 and half its area: the centre, for
    SimCLR all of it.
    """
    found = random_resized_crop(
        STRIP, tf.constant([0, 0]), 40, area=(0.5, 1.0), style=style, legacy_resize=True
    ).numpy()
    if style == "simclr":
        expected = tf.compat.v1.image.resize_bicubic(STRIP[None], [40, 40])[0]
    else:  # the shorter side of 4 gives a square of int(40 / 46 * 4) or int(40 / 72 * 4) pixels in the middle
        side = {"efficientnet": 3, "noisy_student": 2}[style]
        top, left = (4 - side + 1) // 2, (400 - side + 1) // 2
        expected = tf.compat.v1.image.resize_bicubic(
            STRIP[None, top : top + side, left : left + side], [40, 40]
        )[0]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_simclr_tries_a_hundred_times():
    """On 20 x 60 pixels few aspects allow 0.435 of the area: ten attempts often find none (the originals'
    max_attempts).
    """
    image = tf.constant(np.random.default_rng(3).uniform(0, 255, (20, 60, 3)), tf.float32)
    instead = {"efficientnet": centre_crop(image, 40), "simclr": tf.image.resize(image, [40, 40], "bicubic")}
    missed = {}
    for style, fallback in instead.items():
        found = [
            random_resized_crop(image, tf.constant([8, k]), 40, area=(0.435, 1.0), style=style)
            for k in range(30)
        ]
        missed[style] = sum(np.allclose(f, fallback, atol=1e-3) for f in found)
    assert missed["efficientnet"] > 10 and missed["simclr"] < 5


@pytest.fixture(scope="module")
def original():
    """What the three originals cut out, see tests/golden/README.md."""
    with np.load(GOLDEN, allow_pickle=False) as file:
        return {
            **json.loads(str(file["index"])),
            **{name: file[name] for name in file.files if name != "index"},
        }


@pytest.mark.parametrize("style", STYLES)
def test_centre_frames_are_the_originals(original, style):
    for size, expected in zip(original["sizes"], original[f"frames_{style}"].transpose(1, 0, 2)):
        run = tf.function(lambda shape: tf.concat(centre_frame(shape, size, style), 0))  # noqa: B023
        found = [run(tf.constant([*shape, 3])).numpy() for shape in original["shapes"]]
        np.testing.assert_array_equal(found, expected, err_msg=f"{style} {size}")


@pytest.mark.parametrize("style", STYLES)
def test_centre_crops_are_the_originals(original, style):
    """Black and white noise, so that bicubic interpolation leaves 0..255: SimCLR clips, the others do not."""
    found = centre_crop(
        tf.constant(original["image"]), original["crop_size"], style=style, legacy_resize=True
    ).numpy()
    np.testing.assert_allclose(found[..., 0], original[f"out_{style}"], atol=1e-3)
    assert (found.min() < -50 and found.max() > 300) == (style != "simclr")


def test_centre_crop_by_hand():
    """60 x 80 at 52 px. EfficientNet: int(52 / 59 * 60) = 52, Noisy Student: int(52 / 84 * 60) = 37, SimCLR:
    52.5 -> 52.
    """
    for style, side, top_left in (
        ("efficientnet", 52, [4, 14]),
        ("noisy_student", 37, [12, 22]),
        ("simclr", 52, [4, 14]),
    ):
        corner, sides = centre_frame(tf.constant([60, 80, 3]), 52, style)
        assert sides.numpy().tolist() == [side, side] and corner.numpy().tolist() == top_left
    found = centre_crop(PLACES, 52).numpy()
    np.testing.assert_allclose(found, PLACES.numpy()[4:56, 14:66], atol=1e-4)
    # SimCLR does not crop for inputs of 32 pixels (CIFAR), and no side is less than a pixel.
    assert centre_frame(tf.constant([32, 40, 3]), 32, "simclr")[1].numpy().tolist() == [32, 32]
    assert centre_frame(tf.constant([1, 9, 3]), 224)[1].numpy().tolist() == [1, 1]
    with pytest.raises(ValueError, match="'other' is none of efficientnet"):
        centre_frame(tf.constant([60, 80, 3]), 52, "other")


def sample():
    return tf.constant(np.random.default_rng(0).integers(0, 256, (40, 50, 3)), tf.uint8)


@pytest.mark.parametrize(
    "options", [{}, {"autoaugment": "imagenet"}, {"randaugment_layers": 2}, {"crop": False, "flip": False}]
)
def test_policies_keep_type_and_size_and_repeat(options):
    policy = ImagePolicy(**options)
    found = [policy.augment(sample(), tf.constant([3, k]), 24).numpy() for k in range(6)]
    assert all(f.dtype == np.float32 and f.shape == (24, 24, 3) for f in found)
    again = policy.augment(sample(), tf.constant([3, 0]), 24).numpy()
    assert (found[0] == again).all()
    assert any((found[0] != f).any() for f in found[1:]) == (options.get("crop") is not False)


def resized_crop(key, attempts):
    """The crop of a policy's first key by stock functions of TF1."""
    image = sample()
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image), tf.zeros([1, 0, 4]), tf.random.experimental.stateless_split(key, 3, alg="philox")[0], min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3), area_range=(0.08, 1.0), max_attempts=attempts, use_image_if_no_bounding_boxes=True,
    )  # fmt: skip
    return tf.compat.v1.image.resize_bicubic(tf.slice(image, begin, extent)[None], [24, 24])[0].numpy()


@pytest.mark.parametrize("style", STYLES)
def test_without_operations_nothing_is_rounded(style):
    """Neither EfficientNet nor Noisy Student casts or clips a training crop; SimCLR clips it. Cut to uint8 it
    would be 0.5 darker.
    """
    policy = ImagePolicy(style=style, flip=False, legacy_resize=True)
    found = np.stack([policy.augment(sample(), tf.constant([3, k]), 24) for k in range(8)])
    expected = np.stack(
        [resized_crop(tf.constant([3, k]), 100 if style == "simclr" else 10) for k in range(8)]
    )
    np.testing.assert_allclose(found, np.clip(expected, 0, 255) if style == "simclr" else expected, atol=1e-3)
    assert (expected.min() < 0) and (
        np.clip(found, 0, 255) - np.trunc(np.clip(found, 0, 255))
    ).mean() == pytest.approx(0.47, abs=0.05)


@pytest.mark.parametrize("options", [{"autoaugment": "v0"}, {"randaugment_layers": 2}])
def test_operations_see_whole_numbers(options):
    """Both originals clip and cut to uint8 before AutoAugment or RandAugment, and go on in float after."""
    for k in range(3):
        key = tf.constant([3, k])
        plain = ImagePolicy().augment(sample(), key, 24)
        example = {"image": tf.cast(tf.clip_by_value(plain, 0.0, 255.0), tf.uint8)}
        last = tf.random.experimental.stateless_split(key, 3, alg="philox")[2]
        if "autoaugment" in options:
            expected = autoaugment(example, last, version="v0", settings=IMAGE_SETTINGS)
        else:
            expected = randaugment(
                example, last, layers=2, operations=IMAGE_OPERATIONS, settings=IMAGE_SETTINGS
            )
        np.testing.assert_array_equal(ImagePolicy(**options).augment(sample(), key, 24), expected["image"])


def test_flip_is_even():
    policy = ImagePolicy(crop=False)
    plain = centre_crop(sample(), 24).numpy()
    run = tf.function(lambda key: policy.augment(sample(), key, 24))
    found = [run(tf.constant([9, k])).numpy() for k in range(200)]
    mirrored = sum((f == plain[:, ::-1]).all() for f in found)
    assert mirrored + sum((f == plain).all() for f in found) == 200 and 70 < mirrored < 130
