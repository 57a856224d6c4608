"""RetinaNet as in the original TPU stack, as a subclass of keras-cv's.

keras-cv's model is kept as the type, the save format, the decoder protocol, and `compile`, `fit` and
`predict` for training on human labels alone. Its pieces are replaced because they differ from the original:
the pyramid has no batch norm and takes P6 from C5, the heads have three layers without per-level batch norm,
decoding ignores the encoder's variances, an image without a box trains nothing, replicas multiply the
gradient, and `get_config` loses the pyramid and the anchors. The joint loss of human and pseudo labels is
official/training/keras_model.py.
"""

from __future__ import annotations

import math
from typing import Any, Mapping

import keras_cv
import tensorflow as tf
from tensorflow import keras

from losses.focal import IGNORED
from losses.replicas import all_reduce
from official.data.example import checked_range, normalize
from official.models import anchors as anchor_lib
from official.models.decoding import DetectionDecoder
from official.models.features import backbone_features, check_size, is_pyramid
from official.models.keras_metrics import deserialized, metric_values, serialized
from official.models.pyramid import PyramidBuilder

CLASS_PRIOR = 0.01


@keras.saving.register_keras_serializable("self_training")
class RetinaNet(keras_cv.models.RetinaNet):
    """One-stage detector: backbone, FPN (a SpineNet is its own), shared class and box towers with a batch
    norm per level.

    Input: {"images": float [B, S, S, 3]} or the tensor itself, normalised, S static and divisible by
      2^max_level. Output: {"box": float32 [B, A, 4] codes, "classification": float32 [B, A, C] logits},
      anchors ordered by level, row, column, scale, ratio.

    Source: tensorflow/tpu models/official/detection/modeling/architecture/{fpn,heads}.py.
    """

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        *,
        image_size: int,
        min_level: int = 3,
        max_level: int = 7,
        fpn_filters: int = 256,
        head_filters: int = 256,
        head_convs: int = 4,
        anchor_scale: float = 4.0,
        num_scales: int = 3,
        activation: str = "relu",
        batch_norm_momentum: float = 0.997,
        batch_norm_epsilon: float = 1e-4,
        decoder: DetectionDecoder | None = None,
        bounding_box_format: str = "yxyx",
        prediction_decoder: keras.layers.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        """Builds the functional graph.

        Args:
          backbone: has `pyramid_level_inputs` with "P<min_level>" .. "P5"; of a SpineNet .. "P<max_level>".
          num_classes: without a background class (the original trains and drops a channel 0).
          image_size: side of the square input in pixels.
          min_level, max_level: pyramid levels, strides 2^level.
          fpn_filters, head_filters, head_convs: widths and depth of pyramid and towers.
          anchor_scale: anchor side in units of the level's stride; num_scales: anchors per octave.
          activation: of the towers, "relu" or "swish".
          batch_norm_momentum, batch_norm_epsilon: of pyramid and towers.
          decoder: post-processing settings.
          bounding_box_format: keras-cv's name, of the boxes that `fit` and `evaluate` take and `predict`
            returns.
          prediction_decoder: a layer of keras-cv, as `NonMaxSuppression`, in place of `decoder`.

        Raises:
          ValueError: the image size does not fit the coarsest level, the backbone lacks a level, or two
            decoders.
        """
        check_size(image_size, max_level)
        if decoder is not None and prediction_decoder is not None:
            raise ValueError("decoder and prediction_decoder are two decoders; give one")
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        build = _Builder(
            filters=fpn_filters,
            momentum=batch_norm_momentum,
            epsilon=batch_norm_epsilon,
            activation=activation,
        )
        images = keras.Input((image_size, image_size, 3), name="images")
        features = backbone_features(backbone, images, min_level, max_level)
        pyramid = features if is_pyramid(backbone) else build.fpn(features, max_level)
        anchors_per_cell = num_scales * len(anchor_lib.ASPECT_RATIOS)
        prior = keras.initializers.Constant(-math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))
        outputs = {
            "box": build.head(pyramid, "box", head_convs, head_filters, anchors_per_cell, 4, "zeros"),
            "classification": build.head(
                pyramid, "classification", head_convs, head_filters, anchors_per_cell, num_classes, prior
            ),
        }
        # Past keras-cv's own __init__, which builds the stock pieces.
        super(keras_cv.models.RetinaNet, self).__init__(inputs={"images": images}, outputs=outputs, **kwargs)
        self.backbone = backbone
        self.num_classes = num_classes
        self.image_size = image_size
        self.bounding_box_format = bounding_box_format
        self.anchor_generator = anchor_lib.anchor_generator(min_level, max_level, anchor_scale, num_scales)
        self._prediction_decoder = prediction_decoder or decoder or DetectionDecoder()
        self._arguments = arguments

    def anchors(self) -> list[tf.Tensor]:
        """Float32 [A_l, 4] yxyx pixels per level."""
        return anchor_lib.anchors_by_level(self.anchor_generator, self.image_size)

    @property
    def prediction_decoder(self) -> DetectionDecoder | keras.layers.Layer:
        """What makes boxes of raw outputs; one of keras-cv may be of any `bounding_box_format`."""
        return self._prediction_decoder

    @prediction_decoder.setter
    def prediction_decoder(self, decoder: DetectionDecoder | keras.layers.Layer) -> None:
        self._prediction_decoder = decoder
        self.predict_function = self.test_function = None  # are traced with the new one

    def decode_predictions(
        self,
        predictions: dict[str, tf.Tensor],
        images: Any = None,
        *,
        extents: tf.Tensor | None = None,
        decoder: Any = None,
    ) -> dict[str, tf.Tensor]:
        """Final boxes of a batch of raw outputs.

        Args:
          predictions: the model's outputs.
          images: ignored (keras-cv's signature); the anchors follow from `image_size`.
          extents: float32 [B, 2], height and width to clip to; the whole input by default.
          decoder: replaces the model's own settings.

        Returns:
          "boxes" float32 [B, D, 4] in `bounding_box_format`, "classes" [B, D], "confidence" float32 [B, D]
          and "num_detections" int32 [B], -1 beyond these; of a `DetectionDecoder` also "scores" and "count",
          its names.
        """
        decoder = decoder or self.prediction_decoder
        if extents is None:
            extents = tf.fill([tf.shape(predictions["box"])[0], 2], float(self.image_size))
        if not isinstance(decoder, DetectionDecoder):
            return self._decode_by_layer(predictions, extents, decoder)
        found = decoder(predictions, self.anchors(), extents)
        boxes = self._converted(found["boxes"], "yxyx", self.bounding_box_format)
        if self.bounding_box_format != "yxyx":  # rows of no detection have no box in any format
            boxes = tf.where((found["classes"] >= 0)[..., None], boxes, -1.0)
        return {**found, "boxes": boxes, "confidence": found["scores"], "num_detections": found["count"]}

    def _decode_by_layer(
        self, predictions: dict[str, tf.Tensor], extents: tf.Tensor, layer: keras.layers.Layer
    ) -> dict[str, tf.Tensor]:
        """What a decoder of keras-cv makes of all anchors' boxes."""
        codes = tf.cast(predictions["box"], tf.float32)
        boxes = anchor_lib.decode_boxes(codes, tf.concat(self.anchors(), axis=0)[None])
        boxes = tf.clip_by_value(boxes, 0.0, tf.concat([extents, extents], axis=-1)[:, None])
        boxes = self._converted(boxes, "yxyx", layer.bounding_box_format)
        found = dict(layer(boxes, predictions["classification"], image_shape=self._image_shape()))
        converted = self._converted(found["boxes"], layer.bounding_box_format, self.bounding_box_format)
        return {**found, "boxes": tf.where((found["classes"] >= 0)[..., None], converted, -1.0)}

    def _converted(self, boxes: tf.Tensor, source: str, target: str) -> tf.Tensor:
        return keras_cv.bounding_box.convert_format(
            boxes, source=source, target=target, image_shape=self._image_shape()
        )

    def _image_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, 3)

    # --- Keras' loop on human labels ---------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "rmsprop",
        box_loss: Any = None,
        classification_loss: Any = None,
        loss: Any = None,
        metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """keras-cv's `compile`.

        Args:
          box_loss: "smoothl1", "huber" or a Keras loss, on (dy, dx, dh, dw) of the positive anchors.
          classification_loss: "focal" or a Keras loss from logits, on one-hot rows of all anchors.
          metrics: of keras-cv; computed in `evaluate` and for `validation_data` alone.

        Raises:
          ValueError: no loss for one of both, or one that is not summed: sums are divided by the number of
            positive anchors plus one, over all replicas.
        """
        given = {"box_loss": box_loss, "classification_loss": classification_loss}
        for name, one in given.items():
            if one is None:
                raise ValueError(
                    f"RetinaNet is compiled with box_loss= and classification_loss=; {name} is missing"
                )
            if getattr(one, "reduction", "sum") != "sum":
                raise ValueError(
                    f'{name} has reduction={one.reduction!r}: give it reduction="sum"; it is normalised here'
                )
        super().compile(loss=loss, metrics=metrics, optimizer=optimizer, **given, **kwargs)
        self._compiled_with = {**given, "metrics": list(metrics or ())}

    def get_compile_config(self) -> dict[str, Any] | None:
        """Losses, metrics and optimizer."""
        if getattr(self, "optimizer", None) is None:
            return None
        losses = {name: loss for name, loss in self._compiled_with.items() if name != "metrics"}
        parts = {**losses, "optimizer": self.optimizer}
        serialize = keras.saving.serialize_keras_object
        return {
            **{k: serialize(v) for k, v in parts.items()},
            "metrics": serialized(self._compiled_with["metrics"]),
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """The inverse of `get_compile_config`."""
        config = dict(config)
        metrics = deserialized(config.pop("metrics"))
        self.compile(
            **{k: keras.saving.deserialize_keras_object(v) for k, v in config.items()}, metrics=metrics
        )
        self.optimizer.build(self.trainable_variables)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Keras' step on images in 0..255."""
        return super(keras_cv.models.RetinaNet, self).train_step(self._unpacked(data))

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Keras' step on images in 0..255, and keras-cv's metrics."""
        x, y = self._unpacked(data)
        outputs = self(x, training=False)
        self.compute_loss(x, y, outputs)
        results = self.compute_metrics(x, y, outputs, None)
        if self._has_user_metrics:
            found = self.decode_predictions(outputs)
            for metric in self._user_metrics:
                metric.update_state(y, {name: found[name] for name in ("boxes", "classes", "confidence")})
                results.update(metric_values(metric))
        return results

    def predict_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Boxes of images in 0..255; see `decode_predictions`."""
        images = data[0] if isinstance(data, tuple) else data
        images = images["images"] if isinstance(images, Mapping) else images
        found = self.decode_predictions(self(self._network_images(images), training=False))
        return {name: found[name] for name in ("boxes", "classes", "confidence", "num_detections")}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, **kwargs: Any
    ) -> tf.Tensor:
        """Sums of both losses, divided by the number of positive anchors of all replicas, plus one."""
        boxes = self._converted(tf.cast(y["boxes"], tf.float32), self.bounding_box_format, "yxyx")
        boxes, classes = anchor_lib.one_row_more(boxes, tf.cast(y["classes"], tf.int32))
        targets = anchor_lib.encode_targets(boxes, classes, tf.concat(self.anchors(), axis=0))
        count = tf.reduce_sum(targets["positives"])
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            count = all_reduce(tf.distribute.ReduceOp.SUM, count)
        classes = targets["class_targets"]
        weights = {"box": classes >= 0, "classification": classes != IGNORED}
        return super(keras_cv.models.RetinaNet, self).compute_loss(
            x=x,
            y={"box": targets["box_targets"], "classification": tf.one_hot(classes, self.num_classes)},
            y_pred=y_pred,
            sample_weight={name: tf.cast(w, tf.float32) / (count + 1.0) for name, w in weights.items()},
        )

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> dict[str, tf.Tensor]:
        """Means of the losses."""
        return {metric.name: metric.result() for metric in self.compiled_loss.metrics}

    def get_metrics_result(self) -> dict[str, Any]:
        """As they are now: keras-cv's COCO metrics are computed for this, whatever their `evaluate_freq`."""
        found = {}
        for metric in self.metrics:
            found.update(metric_values(metric, final=True))
        return found

    def _unpacked(self, data: Any) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """(normalised images, dense boxes) of {"images", "bounding_boxes"} or (images, boxes)."""
        if isinstance(data, Mapping):
            data = (data["images"], data["bounding_boxes"])
        if len(data) == 1 and isinstance(data[0], Mapping):  # NumPy arrays
            data = (data[0]["images"], data[0]["bounding_boxes"])
        if len(data) != 2:
            raise ValueError(
                '{"images", "bounding_boxes"} or (images, boxes) is needed, without sample weights'
            )
        boxes = keras_cv.bounding_box.to_dense({name: data[1][name] for name in ("boxes", "classes")})
        return self._network_images(data[0]), boxes

    def _network_images(self, images: tf.Tensor) -> tf.Tensor:
        if tuple(images.shape[1:]) != self._image_shape():
            raise ValueError(
                f"images of shape {images.shape}; "
                f"this network takes [B, {self.image_size}, {self.image_size}, 3]"
            )
        return normalize(checked_range(images))

    # --- config ------------------------------------------------------------------------------------

    def arguments(self) -> dict:
        """What it was built with, the backbone too."""
        return dict(self._arguments)

    def get_config(self) -> dict[str, Any]:
        config = {**self._arguments, "decoder": None, "prediction_decoder": None}
        config["backbone"] = keras.saving.serialize_keras_object(self.backbone)
        name = "decoder" if isinstance(self.prediction_decoder, DetectionDecoder) else "prediction_decoder"
        config[name] = keras.saving.serialize_keras_object(self.prediction_decoder)
        return {"name": self.name, "trainable": self.trainable, **config}

    @classmethod
    def from_preset(cls, *args: Any, **kwargs: Any) -> RetinaNet:
        """Refused: keras-cv's weights are of its own network."""
        raise NotImplementedError(
            "keras-cv's presets are of its own RetinaNet; --job=import_checkpoint reads the paper's detectors"
        )

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> RetinaNet:
        config = dict(config)
        for name in ("backbone", "decoder", "prediction_decoder"):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects)
        return cls(**config)


class _Builder(PyramidBuilder):
    """The pyramid, and heads whose convolutions the levels share."""

    def head(
        self,
        pyramid: dict[int, tf.Tensor],
        name: str,
        convs: int,
        filters: int,
        anchors_per_cell: int,
        values: int,
        bias_initializer: str | keras.initializers.Initializer,
    ) -> tf.Tensor:
        """One tower: convolutions shared by the levels, batch norms of their own. [B, A, values]."""
        tower = [
            keras.layers.Conv2D(
                filters, 3, padding="same", kernel_initializer=_normal(0.01), name=f"{name}_conv_{i}"
            )
            for i in range(convs)
        ]
        predictor = keras.layers.Conv2D(
            anchors_per_cell * values,
            3,
            padding="same",
            kernel_initializer=_normal(1e-5),
            bias_initializer=bias_initializer,
            name=f"{name}_predictor",
        )
        flat = []
        for level, x in pyramid.items():
            for i, layer in enumerate(tower):
                x = self.norm(layer(x), f"{name}_bn_{i}_level_{level}")
                x = keras.layers.Activation(self.activation, name=f"{name}_act_{i}_level_{level}")(x)
            x = predictor(x)
            flat.append(keras.layers.Reshape((-1, values), name=f"{name}_flat_{level}")(x))
        joined = flat[0]
        if len(flat) > 1:
            joined = keras.layers.Concatenate(axis=1, name=f"{name}_levels")(flat)
        return keras.layers.Activation("linear", dtype="float32", name=name)(joined)


def _normal(deviation: float) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(0.0, deviation)
