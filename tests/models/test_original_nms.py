"""Post-processing with its default settings against the original's detections.

Origin, conventions and declared differences: tests/golden/original/README.md.
"""

import numpy as np
import pytest
import tensorflow as tf

from official.models.decoding import DetectionDecoder
from tests.golden.vectors import load

VECTORS, INDEX = load("nms")
LEVELS = [16 * 16 * 9, 8 * 8 * 9, 4 * 4 * 9, 2 * 2 * 9, 9]
SIZE = INDEX["image_size"]
LEGACY = {"plain_decode": 0, "original": SIZE}


def ours(case, **options):
    """Detections of one case; the background channel is dropped, classes start at 1."""
    outputs = {
        "box": tf.constant(VECTORS[f"{case}_box"][None]),
        "classification": tf.constant(VECTORS[f"{case}_class_logits"][None, :, 1:]),
    }
    levels = tf.split(tf.constant(VECTORS["anchors"]), LEVELS)
    found = DetectionDecoder(**options)(outputs, levels, tf.constant([[SIZE, SIZE]], tf.float32))
    count = int(found.pop("count")[0])
    boxes, scores, classes = (found[name][0, :count].numpy() for name in ("boxes", "scores", "classes"))
    return boxes, scores, classes + 1


def theirs(case, variant):
    count = int(VECTORS[f"{case}_{variant}_count"])
    return tuple(VECTORS[f"{case}_{variant}_{name}"][:count] for name in ("boxes", "scores", "classes"))


def assert_equal(found, expected):
    """Boxes to 1e-4 pixels, scores to 1e-6, classes and order exactly."""
    np.testing.assert_array_equal(found[2], expected[2])
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-4)


def test_the_default_settings_are_the_originals():
    decoder = DetectionDecoder()
    ours = decoder.nms_iou_threshold, decoder.score_threshold, decoder.max_detections, decoder.soft_nms_sigma
    assert ours == (INDEX["nms_iou_threshold"], INDEX["score_threshold"], INDEX["max_total_size"], 0.0)


@pytest.mark.parametrize("variant", ["plain_decode", "original"])
@pytest.mark.parametrize("case", ["sparse", "clustered"])
def test_detections(case, variant):
    """By default with our convention of decoding, with --legacy_decoding with the original's."""
    expected = theirs(case, variant)
    assert (
        len(expected[0]) == {r["case"]: r["count"] for r in INDEX["results"] if r["variant"] == variant}[case]
    )
    assert_equal(ours(case, legacy_size=LEGACY[variant]), expected)


@pytest.mark.parametrize("variant", ["plain_decode", "original"])
def test_a_box_without_area_is_dropped(variant):
    """`crowded`: one of the original's 100 detections lies outside the image; the others are ours."""
    boxes, scores, classes = theirs("crowded", variant)
    real = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)
    assert len(boxes) == 100 and (~real).sum() == 1
    found = ours("crowded", legacy_size=LEGACY[variant])
    assert len(found[0]) == 100  # the next one takes its place
    assert_equal(tuple(part[:99] for part in found), (boxes[real], scores[real], classes[real]))
    assert found[1][99] <= scores.min()
