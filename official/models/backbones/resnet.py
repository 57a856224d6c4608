"""ResNet v1.5 as a keras-cv `Backbone`, as the original detection stack builds it.

keras-cv's own ResNet v1 puts a bottleneck's stride on the first 1x1 convolution and pads "same";
the original puts it on the 3x3 and pads symmetrically. Feature maps differ, weight shapes do not.

Source: tensorflow/tpu models/official/detection/modeling/architecture/resnet.py:152-290.
"""

from __future__ import annotations

from typing import Any

import keras_cv
import tensorflow as tf
from tensorflow import keras

from official.errors import FlagError
from official.experiment import Model
from official.models.backbones.blocks import BlockBuilder
from official.models.backbones.input_scale import scaled_input
from official.models.backbones.registry import backbones

BLOCKS = {"resnet-50": (3, 4, 6, 3), "resnet-101": (3, 4, 23, 3), "resnet-152": (3, 8, 36, 3)}
FILTERS = (64, 128, 256, 512)


@keras.saving.register_keras_serializable("self_training")
class ResNetBackbone(keras_cv.models.Backbone):
    """Bottleneck ResNet without its classification head; features P2..P5 by `pyramid_level_inputs`.

    Input: float [batch, height, width, 3], normalised with the ImageNet mean and deviation.
    Outputs: the last stage's map; P2..P5 have strides 4..32 and 256, 512, 1024, 2048 channels.
    """

    def __init__(
        self,
        *,
        blocks: tuple,
        width: float = 1.0,
        batch_norm_momentum: float = 0.997,
        batch_norm_epsilon: float = 1e-4,
        activation: str = "relu",
        zero_last_gamma: bool = False,
        pool_padding: str = "same",
        input_normalization: str = "imagenet",
        input_shape: tuple = (None, None, 3),
        **kwargs: Any,
    ) -> None:
        """Builds the network.

        Args:
          blocks: bottlenecks per stage, such as `BLOCKS["resnet-50"]`.
          width: multiplies every channel count (for members smaller than the published ones).
          batch_norm_momentum, batch_norm_epsilon: the detection stack's.
          activation: "relu" or "swish".
          zero_last_gamma: residual branches start at zero, as in SimCLR; the detection stack's do not.
          pool_padding: of the 3x3 pool after the stem: "same" (TensorFlow's, the far side alone) or
            "symmetric" (PyTorch's, both sides).
          input_normalization: a key of `official.models.backbones.input_scale.SCALES`.
          input_shape: (height, width, 3).
        """
        build = BlockBuilder(
            batch_norm_momentum, batch_norm_epsilon, activation, zero_last_gamma=zero_last_gamma
        )
        images = keras.Input(input_shape, name="images")
        filters = [max(8, int(f * width)) for f in FILTERS]
        x = build.conv_act(scaled_input(images, input_normalization), filters[0], 7, 2, "stem")
        if pool_padding == "symmetric" and activation != "relu":
            raise FlagError(
                f"pool_padding=symmetric is PyTorch's with relu, not with activation={activation}"
            )
        x = _pool(x, pool_padding)
        levels = {}
        for stage, (count, channels) in enumerate(zip(blocks, filters), start=2):
            for number in range(count):
                stride = 2 if number == 0 and stage > 2 else 1
                x = build.bottleneck(x, channels, stride, number == 0, f"stage{stage}_block{number}")
            levels[f"P{stage}"] = x.node.layer.name
        super().__init__(inputs=images, outputs=x, **kwargs)
        self.pyramid_level_inputs = levels
        self._arguments = {
            "blocks": tuple(blocks),
            "width": width,
            "batch_norm_momentum": batch_norm_momentum,
            "batch_norm_epsilon": batch_norm_epsilon,
            "activation": activation,
            "zero_last_gamma": zero_last_gamma,
            "pool_padding": pool_padding,
            "input_normalization": input_normalization,
            "input_shape": tuple(input_shape),
        }

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._arguments}


POOL_PAD = "stem_pool_pad"


def _pool(x: tf.Tensor, padding: str) -> tf.Tensor:
    """The pool after the stem; zeros around it never win, for what is pooled is not negative.

    Raises:
      ValueError: unknown padding.
    """
    if padding not in ("same", "symmetric"):
        raise FlagError(f"pool_padding={padding!r} is unknown; choose same or symmetric")
    if padding == "symmetric":
        x = keras.layers.ZeroPadding2D(1, name=POOL_PAD)(x)
    return keras.layers.MaxPool2D(
        3, 2, padding="valid" if padding == "symmetric" else "same", name="stem_pool"
    )(x)


def pool_padding_of(model: keras.Model) -> str:
    """How a network pads the pool of its ResNet, from its layers (also those of models inside it); "same"
    without one.
    """
    inside = [pool_padding_of(layer) for layer in model.layers if isinstance(layer, keras.Model)]
    return (
        "symmetric"
        if "symmetric" in inside or any(layer.name == POOL_PAD for layer in model.layers)
        else "same"
    )


@backbones(BLOCKS)
def _build(options: Model, **shared: Any) -> ResNetBackbone:
    return ResNetBackbone(
        blocks=BLOCKS[options.backbone],
        width=options.backbone_width or 1.0,
        batch_norm_momentum=options.batch_norm_momentum,
        batch_norm_epsilon=options.batch_norm_epsilon,
        activation=options.activation,
        zero_last_gamma=options.zero_last_gamma,
        pool_padding="same" if options.resnet_pool == "auto" else options.resnet_pool,
        **shared,
    )
