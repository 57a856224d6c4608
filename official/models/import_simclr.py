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
from typing import Iterator, Sequence

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from official.models.weights import BATCH_NORM, Weights, WeightsError, numbered_table, variable_name

EPSILON = 1e-5
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def layers_in_order(names: Sequence[str]) -> list[str]:
    """`stem`, `stage2_block0_shortcut`, `stage2_block0_1` ... in the original's order of creation.

    Args:
      names: of the backbone's variables, such as "stage2_block0_1_conv/kernel".
    """
    layers = {name.split("/")[0].removesuffix("_conv") for name in names if name.split("/")[0].endswith("_conv")}

    def order(layer):
        found = re.match(r"stage(\d+)_block(\d+)_(shortcut|\d)", layer)
        if not found:
            return (0, 0, 0)  # the stem
        stage, block, part = found.groups()
        return (int(stage), int(block), 0 if part == "shortcut" else int(part))

    return sorted(layers, key=order)


def tf1_table(names: Sequence[str]) -> dict[str, str]:
    """Our variable names -> names in a TF1 checkpoint."""
    return numbered_table("base_model", layers_in_order(names))


def tf2_table(names: Sequence[str]) -> dict[str, str]:
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


def is_tf1(shapes: dict) -> bool:
    """Whether a checkpoint's variables are SimCLR's TF1 ones."""
    return "base_model/conv2d/kernel" in shapes


class ObjectGraph:
    """The object graph of a TF2 checkpoint: finds the key of a variable by its path."""

    def __init__(self, reader):
        """Args: reader: `tf.train.load_checkpoint(...)`."""
        self.nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(GRAPH)).nodes

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


def read_tf1(reader, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(our name, key) of the variables that a TF1 checkpoint has."""
    there = reader.get_variable_to_shape_map()
    return ((ours, key) for ours, key in tf1_table(names).items() if key in there)


def read_tf2(reader, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(our name, key) of the variables that a TF2 checkpoint or SavedModel has."""
    graph = ObjectGraph(reader)
    root = graph.root_of_resnet()
    keys = ((ours, graph.key(f"{root}/{path}")) for ours, path in tf2_table(names).items())
    return ((ours, key) for ours, key in keys if key)


def read_simclr(path: str, reader, backbone: tf.keras.Model) -> Weights:
    """Reads a checkpoint of either version.

    Args:
      path: for messages; reader: an open checkpoint.

    Raises:
      WeightsError: the backbone is no ResNet, or a TF2 checkpoint of something else.
    """
    tf1 = is_tf1(reader.get_variable_to_shape_map())
    if not tf1 and ObjectGraph(reader).root_of_resnet() is None:
        raise WeightsError(
            f"{path} is a TF2 checkpoint, but not of SimCLR's ResNet; of a run of this project give the run folder, "
            "or use --init_checkpoint"
        )
    names = [variable_name(v) for v in backbone.variables]
    if not any(name.startswith("stage2_block0") for name in names):
        raise WeightsError(f"{path} is a SimCLR ResNet; it needs --backbone=resnet-50 (or -101, -152)")
    found = dict((read_tf1 if tf1 else read_tf2)(reader, names))
    values = {ours: reader.get_tensor(key) for ours, key in found.items()}
    used = set(found.values())
    skipped = ("Momentum", "OBJECT_GRAPH", "OPTIMIZER_SLOT", "global_step", "save_counter")
    unused = tuple(sorted(key for key in reader.get_variable_to_shape_map() if key not in used and not any(s in key for s in skipped)))
    return Weights(values, f"SimCLR {'TF1' if tf1 else 'TF2'} checkpoint {path}", unused, "unit", EPSILON)
