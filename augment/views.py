"""SimCLR's views: crop, flip, colour distortion, greyscale and blur, on images in [0, 1].

Source: google-research/simclr data_util.py:298-320, 382-475; data.py:52-62.
"""

from __future__ import annotations

import dataclasses
from typing import Sequence

import tensorflow as tf

from augment.crops import random_resized_crop
from augment.jitter import random_flip


@dataclasses.dataclass(frozen=True)
class ViewPolicy:
    """What makes two views of an image differ.

    Attributes:
      strength: of the colour distortion; 1 for ImageNet, 0.5 for CIFAR.
      blur: whether views are blurred (off for images of 32 pixels).
      blur_per_image: draws a sigma for every view; False is the original's quirk, one sigma for
        the whole batch.
      smallest_area: share of the image that a crop has at least.
      legacy_resize: sample as TF1 did.
    """

    strength: float = 1.0
    blur: bool = True
    blur_per_image: bool = False
    smallest_area: float = 0.08
    legacy_resize: bool = False

    def view(self, image: tf.Tensor, key: tf.Tensor, batch_key: tf.Tensor, size: int) -> tf.Tensor:
        """One view.

        Args:
          image: uint8 [H, W, 3].
          key: int32 [2], of this view.
          batch_key: int32 [2], shared by this view of the whole batch.

        Returns:
          float32 [size, size, 3] in [0, 1].
        """
        keys = tf.unstack(tf.random.experimental.stateless_split(key, 7, alg="philox"))
        pixels = tf.cast(image, tf.float32) / 255.0
        pixels = random_resized_crop(
            pixels,
            keys[0],
            size,
            area=(self.smallest_area, 1.0),
            style="simclr",
            legacy_resize=self.legacy_resize,
        )
        pixels = random_flip({"image": pixels}, keys[1])["image"]
        if self.strength > 0.0:
            pixels = tf.cond(
                _coin(keys[2], 0.8), lambda: color_jitter(pixels, keys[3], self.strength), lambda: pixels
            )
            pixels = tf.cond(_coin(keys[4], 0.2), lambda: greyscale(pixels), lambda: pixels)
        pixels = tf.clip_by_value(pixels, 0.0, 1.0)
        if not self.blur:
            return pixels
        sigma = tf.random.stateless_uniform(
            [], keys[6] if self.blur_per_image else batch_key, 0.1, 2.0, alg="philox"
        )
        blurred = tf.cond(
            _coin(keys[5], 0.5), lambda: gaussian_blur(pixels, sigma, size // 10), lambda: pixels
        )
        return tf.clip_by_value(blurred, 0.0, 1.0)


def _coin(key: tf.Tensor, probability: float) -> tf.Tensor:
    return tf.random.stateless_uniform([], key, alg="philox") < probability


def color_jitter(image: tf.Tensor, key: tf.Tensor, strength: float) -> tf.Tensor:
    """Brightness, contrast, saturation and hue by random amounts in random order.

    Args:
      image: float32 [H, W, 3] in [0, 1]; clipped to it after every part.
      key: int32 [2].
      strength: brightness factor in [max(0, 1 - 0.8 s), 1 + 0.8 s], contrast and saturation factors
        in [1 - 0.8 s, 1 + 0.8 s], hue turned by up to 0.2 s of the circle.

    Raises:
      ValueError: strength above 1.25, where the contrast factor would be negative.
    """
    if strength > 1.25:
        raise ValueError(f"color_strength={strength}: above 1.25 contrast would be inverted")
    keys = tf.unstack(tf.random.experimental.stateless_split(key, 2, alg="philox"))
    draws = tf.unstack(tf.random.stateless_uniform([4], keys[0], -1.0, 1.0, alg="philox"))
    order = tf.argsort(tf.random.stateless_uniform([4], keys[1], alg="philox"))
    spread = 0.8 * strength
    # U[max(0, 1 - x), 1 + x]; for x <= 1 the same as 1 + x U[-1, 1].
    low = max(0.0, 1.0 - spread)
    brightness = low + (1.0 + spread - low) * (draws[0] + 1.0) / 2.0
    parts = (
        lambda x: x * brightness,
        lambda x: tf.image.adjust_contrast(x, 1.0 + spread * draws[1]),
        lambda x: tf.image.adjust_saturation(x, 1.0 + spread * draws[2]),
        lambda x: tf.image.adjust_hue(x, 0.2 * strength * draws[3]),
    )
    return apply_in_order(image, order, parts)


def apply_in_order(image: tf.Tensor, order: tf.Tensor, parts: Sequence) -> tf.Tensor:
    """Applies parts[order[0]], parts[order[1]] ..., clipping to [0, 1] after each."""
    for number in range(len(parts)):
        branches = [lambda part=part: part(image) for part in parts]
        image = tf.clip_by_value(tf.switch_case(order[number], branches), 0.0, 1.0)
    return image


def greyscale(image: tf.Tensor) -> tf.Tensor:
    """Three equal channels, float [H, W, 3]."""
    return tf.tile(tf.image.rgb_to_grayscale(image), [1, 1, 3])


def gaussian_blur(image: tf.Tensor, sigma: tf.Tensor, kernel_size: int) -> tf.Tensor:
    """Separable blur with zeros around the image.

    Args:
      image: float32 [H, W, 3].
      sigma: scalar, pixels.
      kernel_size: the kernel has 2 * (kernel_size // 2) + 1 taps.
    """
    radius = kernel_size // 2
    places = tf.range(-radius, radius + 1, dtype=tf.float32)
    taps = tf.exp(-tf.square(places) / (2.0 * tf.square(sigma)))
    taps = taps / tf.reduce_sum(taps)
    count = 2 * radius + 1
    strides = [1, 1, 1, 1]
    rows = tf.tile(tf.reshape(taps, [1, count, 1, 1]), [1, 1, 3, 1])
    columns = tf.tile(tf.reshape(taps, [count, 1, 1, 1]), [1, 1, 3, 1])
    blurred = tf.nn.depthwise_conv2d(image[None], rows, strides, "SAME")
    return tf.nn.depthwise_conv2d(blurred, columns, strides, "SAME")[0]
