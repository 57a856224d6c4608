"""COCO's precision and recall over columns of objects and detections, in NumPy; pycocotools' numbers, much
sooner.

Files' dictionaries become columns, `coco_matching` matches them, and the curves are drawn per class. Every
sum, order and tie is that of `pycocotools.cocoeval`, which the tests hold this against.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Sequence

import numpy as np
from pycocotools import mask as mask_api

from official.data.input_report import DataError
from official.evaluation.coco_matching import (
    AREAS,
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    RECALLS,
    Found,
    Truths,
    close_pairs,
    match,
    outside,
)

ALL, SMALL, MEDIUM, LARGE = range(len(AREAS))


@dataclasses.dataclass(frozen=True)
class Curves:
    """What `COCOeval.accumulate` finds; -1 where a class has no object.

    Attributes:
      precision: float64 [thresholds, recalls, classes, areas], of up to 100 detections an image.
      recall: float64 [thresholds, classes, areas, limits of detections].
      class_ids: of the classes, in rising order.
    """

    precision: np.ndarray
    recall: np.ndarray
    class_ids: list

    def stats(self) -> list[float]:
        """The twelve numbers in pycocotools' order."""
        at_50, at_75 = (np.flatnonzero(np.isclose(IOU_THRESHOLDS, t)) for t in (0.5, 0.75))
        precisions = [
            self.precision[..., ALL],
            self.precision[at_50, ..., ALL],
            self.precision[at_75, ..., ALL],
        ]
        precisions += [self.precision[..., area] for area in (SMALL, MEDIUM, LARGE)]
        recalls = [self.recall[:, :, ALL, m] for m in range(len(MAX_DETECTIONS))]
        recalls += [self.recall[:, :, area, -1] for area in (SMALL, MEDIUM, LARGE)]
        return [_mean(values) for values in precisions + recalls]

    def per_class(self) -> dict[Any, float]:
        """AP by class id."""
        return {i: _mean(self.precision[:, :, k, ALL]) for k, i in enumerate(self.class_ids)}


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(np.mean(known)) if known.size else -1.0


@dataclasses.dataclass(frozen=True)
class Matched:
    """Objects and detections of a set of images with their matches.

    Attributes:
      truths, found: see `coco_matching`; a group is class number * images + image number.
      matched, ignored: bool [D, thresholds, areas].
      image_ids, class_ids: in rising order, which their numbers are of.
    """

    truths: Truths
    found: Found
    matched: np.ndarray
    ignored: np.ndarray
    image_ids: list
    class_ids: list


def curves(ground_truth: dict[str, Any], found: Sequence[dict[str, Any]], iou_type: str = "bbox") -> Curves:
    """Precision and recall of a COCO results list; see `matches`."""
    return curves_of(matches(ground_truth, found, iou_type))


def curves_of(m: Matched) -> Curves:
    """Precision and recall of what has been matched."""
    return _curves(m.truths, m.found, m.matched, m.ignored, len(m.image_ids), m.class_ids)


def matches(ground_truth: dict[str, Any], found: Sequence[dict[str, Any]], iou_type: str = "bbox") -> Matched:
    """Which detections of a COCO results list are right; arguments are left as they are.

    Args:
      ground_truth: a COCO dict; "area" and "iscrowd" of every annotation decide, an "ignore" does not (as
        pycocotools).
      found: results with "bbox" or, for `iou_type` "segm", "segmentation".

    Raises:
      DataError: a result of an image that the ground truth lacks.
    """
    image_ids = sorted({image["id"] for image in ground_truth["images"]})
    images = {i: n for n, i in enumerate(image_ids)}
    class_ids = sorted({category["id"] for category in ground_truth["categories"]})
    classes = {i: n for n, i in enumerate(class_ids)}
    unknown = {result["image_id"] for result in found} - set(images)
    if unknown:
        raise DataError(
            f"results of images that the ground truth does not have: {sorted(map(str, unknown))[:5]}"
        )
    objects, groups = _by_group(ground_truth["annotations"], images, classes)
    results, result_groups = _by_group(found, images, classes)
    codes = None
    if iou_type == "segm":
        sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
        codes = [_encoded(a["segmentation"], sizes[a["image_id"]]) for a in objects]
    truths = _truths(objects, groups)
    detections, codes_found = _detections(results, result_groups, masks=iou_type == "segm")
    pairs = (
        close_pairs(truths, detections)
        if codes is None
        else _mask_pairs(truths, codes, detections, codes_found)
    )
    return Matched(truths, detections, *match(truths, detections, pairs), image_ids, class_ids)


def _by_group(records: Sequence[dict], images: dict, classes: dict) -> tuple[list[dict], np.ndarray]:
    """The records of known images and classes, by group and then in their order; and the groups, int64
    [N].
    """
    image = np.fromiter((images.get(r["image_id"], -1) for r in records), np.int64, len(records))
    label = np.fromiter((classes.get(r["category_id"], -1) for r in records), np.int64, len(records))
    groups = np.where((image < 0) | (label < 0), -1, label * len(images) + image)
    order = np.argsort(groups, kind="stable")
    order = order[np.searchsorted(groups[order], 0) :]
    return [records[row] for row in order], groups[order]


def _truths(objects: list[dict], groups: np.ndarray) -> Truths:
    return Truths(
        group=groups,
        boxes=np.array([a["bbox"] for a in objects], np.float64).reshape(-1, 4),
        area=np.array([a["area"] for a in objects], np.float64),
        crowd=np.array([bool(a["iscrowd"]) for a in objects], bool),
        counted=np.array([a["id"] != 0 for a in objects], bool),
    )


def _detections(results: list[dict], groups: np.ndarray, *, masks: bool) -> tuple[Found, list[dict]]:
    """The 100 best of every group, and with `masks` their codes."""
    scores = np.array([r["score"] for r in results], np.float64)
    order = np.lexsort((-scores, groups))  # stable: equal scores keep the order of the file
    ranks = np.arange(len(order)) - np.searchsorted(groups, groups, "left")
    order, ranks = order[ranks < MAX_DETECTIONS[-1]], ranks[ranks < MAX_DETECTIONS[-1]]
    codes = [_encoded(results[row]["segmentation"], None) for row in order] if masks else []
    boxes = np.array([(0,) * 4 if masks else r["bbox"] for r in results], np.float64).reshape(-1, 4)[order]
    area = np.asarray(mask_api.area(codes), np.float64) if masks else boxes[:, 2] * boxes[:, 3]
    return Found(groups[order], boxes, area, scores[order], ranks), codes


def _encoded(segmentation: Any, size: tuple[int, int] | None) -> dict[str, Any]:
    """A run-length code of a polygon, of plain or of packed run lengths."""
    polygons = isinstance(segmentation, list)
    if not polygons and not isinstance(segmentation["counts"], list):
        return segmentation
    assert size is not None  # results come packed
    codes = mask_api.frPyObjects(segmentation, *size)
    return mask_api.merge(codes) if polygons else codes


def _mask_pairs(
    truths: Truths, codes: list[dict], found: Found, codes_found: list[dict]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`close_pairs` of masks."""
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for group in np.intersect1d(truths.group, found.group):
        g0, g1 = np.searchsorted(truths.group, (group, group + 1))
        d0, d1 = np.searchsorted(found.group, (group, group + 1))
        iou = mask_api.iou(codes_found[d0:d1], codes[g0:g1], truths.crowd[g0:g1].astype(int).tolist())
        d, g = np.nonzero(iou >= IOU_THRESHOLDS[0])
        parts.append((d + d0, g + g0, iou[d, g]))
    detections, objects, ious = map(np.concatenate, zip(*parts))
    return detections, objects, ious


def _curves(
    truths: Truths, found: Found, matched: np.ndarray, ignored: np.ndarray, images: int, class_ids: list
) -> Curves:
    shape = (len(IOU_THRESHOLDS), len(class_ids), len(AREAS))
    precision = np.full((shape[0], len(RECALLS), *shape[1:]), -1.0)
    recall = np.full((*shape, len(MAX_DETECTIONS)), -1.0)
    counts = ~(truths.crowd[:, None] | outside(truths.area))
    edges = np.arange(len(class_ids) + 1) * images
    g, d = np.searchsorted(truths.group, edges), np.searchsorted(found.group, edges)
    for k in range(len(class_ids)):
        objects = np.count_nonzero(counts[g[k] : g[k + 1]], axis=0)
        if not objects.any():
            continue
        rows = np.arange(d[k], d[k + 1])
        rows = rows[np.argsort(-found.score[rows], kind="mergesort")]
        hit, counted = matched[rows] & ~ignored[rows], ~ignored[rows]
        for area in np.flatnonzero(objects):
            for m, limit in enumerate(MAX_DETECTIONS):
                recall[:, k, area, m] = hit[found.rank[rows] < limit, :, area].sum(axis=0) / objects[area]
            precision[:, :, k, area] = _precisions(hit[..., area].T, counted[..., area].T, objects[area])
    return Curves(precision, recall, class_ids)


def _precisions(hit: np.ndarray, counted: np.ndarray, objects: int) -> np.ndarray:
    """Precision at the recalls of `RECALLS`, float64 [thresholds, recalls].

    Args:
      hit, counted: bool [thresholds, detections by falling score], true positives and all that are not
        ignored.
    """
    true, both = np.cumsum(hit, axis=1, dtype=np.float64), np.cumsum(counted, axis=1, dtype=np.float64)
    precision = true / (both + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # Of a recall that is never reached.
    precision = np.concatenate([precision, np.zeros((len(hit), 1))], axis=1)
    place = np.stack([np.searchsorted(recall, RECALLS, side="left") for recall in true / objects])
    return np.take_along_axis(precision, place, axis=1)
