"""What an evaluation found, image by image: its score under any weighting of the images, and the score of
each image.

The bootstrap (`official/evaluation/bootstrap.py`) needs the score of thousands of re-drawn sets of images. An
image that is drawn twice has the weight 2, one that is not drawn 0, so nothing is matched again: AP comes
from the matches of pycocotools' rules, mIoU from one row of pixel counts per image, top-1 from hits. With all
weights 1 the scores are the evaluation's own.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, Iterable, Sequence

import numpy as np

from official.evaluation.coco_matching import IOU_THRESHOLDS, RECALLS, outside
from official.evaluation.coco_scores import ALL, Matched, matches
from official.files import whole_file

PER_IMAGE = "per_image.npz"
_AT_ONCE = 100_000  # numbers in one array: what a processor's cache holds


class Evaluated:
    """The protocol.

    Attributes:
      metric: what `scores` gives: "AP", "mIoU" or "top1".
      ids: of the images, as text; class_names: in the order of the scores' columns.
    """

    metric: str
    ids: list[str]
    class_names: list[str]

    def scores(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The score of weighted sets of images.

        Args:
          weights: int [sets, images], how often each image counts.

        Returns:
          float64 [sets] and, by class, float64 [sets, classes]; nan where there is nothing to find.
        """
        raise NotImplementedError

    def by_image(self) -> np.ndarray:
        """float64 [images] in 0..1, how good each image is on its own; nan where nothing can be said."""
        raise NotImplementedError

    def own(self) -> tuple[float, np.ndarray]:
        """The score of the set as it is, and by class float64 [classes]."""
        score, by_class = self.scores(np.ones((1, len(self.ids)), np.int64))
        return float(score[0]), by_class[0]


# --- boxes ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _ClassMatches:
    """The detections of one class by falling score: whose image, bool [D, thresholds] whether right and
    whether counted.
    """

    image: np.ndarray
    hit: np.ndarray
    counted: np.ndarray


class EvaluatedBoxes(Evaluated):
    """COCO's AP, from the matches of a results list."""

    metric = "AP"

    def __init__(
        self, ground_truth: dict[str, Any], found: Sequence[dict[str, Any]], iou_type: str = "bbox"
    ) -> None:
        """Args: as of `official.evaluation.coco_scores.matches`."""
        self.ground_truth, self.found, self.iou_type = ground_truth, found, iou_type
        self.matched = matches(ground_truth, found, iou_type)
        names = {c["id"]: str(c.get("name", c["id"])) for c in ground_truth["categories"]}
        self.ids = [str(i) for i in self.matched.image_ids]
        self.class_names = [names[i] for i in self.matched.class_ids]
        images, classes = len(self.ids), len(self.class_names)
        truths = self.matched.truths
        real = ~(truths.crowd | outside(truths.area)[:, ALL])
        counts = np.bincount(truths.group[real], minlength=images * classes)
        self.objects = counts.reshape(classes, images)  # that are to be found
        self.classes = [_class_matches(self.matched, k, images) for k in range(classes)]

    def scores(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by_class = np.full((len(weights), len(self.classes)), np.nan)
        for k, found in enumerate(self.classes):
            step = max(1, _AT_ONCE // max(1, len(found.image)))
            for low in range(0, len(weights), step):
                part = weights[low : low + step]
                by_class[low : low + step, k] = _average_precision(found, part, part @ self.objects[k])
        return _mean_of_known(by_class), by_class

    def by_image(self) -> np.ndarray:
        """F1 of the boxes at IoU 0.5, at the one score that is best for the whole set."""
        true, wrong, missed = self.counts(self.best_score())
        with np.errstate(invalid="ignore"):
            return 2 * true / (2 * true + wrong + missed)

    def counts(self, least_score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 [images] each: boxes from this score on that are right (IoU 0.5), that are wrong, and objects
        missed.
        """
        found, images = self.matched.found, len(self.ids)
        sure = found.score >= least_score
        hit, counted = (
            self.matched.matched[:, 0, ALL] & ~self.matched.ignored[:, 0, ALL],
            ~self.matched.ignored[:, 0, ALL],
        )
        image = found.group % images
        true = np.bincount(image[sure & hit], minlength=images)
        wrong = np.bincount(image[sure & counted & ~hit], minlength=images)
        return true, wrong, self.objects.sum(axis=0) - true

    def best_score(self) -> float:
        """The score from which on boxes have the highest F1 at IoU 0.5 over the whole set; 1 where nothing is
        found.
        """
        hit, ignored = self.matched.matched[:, 0, ALL], self.matched.ignored[:, 0, ALL]
        order = np.argsort(-self.matched.found.score[~ignored], kind="stable")
        if not len(order):
            return 1.0
        true, boxes = np.cumsum(hit[~ignored][order]), np.arange(1, len(order) + 1)
        f1 = 2 * true / (boxes + self.objects.sum())
        return float(self.matched.found.score[~ignored][order][np.argmax(f1)])


def _class_matches(m: Matched, k: int, images: int) -> _ClassMatches:
    first, last = np.searchsorted(m.found.group, (k * images, (k + 1) * images))
    rows = np.arange(first, last)
    rows = rows[np.argsort(-m.found.score[rows], kind="mergesort")]
    ignored = m.ignored[rows, :, ALL]
    return _ClassMatches(m.found.group[rows] % images, m.matched[rows, :, ALL] & ~ignored, ~ignored)


def _average_precision(found: _ClassMatches, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """AP of a class in weighted sets of images, float64 [sets]; nan where there is no object.

    A curve only rises at detections that are right, so precision and recall are needed there alone.
    Detections of equal score in one image keep their order when that image is drawn twice; of no others does
    the order matter.

    Args:
      weights: int [sets, images]; objects: int [sets], of the class.
    """
    if not objects.any():
        return np.full(len(weights), np.nan)
    weight = weights.astype(np.int32)[:, found.image]  # [sets, D]
    whole = np.cumsum(weight, axis=1, dtype=np.int32) if found.counted.all() else None
    total = np.zeros(len(weights))
    for t in range(len(IOU_THRESHOLDS)):
        right = np.flatnonzero(found.hit[:, t])
        if not len(right):
            continue
        both = whole if whole is not None else np.cumsum(weight * found.counted[:, t], axis=1, dtype=np.int32)
        true = np.cumsum(weight[:, right], axis=1, dtype=np.float64)
        precision = true / (both[:, right] + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = _recalls_reached(true / np.maximum(objects, 1)[:, None])
        total += best[:, 0] * reached[:, 0] + np.einsum("sd,sd->s", best[:, 1:], np.diff(reached, axis=1))
    return np.where(objects > 0, total / (len(IOU_THRESHOLDS) * len(RECALLS)), np.nan)


def _recalls_reached(recall: np.ndarray) -> np.ndarray:
    """How many of COCO's 101 recalls are at most `recall`: `searchsorted(RECALLS, recall, "right")`, without
    the search.
    """
    nearest = np.rint(recall * (len(RECALLS) - 1))
    return nearest + (RECALLS.take(nearest.astype(np.intp)) <= recall)


# --- masks and classes ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class EvaluatedMasks(Evaluated):
    """mIoU at the images' own sizes.

    Attributes:
      hits, true, predicted: int64 [images, classes], pixels that are right, of the class, and called so.
    """

    ids: list[str]
    class_names: list[str]
    hits: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    metric = "mIoU"

    def scores(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hits, true, predicted = (weights @ column for column in (self.hits, self.true, self.predicted))
        union = true + predicted - hits
        iou = hits / np.maximum(union, 1)
        # As `ConfusionMatrix.metrics`: what is only predicted counts 0 in the mean and is nothing by itself.
        return _mean_of_known(np.where(union > 0, iou, np.nan)), np.where(true > 0, iou, np.nan)

    def by_image(self) -> np.ndarray:
        """mIoU of every image alone."""
        union = self.true + self.predicted - self.hits
        return _mean_of_known(np.where(union > 0, self.hits / np.maximum(union, 1), np.nan))


@dataclasses.dataclass(frozen=True)
class EvaluatedClasses(Evaluated):
    """Top-1 accuracy of images whose class is known.

    Attributes:
      labels, predicted: int [images], class indices.
    """

    ids: list[str]
    class_names: list[str]
    labels: np.ndarray
    predicted: np.ndarray
    metric = "top1"

    def scores(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        member = self.labels[:, None] == np.arange(len(self.class_names))
        hit = member & (self.labels == self.predicted)[:, None]
        hits, totals = weights @ hit, weights @ member
        whole = totals.sum(axis=1)
        by_class = np.where(totals > 0, hits / np.maximum(totals, 1), np.nan)
        return np.where(whole > 0, hits.sum(axis=1) / np.maximum(whole, 1), np.nan), by_class

    def by_image(self) -> np.ndarray:
        """1 where the class is right."""
        return (self.labels == self.predicted).astype(np.float64)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not nan; nan where nothing is left."""
    known = np.isfinite(values)
    return np.where(
        known.any(axis=-1),
        np.where(known, values, 0.0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1),
        np.nan,
    )


# --- files ----------------------------------------------------------------------------------------


def write_per_image(
    folder: str, ids: Iterable[str], class_names: Sequence[str], **columns: np.ndarray
) -> None:
    """Keeps what `EvaluatedMasks` or `EvaluatedClasses` are made of beside an evaluation's metrics."""
    os.makedirs(folder, exist_ok=True)
    text = {
        "ids": np.array([str(i) for i in ids], np.str_),
        "class_names": np.array(list(class_names), np.str_),
    }
    with whole_file(os.path.join(folder, PER_IMAGE), flush=False) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **text, **columns)


def read_evaluated(folder: str) -> Evaluated | None:
    """What an evaluation left in its folder; None where there is nothing of single images (contrastive,
    earlier versions).
    """
    truth, found = (os.path.join(folder, f"{name}.json") for name in ("ground_truth", "detections"))
    if os.path.isfile(truth) and os.path.isfile(found):
        return EvaluatedBoxes(_json(truth), _json(found))
    path = os.path.join(folder, PER_IMAGE)
    if not os.path.isfile(path):
        return None
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in file.files}
    ids, names = (columns.pop(name).tolist() for name in ("ids", "class_names"))
    return (
        EvaluatedClasses(ids, names, **columns)
        if "labels" in columns
        else EvaluatedMasks(ids, names, **columns)
    )


def _json(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)
