"""keras-cv's own ResNets as backbones, for its weight files.

ResNet v1 (stride on a bottleneck's first 1x1) and v2 (pre-activation) are what their names say, so
they are taken as they are; only batch norm is replaced, for the reasons in
official/models/layers.py. keras-cv's EfficientNetV1 is not the published network and is not offered.
"""

from __future__ import annotations

from typing import Any

import keras_cv
from tensorflow import keras

from official.experiment import Model
from official.models.backbones.input_scale import scale_layer
from official.models.backbones.registry import backbones
from official.models.layers import SyncBatchNormalization

_BLOCKS = {"50": [3, 4, 6, 3], "101": [3, 4, 23, 3], "152": [3, 8, 36, 3]}
# Name on the command line -> (class, blocks per stage).
KERAS_CV = {
    **{
        f"keras-cv-resnet-{depth}": (keras_cv.models.ResNetBackbone, blocks)
        for depth, blocks in _BLOCKS.items()
    },
    **{
        f"keras-cv-resnet-{depth}-v2": (keras_cv.models.ResNetV2Backbone, blocks)
        for depth, blocks in _BLOCKS.items()
    },
}


def stock_backbone(
    name: str, width: float = 1.0, input_shape: tuple = (None, None, 3), *, include_rescaling: bool = False
) -> keras.Model:
    """keras-cv's own model with random weights, built without its presets (those need the network)."""
    constructor, blocks = KERAS_CV[name]
    filters = [max(8, int(f * width)) for f in (64, 128, 256, 512)]
    return constructor(
        stackwise_filters=filters,
        stackwise_blocks=blocks,
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=include_rescaling,
        input_shape=input_shape,
    )


@keras.saving.register_keras_serializable("self_training")
class KerasCVBackbone(keras_cv.models.Backbone):
    """A keras-cv ResNet with this project's batch norm and input scale; features P2..P5.

    Input: float [batch, height, width, 3], normalised with the ImageNet mean and deviation.
    """

    def __init__(
        self,
        *,
        variant: str,
        width: float = 1.0,
        input_normalization: str = "unit",
        input_shape: tuple = (None, None, 3),
        **kwargs: Any,
    ) -> None:
        """Builds the network.

        Args:
          variant: a key of `KERAS_CV`.
          width: multiplies every channel count.
          input_normalization: keras-cv's weights want [0, 1].
          input_shape: (height, width, 3).
        """
        stock = stock_backbone(variant, width, tuple(input_shape), include_rescaling=True)

        def own_layer(layer):
            if isinstance(layer, keras.layers.Rescaling):  # keras-cv's place for it
                return scale_layer(input_normalization)
            kind = SyncBatchNormalization if type(layer).__name__ == "BatchNormalization" else type(layer)
            return kind.from_config(layer.get_config())

        copy = keras.models.clone_model(keras.Model(stock.inputs, stock.outputs), clone_function=own_layer)
        super().__init__(inputs=copy.inputs[0], outputs=copy.outputs[0], **kwargs)
        self.pyramid_level_inputs = dict(stock.pyramid_level_inputs)
        self.variant = variant
        self._arguments = {
            "variant": variant,
            "width": width,
            "input_normalization": input_normalization,
            "input_shape": tuple(input_shape),
        }

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._arguments}


@backbones(KERAS_CV)
def _build(options: Model, **shared: Any) -> KerasCVBackbone:
    return KerasCVBackbone(variant=options.backbone, width=options.backbone_width or 1.0, **shared)
