"""AutoAugment: learned policies, one sub-policy drawn per image; v0 to v3 for detection, "imagenet" for
classification.

Source: tensorflow/tpu models/official/detection/utils/autoaugment_utils.py:38-148, 1506-1536;
models/official/efficientnet/autoaugment.py:38-70 (its policy_v0, of the AutoAugment paper).
"""

from __future__ import annotations

import functools
import re

import tensorflow as tf

from augment import ops
from augment.geometry import Settings

# One sub-policy a line: (operation probability level) one after the other. v0 is the policy of the
# detection AutoAugment paper.
_V0 = """
TranslateX_BBox .6 4; Equalize .8 10
TranslateY_Only_BBoxes .2 2; Cutout .8 8
Sharpness 0 8; ShearX_BBox .4 0
ShearY_BBox 1 2; TranslateY_Only_BBoxes .6 6
Rotate_BBox .6 10; Color 1 6
"""
_V1 = (
    _V0
    + """
Color 0 0; ShearX_Only_BBoxes .8 4
ShearY_Only_BBoxes .8 2; Flip_Only_BBoxes 0 10
Equalize .6 10; TranslateX_BBox .2 2
Color 1 10; TranslateY_Only_BBoxes .4 6
Rotate_BBox .8 10; Contrast 0 10
Cutout .2 2; Brightness .8 10
Color 1 6; Equalize 1 2
Cutout_Only_BBoxes .4 6; TranslateY_Only_BBoxes .8 2
Color .2 8; Rotate_BBox .8 10
Sharpness .4 4; TranslateY_Only_BBoxes 0 4
Sharpness 1 4; SolarizeAdd .4 4
Rotate_BBox 1 8; Sharpness .2 8
ShearY_BBox .6 10; Equalize_Only_BBoxes .6 8
ShearX_BBox .2 6; TranslateY_Only_BBoxes .2 10
SolarizeAdd .6 8; Brightness .8 10
"""
)
_V2 = """
Color 0 6; Cutout .6 8; Sharpness .4 8
Rotate_BBox .4 8; Sharpness .4 2; Rotate_BBox .8 10
TranslateY_BBox 1 8; AutoContrast .8 2
AutoContrast .4 6; ShearX_BBox .8 8; Brightness 0 10
SolarizeAdd .2 6; Contrast 0 10; AutoContrast .6 0
Cutout .2 0; Solarize .8 8; Color 1 4
TranslateY_BBox 0 4; Equalize .6 8; Solarize 0 10
TranslateY_BBox .2 2; ShearY_BBox .8 8; Rotate_BBox .8 8
Cutout .8 8; Brightness .8 8; Cutout .2 2
Color .8 4; TranslateY_BBox 1 6; Rotate_BBox .6 6
Rotate_BBox .6 10; BBox_Cutout 1 4; Cutout .2 8
Rotate_BBox 0 0; Equalize .6 6; ShearY_BBox .6 8
Brightness .8 8; AutoContrast .4 2; Brightness .2 2
TranslateY_BBox .4 8; Solarize .4 6; SolarizeAdd .2 10
Contrast 1 10; SolarizeAdd .2 8; Equalize .2 4
"""
_V3 = """
Posterize .8 2; TranslateX_BBox 1 8
BBox_Cutout .2 10; Sharpness 1 8
Rotate_BBox .6 8; Rotate_BBox .8 10
Equalize .8 10; AutoContrast .2 10
SolarizeAdd .2 2; TranslateY_BBox .2 8
Sharpness 0 2; Color .4 8
Equalize 1 8; TranslateY_BBox 1 8
Posterize .6 2; Rotate_BBox 0 10
AutoContrast .6 0; Rotate_BBox 1 6
Equalize 0 4; Cutout .8 10
Brightness 1 2; TranslateY_BBox 1 6
Contrast 0 2; ShearY_BBox .8 0
AutoContrast .8 10; Contrast .2 10
Rotate_BBox 1 10; Cutout 1 10
SolarizeAdd .8 6; Equalize .8 8
"""
_IMAGENET = """
Equalize .8 1; ShearY .8 4
Color .4 9; Equalize .6 3
Color .4 1; Rotate .6 8
Solarize .8 3; Equalize .4 7
Solarize .4 2; Solarize .6 2
Color .2 0; Equalize .8 8
Equalize .4 8; SolarizeAdd .8 3
ShearX .2 9; Rotate .6 8
Color .6 1; Equalize 1 2
Invert .4 9; Rotate .6 0
Equalize 1 9; ShearY .6 3
Color .4 7; Equalize .6 0
Posterize .4 6; AutoContrast .4 7
Solarize .6 8; Color .6 9
Solarize .2 4; Rotate .8 9
Rotate 1 7; TranslateY .8 9
ShearX 0 0; Solarize .8 4
ShearY .8 0; Color .6 4
Color 1 0; Rotate .6 2
Equalize .8 4; Equalize 0 8
Equalize 1 4; AutoContrast .6 2
ShearY .4 7; SolarizeAdd .6 7
Posterize .8 2; Solarize .6 10
Solarize .6 8; Equalize .6 1
Color .8 6; Rotate .4 5
"""
SubPolicy = tuple[tuple[str, float, float], ...]


def parse(text: str) -> tuple[SubPolicy, ...]:
    """`Op prob level; Op prob level` lines to ((op, probability, level), ...) per sub-policy."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        parts = [re.split(r"\s+", part.strip()) for part in line.split(";")]
        found.append(tuple((name, float(probability), float(level)) for name, probability, level in parts))
    return tuple(found)


_TEXTS = {"v0": _V0, "v1": _V1, "v2": _V2, "v3": _V3, "imagenet": _IMAGENET}
POLICIES: dict[str, tuple[SubPolicy, ...]] = {name: parse(text) for name, text in _TEXTS.items()}


def autoaugment(
    example: dict, key: tf.Tensor, *, version: str = "v0", settings: Settings = Settings()
) -> dict:
    """Applies one sub-policy of `version`, drawn uniformly.

    Args:
      example: see `augment.ops.apply`.
      key: int32 [2].

    Raises:
      ValueError: unknown version.
    """
    if version not in POLICIES:
        raise ValueError(f"no AutoAugment policy {version!r}; choose one of {sorted(POLICIES)}")
    policy = POLICIES[version]
    keys = tf.unstack(tf.random.experimental.stateless_split(key, 2, alg="philox"))
    drawn = tf.random.stateless_uniform([], keys[0], 0, len(policy), tf.int32, alg="philox")
    branches = [
        functools.partial(_apply_in_order, example, keys[1], sub_policy, settings) for sub_policy in policy
    ]
    return tf.switch_case(drawn, branches)


def _apply_in_order(example: dict, key: tf.Tensor, sub_policy: SubPolicy, settings: Settings) -> dict:
    example = dict(example)
    for number, (name, probability, level) in enumerate(sub_policy):
        op_key = tf.random.experimental.stateless_fold_in(key, number)
        example = ops.apply(
            example, name, level=level, key=op_key, probability=probability, settings=settings
        )
    return example
