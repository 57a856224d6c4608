"""Geometry against Pillow, and the law that boxes follow what is drawn in the mask."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_addons as tfa

from augment import geometry, ops
from augment.geometry import Settings

GOLDEN = json.load(
    open(os.path.join(os.path.dirname(os.path.dirname(__file__)), "golden", "augment_pillow.json"))
)
IMAGE = tf.constant(np.array(GOLDEN["input"], np.uint8))
EXACT = Settings(exact_boxes=True, translate_const=60.0)
ORIGINAL = Settings(translate_const=60.0)
NAMES = ("Rotate_BBox", "ShearX_BBox", "ShearY_BBox", "TranslateX_BBox", "TranslateY_BBox")
KEY = tf.constant([1, 2])


def pixels(case):
    name, value = case.split()
    argument = tf.constant(float(value))
    if name == "rotate":
        return geometry.rotate_pixels(IMAGE, argument, 128)
    kind, axis = name.split("_")
    if kind == "shear":
        return geometry.shear_pixels(IMAGE, argument, 128, axis=axis)
    return geometry.shift_pixels(IMAGE, *((0.0, argument) if axis == "x" else (argument, 0.0)), 128)


@pytest.mark.parametrize(
    "case",
    [
        c
        for c in GOLDEN["outputs"]
        if c.split()[0] in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    ],
)
def test_as_pillow_does(case):
    """Equal but for samples that fall on the border of two pixels: at most 1 in 100."""
    differs = (pixels(case).numpy() != np.array(GOLDEN["outputs"][case])).any(-1)
    assert differs.mean() <= (0.01 if case.startswith(("rotate", "shear")) else 0.0)


@pytest.mark.parametrize("level", [1.0, 0.9, 0.5, 0.1])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_as_tensorflow_addons_does(level, sign):
    """The same pixels, ties included: slopes of 0.3 and 0.15 put a source on a border in every second row.

    Allowed: one pixel in a thousand, for builds of TensorFlow that multiply and add in one rounding.
    """
    image = tf.constant(np.random.default_rng(1).integers(1, 255, (90, 120, 3), np.uint8))
    slope, angle = sign * 0.3 * level, sign * 30.0 * level
    ours = [
        geometry.shear_pixels(image, tf.constant(slope), 0, axis="x"),
        geometry.shear_pixels(image, tf.constant(slope), 0, axis="y"),
        geometry.rotate_pixels(image, tf.constant(angle), 0),
    ]
    theirs = [
        tfa.image.transform(image, [1.0, slope, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]),
        tfa.image.transform(image, [1.0, 0.0, 0.0, slope, 1.0, 0.0, 0.0, 0.0]),
        tfa.image.rotate(image, np.float32(angle) * np.float32(np.pi / 180)),
    ]
    for mine, other in zip(ours, theirs):
        assert (mine.numpy() != other.numpy()).any(-1).mean() < 1e-3


@pytest.mark.parametrize("rows", [0.0, 7.0, -7.0, 11.5, -11.5, 4.3, -4.7, 0.5, -0.5, 300.0, -89.5])
def test_translation_as_tensorflow_addons_does(rows):
    """Whole pixels, halves (rounded away from zero) and beyond the border, in both directions."""
    image = tf.constant(np.random.default_rng(1).integers(1, 255, (90, 120, 3), np.uint8))
    for y, x in ((rows, 3.0), (-2.5, rows)):
        moved = tfa.image.translate(image, [-x, -y]).numpy()
        np.testing.assert_array_equal(geometry.shift_pixels(image, tf.constant(y), tf.constant(x), 0), moved)


def test_quarter_turn_by_hand():
    """Counter-clockwise: the right column becomes the top row."""
    image = tf.constant(np.arange(9, dtype=np.uint8).reshape(3, 3, 1))
    found = geometry.rotate_pixels(image, tf.constant(90.0), 128).numpy()[..., 0]
    assert found.tolist() == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]


def example(height, width, box):
    y1, x1, y2, x2 = box
    mask = np.zeros((height, width), np.uint8)
    mask[y1:y2, x1:x2] = 1
    return {
        "image": tf.zeros([height, width, 3], tf.uint8), "mask": tf.constant(mask),
        "boxes": tf.constant([box], tf.float32), "classes": tf.constant([4]),
    }  # fmt: skip


def test_boxes_by_hand():
    before = example(100, 200, (10, 20, 30, 60))

    def box(function, argument, settings, **where):
        return function(before, tf.constant(argument), settings, **where)["boxes"].numpy().tolist()

    for settings in (ORIGINAL, EXACT):
        assert box(geometry.translate, 15.0, settings, axis="x") == [[10, 5, 30, 45]]
        assert box(geometry.translate, -15.0, settings, axis="y") == [[25, 20, 45, 60]]
        assert box(geometry.translate, 40.0, settings, axis="x") == [[10, 0, 30, 20]]
    # x' = x - 0.3 y: 20 - 9 = 11 to 60 - 3 = 57
    assert box(geometry.shear, 0.3, ORIGINAL, axis="x") == [[10, 11, 30, 57]]
    np.testing.assert_allclose(box(geometry.shear, 0.3, EXACT, axis="x"), [[10, 11.15, 30, 57.15]], rtol=1e-6)
    # A quarter turn about (50, 100): up = 50 - y, right = x - 100 -> x' = 100 - up, y' = 50 - right.
    np.testing.assert_allclose(box(geometry.rotate, 90.0, EXACT), [[90, 60, 100, 80]], atol=1e-4)


def test_a_box_that_leaves_stays_as_a_sliver_or_goes():
    before = example(100, 200, (10, 20, 30, 60))
    gone = geometry.translate(before, tf.constant(90.0), EXACT, axis="x")
    assert gone["boxes"].shape == (0, 4) and gone["classes"].shape == (0,)
    left = geometry.translate(before, tf.constant(90.0), ORIGINAL, axis="x")
    assert left["boxes"].numpy().tolist() == [[10, 0, 30, 10]]  # 5 % of 200
    right = geometry.translate(before, tf.constant(-190.0), ORIGINAL, axis="x")
    assert right["boxes"].numpy().tolist() == [[10, 190, 30, 200]]


def compiled(name, settings):
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([None, None], tf.uint8),
            tf.TensorSpec([None, 4]), tf.TensorSpec([2], tf.int32),
        ]
    )  # fmt: skip
    def run(image, mask, boxes, key):
        before = {
            "image": image,
            "mask": mask,
            "boxes": boxes,
            "classes": tf.zeros(tf.shape(boxes)[:1], tf.int32),
        }
        levels = [tf.random.stateless_uniform([], key, 0, 3, tf.int32), (2.0, 5.0, 10.0)]
        return tf.switch_case(
            levels[0],
            [lambda v=v: ops.apply(before, name, level=v, key=key, settings=settings) for v in levels[1]],
        )

    return run


def drawn_box(mask):
    rows, columns = np.flatnonzero((mask == 1).any(1)), np.flatnonzero((mask == 1).any(0))
    return [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1] if len(rows) else None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings, tolerance", [(EXACT, 1.01), (ORIGINAL, 2.01)], ids=["exact", "original"])
def test_a_drawn_rectangle_stays_under_its_box(name, settings, tolerance):
    """Two hundred random rectangles: the drawn one lies inside the box; where neither is cut by the border
    they agree.

    Within 1 pixel with exact corners; the original cuts corners to whole pixels twice and is within 2.
    """
    run, compared = compiled(name, settings), 0
    for trial in range(200):
        generator = np.random.default_rng(trial)
        height, width = generator.integers(40, 150, 2)
        y1, x1 = generator.integers(0, height - 12), generator.integers(0, width - 12)
        y2, x2 = generator.integers(y1 + 8, height + 1), generator.integers(x1 + 8, width + 1)
        before = example(height, width, (y1, x1, y2, x2))
        after = run(before["image"], before["mask"], before["boxes"], tf.constant([trial, 3]))
        drawn, boxes = drawn_box(after["mask"].numpy()), after["boxes"].numpy()
        assert (
            (boxes >= 0).all()
            and (boxes[:, 2:] > boxes[:, :2]).all()
            and (boxes <= [height, width, height, width]).all()
        )
        if drawn is None:
            continue
        assert len(boxes) == 1
        assert (boxes[0, :2] <= np.add(drawn[:2], tolerance)).all() and (
            boxes[0, 2:] >= np.subtract(drawn[2:], tolerance)
        ).all()
        inside = drawn[0] > 0 and drawn[1] > 0 and drawn[2] < height and drawn[3] < width
        if inside and (boxes[0, :2] > 0).all() and (boxes[0, 2:] < [height, width]).all():
            compared += 1
            np.testing.assert_allclose(boxes[0], drawn, atol=tolerance)
    assert compared > 40


@pytest.mark.parametrize("name", NAMES)
def test_level_zero_changes_nothing(name):
    """But for the original's Rotate, which cuts corners to whole pixels from the centre, here at 5.5."""
    before = {**example(11, 15, (4, 5, 8, 10)), "image": IMAGE}
    for settings, tolerance in ((EXACT, 1e-5), (ORIGINAL, 0.5 if name == "Rotate_BBox" else 0.0)):
        after = ops.apply(before, name, level=0.0, key=KEY, settings=settings)
        np.testing.assert_allclose(after["boxes"], before["boxes"], atol=tolerance)
        for field in ("image", "mask", "classes"):
            np.testing.assert_array_equal(after[field], before[field])


def test_outside_is_grey_in_the_image_and_ignored_in_the_mask():
    before = {**example(11, 15, (4, 5, 8, 10)), "image": tf.zeros([11, 15, 3], tf.uint8)}
    after = geometry.translate(before, tf.constant(5.0), axis="x")
    assert (after["image"].numpy()[:, 10:] == 128).all() and (after["mask"].numpy()[:, 10:] == 255).all()
    assert (after["image"].numpy()[:, :10] == 0).all() and set(np.unique(after["mask"][:, :10])) == {0, 1}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("height, width", [(1, 1), (1, 40), (40, 1), (4000, 10)])
def test_extreme_shapes_without_boxes(name, height, width):
    image = tf.constant(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))
    after = ops.apply(
        {"image": image, "boxes": tf.zeros([0, 4]), "classes": tf.zeros([0], tf.int32)},
        name,
        level=10.0,
        key=KEY,
    )
    assert after["image"].shape == image.shape and after["boxes"].shape == (0, 4)


def test_half_of_the_signs_are_negative():
    before = example(40, 100, (10, 40, 20, 60))
    run = compiled("TranslateX_BBox", Settings(translate_const=10.0))
    left = sum(
        float(run(before["image"], before["mask"], before["boxes"], tf.constant([9, k]))["boxes"][0, 1]) < 40
        for k in range(400)
    )
    assert abs(left - 200) < 40  # four standard deviations


def test_constants_can_scale_with_the_image():
    """250 pixels at a reference of 640 are 25 on an image whose longer side is 64."""
    scaled = Settings(reference_size=640)
    after = ops.apply(
        {"image": tf.ones([40, 64, 3], tf.uint8)}, "TranslateX_BBox", level=10.0, key=KEY, settings=scaled
    )
    assert ((after["image"].numpy() == 128).all(axis=(0, 2))).sum() == 25
    cut = ops.apply(
        {"image": tf.zeros([640, 64, 3], tf.uint8)}, "Cutout", level=1.0, key=KEY, settings=scaled
    )
    assert (cut["image"].numpy() == 128).any(axis=(1, 2)).sum() == 20  # twice 10 at the reference itself
