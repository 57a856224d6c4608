"""What every dense model needs of a backbone: its feature maps by level."""

from __future__ import annotations

import math

import tensorflow as tf
from tensorflow import keras

from official.errors import FlagError


def check_size(image_size: int, max_level: int, flag: str = "image_size") -> None:
    """Raises FlagError, which names the flag, unless the image side is a multiple of the coarsest level's
    stride.
    """
    stride = 2**max_level
    if image_size % stride:
        raise FlagError(
            f"--{flag}={image_size} is not a multiple of {stride}, the stride of level {max_level}; "
            f"use {math.ceil(image_size / stride) * stride}"
        )


def is_pyramid(backbone: keras.Model) -> bool:
    """Whether the backbone's levels go to the heads as they are (SpineNet)."""
    return getattr(backbone, "is_pyramid", False)


def backbone_features(
    backbone: keras.Model, images: tf.Tensor, min_level: int, max_level: int
) -> dict[int, tf.Tensor]:
    """Calls the backbone on `images` and returns its features by level, up to level 5, or up to `max_level`
    of a pyramid.

    Raises:
      ValueError: the backbone lacks a level.
    """
    levels = range(min_level, (max_level if is_pyramid(backbone) else min(max_level, 5)) + 1)
    missing = [f"P{level}" for level in levels if f"P{level}" not in backbone.pyramid_level_inputs]
    if missing:
        raise FlagError(f"the backbone has no {missing}; it has {sorted(backbone.pyramid_level_inputs)}")
    taps = [backbone.get_layer(backbone.pyramid_level_inputs[f"P{level}"]).output for level in levels]
    extractor = keras.Model(backbone.inputs, taps, name="backbone")
    found = extractor(images)
    return dict(zip(levels, found if isinstance(found, list) else [found]))
