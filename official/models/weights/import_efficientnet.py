"""Variable table of the public TF1 EfficientNet checkpoints.

Source: tensorflow/tpu models/official/efficientnet/efficientnet_model.py (layers in order of creation).
"""

from __future__ import annotations

import dataclasses
import re
from typing import Container, Iterable

from tensorflow import keras

from official.models.weights.named_weights import Weights, WeightsError, shapes_of, take, variable_name
from official.models.weights.weight_files import WeightFile

_HEAD = {"top_conv": "conv2d", "top_bn": "tpu_batch_normalization", "predictions": "dense"}
EMA = "/ExponentialMovingAverage"


def tf1_names(backbone: keras.Model, model_name: str) -> dict[str, str]:
    """The backbone's variable names -> names in a TF1 EfficientNet checkpoint, without the average's suffix.

    Source: tensorflow/tpu models/official/efficientnet/efficientnet_model.py (layers in order of creation).
    """
    blocks = sorted(
        {
            m.group(1)
            for m in (re.match(r"block(\d+[a-z]+)_", variable_name(v)) for v in backbone.variables)
            if m
        },
        key=block_order,
    )
    number = {block: i for i, block in enumerate(blocks)}
    return {
        name: f"{model_name}/{_tf1_name(name, number)}" for name in map(variable_name, backbone.variables)
    }


def model_name(path: str, there: Iterable[str]) -> str:
    """The scope that a checkpoint has its EfficientNet in, such as "efficientnet-b7".

    Raises:
      WeightsError: it has none.
    """
    models = {name.split("/")[0] for name in there if re.match(r"efficientnet-\w+/stem/", name)}
    if len(models) != 1:
        raise WeightsError(
            f"{path} is no EfficientNet checkpoint (it has no efficientnet-*/stem), none of SimCLR (no"
            " base_model/conv2d), SpineNet (no spinenet/conv2d) or ResNet (no resnet*/conv2d), but holds"
            f" {sorted(there)[:3]}"
        )
    return models.pop()


def check_kind(path: str, lite: bool, names: Container[str]) -> None:
    """Refuses weights of an EfficientNet for a Lite and the other way: all names of the one are in the other,
    too.

    Args:
      lite: what the file is of; names: of the network's variables; one that is no EfficientNet passes.

    Raises:
      WeightsError: the other kind.
    """
    if "block1a_dwconv/depthwise_kernel" in names and lite == ("block1a_se_reduce/kernel" in names):
        kind = ("-lite", "lite0 (to -lite4)") if lite else ("", "b0 (to -b7, or -l2)")
        raise WeightsError(
            f"{path} is of an EfficientNet{kind[0]}; it needs --backbone=efficientnet-{kind[1]}"
        )


def block_order(block: str) -> tuple[int, int, str]:
    match = re.match(r"(\d+)([a-z]+)", block)
    assert match is not None, block
    digits, letters = match.groups()
    return int(digits), len(letters), letters


def _tf1_name(name: str, number: dict[str, int]) -> str:
    layer, variable = name.split("/")
    if layer.startswith("stem"):
        return f"stem/{'conv2d' if layer == 'stem_conv' else 'tpu_batch_normalization'}/{variable}"
    if layer in _HEAD:
        return f"head/{_HEAD[layer]}/{variable}"
    match = re.match(r"block(\d+[a-z]+)_(.*)", layer)
    assert match is not None, layer
    block, part = match.groups()
    first = block.startswith("1")  # its blocks have no expansion
    places = {
        "expand_conv": "conv2d",
        "expand_bn": "tpu_batch_normalization",
        "dwconv": "depthwise_conv2d",
        "bn": "tpu_batch_normalization" if first else "tpu_batch_normalization_1",
        "se_reduce": "se/conv2d",
        "se_expand": "se/conv2d_1",
        "project_conv": "conv2d" if first else "conv2d_1",
        "project_bn": "tpu_batch_normalization_1" if first else "tpu_batch_normalization_2",
    }
    return f"blocks_{number[block]}/{places[part]}/{variable}"


def read_efficientnet(path: str, file: WeightFile, backbone: keras.Model) -> Weights:
    """Reads a checkpoint; the averages where it has them, for they are what was published.

    Args:
      path: for messages; file: the open checkpoint.

    Raises:
      WeightsError: it is none of EfficientNet.
    """
    there, scope = file.arrays, model_name(path, file.arrays)
    lite = scope.startswith("efficientnet-lite")
    check_kind(path, lite, shapes_of(backbone))
    plain = tf1_names(backbone, scope)
    table = {ours: theirs + EMA if theirs + EMA in there else theirs for ours, theirs in plain.items()}
    weights = take(
        file,
        table,
        shapes_of(backbone),
        f"TF1 checkpoint {path}",
        without=("/RMSProp", "/Momentum"),
        normalization="lite" if lite else "imagenet",
    )
    averaged = set(plain.values())
    return dataclasses.replace(weights, unused=tuple(name for name in weights.unused if name not in averaged))
