"""ResNet v1.5 as a keras-cv `Backbone`, as the original detection stack builds it.

keras-cv's own ResNet v1 puts a bottleneck's stride on the first 1x1 convolution and pads "same";
the original puts it on the 3x3 and pads symmetrically. Feature maps differ, weight shapes do not.

Source: tensorflow/tpu models/official/detection/modeling/architecture/resnet.py:152-290,
nn_blocks.py:158-163, nn_ops.py:354-386.
"""

from __future__ import annotations

import keras_cv
import tensorflow as tf

from official.models.input_scale import scaled_input
from official.models.layers import SyncBatchNormalization

keras = tf.keras

BLOCKS = {"resnet-50": (3, 4, 6, 3), "resnet-101": (3, 4, 23, 3), "resnet-152": (3, 8, 36, 3)}
FILTERS = (64, 128, 256, 512)


@keras.saving.register_keras_serializable("self_training")
class ResNetBackbone(keras_cv.models.Backbone):
    """Bottleneck ResNet without its classification head; features P2..P5 by `pyramid_level_inputs`.

    Input: float [batch, height, width, 3], normalised with the ImageNet mean and deviation.
    Outputs: the last stage's map; P2..P5 have strides 4..32 and 256, 512, 1024, 2048 channels.
    """

    def __init__(
        self, *, blocks: tuple, width: float = 1.0, batch_norm_momentum: float = 0.997,
        batch_norm_epsilon: float = 1e-4, zero_last_gamma: bool = False, input_normalization: str = "imagenet",
        input_shape: tuple = (None, None, 3), **kwargs,
    ):  # fmt: skip
        """Builds the network.

        Args:
          blocks: bottlenecks per stage, such as `BLOCKS["resnet-50"]`.
          width: multiplies every channel count (for members smaller than the published ones).
          batch_norm_momentum, batch_norm_epsilon: the detection stack's.
          zero_last_gamma: residual branches start at zero, as in SimCLR; the detection stack's do not.
          input_normalization: a key of `official.models.input_scale.SCALES`.
          input_shape: (height, width, 3).
        """
        build = _Builder(batch_norm_momentum, batch_norm_epsilon, zero_last_gamma)
        images = keras.Input(input_shape, name="images")
        filters = [max(8, int(f * width)) for f in FILTERS]
        x = build.conv(scaled_input(images, input_normalization), filters[0], 7, 2, "stem")
        x = keras.layers.Activation("relu", name="stem_relu")(x)
        x = keras.layers.MaxPool2D(3, 2, padding="same", name="stem_pool")(x)
        levels = {}
        for stage, (count, channels) in enumerate(zip(blocks, filters), start=2):
            for number in range(count):
                stride = 2 if number == 0 and stage > 2 else 1
                x = build.bottleneck(x, channels, stride, number == 0, f"stage{stage}_block{number}")
            levels[f"P{stage}"] = x.node.layer.name
        super().__init__(inputs=images, outputs=x, **kwargs)
        self.pyramid_level_inputs = levels
        self._arguments = {
            "blocks": tuple(blocks), "width": width, "batch_norm_momentum": batch_norm_momentum,
            "batch_norm_epsilon": batch_norm_epsilon, "zero_last_gamma": zero_last_gamma,
            "input_normalization": input_normalization, "input_shape": tuple(input_shape),
        }  # fmt: skip

    def get_config(self):
        return {**super().get_config(), **self._arguments}


class _Builder:
    """Makes the layers."""

    def __init__(self, momentum, epsilon, zero_last_gamma):
        self.momentum, self.epsilon = momentum, epsilon
        self.last_gamma = "zeros" if zero_last_gamma else "ones"

    def conv(self, x, filters, kernel, stride, name, gamma="ones"):
        """Convolution without bias and batch norm; strided ones are padded symmetrically."""
        padding = "same"
        if stride > 1:
            padding = "valid"
            x = keras.layers.ZeroPadding2D(((kernel - 1) // 2, kernel // 2), name=f"{name}_pad")(x) if kernel > 1 else x
        x = keras.layers.Conv2D(
            filters, kernel, strides=stride, padding=padding, use_bias=False,
            kernel_initializer="VarianceScaling", name=f"{name}_conv",
        )(x)  # fmt: skip
        return SyncBatchNormalization(
            momentum=self.momentum, epsilon=self.epsilon, gamma_initializer=gamma, name=f"{name}_bn"
        )(x)

    def bottleneck(self, x, filters, stride, project, name):
        """1x1, 3x3 with the stride, 1x1 to four times the filters, and a skip."""

        def relu(y, part):
            return keras.layers.Activation("relu", name=f"{name}_{part}")(y)

        shortcut = self.conv(x, 4 * filters, 1, stride, f"{name}_shortcut") if project else x
        y = relu(self.conv(x, filters, 1, 1, f"{name}_1"), "1_relu")
        y = relu(self.conv(y, filters, 3, stride, f"{name}_2"), "2_relu")
        y = self.conv(y, 4 * filters, 1, 1, f"{name}_3", self.last_gamma)
        return relu(keras.layers.Add(name=f"{name}_add")([y, shortcut]), "out")
