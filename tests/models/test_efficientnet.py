"""The backbone is the published EfficientNet: same weights in, same features out."""

import numpy as np
import pytest
import tensorflow as tf

from official.models.efficientnet import COEFFICIENTS, build_efficientnet
from official.models.layers import StochasticDepth

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
                    fan_in = np.prod(weight.shape[:-1]) if "depthwise" not in weight.name else np.prod(weight.shape[:2])
                    values.append(generator.normal(0, np.sqrt(1.5 / fan_in), weight.shape))
                elif "variance" in weight.name or "gamma" in weight.name:
                    values.append(generator.uniform(0.5, 1.5, weight.shape))
                else:
                    values.append(generator.normal(0, 0.1, weight.shape))
            twin.set_weights(values)
            layer.set_weights(values)


@pytest.mark.parametrize("name, size", [("efficientnet-b0", 64), ("efficientnet-b0", 75), ("efficientnet-b7", 64)])
def test_same_features_as_keras_applications(name, size):
    theirs = reference(name, input_shape=(size, size, 3))
    ours = build_efficientnet(name, input_shape=(size, size, 3))
    copy_random_weights(theirs, ours)
    taps = list(ours.pyramid_level_inputs.values())
    ours_by_level = keras.Model(ours.input, [ours.get_layer(tap).output for tap in taps])
    # Past their Rescaling and Normalization: our input is normalised already.
    theirs_by_level = keras.Model(theirs.get_layer("stem_conv_pad").input, [theirs.get_layer(tap).output for tap in taps])
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
    assert len(COEFFICIENTS) == 9
