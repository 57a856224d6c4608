"""Losses and their gradients against the original's, through the tasks as the trainer calls them.

Origin, conventions and declared differences: tests/golden/original/README.md.
"""

import numpy as np
import pytest
import tensorflow as tf

from losses.segmentation import labels_at, resize_logits
from official.data.source import Category
from official.experiment import experiment_from
from official.tasks.detection import DetectionTask
from official.tasks.segmentation import SegmentationTask
from tests.golden.vectors import load

VECTORS, INDEX = load("losses")
CATEGORIES = tuple(Category(i + 1, str(i)) for i in range(INDEX["classes"]))
DETECTION = pytest.mark.parametrize(
    "case", INDEX["detection"], ids=lambda case: case["kind"].replace(" ", "-")
)
SEGMENTATION = pytest.mark.parametrize("case", INDEX["segmentation"], ids=lambda case: case["grad"])
BOX_WEIGHT = 50.0  # the default; the original's number is from before it is applied


def detection_losses(case, *, channels=slice(1, None), known_boxes=None):
    """(normalised class loss, box loss, gradients of the logits and of the boxes).

    Args:
      channels: which of the original's are classes; without the background by default.
      known_boxes: bool [B, A, 4], coordinates that are given as if they had been predicted exactly.
    """
    options = {"focal_alpha": case["alpha"], "focal_gamma": case["gamma"], "huber_delta": case["huber_delta"]}
    task = DetectionTask(experiment_from(options), CATEGORIES)
    logits, labels, boxes, box_targets, positives = (
        VECTORS[f"set{case['set']}_{name}"]
        for name in ("class_logits", "class_targets", "box_outputs", "box_targets", "positives")
    )
    if known_boxes is not None:
        boxes = np.where(known_boxes, box_targets, boxes)
    first = channels.indices(6)[0]
    labels = labels.astype(np.int32)
    outputs = {"classification": tf.constant(logits[..., channels]), "box": tf.constant(boxes)}
    targets = {
        "class_targets": tf.constant(np.where(labels > 0, labels - first, labels)),
        "box_targets": tf.constant(box_targets),
        "positives": tf.constant(positives),
    }
    normalizer = task.normalizer(task.count(targets))
    assert float(normalizer) == case["normalizer"]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(outputs)
        losses = {name: value / normalizer for name, value in task.loss_sums(outputs, targets).items()}
        losses["box_loss"] /= BOX_WEIGHT
    pairs = (("class_loss", "classification"), ("box_loss", "box"))
    gradients = (tape.gradient(losses[loss], outputs[output]).numpy() for loss, output in pairs)
    return float(losses["class_loss"]), float(losses["box_loss"]), *gradients


@DETECTION
def test_class_loss(case):
    assert detection_losses(case)[0] == pytest.approx(case["class_loss_neutral_background"], rel=1e-6)


@DETECTION
def test_class_loss_with_a_background_channel(case):
    """All six channels as six classes of which no anchor has the first: the original's own number."""
    assert detection_losses(case, channels=slice(0, None))[0] == pytest.approx(case["class_loss"], rel=1e-6)


@DETECTION
def test_box_loss(case):
    """With targets of exactly zero counted; once they are predicted exactly, the original's own number."""
    zero = VECTORS[f"set{case['set']}_box_targets"] == 0
    positive = VECTORS[f"set{case['set']}_class_targets"] > 0
    assert (zero & positive[..., None]).sum() == case["zero_target_coordinates"]
    assert detection_losses(case)[1] == pytest.approx(case["box_loss_if_zero_targets_counted"], rel=1e-6)
    assert detection_losses(case, known_boxes=zero)[1] == pytest.approx(case["box_loss"], rel=1e-6)


def test_gradients_of_detection():
    case, zero = INDEX["detection"][0], VECTORS["set0_box_targets"] == 0
    _, _, logits, boxes = detection_losses(case)
    expected = VECTORS["set0_grad_class_logits_neutral_background"]
    assert not expected[..., 0].any()
    np.testing.assert_allclose(logits, expected[..., 1:], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(boxes[~zero], VECTORS["set0_grad_box_outputs"][~zero], rtol=1e-5, atol=1e-8)
    assert not VECTORS["set0_grad_box_outputs"][zero].any() and boxes[zero].any()  # the original's mask


def segmentation_loss(labels, *, mask_resize, label_smoothing=0.0):
    """(Normalised loss, gradient of the logits), with TF1's resizing."""
    options = {"mask_resize": mask_resize, "label_smoothing": label_smoothing, "legacy_resize": True}
    task = SegmentationTask(
        experiment_from({"task": "segmentation", "image_size": 64, **options}), CATEGORIES
    )
    targets = task.encode({"masks": tf.constant(labels)})
    logits = tf.constant(VECTORS["segmentation_logits"])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = task.loss_sums({"logits": logits}, targets)["class_loss"] / task.normalizer(
            task.count(targets)
        )
    return float(loss), tape.gradient(loss, logits).numpy()


@SEGMENTATION
def test_segmentation_loss(case):
    where = "logits" if case["use_groundtruth_dimension"] else "nearest"
    labels = VECTORS["segmentation_labels"]
    loss, gradient = segmentation_loss(labels, mask_resize=where, label_smoothing=case["label_smoothing"])
    assert loss == pytest.approx(case["loss"], rel=1e-6)
    np.testing.assert_allclose(gradient, VECTORS[case["grad"]], rtol=1e-5, atol=1e-8)


def test_where_logits_and_labels_meet():
    enlarged = resize_logits(tf.constant(VECTORS["segmentation_logits"][:1]), [64, 64], legacy_resize=True)
    np.testing.assert_allclose(enlarged, VECTORS["segmentation_logits_enlarged_first"], atol=1e-6)
    cut = labels_at(tf.constant(VECTORS["segmentation_labels"]), (16, 16), legacy_resize=True)
    np.testing.assert_array_equal(cut, VECTORS["segmentation_labels_cut"])


@pytest.mark.parametrize("where", ["logits", "nearest"])
def test_where_all_pixels_are_ignored(where):
    """The original divides 0 by 0; nothing is learned here."""
    assert np.isnan(float(INDEX["all_ignored"]))
    loss, gradient = segmentation_loss(np.full((2, 64, 64), 255, np.uint8), mask_resize=where)
    assert loss == 0.0 and not gradient.any()
