"""Mean IoU by hand and bit for bit against a second NumPy implementation."""

import numpy as np
import pytest

from official.evaluation.drawing import VOC_PALETTE, draw_confusion, draw_mask
from official.evaluation.mean_iou import ConfusionMatrix


def test_by_hand():
    """Labels 0 0 1 1, predictions 0 1 0 1: IoU 1/3 each. An ignored pixel counts nowhere."""
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([0, 0, 1, 1, 255]), np.array([0, 1, 0, 1, 2]))
    found = matrix.metrics(["a", "b", "c"])
    assert found["mIoU"] == pytest.approx(1 / 3) and found["pixel_accuracy"] == 0.5
    assert found["per_class"] == {"a": pytest.approx(1 / 3), "b": pytest.approx(1 / 3), "c": -1.0}


def test_rows_are_true_classes():
    """Three pixels of class 0, of which one is found; one of class 1, found; class 2 is predicted once and
    true nowhere.
    """
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 1]))
    assert matrix.counts.tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert matrix.metrics(["a", "b", "c"])["per_class"] == {"a": pytest.approx(1 / 3), "b": 0.5, "c": -1.0}


def test_a_class_that_is_only_predicted_counts_zero():
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([0, 0]), np.array([0, 2]))
    assert matrix.metrics(["a", "b", "c"])["mIoU"] == pytest.approx(0.25)  # (1/2 + 0) / 2, class b never seen


def test_equal_to_the_definition_on_random_maps_in_any_batches():
    generator = np.random.default_rng(0)
    labels = generator.choice([0, 1, 2, 3, 255], (6, 20, 30))
    predictions = generator.integers(0, 4, labels.shape)
    whole, parts = ConfusionMatrix(4), ConfusionMatrix(4)
    whole.add(labels, predictions)
    for a, b in zip(labels, predictions):
        parts.add(a, b)
    np.testing.assert_array_equal(whole.counts, parts.counts)
    valid = labels != 255
    iou = []
    for k in range(4):
        hit = ((labels == k) & (predictions == k)).sum()
        iou.append(hit / ((labels == k) & valid | (predictions == k) & valid).sum())
    found = whole.metrics(list("abcd"))
    assert list(found["per_class"].values()) == iou and found["mIoU"] == np.mean(iou)


def test_nothing_labelled_is_zero_not_nan():
    assert ConfusionMatrix(2).metrics(["a", "b"])["mIoU"] == 0.0


def test_palette_is_vocs():
    """Aeroplane 128 0 0, bicycle 0 128 0, person (15) 192 128 128, ignore 224 224 192."""
    colors = np.array(VOC_PALETTE).reshape(256, 3).tolist()
    assert (
        colors[:3] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
        and colors[15] == [192, 128, 128]
        and colors[255] == [224, 224, 192]
    )


def test_drawings():
    image = np.full((40, 60, 3), 100, np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 20:40], mask[:, 40:] = 1, 255
    drawn = draw_mask(image, mask)
    assert (
        (drawn[20:, :20] == 100).all()
        and (drawn[20:, 20:40] != 100).any()
        and len(np.unique(drawn[:, 40:, 0])) == 2
    )
    assert draw_confusion(np.eye(3, dtype=int) * 5, ["a", "b", "c"]).shape[2] == 3
