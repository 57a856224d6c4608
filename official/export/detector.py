"""A detector's export: boxes in pixels of the images that come in."""

from __future__ import annotations

from typing import Any, Sequence

import tensorflow as tf

from official.data import image_files
from official.export.serving import Placing, tflite_bytes, write_export, write_tflite
from official.models.anchors import ASPECT_RATIOS, MAX_LOG_SCALE
from official.models.decoding import DetectionDecoder
from official.models.retinanet import RetinaNet


class DetectionServing(Placing):
    """The SavedModel of a detector: encoded images in, boxes in pixels of those images out."""

    def __init__(
        self, model: RetinaNet, decoder: DetectionDecoder, class_names: Sequence[str], legacy_resize: bool
    ) -> None:
        super().__init__(model, class_names, legacy_resize)
        self.decoder = decoder
        self.levels = [tf.constant(level.numpy()) for level in model.anchors()]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def from_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """JPEG, PNG, GIF or BMP bytes [B]; see `_result` for what comes back."""
        placed = tf.map_fn(
            lambda encoded: self._place(image_files.decode(encoded)),
            image_bytes,
            fn_output_signature=(tf.float32, tf.float32, tf.float32),
        )
        return self._result(*placed)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def from_pixels(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Uint8 RGB images [B, H, W, 3] of one size."""
        spec = (tf.float32, tf.float32, tf.float32)
        return self._result(*tf.map_fn(self._place, images, fn_output_signature=spec))

    def _result(self, images: tf.Tensor, extent: tf.Tensor, frame: tf.Tensor) -> dict[str, tf.Tensor]:
        """boxes float32 [B, D, 4] yxyx pixels, scores [B, D], classes int32 [B, D] (-1: none),
        class_names string [B, D], num_detections int32 [B]."""
        outputs = self.network(images)
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
    model: RetinaNet,
    folder: str,
    class_names: Sequence[str],
    decoder: DetectionDecoder,
    *,
    class_ids: Sequence[int] = (),
    legacy_resize: bool = False,
    tflite: bool = False,
) -> dict[str, str]:
    """Writes `model.keras`, `saved_model/`, `labels.json` and, if asked, `model.tflite`.

    Returns:
      The paths by kind. A TFLite conversion that the ops do not allow raises what the converter says.
    """
    serving = DetectionServing(model, decoder, class_names, legacy_resize)
    outputs = (
        "box: float32 [batch, anchors, 4], (dy, dx, dh, dw); classification: float32 [batch, anchors, "
        "classes], logits"
    )
    more = {"detection": _decoding(model, decoder)}
    paths = write_export(serving, folder, model, class_names, outputs, class_ids=class_ids, more=more)
    if tflite:
        paths["tflite"] = write_tflite(
            folder, tflite_bytes(serving, lambda images: detect_one(serving, images))
        )
    return paths


def _decoding(model: RetinaNet, decoder: DetectionDecoder) -> dict[str, Any]:
    """How raw outputs become boxes, for `labels.json`; docs/export.md decodes by it."""
    config = model.arguments()
    levels = list(range(config["min_level"], config["max_level"] + 1))
    return {
        "levels": levels,
        "strides": [2**level for level in levels],
        "anchor_scale": config["anchor_scale"],
        "scales": [2 ** (k / config["num_scales"]) for k in range(config["num_scales"])],
        "aspect_ratios": list(ASPECT_RATIOS),
        "anchors": "side anchor_scale * stride * scale; height side / sqrt(ratio), width side * sqrt(ratio); "
        "centre"
        " (row + 0.5, column + 0.5) * stride, in pixels of the input; order level, row, column, scale, ratio",
        "box_coding": (
            "centre = anchor centre + (dy, dx) * anchor size; size = anchor size * exp(min((dh, "
            "dw), max_log_scale))"
        ),
        "max_log_scale": MAX_LOG_SCALE,
        "score": "sigmoid(logit)",
        "score_threshold": decoder.score_threshold,
        "candidates_per_level": decoder.top_k,
        "nms": "per class"
        if decoder.soft_nms_sigma <= 0
        else "per class, Gaussian Soft-NMS: score * exp(-iou^2 / (2 sigma))",
        "nms_iou_threshold": decoder.nms_iou_threshold,
        "soft_nms_sigma": decoder.soft_nms_sigma,
        "max_detections": decoder.max_detections,
        "legacy_decoding": decoder.legacy_size > 0,
    }


def detect_one(serving: DetectionServing, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """One normalised image [1, S, S, 3] to boxes in network pixels."""
    outputs = serving.network(images)
    return serving.decoder.single(outputs, serving.levels, tf.fill([1, 2], float(serving.size)))
