"""RetinaNet as in the original TPU stack, as a subclass of keras-cv's.

keras-cv's model is kept as the type, the save format and the decoder protocol. Its pieces are
replaced because they differ from the original: the pyramid has no batch norm and takes P6 from C5,
the heads have three layers without per-level batch norm, decoding ignores the encoder's variances,
and `get_config` loses the pyramid and the anchors.
"""

from __future__ import annotations

import math

import keras_cv
import tensorflow as tf

from official.models import anchors as anchor_lib
from official.models.decoding import DetectionDecoder
from official.models.features import backbone_features, check_size, is_pyramid
from official.models.pyramid import PyramidBuilder

keras = tf.keras

CLASS_PRIOR = 0.01


@keras.saving.register_keras_serializable("self_training")
class RetinaNet(keras_cv.models.RetinaNet):
    """One-stage detector: backbone, FPN (a SpineNet is its own), shared class and box towers with a batch norm per level.

    Input: {"images": float [B, S, S, 3]} or the tensor itself, normalised, S static and divisible
    by 2^max_level. Output: {"box": float32 [B, A, 4] codes, "classification": float32 [B, A, C]
    logits}, anchors ordered by level, row, column, scale, ratio.

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
        **kwargs,
    ):
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

        Raises:
          ValueError: the image size does not fit the coarsest level, or the backbone lacks a level.
        """
        check_size(image_size, max_level)
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        build = _Builder(filters=fpn_filters, momentum=batch_norm_momentum, epsilon=batch_norm_epsilon, activation=activation)
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
        }  # fmt: skip
        # Past keras-cv's own __init__, which builds the stock pieces.
        super(keras_cv.models.RetinaNet, self).__init__(
            inputs={"images": images}, outputs=outputs, **kwargs
        )
        self.backbone = backbone
        self.num_classes = num_classes
        self.image_size = image_size
        self.bounding_box_format = "yxyx"
        self.anchor_generator = anchor_lib.anchor_generator(min_level, max_level, anchor_scale, num_scales)
        self._prediction_decoder = decoder or DetectionDecoder()
        self._arguments = arguments

    def anchors(self) -> list[tf.Tensor]:
        """Float32 [A_l, 4] yxyx pixels per level."""
        return anchor_lib.anchors_by_level(self.anchor_generator, self.image_size)

    def decode_predictions(self, predictions, images=None, *, extents=None, decoder=None):
        """Final boxes of a batch of raw outputs.

        Args:
          predictions: the model's outputs.
          images: ignored (keras-cv's signature); the anchors follow from `image_size`.
          extents: float32 [B, 2], height and width to clip to; the whole input by default.
          decoder: replaces the model's own settings.

        Returns:
          See `DetectionDecoder.__call__`, plus keras-cv's names "confidence" and "num_detections".
        """
        if extents is None:
            batch = tf.shape(predictions["box"])[0]
            extents = tf.fill([batch, 2], float(self.image_size))
        found = (decoder or self.prediction_decoder)(predictions, self.anchors(), extents)
        return {**found, "confidence": found["scores"], "num_detections": found["count"]}

    def compile(self, *args, **kwargs):
        """Refused: Keras' own loop has neither the joint loss nor a global normaliser."""
        raise TypeError("RetinaNet is trained by official.training.trainer.Trainer, not by compile/fit")

    def arguments(self) -> dict:
        """What it was built with, the backbone too."""
        return dict(self._arguments)

    def get_config(self):
        config = {key: value for key, value in self._arguments.items() if key != "decoder"}
        config["backbone"] = keras.saving.serialize_keras_object(self.backbone)
        return {"name": self.name, "trainable": self.trainable, **config}


class _Builder(PyramidBuilder):
    """The pyramid, and heads whose convolutions the levels share."""

    def head(self, pyramid, name, convs, filters, anchors_per_cell, values, bias_initializer):
        """One tower: convolutions shared by the levels, batch norms of their own. [B, A, values]."""
        tower = [
            keras.layers.Conv2D(
                filters, 3, padding="same", kernel_initializer=_normal(0.01), name=f"{name}_conv_{i}"
            )
            for i in range(convs)
        ]
        predictor = keras.layers.Conv2D(
            anchors_per_cell * values, 3, padding="same", kernel_initializer=_normal(1e-5),
            bias_initializer=bias_initializer, name=f"{name}_predictor",
        )  # fmt: skip
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
