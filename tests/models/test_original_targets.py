"""Anchors, training targets and box codes against the original's, through the detection task.

Origin, conventions and declared differences: tests/golden/original/README.md.
"""

import numpy as np
import pytest
import tensorflow as tf

from official.data.source import Category
from official.experiment import experiment_from
from official.models.anchors import MAX_LOG_SCALE, decode_boxes, encode_boxes
from official.tasks.detection import DetectionTask
from tests.golden.vectors import load

VECTORS, INDEX = load("targets")


@pytest.fixture(scope="module")
def task():
    """With the default levels, scales and match threshold, which are the original's."""
    categories = tuple(Category(i, str(i)) for i in range(1, 91))
    return DetectionTask(experiment_from({"image_size": INDEX["image_size"]}), categories)


@pytest.fixture(scope="module")
def targets(task):
    """Of all sets as one batch; the original's classes start at 1, ours at 0."""
    count, rows = len(INDEX["sets"]), max(s["boxes"] for s in INDEX["sets"])
    boxes, classes = np.full((count, rows, 4), -1, np.float32), np.full((count, rows), -1, np.int32)
    for s in INDEX["sets"]:
        i, n = s["set"], s["boxes"]
        boxes[i, :n], classes[i, :n] = VECTORS[f"set{i:02d}_boxes"], VECTORS[f"set{i:02d}_classes"] - 1
    found = task.encode({"boxes": tf.constant(boxes), "classes": tf.constant(classes)})
    return {name: value.numpy() for name, value in found.items()}


def test_anchors(task):
    """Level after level, in the original's order of cells, scales and ratios."""
    assert [level.shape[0] for level in task.anchors] == VECTORS["level_counts"].tolist()
    np.testing.assert_allclose(tf.concat(task.anchors, 0), VECTORS["anchors"], rtol=0, atol=4e-5)


def test_class_targets(targets):
    """All 64,449 of them; thresholds of 0.5 / 0.5 leave nothing to ignore."""
    theirs = VECTORS["class_targets"].astype(int)
    assert theirs.min() == -1 and theirs.size == 64_449
    np.testing.assert_array_equal(targets["class_targets"], np.where(theirs > 0, theirs - 1, -1))
    np.testing.assert_array_equal(targets["positives"], [s["positives"] for s in INDEX["sets"]])


def test_box_targets(targets):
    assert np.abs(VECTORS["box_targets"]).max() > 1
    np.testing.assert_allclose(targets["box_targets"], VECTORS["box_targets"], rtol=0, atol=1e-6)


def test_encoding():
    """The labeler's; box_utils' other one, of `test_plus_one`, trains nothing."""
    codes = encode_boxes(tf.constant(VECTORS["encode_boxes"]), tf.constant(VECTORS["codec_anchors"]))
    np.testing.assert_allclose(codes, VECTORS["encode_codes_labeler"], rtol=0, atol=1e-6)


def plus_one(boxes):
    """The original's other convention in ours: the far corner is a pixel that belongs to the box."""
    return boxes + np.float32([0, 0, 1, 1])


def test_plus_one():
    """With the far corners moved both ways our codec is box_utils' codec, the cap of sizes included."""
    anchors = tf.constant(plus_one(VECTORS["codec_anchors"]))
    codes = encode_boxes(tf.constant(plus_one(VECTORS["encode_boxes"])), anchors)
    np.testing.assert_allclose(codes, VECTORS["encode_codes_box_utils"], rtol=0, atol=1e-6)
    boxes = decode_boxes(tf.constant(VECTORS["decode_codes"]), anchors)
    np.testing.assert_allclose(boxes, plus_one(VECTORS["decode_boxes"]), rtol=1e-5, atol=1e-4)
    legacy = decode_boxes(
        tf.constant(VECTORS["decode_codes"]), tf.constant(VECTORS["codec_anchors"]), legacy=True
    )
    np.testing.assert_allclose(legacy, VECTORS["decode_boxes"], rtol=1e-5, atol=1e-4)
    assert (VECTORS["decode_codes"][:6, 2:] > MAX_LOG_SCALE).any(axis=1).all()  # these are capped
