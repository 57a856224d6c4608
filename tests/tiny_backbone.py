"""The smallest backbone with every kind of layer that a step treats in a way of its own; `--backbone=tiny` in tests.

A Keras model is built and traced layer by layer, and the smallest EfficientNet has eighty of them: half of what
a test that trains would cost. The backbones that the program offers are tested in tests/models/, whole runs on
them by the tests that are `slow`.
"""

from __future__ import annotations

import keras_cv
from tensorflow import keras

from official.models.backbones.input_scale import scaled_input
from official.models.backbones.registry import backbones
from official.models.layers import DepthwiseConv2D, StochasticDepth, SyncBatchNormalization

LEVELS = range(1, 6)


@keras.saving.register_keras_serializable("tests")
class TinyBackbone(keras_cv.models.Backbone):
    """A convolution with stride 2 for each of the levels P1 to P5; at P3 a depthwise block beside an identity.

    Input: float [batch, height, width, 3]. Output: P5.
    """

    def __init__(
        self,
        *,
        filters=8,
        survival_probability=1.0,
        batch_norm_momentum=0.9,
        batch_norm_epsilon=1e-3,
        input_normalization="imagenet",
        input_shape=(None, None, 3),
        **kwargs,
    ):
        images = keras.Input(input_shape, name="images")
        x, levels = scaled_input(images, input_normalization), {}

        def norm_act(x, name):
            x = SyncBatchNormalization(
                momentum=batch_norm_momentum, epsilon=batch_norm_epsilon, name=f"{name}_bn"
            )(x)
            return keras.layers.ReLU(6.0, name=f"{name}_act")(x)

        for level in LEVELS:
            conv = keras.layers.Conv2D(filters, 3, 2, "same", use_bias=False, name=f"p{level}_conv")
            x = norm_act(conv(x), f"p{level}")
            if level == 3:
                branch = DepthwiseConv2D(3, padding="same", use_bias=False, name="block_depthwise")(x)
                branch = StochasticDepth(survival_probability, index=1, name="block_drop")(
                    norm_act(branch, "block")
                )
                x = keras.layers.Add(name="block_add")([x, branch])
            levels[f"P{level}"] = x.node.layer.name
        super().__init__(inputs=images, outputs=x, **kwargs)
        self.pyramid_level_inputs = levels
        self._arguments = {
            "filters": filters,
            "survival_probability": survival_probability,
            "batch_norm_momentum": batch_norm_momentum,
            "batch_norm_epsilon": batch_norm_epsilon,
            "input_normalization": input_normalization,
            "input_shape": tuple(input_shape),
        }

    def get_config(self):
        return {**super().get_config(), **self._arguments}


@backbones(["tiny"], scale="lite")  # not what --input_normalization is without `auto`
def _build(options, **shared):
    return TinyBackbone(
        survival_probability=options.survival_probability,
        batch_norm_momentum=options.backbone_batch_norm_momentum,
        **shared,
    )
