"""SpineNet as a keras-cv `Backbone`: a scale-permuted network that is backbone and pyramid in one.

keras-cv has none. Every block takes two earlier blocks, brought to its resolution and width; five of
them are the levels P3..P7, so nothing like an FPN follows.

Source: Du et al., "SpineNet: Learning Scale-Permuted Backbone for Recognition and Localization"
(arXiv 1912.05027); tensorflow/tpu models/official/detection/modeling/architecture/spinenet.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras_cv
import tensorflow as tf
from tensorflow import keras

from official.experiment import Model
from official.models.backbones.blocks import BlockBuilder
from official.models.backbones.input_scale import scaled_input
from official.models.backbones.registry import backbones
from official.models.layers import UpsampleNearest


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of the permuted network.

    Attributes:
      level: of its map; the stride is 2^level.
      kind: "bottleneck" (four times the filters) or "residual".
      parents: numbers of two earlier blocks; 0 and 1 are those of the stem.
      output: whether its map is a level of the pyramid.
    """

    level: int
    kind: str
    parents: tuple[int, int]
    output: bool = False


# The architecture found by search; numbers 2 to 16. Source: spinenet.py:53-69.
BLOCKS = (
    Block(2, "bottleneck", (0, 1)),
    Block(4, "residual", (0, 1)),
    Block(3, "bottleneck", (2, 3)),
    Block(4, "bottleneck", (2, 4)),
    Block(6, "residual", (3, 5)),
    Block(4, "bottleneck", (3, 5)),
    Block(5, "residual", (6, 7)),
    Block(7, "residual", (6, 8)),
    Block(5, "bottleneck", (8, 9)),
    Block(5, "bottleneck", (8, 10)),
    Block(4, "bottleneck", (5, 10), True),
    Block(3, "bottleneck", (4, 10), True),
    Block(5, "bottleneck", (7, 12), True),
    Block(7, "bottleneck", (5, 14), True),
    Block(6, "bottleneck", (12, 14), True),
)
FILTERS = {2: 64, 3: 128, 4: 256, 5: 256, 6: 256, 7: 256}  # by level, times filter_scale
STEM_BLOCKS = 2
FINEST_LEVEL = 3
COARSEST_LEVEL = 7  # the input's sides are multiples of 2^7


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How one member of the family differs from SpineNet-49. Source: spinenet.py:71-110."""

    endpoint_filters: int = 256
    filter_scale: float = 1.0
    resample_alpha: float = 0.5
    repeats: int = 1


SPINENETS = {
    "spinenet-49s": Scaling(endpoint_filters=128, filter_scale=0.65),
    "spinenet-49": Scaling(),
    "spinenet-96": Scaling(repeats=2),
    "spinenet-143": Scaling(resample_alpha=1.0, repeats=3),
    "spinenet-190": Scaling(endpoint_filters=512, filter_scale=1.3, resample_alpha=1.0, repeats=4),
}


@keras.saving.register_keras_serializable("self_training")
class SpineNetBackbone(keras_cv.models.Backbone):
    """SpineNet; P3..P7 by `pyramid_level_inputs`, all of `endpoint_filters` channels, strides 8..128.

    Input: float [batch, height, width, 3], sides multiples of 128, normalised with the ImageNet mean
    and deviation. Output: the mean of the five levels at stride 8, which the original's classifier
    pools (`aggregation: all`); a detector uses the levels alone.
    """

    is_pyramid = True  # its levels go to the heads as they are

    def __init__(
        self,
        *,
        endpoint_filters: int = 256,
        filter_scale: float = 1.0,
        resample_alpha: float = 0.5,
        repeats: int = 1,
        survival_probability: float = 1.0,
        batch_norm_momentum: float = 0.997,
        batch_norm_epsilon: float = 1e-4,
        activation: str = "swish",
        input_normalization: str = "imagenet",
        input_shape: tuple = (None, None, 3),
        **kwargs: Any,
    ) -> None:
        """Builds the network.

        Args:
          endpoint_filters: channels of the levels.
          filter_scale: multiplies every block's filters.
          resample_alpha: share of a parent's filters that is kept while its resolution is changed.
          repeats: residual blocks per block.
          survival_probability: of the last block's residual branches (1 - drop-connect rate); block i
            of n survives with 1 - (1 - p) * (i + 1) / n, the stem always.
          batch_norm_momentum, batch_norm_epsilon: the detection stack's.
          activation: "relu" or "swish".
          input_normalization: a key of `official.models.backbones.input_scale.SCALES`.
          input_shape: (height, width, 3).
        """
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        build = _Builder(
            filter_scale, resample_alpha, repeats, batch_norm_momentum, batch_norm_epsilon, activation
        )
        images = keras.Input(input_shape, name="images")
        features = build.stem(scaled_input(images, input_normalization))
        for number, block in enumerate(BLOCKS):
            survival = 1.0 - (1.0 - survival_probability) * (number + 1) / len(BLOCKS)
            features.append(build.permuted(block, features, survival))
        outputs = {f.block.level: f.map for f in features if f.block.output}
        endpoints = {
            level: build.conv_act(outputs[level], endpoint_filters, 1, 1, f"endpoint_{level}")
            for level in sorted(outputs)
        }
        super().__init__(inputs=images, outputs=_mean_of_levels(endpoints), **kwargs)
        self.pyramid_level_inputs = {f"P{level}": x.node.layer.name for level, x in endpoints.items()}
        self._arguments = {**arguments, "input_shape": tuple(input_shape)}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._arguments}


@dataclasses.dataclass
class _Feature:
    """A finished block: its map, its filters before a bottleneck's factor of four, and its number of uses."""

    block: Block
    map: tf.Tensor
    filters: int
    uses: int = 0


class _Builder(BlockBuilder):
    """The stem, the permuted blocks and the changes of resolution between them."""

    def __init__(
        self,
        filter_scale: float,
        resample_alpha: float,
        repeats: int,
        momentum: float,
        epsilon: float,
        activation: str,
    ) -> None:
        super().__init__(momentum, epsilon, activation)
        self.filter_scale, self.resample_alpha, self.repeats = filter_scale, resample_alpha, repeats

    def filters(self, level: int) -> int:
        return max(1, int(FILTERS[level] * self.filter_scale))

    def stem(self, x: tf.Tensor) -> list[_Feature]:
        """7x7/2 to 64 channels whatever the scale, 3x3/2 max pool, two bottleneck groups at level 2."""
        x = self.conv_act(x, 64, 7, 2, "stem")
        x = keras.layers.MaxPool2D(3, 2, padding="same", name="stem_pool")(x)
        found = []
        for number in range(STEM_BLOCKS):
            x = self.group(x, "bottleneck", self.filters(2), f"block{number}")
            found.append(_Feature(Block(2, "bottleneck", (-1, -1)), x, self.filters(2)))
        return found

    def group(self, x: tf.Tensor, kind: str, filters: int, name: str, survival: float = 1.0) -> tf.Tensor:
        """`repeats` residual blocks; the first one projects where the width changes."""
        make, out = (self.bottleneck, 4 * filters) if kind == "bottleneck" else (self.residual, filters)
        for repeat in range(self.repeats):
            x = make(x, filters, 1, x.shape[-1] != out, f"{name}_{repeat}", survival)
        return x

    def permuted(self, block: Block, features: list[_Feature], survival: float) -> _Feature:
        """Merges two parents, and at an output every map of its size that nothing has used; then the
        block.
        """
        name, filters = f"block{len(features)}", self.filters(block.level)
        channels = 4 * filters if block.kind == "bottleneck" else filters
        maps = []
        for place, number in enumerate(block.parents):
            maps.append(self.resample(features[number], block.level, channels, f"{name}_parent{place}"))
            features[number].uses += 1
        if block.output:
            for feature in features:
                if (
                    not feature.uses
                    and feature.block.level == block.level
                    and feature.map.shape[-1] == channels
                ):
                    maps.append(feature.map)
                    feature.uses += 1
        x = self.act(keras.layers.Add(name=f"{name}_sum")(maps), f"{name}_sum")
        return _Feature(block, self.group(x, block.kind, filters, name, survival), filters)

    def resample(self, feature: _Feature, level: int, channels: int, name: str) -> tf.Tensor:
        """1x1 to alpha times the parent's filters, then the resolution, then 1x1 to `channels` without
        activation.

        Coarser: 3x3/2 convolution and, beyond a factor of two, a max pool for the rest (window 3 up to
        a factor of four, else 5). Finer: repetition.
        """
        squeezed = max(1, int(feature.filters * self.resample_alpha))
        x = self.conv_act(feature.map, squeezed, 1, 1, f"{name}_squeeze")
        steps = level - feature.block.level
        if steps > 0:
            x = self.conv_act(x, squeezed, 3, 2, f"{name}_down")
        if steps > 1:
            window = 3 if steps == 2 else 5
            x = keras.layers.MaxPool2D(window, 2 ** (steps - 1), padding="same", name=f"{name}_pool")(x)
        for step in range(-steps):
            x = UpsampleNearest(name=f"{name}_up_{step}")(x)
        return self.conv(x, channels, 1, 1, f"{name}_match")


def _mean_of_levels(endpoints: dict[int, tf.Tensor]) -> tf.Tensor:
    finest, raised = min(endpoints), []
    for level, x in endpoints.items():
        for step in range(level - finest):
            x = UpsampleNearest(name=f"mean_up_{level}_{step}")(x)
        raised.append(x)
    return keras.layers.Average(name="mean_of_levels")(raised)


@backbones(SPINENETS, levels=(FINEST_LEVEL, COARSEST_LEVEL))
def _build(options: Model, **shared: Any) -> SpineNetBackbone:
    return SpineNetBackbone(
        **_scaling(options),
        survival_probability=options.survival_probability,
        batch_norm_momentum=options.batch_norm_momentum,
        batch_norm_epsilon=options.batch_norm_epsilon,
        activation=options.activation,
        **shared,
    )


def _scaling(options: Model) -> dict:
    """The named SpineNet's sizes; --backbone_width and --backbone_depth replace filter scale and repeats."""
    scaling = SPINENETS[options.backbone]
    width = options.backbone_width or scaling.filter_scale
    return {
        **dataclasses.asdict(scaling),
        "filter_scale": width,
        "endpoint_filters": max(1, round(scaling.endpoint_filters * width / scaling.filter_scale)),
        "repeats": int(options.backbone_depth) or scaling.repeats,
    }
