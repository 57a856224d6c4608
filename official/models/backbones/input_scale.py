"""What a backbone wants its pixels to be, when its weights were trained on something else than ours.

Everything in this project feeds pixels with the ImageNet mean and deviation removed. Weights that were
trained on another scale get a layer in front that turns one into the other, so that the scale
travels with the network, into checkpoints and exports.
"""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from official.data.example import IMAGENET_MEAN, IMAGENET_STD
from official.errors import FlagError

# (factor, shift) of pixels in [0, 1].
SCALES = {
    "imagenet": None,
    "unit": (1.0, 0.0),
    "symmetric": (2.0, -1.0),
    "bytes": (255.0, 0.0),
    "lite": (255.0 / 128.0, -127.0 / 128.0),  # (p - 127) / 128 of pixels 0..255
}
LAYER = "input_scale"


def scaled_input(images: tf.Tensor, normalization: str) -> tf.Tensor:
    """Normalised images to the scale `normalization`, a key of `SCALES`; imagenet: as they are.

    Raises:
      ValueError: unknown scale.
    """
    if SCALES.get(normalization, 1) is None:
        return images
    return scale_layer(normalization)(images)


def scale_layer(normalization: str) -> keras.layers.Layer:
    """The layer that does it; one that does nothing for pixels as they are."""
    if normalization not in SCALES:
        raise FlagError(f"input_normalization={normalization!r} is unknown; choose one of {sorted(SCALES)}")
    if SCALES[normalization] is None:
        return keras.layers.Activation("linear", name="input_as_it_is")
    return keras.layers.Rescaling(*_constants(normalization), name=LAYER)


def _constants(normalization: str) -> tuple[list[float], list[float]]:
    scale = SCALES[normalization]
    assert scale is not None
    factor, shift = scale
    return [factor * deviation for deviation in IMAGENET_STD], [
        factor * mean + shift for mean in IMAGENET_MEAN
    ]


def scale_of(model: keras.Model) -> str:
    """The scale that a network was built with, from its layers (also those of models inside it).

    Raises:
      ValueError: a layer of that name with other numbers.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            inside = scale_of(layer)
            if inside != "imagenet":
                return inside
    return scale_of_layers([layer.get_config() for layer in model.layers if layer.name == LAYER])


def scale_of_layers(configs: Sequence[dict[str, Any]]) -> str:
    """The same from layers' configs.

    Raises:
      ValueError: a layer of that name with other numbers.
    """
    for config in configs:
        if config["name"] == LAYER:
            for name, constants in SCALES.items():
                if constants and np.allclose(
                    [config["scale"], config["offset"]], _constants(name), rtol=1e-5
                ):
                    return name
            raise FlagError(f"the layer {LAYER} has an unknown scale {config['scale']}")
    return "imagenet"
