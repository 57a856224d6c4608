"""Detection's losses by hand, every option of them alone, through the task as the trainer calls it.

One level of stride 8 on a 32-pixel input, square anchors of the size of a cell: 4 x 4 cells with three
anchors each (ratios 1, 2 and 1/2), 48 in all. A box that is cell (1, 1) has IoU 1 with that cell's
first anchor; the other two have its area, their overlap is 8 * 8 / sqrt(2) = 45.25, the IoU
45.25 / (128 - 45.25) = 0.547.
"""

import math

import numpy as np
import pytest
import tensorflow as tf

from official.data.source import Category
from official.experiment import experiment_from
from official.tasks.detection import DetectionTask

CATEGORIES = (Category(7, "a"), Category(3, "b"))
ANCHORS, CELL = 48, (1 * 4 + 1) * 3
LN2 = math.log(2.0)


def task_with(**options):
    small = dict(image_size=32, min_level=3, max_level=3, num_scales=1, anchor_scale=1.0)
    return DetectionTask(experiment_from({**small, **options}), CATEGORIES)


def targets_of(task, boxes=((8, 8, 16, 16),), classes=(0,)):
    """Targets of one image, with a row of padding."""
    boxes = np.array([*boxes, [-1] * 4], np.float32)
    return task.encode({"boxes": tf.constant(boxes[None]), "classes": tf.constant([[*classes, -1]])})


def test_three_anchors_are_positive():
    """Cell (1, 1) exactly: code 0; the wide and the high one must shrink and grow by sqrt(2): +-0.3466."""
    task = task_with()
    targets = targets_of(task)
    expected = np.full(ANCHORS, -1)
    expected[CELL : CELL + 3] = 0
    np.testing.assert_array_equal(targets["class_targets"][0], expected)
    codes = np.zeros((ANCHORS, 4))
    codes[CELL + 1] = [0, 0, LN2 / 2, -LN2 / 2]  # ratio 2: twice as wide as high
    codes[CELL + 2] = [0, 0, -LN2 / 2, LN2 / 2]
    np.testing.assert_allclose(targets["box_targets"][0], codes, atol=1e-5)
    assert float(task.count(targets)) == 3


@pytest.mark.parametrize("match_iou, positives", [(0.5, 3), (0.54, 3), (0.55, 1), (1.0, 1)])
def test_match_iou(match_iou, positives):
    """0.547 lies between; a box keeps its best anchor whatever the threshold."""
    task = task_with(match_iou=match_iou)
    assert float(task.count(targets_of(task))) == positives
    off = targets_of(task, boxes=[(9, 8, 17, 16)])  # IoU 7/9 with its own cell
    assert off["class_targets"][0, CELL] == 0


def test_the_count_is_over_the_batch_and_the_normaliser_is_one_more():
    task = task_with()
    boxes = tf.constant([[[8.0, 8, 16, 16]], [[0.0, 0, 8, 8]]])
    targets = task.encode({"boxes": boxes, "classes": tf.constant([[1], [0]])})
    assert float(task.count(targets)) == 6
    for count in (0.0, 3.0, 6.0):
        assert float(task.normalizer(tf.constant(count))) == count + 1


def sums(task, targets, *, logits=0.0, error=(0.0, 0.0, 0.0, 0.0)):
    """Loss sums of logits that are all alike, and of boxes that miss their codes by `error` everywhere."""
    outputs = {
        "classification": tf.fill([1, ANCHORS, 2], float(logits)),
        "box": targets["box_targets"] + tf.constant(error),
    }
    return {name: float(value) for name, value in task.loss_sums(outputs, targets).items()}


def test_both_losses_with_the_defaults():
    """Logits 0: p = 1/2, 3 of 96 are right ones. Boxes: 50 / 4 of 3 anchors, delta 0.1."""
    task = task_with()
    found = sums(task, targets_of(task), error=(0.05, 0.0, -0.3, 0.0))
    assert found["class_loss"] == pytest.approx(LN2 * 0.5**1.5 * (3 * 0.25 + 93 * 0.75), rel=1e-5)
    assert found["box_loss"] == pytest.approx(
        50 / 4 * 3 * (0.5 * 0.05**2 + 0.1 * 0.3 - 0.5 * 0.1**2), rel=1e-4
    )
    assert set(found) == {"class_loss", "box_loss"}


@pytest.mark.parametrize("weight", [0.0, 1.0, 50.0, 80.0])
def test_box_weight(weight):
    task = task_with(box_weight=weight)
    assert sums(task, targets_of(task), error=(0.3, 0.0, 0.0, 0.0))["box_loss"] == pytest.approx(
        weight / 4 * 3 * 0.025, rel=1e-4
    )


@pytest.mark.parametrize("delta, loss", [(0.1, 0.025), (0.2, 0.04), (1.0, 0.045)])
def test_huber_delta(delta, loss):
    """An error of 0.3: 0.1 * 0.3 - 0.005; 0.2 * 0.3 - 0.02; 0.3^2 / 2."""
    task = task_with(huber_delta=delta)
    assert sums(task, targets_of(task), error=(0.0, 0.3, 0.0, 0.0))["box_loss"] == pytest.approx(
        50 / 4 * 3 * loss, rel=1e-4
    )


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_focal_gamma(gamma):
    task = task_with(focal_gamma=gamma)
    expected = LN2 * 0.5**gamma * (3 * 0.25 + 93 * 0.75)
    assert sums(task, targets_of(task))["class_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.25, 0.6])
def test_focal_alpha(alpha):
    """Logit ln 3: p = 3/4. Right ones cost ln(4/3) * 0.25^1.5, the others ln 4 * 0.75^1.5."""
    task = task_with(focal_alpha=alpha)
    right, wrong = math.log(4 / 3) * 0.25**1.5, math.log(4) * 0.75**1.5
    expected = alpha * 3 * right + (1 - alpha) * 93 * wrong
    assert sums(task, targets_of(task), logits=math.log(3))["class_loss"] == pytest.approx(expected, rel=1e-5)


def test_only_positive_anchors_have_a_box_loss_and_every_class_a_loss_of_its_own():
    """Without a box nothing pulls at boxes; a wrong class is a wrong one and a missed one."""
    task = task_with()
    nothing = targets_of(task, [], [])
    assert sums(task, nothing, error=(9.0, 9.0, 9.0, 9.0))["box_loss"] == 0.0
    assert float(task.count(nothing)) == 0
    targets = targets_of(task, classes=(1,))
    logits = np.full((1, ANCHORS, 2), -20.0, np.float32)
    logits[0, CELL : CELL + 3, 1] = 20.0
    outputs = {"classification": tf.constant(logits), "box": targets["box_targets"]}
    right = task.loss_sums(outputs, targets)
    assert float(right["class_loss"]) < 1e-6 and float(right["box_loss"]) == 0.0
    outputs["classification"] = tf.constant(logits[..., ::-1].copy())
    assert float(task.loss_sums(outputs, targets)["class_loss"]) == pytest.approx(
        3 * 20 * (0.75 + 0.25), rel=1e-4
    )


def test_decoding_options_reach_the_decoder_and_the_anchors():
    """None of them keeps its default; anchors have the sides and counts that the options say."""
    options = dict(nms_iou=0.3, soft_nms_sigma=0.2, max_detections=17, pre_nms_top_k=5)
    decoder = task_with(**options).decoder(0.4)
    found = (
        decoder.nms_iou_threshold,
        decoder.soft_nms_sigma,
        decoder.max_detections,
        decoder.top_k,
        decoder.score_threshold,
    )
    assert found == (0.3, 0.2, 17, 5, 0.4)
    task = task_with(min_level=2, max_level=4, num_scales=2, anchor_scale=3.0)
    assert [level.shape[0] for level in task.anchors] == [8 * 8 * 6, 4 * 4 * 6, 2 * 2 * 6]
    first = task.anchors[0][0].numpy()
    np.testing.assert_allclose(first[2:] - first[:2], [12, 12], rtol=1e-6)
