"""RandAugment: operations drawn uniformly, with replacement, all at one magnitude.

Source: google/automl efficientdet/aug/autoaugment.py:1632-1667 (ten operations, with boxes);
tensorflow/tpu models/official/efficientnet/autoaugment.py:675-717 (sixteen, images alone).
"""

from __future__ import annotations

import functools

import tensorflow as tf

from augment import ops
from augment.geometry import IMAGE_SETTINGS, Settings

BOX_OPERATIONS = (
    "Equalize",
    "Solarize",
    "Color",
    "Cutout",
    "SolarizeAdd",
    "TranslateX_BBox",
    "TranslateY_BBox",
    "ShearX_BBox",
    "ShearY_BBox",
    "Rotate_BBox",
)
IMAGE_OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Cutout",
    "SolarizeAdd",
)
SETS: dict[str, tuple[tuple[str, ...], Settings]] = {
    "boxes": (BOX_OPERATIONS, Settings()),
    "image": (IMAGE_OPERATIONS, IMAGE_SETTINGS),
}


def randaugment(
    example: dict,
    key: tf.Tensor,
    *,
    layers: int = 1,
    magnitude: float = 10.0,
    operations: tuple[str, ...] = BOX_OPERATIONS,
    settings: Settings = Settings(),
) -> dict:
    """Applies `layers` operations, each drawn from `operations` and always applied.

    Args:
      example: see `augment.ops.apply`.
      key: int32 [2].
      magnitude: level of every operation; the paper uses 10 (15 for ResNet-101), which is the top
        of the scale, and more is extrapolated.
    """
    for number in range(layers):
        keys = tf.unstack(
            tf.random.experimental.stateless_split(
                tf.random.experimental.stateless_fold_in(key, number), 2, alg="philox"
            )
        )
        drawn = tf.random.stateless_uniform([], keys[0], 0, len(operations), tf.int32, alg="philox")
        branches = [
            functools.partial(_apply, dict(example), name, magnitude, keys[1], settings)
            for name in operations
        ]
        example = tf.switch_case(drawn, branches)
    return example


def _apply(example: dict, name: str, level: float, key: tf.Tensor, settings: Settings) -> dict:
    return ops.apply(example, name, level=level, key=key, settings=settings)
