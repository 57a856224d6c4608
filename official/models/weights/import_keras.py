"""Weights out of Keras' files, read as data: no layer of a file is ever built.

Three formats. The old .h5 names every array by layer and variable. The newer .weights.h5 and the
model.weights.h5 inside a .keras name them by the layer's class and its place among those of its class, and
the variable's place in the layer: `layers/conv2d_3/vars/0`. Which name that is follows from the list of
layers: of the config.json inside a .keras, or of a network that we built.

Source of the newer layout: keras/src/saving/saving_lib.py of Keras 2.15 (`_save_container_state`).
"""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
from typing import Any, Iterable, Iterator

from tensorflow import keras

from official.models.backbones.input_scale import scale_of_layers
from official.models.backbones.kerascv import KerasCVBackbone, stock_backbone
from official.models.backbones.resnet import POOL_PAD
from official.models.weights.import_efficientnet import check_kind
from official.models.weights.named_weights import Weights, epsilon_of, shapes_of, take
from official.models.weights.weight_files import (
    WeightFile,
    WeightsError,
    open_h5,
    open_h5_member,
    read_member,
)

MODELS = ("Functional", "Model")
OPTIMIZER = "optimizer_weights/"  # of a whole model in the old format


def read_h5(path: str, backbone: keras.Model) -> Weights:
    """An .h5 of keras.applications or keras-cv, in the old or the newer format, with or without a head."""
    with open_h5(path) as file:
        if isinstance(backbone, KerasCVBackbone):
            table = _table_of_stock(backbone) if _is_newer(file) else _old_table(file)
            return take(
                file,
                table,
                shapes_of(backbone),
                f"keras-cv weights {path}",
                normalization="unit",
                epsilon=epsilon_of(backbone),
            )
        check_kind(path, not any("_se_reduce" in name for name in file.arrays), shapes_of(backbone))
        return take(file, _wanted(_old_table(file), backbone), shapes_of(backbone), f"Keras weights {path}")


def read_keras(path: str, backbone: keras.Model) -> Weights:
    """A .keras such as this project exports."""
    with zipfile.ZipFile(path) as archive:
        layers = list(_layers(json.loads(read_member(archive, "config.json"))))
        mine = {layer.name for layer in backbone.layers}
        has_se = any("_se_reduce" in config["config"]["name"] for config, _ in layers)
        check_kind(path, not has_se, shapes_of(backbone))
        norms = [
            c for c, _ in layers if c["class_name"] == "BatchNormalization" and c["config"]["name"] in mine
        ]
        epsilon = float(norms[0]["config"]["epsilon"]) if norms else 1e-3
        scale = scale_of_layers([config["config"] for config, _ in layers])
        padded = any(config["config"]["name"] == POOL_PAD for config, _ in layers)
        with open_h5_member(path, archive, "model.weights.h5") as file:
            table = _wanted(_newer_table(layers), backbone)
            weights = take(
                file, table, shapes_of(backbone), f"model {path}", normalization=scale, epsilon=epsilon
            )
            return dataclasses.replace(weights, pool="symmetric" if padded else "same")


def _wanted(table: dict[str, str], backbone: keras.Model) -> dict[str, str]:
    names = shapes_of(backbone)
    return {ours: theirs for ours, theirs in table.items() if ours in names}


# --- the old format --------------------------------------------------------------------------------


def _old_table(file: WeightFile) -> dict[str, str]:
    """`layer/variable` -> the array's name: `model_weights/layer/layer/variable:0` and shorter ones.

    Raises:
      WeightsError: two arrays of one name.
    """
    found: dict[str, str] = {}
    for name in file.arrays:
        if name.startswith(OPTIMIZER):
            continue
        ours = "/".join(name.split("/")[-2:]).split(":")[0]
        if ours in found:
            raise WeightsError(f"{file.path} has two variables {ours}: {found[ours]} and {name}")
        found[ours] = name
    return found


# --- the newer format ------------------------------------------------------------------------------


def _is_newer(file: WeightFile) -> bool:
    return any(name.startswith("layers/") for name in file.arrays)


def _layers(config: dict[str, Any], folder: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Every layer's config in a model's and in models inside it, each with its group's name in the file."""
    numbers: dict[str, int] = {}
    for layer in config["config"]["layers"]:
        kind = _snake_case(layer["class_name"])
        number = numbers.get(kind, 0)
        numbers[kind] = number + 1
        group = f"{folder}layers/{kind}_{number}" if number else f"{folder}layers/{kind}"
        if layer["class_name"] in MODELS:
            yield from _layers(layer, f"{group}/")
        else:
            yield layer, group


def _snake_case(name: str) -> str:
    """As Keras does: SeparableConv2D -> separable_conv2d."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _newer_table(layers: Iterable[tuple[dict[str, Any], str]]) -> dict[str, str]:
    """`layer/variable` -> the array's name."""
    found: dict[str, str] = {}
    for layer, group in layers:
        for number, variable in enumerate(_variables(layer["class_name"], layer["config"])):
            found[f"{layer['config']['name']}/{variable}"] = f"{group}/vars/{number}"
    return found


# Variables of a class of layers in the file's order, each with the option that must be on for it to be there.
_VARIABLES = {
    "Conv2D": (("kernel", ""), ("bias", "use_bias")),
    "DepthwiseConv2D": (("depthwise_kernel", ""), ("bias", "use_bias")),
    "SeparableConv2D": (("depthwise_kernel", ""), ("pointwise_kernel", ""), ("bias", "use_bias")),
    "Dense": (("kernel", ""), ("bias", "use_bias")),
    "BatchNormalization": (
        ("gamma", "scale"),
        ("beta", "center"),
        ("moving_mean", ""),
        ("moving_variance", ""),
    ),
}


def _variables(class_name: str, config: dict[str, Any]) -> list[str]:
    return [name for name, option in _VARIABLES.get(class_name, ()) if not option or config[option]]


def _table_of_stock(backbone: KerasCVBackbone) -> dict[str, str]:
    """The names in a file of keras-cv's own model of that size; we build one, and it loads nothing."""
    stock = stock_backbone(backbone.variant, backbone.get_config()["width"])
    layers = [{"class_name": type(layer).__name__, "config": layer.get_config()} for layer in stock.layers]
    return _newer_table(_layers({"config": {"layers": layers}}))
