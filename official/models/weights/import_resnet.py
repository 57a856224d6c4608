"""Variable table of ResNets whose layers TF1 numbered in order of creation.

    resnet50/conv2d/kernel       the detection stack's, alone or with its pyramid and heads
    conv2d/kernel                tensorflow/tpu's classifiers, from which that stack starts
    base_model/conv2d/kernel     SimCLR's (import_simclr.py)

Source: tensorflow/tpu models/official/detection/modeling/architecture/{resnet,nn_blocks}.py,
models/official/resnet/resnet_model.py.
"""

from __future__ import annotations

import re
from typing import Collection, Iterable, Sequence

import tensorflow as tf

from official.models.weights.named_weights import (
    BATCH_NORM,
    Weights,
    WeightsError,
    epsilon_of,
    shapes_of,
    take,
)
from official.models.weights.weight_files import WeightFile

CLASSIFIER_EPSILON = 1e-5  # resnet_model.py; the detection stack's is the run's
OPTIMIZER = ("Momentum", "global_step")


def numbered_table(scope: str, layers: Sequence[str]) -> dict[str, str]:
    """TF1 names of convolutions, each with its batch norm, that one scope numbers in order of creation.

    Args:
      scope: "" for none.
      layers: without "_conv" and "_bn", such as "stage2_block0_1".
    """
    found, place = {}, f"{scope}/" if scope else ""
    for number, layer in enumerate(layers):
        suffix = f"_{number}" if number else ""
        found[f"{layer}_conv/kernel"] = f"{place}conv2d{suffix}/kernel"
        for part in BATCH_NORM:
            found[f"{layer}_bn/{part}"] = f"{place}batch_normalization{suffix}/{part}"
    return found


def layers_in_order(names: Iterable[str]) -> list[str]:
    """`stem`, `stage2_block0_shortcut`, `stage2_block0_1` ... in the originals' order of creation.

    Args:
      names: of the backbone's variables, such as "stage2_block0_1_conv/kernel".
    """
    layers = {
        name.split("/")[0].removesuffix("_conv") for name in names if name.split("/")[0].endswith("_conv")
    }

    def order(layer):
        found = re.match(r"stage(\d+)_block(\d+)_(shortcut|\d)", layer)
        if not found:
            return (0, 0, 0)  # the stem
        stage, block, part = found.groups()
        return (int(stage), int(block), 0 if part == "shortcut" else int(part))

    return sorted(layers, key=order)


def scope_of_resnet(there: Iterable[str]) -> str | None:
    """The scope that a checkpoint has a ResNet in, "" for the classifiers'; None where it has none."""
    scopes = {
        name.removesuffix("conv2d/kernel").rstrip("/")
        for name in there
        if re.fullmatch(r"(resnet\d+/)?conv2d/kernel", name)
    }
    return max(scopes) if scopes else None


def resnet_table(path: str, there: Collection[str], backbone: tf.keras.Model) -> dict[str, str]:
    """A ResNet's variable names -> names in a checkpoint.

    Raises:
      WeightsError: the backbone is another.
    """
    scope, names = scope_of_resnet(there), shapes_of(backbone)
    if "stage2_block0_1_conv/kernel" not in names:
        raise WeightsError(
            f"{path} is of a {scope or 'ResNet'}; it needs --backbone=resnet-50 (or -101, -152)"
        )
    return numbered_table(scope or "", layers_in_order(names))


def read_resnet(path: str, file: WeightFile, backbone: tf.keras.Model) -> Weights:
    """The ResNet of an open checkpoint of the detection stack, or of tensorflow/tpu's classifiers.

    Raises:
      WeightsError: the backbone is another.
    """
    table = resnet_table(path, file.arrays, backbone)
    scope = scope_of_resnet(file.arrays)
    return take(
        file,
        table,
        shapes_of(backbone),
        f"TF1 checkpoint {path} ({scope or 'ResNet'})",
        without=OPTIMIZER,
        epsilon=epsilon_of(backbone) if scope else CLASSIFIER_EPSILON,
    )
