"""Which pseudo labels are used: one threshold, one per class that a person chose, or `auto`.

auto, for boxes: a class's threshold is the score at which the unlabelled images have, on average, as many
pseudo boxes of the class as people drew on the labelled ones, times `--label_density`. A detector that
learned from few images is unsure of what it finds: with the paper's 0.5 its student would be told that most
objects are background. It needs no image that the teacher did not see, and assumes that labelled and
unlabelled images show the same things. The thresholds and their curve (boxes per image at every threshold)
are written to `thresholds.json` of the run.

Idea: label distribution matching, Chen et al., "Label Matching Semi-Supervised Object Detection", CVPR 2022,
section 3.2.
"""

from __future__ import annotations

import math
import os
from typing import Any, Sequence

import numpy as np

from official.data.source import Category, Source
from official.experiment import Experiment, PseudoLabels
from official.files import read_json, write_json
from official.screen import note
from official.self_training.label_kinds import LabelError
from official.self_training.label_store import LabelStore, parse_thresholds

AUTO, FILE = "auto", "thresholds.json"
CURVE = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)
NOTHING = 1.0  # no sigmoid reaches it in a float32 that is not exactly 1


def in_use(
    experiment: Experiment, categories: Sequence[Category]
) -> tuple[float | np.ndarray, dict[str, float]]:
    """(a threshold or float32 [classes], thresholds by class name), for `limits_of` and `LabelStore`.

    Raises:
      LabelError: --score_threshold=auto, and the run has not come to its student yet, or has other classes.
    """
    options, folder = experiment.pseudo_labels, experiment.runtime.model_dir
    return _base(options, folder, categories), parse_thresholds(options.class_thresholds)


def _base(options: PseudoLabels, folder: str, categories: Sequence[Category]) -> float | np.ndarray:
    if not isinstance(options.score_threshold, str):
        return options.score_threshold
    path = os.path.join(folder, FILE)
    if not os.path.isfile(path):
        raise LabelError(
            f"--score_threshold=auto: no {path}; it is written when the student begins. Give a number here"
        )
    classes = read_json(path)["classes"]
    missing = [c.name for c in categories if c.name not in classes]
    if missing:
        raise LabelError(f"{path} has no threshold for {missing}; its classes are {sorted(classes)}")
    return np.array([classes[c.name]["threshold"] for c in categories], np.float32)


def settle(
    experiment: Experiment, labeled: Source, store: LabelStore, *, chief: bool = True
) -> tuple[float | np.ndarray, dict[str, float]]:
    """What `in_use` gives; with --score_threshold=auto the thresholds are chosen, printed and written first.

    Raises:
      LabelError: the labels are not boxes.
    """
    options = experiment.pseudo_labels
    by_class = parse_thresholds(options.class_thresholds)
    if not isinstance(options.score_threshold, str):
        return options.score_threshold, by_class
    if store.kind().name != "boxes":
        raise LabelError(
            f"--score_threshold=auto counts boxes; {store.folder} holds {store.kind().name}: give a number"
        )
    scores = scores_by_class(store, len(labeled.categories))
    found = matched(
        labeled,
        scores,
        store.manifest()["images"],
        options.label_density,
        store.plan()["flags"]["score_floor"],
    )
    if chief:
        write_json(os.path.join(experiment.runtime.model_dir, FILE), found)
        note("\n".join(lines(found)))
    return np.array([found["classes"][c.name]["threshold"] for c in labeled.categories], np.float32), by_class


def scores_by_class(store: LabelStore, classes: int) -> list[np.ndarray]:
    """Float32 scores of every class's stored boxes, highest first."""
    scores, labels = [np.zeros(0, np.float32)], [np.zeros(0, np.int32)]
    for row in store.rows():
        scores.append(row.labels.scores)
        labels.append(row.labels.classes)
    all_scores, all_labels = np.concatenate(scores), np.concatenate(labels)
    return [np.sort(all_scores[all_labels == label])[::-1] for label in range(classes)]


def matched(
    labeled: Source, scores: Sequence[np.ndarray], images: int, density: float, floor: float
) -> dict[str, Any]:
    """What `thresholds.json` holds.

    Args:
      labeled: the human labels; crowds do not count.
      scores: of every class, float32, highest first.
      images: how many images the scores are of.
      density: boxes wanted per human box.
      floor: below it nothing was stored.
    """
    objects = labeled.objects
    human = np.bincount(objects.classes[~objects.crowd], minlength=len(scores)) / max(1, len(labeled))
    classes = {}
    for category, own, per_image in zip(labeled.categories, scores, human):
        wanted = math.ceil(round(per_image * density * images, 6))
        threshold = NOTHING if not wanted else float(own[wanted - 1]) if len(own) >= wanted else floor
        classes[category.name] = {
            "threshold": threshold,
            "human_per_image": round(float(per_image), 4),
            "wanted": wanted,
            "used": int((own >= np.float32(threshold)).sum()),
            "per_image_at": {f"{at:.2f}": round(float((own >= at).sum()) / images, 4) for at in CURVE},
        }
    return {"density": density, "images": images, "labeled_images": len(labeled), "classes": classes}


def lines(found: dict[str, Any]) -> list[str]:
    """The thresholds as text, and which classes have too few boxes."""
    text = [
        "thresholds (auto): " + ", ".join(f"{n} {c['threshold']:.3f}" for n, c in found["classes"].items())
    ]
    short = {n: c for n, c in found["classes"].items() if c["used"] < c["wanted"]}
    for name, row in short.items():
        text.append(
            f"WARNING: {name}: {row['used']} pseudo boxes are stored where people would draw about "
            f"{row['wanted']}; lower --score_floor (and label again), or train the teacher longer"
        )
    return text
