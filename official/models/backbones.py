"""The backbone that the model options name."""

from __future__ import annotations

import tensorflow as tf

from official.experiment import Model
from official.models.efficientnet import COEFFICIENTS, build_efficientnet
from official.models.kerascv_backbones import KERAS_CV, KerasCVBackbone
from official.models.resnet import BLOCKS, ResNetBackbone

keras = tf.keras


def build_backbone(options: Model, input_side: int | None = None) -> keras.Model:
    """An EfficientNet or ResNet with `pyramid_level_inputs`.

    Args:
      input_side: side of the square input, None where only the run knows.

    Raises:
      ValueError: unknown name.
    """
    name, shape = options.backbone, (input_side, input_side, 3)
    scale = "imagenet" if options.input_normalization == "auto" else options.input_normalization
    shared = {"input_normalization": scale, "input_shape": shape}
    if name in BLOCKS:
        return ResNetBackbone(
            blocks=BLOCKS[name],
            width=options.backbone_width or 1.0,
            batch_norm_momentum=options.batch_norm_momentum,
            batch_norm_epsilon=options.batch_norm_epsilon,
            zero_last_gamma=options.zero_last_gamma,
            **shared,
        )
    if name in KERAS_CV:
        return KerasCVBackbone(variant=name, width=options.backbone_width or 1.0, **shared)
    if name not in COEFFICIENTS:
        raise ValueError(f"backbone={name!r} is unknown; choose one of {sorted({*COEFFICIENTS, *BLOCKS, *KERAS_CV})}")
    return build_efficientnet(
        name,
        width=options.backbone_width,
        depth=options.backbone_depth,
        survival_probability=options.survival_probability,
        batch_norm_momentum=options.backbone_batch_norm_momentum,
        **shared,
    )
