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
    """A table: boxes (or thousands of pixels) per class at several thresholds, and pictures without any."""
    names, kind = [category.name for category in store.categories()], store.kind()
    counts = np.zeros((len(THRESHOLDS), len(names)), int)
    empty = np.zeros(len(THRESHOLDS), int)
    images = 0
    for row in store.rows():
        images += 1
        for i, threshold in enumerate(THRESHOLDS):
            found = kind.at(row, np.full(len(names), threshold))
            classes = found["classes"] if "classes" in found else found["mask"][found["mask"] != 255]
            counts[i] += np.bincount(classes.ravel(), minlength=len(names))
            empty[i] += classes.size == 0
    unit = kind.unit
    width = max(12, *(len(name) + 2 for name in names))
    lines = ["score >=" + "".join(f"{n:>{width}}" for n in [*names, "all", kind.none])]
    for i, threshold in enumerate(THRESHOLDS):
        cells = [*(counts[i] // unit), counts[i].sum() // unit, empty[i]]
        lines.append(f"{threshold:8.2f}" + "".join(f"{c:>{width}}" for c in cells))
    manifest = store.manifest()
    lines.append(f"{kind.noun} of {images} images, labelled by {manifest['teacher_sha256'][:12]} from {manifest['data']}")
    return "\n".join(lines)


def draw_sheet(store: LabelStore, source: Source, task: Task, threshold: float) -> np.ndarray:
    """The surest pictures, those in between, and those with the least. uint8 [H, W, 3]."""
    kind = store.kind()
    best = np.array([kind.sureness(row, threshold) for row in store.rows()])
    middle = kind.borderline(threshold)
    place = {str(image_id): i for i, image_id in enumerate(source.ids)}
    kinds = {
        "best": np.argsort(-best, kind="stable"),
        "borderline": np.argsort(np.abs(best - middle), kind="stable"),
        "emptiest": np.argsort(best, kind="stable"),
    }
    chosen = {int(number) for order in kinds.values() for number in order[:PER_KIND]}
    rows = {i: row for i, row in enumerate(store.rows()) if i in chosen}  # a store may not fit in memory
    pictures, captions = [], []
    shown_from = kind.shown_from(threshold)
    for name, order in kinds.items():
        for number in order[:PER_KIND]:
            row = rows[number]
            image = source.read_image(tf.constant(place[row["id"]], tf.int64)).numpy()
            pictures.append(task.draw(image, kind.at(row, np.full(len(task.categories), shown_from))))
            captions.append(f"{name} {best[number]:.2f} {row['id']}")
    return sheet(pictures, columns=PER_KIND, captions=captions)
