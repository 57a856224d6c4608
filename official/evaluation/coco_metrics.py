"""COCO's twelve numbers and per-class AP, as pycocotools finds them, and the results file they come from."""

from __future__ import annotations

import os
from typing import Any, Sequence

import numpy as np

from official.data.formats.coco import in_file, to_coco, to_xywh
from official.data.formats.coco_results import read_results, read_truth
from official.data.input_report import DataError, InputReport
from official.data.labels import require_objects
from official.data.source import Source
from official.evaluation.coco_scores import curves
from official.files import write_json

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def results(source: Source, detections: Sequence[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Detections as a COCO results list, with the ids and in the pixels of the file that the source is from.

    Detections of a class that the file lacks have no id there and are left out.

    Args:
      source: gives image and category ids.
      detections: per image "boxes" yxyx pixels, "scores", "classes".

    Raises:
      DataError: a box or score that is no number: pycocotools would match it with everything.
    """
    found, category_ids = [], source.own_category_ids()
    for i, (image_id, objects) in enumerate(zip(source.coco_image_ids(), detections)):
        if not (np.isfinite(objects["boxes"]).all() and np.isfinite(objects["scores"]).all()):
            raise DataError(
                f"{source.name_of(i)}: the model's boxes or scores are not numbers; its weights are spoiled"
            )
        boxes, _ = in_file(source, i, objects["boxes"])
        columns = (to_xywh(boxes), *(np.asarray(objects[name]).tolist() for name in ("scores", "classes")))
        for box, score, label in zip(*columns):
            if category_ids[label] is not None:
                result = {
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "bbox": box,
                    "score": score,
                }
                found.append(result)
    return found


def evaluate_detections(
    source: Source, detections: Sequence[dict[str, np.ndarray]], output_dir: str
) -> dict[str, Any]:
    """Writes `ground_truth.json`, `detections.json` and `metrics.json`, and returns the metrics.

    The ground truth is in pixels of the stored images, not clipped, crowds included.
    """
    os.makedirs(output_dir, exist_ok=True)
    ground_truth, found = to_coco(source), results(source, detections)
    metrics = score(ground_truth, found)
    metrics["per_class"] = {c.name: metrics["per_class"].get(c.name, -1.0) for c in source.categories}
    for name, content in (("ground_truth", ground_truth), ("detections", found), ("metrics", metrics)):
        write_json(os.path.join(output_dir, f"{name}.json"), content, compact=name != "metrics")
    return metrics


def read_files(
    ground_truth: str,
    detections: str,
    iou_type: str = "bbox",
    *,
    max_skipped_fraction: float = 1.0,
    crowd: str = "ignore",
    reports: dict[str, InputReport] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results of an existing COCO results file, cleaned, as `score` takes them; images are
    not needed.

    Args:
      max_skipped_fraction: objects of either file that may be unusable; all of them is always an error.
      crowd: see `official.data.labels.clean_objects`.
      reports: gets what was repaired and lost in the "eval" and the "detections" file.

    Raises:
      DataError: a file that is absent or not COCO, or results of images or classes that are not in it.
    """
    reports = {} if reports is None else reports
    truth, source = read_truth(ground_truth, outlines=iou_type == "segm", crowd=crowd)
    reports["eval"] = source.report
    source.report.check_objects(source.word, max_skipped_fraction)
    require_objects(source.word, source.objects)
    reports["detections"] = InputReport()
    found = read_results(detections, ground_truth, source, iou_type, reports["detections"])
    reports["detections"].check_objects(detections, max_skipped_fraction)
    return truth, found


def score(
    ground_truth: dict[str, Any], found: list[dict[str, Any]], iou_type: str = "bbox"
) -> dict[str, Any]:
    """COCO metrics of a results list.

    Returns:
      The twelve numbers by name, "coco_stats" in pycocotools' order, "per_class" AP by name (-1
      where a class has no object).
    """
    made = curves(ground_truth, found, iou_type)
    stats, names = made.stats(), {c["id"]: str(c.get("name", c["id"])) for c in ground_truth["categories"]}
    per_class = {names[class_id]: ap for class_id, ap in made.per_class().items()}
    return {**dict(zip(STATS, stats)), "coco_stats": stats, "per_class": per_class}
