"""How sure a score, or the difference of two, is: the bootstrap over the evaluation images.

The images are drawn again, as many as there are and with replacement, a thousand times; a score's interval is
as wide as 95 % of the thousand scores are spread. It lies around the score of the set as it is: AP of drawn
sets is higher by itself, because an image that is there twice is found twice with the same score. Two models
are evaluated on the same draws, so an image that is hard for both moves neither. All this covers the choice
of the images, not what another seed of the training would change.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 (percentiles) and 16.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Mapping

import numpy as np

from official.evaluation.evaluated import Evaluated

DRAWS = 1000
FEWEST = 200
_IMAGES_TIMES_DRAWS = (
    1_000_000  # above it fewer draws are made: an interval's ends are then rougher, not wider
)
COVERED = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval; nan where there is none."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is on one side of zero, else 0."""
        return int(self.low > 0.0) - int(self.high < 0.0)

    def to_json(self) -> dict[str, float | None]:
        """Numbers, None for what is not known."""
        return {k: round(v, 5) if math.isfinite(v) else None for k, v in dataclasses.asdict(self).items()}

    def text(self, *, signed: bool = False) -> str:
        """`+0.012 [+0.004, +0.020]`."""
        form = "{:+.3f}" if signed else "{:.3f}"
        inside = f" [{form.format(self.low)}, {form.format(self.high)}]" if math.isfinite(self.low) else ""
        return (form.format(self.value) + inside).replace("-", "−")


@dataclasses.dataclass(frozen=True)
class Scored:
    """A model's scores on the same draws of images: whole float64 [1 + draws] and by class [1 + draws,
    classes].

    The first row is of the set as it is.
    """

    whole: np.ndarray
    by_class: np.ndarray


def draws(images: int) -> int:
    """How often a set of so many images is drawn."""
    return int(np.clip(_IMAGES_TIMES_DRAWS // max(1, images), FEWEST, DRAWS))


def drawn(images: int, count: int, seed: int = 0) -> np.ndarray:
    """int64 [1 + count, images]: ones, then how often each image is in every draw."""
    generator = np.random.default_rng(seed)
    rows = [np.bincount(generator.integers(0, images, images), minlength=images) for _ in range(count)]
    return np.stack([np.ones(images, np.int64), *rows])


def scored(models: Mapping[str, Evaluated]) -> dict[str, Scored]:
    """Every model on the same draws.

    Raises:
      ValueError: they were evaluated on other images or classes.
    """
    first = next(iter(models.values()))
    for name, evaluated in models.items():
        if (evaluated.ids, evaluated.class_names) != (first.ids, first.class_names):
            raise ValueError(f"{name} was evaluated on other images or classes than {next(iter(models))}")
    weights = drawn(len(first.ids), draws(len(first.ids)))
    return {name: Scored(*evaluated.scores(weights)) for name, evaluated in models.items()}


def interval(values: np.ndarray) -> Interval:
    """Of one column of `Scored`; draws in which it is not defined (no object of the class) are left out."""
    known = values[1:][np.isfinite(values[1:])]
    if len(known) < 2:
        return Interval(float(values[0]), math.nan, math.nan)
    low, middle, high = np.percentile(known, (50 - 50 * COVERED, 50, 50 + 50 * COVERED))
    value = float(values[0])
    return Interval(value, value + float(low - middle), value + float(high - middle))


def difference(plus: Scored, minus: Scored, class_names: list[str]) -> tuple[Interval, dict[str, Interval]]:
    """plus less minus on the same draws: of the whole, and by class where the set has an object of it."""
    by_class = {
        name: interval(plus.by_class[:, k] - minus.by_class[:, k])
        for k, name in enumerate(class_names)
        if np.isfinite(plus.by_class[0, k]) and np.isfinite(minus.by_class[0, k])
    }
    return interval(plus.whole - minus.whole), by_class


def summary(values: Scored, class_names: list[str]) -> dict[str, Any]:
    """A model's score and its classes' with intervals, as JSON takes them."""
    by_class = {name: interval(values.by_class[:, k]).to_json() for k, name in enumerate(class_names)}
    return {**interval(values.whole).to_json(), "per_class": by_class}
