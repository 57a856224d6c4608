"""The backbone that the model options name."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from official.errors import FlagError
from official.experiment import Model
from official.models.efficientnet import COEFFICIENTS, build_efficientnet
from official.models.features import check_size
from official.models.input_scale import own_scale
from official.models.kerascv_backbones import KERAS_CV, KerasCVBackbone
from official.models.resnet import BLOCKS, ResNetBackbone
from official.models.spinenet import COARSEST_LEVEL, FINEST_LEVEL, SPINENETS, SpineNetBackbone

keras = tf.keras


def check_levels(options: Model) -> None:
    """Whether the levels of a detector or segmenter are in order, offered by its backbone, and divide its input.

    Raises:
      FlagError: says which flag does not fit and what does.
    """
    low, high = options.min_level, options.max_level
    words = f"--min_level={low} --max_level={high}"
    spinenet, segmentation = options.backbone in SPINENETS, options.task == "segmentation"
    if low > high:
        raise FlagError(f"{words}: the coarsest level is below the finest")
    if spinenet and not (FINEST_LEVEL <= low and high <= COARSEST_LEVEL):
        raise FlagError(f"{words}: {options.backbone} has the levels {FINEST_LEVEL} to {COARSEST_LEVEL}")
    if segmentation and low != 3:
        raise FlagError(f"--min_level={low}: a segmenter's finest level is 3")
    if segmentation and not spinenet and options.pyramid == "nas_fpn" and high != 7:
        raise FlagError(f"--max_level={high}: NAS-FPN's levels are 3 to 7; leave the flag out, or take --pyramid=fpn")
    check_size(options.image_size, COARSEST_LEVEL if spinenet else high)


def build_backbone(options: Model, input_side: int | None = None) -> keras.Model:
    """An EfficientNet, ResNet or SpineNet with `pyramid_level_inputs`.

    Args:
      input_side: side of the square input, None where only the run knows.

    Raises:
      ValueError: unknown name, or a size that the backbone cannot take.
    """
    name, shape = options.backbone, (input_side, input_side, 3)
    scale = own_scale(name) if options.input_normalization == "auto" else options.input_normalization
    shared = {"input_normalization": scale, "input_shape": shape}
    if name in BLOCKS:
        return ResNetBackbone(
            blocks=BLOCKS[name],
            width=options.backbone_width or 1.0,
            batch_norm_momentum=options.batch_norm_momentum,
            batch_norm_epsilon=options.batch_norm_epsilon,
            activation=options.activation,
            zero_last_gamma=options.zero_last_gamma,
            pool_padding="same" if options.resnet_pool == "auto" else options.resnet_pool,
            **shared,
        )
    if name in KERAS_CV:
        return KerasCVBackbone(variant=name, width=options.backbone_width or 1.0, **shared)
    if name in SPINENETS:
        check_size(options.image_size, COARSEST_LEVEL)
        return SpineNetBackbone(
            **_scaling(options),
            survival_probability=options.survival_probability,
            batch_norm_momentum=options.batch_norm_momentum,
            batch_norm_epsilon=options.batch_norm_epsilon,
            activation=options.activation,
            **shared,
        )
    if name not in COEFFICIENTS:
        known = sorted({*COEFFICIENTS, *BLOCKS, *SPINENETS, *KERAS_CV})
        raise FlagError(f"backbone={name!r} is unknown; choose one of {known}")
    return build_efficientnet(
        name,
        width=options.backbone_width,
        depth=options.backbone_depth,
        survival_probability=options.survival_probability,
        batch_norm_momentum=options.backbone_batch_norm_momentum,
        **shared,
    )


def _scaling(options: Model) -> dict:
    """The named SpineNet's sizes; --backbone_width and --backbone_depth replace filter scale and repeats."""
    scaling = SPINENETS[options.backbone]
    width = options.backbone_width or scaling.filter_scale
    return {
        **dataclasses.asdict(scaling),
        "filter_scale": width,
        "endpoint_filters": max(1, round(scaling.endpoint_filters * width / scaling.filter_scale)),
        "repeats": int(options.backbone_depth) or scaling.repeats,
    }
