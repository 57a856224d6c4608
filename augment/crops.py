"""Crops of whole pictures, for classification and contrastive learning.

Source: tensorflow/tpu models/official/efficientnet/preprocessing.py:96-203 (classification);
google-research/simclr data_util.py:298-320 (views).
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from augment.autoaugment import autoaugment
from augment.geometry import IMAGE_SETTINGS, Settings
from augment.jitter import random_flip
from augment.randaugment import SETS, randaugment

CENTRE_FRACTION = 0.875  # of the shorter side, when a picture is judged
_WHOLE = ((0.0, 0.0, 1.0, 1.0),)


def random_resized_crop(
    image: tf.Tensor, key: tf.Tensor, size: int, *, area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0), attempts: int = 10, legacy_resize: bool = False,
) -> tf.Tensor:  # fmt: skip
    """A random part of the picture, resized to a square with bicubic interpolation.

    Args:
      image: uint8 or float [H, W, 3].
      key: int32 [2].
      size: side of the result in pixels.
      area: the part's share of the picture.
      aspect: its width over its height.
      attempts: how often a part of that kind is looked for; after that it is the centre crop.
      legacy_resize: sample as TF1 did, without half-pixel centres.

    Returns:
      float32 [size, size, 3]; bicubic interpolation may leave the range of the input a little.
    """
    shape = tf.shape(image)
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape, tf.constant([_WHOLE]), key, min_object_covered=0.1, aspect_ratio_range=aspect, area_range=area,
        max_attempts=attempts, use_image_if_no_bounding_boxes=True,
    )  # fmt: skip
    whole = tf.reduce_all(extent[:2] == shape[:2])
    top_left, sides = tf.cond(whole, lambda: centre_frame(shape), lambda: (begin[:2], extent[:2]))
    return _cut(image, top_left, sides, size, legacy_resize)


def centre_frame(shape: tf.Tensor, fraction: float = CENTRE_FRACTION) -> tuple[tf.Tensor, tf.Tensor]:
    """(top left, sides), int32 [2] each, of the centred square with `fraction` of the shorter side."""
    side = tf.cast(tf.round(fraction * tf.cast(tf.reduce_min(shape[:2]), tf.float32)), tf.int32)
    side = tf.maximum(side, 1)
    return (shape[:2] - side + 1) // 2, tf.stack([side, side])


def centre_crop(image: tf.Tensor, size: int, *, fraction: float = CENTRE_FRACTION, legacy_resize: bool = False) -> tf.Tensor:
    """The centre of the picture as float32 [size, size, 3]; see `random_resized_crop`."""
    return _cut(image, *centre_frame(tf.shape(image), fraction), size, legacy_resize)


def _cut(image, top_left, sides, size, legacy_resize):
    bottom_right = top_left + sides
    part = image[top_left[0] : bottom_right[0], top_left[1] : bottom_right[1]]
    resized = tf.raw_ops.ResizeBicubic(images=part[None], size=[size, size], half_pixel_centers=not legacy_resize)[0]
    return tf.ensure_shape(resized, [size, size, 3])


@dataclasses.dataclass(frozen=True)
class PicturePolicy:
    """Random resized crop, flip, then AutoAugment or RandAugment on the cropped uint8 picture.

    Attributes:
      crop: False takes the centre.
      smallest_area: share of the picture that a crop has at least.
      flip: mirror with probability one half.
      autoaugment: a key of `augment.autoaugment.POLICIES` ("imagenet" is the published one), "" for none.
      randaugment_layers, randaugment_magnitude: of the sixteen operations; 0 layers for none.
      settings: constants of the operations.
      legacy_resize: see `random_resized_crop`.
    """

    crop: bool = True
    smallest_area: float = 0.08
    flip: bool = True
    autoaugment: str = ""
    randaugment_layers: int = 0
    randaugment_magnitude: float = 10.0
    settings: Settings = IMAGE_SETTINGS
    legacy_resize: bool = False

    def augment(self, image: tf.Tensor, key: tf.Tensor, size: int) -> tf.Tensor:
        """uint8 [H, W, 3] and an int32 [2] key to uint8 [size, size, 3]."""
        keys = tf.unstack(tf.random.experimental.stateless_split(key, 3, alg="philox"))
        if self.crop:
            area = (self.smallest_area, 1.0)
            pixels = random_resized_crop(image, keys[0], size, area=area, legacy_resize=self.legacy_resize)
        else:
            pixels = centre_crop(image, size, legacy_resize=self.legacy_resize)
        if self.flip:
            pixels = random_flip({"image": pixels}, keys[1])["image"]
        example = {"image": tf.cast(tf.clip_by_value(pixels, 0.0, 255.0), tf.uint8)}
        if self.autoaugment:
            example = autoaugment(example, keys[2], version=self.autoaugment, settings=self.settings)
        if self.randaugment_layers:
            example = randaugment(
                example, keys[2], layers=self.randaugment_layers, magnitude=self.randaugment_magnitude,
                operations=SETS["image"][0], settings=self.settings,
            )  # fmt: skip
        return tf.ensure_shape(example["image"], [size, size, 3])
