"""What the exports of all tasks share: `.keras`, a SavedModel from the bytes of an image to its result,
TFLite.

The SavedModel holds everything (resizing, decoding, post-processing, class names) and needs no code at all.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Mapping, Sequence

import tensorflow as tf
from tensorflow import keras

from augment.jitter import resize_and_crop
from official.data.example import IMAGENET_MEAN, IMAGENET_STD, NORMALIZATION
from official.export.stock import stock_model
from official.files import write_bytes, write_json


class Placing(tf.Module):
    """The part of a SavedModel that decodes an image and fits it into the network's input."""

    def __init__(self, model: keras.Model, class_names: Sequence[str], legacy_resize: bool) -> None:
        super().__init__(name="serving")
        network = stock_model(model)
        # What is stored is its variables and the signatures' graphs. Of a Keras model that a SavedModel knows
        # of, every layer would be traced once more, by itself, for nobody: half of an export's time.
        self.stored = network.variables
        self.keras_model = lambda: network
        self.network = tf.function(lambda images: network(images, training=False), autograph=False)
        self.size, self.legacy_resize = model.image_size, legacy_resize
        self.class_names = tf.constant([*class_names, ""])

    def _place(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(input float32 [S, S, 3], extent [2], scale and image size [4])."""
        placed = resize_and_crop(
            {"image": image},
            None,
            output_size=self.size,
            normalization=NORMALIZATION,
            legacy_resize=self.legacy_resize,
        )
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        return placed["image"], placed["extent"], tf.concat([placed["scale"], size], 0)


def write_export(
    serving: Placing,
    folder: str,
    model: keras.Model,
    class_names: Sequence[str],
    outputs: str,
    *,
    class_ids: Sequence[int] = (),
    place: str = "the image at the top left, zeros below and right of it",
    more: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Writes `model.keras`, `saved_model/` and `labels.json`, which says all that one needs to use
    `model.keras` alone.

    Args:
      outputs: the network's raw outputs, in words.
      class_ids: ids of the classes in the files that the model was trained on, in the order of its outputs.
      place: where the image lies in the input, in words.
      more: keys that only this task has.

    Returns:
      The paths by kind.
    """
    os.makedirs(folder, exist_ok=True)
    paths = {"keras": os.path.join(folder, "model.keras"), "saved_model": os.path.join(folder, "saved_model")}
    serving.keras_model().save(paths["keras"])
    signatures = {"serving_default": serving.from_bytes, "pixels": serving.from_pixels}
    tf.saved_model.save(serving, paths["saved_model"], signatures=signatures)
    content = {
        "class_names": list(class_names),
        "class_ids": [int(number) for number in class_ids],
        "image_size": model.image_size,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "input": f'"images": float32 [batch, size, size, 3] RGB, (pixels / 255 - mean) / std, {place}',
        "resize": (
            f"bilinear, "
            f"{'as TF1: no half-pixel centers' if serving.legacy_resize else 'half-pixel centers'}, no "
            f"antialiasing"
        ),
        "outputs": outputs,
        **(more or {}),
    }
    write_json(os.path.join(folder, "labels.json"), content)
    return paths


def tflite_bytes(serving: Placing, function: Callable[[tf.Tensor], Any]) -> bytes:
    """`function` of one normalised image, with TFLite's own ops."""
    spec = tf.TensorSpec([1, serving.size, serving.size, 3], tf.float32)
    concrete = tf.function(function, input_signature=[spec]).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], serving).convert()


def write_tflite(folder: str, content: bytes) -> str:
    path = os.path.join(folder, "model.tflite")
    write_bytes(path, content)
    return path
