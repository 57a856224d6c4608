"""Hands a trained model over: `.keras`, a SavedModel from picture bytes to boxes or class maps, TFLite.

`model.keras` is made of stock Keras layers only: it loads with TensorFlow 2.15 alone. It maps
normalised pictures to raw head outputs. The SavedModel holds everything else too (decoding,
resizing, post-processing, class names) and needs no code at all.
"""

from __future__ import annotations

import os
from typing import Sequence

import numpy as np
import tensorflow as tf

from augment.crops import centre_crop
from augment.jitter import resize_and_crop
from losses.segmentation import resize_logits
from official.data import image_files
from official.data.example import IMAGENET_MEAN, IMAGENET_STD, NORMALIZATION, normalize
from official.files import write_json
from official.models.decoding import DetectionDecoder
from official.models.layers import (
    DepthwiseConv2D, Dropout, StochasticDepth, Swish, SyncBatchNormalization, UpsampleBilinear, UpsampleNearest,
)  # fmt: skip
from official.models.retinanet import RetinaNet

keras = tf.keras


def stock_model(model: keras.Model) -> keras.Model:
    """The same float32 inference network out of stock Keras layers, with a copy of the weights."""
    used = keras.Model(model.inputs, model.outputs)  # --max_level=4 leaves the backbone's last stages out
    plain = keras.models.clone_model(used, clone_function=_stock_layer)
    plain.set_weights(used.get_weights())
    names = sorted(model.output) if isinstance(model.output, dict) else model.output_names
    outputs = dict(zip(names, plain.outputs))
    return keras.Model(plain.inputs, outputs, name="network")


def _stock_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, keras.Model):
        copy = keras.models.clone_model(layer, clone_function=_stock_layer)
        copy._name = layer.name
        return copy
    config = {**layer.get_config(), "dtype": "float32"}
    if isinstance(layer, SyncBatchNormalization):
        return keras.layers.BatchNormalization.from_config(config)
    if isinstance(layer, DepthwiseConv2D):
        return keras.layers.DepthwiseConv2D.from_config(config)
    if isinstance(layer, Swish):
        return keras.layers.Activation("swish", name=layer.name)
    if isinstance(layer, UpsampleNearest):
        return keras.layers.UpSampling2D(2, name=layer.name)
    if isinstance(layer, UpsampleBilinear):
        return keras.layers.UpSampling2D(layer.factor, interpolation="bilinear", name=layer.name)
    if isinstance(layer, (StochasticDepth, Dropout)):
        return keras.layers.Activation("linear", name=layer.name)
    return layer.__class__.from_config(config)


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


class Serving(Placing):
    """The SavedModel of a detector: encoded pictures in, boxes in pixels of those pictures out."""

    def __init__(self, model: RetinaNet, decoder: DetectionDecoder, class_names: Sequence[str], legacy_resize: bool):
        super().__init__(model, class_names, legacy_resize)
        self.decoder = decoder
        self.levels = [tf.constant(level.numpy()) for level in model.anchors()]

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


class SegmentationServing(Placing):
    """The SavedModel of a segmenter: one encoded picture in, a class map of its own size out."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="image_bytes")])
    def from_bytes(self, image_bytes):
        """JPEG, PNG, GIF or BMP bytes, a scalar; see `_result`."""
        return self._result(image_files.decode(image_bytes))

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8, name="image")])
    def from_pixels(self, image):
        """One uint8 RGB picture [H, W, 3]."""
        return self._result(image)

    def _result(self, image):
        """classes uint8 [H, W], scores float32 [H, W] (the winner's probability), class_names string [C]."""
        placed, extent, _ = self._place(image)
        logits = self.network(placed[None], training=False)["logits"]
        probabilities = class_probabilities(
            logits, self.size, tf.cast(extent, tf.int32), tf.shape(image)[:2], self.legacy_resize
        )
        return {
            "classes": tf.argmax(probabilities, axis=-1, output_type=tf.int32),
            "scores": tf.reduce_max(probabilities, axis=-1),
            "class_names": self.class_names[:-1],
        }


class ClassificationServing(Placing):
    """The SavedModel of a classifier: encoded pictures in, probabilities out."""

    def __init__(self, model: keras.Model, class_names: Sequence[str], crop_style: str, legacy_resize: bool):
        super().__init__(model, class_names, legacy_resize)
        self.crop_style = crop_style

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def from_bytes(self, image_bytes):
        """JPEG, PNG, GIF or BMP bytes [B]; see `_result`."""
        crops = tf.map_fn(lambda e: self._crop(image_files.decode(e)), image_bytes, fn_output_signature=tf.float32)
        return self._result(crops)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def from_pixels(self, images):
        """Uint8 RGB pictures [B, H, W, 3] of one size."""
        return self._result(tf.map_fn(self._crop, images, fn_output_signature=tf.float32))

    def _crop(self, image):
        return normalize(centre_crop(image, self.size, style=self.crop_style, legacy_resize=self.legacy_resize))

    def _result(self, images):
        """probabilities float32 [B, C], classes int32 [B], scores [B], class_names string [B]."""
        probabilities = tf.nn.softmax(self.network(images, training=False)["logits"])
        classes = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        return {
            "probabilities": probabilities,
            "classes": classes,
            "scores": tf.reduce_max(probabilities, axis=-1),
            "class_names": tf.gather(self.class_names, classes),
        }


def export_classifier(
    model: keras.Model, folder: str, class_names: Sequence[str], *, crop_style: str = "efficientnet",
    legacy_resize: bool = False, tflite: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Writes `model.keras`, `saved_model/`, `labels.json` and, if asked, `model.tflite` (logits)."""
    serving = ClassificationServing(model, class_names, crop_style, legacy_resize)
    paths = _export(serving, folder, model, class_names, "logits: float32 [batch, classes]", f"the centre crop ({crop_style}'s)")
    if tflite:
        paths["tflite"] = _write_tflite(folder, _tflite(serving, lambda images: serving.network(images, training=False)))
    return paths


def export_backbone(model: keras.Model, folder: str) -> dict[str, str]:
    """Writes the backbone alone as `model.keras`, for --init."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "model.keras")
    stock_model(model.backbone).save(path)
    return {"keras": path}


def class_probabilities(
    logits: tf.Tensor, size: int, extent: tf.Tensor, picture_size: tf.Tensor, legacy_resize: bool = False
) -> tf.Tensor:
    """Softmax of one picture's logits [1, h, w, C] at the picture's own size.

    Args:
      size: side of the network's input; extent: int32 [2], the picture's part of it.
      picture_size: int32 [2].
      legacy_resize: as TF1 resized.

    Returns:
      float32 [H, W, C].
    """
    full = resize_logits(logits, [size, size], legacy_resize=legacy_resize)[:, : extent[0], : extent[1]]
    return tf.nn.softmax(resize_logits(full, picture_size, legacy_resize=legacy_resize)[0])


def export_segmenter(
    model: keras.Model, folder: str, class_names: Sequence[str], *, legacy_resize: bool = False, tflite: bool = False
) -> dict[str, str]:
    """Writes `model.keras`, `saved_model/`, `labels.json` and, if asked, `model.tflite` (logits)."""
    serving = SegmentationServing(model, class_names, legacy_resize)
    paths = _export(serving, folder, model, class_names, "logits: float32 [batch, size / 4, size / 4, classes]")
    if tflite:
        paths["tflite"] = _write_tflite(folder, _tflite(serving, lambda images: serving.network(images, training=False)))
    return paths


def _export(
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


def export_detector(
    model: RetinaNet, folder: str, class_names: Sequence[str], decoder: DetectionDecoder,
    *, legacy_resize: bool = False, tflite: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Writes `model.keras`, `saved_model/`, `labels.json` and, if asked, `model.tflite`.

    Returns:
      The paths by kind. A TFLite conversion that the ops do not allow raises what the converter says.
    """
    serving = Serving(model, decoder, class_names, legacy_resize)
    paths = _export(serving, folder, model, class_names, "box: (dy, dx, dh, dw) relative to anchors; classification: logits")
    if tflite:
        paths["tflite"] = _write_tflite(folder, _tflite(serving, lambda images: _detect_one(serving, images)))
    return paths


def _detect_one(serving: Serving, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """One normalised picture [1, S, S, 3] to boxes in network pixels."""
    outputs = serving.network(images, training=False)
    return serving.decoder.single(outputs, serving.levels, tf.fill([1, 2], float(serving.size)))


def _tflite(serving: Placing, function) -> bytes:
    """`function` of one normalised picture, with TFLite's own ops."""
    spec = tf.TensorSpec([1, serving.size, serving.size, 3], tf.float32)
    concrete = tf.function(function, input_signature=[spec]).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], serving).convert()


def _write_tflite(folder: str, content: bytes) -> str:
    path = os.path.join(folder, "model.tflite")
    with open(path, "wb") as file:
        file.write(content)
    return path


def load_serving(folder: str):
    """The `from_bytes` signature of an exported SavedModel folder."""
    return tf.saved_model.load(folder).signatures["serving_default"]


def detect_bytes(signature, encoded: bytes) -> dict[str, np.ndarray]:
    """Runs one encoded picture through a serving signature; columns of its real detections."""
    found = {k: v.numpy()[0] for k, v in signature(image_bytes=tf.constant([encoded])).items()}
    count = int(found.pop("num_detections"))
    return {name: column[:count] for name, column in found.items()}
