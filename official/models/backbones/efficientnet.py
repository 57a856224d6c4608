"""The published EfficientNet as a keras-cv `Backbone`, built offline.

keras-cv's own EfficientNetV1 is another function with the same weight shapes: it puts an activation
after each projection, scales drop-connect by the unscaled block count and takes C5 from the 1x1 top
convolution. Layer names here are those of `keras.applications`, so its weights map by name.

EfficientNet-Lite is the same network for small machines: ReLU6 in place of swish, no squeeze-excite, a stem,
a first and a last stage and a top that are not scaled, and pixels on the scale (p - 127) / 128.

Source: tensorflow/tpu models/official/efficientnet/efficientnet_{builder,model}.py,
lite/efficientnet_lite_builder.py.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras_cv
import tensorflow as tf
from tensorflow import keras

from official.errors import FlagError
from official.experiment import Model
from official.models.backbones.input_scale import scaled_input
from official.models.backbones.registry import backbones
from official.models.layers import DepthwiseConv2D, StochasticDepth, Swish, SyncBatchNormalization


@dataclasses.dataclass(frozen=True)
class Member:
    """One published network: coefficients, and the image side and dropout that its classifier was trained
    with.
    """

    width: float
    depth: float
    image_size: int
    dropout: float


MEMBERS = {
    "efficientnet-b0": Member(1.0, 1.0, 224, 0.2),
    "efficientnet-b1": Member(1.0, 1.1, 240, 0.2),
    "efficientnet-b2": Member(1.1, 1.2, 260, 0.3),
    "efficientnet-b3": Member(1.2, 1.4, 300, 0.3),
    "efficientnet-b4": Member(1.4, 1.8, 380, 0.4),
    "efficientnet-b5": Member(1.6, 2.2, 456, 0.4),
    "efficientnet-b6": Member(1.8, 2.6, 528, 0.5),
    "efficientnet-b7": Member(2.0, 3.1, 600, 0.5),
    "efficientnet-l2": Member(4.3, 5.3, 800, 0.5),
    "efficientnet-lite0": Member(1.0, 1.0, 224, 0.2),
    "efficientnet-lite1": Member(1.0, 1.1, 240, 0.2),
    "efficientnet-lite2": Member(1.1, 1.2, 260, 0.3),
    "efficientnet-lite3": Member(1.2, 1.4, 280, 0.3),
    "efficientnet-lite4": Member(1.4, 1.8, 300, 0.3),
}
# (width, depth) coefficients by name.
COEFFICIENTS = {name: (member.width, member.depth) for name, member in MEMBERS.items()}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row of the EfficientNet table, before width and depth scaling."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    filters: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
# The last stage before each stride-2 stage holds the feature of that level.
LEVEL_OF_STAGE = {0: "P1", 1: "P2", 2: "P3", 4: "P4", 6: "P5"}


def round_filters(filters: float, width: float) -> int:
    """Scales a channel count and rounds it to a multiple of 8, never below 90 % of the scaled value."""
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def is_lite(backbone: str) -> bool:
    """Whether a name is one of EfficientNet-Lite."""
    return backbone.startswith("efficientnet-lite")


def round_repeats(repeats: int, depth: float) -> int:
    """Scales a stage's block count, rounding up."""
    return int(math.ceil(depth * repeats))


def stage_repeats(depth: float, lite: bool) -> list[int]:
    """Blocks of every stage; EfficientNet-Lite's first and last stage keep theirs."""
    ends = (0, len(STAGES) - 1) if lite else ()
    return [
        stage.repeats if number in ends else round_repeats(stage.repeats, depth)
        for number, stage in enumerate(STAGES)
    ]


def top_filters(width: float, lite: bool) -> int:
    """Channels of the 1x1 convolution before the classifier."""
    return 1280 if lite else round_filters(1280, width)


def activation(lite: bool, name: str) -> keras.layers.Layer:
    """Swish, or EfficientNet-Lite's ReLU6."""
    return keras.layers.ReLU(6.0, name=name) if lite else Swish(name=name)


@keras.saving.register_keras_serializable("self_training")
class EfficientNetBackbone(keras_cv.models.Backbone):
    """EfficientNet without its classification head; features P1..P5 by `pyramid_level_inputs`.

    Input: float [batch, height, width, 3], normalised with the ImageNet mean and deviation.
    Outputs: the last stage's map; P2..P5 have strides 4..32 and, for B0, 24, 40, 112, 320 channels.
    """

    def __init__(
        self,
        *,
        width: float,
        depth: float,
        survival_probability: float = 0.8,
        batch_norm_momentum: float = 0.99,
        batch_norm_epsilon: float = 1e-3,
        lite: bool = False,
        input_normalization: str = "imagenet",
        input_shape: tuple = (None, None, 3),
        **kwargs: Any,
    ) -> None:
        """Builds the network.

        Args:
          width, depth: the scaling coefficients.
          survival_probability: of the last block's residual branch; block i of n survives with
            1 - (1 - p) * i / n. 1 turns stochastic depth off.
          batch_norm_momentum, batch_norm_epsilon: EfficientNet's own (0.99, 1e-3) by default, as in
            the original stack, whose detection settings do not reach the backbone.
          lite: EfficientNet-Lite: ReLU6, no squeeze-excite, unscaled stem and repeats of the first and last
            stage.
          input_normalization: a key of `official.models.backbones.input_scale.SCALES`.
          input_shape: (height, width, 3).
        """
        repeats = stage_repeats(depth, lite)
        build = _Builder(sum(repeats), survival_probability, batch_norm_momentum, batch_norm_epsilon, lite)
        images = keras.Input(input_shape, name="images")
        filters = 32 if lite else round_filters(32, width)
        x = build.conv(scaled_input(images, input_normalization), filters, 3, "stem", stride=2)
        levels = {}
        for number, stage in enumerate(STAGES):
            out_filters = round_filters(stage.filters, width)
            for repeat in range(repeats[number]):
                stride = stage.stride if repeat == 0 else 1
                name = f"block{number + 1}{chr(ord('a') + repeat)}"
                x = build.block(x, filters, out_filters, stage, stride, name)
                filters = out_filters
            if number in LEVEL_OF_STAGE:
                levels[LEVEL_OF_STAGE[number]] = x.node.layer.name
        super().__init__(inputs=images, outputs=x, **kwargs)
        self.pyramid_level_inputs = levels
        self._arguments = {
            "width": width,
            "depth": depth,
            "survival_probability": survival_probability,
            "batch_norm_momentum": batch_norm_momentum,
            "batch_norm_epsilon": batch_norm_epsilon,
            "lite": lite,
            "input_normalization": input_normalization,
            "input_shape": tuple(input_shape),
        }

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._arguments}


class _Builder:
    """Makes the layers of one EfficientNet, counting blocks for stochastic depth."""

    def __init__(
        self, total_blocks: int, survival_probability: float, momentum: float, epsilon: float, lite: bool
    ) -> None:
        self.survival_probability = survival_probability
        self.momentum = momentum
        self.epsilon = epsilon
        self.lite = lite
        self.total_blocks = total_blocks
        self.blocks_made = 0

    def norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        return SyncBatchNormalization(momentum=self.momentum, epsilon=self.epsilon, name=name)(x)

    def conv(self, x: tf.Tensor, filters: int, kernel: int, name: str, stride: int = 1) -> tf.Tensor:
        conv_name = f"{name}_conv"
        x = keras.layers.Conv2D(
            filters,
            kernel,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer=fan_out_normal(),
            name=conv_name,
        )(x)
        x = self.norm(x, f"{name}_bn")
        return activation(self.lite, f"{name}_activation")(x)

    def block(
        self, x: tf.Tensor, filters: int, out_filters: int, stage: Stage, stride: int, name: str
    ) -> tf.Tensor:
        """One inverted bottleneck: expand, depthwise, squeeze-excite, linear projection, skip."""
        shortcut = x
        if stage.expand != 1:
            x = self.conv(x, filters * stage.expand, 1, f"{name}_expand")
        x = DepthwiseConv2D(
            stage.kernel,
            strides=stride,
            padding="same",
            use_bias=False,
            depthwise_initializer=fan_out_normal(),
            name=f"{name}_dwconv",
        )(x)
        x = self.norm(x, f"{name}_bn")
        x = activation(self.lite, f"{name}_activation")(x)
        if not self.lite:
            x = self.squeeze_excite(x, max(1, int(filters * 0.25)), name)
        x = keras.layers.Conv2D(
            out_filters,
            1,
            padding="same",
            use_bias=False,
            kernel_initializer=fan_out_normal(),
            name=f"{name}_project_conv",
        )(x)
        x = self.norm(x, f"{name}_project_bn")  # linear: no activation follows
        survival = 1.0 - (1.0 - self.survival_probability) * self.blocks_made / self.total_blocks
        self.blocks_made += 1
        if stride == 1 and filters == out_filters:
            if survival < 1.0:
                x = StochasticDepth(survival, index=self.blocks_made, name=f"{name}_drop")(x)
            x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
        return x

    def squeeze_excite(self, x: tf.Tensor, squeezed: int, name: str) -> tf.Tensor:
        channels = x.shape[-1]
        gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_se_squeeze")(x)
        gate = keras.layers.Conv2D(
            squeezed,
            1,
            activation="swish",
            padding="same",
            kernel_initializer=fan_out_normal(),
            name=f"{name}_se_reduce",
        )(gate)
        gate = keras.layers.Conv2D(
            channels,
            1,
            activation="sigmoid",
            padding="same",
            kernel_initializer=fan_out_normal(),
            name=f"{name}_se_expand",
        )(gate)
        return keras.layers.Multiply(name=f"{name}_se_excite")([x, gate])


def fan_out_normal() -> keras.initializers.Initializer:
    """N(0, sqrt(2 / fan_out)), EfficientNet's kernel initialiser."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")


def build_efficientnet(
    backbone: str, *, width: float = 0.0, depth: float = 0.0, **kwargs: Any
) -> EfficientNetBackbone:
    """Builds a backbone by name.

    Args:
      backbone: a key of `COEFFICIENTS`.
      width, depth: replace the named coefficients when above 0 (for members smaller than B0).
      **kwargs: of `EfficientNetBackbone`.

    Raises:
      ValueError: unknown name.
    """
    if backbone not in COEFFICIENTS:
        raise FlagError(f"backbone={backbone!r} is unknown; choose one of {sorted(COEFFICIENTS)}")
    member = MEMBERS[backbone]
    return EfficientNetBackbone(
        width=width or member.width, depth=depth or member.depth, lite=is_lite(backbone), **kwargs
    )


def _build(options: Model, **shared: Any) -> EfficientNetBackbone:
    return build_efficientnet(
        options.backbone,
        width=options.backbone_width,
        depth=options.backbone_depth,
        survival_probability=options.survival_probability,
        batch_norm_momentum=options.backbone_batch_norm_momentum,
        **shared,
    )


backbones(name for name in COEFFICIENTS if not is_lite(name))(_build)
backbones((name for name in COEFFICIENTS if is_lite(name)), scale="lite")(_build)
