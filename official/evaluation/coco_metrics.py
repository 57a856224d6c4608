"""COCO's twelve numbers and per-class AP, by pycocotools, and the results file they come from."""

from __future__ import annotations

import contextlib
import io
import json
import os
from typing import Any, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from official.data.coco import load_coco_json, to_coco, to_xywh
from official.data.source import DataError, Source
from official.files import write_json

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def results(source: Source, detections: Sequence[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Detections as a COCO results list.

    Args:
      source: gives image and category ids.
      detections: per picture "boxes" yxyx pixels, "scores", "classes".
    """
    found = []
    for image_id, objects in zip(source.coco_image_ids(), detections):
        for box, score, label in zip(objects["boxes"], objects["scores"], objects["classes"]):
            found.append(
                {
                    "image_id": image_id,
                    "category_id": source.categories[label].id,
                    "bbox": to_xywh(box),
                    "score": float(score),
                }
            )
    return found


def evaluate_detections(
    source: Source, detections: Sequence[dict[str, np.ndarray]], output_dir: str
) -> dict[str, Any]:
    """Writes `ground_truth.json`, `detections.json` and `metrics.json`, and returns the metrics.

    The ground truth is in pixels of the stored pictures, not clipped, crowds included.
    """
    os.makedirs(output_dir, exist_ok=True)
    ground_truth, found = to_coco(source), results(source, detections)
    metrics = score(ground_truth, found)
    for name, content in (("ground_truth", ground_truth), ("detections", found), ("metrics", metrics)):
        write_json(os.path.join(output_dir, f"{name}.json"), content)
    return metrics


def evaluate_files(ground_truth: str, detections: str, iou_type: str = "bbox") -> dict[str, Any]:
    """Scores an existing COCO results file; pictures are not needed.

    Raises:
      DataError: a file that is absent or not COCO, or results of pictures that are not in it.
    """
    data = load_coco_json(ground_truth)
    try:
        with open(detections, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{detections} is not a COCO results file: {error}") from error
    if not isinstance(found, list):
        raise DataError(f"{detections} is not a COCO results file: it is no list")
    known = {image["id"] for image in data["images"]}
    for number, result in enumerate(found):
        if not isinstance(result, dict) or not {"image_id", "category_id", "score"} <= set(result):
            raise DataError(f"{detections}: result {number} lacks image_id, category_id or score")
        if result["image_id"] not in known:
            raise DataError(f"{detections}: result {number} is of image {result['image_id']}, not in {ground_truth}")
    return score(data, found, iou_type)


def score(ground_truth: dict[str, Any], found: list[dict[str, Any]], iou_type: str = "bbox") -> dict[str, Any]:
    """COCO metrics of a results list.

    Returns:
      The twelve numbers by name, "coco_stats" in pycocotools' order, "per_class" AP by name (-1
      where a class has no object).
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = _evaluator(ground_truth, found, iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    stats = [float(s) for s in evaluator.stats]
    per_class = _per_class(evaluator, ground_truth["categories"])
    return {**dict(zip(STATS, stats)), "coco_stats": stats, "per_class": per_class}


def _evaluator(ground_truth, found, iou_type) -> COCOeval:
    truth = COCO()
    truth.dataset = {"info": {}, **json.loads(json.dumps(ground_truth))}  # pycocotools writes into it
    truth.createIndex()
    found = json.loads(json.dumps(found))
    if not found:  # loadRes reads the first result
        empty = COCO()
        empty.dataset = {**truth.dataset, "annotations": []}
        empty.createIndex()
        return COCOeval(truth, empty, iou_type)
    if iou_type == "segm":
        for result in found:
            result.pop("bbox", None)  # loadRes would otherwise make box-shaped masks
    return COCOeval(truth, truth.loadRes(found), iou_type)


def _per_class(evaluator: COCOeval, categories: list[dict]) -> dict[str, float]:
    names = {category["id"]: str(category.get("name", category["id"])) for category in categories}
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; all areas, 100 detections
    found = {}
    for k, category_id in enumerate(evaluator.params.catIds):
        values = precision[:, :, k]
        values = values[values > -1]
        found[names[category_id]] = float(values.mean()) if values.size else -1.0
    return found
