"""Networks from TF1 checkpoints of the original detection stack: the authors' four, and others of their kind.

    spinenet-143-ssl, spinenet-190-ssl     RetinaNet on SpineNet, COCO's 90 ids and a background
    spinenet-143-best, spinenet-190-best   their teachers
    efficientnet-b7-nasfpn-teacher, -ssl   NAS-FPN segmenter, PASCAL VOC's 21 classes
    efficientnet-l2-nasfpn-teacher, -ssl

A file does not say its batch norm's epsilon; it is the run's (1e-3 in the released files' configs,
1e-4 for the two SpineNet teachers). The class channels that the run has no class for, background
among them, are left out.

Source: tensorflow/tpu models/official/detection/modeling/architecture/{spinenet,heads,nasfpn}.py,
whose layers are numbered within their variable scope in order of creation.
"""

from __future__ import annotations

import re
from typing import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from official.models.import_efficientnet import model_name, tf1_names
from official.models.weights import Weights, WeightsError, epsilon_of, numbered_table, variable_name

keras = tf.keras
SPINENET = "spinenet/conv2d/kernel"
_BLOCK_PARTS = ("shortcut", "1", "2", "3")
_RESAMPLE_PARTS = ("squeeze", "down", "match")


def spinenet_table(names: Iterable[str]) -> dict[str, str]:
    """A SpineNet's variable names -> names in a checkpoint."""
    layers = {name.split("/")[0].removesuffix("_conv") for name in names if name.split("/")[0].endswith("_conv")}
    found: dict[str, str] = {}
    for scope, members in _spinenet_scopes(layers):
        found.update(numbered_table(scope, members))
    return found


def _spinenet_scopes(layers: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Variable scopes, each with its layers in order of creation."""

    def group(block: int) -> list[str]:
        repeats = 1 + max(int(m.group(1)) for m in (re.match(rf"block{block}_(\d+)_", layer) for layer in layers) if m)
        wanted = [f"block{block}_{repeat}_{part}" for repeat in range(repeats) for part in _BLOCK_PARTS]
        return [layer for layer in wanted if layer in layers]

    endpoints = sorted(layer for layer in layers if layer.startswith("endpoint_"))
    yield "spinenet", ["stem", *group(0), *group(1), *endpoints]
    for block in range(2, 17):
        scope = f"spinenet/sub_policy{block - 2}"
        for parent in (0, 1):
            wanted = [f"block{block}_parent{parent}_{part}" for part in _RESAMPLE_PARTS]
            yield f"{scope}/resample_with_alpha_resample_{block - 2}_{parent}", [layer for layer in wanted if layer in layers]
        yield f"{scope}/scale_permuted_block_{block}", group(block)


# Ours -> theirs, for what is not a backbone. Source: heads.py:411-556, 1063-1160; nasfpn.py:130-370.
_PATTERNS = (
    (r"classification_conv_(\d+)/", r"retinanet/class_net/class-\1/"),
    (r"classification_bn_(\d+)_level_(\d+)/", r"retinanet/class_net/class-\1-\2/"),
    (r"classification_predictor/", "retinanet/class_net/class-predict/"),
    (r"box_conv_(\d+)/", r"retinanet/box_net/box-\1/"),
    (r"box_bn_(\d+)_level_(\d+)/", r"retinanet/box_net/box-\1-\2/"),
    (r"box_predictor/", "retinanet/box_net/box-predict/"),
    (r"nas_lateral_bn_(\d+)/", r"resample_l\1/bn/"),
    (r"nas_lateral_(\d+)/", r"resample_l\1/{conv}/"),
    (r"nas_(\d+)_node_(\d+)_(conv|bn)/", r"fpn_cells/cell_\1/sub_policy{policy}/op_after_combine\2/\3/"),
    (r"head_conv_(\d+)/", r"segmentation/class-\1/"),
    (r"head_bn_(\d+)/", r"segmentation/class-\1-bn/"),
    (r"classifier/", "segmentation/conv2d/"),
)


def heads_table(names: Sequence[str]) -> dict[str, str]:
    """Variable names of pyramid and heads -> names in a checkpoint; what has no place there is left out."""
    conv = "separable_conv2d" if any("depthwise" in n and n.startswith("nas_") for n in names) else "conv2d"
    found = {}
    for name in names:
        for ours, theirs in _PATTERNS:
            match = re.match(ours, name)
            if match:
                policy = int(match.group(2)) - 5 if "{policy}" in theirs else 0  # nodes are numbered after P3..P7
                found[name] = match.expand(theirs).format(conv=conv, policy=policy) + name[match.end():]
                break
    return found


def read_backbone(path: str, reader, backbone: keras.Model) -> Weights:
    """A SpineNet out of a checkpoint of a detector.

    Raises:
      WeightsError: the backbone is another.
    """
    return _read(reader, _spinenet_names(path, backbone), f"SpineNet checkpoint {path}", epsilon_of(backbone))


def _spinenet_names(path: str, backbone: keras.Model) -> dict[str, str]:
    names = [variable_name(v) for v in backbone.variables]
    if "endpoint_3_conv/kernel" not in names:
        raise WeightsError(f"{path} is of a SpineNet; it needs --backbone=spinenet-49 (or -49s, -96, -143, -190)")
    return spinenet_table(names)


def read_network(path: str, reader, model: keras.Model, class_ids: Sequence[int]) -> Weights:
    """A whole detector or segmenter, heads included.

    Args:
      path: for messages; reader: an open checkpoint.
      model: a RetinaNet on SpineNet, or a segmenter on an EfficientNet with NAS-FPN.
      class_ids: of a detector, the original's class number of every class of the model.

    Raises:
      WeightsError: another kind of network, or too few classes in the file.
    """
    there = reader.get_variable_to_shape_map()
    table = heads_table([variable_name(v) for v in model.variables])
    if SPINENET in there:
        table.update(_spinenet_names(path, model.backbone))
    else:
        table.update(tf1_names(model.backbone, model_name(path, there)))
    weights = _read(reader, table, f"checkpoint {path}", epsilon_of(model))
    for name in ("classification_predictor/kernel", "classification_predictor/bias"):
        if name in weights.values:
            anchors = weights.values["box_predictor/bias"].shape[0] // 4
            weights.values[name] = _chosen_classes(weights.values[name], anchors, class_ids, path)
    return weights


def _chosen_classes(value: np.ndarray, anchors: int, class_ids: Sequence[int], path: str) -> np.ndarray:
    """Channels [..., anchors * all classes] -> [..., anchors * chosen classes]."""
    count = value.shape[-1] // anchors
    if max(class_ids) >= count:
        raise WeightsError(f"{path} has {count} classes, background included; there is none of number {max(class_ids)}")
    by_class = value.reshape(*value.shape[:-1], anchors, count)[..., list(class_ids)]
    return by_class.reshape(*value.shape[:-1], anchors * len(class_ids))


def _read(reader, table: dict[str, str], origin: str, epsilon: float) -> Weights:
    there = reader.get_variable_to_shape_map()
    values = {ours: reader.get_tensor(theirs) for ours, theirs in table.items() if theirs in there}
    used = set(table.values())
    unused = tuple(sorted(n for n in there if n not in used and n != "global_step" and not n.endswith("/Momentum")))
    return Weights(values, origin, unused, "imagenet", epsilon)
