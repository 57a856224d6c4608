"""Operations inside boxes: what they touch, how often, and by hand."""

import numpy as np
import pytest
import tensorflow as tf

from augment import ops, patches
from augment.geometry import Settings
from tests.golden.vectors import forced

INSIDE = [name for name in ops.OPERATIONS if name.endswith("_Only_BBoxes")]
GENERATOR = np.random.default_rng(5)
IMAGE = tf.constant(GENERATOR.integers(0, 255, (60, 80, 3), np.uint8))
BOXES = tf.constant([[5, 10, 25, 40], [30, 30, 59, 80]], tf.float32)


def example(image=IMAGE, boxes=BOXES):
    return {"image": image, "boxes": boxes, "classes": tf.range(tf.shape(boxes)[0])}


@pytest.mark.parametrize("name", INSIDE)
def test_only_the_inside_of_boxes_changes_and_boxes_stay(name):
    """Level 6 and every box taken (3 x 1/3): rows trunc(ymin)..trunc(ymax) inclusive, columns likewise."""
    after = ops.apply(example(), name, level=6.0, key=tf.constant([1, 7]), probability=3.0)
    np.testing.assert_array_equal(after["boxes"], BOXES)
    changed = (after["image"].numpy() != IMAGE.numpy()).any(-1)
    allowed = np.zeros((60, 80), bool)
    allowed[5:26, 10:41] = allowed[30:60, 30:80] = True
    assert changed.any() and not changed[~allowed].any()


def test_flip_by_hand():
    boxes = tf.constant([[1, 2, 3, 6]], tf.float32)
    after = ops.apply(
        example(boxes=boxes), "Flip_Only_BBoxes", level=0.0, key=tf.constant([1, 1]), probability=3.0
    )
    expected = IMAGE.numpy().copy()
    expected[1:4, 2:7] = expected[1:4, 2:7][:, ::-1]
    np.testing.assert_array_equal(after["image"], expected)


def test_one_box_in_three_is_taken():
    """Probability 1 takes each box with 1/3, independently: 600 boxes, mean 200, deviation 11.5."""
    image = tf.zeros([10, 300, 3], tf.uint8)
    boxes = tf.constant([[0, 3 * i, 9, 3 * i + 1] for i in range(100)], tf.float32)
    run = tf.function(
        lambda key: ops.apply(example(image, boxes), "Solarize_Only_BBoxes", level=0.0, key=key)
    )
    taken = [(run(tf.constant([3, k]))["image"].numpy()[0, ::3, 0] == 255).sum() for k in range(6)]
    assert abs(sum(taken) - 200) < 47 and len(set(taken)) > 1


def test_the_mask_moves_with_the_contents():
    mask = tf.constant(GENERATOR.integers(0, 5, (60, 80), np.uint8))
    before = {**example(image=tf.repeat(mask[..., None], 3, axis=2)), "mask": mask}
    after = ops.apply(before, "Rotate_Only_BBoxes", level=8.0, key=tf.constant([4, 4]), probability=3.0)
    same = after["mask"].numpy() == after["image"].numpy()[..., 0]
    outside = (after["mask"].numpy() == 255) & (after["image"].numpy()[..., 0] == 128)
    assert (same | outside).all() and outside.any() and not outside.all()


@pytest.mark.parametrize("name", [*INSIDE, "BBox_Cutout"])
def test_without_boxes_nothing_happens(name):
    for before in (example(boxes=tf.zeros([0, 4])), {"image": IMAGE}):
        after = ops.apply(before, name, level=10.0, key=tf.constant([1, 1]), probability=1.0)
        np.testing.assert_array_equal(after["image"], IMAGE)


def test_cut_out_by_hand_and_at_the_border():
    found = patches.cut_out(IMAGE, 10, 20, 3, 5, 128).numpy()
    assert (found[7:13, 15:25] == 128).all() and (found != IMAGE.numpy()).any(-1).sum() <= 60
    corner = patches.cut_out(IMAGE, 0, 79, 4, 4, 128).numpy()
    assert (corner[:4, 75:] == 128).all()
    np.testing.assert_array_equal(corner[4:], IMAGE.numpy()[4:])
    np.testing.assert_array_equal(patches.cut_out(IMAGE, 5, 5, 0, 0, 128), IMAGE)


def test_cutout_centres_are_uniform():
    """Chi-square of 400 centres over 4 quarters of the image, p = 0.001 at 3 degrees of freedom."""
    image = tf.zeros([40, 40, 3], tf.uint8)
    run = tf.function(lambda key: patches.random_cutout(image, 1, key, 128))
    counts = np.zeros((2, 2))
    for k in range(400):
        rows, columns = np.nonzero(run(tf.constant([6, k])).numpy()[..., 0])
        counts[int(rows.max() >= 20), int(columns.max() >= 20)] += 1
    assert ((counts - 100) ** 2 / 100).sum() < 16.3


def test_bbox_cutout_is_centred_in_the_box():
    """Fraction 0.75 of a 21 x 31 box: half sizes trunc(0.75 * 21 / 2) = 7 and trunc(0.75 * 31 / 2) = 11."""
    boxes = tf.constant([[20, 25, 40, 55]], tf.float32)
    for k in range(20):
        after = patches.bbox_cutout(
            example(tf.zeros([90, 90, 3], tf.uint8), boxes), 0.75, tf.constant([8, k])
        )
        rows, columns = np.nonzero(after["image"].numpy()[..., 0])
        assert rows.max() - rows.min() + 1 == 14 and columns.max() - columns.min() + 1 == 22
        assert 20 <= rows.min() + 7 <= 40 and 25 <= columns.min() + 11 <= 55


def test_bbox_cutout_reaches_the_last_row_and_column():
    """The highest draw puts the centre on row 40, column 55: rows 40 -7 .. +6, columns 55 -11 .. +10."""
    boxes, black = tf.constant([[20, 25, 40, 55]], tf.float32), tf.zeros([90, 90, 3], tf.uint8)
    with forced([0.0, 0.999, 0.999]):
        after = patches.bbox_cutout(example(black, boxes), 0.75, tf.constant([8, 8]))
    rows, columns = np.nonzero(after["image"].numpy()[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (33, 46, 44, 65)


def test_constants_are_settings():
    small = ops.apply(
        {"image": tf.zeros([300, 300, 3], tf.uint8)},
        "Cutout",
        level=10.0,
        key=tf.constant([2, 2]),
        settings=Settings(cutout_const=3.0, fill=9),
    )
    assert set(np.unique(small["image"])) == {0, 9} and (small["image"].numpy() == 9).sum() <= 36 * 3
