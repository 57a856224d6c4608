"""Semantic segmentation: backbone, NAS-FPN or FPN, all levels summed at stride 4, convolutions, classes.

Source: tensorflow/tpu models/official/detection/modeling/architecture/heads.py:1063-1160,
nn_ops.py:587-715. keras-cv has no NAS-FPN and none of its segmenters has this head.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras

from official.errors import FlagError
from official.models.features import backbone_features, check_size, is_pyramid
from official.models.layers import UpsampleBilinear, legacy_upsample
from official.models.pyramid import PyramidBuilder


@keras.saving.register_keras_serializable("self_training")
class Segmenter(keras.Model):
    """Pixel classifier.

    Input: {"images": float [B, H, W, 3]} or the tensor itself, normalised, sides divisible by
    2^max_level; H and W may be unknown when it is built. Output: {"logits": float32 [B, H/4, W/4, C]}.
    """

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        *,
        image_size: int,
        max_level: int = 7,
        pyramid: str = "nas_fpn",
        pyramid_repeats: int = 7,
        fpn_filters: int = 256,
        separable: bool = True,
        head_convs: int = 3,
        activation: str = "relu",
        batch_norm_momentum: float = 0.997,
        batch_norm_epsilon: float = 1e-3,
        legacy_resize: bool = False,
        **kwargs: Any,
    ) -> None:
        """Builds the functional graph.

        Args:
          backbone: has `pyramid_level_inputs` with "P3" .. "P5".
          num_classes: background included, where the data have one.
          image_size: side of the square input that it is trained on.
          max_level: coarsest level; NAS-FPN's is 7.
          pyramid: "nas_fpn" or "fpn"; a SpineNet is its own.
          pyramid_repeats: of the NAS-FPN cell.
          fpn_filters: channels of pyramid and head.
          separable: depthwise-separable convolutions in NAS-FPN (the paper's).
          head_convs: 3x3 convolutions before the classifier.
          activation: of pyramid and head.
          batch_norm_momentum, batch_norm_epsilon: of pyramid and head.
          legacy_resize: enlarges the levels with TF1's bilinear kernel, as the original does.

        Raises:
          ValueError: the image size does not fit, or an unknown pyramid.
        """
        check_size(image_size, 7 if pyramid == "nas_fpn" and not is_pyramid(backbone) else max_level)
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        build = PyramidBuilder(
            filters=fpn_filters,
            momentum=batch_norm_momentum,
            epsilon=batch_norm_epsilon,
            separable=separable,
            activation=activation,
        )
        images = keras.Input((None, None, 3), name="images")
        features = backbone_features(backbone, images, 3, max_level)
        maps = _pyramid(build, features, backbone, pyramid, pyramid_repeats, max_level)
        raised = [
            _enlarged(x, 2 ** (level - 2), legacy_resize, f"fusion_up_{level}") for level, x in maps.items()
        ]
        x = keras.layers.Add(name="fusion_sum")(raised) if len(raised) > 1 else raised[0]
        x = _conv(_head(build, x, head_convs), num_classes, 1, "classifier")
        logits = keras.layers.Activation("linear", dtype="float32", name="logits")(x)
        super().__init__(inputs={"images": images}, outputs={"logits": logits}, **kwargs)
        self.backbone, self.num_classes, self.image_size = backbone, num_classes, image_size
        self._arguments = arguments

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Refused: Keras' own loop has neither the joint loss nor a global normaliser."""
        raise TypeError("a Segmenter alone cannot be compiled: SelfTrainingModel(segmenter) can")

    def arguments(self) -> dict:
        """What it was built with, the backbone too."""
        return dict(self._arguments)

    def get_config(self) -> dict[str, Any]:
        config = dict(self._arguments)
        config["backbone"] = keras.saving.serialize_keras_object(self.backbone)
        return {"name": self.name, "trainable": self.trainable, **config}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Segmenter:
        backbone = keras.saving.deserialize_keras_object(config["backbone"], custom_objects)
        return cls(**{**config, "backbone": backbone})


def _pyramid(
    build: PyramidBuilder, features: dict, backbone: keras.Model, pyramid: str, repeats: int, max_level: int
) -> dict:
    """The maps by level that are fused."""
    if is_pyramid(backbone):
        return features
    if pyramid == "nas_fpn":
        return build.nas_fpn(features, repeats)
    if pyramid == "fpn":
        return build.fpn(features, max_level)
    raise FlagError(f"pyramid={pyramid!r} is unknown; choose nas_fpn or fpn")


def _head(build: PyramidBuilder, x: tf.Tensor, convs: int) -> tf.Tensor:
    """3x3 convolutions, each with batch norm and activation."""
    for i in range(convs):
        x = build.norm(_conv(x, build.filters, 3, f"head_conv_{i}"), f"head_bn_{i}")
        x = keras.layers.Activation(build.activation, name=f"head_act_{i}")(x)
    return x


def _conv(x: tf.Tensor, filters: int, kernel: int, name: str) -> tf.Tensor:
    return keras.layers.Conv2D(
        filters,
        kernel,
        padding="same",
        kernel_initializer=keras.initializers.RandomNormal(0.0, 0.01),
        name=name,
    )(x)


def _enlarged(x: tf.Tensor, factor: int, legacy_resize: bool, name: str) -> tf.Tensor:
    return legacy_upsample(x, factor, name) if legacy_resize else UpsampleBilinear(factor, name=name)(x)
