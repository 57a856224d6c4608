"""Networks from TF1 checkpoints of the original detection stack: the authors' four, and others of their kind.

    spinenet-143-ssl, spinenet-190-ssl     RetinaNet on SpineNet, COCO's 90 ids and a background
    spinenet-143-best, spinenet-190-best   their teachers
    efficientnet-b7-nasfpn-teacher, -ssl   NAS-FPN segmenter, PASCAL VOC's 21 classes
    efficientnet-l2-nasfpn-teacher, -ssl
    anybody's                              RetinaNet with FPN on EfficientNet or ResNet, other classes

A file does not say its batch norm's epsilon; it is the run's (1e-3 in the released files' configs,
1e-4 for the two SpineNet teachers and by default). How many classes it has follows from the shapes of its
heads. A detector's class channels that the run has no class for, background among them, are left out.

Source: tensorflow/tpu models/official/detection/modeling/architecture/{spinenet,heads,nasfpn,fpn}.py,
whose layers are numbered within their variable scope in order of creation, where they have no names.
"""

from __future__ import annotations

import re
from typing import Collection, Container, Iterable, Iterator, Sequence

import numpy as np
from tensorflow import keras

from official.models.weights.import_efficientnet import model_name, tf1_names
from official.models.weights.import_resnet import OPTIMIZER, numbered_table, resnet_table, scope_of_resnet
from official.models.weights.named_weights import Weights, WeightsError, epsilon_of, shapes_of, take
from official.models.weights.weight_files import WeightFile

SPINENET = "spinenet/conv2d/kernel"
CLASS_BIAS, BOX_BIAS = "retinanet/class_net/class-predict/bias", "retinanet/box_net/box-predict/bias"
SEGMENT_BIAS = "segmentation/conv2d/bias"
_PREDICTOR = ("classification_predictor/kernel", "classification_predictor/bias")
_BLOCK_PARTS = ("shortcut", "1", "2", "3")
_RESAMPLE_PARTS = ("squeeze", "down", "match")


def spinenet_table(names: Iterable[str]) -> dict[str, str]:
    """A SpineNet's variable names -> names in a checkpoint."""
    layers = {
        name.split("/")[0].removesuffix("_conv") for name in names if name.split("/")[0].endswith("_conv")
    }
    found: dict[str, str] = {}
    for scope, members in _spinenet_scopes(layers):
        found.update(numbered_table(scope, members))
    return found


def _spinenet_scopes(layers: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Variable scopes, each with its layers in order of creation."""

    def group(block: int) -> list[str]:
        repeats = 1 + max(
            int(m.group(1)) for m in (re.match(rf"block{block}_(\d+)_", layer) for layer in layers) if m
        )
        wanted = [f"block{block}_{repeat}_{part}" for repeat in range(repeats) for part in _BLOCK_PARTS]
        return [layer for layer in wanted if layer in layers]

    endpoints = sorted(layer for layer in layers if layer.startswith("endpoint_"))
    yield "spinenet", ["stem", *group(0), *group(1), *endpoints]
    for block in range(2, 17):
        scope = f"spinenet/sub_policy{block - 2}"
        for parent in (0, 1):
            wanted = [f"block{block}_parent{parent}_{part}" for part in _RESAMPLE_PARTS]
            yield (
                f"{scope}/resample_with_alpha_resample_{block - 2}_{parent}",
                [layer for layer in wanted if layer in layers],
            )
        yield f"{scope}/scale_permuted_block_{block}", group(block)


# Ours -> theirs, for what is not a backbone. Where theirs are several, a file has one of them: the
# segmenter's convolutions were renamed on 2020-04-13.
# Source: heads.py:411-556, 1063-1160; nasfpn.py:130-370; fpn.py:88-135.
_PATTERNS = (
    (r"classification_conv_(\d+)/", (r"retinanet/class_net/class-\1/",)),
    (r"classification_bn_(\d+)_level_(\d+)/", (r"retinanet/class_net/class-\1-\2/",)),
    (r"classification_predictor/", ("retinanet/class_net/class-predict/",)),
    (r"box_conv_(\d+)/", (r"retinanet/box_net/box-\1/",)),
    (r"box_bn_(\d+)_level_(\d+)/", (r"retinanet/box_net/box-\1-\2/",)),
    (r"box_predictor/", ("retinanet/box_net/box-predict/",)),
    (r"fpn_lateral_(\d)/", (r"fpn/l\1/",)),
    (r"fpn_conv_([2-5])/", (r"fpn/post_hoc_d\1/",)),
    (r"fpn_conv_([6-8])/", (r"fpn/p\1/",)),
    (r"fpn_bn_(\d)/", (r"fpn/p\1-bn/",)),
    (r"nas_lateral_bn_(\d+)/", (r"resample_l\1/bn/",)),
    (r"nas_lateral_(\d+)/", (r"resample_l\1/{conv}/",)),
    (r"nas_(\d+)_node_(\d+)_(conv|bn)/", (r"fpn_cells/cell_\1/sub_policy{policy}/op_after_combine\2/\3/",)),
    (r"head_conv_(\d+)/", (r"segmentation/conv-\1/", r"segmentation/class-\1/")),
    (r"head_bn_(\d+)/", (r"segmentation/conv-\1-bn/", r"segmentation/class-\1-bn/")),
    (r"classifier/", ("segmentation/conv2d/",)),
)


def heads_table(names: Collection[str], there: Container[str] = ()) -> dict[str, str]:
    """Variable names of pyramid and heads -> names in a checkpoint; what has no place there is left out.

    Args:
      there: the checkpoint's names, which decide between two namings.
    """
    conv = "separable_conv2d" if any("depthwise" in n and n.startswith("nas_") for n in names) else "conv2d"
    found = {}
    for name in names:
        for ours, several in _PATTERNS:
            match = re.match(ours, name)
            if match:
                # NAS-FPN's nodes are numbered after P3..P7.
                policy = int(match.group(2)) - 5 if "{policy}" in several[0] else 0
                theirs = [
                    match.expand(t).format(conv=conv, policy=policy) + name[match.end() :] for t in several
                ]
                found[name] = next((name for name in theirs if name in there), theirs[0])
                break
    return found


def read_backbone(path: str, file: WeightFile, backbone: keras.Model) -> Weights:
    """A SpineNet out of a checkpoint of a detector.

    Raises:
      WeightsError: the backbone is another.
    """
    table = _spinenet_names(path, backbone)
    return take(
        file,
        table,
        shapes_of(backbone),
        f"SpineNet checkpoint {path}",
        without=OPTIMIZER,
        epsilon=epsilon_of(backbone),
    )


def _spinenet_names(path: str, backbone: keras.Model) -> dict[str, str]:
    names = shapes_of(backbone)
    if "endpoint_3_conv/kernel" not in names:
        raise WeightsError(
            f"{path} is of a SpineNet; it needs --backbone=spinenet-49 (or -49s, -96, -143, -190)"
        )
    return spinenet_table(names)


def _backbone_table(path: str, there: Collection[str], backbone: keras.Model) -> dict[str, str]:
    """Names of a SpineNet, ResNet or EfficientNet."""
    if SPINENET in there:
        return _spinenet_names(path, backbone)
    if scope_of_resnet(there):
        return resnet_table(path, there, backbone)
    return tf1_names(backbone, model_name(path, there))


def class_channels(path: str, file: WeightFile, network: str) -> int:
    """How many classes the head of a detector or segmenter has, its background included.

    Raises:
      WeightsError: no such head.
    """
    if network == "segmenter" and SEGMENT_BIAS in file.arrays:
        return file.arrays[SEGMENT_BIAS].shape[0]
    if network == "detector" and CLASS_BIAS in file.arrays and BOX_BIAS in file.arrays:
        anchors, rest = divmod(file.arrays[BOX_BIAS].shape[0], 4)
        if anchors and not rest and file.arrays[CLASS_BIAS].shape[0] % anchors == 0:
            return file.arrays[CLASS_BIAS].shape[0] // anchors
    wanted = {
        "detector": f"RetinaNet's head ({CLASS_BIAS})",
        "segmenter": f"segmenter's head ({SEGMENT_BIAS})",
    }[network]
    raise WeightsError(f"{path} has no {wanted}; it holds {sorted(file.arrays)[:3]}")


def read_network(path: str, file: WeightFile, model: keras.Model, class_ids: Sequence[int]) -> Weights:
    """A whole detector or segmenter, heads included.

    Args:
      path: for messages; file: the open checkpoint.
      model: a RetinaNet on SpineNet, or with FPN on EfficientNet or ResNet; or a segmenter.
      class_ids: of a detector, the original's class number of every class of the model.

    Raises:
      WeightsError: another kind of network, or too few classes in the file.
    """
    shapes, there = shapes_of(model), file.arrays
    table = {**heads_table(shapes, there), **_backbone_table(path, there, model.backbone)}
    anchors = shapes["box_predictor/bias"][0] // 4 if "box_predictor/bias" in shapes else 0
    if anchors:
        count = class_channels(path, file, "detector")
        if max(class_ids) >= count:
            raise WeightsError(
                f"{path} has {count} classes, background included; there is none of number {max(class_ids)}"
            )
        shapes.update({name: (*shapes[name][:-1], anchors * count) for name in _PREDICTOR})
    weights = take(file, table, shapes, f"checkpoint {path}", without=OPTIMIZER, epsilon=epsilon_of(model))
    for name in _PREDICTOR if anchors else ():
        if name in weights.values:
            weights.values[name] = _chosen_classes(weights.values[name], anchors, class_ids)
    return weights


def _chosen_classes(value: np.ndarray, anchors: int, class_ids: Sequence[int]) -> np.ndarray:
    """Channels [..., anchors * all classes] -> [..., anchors * chosen classes]."""
    by_class = value.reshape(*value.shape[:-1], anchors, -1)[..., list(class_ids)]
    return by_class.reshape(*value.shape[:-1], anchors * len(class_ids))
