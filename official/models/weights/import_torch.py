"""Names of PyTorch's EfficientNets and ResNets onto ours, and what each family wants of pixels and padding.

    family, by its names           files                              pixels     epsilon  padding
    efficientnet-pytorch           efficientnet-b0-355c32eb.pth …     mean, std  1e-3     TensorFlow's SAME
      adversarial                  adv-efficientnet-b0-….pth          [-1, 1]    1e-3     TensorFlow's SAME
    efficientnet-lite-pytorch      efficientnet-lite0-57934424.pth …  127 / 128  1e-3     TensorFlow's SAME
    timm tf_efficientnet_b0 … l2   …_b7_ns-….pth, .ns_jft_in1k …      mean, std  1e-3     TensorFlow's SAME
      _ap (AdvProp)                …_b7_ap-….pth, .ap_in1k            [-1, 1]    1e-3     TensorFlow's SAME
      tf_efficientnet_lite0 … 4    …_lite0-0aa007d2.pth, .in1k        127 / 128  1e-3     TensorFlow's SAME
    timm, torchvision resnet50 …   resnet50-0676ba61.pth, .a1_in1k    mean, std  1e-5     symmetric
    timm efficientnet_*            efficientnet_b0_ra-3dd342df.pth    refused: symmetric padding, epsilon 1e-5

Where a stride is 2, PyTorch pads both sides and TensorFlow's SAME only the far one, so that the same numbers
see another image. Our ResNet pads its convolutions as PyTorch does, and its pool on request (--resnet_pool);
our EfficientNet is TensorFlow's. timm's names are the same for both kinds of EfficientNet, so the name of the
file, of its folder or of the `architecture` in a config.json beside it must say which it is.

Source: lukemelas/EfficientNet-PyTorch model.py, utils.py; timm models/{efficientnet,_efficientnet_builder,
_efficientnet_blocks,resnet}.py; their pages of files.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Collection, Iterable, Mapping

import numpy as np
from tensorflow import keras

from official.files import read_json
from official.models.weights.import_efficientnet import block_order, check_kind
from official.models.weights.named_weights import Weights, WeightsError, shapes_of, take
from official.models.weights.torch_files import open_safetensors, open_torch
from official.models.weights.weight_files import StoredArray, WeightFile

_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_PLAIN = {"kernel": "weight", "depthwise_kernel": "weight", "bias": "bias"}
# Parts of a block in efficientnet-pytorch; in timm with expansion; in timm without (the first stage).
_LUKEMELAS = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "bn": "_bn1",
    "se_reduce": "_se_reduce",
    "se_expand": "_se_expand",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}
_TIMM = {
    "expand_conv": "conv_pw",
    "expand_bn": "bn1",
    "dwconv": "conv_dw",
    "bn": "bn2",
    "se_reduce": "se.conv_reduce",
    "se_expand": "se.conv_expand",
    "project_conv": "conv_pwl",
    "project_bn": "bn3",
}
_TIMM_FIRST = {**_TIMM, "bn": "bn1", "project_conv": "conv_pw", "project_bn": "bn2"}
# Outside of blocks: ours -> efficientnet-pytorch's, timm's.
_ENDS = {
    "stem_conv": ("_conv_stem", "conv_stem"),
    "stem_bn": ("_bn0", "bn1"),
    "top_conv": ("_conv_head", "conv_head"),
    "top_bn": ("_bn1", "bn2"),
    "predictions": ("_fc", "classifier"),
}
_MEMBER = re.compile(r"(?<![a-z0-9])(tf_)?efficientnet_(b\d|l2|lite\d)(?![a-z0-9])")
_SCALES = {
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)): "imagenet",
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)): "symmetric",
}


@dataclasses.dataclass(frozen=True)
class Family:
    """What the weights of a file were trained with.

    Attributes:
      name: for messages.
      normalization: a key of `input_scale.SCALES`; epsilon: of batch norm.
      pool: padding of a ResNet's pool, "same" or "symmetric".
    """

    name: str
    normalization: str
    epsilon: float
    pool: str = "same"


def read_torch(path: str, model: keras.Model) -> Weights:
    """Reads a .safetensors, .pth or .pt into what `model` has: a backbone, or a classifier with its head.

    Raises:
      WeightsError: names that are not known, or of a network that ours is not.
    """
    opener = open_safetensors if path.endswith(".safetensors") else open_torch
    with opener(path) as file:
        names = shapes_of(model)
        if {"layer1.0.conv1.weight", "conv1.weight"} <= set(file.arrays):
            family, table = _resnet_family(path), resnet_table(names)
            is_resnet = "stage2_block0_1_conv/kernel" in names
            _need(path, is_resnet, "a ResNet", "--backbone=resnet-50 (or -101, -152)")
        else:
            family, table = _efficientnet(path, file.arrays, names)
        weights = take(
            _as_in_keras(file, table),
            table,
            names,
            f"PyTorch weights {path} ({family.name})",
            without=("num_batches_tracked",),
            normalization=family.normalization,
            epsilon=family.epsilon,
        )
        return dataclasses.replace(weights, pool=family.pool)


def _need(path: str, met: bool, what: str, remedy: str) -> None:
    if not met:
        raise WeightsError(f"{path} is of {what}; it needs {remedy}")


# --- EfficientNet ----------------------------------------------------------------------------------


def _efficientnet(path: str, there: Collection[str], names: Collection[str]) -> tuple[Family, dict[str, str]]:
    lite = not any("_se_reduce" in name or ".se.conv_reduce" in name for name in there)
    if "_conv_stem.weight" in there:
        family, timm = _lukemelas_family(path, lite), False
    elif "conv_stem.weight" in there and "blocks.0.0.conv_dw.weight" in there:
        family, timm = timm_family(path), True
    else:
        raise WeightsError(
            f"{path}: its names are none of efficientnet-pytorch (_conv_stem.weight), timm's EfficientNet"
            f" (conv_stem.weight) or ResNet (layer1.0.conv1.weight); it holds {sorted(there)[:3]}"
        )
    is_efficientnet = "block1a_dwconv/depthwise_kernel" in names
    smallest = "efficientnet-lite0" if lite else "efficientnet-b0"
    _need(path, is_efficientnet, family.name, f"--backbone={smallest} or a larger one")
    check_kind(path, lite, names)
    return family, efficientnet_table(names, timm)


def efficientnet_table(names: Iterable[str], timm: bool) -> dict[str, str]:
    """An EfficientNet's variable names, its classifier's among them -> names in a state dict.

    Args:
      timm: timm's names; else efficientnet-pytorch's.
    """
    names = list(names)
    blocks = {m.group(1) for m in (re.match(r"block(\d+[a-z]+)_", name) for name in names) if m}
    number = {block: i for i, block in enumerate(sorted(blocks, key=block_order))}
    found = {}
    for name in names:
        layer, variable = name.split("/")
        block = re.match(r"block((\d+)([a-z]+))_(.*)", layer)
        if layer in _ENDS:
            place, part = _ENDS[layer][timm], layer
        elif block and timm:
            _, stage, letter, part = block.groups()
            parts = _TIMM_FIRST if stage == "1" else _TIMM
            place = f"blocks.{int(stage) - 1}.{ord(letter) - ord('a')}.{parts[part]}"
        elif block:
            part = block.group(4)
            place = f"_blocks.{number[block.group(1)]}.{_LUKEMELAS[part]}"
        else:
            continue
        found[name] = f"{place}.{(_NORM if part.endswith('bn') else _PLAIN)[variable]}"
    return found


def _lukemelas_family(path: str, lite: bool) -> Family:
    if lite:
        return Family("efficientnet-lite-pytorch", "lite", 1e-3)
    adversarial = os.path.basename(path).startswith("adv-")
    name = "efficientnet-pytorch, AdvProp" if adversarial else "efficientnet-pytorch"
    return Family(name, "symmetric" if adversarial else "imagenet", 1e-3)


def timm_family(path: str) -> Family:
    """Which of timm's EfficientNets a file is, by config.json beside it, its own name or its folders'.

    Raises:
      WeightsError: nothing says it; one with PyTorch's padding; pixels on an unknown scale.
    """
    config = _config(path)
    places = [str(config.get("architecture", "")), *reversed(os.path.abspath(path).split(os.sep))]
    match = next((m for m in map(_MEMBER.search, places) if m), None)
    if match is None:
        raise WeightsError(
            f"{path}: timm's names are the same for tf_efficientnet_* (TensorFlow's padding, as here)"
            " and efficientnet_* (PyTorch's): keep the file under its own name, such as"
            " tf_efficientnet_b0_ns-c0e6a31c.pth, in a folder such as tf_efficientnet_b0.ns_jft_in1k,"
            " or with its config.json beside it"
        )
    if not match.group(1):
        raise WeightsError(
            f"{path} is timm's {match.group(0)}, trained with PyTorch's symmetric padding and epsilon 1e-5;"
            f" with TensorFlow's padding its features would be others. Take tf_{match.group(0)}"
        )
    stated = _stated_scale(path, config)
    if match.group(2).startswith("lite"):
        return Family(f"timm's {match.group(0)}", "lite", 1e-3)
    adversarial = re.match(r"[_.]ap(?![a-z])", match.string[match.end() :])
    scale = stated or ("symmetric" if adversarial else "imagenet")
    return Family(f"timm's {match.group(0)}", scale, 1e-3)


def _config(path: str) -> dict:
    content = read_json(os.path.join(os.path.dirname(os.path.abspath(path)), "config.json"))
    return content if isinstance(content, dict) and "architecture" in content else {}


def _stated_scale(path: str, config: dict) -> str:
    """The scale that timm's config.json states, "" without one.

    Raises:
      WeightsError: one that is not known here.
    """
    pixels = config.get("pretrained_cfg", config)
    if not isinstance(pixels, dict) or not {"mean", "std"} <= set(pixels):
        return ""
    found = (tuple(pixels["mean"]), tuple(pixels["std"]))
    if found not in _SCALES:
        raise WeightsError(
            f"{path}: its config.json states pixels of mean and deviation {found}, unknown here"
        )
    return _SCALES[found]


# --- ResNet ----------------------------------------------------------------------------------------


def _resnet_family(path: str) -> Family:
    stated = _stated_scale(path, _config(path))
    return Family("a ResNet of torchvision or timm", stated or "imagenet", 1e-5, "symmetric")


def resnet_table(names: Iterable[str]) -> dict[str, str]:
    """A ResNet's variable names, its classifier's among them -> those of torchvision and timm."""
    found = {}
    for name in names:
        layer, variable = name.split("/")
        block = re.match(r"stage(\d)_block(\d+)_(shortcut|\d)_(conv|bn)", layer)
        if layer == "predictions":
            found[name] = f"fc.{_PLAIN[variable]}"
            continue
        if layer in ("stem_conv", "stem_bn"):
            place, kind = {"stem_conv": "conv1", "stem_bn": "bn1"}[layer], layer.split("_")[1]
        elif block:
            stage, number, part, kind = block.groups()
            within = f"downsample.{int(kind == 'bn')}" if part == "shortcut" else f"{kind}{part}"
            place = f"layer{int(stage) - 1}.{number}.{within}"
        else:
            continue
        found[name] = f"{place}.{(_NORM if kind == 'bn' else _PLAIN)[variable]}"
    return found


# --- axes ------------------------------------------------------------------------------------------


def _as_in_keras(file: WeightFile, table: Mapping[str, str]) -> WeightFile:
    """With the axes of Keras: kernels [h, w, in, out], depthwise [h, w, channels, 1], dense [in, out]."""
    moved = {}
    for ours, theirs in table.items():
        if theirs in file.arrays:
            array = file.arrays[theirs]
            moved[theirs] = _moved(array, _axes(ours, len(array.shape)))
    return dataclasses.replace(file, arrays={**file.arrays, **moved})


def _axes(ours: str, rank: int) -> tuple[int, ...]:
    if rank == 4:
        return (2, 3, 0, 1) if ours.endswith("depthwise_kernel") else (2, 3, 1, 0)
    return (1, 0) if rank == 2 else tuple(range(rank))


def _moved(array: StoredArray, axes: tuple[int, ...]) -> StoredArray:
    return dataclasses.replace(
        array,
        shape=tuple(array.shape[axis] for axis in axes),
        load=lambda: np.transpose(array.load(), axes),
    )
