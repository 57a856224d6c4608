"""What the exports of all tasks share: `.keras`, a SavedModel from the bytes of an image to its result, TFLite.

The SavedModel holds everything (resizing, decoding, post-processing, class names) and needs no code at all.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Sequence

import tensorflow as tf

from augment.jitter import resize_and_crop
from official.data.example import IMAGENET_MEAN, IMAGENET_STD, NORMALIZATION
from official.export.stock import stock_model
from official.files import write_bytes, write_json

keras = tf.keras


class Placing(tf.Module):
    """The part of a SavedModel that decodes a picture and fits it into the network's input."""

    def __init__(self, model: keras.Model, class_names: Sequence[str], legacy_resize: bool):
        super().__init__(name="serving")
        self.network = stock_model(model)
        self.size, self.legacy_resize = model.image_size, legacy_resize
        self.class_names = tf.constant([*class_names, ""])

    def _place(self, image):
        """(input float32 [S, S, 3], extent [2], scale and picture size [4])."""
        placed = resize_and_crop(
            {"image": image}, None, output_size=self.size, normalization=NORMALIZATION, legacy_resize=self.legacy_resize
        )
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        return placed["image"], placed["extent"], tf.concat([placed["scale"], size], 0)


def write_export(
    serving: Placing, folder: str, model: keras.Model, class_names: Sequence[str], outputs: str,
    place: str = "picture at the top left, zeros around",
) -> dict[str, str]:  # fmt: skip
    os.makedirs(folder, exist_ok=True)
    paths = {"keras": os.path.join(folder, "model.keras"), "saved_model": os.path.join(folder, "saved_model")}
    serving.network.save(paths["keras"])
    signatures = {"serving_default": serving.from_bytes, "pixels": serving.from_pixels}
    tf.saved_model.save(serving, paths["saved_model"], signatures=signatures)
    content = {
        "class_names": list(class_names),
        "image_size": model.image_size,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "input": f"float32 [batch, size, size, 3], (pixels / 255 - mean) / std, {place}",
        "outputs": outputs,
    }
    write_json(os.path.join(folder, "labels.json"), content)
    return paths


def tflite_bytes(serving: Placing, function: Callable[[tf.Tensor], Any]) -> bytes:
    """`function` of one normalised picture, with TFLite's own ops."""
    spec = tf.TensorSpec([1, serving.size, serving.size, 3], tf.float32)
    concrete = tf.function(function, input_signature=[spec]).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], serving).convert()


def write_tflite(folder: str, content: bytes) -> str:
    path = os.path.join(folder, "model.tflite")
    write_bytes(path, content)
    return path


def load_serving(folder: str) -> Any:
    """The `from_bytes` signature of an exported SavedModel folder."""
    return tf.saved_model.load(folder).signatures["serving_default"]
