"""Variable tables of the public SimCLR ResNet checkpoints, TF1 and TF2.

SimCLR's ResNet is the detection stack's (stride on the 3x3, symmetric padding), fed with pixels in
[0, 1] without mean and deviation, and has batch norm epsilon 1e-5.

TF1 names count convolutions and batch norms in order of creation: stem, then per block the
shortcut, if there is one, before the three convolutions. TF2 files are object graphs, in which
every variable is found by its path; a SavedModel of TF2 holds the same graph.

Source: google-research/simclr resnet.py, tf2/resnet.py, tf2/model.py.
"""

from __future__ import annotations

import re
from typing import Container, Iterable, Iterator

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from official.models.weights.import_resnet import layers_in_order, numbered_table
from official.models.weights.named_weights import BATCH_NORM, Weights, WeightsError, shapes_of, take
from official.models.weights.weight_files import WeightFile

EPSILON = 1e-5
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def tf1_table(names: Iterable[str]) -> dict[str, str]:
    """Our variable names -> names in a TF1 checkpoint."""
    return numbered_table("base_model", layers_in_order(names))


def tf2_table(names: Iterable[str]) -> dict[str, str]:
    """Our variable names -> paths in the object graph of a TF2 checkpoint, below `resnet_model`."""
    found = {}
    for layer in layers_in_order(names):
        conv, norm = _tf2_places(layer)
        found[f"{layer}_conv/kernel"] = f"{conv}/conv2d/kernel"
        for part in BATCH_NORM:
            found[f"{layer}_bn/{part}"] = f"{norm}/bn/{part}"
    return found


def _tf2_places(layer: str) -> tuple[str, str]:
    match = re.match(r"stage(\d+)_block(\d+)_(shortcut|\d)", layer)
    if not match:
        return "initial_conv_relu_max_pool/0", "initial_conv_relu_max_pool/2"
    stage, block, part = match.groups()
    place = f"block_groups/{int(stage) - 2}/layers/{block}"
    if part == "shortcut":
        return f"{place}/projection_layers/0", f"{place}/projection_layers/1"
    first = 3 * (int(part) - 1)  # convolution, batch norm, drop block
    return f"{place}/conv_relu_dropblock_layers/{first}", f"{place}/conv_relu_dropblock_layers/{first + 1}"


def is_tf1(there: Container[str]) -> bool:
    """Whether a checkpoint's variables are SimCLR's TF1 ones."""
    return "base_model/conv2d/kernel" in there


class ObjectGraph:
    """The object graph of a TF2 checkpoint: finds the key of a variable by its path."""

    def __init__(self, file: WeightFile) -> None:
        """Args: file: an open checkpoint."""
        graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(file.arrays[GRAPH].load())
        self.nodes = graph.nodes

    def key(self, path: str) -> str | None:
        """The checkpoint key of the variable at `path` from the root, or None."""
        node = self.nodes[0]
        for step in path.split("/"):
            place = next((c.node_id for c in node.children if c.local_name == step), None)
            if place is None:
                return None
            node = self.nodes[place]
        return node.attributes[0].checkpoint_key if node.attributes else None

    def root_of_resnet(self) -> str | None:
        """The path of SimCLR's ResNet, or None if there is none."""
        for root in ("model/resnet_model", "resnet_model"):
            if self.key(f"{root}/initial_conv_relu_max_pool/0/conv2d/kernel"):
                return root
        return None


def _found_tf2(graph: ObjectGraph, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(our name, key) of the variables that a TF2 checkpoint or SavedModel has."""
    root = graph.root_of_resnet()
    keys = ((ours, graph.key(f"{root}/{path}")) for ours, path in tf2_table(names).items())
    return ((ours, key) for ours, key in keys if key)


def read_simclr(path: str, file: WeightFile, backbone: tf.keras.Model) -> Weights:
    """Reads a checkpoint of either version.

    Args:
      path: for messages; file: the open checkpoint.

    Raises:
      WeightsError: the backbone is no ResNet, or a TF2 checkpoint of something else.
    """
    tf1, names = is_tf1(file.arrays), shapes_of(backbone)
    graph = None if tf1 else ObjectGraph(file)
    if graph and graph.root_of_resnet() is None:
        raise WeightsError(
            f"{path} is a TF2 checkpoint, but not of SimCLR's ResNet; of a run of this project give the run"
            " folder, or use --init_checkpoint"
        )
    if not any(name.startswith("stage2_block0") for name in names):
        raise WeightsError(f"{path} is a SimCLR ResNet; it needs --backbone=resnet-50 (or -101, -152)")
    table = dict(_found_tf2(graph, names)) if graph else tf1_table(names)
    return take(
        file,
        table,
        names,
        f"SimCLR {'TF1' if tf1 else 'TF2'} checkpoint {path}",
        normalization="unit",
        epsilon=EPSILON,
        without=("Momentum", "OBJECT_GRAPH", "OPTIMIZER_SLOT", "global_step", "save_counter"),
    )
