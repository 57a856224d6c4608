"""Looks at a label store: numbers per class and threshold, and a sheet of telling pictures."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from official.data.source import Source
from official.evaluation.drawing import sheet
from official.self_training.label_store import LabelStore
from official.tasks.task import Task

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PER_KIND = 6


def describe(store: LabelStore) -> str:
    """A table: boxes per class at several thresholds, and pictures left without a box."""
    names = [category.name for category in store.categories()]
    counts = np.zeros((len(THRESHOLDS), len(names)), int)
    empty = np.zeros(len(THRESHOLDS), int)
    images = 0
    for row in store.rows():
        images += 1
        for i, threshold in enumerate(THRESHOLDS):
            classes = row["classes"][row["scores"] >= threshold]
            counts[i] += np.bincount(classes, minlength=len(names))
            empty[i] += len(classes) == 0
    width = max(10, *(len(name) + 2 for name in names))
    lines = ["score >=" + "".join(f"{n:>{width}}" for n in [*names, "all", "no box"])]
    for i, threshold in enumerate(THRESHOLDS):
        cells = [*counts[i], counts[i].sum(), empty[i]]
        lines.append(f"{threshold:8.2f}" + "".join(f"{c:>{width}}" for c in cells))
    manifest = store.manifest()
    lines.append(f"{images} images, labelled by {manifest['teacher_sha256'][:12]} from {manifest['data']}")
    return "\n".join(lines)


def draw_sheet(store: LabelStore, source: Source, task: Task, threshold: float) -> np.ndarray:
    """The surest pictures, those nearest to the threshold, and those with the least. uint8 [H, W, 3]."""
    rows = list(store.rows())
    best = np.array([row["scores"].max() if len(row["scores"]) else 0.0 for row in rows])
    place = {str(image_id): i for i, image_id in enumerate(source.ids)}
    kinds = {
        "best": np.argsort(-best, kind="stable"),
        "borderline": np.argsort(np.abs(best - threshold), kind="stable"),
        "emptiest": np.argsort(best, kind="stable"),
    }
    pictures, captions = [], []
    for kind, order in kinds.items():
        for number in order[:PER_KIND]:
            row = rows[number]
            image = source.read_image(tf.constant(place[row["id"]], tf.int64)).numpy()
            shown = row["scores"] >= min(threshold, 0.3)
            objects = {k: row[k][shown] for k in ("boxes", "classes", "scores")}
            pictures.append(task.draw(image, objects))
            captions.append(f"{kind} {best[number]:.2f} {row['id']}")
    return sheet(pictures, columns=PER_KIND, captions=captions)
