"""Looks at a label store: numbers per class and threshold, and a sheet of telling images."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from official.data.source import Source
from official.evaluation.drawing import sheet
from official.self_training.label_store import LabelStore
from official.tasks.task import Task
from official.training.summaries import Summaries

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PER_KIND = 6


def describe(store: LabelStore, limits: np.ndarray) -> str:
    """A table: boxes (or thousands of pixels) per class at several thresholds, and images without any.

    Args:
      limits: float32 [classes], the thresholds in use; the last row is theirs.
    """
    names, kind = [category.name for category in store.categories()], store.kind()
    levels = [np.full(len(names), threshold, np.float32) for threshold in THRESHOLDS] + [limits]
    counts = np.zeros((len(levels), len(names)), int)
    empty = np.zeros(len(levels), int)
    images = 0
    for row in store.rows():
        images += 1
        for i, level in enumerate(levels):
            classes = kind.classes_at(row.labels, level)
            counts[i] += np.bincount(classes, minlength=len(names))
            empty[i] += classes.size == 0
    unit = kind.unit
    width = max(12, *(len(name) + 2 for name in names))
    lines = ["score >=" + "".join(f"{n:>{width}}" for n in [*names, "all", kind.none])]
    for i, shown in enumerate([f"{threshold:.2f}" for threshold in THRESHOLDS] + ["in use"]):
        cells = [*(counts[i] // unit), counts[i].sum() // unit, empty[i]]
        lines.append(f"{shown:>8}" + "".join(f"{c:>{width}}" for c in cells))
    manifest = store.manifest()
    lines.append(
        f"{kind.noun} of {images} images, labelled by {manifest['teacher_sha256'][:12]} from "
        f"{manifest['data']}"
    )
    return "\n".join(lines)


def draw_sheet(
    store: LabelStore, source: Source, task: Task, threshold: float, limits: np.ndarray
) -> np.ndarray:
    """The surest images, those in between, and those with the least. uint8 [H, W, 3].

    Args:
      threshold: of classes without one of their own, which ranks the images; limits: float32 [classes], what
        is drawn.
    """
    kind = store.kind()
    best = np.array([kind.confidence(row.labels, threshold) for row in store.rows()])
    middle = kind.borderline(threshold)
    place = {str(image_id): i for i, image_id in enumerate(source.ids)}
    kinds = {
        "best": np.argsort(-best, kind="stable"),
        "borderline": np.argsort(np.abs(best - middle), kind="stable"),
        "emptiest": np.argsort(best, kind="stable"),
    }
    chosen: dict[str, list[int]] = {name: [] for name in kinds}
    for name, order in kinds.items():  # no image is on the sheet twice
        there = {number for numbers in chosen.values() for number in numbers}
        chosen[name] = [int(number) for number in order if int(number) not in there][:PER_KIND]
    wanted = {number for numbers in chosen.values() for number in numbers}
    rows = {i: row for i, row in enumerate(store.rows()) if i in wanted}  # a store may not fit in memory
    drawings, captions, shown_from = [], [], kind.shown_from(limits)
    for name, numbers in chosen.items():
        for number in numbers:
            row = rows[number]
            index = place[row.id]
            image = source.read_image(tf.constant(index, tf.int64)).numpy()
            drawings.append(task.draw(image, kind.at(row.labels, shown_from)))
            captions.append(f"{name} {best[number]:.2f} {source.short_name(index)}")
    return sheet(drawings, columns=PER_KIND, captions=captions, legend=task.legend())


def show_labels(summaries: Summaries, task: Task, pseudo: Source, store: LabelStore) -> None:
    """Pseudo labels in TensorBoard: scores of those in use and of all that are stored, and some drawn."""
    summaries.histogram("pseudo_labels/used_scores", store.kind().used_scores(pseudo), 0)
    histogram = store.manifest()["score_histogram"]  # of every stored score, by bins of equal width
    centres = (np.arange(len(histogram)) + 0.5) / len(histogram)
    summaries.histogram("pseudo_labels/stored_scores", np.repeat(centres, np.minimum(histogram, 10_000)), 0)
    drawings = []
    for i in range(min(task.experiment.runtime.drawn_images, len(pseudo))):
        image = pseudo.read_image(tf.constant(i, tf.int64)).numpy()
        drawings.append(task.draw_with_legend(image, _labels_of(task, pseudo, i)))
    summaries.drawings("pseudo_labels", drawings, 0)
    summaries.flush()


def _labels_of(task: Task, pseudo: Source, index: int) -> dict[str, Any]:
    if pseudo.annotations is not None:
        return pseudo.annotations.of(index)
    if pseudo.image_probabilities is not None:
        return {"class": pseudo.image_labels[index], "score": pseudo.image_probabilities[index].max()}
    return task.human_labels(pseudo, index)
