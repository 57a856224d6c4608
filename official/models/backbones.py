"""The backbone that the model options name."""

from __future__ import annotations

import tensorflow as tf

from official.experiment import Model
from official.models.efficientnet import COEFFICIENTS, build_efficientnet
from official.models.resnet import BLOCKS, ResNetBackbone

keras = tf.keras


def build_backbone(options: Model, input_side: int | None = None) -> keras.Model:
    """An EfficientNet or ResNet with `pyramid_level_inputs`.

    Args:
      input_side: side of the square input, None where only the run knows.

    Raises:
      ValueError: unknown name.
    """
    shape = (input_side, input_side, 3)
    if options.backbone in BLOCKS:
        return ResNetBackbone(
            blocks=BLOCKS[options.backbone],
            width=options.backbone_width or 1.0,
            batch_norm_momentum=options.batch_norm_momentum,
            batch_norm_epsilon=options.batch_norm_epsilon,
            input_shape=shape,
        )
    if options.backbone not in COEFFICIENTS:
        raise ValueError(f"backbone={options.backbone!r} is unknown; choose one of {sorted({*COEFFICIENTS, *BLOCKS})}")
    return build_efficientnet(
        options.backbone,
        width=options.backbone_width,
        depth=options.backbone_depth,
        survival_probability=options.survival_probability,
        batch_norm_momentum=options.backbone_batch_norm_momentum,
        input_shape=shape,
    )
