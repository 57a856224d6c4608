"""Anchors, matching and coding against published vectors, hand numbers and a plain NumPy matcher."""

import numpy as np
import pytest
import tensorflow as tf

from official.models import anchors as lib


def test_published_vectors():
    """From tensorflow/models official/vision/ops/anchor_test.py (Apache-2.0), image 64 x 64."""
    generator = lib.anchor_generator(5, 5, anchor_scale=2.0, num_scales=1)
    found = lib.anchors_by_level(generator, 64)[0].numpy().reshape(4, 3, 4)[:, 0]  # ratio 1
    expected = [[-16, -16, 48, 48], [-16, 16, 48, 80], [16, -16, 80, 48], [16, 16, 80, 80]]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_order_is_scale_then_ratio_and_ratio_is_width_over_height():
    found = lib.anchors_by_level(lib.anchor_generator(3, 3), 8)[0].numpy()
    sides = found[:, 2:] - found[:, :2]  # height, width
    for k in range(3):
        for j, ratio in enumerate((1.0, 2.0, 0.5)):
            size = 32 * 2 ** (k / 3)
            np.testing.assert_allclose(sides[3 * k + j], [size / ratio**0.5, size * ratio**0.5], rtol=1e-5)
    np.testing.assert_allclose((found[:, :2] + found[:, 2:]) / 2, np.full((9, 2), 4.0), atol=1e-4)


def test_count_at_640():
    levels = lib.anchors_by_level(lib.anchor_generator(3, 7), 640)
    assert sum(level.shape[0] for level in levels) == 76725
    assert levels[0].numpy().min() < 0  # not clipped to the image


def numpy_match(iou, valid, threshold=0.5):
    """One image, one anchor and one box at a time."""
    anchors, boxes = iou.shape
    matched = np.full(anchors, -1)
    for a in range(anchors):
        best = max((b for b in range(boxes) if valid[b]), key=lambda b: (iou[a, b], -b), default=None)
        if best is not None and iou[a, best] >= threshold:
            matched[a] = best
    for b in reversed(range(boxes)):
        if valid[b] and iou[:, b].max() > 0:
            matched[int(np.argmax(iou[:, b]))] = b
    return matched


def test_matches_the_plain_matcher():
    generator = np.random.default_rng(0)
    for trial in range(50):
        iou = np.round(generator.uniform(0, 1, (1, 12, 5)), 1).astype(np.float32)  # ties on purpose
        iou[iou < 0.3] = 0.0
        valid = generator.uniform(size=(1, 5)) < 0.7
        found = lib.match_anchors(tf.constant(iou), tf.constant(valid)).numpy()[0]
        np.testing.assert_array_equal(found, numpy_match(iou[0], valid[0]), err_msg=str(trial))


def test_a_box_without_a_good_anchor_still_gets_its_best_one():
    """The stock matcher leaves it out; its force-match flag corrupts anchor 0."""
    iou = tf.constant([[[0.0, 0.0], [0.3, 0.0], [0.2, 0.0]]])
    found = lib.match_anchors(iou, tf.constant([[True, True]])).numpy()
    np.testing.assert_array_equal(found, [[-1, 0, -1]])  # box 1 overlaps nothing and claims nothing


def test_padding_never_claims_anchor_zero():
    flat = tf.concat(lib.anchors_by_level(lib.anchor_generator(3, 5), 64), 0)
    boxes = tf.fill([1, 4, 4], -1.0)
    targets = lib.encode_targets(boxes, tf.fill([1, 4], -1), flat)
    assert targets["positives"].numpy()[0] == 0
    assert (targets["class_targets"].numpy() == -1).all()
    assert (targets["box_targets"].numpy() == 0).all()


@pytest.mark.parametrize("ignoring", [False, True])
def test_targets_without_padding_are_the_same_bits(ignoring):
    """Padding behind, between and before the boxes of a batch; boxes that are nothing sure last; no box at
    all.
    """
    flat = tf.concat(lib.anchors_by_level(lib.anchor_generator(3, 5), 64), 0)
    draws = np.random.default_rng(0)
    corners = draws.uniform(0, 40, (3, 9, 2))
    boxes = np.concatenate([corners, corners + draws.uniform(4, 24, (3, 9, 2))], axis=-1).astype(np.float32)
    some = np.array(
        [
            [1, 0, 2, -1, -1, -1, -1, -1, -1],
            [-1, 2, -1, 1, 0, -1, -1, -1, -1],
            [1, -1, -1, -1, -1, -2, -1, -1, -1],
        ]
    )
    for classes, used in ((some, 6), (np.full_like(some, -1), 1), (np.where(some < 0, 1, some), 9)):
        classes = tf.constant(classes, tf.int32)
        assert lib.without_padding(tf.constant(boxes), classes)[0].shape == (3, used, 4)
        expected = lib.encode_targets(boxes, classes, flat, ignoring=ignoring)
        found = lib.encode_targets(boxes, classes, flat, ignoring=ignoring, static=False)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_two_boxes_one_anchor_the_first_wins():
    iou = tf.constant([[[0.4, 0.45]]])
    assert lib.match_anchors(iou, tf.constant([[True, True]])).numpy().tolist() == [[0]]


def test_iou_by_hand():
    anchors = tf.constant([[0.0, 0, 10, 10], [5, 5, 5, 5]])
    boxes = tf.constant([[[0.0, 5, 10, 15], [20, 20, 30, 30], [5, 5, 5, 5]]])
    np.testing.assert_allclose(lib.iou_matrix(anchors, boxes)[0], [[1 / 3, 0, 0], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    "anchor, box, code",
    [
        ([0, 0, 32, 32], [4, 8, 36, 56], [0.125, 0.5, 0.0, 0.4054651081081644]),
        (
            [-16, -16, 48, 48],
            [0, 0, 10, 10],
            [-0.171875, -0.171875, -1.8562979903656263, -1.8562979903656263],
        ),
    ],
)
def test_coding_by_hand(anchor, box, code):
    """Closed form of the Faster R-CNN coder without variances."""
    anchor, box = tf.constant([anchor], tf.float32), tf.constant([box], tf.float32)
    np.testing.assert_allclose(lib.encode_boxes(box, anchor)[0], code, atol=1e-6)
    np.testing.assert_allclose(lib.decode_boxes(tf.constant([code], tf.float32), anchor), box, atol=1e-4)


def test_decoding_inverts_encoding_and_caps_the_size():
    generator = np.random.default_rng(0)
    centres, sides = generator.uniform(0, 100, (200, 2)), generator.uniform(4, 60, (200, 2))
    boxes = np.concatenate([centres - sides, centres + sides], axis=1).astype(np.float32)
    anchors = boxes[::-1].copy()
    codes = lib.encode_boxes(tf.constant(boxes), tf.constant(anchors))
    np.testing.assert_allclose(lib.decode_boxes(codes, anchors), boxes, atol=1e-3)
    huge = lib.decode_boxes(tf.constant([[0.0, 0, 50, 50]]), tf.constant([[0.0, 0, 16, 16]])).numpy()
    np.testing.assert_allclose(huge, [[8 - 500, 8 - 500, 8 + 500, 8 + 500]], rtol=1e-4)


def test_legacy_decoding_by_hand():
    """The original's +1: an anchor of rows 0 to 9 is 10 high, and twice that about its centre 5 ends at -5 +
    20 - 1.
    """
    anchors = tf.constant([[0.0, 0.0, 9.0, 19.0]] * 3)
    codes = tf.constant([[0.0, 0.0, 0.0, 0.0], [0.1, -0.05, 0.0, 0.0], [0.0, 0.0, np.log(2.0), 0.0]])
    expected = [[0, 0, 9, 19], [1, -1, 10, 18], [-5, 0, 14, 19]]
    np.testing.assert_allclose(lib.decode_boxes(codes, anchors, legacy=True), expected, atol=1e-5)
