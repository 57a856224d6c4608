"""A classifier's export, and that of a backbone alone."""

from __future__ import annotations

import os
from typing import Sequence

import tensorflow as tf
from tensorflow import keras

from augment.crops import centre_crop
from official.data import image_files
from official.data.example import normalize
from official.export.serving import Placing, tflite_bytes, write_export, write_tflite
from official.export.stock import stock_model


class ClassificationServing(Placing):
    """The SavedModel of a classifier: encoded images in, probabilities out."""

    def __init__(
        self, model: keras.Model, class_names: Sequence[str], crop_style: str, legacy_resize: bool
    ) -> None:
        super().__init__(model, class_names, legacy_resize)
        self.crop_style = crop_style

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def from_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """JPEG, PNG, GIF or BMP bytes [B]; see `_result`."""
        crops = tf.map_fn(
            lambda e: self._crop(image_files.decode(e)), image_bytes, fn_output_signature=tf.float32
        )
        return self._result(crops)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def from_pixels(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Uint8 RGB images [B, H, W, 3] of one size."""
        return self._result(tf.map_fn(self._crop, images, fn_output_signature=tf.float32))

    def _crop(self, image: tf.Tensor) -> tf.Tensor:
        return normalize(
            centre_crop(image, self.size, style=self.crop_style, legacy_resize=self.legacy_resize)
        )

    def _result(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """probabilities float32 [B, C], classes int32 [B], scores [B], class_names string [B]."""
        probabilities = tf.nn.softmax(self.network(images)["logits"])
        classes = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        return {
            "probabilities": probabilities,
            "classes": classes,
            "scores": tf.reduce_max(probabilities, axis=-1),
            "class_names": tf.gather(self.class_names, classes),
        }


def export_classifier(
    model: keras.Model,
    folder: str,
    class_names: Sequence[str],
    *,
    class_ids: Sequence[int] = (),
    crop_style: str = "efficientnet",
    legacy_resize: bool = False,
    tflite: bool = False,
) -> dict[str, str]:
    """Writes `model.keras`, `saved_model/`, `labels.json` and, if asked, `model.tflite` (logits)."""
    serving = ClassificationServing(model, class_names, crop_style, legacy_resize)
    place = f"the centre crop ({crop_style}'s)"
    outputs = "logits: float32 [batch, classes]"
    paths = write_export(serving, folder, model, class_names, outputs, class_ids=class_ids, place=place)
    if tflite:
        paths["tflite"] = write_tflite(folder, tflite_bytes(serving, lambda images: serving.network(images)))
    return paths


def export_backbone(model: keras.Model, folder: str) -> dict[str, str]:
    """Writes the backbone alone as `model.keras`, for --init."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "model.keras")
    stock_model(model.backbone).save(path)
    return {"keras": path}
