"""A COCO ground truth and a COCO results file, cleaned for the scorer by the rules that training data goes
through.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from official.data.formats.coco import labels_alone, to_coco
from official.data.formats.coco_json import read_json_file
from official.data.formats.coco_masks import NO_OUTLINE, outline, outline_box
from official.data.input_report import DataError, InputReport, shown
from official.data.labels import box_numbers, identifier, numbers
from official.data.source import Source


def read_truth(path: str, *, outlines: bool = False, crowd: str = "ignore") -> tuple[dict[str, Any], Source]:
    """A ground truth as pycocotools needs it: annotation ids from 1, areas and crowd marks, boxes to the last
    digit.

    Args:
      outlines: for masks; an object without a usable one is ignored inside its box, and counted as lost.
      crowd: see `official.data.labels.clean_objects`.

    Raises:
      DataError: see `official.data.formats.coco_json.load_coco_json`.
    """
    source, data, rows = labels_alone(path, outlines=outlines, crowd=crowd)
    truth = to_coco(source)
    exact = box_numbers([data["annotations"][row].get("bbox") for row in rows], InputReport())
    images = np.repeat(np.arange(len(source)), source.objects.counts())
    for annotation, row, bbox, image in zip(truth["annotations"], rows, exact, images):
        if np.isfinite(bbox).all():
            annotation["bbox"] = bbox.tolist()
        if outlines:
            _add_outline(annotation, data["annotations"][row], source, int(image))
    return truth, source


def _add_outline(annotation: dict[str, Any], record: dict[str, Any], source: Source, image: int) -> None:
    place = (str(source.names[image]), source.ids[image])
    x, y, width, height = annotation["bbox"]
    size = (int(source.sizes[image, 0]), int(source.sizes[image, 1]))
    if min(size) <= 0:
        raise DataError(f"{source.word}: image {place[1]} has no width and height; masks cannot be compared")
    code, repair = outline(record.get("segmentation"), size, np.array([y, x, y + height, x + width]))
    if repair:
        source.report.note(repair, *place)
    if code is None:
        source.report.lose_object(NO_OUTLINE, *place)
        annotation["iscrowd"] = 1
        low, high = np.clip([x, y], 0, size[::-1]), np.clip([x + width, y + height], 0, size[::-1])
        code = mask_api.frPyObjects([[*low, high[0], low[1], *high, low[0], high[1]]], *size)[0]
    annotation["segmentation"] = _text(code)


def _text(code: dict) -> dict[str, Any]:
    counts = code["counts"]
    return {
        "size": [int(v) for v in code["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


def read_results(
    path: str, ground_truth: str, source: Source, iou_type: str, report: InputReport
) -> list[dict[str, Any]]:
    """The usable results of a COCO results file; lost ones are reported.

    Args:
      source: of the ground truth.

    Raises:
      DataError: no results file; a result of an unknown image or class; a result without its fields.
    """
    found = read_json_file(path, "COCO results file")
    if isinstance(found, dict) and isinstance(found.get("annotations"), list):
        found = found["annotations"]  # a whole COCO file of scored boxes, as exported pseudo labels are
    if not isinstance(found, list):
        raise DataError(f"{path} is not a COCO results file: it is no list")
    _refuse_incomplete(found, path, iou_type)
    images = _known(
        found, "image_id", dict(zip(source.ids.tolist(), source.coco_image_ids())), path, ground_truth
    )
    names = {identifier(i): i for i in source.own_category_ids()}
    classes = _known(found, "category_id", names, path, ground_truth)
    scores = numbers([result["score"] for result in found], report)
    report.objects += len(found)
    if iou_type == "segm":
        return _masks(found, images, classes, scores, source, report, path)
    boxes = box_numbers(
        [r["bbox"] if "bbox" in r else outline_box(r.get("segmentation")) for r in found], report
    )
    kept = []
    for number, (image, label, box, score) in enumerate(
        zip(images, classes, boxes.tolist(), scores.tolist())
    ):
        if not all(map(math.isfinite, (*box, score))):
            report.lose_object("result with a box or score that is not a number", path, f"result {number}")
        elif min(box[2:]) < 0:
            report.lose_object("result with negative width or height", path, f"result {number}")
        else:
            kept.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    return kept


def _refuse_incomplete(found: list, path: str, iou_type: str) -> None:
    place = ("segmentation",) if iou_type == "segm" else ("bbox", "segmentation")
    for number, result in enumerate(found):
        if not isinstance(result, dict) or not {"image_id", "category_id", "score"} <= set(result):
            raise DataError(f"{path}: result {number} lacks image_id, category_id or score")
        if not any(name in result for name in place):
            raise DataError(
                f"{path}: result {number} has no {place[0]}, which --iou_type={iou_type} compares"
            )


def _known(
    found: list[dict], field: str, known: dict[str | None, Any], path: str, ground_truth: str
) -> list[Any]:
    """The ids of a field as the ground truth spells them.

    Raises:
      DataError: names those that it lacks.
    """
    ids = [identifier(result[field]) for result in found]
    unknown = {i: n for n, i in reversed(list(enumerate(ids))) if i not in known}
    if unknown:
        what = {"image_id": "image", "category_id": "category"}[field]
        first = min(unknown.values())
        raise DataError(
            f"{path}: results of {what} {shown(found[n][field] for n in sorted(unknown.values()))}, which "
            f"{ground_truth} does not have (it has {shown(known.values())}); the first is result {first}. "
            "Write them with the ids of that file."
        )
    return [known[i] for i in ids]


def _masks(
    found: list[dict],
    images: list[Any],
    classes: list[Any],
    scores: np.ndarray,
    source: Source,
    report: InputReport,
    path: str,
) -> list[dict[str, Any]]:
    sizes = dict(zip(source.coco_image_ids(), source.sizes))
    kept = []
    for number, (result, image, label, score) in enumerate(zip(found, images, classes, scores.tolist())):
        size, segmentation = (int(sizes[image][0]), int(sizes[image][1])), result["segmentation"]
        box = box_numbers([result.get("bbox")], InputReport())[0]
        x, y, width, height = box
        code, repair = outline(segmentation, size, np.array([y, x, y + height, x + width]))
        if repair:
            report.note(repair, path, f"result {number}")
        if code is None or not math.isfinite(score):
            report.lose_object("result with a mask or score that cannot be used", path, f"result {number}")
        else:
            kept.append(
                {"image_id": image, "category_id": label, "segmentation": _text(code), "score": score}
            )
    return kept
