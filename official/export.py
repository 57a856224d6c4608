"""Hands a trained detector over: `.keras`, a SavedModel from picture bytes to boxes, TFLite.

`model.keras` is made of stock Keras layers only: it loads with TensorFlow 2.15 alone. It maps
normalised pictures to raw head outputs. The SavedModel holds everything else too (decoding,
resizing, post-processing, class names) and needs no code at all.
"""

from __future__ import annotations

import json
import os
from typing import Sequence

import numpy as np
import tensorflow as tf

from augment.jitter import resize_and_crop
from official.data import image_files
from official.data.example import IMAGENET_MEAN, IMAGENET_STD, NORMALIZATION
from official.models.decoding import DetectionDecoder
from official.models.layers import StochasticDepth, SyncBatchNormalization, UpsampleNearest
from official.models.retinanet import RetinaNet

keras = tf.keras


def stock_model(model: keras.Model) -> keras.Model:
    """The same float32 inference network out of stock Keras layers, with a copy of the weights."""
    plain = keras.models.clone_model(keras.Model(model.inputs, model.outputs), clone_function=_stock_layer)
    plain.set_weights(model.get_weights())
    names = [name for name in model.output_names]
    outputs = dict(zip(names, plain.outputs))
    return keras.Model(plain.inputs, outputs, name="detector")


def _stock_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, keras.Model):
        copy = keras.models.clone_model(layer, clone_function=_stock_layer)
        copy._name = layer.name
        return copy
    config = {**layer.get_config(), "dtype": "float32"}
    if isinstance(layer, SyncBatchNormalization):
        return keras.layers.BatchNormalization.from_config(config)
    if isinstance(layer, UpsampleNearest):
        return keras.layers.UpSampling2D(2, name=layer.name)
    if isinstance(layer, StochasticDepth):
        return keras.layers.Activation("linear", name=layer.name)
    return layer.__class__.from_config(config)


class Serving(tf.Module):
    """The SavedModel: encoded pictures in, boxes in pixels of those pictures out."""

    def __init__(self, model: RetinaNet, decoder: DetectionDecoder, class_names: Sequence[str], legacy_resize: bool):
        super().__init__(name="serving")
        self.network = stock_model(model)
        self.size, self.decoder, self.legacy_resize = model.image_size, decoder, legacy_resize
        self.levels = [tf.constant(level.numpy()) for level in model.anchors()]
        self.class_names = tf.constant([*class_names, ""])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def from_bytes(self, image_bytes):
        """JPEG, PNG, GIF or BMP bytes [B]; see `_result` for what comes back."""
        placed = tf.map_fn(
            lambda encoded: self._place(image_files.decode(encoded)),
            image_bytes,
            fn_output_signature=(tf.float32, tf.float32, tf.float32),
        )
        return self._result(*placed)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def from_pixels(self, images):
        """Uint8 RGB pictures [B, H, W, 3] of one size."""
        spec = (tf.float32, tf.float32, tf.float32)
        return self._result(*tf.map_fn(self._place, images, fn_output_signature=spec))

    def _place(self, image):
        example = {"image": image, "boxes": tf.zeros([0, 4]), "classes": tf.zeros([0], tf.int32)}
        placed = resize_and_crop(
            example, None, output_size=self.size, normalization=NORMALIZATION, legacy_resize=self.legacy_resize
        )
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        return placed["image"], placed["extent"], tf.concat([placed["scale"], size], 0)

    def _result(self, images, extent, frame):
        """boxes float32 [B, D, 4] yxyx pixels, scores [B, D], classes int32 [B, D] (-1: none),
        class_names string [B, D], num_detections int32 [B]."""
        outputs = self.network(images, training=False)
        found = self.decoder(outputs, self.levels, extent)
        scale, size = tf.split(frame, 2, axis=1)
        limits = tf.concat([size, size], axis=1)[:, None]
        boxes = tf.clip_by_value(found["boxes"] / tf.tile(scale, [1, 2])[:, None], 0.0, limits)
        return {
            "boxes": boxes,
            "scores": found["scores"],
            "classes": found["classes"],
            "class_names": tf.gather(self.class_names, found["classes"] % tf.size(self.class_names)),
            "num_detections": found["count"],
        }


def export_detector(
    model: RetinaNet, folder: str, class_names: Sequence[str], decoder: DetectionDecoder,
    *, legacy_resize: bool = False, tflite: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Writes `model.keras`, `saved_model/`, `labels.json` and, if asked, `model.tflite`.

    Returns:
      The paths by kind. A TFLite conversion that the ops do not allow raises what the converter says.
    """
    os.makedirs(folder, exist_ok=True)
    paths = {"keras": os.path.join(folder, "model.keras"), "saved_model": os.path.join(folder, "saved_model")}
    stock_model(model).save(paths["keras"])
    serving = Serving(model, decoder, class_names, legacy_resize)
    signatures = {"serving_default": serving.from_bytes, "pixels": serving.from_pixels}
    tf.saved_model.save(serving, paths["saved_model"], signatures=signatures)
    _write_labels(os.path.join(folder, "labels.json"), model, class_names)
    if tflite:
        paths["tflite"] = os.path.join(folder, "model.tflite")
        with open(paths["tflite"], "wb") as file:
            file.write(_tflite(serving))
    return paths


def _write_labels(path: str, model: RetinaNet, class_names: Sequence[str]) -> None:
    """What a user of `model.keras` needs to know."""
    content = {
        "class_names": list(class_names),
        "image_size": model.image_size,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "input": "float32 [batch, size, size, 3], (pixels / 255 - mean) / std, picture at the top left, zeros around",
        "outputs": "box: (dy, dx, dh, dw) relative to anchors; classification: logits",
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)


def _tflite(serving: Serving) -> bytes:
    """One normalised picture [1, S, S, 3] to boxes in network pixels, with TFLite's own ops."""

    @tf.function(input_signature=[tf.TensorSpec([1, serving.size, serving.size, 3], tf.float32)])
    def detect(images):
        outputs = serving.network(images, training=False)
        whole = tf.fill([1, 2], float(serving.size))
        return serving.decoder.single(outputs, serving.levels, whole)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([detect.get_concrete_function()], serving)
    return converter.convert()


def load_serving(folder: str):
    """The `from_bytes` signature of an exported SavedModel folder."""
    return tf.saved_model.load(folder).signatures["serving_default"]


def detect_bytes(signature, encoded: bytes) -> dict[str, np.ndarray]:
    """Runs one encoded picture through a serving signature; columns of its real detections."""
    found = {k: v.numpy()[0] for k, v in signature(image_bytes=tf.constant([encoded])).items()}
    count = int(found.pop("num_detections"))
    return {name: column[:count] for name, column in found.items()}
