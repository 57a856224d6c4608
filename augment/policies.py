"""Named augmentation presets of the paper (section 3.1, Table 1)."""

from __future__ import annotations

import dataclasses
from typing import Callable

import tensorflow as tf

from augment.jitter import random_flip, resize_and_crop

JITTER = {"none": (1.0, 1.0), "s1": (0.8, 1.2)}


@dataclasses.dataclass(frozen=True)
class Policy:
    """What is done to a training picture, in order.

    Attributes:
      flip: random horizontal flip.
      jitter_min, jitter_max: range of the scale relative to the output size.
    """

    flip: bool
    jitter_min: float
    jitter_max: float

    def __call__(self, example: dict, key: tf.Tensor, resize: Callable = resize_and_crop, **options) -> dict:
        """Augments one example; see `augment.jitter.resize_and_crop` for the format and options."""
        keys = tf.unstack(tf.random.experimental.stateless_split(key, 2, alg="philox"))
        if self.flip:
            example = random_flip(example, keys[0])
        return resize(example, keys[1], jitter_min=self.jitter_min, jitter_max=self.jitter_max, **options)


def policy(name: str, *, jitter_min: float = 0.0, jitter_max: float = 0.0, flip: bool = True) -> Policy:
    """A preset by name; a jitter above 0 replaces the preset's.

    Args:
      name: "none" (resize only) or "s1" (flip, jitter 0.8-1.2).

    Raises:
      ValueError: unknown name, or an empty range.
    """
    if name not in JITTER:
        raise ValueError(f"augment={name!r} is unknown; choose one of {sorted(JITTER)}")
    low, high = jitter_min or JITTER[name][0], jitter_max or JITTER[name][1]
    if not 0.0 < low <= high:
        raise ValueError(f"jitter range {low}..{high} is empty")
    return Policy(flip=flip and name != "none", jitter_min=low, jitter_max=high)
