"""Mean intersection over union from one confusion matrix over the whole data set."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

IGNORE = 255


class ConfusionMatrix:
    """Counts of (true class, predicted class) pixels; ignored pixels are left out.

    Attributes:
      counts: int64 [classes, classes], rows are true classes.
    """

    def __init__(self, classes: int) -> None:
        """Starts from zero."""
        self.counts = np.zeros((classes, classes), np.int64)

    @classmethod
    def of(cls, counts: np.ndarray) -> ConfusionMatrix:
        """A matrix that holds these counts, int [classes, classes]."""
        found = cls(len(counts))
        found.counts += counts
        return found

    def add(self, labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Adds images of one or of several; integer arrays of one shape, `labels` with 255 for ignore.

        Returns:
          Of what was added, by class int64 [classes]: pixels that are right, of the class, and called so.
        """
        labels, predictions = np.asarray(labels).ravel(), np.asarray(predictions).ravel()
        valid = labels != IGNORE
        classes = len(self.counts)
        pairs = labels[valid].astype(np.int64) * classes + predictions[valid]
        added = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        self.counts += added
        return np.diag(added), added.sum(axis=1), added.sum(axis=0)

    def metrics(self, names: Sequence[str]) -> dict[str, Any]:
        """mIoU over classes that occur in labels or predictions, pixel accuracy, IoU by class name.

        A class without a labelled pixel has -1 per class, and counts 0 in the mean if it was predicted.
        Source: tensorflow/tpu models/official/detection/modeling/segmentation_model.py:106-169.
        """
        hits = np.diag(self.counts).astype(np.float64)
        true, predicted = self.counts.sum(axis=1), self.counts.sum(axis=0)
        union = true + predicted - hits
        iou = hits / np.maximum(union, 1)
        seen = union > 0
        return {
            "mIoU": float(iou[seen].mean()) if seen.any() else 0.0,
            "pixel_accuracy": float(hits.sum() / max(1, self.counts.sum())),
            "per_class": {
                name: float(value) if count else -1.0 for name, value, count in zip(names, iou, true)
            },
        }
