"""The residual blocks that ResNet and SpineNet are made of.

Source: tensorflow/tpu models/official/detection/modeling/architecture/nn_blocks.py:27-189,
nn_ops.py:325-386.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from official.models.layers import StochasticDepth, SyncBatchNormalization


class BlockBuilder:
    """Makes the layers of one network, counting blocks for stochastic depth."""

    def __init__(
        self, momentum: float, epsilon: float, activation: str = "relu", *, zero_last_gamma: bool = False
    ) -> None:
        """Args: momentum, epsilon: of batch norm. activation: "relu" or "swish". zero_last_gamma: branches
        start at zero.
        """
        self.momentum, self.epsilon, self.activation = momentum, epsilon, activation
        self.last_gamma = "zeros" if zero_last_gamma else "ones"
        self.blocks_made = 0

    def conv(
        self, x: tf.Tensor, filters: int, kernel: int, stride: int, name: str, gamma: str = "ones"
    ) -> tf.Tensor:
        """Convolution without bias and batch norm; strided ones are padded symmetrically."""
        padding = "same"
        if stride > 1:
            padding = "valid"
            x = (
                keras.layers.ZeroPadding2D(((kernel - 1) // 2, kernel // 2), name=f"{name}_pad")(x)
                if kernel > 1
                else x
            )
        x = keras.layers.Conv2D(
            filters,
            kernel,
            strides=stride,
            padding=padding,
            use_bias=False,
            kernel_initializer="VarianceScaling",
            name=f"{name}_conv",
        )(x)
        return SyncBatchNormalization(
            momentum=self.momentum, epsilon=self.epsilon, gamma_initializer=gamma, name=f"{name}_bn"
        )(x)

    def act(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """The network's activation."""
        return keras.layers.Activation(self.activation, name=f"{name}_act")(x)

    def conv_act(self, x: tf.Tensor, filters: int, kernel: int, stride: int, name: str) -> tf.Tensor:
        """Convolution, batch norm, activation."""
        return self.act(self.conv(x, filters, kernel, stride, name), name)

    def bottleneck(
        self, x: tf.Tensor, filters: int, stride: int, project: bool, name: str, survival: float = 1.0
    ) -> tf.Tensor:
        """1x1, 3x3 with the stride, 1x1 to four times the filters, and a skip."""
        shortcut = self.conv(x, 4 * filters, 1, stride, f"{name}_shortcut") if project else x
        y = self.conv_act(x, filters, 1, 1, f"{name}_1")
        y = self.conv_act(y, filters, 3, stride, f"{name}_2")
        y = self.conv(y, 4 * filters, 1, 1, f"{name}_3", self.last_gamma)
        return self._join(y, shortcut, name, survival)

    def residual(
        self, x: tf.Tensor, filters: int, stride: int, project: bool, name: str, survival: float = 1.0
    ) -> tf.Tensor:
        """Two 3x3, the first with the stride, and a skip."""
        shortcut = self.conv(x, filters, 1, stride, f"{name}_shortcut") if project else x
        y = self.conv_act(x, filters, 3, stride, f"{name}_1")
        y = self.conv(y, filters, 3, 1, f"{name}_2", self.last_gamma)
        return self._join(y, shortcut, name, survival)

    def _join(self, branch: tf.Tensor, shortcut: tf.Tensor, name: str, survival: float) -> tf.Tensor:
        self.blocks_made += 1
        if survival < 1.0:
            branch = StochasticDepth(survival, index=self.blocks_made, name=f"{name}_drop")(branch)
        return self.act(keras.layers.Add(name=f"{name}_add")([branch, shortcut]), f"{name}_out")
