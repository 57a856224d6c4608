"""COCO's numbers by pycocotools itself: what the NumPy scorer is held against."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def by_pycocotools(ground_truth: dict, found: list[dict], iou_type: str = "bbox") -> COCOeval:
    """An evaluator that has evaluated, accumulated and summarised; the arguments are left as they are."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth, results = COCO(), COCO()
        truth.dataset = {"info": {}, **json.loads(json.dumps(ground_truth))}  # pycocotools writes into it
        truth.createIndex()
        if found:
            results = truth.loadRes(json.loads(json.dumps(found)))
        else:  # loadRes reads the first result
            results.dataset = {**truth.dataset, "annotations": []}
            results.createIndex()
        evaluator = COCOeval(truth, results, iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def per_class(evaluator: COCOeval) -> dict:
    """AP by class id, -1 where a class has no object."""
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; all areas, 100 detections
    values = {i: precision[:, :, k][precision[:, :, k] > -1] for k, i in enumerate(evaluator.params.catIds)}
    return {i: float(np.mean(v)) if v.size else -1.0 for i, v in values.items()}
