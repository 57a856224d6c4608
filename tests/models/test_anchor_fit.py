"""The best possible recall beside a count over all anchors, and proposals that do what they say."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from augment.jitter import resize_and_crop
from official.models.anchor_fit import AnchorFlags, best_iou, in_network, possible_recall, proposals, taught
from official.models.anchors import encode_targets

FLAGS = AnchorFlags(image_size=128, min_level=3, max_level=5, anchor_scale=4.0, num_scales=3)


def boxes_of(rng, count, low, high, size=(96, 128)):
    """Boxes with sides of low..high pixels inside images of one size, and the sizes."""
    sides = np.exp(rng.uniform(np.log(low), np.log(high), (count, 2)))
    start = rng.uniform(0, 1, (count, 2)) * (np.array(size) - sides)
    return np.concatenate([start, start + sides], axis=1).astype(np.float32), np.tile(
        np.int32(size), (count, 1)
    )


def overlaps(boxes, flags):
    """By the definition, with every anchor, in float64."""
    anchors = np.concatenate([level.numpy() for level in flags.by_level()]).astype(np.float64)
    a, b = anchors[:, None], boxes[None].astype(np.float64)
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(
        -1
    )
    return shared / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared)


@pytest.mark.parametrize(
    "flags",
    [
        FLAGS,
        dataclasses.replace(FLAGS, anchor_scale=1.5, num_scales=2, image_size=96),
        dataclasses.replace(FLAGS, min_level=2, max_level=6),
    ],
)
def test_the_best_overlap_is_that_of_all_anchors(flags):
    """Boxes of every size and place, those at and across the border included."""
    rng = np.random.default_rng(0)
    boxes, _ = boxes_of(rng, 300, 3, 90)
    boxes[::7] += rng.uniform(-30, 30, (len(boxes[::7]), 1)).astype(np.float32)
    np.testing.assert_allclose(best_iou(boxes, flags), overlaps(boxes, flags).max(axis=0), atol=1e-5)


def test_boxes_are_placed_as_the_pipeline_places_them():
    rng = np.random.default_rng(1)
    for size in ((50, 77), (301, 200), (64, 64)):
        boxes, sizes = boxes_of(rng, 5, 4, 40, size)
        boxes[0] += 35  # over the border
        example = {
            "image": tf.zeros([*size, 3], tf.uint8),
            "boxes": tf.constant(boxes),
            "classes": tf.range(5),
        }
        placed = resize_and_crop(example, None, output_size=128)["boxes"].numpy()
        ours = in_network(boxes, sizes, 128)
        np.testing.assert_allclose(ours[(ours[:, 2:] > ours[:, :2]).all(axis=1)], placed, atol=1e-4)


@pytest.mark.parametrize("low, high, expected", [(6, 14, {"anchor_scale", "image_size"}), (28, 60, set())])
def test_following_a_proposal_raises_the_recall_that_is_counted(low, high, expected):
    """Small boxes; both proposals, each followed alone, give the share of boxes that a count over all anchors
    finds.
    """
    boxes, sizes = boxes_of(np.random.default_rng(2), 150, low, high)
    found = proposals(boxes, sizes, FLAGS)

    def counted(flags):
        return (overlaps(in_network(boxes, sizes, flags.image_size), flags).max(axis=0) >= 0.5).mean()

    assert found["recall"] == pytest.approx(counted(FLAGS), abs=1e-4)
    assert set(found) - {"recall"} == expected
    for name in expected:
        followed = counted(dataclasses.replace(FLAGS, **{name: found[name]["value"]}))
        assert followed == pytest.approx(found[name]["recall"], abs=1e-4)
        assert followed > counted(FLAGS) + 0.2
        assert found["image_size"]["value"] % 2**FLAGS.max_level == 0


def test_what_the_matching_teaches_is_what_training_targets_say():
    """Boxes on one spot share its anchors: some get none, as in the targets of a training step."""
    box = np.float32([40, 40, 72, 72])
    boxes = np.stack([box + 0.01 * i for i in range(30)] + [np.float32([0, 0, 20, 20])])
    given = taught(boxes, FLAGS)
    anchors = tf.concat(FLAGS.by_level(), axis=0)
    targets = encode_targets(tf.constant(boxes)[None], tf.range(31)[None], anchors)["class_targets"].numpy()
    assert given.tolist() == np.isin(np.arange(31), targets).tolist()
    assert given[0] and given[30] and 0 < (~given).sum() < 31


def test_no_box_loses_nothing():
    assert possible_recall(np.zeros((0, 4), np.float32), np.zeros((0, 2), np.int32), FLAGS) == 1.0
