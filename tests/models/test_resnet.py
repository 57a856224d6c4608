"""ResNet: the published size, where the stride sits, and a bottleneck against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from official.models.backbones.resnet import BLOCKS, ResNetBackbone

keras = tf.keras


@pytest.fixture(scope="module")
def resnet_50():
    return ResNetBackbone(blocks=BLOCKS["resnet-50"], input_shape=(64, 64, 3))


def test_parameters_and_levels(resnet_50):
    """ResNet-50 has 25,557,032 trainable parameters with its 1,000 classes (2,049,000): 23,508,032
    without.
    """
    trainable = sum(int(np.prod(v.shape)) for v in resnet_50.trainable_variables)
    assert trainable == 23_508_032
    shapes = [resnet_50.get_layer(tap).output_shape[1:] for tap in resnet_50.pyramid_level_inputs.values()]
    assert shapes == [(16, 16, 256), (8, 8, 512), (4, 4, 1024), (2, 2, 2048)]


def test_the_stride_is_on_the_3x3(resnet_50):
    strides = {i: resnet_50.get_layer(f"stage3_block0_{i}_conv").strides for i in (1, 2, 3)}
    assert strides == {1: (1, 1), 2: (2, 2), 3: (1, 1)}


def test_strided_bottleneck_equals_numpy():
    """Symmetric padding: output (y, x) of the 3x3 reads rows 2y - 1 .. 2y + 1."""
    model = ResNetBackbone(blocks=(1, 1, 1, 1), width=0.125, input_shape=(32, 32, 3))
    generator = np.random.default_rng(0)
    for variable in model.variables:
        low = 0.5 if "variance" in variable.name else -0.5
        variable.assign(generator.uniform(low, 1.0, variable.shape))
    taps = [model.get_layer(model.pyramid_level_inputs[level]).output for level in ("P2", "P3")]
    before, found = (
        t.numpy()[0]
        for t in keras.Model(model.input, taps)(generator.normal(size=(1, 32, 32, 3)).astype(np.float32))
    )

    def norm(x, name):
        layer = model.get_layer(f"stage3_block0_{name}_bn")
        gamma, beta, mean, variance = (
            v.numpy() for v in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
        )
        return gamma * (x - mean) / np.sqrt(variance + 1e-4) + beta

    def kernel(name):
        return model.get_layer(f"stage3_block0_{name}_conv").kernel.numpy()

    y = np.maximum(norm(before @ kernel("1")[0, 0], "1"), 0)
    padded, k = np.pad(y, ((1, 1), (1, 1), (0, 0))), kernel("2")
    height, width = y.shape[0] // 2, y.shape[1] // 2
    y = sum(
        padded[dy : dy + 2 * height : 2, dx : dx + 2 * width : 2] @ k[dy, dx]
        for dy in range(3)
        for dx in range(3)
    )
    y = np.maximum(norm(y, "2"), 0)
    y = norm(y @ kernel("3")[0, 0], "3") + norm(before[::2, ::2] @ kernel("shortcut")[0, 0], "shortcut")
    np.testing.assert_allclose(found, np.maximum(y, 0), rtol=1e-3, atol=1e-3 * np.abs(found).max())


def test_saved_and_loaded(tmp_path):
    model = ResNetBackbone(blocks=(1, 1, 1, 1), width=0.125, input_shape=(32, 32, 3))
    model.save(str(tmp_path / "m.keras"))
    again = keras.models.load_model(str(tmp_path / "m.keras"))
    images = tf.random.stateless_normal([1, 32, 32, 3], [1, 2])
    np.testing.assert_allclose(again(images), model(images), atol=1e-6)
    assert again.pyramid_level_inputs == model.pyramid_level_inputs


def test_retinanet_on_resnet_trains():
    from tests.training.test_step import make_trainer, run

    metrics, _ = run(make_trainer(pseudo=False, backbone="resnet-50", backbone_width=0.125), 2)
    assert np.isfinite(metrics[1]["loss"])
