"""Every augmentation operation by its name in the original stack, and how a level becomes its argument.

`apply` runs one: the level (0 to 10; more is extrapolated) is a Python number, signs and places are
drawn from a stateless key.

Source: tensorflow/tpu models/official/detection/utils/autoaugment_utils.py:1386-1471 (levels).
"""

from __future__ import annotations

from typing import Any, Callable

import tensorflow as tf

from augment import color, geometry, patches
from augment.geometry import Settings
from augment.jitter import flip

MAX_LEVEL = 10.0
Operation = Callable[[dict, float, float, tf.Tensor, Settings], dict]


def _enhance_factor(level: float) -> float:
    return 1.8 * level / MAX_LEVEL + 0.1


def _solarize_threshold(level: float, settings: Settings) -> int:
    threshold = int(256 * level / MAX_LEVEL)
    if settings.solarize_posterize == "original":
        return threshold % 256  # the original compares in uint8
    return min(max(threshold if settings.solarize_posterize == "weakening" else 256 - threshold, 0), 256)


def _posterize_bits(level: float, settings: Settings) -> int:
    bits = int(4 * level / MAX_LEVEL)
    if settings.solarize_posterize == "original":
        return bits if bits <= 8 else 0  # a shift by 8 - bits < 0 is one by 247 or more in uint8
    return min(max(bits if settings.solarize_posterize == "weakening" else 8 - bits, 0), 8)


def _signed(value: float | tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """+value or -value, one coin for the whole image (AA:1352-1357)."""
    coin = tf.random.stateless_uniform([], key, alg="philox")
    return tf.where(coin >= 0.5, value, -value)


# --- on the whole image --------------------------------------------------------------------------


def _pixel(function: Callable) -> Operation:
    """An operation on pixels from function(image, level, key, settings)."""

    def run(example, level, probability, key, settings):
        return {**example, "image": function(example["image"], level, key, settings)}

    return run


def _geometric(function: Callable, full: Callable, **where: Any) -> Operation:
    """An operation with a random sign from function(example, argument, settings)."""

    def run(example, level, probability, key, settings):
        argument = _signed(full(level, settings, tf.shape(example["image"])[:2]), key)
        return function(example, argument, settings, **where)

    return run


def _cutout(image: tf.Tensor, level: float, key: tf.Tensor, settings: Settings) -> tf.Tensor:
    half = tf.cast(settings.pixels(settings.cutout_const, level, tf.shape(image)[:2]), tf.int32)
    return patches.random_cutout(image, half, key, settings.fill)


def _bbox_cutout(example: dict, level: float, probability: float, key: tf.Tensor, settings: Settings) -> dict:
    return patches.bbox_cutout(example, settings.bbox_cutout_fraction * level / MAX_LEVEL, key, settings)


# --- inside boxes ----------------------------------------------------------------------------------


def _inside(make: Callable) -> Operation:
    """An operation on the contents of boxes; make: (level, key, settings, image size) -> patch operation."""

    def run(example, level, probability, key, settings):
        keys = tf.random.experimental.stateless_split(key, 2, alg="philox")
        patch_op = make(level, keys[1], settings, tf.shape(example["image"])[:2])
        return patches.only_boxes(example, probability, keys[0], patch_op)

    return run


def _inside_geometric(function: Callable, full: Callable, **where: Any) -> Operation:
    def make(level, key, settings, size):
        argument = _signed(full(level, settings, size), key)  # one sign for all boxes
        return lambda patch, _: function(patch, argument, settings, **where)

    return _inside(make)


def _inside_pixel(function: Callable) -> Operation:
    def make(level, key, settings, size):
        return lambda patch, patch_key: {
            **patch,
            "image": function(patch["image"], level, patch_key, settings),
        }

    return _inside(make)


def _cutout_inside(level: float, key: tf.Tensor, settings: Settings, size: tf.Tensor) -> Callable:
    half = tf.cast(settings.pixels(settings.cutout_bbox_const, level, size), tf.int32)
    return lambda patch, patch_key: {
        **patch,
        "image": patches.random_cutout(patch["image"], half, patch_key, settings.fill),
    }


def _solarize(image: tf.Tensor, level: float, key: tf.Tensor, settings: Settings) -> tf.Tensor:
    return color.solarize(image, _solarize_threshold(level, settings))


def _equalize(image: tf.Tensor, level: float, key: tf.Tensor, settings: Settings) -> tf.Tensor:
    return color.equalize(image)


def _rotation(level: float, settings: Settings, size: tf.Tensor) -> float:
    return 30.0 * level / MAX_LEVEL


def _slope(level: float, settings: Settings, size: tf.Tensor) -> float:
    return 0.3 * level / MAX_LEVEL


def _distance(level: float, settings: Settings, size: tf.Tensor) -> tf.Tensor:
    return settings.pixels(settings.translate_const, level, size)


def _distance_inside(level: float, settings: Settings, size: tf.Tensor) -> tf.Tensor:
    return settings.pixels(settings.translate_bbox_const, level, size)


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": _pixel(lambda image, level, key, s: color.autocontrast(image)),
    "Equalize": _pixel(_equalize),
    "Invert": _pixel(lambda image, level, key, s: color.invert(image)),
    "Posterize": _pixel(lambda image, level, key, s: color.posterize(image, _posterize_bits(level, s))),
    "Solarize": _pixel(_solarize),
    "SolarizeAdd": _pixel(
        lambda image, level, key, s: color.solarize_add(image, int(110 * level / MAX_LEVEL))
    ),
    "Color": _pixel(lambda image, level, key, s: color.color(image, _enhance_factor(level))),
    "Contrast": _pixel(
        lambda image, level, key, s: color.contrast(
            image, _enhance_factor(level), true_mean=s.contrast_true_mean
        )
    ),
    "Brightness": _pixel(lambda image, level, key, s: color.brightness(image, _enhance_factor(level))),
    "Sharpness": _pixel(lambda image, level, key, s: color.sharpness(image, _enhance_factor(level))),
    "Cutout": _pixel(_cutout),
    "BBox_Cutout": _bbox_cutout,
    "Rotate_BBox": _geometric(geometry.rotate, _rotation),
    "ShearX_BBox": _geometric(geometry.shear, _slope, axis="x"),
    "ShearY_BBox": _geometric(geometry.shear, _slope, axis="y"),
    "TranslateX_BBox": _geometric(geometry.translate, _distance, axis="x"),
    "TranslateY_BBox": _geometric(geometry.translate, _distance, axis="y"),
    "Rotate_Only_BBoxes": _inside_geometric(geometry.rotate, _rotation),
    "ShearX_Only_BBoxes": _inside_geometric(geometry.shear, _slope, axis="x"),
    "ShearY_Only_BBoxes": _inside_geometric(geometry.shear, _slope, axis="y"),
    "TranslateX_Only_BBoxes": _inside_geometric(geometry.translate, _distance_inside, axis="x"),
    "TranslateY_Only_BBoxes": _inside_geometric(geometry.translate, _distance_inside, axis="y"),
    "Flip_Only_BBoxes": _inside(lambda *_: lambda patch, _: flip(patch)),
    "Solarize_Only_BBoxes": _inside_pixel(_solarize),
    "Equalize_Only_BBoxes": _inside_pixel(_equalize),
    "Cutout_Only_BBoxes": _inside(_cutout_inside),
}
# The image policies say "Rotate" for what is here "Rotate_BBox": without boxes they are the same.
OPERATIONS.update(
    {n: OPERATIONS[f"{n}_BBox"] for n in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")}
)

DECIDES_ITSELF = tuple(name for name in OPERATIONS if name.endswith("_Only_BBoxes"))  # a coin per box


def apply(
    example: dict,
    name: str,
    *,
    level: float,
    key: tf.Tensor,
    probability: float = 1.0,
    settings: Settings = Settings(),
) -> dict:
    """Runs an operation with a probability.

    Args:
      example: "image" uint8 [H, W, 3]; "boxes" float32 [N, 4] yxyx pixels with their columns and
        "mask" uint8 [H, W] where there are any.
      name: of the operation, see `OPERATIONS`.
      level: strength, 0 to 10.
      key: int32 [2], seed of the draws.
      probability: of running; for `*_Only_BBoxes` three times that of each box.

    Raises:
      ValueError: unknown name.
    """
    if name not in OPERATIONS:
        raise ValueError(f"no operation {name!r}; choose one of {sorted(OPERATIONS)}")
    keys = tf.random.experimental.stateless_split(key, 2, alg="philox")

    def run():
        return OPERATIONS[name](example, level, probability, keys[1], settings)

    if probability >= 1.0 or name in DECIDES_ITSELF:
        return run()
    if probability <= 0.0:
        return example
    coin = tf.random.stateless_uniform([], keys[0], alg="philox")
    return tf.cond(coin >= 1.0 - probability, run, lambda: example)
