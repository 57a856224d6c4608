"""Heads on a backbone for whole images: a classifier, and SimCLR's projection.

The classifier of an EfficientNet has its published top (1x1 convolution to 1280 channels, batch norm,
swish; EfficientNet-Lite's: ReLU6) and layer names of `keras.applications`; a ResNet's is pooled as it is.
Nothing here has boxes or maps, so keras-cv's `ImageClassifier` would fit but for its batch norm and dropout.

Source: tensorflow/tpu models/official/efficientnet/efficientnet_model.py:595-635;
google-research/simclr model_util.py:157-213.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import keras

from official.models.backbones.efficientnet import (
    EfficientNetBackbone,
    activation,
    fan_out_normal,
    top_filters,
)
from official.models.backbones.spinenet import COARSEST_LEVEL, SpineNetBackbone
from official.models.features import check_size
from official.models.layers import Dropout, SyncBatchNormalization


class _OnBackbone(keras.Model):
    """What both have in common: they are trained by the Trainer and know their backbone and input size."""

    def _remember(self, arguments: dict) -> None:
        backbone, image_size = arguments["backbone"], arguments["image_size"]
        if isinstance(backbone, SpineNetBackbone):
            check_size(image_size, COARSEST_LEVEL, "image_size (of joint training joint_image_size)")
        self.backbone, self.image_size, self.num_classes = backbone, image_size, arguments["num_classes"]
        self._arguments = arguments

    def arguments(self) -> dict:
        """What it was built with, the backbone too."""
        return dict(self._arguments)

    def get_config(self) -> dict[str, Any]:
        config = {**self._arguments, "backbone": keras.saving.serialize_keras_object(self.backbone)}
        return {"name": self.name, "trainable": self.trainable, **config}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> _OnBackbone:
        backbone = keras.saving.deserialize_keras_object(config["backbone"], custom_objects)
        return cls(**{**config, "backbone": backbone})

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Refused, as for the dense models: `fit` knows neither the joint loss nor a global normaliser."""
        raise TypeError(f"a {type(self).__name__} alone cannot be compiled: SelfTrainingModel can, around it")


@keras.saving.register_keras_serializable("self_training")
class Classifier(_OnBackbone):
    """Input {"images": float [B, S, S, 3]} normalised; output {"logits": float32 [B, classes]}."""

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        *,
        image_size: int,
        dropout: float = 0.0,
        linear_probe: bool = False,
        **kwargs: Any,
    ) -> None:
        """Builds the functional graph.

        Args:
          backbone: its last output is pooled; the layers are shared, not copied.
          num_classes: channels of the logits.
          image_size: side of the square input that it is trained on.
          dropout: share of the pooled features that is dropped in training.
          linear_probe: one dense layer of zeros on the pooled features; the backbone is frozen and
            runs in inference mode.
        """
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        images = keras.Input((None, None, 3), name="images")
        trunk = keras.Model(backbone.inputs, backbone.outputs, name="backbone")
        x = trunk(images, training=False) if linear_probe else trunk(images)
        if not linear_probe and isinstance(backbone, EfficientNetBackbone):
            x = _efficientnet_top(x, backbone.get_config())
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool", dtype="float32")(x)
        if dropout and not linear_probe:
            x = Dropout(dropout, name="top_dropout", dtype="float32")(x)
        start = (
            "zeros"
            if linear_probe
            else keras.initializers.VarianceScaling(1.0 / 3.0, mode="fan_out", distribution="uniform")
        )
        logits = keras.layers.Dense(
            num_classes, kernel_initializer=start, name="predictions", dtype="float32"
        )(x)
        super().__init__(inputs={"images": images}, outputs={"logits": logits}, **kwargs)
        self._remember(arguments)
        if linear_probe:
            trunk.trainable = False


def _efficientnet_top(x: tf.Tensor, config: dict) -> tf.Tensor:
    filters = top_filters(config["width"], config["lite"])
    x = keras.layers.Conv2D(
        filters, 1, padding="same", use_bias=False, kernel_initializer=fan_out_normal(), name="top_conv"
    )(x)
    momentum, epsilon = config["batch_norm_momentum"], config["batch_norm_epsilon"]
    x = SyncBatchNormalization(momentum=momentum, epsilon=epsilon, name="top_bn")(x)
    return activation(config["lite"], "top_activation")(x)


@keras.saving.register_keras_serializable("self_training")
class ContrastiveModel(_OnBackbone):
    """SimCLR's network.

    Input {"images": float [B, S, S, 6]}: two views of every image, normalised. Output
    {"projections": float32 [B, 2, D]} and, with classes, {"probe": float32 [B, 2, classes]}: the
    online linear evaluation, on features without gradient.
    """

    def __init__(
        self,
        backbone: keras.Model,
        *,
        image_size: int,
        projection_layers: int = 3,
        projection_dim: int = 128,
        num_classes: int = 0,
        batch_norm_momentum: float = 0.9,
        **kwargs: Any,
    ) -> None:
        """Builds the functional graph.

        Args:
          backbone: its last output is pooled.
          image_size: side of the square input.
          projection_layers: dense layers of the head, each with batch norm; 0: the features themselves.
          projection_dim: width of the last one; the others are as wide as the features.
          num_classes: of the online linear evaluation; 0 for none.
          batch_norm_momentum: of the head.
        """
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        images = keras.Input((None, None, 6), name="images")
        views = keras.layers.Concatenate(axis=0, name="views")([images[..., :3], images[..., 3:]])
        trunk = keras.Model(backbone.inputs, backbone.outputs, name="backbone")
        features = keras.layers.GlobalAveragePooling2D(name="avg_pool", dtype="float32")(trunk(views))
        x = features
        for number in range(projection_layers):
            last = number == projection_layers - 1
            x = keras.layers.Dense(
                projection_dim if last else features.shape[-1],
                use_bias=False,
                dtype="float32",
                kernel_initializer=keras.initializers.RandomNormal(0.0, 0.01),
                name=f"projection_{number}",
            )(x)
            x = _norm_of_rows(x, f"projection_{number}_bn", batch_norm_momentum, center=not last)
            if not last:
                x = keras.layers.Activation("relu", name=f"projection_{number}_relu", dtype="float32")(x)
        outputs = {"projections": _PairUp(name="pair_up", dtype="float32")(x)}
        if num_classes:
            probe = keras.layers.Dense(
                num_classes,
                kernel_initializer=keras.initializers.RandomNormal(0.0, 0.01),
                name="head_supervised",
                dtype="float32",
            )(tf.stop_gradient(features))
            outputs["probe"] = _PairUp(name="pair_up_probe", dtype="float32")(probe)
        super().__init__(inputs={"images": images}, outputs=outputs, **kwargs)
        self._remember(arguments)
        self.pooled = keras.Model(backbone.inputs, keras.layers.GlobalAveragePooling2D()(backbone.output))


def _norm_of_rows(x: tf.Tensor, name: str, momentum: float, center: bool) -> tf.Tensor:
    """Batch norm of [B, C], through the layer for maps."""
    x = keras.layers.Reshape((1, 1, x.shape[-1]), name=f"{name}_in", dtype="float32")(x)
    x = SyncBatchNormalization(momentum=momentum, epsilon=1e-5, center=center, name=name, dtype="float32")(x)
    return keras.layers.Reshape((x.shape[-1],), name=f"{name}_out", dtype="float32")(x)


@keras.saving.register_keras_serializable("self_training")
class _PairUp(keras.layers.Layer):
    """[2B, D], all first views before all second ones, to [B, 2, D]."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        first, second = tf.split(inputs, 2, axis=0)
        return tf.stack([first, second], axis=1)
