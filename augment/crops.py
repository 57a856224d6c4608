"""Crops of whole images, for classification and contrastive learning.

Source: tensorflow/tpu models/official/efficientnet/preprocessing.py:96-203 (classification);
google-research/noisystudent preprocessing.py:71-128; google-research/simclr data_util.py:194-320, 420-460.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from augment.autoaugment import autoaugment
from augment.geometry import IMAGE_SETTINGS, Settings
from augment.jitter import random_flip
from augment.randaugment import SETS, randaugment

STYLES = (
    "efficientnet",
    "noisy_student",
    "simclr",
)  # whose crops; see `centre_frame` and `random_resized_crop`
_WHOLE = ((0.0, 0.0, 1.0, 1.0),)
_SMALL = 32  # pixels: SimCLR evaluates CIFAR's images uncropped


def random_resized_crop(
    image: tf.Tensor,
    key: tf.Tensor,
    size: int,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0),
    style: str = "efficientnet",
    legacy_resize: bool = False,
) -> tf.Tensor:
    """A random part of the image, resized to a square with bicubic interpolation.

    Where no part of that kind is found in 10 attempts it is the centre, as `centre_frame` has it. SimCLR
    makes 100 attempts and then takes the whole image.

    Args:
      image: uint8 or float [H, W, 3].
      key: int32 [2].
      size: side of the result in pixels.
      area: the part's share of the image.
      aspect: its width over its height.
      style: one of `STYLES`.
      legacy_resize: sample as TF1 did, without half-pixel centres.

    Returns:
      float32 [size, size, 3]; bicubic interpolation may leave the range of the input a little.
    """
    shape, simclr = tf.shape(image), style == "simclr"
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.constant([_WHOLE]),
        key,
        min_object_covered=0.1,
        aspect_ratio_range=aspect,
        area_range=area,
        max_attempts=100 if simclr else 10,
        use_image_if_no_bounding_boxes=True,
    )
    top_left, sides = begin[:2], extent[:2]
    if not simclr:
        whole = tf.reduce_all(sides == shape[:2])
        top_left, sides = tf.cond(
            whole, lambda: centre_frame(shape, size, style), lambda: (begin[:2], extent[:2])
        )
    return _cut(image, top_left, sides, size, legacy_resize)


def centre_frame(shape: tf.Tensor, size: int, style: str = "efficientnet") -> tuple[tf.Tensor, tf.Tensor]:
    """(top left, sides), int32 [2] each, of the square in the centre that an image is evaluated by.

    Its share of the shorter side is size / (size + padding), rounded down, with a padding of round(size / 7)
    (EfficientNet) or 32 (Noisy Student); SimCLR's is 0.875, rounded to the nearest, halves to even, and 1 for
    inputs of at most 32 pixels.

    Args:
      shape: int32 [2 or more], height and width first.
      size: side of the network's input.
      style: one of `STYLES`.

    Raises:
      ValueError: another style.
    """
    shorter = tf.cast(tf.reduce_min(shape[:2]), tf.float32)
    if style not in STYLES:
        raise ValueError(f"crop style {style!r} is none of {', '.join(STYLES)}")
    if style == "simclr":
        share = tf.round((1.0 if size <= _SMALL else 0.875) * shorter)
    else:
        padding = 32 if style == "noisy_student" else round(size / 7)
        share = size / (size + padding) * shorter
    side = tf.maximum(tf.cast(share, tf.int32), 1)
    return (shape[:2] - side + 1) // 2, tf.stack([side, side])


def centre_crop(
    image: tf.Tensor, size: int, *, style: str = "efficientnet", legacy_resize: bool = False
) -> tf.Tensor:
    """The centre of the image, with pixels in 0..255, as float32 [size, size, 3].

    As `random_resized_crop` it may leave the range a little; in SimCLR's style it is clipped to it.
    """
    pixels = _cut(image, *centre_frame(tf.shape(image), size, style), size, legacy_resize)
    return tf.clip_by_value(pixels, 0.0, 255.0) if style == "simclr" else pixels


def _cut(
    image: tf.Tensor, top_left: tf.Tensor, sides: tf.Tensor, size: int, legacy_resize: bool
) -> tf.Tensor:
    bottom_right = top_left + sides
    part = image[top_left[0] : bottom_right[0], top_left[1] : bottom_right[1]]
    resized = tf.raw_ops.ResizeBicubic(
        images=part[None], size=[size, size], half_pixel_centers=not legacy_resize
    )[0]
    return tf.ensure_shape(resized, [size, size, 3])


@dataclasses.dataclass(frozen=True)
class ImagePolicy:
    """Random resized crop, flip, then AutoAugment or RandAugment on the cropped image, cut to uint8 for them
    alone.

    Attributes:
      crop: False takes the centre.
      smallest_area: share of the image that a crop has at least.
      flip: mirror with probability one half.
      autoaugment: a key of `augment.autoaugment.POLICIES` ("imagenet" is the published one), "" for none.
      randaugment_layers, randaugment_magnitude: of the sixteen operations; 0 layers for none.
      settings: constants of the operations.
      style, legacy_resize: see `random_resized_crop`.
    """

    crop: bool = True
    smallest_area: float = 0.08
    flip: bool = True
    autoaugment: str = ""
    randaugment_layers: int = 0
    randaugment_magnitude: float = 10.0
    settings: Settings = IMAGE_SETTINGS
    style: str = "efficientnet"
    legacy_resize: bool = False

    def augment(self, image: tf.Tensor, key: tf.Tensor, size: int) -> tf.Tensor:
        """uint8 [H, W, 3] and an int32 [2] key to float32 [size, size, 3].

        Whole numbers in 0..255 after AutoAugment or RandAugment. Without them nothing is rounded, and bicubic
        interpolation may leave the range a little, but in SimCLR's style.
        """
        keys = tf.unstack(tf.random.experimental.stateless_split(key, 3, alg="philox"))
        pixels = self._crop(image, keys[0], size)
        if self.flip:
            pixels = random_flip({"image": pixels}, keys[1])["image"]
        learned = self.autoaugment or self.randaugment_layers
        if learned or self.style == "simclr":
            pixels = tf.clip_by_value(pixels, 0.0, 255.0)
        return (
            tf.cast(self._operations(tf.cast(pixels, tf.uint8), keys[2]), tf.float32) if learned else pixels
        )

    def _crop(self, image: tf.Tensor, key: tf.Tensor, size: int) -> tf.Tensor:
        if not self.crop:
            return centre_crop(image, size, style=self.style, legacy_resize=self.legacy_resize)
        area = (self.smallest_area, 1.0)
        return random_resized_crop(
            image, key, size, area=area, style=self.style, legacy_resize=self.legacy_resize
        )

    def _operations(self, pixels: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """uint8 [S, S, 3] to the same."""
        example = {"image": pixels}
        if self.autoaugment:
            example = autoaugment(example, key, version=self.autoaugment, settings=self.settings)
        if self.randaugment_layers:
            example = randaugment(
                example,
                key,
                layers=self.randaugment_layers,
                magnitude=self.randaugment_magnitude,
                operations=SETS["image"][0],
                settings=self.settings,
            )
        return tf.ensure_shape(example["image"], pixels.shape)
