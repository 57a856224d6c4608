"""Feature pyramids: FPN and NAS-FPN, out of stock layers, so that an exported graph needs no code of ours."""

from __future__ import annotations

import dataclasses

import tensorflow as tf
from tensorflow import keras

from official.errors import FlagError
from official.models.layers import SyncBatchNormalization, UpsampleNearest


@dataclasses.dataclass(frozen=True)
class Node:
    """One merging cell: combines two earlier maps at a level.

    Attributes:
      level: of the result.
      combine: "sum" or "attention".
      inputs: numbers of two earlier maps; 0 to 4 are P3 to P7, 5 and on the nodes in order.
      output: whether the result is a level of the new pyramid.
    """

    level: int
    combine: str
    inputs: tuple[int, int]
    output: bool


# The cell found by NAS-FPN, as in tensorflow/tpu .../architecture/nasfpn.py:42-50.
NAS_FPN_CELL = (
    Node(4, "attention", (1, 3), False),
    Node(4, "sum", (1, 5), False),
    Node(3, "sum", (0, 6), True),
    Node(4, "sum", (6, 7), True),
    Node(5, "attention", (7, 8), True),
    Node(7, "attention", (6, 9), True),
    Node(6, "attention", (9, 10), True),
)


class PyramidBuilder:
    """Makes pyramids out of backbone features by level."""

    def __init__(
        self,
        *,
        filters: int,
        momentum: float,
        epsilon: float,
        separable: bool = False,
        activation: str = "relu",
    ) -> None:
        """Args: filters: of every map. separable: depthwise-separable convolutions in NAS-FPN."""
        self.filters, self.momentum, self.epsilon = filters, momentum, epsilon
        self.separable, self.activation = separable, activation

    def norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """Batch norm over the global batch."""
        return SyncBatchNormalization(momentum=self.momentum, epsilon=self.epsilon, name=name)(x)

    def fpn(self, features: dict[int, tf.Tensor], max_level: int) -> dict[int, tf.Tensor]:
        """Lateral 1x1, top-down nearest sum, 3x3 on every level, then batch norm without activation.

        Source: tensorflow/tpu .../architecture/fpn.py:88-135.
        """
        conv = keras.layers.Conv2D
        maps, above = {}, None
        for level in sorted(features, reverse=True):
            x = conv(self.filters, 1, padding="same", name=f"fpn_lateral_{level}")(features[level])
            if above is not None:
                up = UpsampleNearest(name=f"fpn_up_{level}")(above)
                x = keras.layers.Add(name=f"fpn_sum_{level}")([x, up])
            above = x
            maps[level] = conv(self.filters, 3, padding="same", name=f"fpn_conv_{level}")(x)
        top = max(features)
        for level in range(top + 1, max_level + 1):
            below = maps[level - 1]
            if level > top + 1:
                below = keras.layers.Activation("relu", name=f"fpn_relu_{level}")(below)
            maps[level] = conv(self.filters, 3, strides=2, padding="same", name=f"fpn_conv_{level}")(below)
        return {level: self.norm(maps[level], f"fpn_bn_{level}") for level in sorted(maps)}

    def nas_fpn(self, features: dict[int, tf.Tensor], repeats: int) -> dict[int, tf.Tensor]:
        """NAS-FPN over P3 to P7: `repeats` times the cell `NAS_FPN_CELL`.

        Backbone levels get a 1x1 convolution and batch norm where their width differs; P6 and P7 are
        max pools of the level below.

        Raises:
          ValueError: the features are not levels 3 to 5.

        Source: tensorflow/tpu .../architecture/nasfpn.py.
        """
        if sorted(features) != [3, 4, 5]:
            raise FlagError(
                f"NAS-FPN merges levels 3 to 7; it needs backbone levels 3, 4, 5, not {sorted(features)}"
            )
        maps = {level: self._resampled_width(x, level) for level, x in features.items()}
        for level in (6, 7):
            maps[level] = keras.layers.MaxPool2D(2, 2, padding="same", name=f"nas_pool_{level}")(
                maps[level - 1]
            )
        for repeat in range(repeats):
            maps = self._cell(maps, f"nas_{repeat}")
        return maps

    def _resampled_width(self, x: tf.Tensor, level: int) -> tf.Tensor:
        if x.shape[-1] == self.filters:
            return x
        return self.norm(self._conv(x, 1, f"nas_lateral_{level}"), f"nas_lateral_bn_{level}")

    def _conv(self, x: tf.Tensor, kernel: int, name: str) -> tf.Tensor:
        layer = keras.layers.SeparableConv2D if self.separable else keras.layers.Conv2D
        return layer(self.filters, kernel, padding="same", name=name)(x)

    def _cell(self, pyramid: dict[int, tf.Tensor], name: str) -> dict[int, tf.Tensor]:
        """One pass of the cell; returns the new pyramid."""
        maps = [(level, pyramid[level]) for level in sorted(pyramid)]  # (level, map) by number
        used: set[int] = set()
        outputs = {}
        for number, node in enumerate(NAS_FPN_CELL, start=len(maps)):
            used.update(node.inputs)
            merged = self._merge(node, [maps[i] for i in node.inputs], f"{name}_node_{number}")
            if node.output:  # an output also takes in every earlier map of its level that nothing has used
                for i, (level, earlier) in enumerate(maps):
                    if level == node.level and i not in used:
                        merged = keras.layers.Add(name=f"{name}_node_{number}_unused_{i}")([merged, earlier])
                        used.add(i)
            x = keras.layers.Activation(self.activation, name=f"{name}_node_{number}_act")(merged)
            x = self.norm(self._conv(x, 3, f"{name}_node_{number}_conv"), f"{name}_node_{number}_bn")
            maps.append((node.level, x))
            if node.output:
                outputs[node.level] = x
        return {level: outputs[level] for level in sorted(outputs)}

    def _merge(self, node: Node, inputs: list[tuple[int, tf.Tensor]], name: str) -> tf.Tensor:
        (level_a, a), (level_b, b) = inputs
        a = _resample(a, level_a, node.level, f"{name}_input_0")
        b = _resample(b, level_b, node.level, f"{name}_input_1")
        if node.combine == "sum":
            return keras.layers.Add(name=f"{name}_sum")([a, b])
        coarse, other = (b, a) if level_b > level_a else (a, b)
        gate = keras.layers.GlobalMaxPool2D(keepdims=True, name=f"{name}_pool")(coarse)
        gate = keras.layers.Activation("sigmoid", name=f"{name}_gate")(gate)
        gated = keras.layers.Multiply(name=f"{name}_gated")([other, gate])
        return keras.layers.Add(name=f"{name}_attention")([coarse, gated])


def _resample(x: tf.Tensor, level: int, target: int, name: str) -> tf.Tensor:
    """Max pool to a coarser level, nearest repetition to a finer one."""
    if target > level:
        side = 2 ** (target - level)
        return keras.layers.MaxPool2D(side, side, padding="same", name=f"{name}_pool")(x)
    for step in range(level - target):
        x = UpsampleNearest(name=f"{name}_up_{step}")(x)
    return x
