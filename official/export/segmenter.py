"""A segmenter's export: a class map of the size of the image that comes in."""

from __future__ import annotations

from typing import Sequence

import tensorflow as tf
from tensorflow import keras

from losses.segmentation import resize_logits
from official.data import image_files
from official.export.serving import Placing, tflite_bytes, write_export, write_tflite


class SegmentationServing(Placing):
    """The SavedModel of a segmenter: one encoded image in, a class map of its own size out."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="image_bytes")])
    def from_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """JPEG, PNG, GIF or BMP bytes, a scalar; see `_result`."""
        return self._result(image_files.decode(image_bytes))

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8, name="image")])
    def from_pixels(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """One uint8 RGB image [H, W, 3]."""
        return self._result(image)

    def _result(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """classes uint8 [H, W], scores float32 [H, W] (the winner's probability), class_names string [C]."""
        placed, extent, _ = self._place(image)
        logits = self.network(placed[None])["logits"]
        probabilities = class_probabilities(
            logits, self.size, tf.cast(extent, tf.int32), tf.shape(image)[:2], self.legacy_resize
        )
        return {
            "classes": tf.argmax(probabilities, axis=-1, output_type=tf.int32),
            "scores": tf.reduce_max(probabilities, axis=-1),
            "class_names": self.class_names[:-1],
        }


def export_segmenter(
    model: keras.Model,
    folder: str,
    class_names: Sequence[str],
    *,
    class_ids: Sequence[int] = (),
    legacy_resize: bool = False,
    tflite: bool = False,
) -> dict[str, str]:
    """Writes `model.keras`, `saved_model/`, `labels.json` and, if asked, `model.tflite` (logits)."""
    serving = SegmentationServing(model, class_names, legacy_resize)
    outputs = "logits: float32 [batch, size / 4, size / 4, classes]"
    paths = write_export(serving, folder, model, class_names, outputs, class_ids=class_ids)
    if tflite:
        paths["tflite"] = write_tflite(folder, tflite_bytes(serving, lambda images: serving.network(images)))
    return paths


def class_probabilities(
    logits: tf.Tensor, size: int, extent: tf.Tensor, original_size: tf.Tensor, legacy_resize: bool = False
) -> tf.Tensor:
    """Softmax of one image's logits [1, h, w, C] at the image's own size.

    Args:
      size: side of the network's input; extent: int32 [2], the image's part of it.
      original_size: int32 [2].
      legacy_resize: as TF1 resized.

    Returns:
      float32 [H, W, C].
    """
    full = resize_logits(logits, [size, size], legacy_resize=legacy_resize)[:, : extent[0], : extent[1]]
    return tf.nn.softmax(resize_logits(full, original_size, legacy_resize=legacy_resize)[0])
