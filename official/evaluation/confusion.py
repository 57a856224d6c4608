"""Which classes a detector takes for which: every object and every sure box, matched without regard to the
class.
"""

from __future__ import annotations

import numpy as np

from official.evaluation.coco_matching import box_iou
from official.evaluation.evaluated import EvaluatedBoxes

IOU = 0.5


def box_confusion(evaluated: EvaluatedBoxes, least_score: float) -> np.ndarray:
    """Counts int64 [classes + 1, classes + 1]: rows are true classes, columns what they are called.

    The last row is of boxes on no object, the last column of objects without a box. By falling score a box
    takes the free object of any class that it overlaps most, from IoU 0.5 on. Crowds, and boxes that
    pycocotools ignores, are left out.

    Args:
      least_score: boxes from it on.
    """
    truths, found = evaluated.matched.truths, evaluated.matched.found
    images, classes = len(evaluated.ids), len(evaluated.class_names)
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    objects = np.flatnonzero(~truths.crowd)
    boxes = np.flatnonzero((found.score >= least_score) & ~evaluated.matched.ignored[:, 0, 0])
    objects, boxes = (
        rows[np.argsort(group[rows] % images, kind="stable")]
        for rows, group in ((objects, truths.group), (boxes, found.group))
    )
    splits = [
        np.searchsorted(group[rows] % images, np.arange(images + 1))
        for rows, group in ((objects, truths.group), (boxes, found.group))
    ]
    for i in range(images):
        own, called = objects[splits[0][i] : splits[0][i + 1]], boxes[splits[1][i] : splits[1][i + 1]]
        called = called[np.argsort(-found.score[called], kind="stable")]
        pairs = _pairs(found.boxes[called], truths.boxes[own])
        is_class, as_class = truths.group[own] // images, found.group[called] // images
        for b, g in enumerate(pairs):
            counts[is_class[g] if g >= 0 else classes, as_class[b]] += 1
        np.add.at(counts[:, classes], np.delete(is_class, pairs[pairs >= 0]), 1)
    return counts


def _pairs(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """int [B], the object of every box in their order, -1 for none; boxes [B, 4] and [G, 4] x, y, width,
    height.
    """
    found = np.full(len(boxes), -1)
    if not len(boxes) or not len(objects):
        return found
    b, g = np.indices((len(boxes), len(objects))).reshape(2, -1)
    iou = box_iou(boxes[b], objects[g], np.zeros(len(b), bool)).reshape(len(boxes), len(objects))
    for k in range(len(boxes)):
        best = int(np.argmax(iou[k]))
        if iou[k, best] >= IOU:
            found[k] = best
            iou[:, best] = -1.0
    return found
