"""What a run's pseudo labels are like, beside those of people: for the verdict, and for the report's
histograms.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from official.data.holdout import class_counts
from official.data.source import Source
from official.experiment import Experiment
from official.report.verdict import SATURATED, LabelFacts


@dataclasses.dataclass(frozen=True)
class StoredBoxes:
    """The stored pseudo boxes of all images.

    Attributes:
      images: how many. image, classes: int32 [boxes]; scores: float32 [boxes]; used: bool [boxes], those at
        the thresholds.
      sides: float32 [boxes], square root of a box' share of its image.
    """

    images: int
    image: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    used: np.ndarray
    sides: np.ndarray


def human_sides(source: Source) -> np.ndarray:
    """As `StoredBoxes.sides`, of the labels of people that are no crowds."""
    objects = source.objects
    image = np.repeat(np.arange(len(source)), objects.counts())
    area = np.prod(objects.boxes[:, 2:] - objects.boxes[:, :2], axis=1) / np.prod(
        source.sizes[image].astype(np.float32), axis=1
    )
    return np.sqrt(np.maximum(area, 0.0))[~objects.crowd]


def box_facts(experiment: Experiment, labeled: Source, stored: StoredBoxes) -> LabelFacts:
    """Of boxes."""
    images, most = max(1, stored.images), experiment.decoding.max_detections
    human = class_counts(labeled)
    counts = np.bincount(stored.image[stored.used], minlength=stored.images)
    per_class = np.bincount(stored.classes[stored.used], minlength=len(human))
    human_boxes = float(human.sum() / max(1, len(labeled)))
    wanted = int(round(human_boxes * stored.images))
    ranked = np.sort(stored.scores)[::-1]
    return LabelFacts(
        boxes=float(counts.sum() / images),
        boxes_where_any=float(counts.sum() / max(1, np.count_nonzero(counts))),
        human_boxes=human_boxes,
        full=float((counts >= SATURATED * most).sum() / images),
        max_detections=most,
        matching=float(np.floor(1000 * ranked[wanted - 1]) / 1000) if 0 < wanted <= len(ranked) else None,
        threshold=str(experiment.pseudo_labels.score_threshold),
        empty_classes=_empty(labeled, per_class, human),
        used=float((counts > 0).sum() / images),
    )


def other_facts(experiment: Experiment, labeled: Source, numbers: dict[str, Any]) -> LabelFacts:
    """Of masks and classes, from what a run's summary says of its labels."""
    names = [category.name for category in labeled.categories]
    counts = numbers.get("pixels_per_class", numbers.get("per_class", {}))
    used = (
        numbers["labelled_pixels"]
        if "labelled_pixels" in numbers
        else numbers["labels"] / max(1, numbers["images"])
    )
    per_class = np.array([counts.get(name, 1) for name in names])
    human = class_counts(labeled) if labeled.image_classes is not None else np.ones(len(names), int)
    threshold = str(experiment.pseudo_labels.score_threshold)
    return LabelFacts(threshold=threshold, empty_classes=_empty(labeled, per_class, human), used=float(used))


def _empty(labeled: Source, per_class: np.ndarray, human: np.ndarray) -> tuple[str, ...]:
    return tuple(c.name for c, pseudo, own in zip(labeled.categories, per_class, human) if own and not pseudo)
