"""The images of a report: human labels beside what every model found, on the images that tell most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, Protocol, Sequence

import numpy as np
import tensorflow as tf

from official.data.source import Category, Source
from official.evaluation.drawing import Color
from official.evaluation.evaluated import Evaluated
from official.report.html import Page
from official.report.predictions import Predictions

if TYPE_CHECKING:
    from official.report.run_page import Ended

PER_KIND = 4
ORDER = ("teacher", "control", "student", "model")


class Shown(Protocol):
    """What a report asks of a task; see `official.tasks.task.Task`."""

    categories: tuple[Category, ...]
    label_kind: str
    metrics: tuple[str, ...]

    def draw(self, image: Any, objects: dict) -> Any:
        """A uint8 image with labels or predictions drawn on it."""

    def human_labels(self, source: Source, index: int) -> dict:
        """The labels of one image, as `draw` takes them."""

    def legend(self, objects: Sequence[dict] | None = None) -> list[tuple[str, Color]]:
        """Names that images need beside them, in the colours that are drawn."""


def drawing_rows(out: Page, ended: Ended) -> None:
    """Sheets of the best gains, the worst losses and random images; no image twice.

    Args:
      ended: see `official.report.run_page.Ended`.
    """
    if ended.evaluation is None or not ended.evaluated or ended.experiment.runtime.drawn_images == 0:
        return
    models = {
        n: Predictions(ended.evaluated[n], ended.folders[n], ended.evaluation)
        for n in ORDER
        if n in ended.evaluated
    }
    quality = {
        name: of_source(evaluated, models[name], len(ended.evaluation))
        for name, evaluated in ended.evaluated.items()
    }
    found = chosen(quality, among=next(iter(models.values())).index)
    out.heading("The same images, by people and by every model")
    metric = {"boxes": "F1 of the boxes", "masks": "mIoU of the image", "classes": "right or wrong"}[
        ended.task.label_kind
    ]
    sure = [f"{n} ≥ {m.least_score:.2f}" for n, m in models.items() if hasattr(m, "least_score")]
    out.text(
        f"Under each drawing: {metric}."
        + (
            f" Boxes are drawn from the score on where a model's F1 is highest: {', '.join(sure)}."
            if sure
            else ""
        ),
        "note",
    )
    colors = ended.task.legend()
    if colors:
        out.legend(colors)
    for title, images in found.items():
        if len(images):
            out.heading(title, 3)
        for index in images:
            out.drawings(list(_row(ended, models, quality, int(index))))


def of_source(evaluated: Evaluated, predictions: Predictions, images: int) -> np.ndarray:
    """float64 [images], `Evaluated.by_image` in the order of the source; nan for images that were not
    evaluated.
    """
    found = np.full(images, np.nan)
    found[predictions.index] = evaluated.by_image()
    return found


def chosen(
    quality: dict[str, np.ndarray], per_kind: int = PER_KIND, seed: int = 0, among: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Which images are shown under which title; none twice.

    Args:
      quality: float64 [images] by model, nan where nothing can be said.
      among: the images that were evaluated; None: all.
    """
    other = "control" if "control" in quality else "teacher"
    taken: list[int] = []
    if {"student", other} <= set(quality):
        gain = quality["student"] - quality[other]
        kinds = {
            f"Best gains (student against {other})": gain,
            f"Worst losses (student against {other})": -gain,
        }
    else:
        own = next(iter(quality.values()))
        kinds = {"Worst": 1.0 - own, "Best": own}
    found = {}
    for title, worth in kinds.items():
        order = np.argsort(-np.where(np.isfinite(worth), worth, -np.inf), kind="stable")
        places = [int(i) for i in order if worth[i] > 0.0 and int(i) not in taken][:per_kind]
        taken += places
        found[title] = np.array(places, np.int64)
    rest = np.setdiff1d(np.arange(len(next(iter(quality.values())))) if among is None else among, taken)
    number = min(len(rest), per_kind)
    found["Random"] = (
        np.sort(np.random.default_rng(seed).choice(rest, number, replace=False))
        if number
        else np.zeros(0, np.int64)
    )
    return found


def _row(
    ended: Ended, models: dict[str, Predictions], quality: dict[str, np.ndarray], index: int
) -> Iterator[tuple[np.ndarray, str]]:
    source, task = ended.evaluation, ended.task
    assert source is not None
    image = source.read_image(tf.constant(index, tf.int64)).numpy()
    yield task.draw(image, task.human_labels(source, index)), f"{source.short_name(index)}: human"
    for name, model in models.items():
        objects = model.of(index) if index in model.place else None
        if objects is not None:
            value = quality[name][index]
            yield task.draw(image, objects), name + (f" {value:.2f}" if np.isfinite(value) else "")
