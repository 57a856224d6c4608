"""The backbone is the published EfficientNet: same weights in, same features out."""

import numpy as np
import pytest
import tensorflow as tf

from official.data.example import IMAGENET_MEAN, IMAGENET_STD
from official.experiment import Model
from official.models.backbones.efficientnet import MEMBERS, build_efficientnet
from official.models.backbones.input_scale import scale_of
from official.models.backbones.registry import build_backbone
from official.models.layers import StochasticDepth
from official.models.statistics import _head_parameters

keras = tf.keras


def reference(name, **kwargs):
    builder = getattr(keras.applications, name.replace("efficientnet-b", "EfficientNetB"))
    return builder(include_top=False, weights=None, **kwargs)


def copy_random_weights(source, target):
    """Draws weights layer by layer, by name, into both models."""
    generator = np.random.default_rng(0)
    for layer in target.layers:
        if layer.weights:
            twin = source.get_layer(layer.name)
            values = []
            for weight in twin.weights:
                if "kernel" in weight.name:
                    fan_in = (
                        np.prod(weight.shape[:-1])
                        if "depthwise" not in weight.name
                        else np.prod(weight.shape[:2])
                    )
                    values.append(generator.normal(0, np.sqrt(1.5 / fan_in), weight.shape))
                elif "variance" in weight.name or "gamma" in weight.name:
                    values.append(generator.uniform(0.5, 1.5, weight.shape))
                else:
                    values.append(generator.normal(0, 0.1, weight.shape))
            twin.set_weights(values)
            layer.set_weights(values)


@pytest.mark.parametrize(
    "name, size",
    [
        ("efficientnet-b0", 64),
        ("efficientnet-b0", 75),
        pytest.param("efficientnet-b7", 64, marks=pytest.mark.slow),
    ],
)
def test_same_features_as_keras_applications(name, size):
    theirs = reference(name, input_shape=(size, size, 3))
    ours = build_efficientnet(name, input_shape=(size, size, 3))
    copy_random_weights(theirs, ours)
    taps = list(ours.pyramid_level_inputs.values())
    ours_by_level = keras.Model(ours.input, [ours.get_layer(tap).output for tap in taps])
    # Past their Rescaling and Normalization: our input is normalised already.
    theirs_by_level = keras.Model(
        theirs.get_layer("stem_conv_pad").input, [theirs.get_layer(tap).output for tap in taps]
    )
    images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    for level, (a, b) in enumerate(zip(ours_by_level(images), theirs_by_level(images)), start=1):
        assert np.abs(b).max() > 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max(), err_msg=f"P{level}")


def test_channels_and_strides_of_b0():
    model = build_efficientnet("efficientnet-b0", input_shape=(128, 128, 3))
    shapes = [model.get_layer(tap).output_shape[1:] for tap in model.pyramid_level_inputs.values()]
    assert shapes == [(64, 64, 16), (32, 32, 24), (16, 16, 40), (8, 8, 112), (4, 4, 320)]


def test_stochastic_depth_falls_linearly_to_the_last_block():
    """Block i of 16 survives with 1 - 0.2 i / 16; keras-cv divides by the unscaled block count."""
    model = build_efficientnet("efficientnet-b0", survival_probability=0.8, input_shape=(64, 64, 3))
    found = {l.name: l.survival_probability for l in model.layers if isinstance(l, StochasticDepth)}
    assert found["block2b_drop"] == pytest.approx(1 - 0.2 * 2 / 16)
    assert found["block6d_drop"] == pytest.approx(1 - 0.2 * 14 / 16)
    deep = build_efficientnet("efficientnet-b7", survival_probability=0.8, input_shape=(64, 64, 3))
    rates = [l.survival_probability for l in deep.layers if isinstance(l, StochasticDepth)]
    assert min(rates) == pytest.approx(1 - 0.2 * 54 / 55)


def test_saved_and_loaded(tmp_path):
    model = build_efficientnet("efficientnet-b0", width=0.25, depth=0.25, input_shape=(64, 64, 3))
    model.save(tmp_path / "backbone.keras")
    again = keras.models.load_model(tmp_path / "backbone.keras")
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(images), again(images))
    assert again.pyramid_level_inputs == model.pyramid_level_inputs


def test_unknown_name():
    with pytest.raises(ValueError, match="efficientnet-b7"):
        build_efficientnet("resnet-3")
    assert len(MEMBERS) == 14


# --- EfficientNet-Lite ---------------------------------------------------------------------------------

# Millions of parameters with the classifier of 1,000 classes, as timm's table of results lists
# tf_efficientnet_lite0 ... 4, which were converted from the published checkpoints.
LITE_MILLIONS = [4.65, 5.42, 6.09, 8.20, 13.01]


@pytest.mark.parametrize("number, millions", enumerate(LITE_MILLIONS))
def test_lite_has_the_published_size(number, millions):
    backbone = build_efficientnet(f"efficientnet-lite{number}", input_shape=(32, 32, 3))
    channels = backbone.output.shape[-1]
    top = channels * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    trainable = sum(int(np.prod(v.shape)) for v in backbone.trainable_variables)
    assert round((trainable + top) / 1e6, 2) == millions
    assert _head_parameters(backbone) == top
    assert not [v.name for v in backbone.variables if "_se_" in v.name]


def test_lite_keeps_its_ends():
    """Lite4's coefficients are B4's: a stem of 32 instead of 48, one block in the first and the last stage,
    not two.
    """
    lite = build_efficientnet("efficientnet-lite4", input_shape=(32, 32, 3))
    names = {layer.name for layer in lite.layers}
    assert lite.get_layer("stem_conv").filters == 32
    assert "block1a_dwconv" in names and "block1b_dwconv" not in names
    assert "block7a_dwconv" in names and "block7b_dwconv" not in names
    assert {"block2d_dwconv", "block6h_dwconv"} <= names  # ceil(1.8 * 2), ceil(1.8 * 4)
    activations = [layer for layer in lite.layers if layer.name.endswith("_activation")]
    assert activations and all(isinstance(a, keras.layers.ReLU) and a.max_value == 6.0 for a in activations)


@pytest.mark.parametrize("value, wanted", [(127.0, 0.0), (255.0, 1.0), (0.0, -127.0 / 128.0)])
def test_lite_sees_pixels_on_its_own_scale(value, wanted):
    """(p - 127) / 128, out of pixels that the project normalises with ImageNet's mean and deviation."""
    backbone = build_backbone(
        Model(backbone="efficientnet-lite0", backbone_width=0.25, backbone_depth=0.25), 32
    )
    assert scale_of(backbone) == "lite"
    seen = keras.Model(backbone.input, backbone.get_layer("input_scale").output)
    pixels = np.full((1, 32, 32, 3), value, np.float32)
    normalised = (pixels / 255.0 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    np.testing.assert_allclose(seen(normalised), np.full((1, 32, 32, 3), wanted), atol=2e-6)


def test_lite_is_saved_and_loaded(tmp_path):
    model = build_efficientnet("efficientnet-lite0", width=0.25, depth=0.25, input_shape=(32, 32, 3))
    model.save(tmp_path / "backbone.keras")
    again = keras.models.load_model(tmp_path / "backbone.keras")
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(images), again(images))
