"""SpineNet: the published sizes, stochastic depth, and that its blocks compile."""

import numpy as np
import pytest
import tensorflow as tf

from official.data.source import Category
from official.experiment import experiment_from
from official.models.backbones.spinenet import Block, SpineNetBackbone, _Builder, _Feature
from official.models.classifier import Classifier
from official.models.layers import StochasticDepth, step_randomness
from official.models.retinanet import RetinaNet
from official.models.statistics import model_statistics
from official.tasks.registry import build_task
from tests import tiny

keras = tf.keras
SMALL = dict(endpoint_filters=12, filter_scale=0.1, resample_alpha=0.5, repeats=2)


@pytest.fixture(scope="module")
def small():
    keras.utils.set_random_seed(0)
    model = SpineNetBackbone(**SMALL, batch_norm_epsilon=1e-3, survival_probability=0.85)
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if "kernel" not in variable.name:
            low, high = (0.5, 1.5) if "variance" in variable.name or "gamma" in variable.name else (-0.3, 0.3)
            variable.assign(generator.uniform(low, high, variable.shape))
    return model


def levels_of(model, images):
    taps = {level: model.get_layer(name).output for level, name in model.pyramid_level_inputs.items()}
    return keras.Model(model.input, taps)(images)


def test_levels(small):
    """Strides 8 to 128; their values are checked against TF1's layers in test_import_released.py."""
    found = levels_of(small, tf.random.stateless_normal([2, 256, 256, 3], [1, 2]))
    assert [value.shape[1:] for value in found.values()] == [
        (2 ** (8 - level),) * 2 + (12,) for level in range(3, 8)
    ]


def test_every_variable_has_a_part_in_some_level(small):
    images = tf.random.stateless_normal([2, 128, 128, 3], [1, 2])
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(value**2) for value in levels_of(small, images).values()])
    assert all(gradient is not None for gradient in tape.gradient(loss, small.trainable_variables))


def test_survival_falls_block_by_block(small):
    """Drop-connect rate 0.15: (i + 1) / 15 of it in block i, all repeats alike, none in the stem."""
    found = {
        layer.name: layer.survival_probability for layer in small.layers if isinstance(layer, StochasticDepth)
    }
    expected = {f"block{i + 2}_{r}_drop": 1 - 0.15 * (i + 1) / 15 for i in range(15) for r in range(2)}
    assert found == pytest.approx(expected)
    indices = [layer.index for layer in small.layers if isinstance(layer, StochasticDepth)]
    assert len(set(indices)) == len(indices)


def test_its_output_is_the_mean_of_the_levels(small):
    """Pooled, it is the mean over levels of their means: the original classifier's `aggregation: all`."""
    images = tf.random.stateless_normal([2, 128, 128, 3], [1, 2])
    pooled = [tf.reduce_mean(value, [1, 2]) for value in levels_of(small, images).values()]
    np.testing.assert_allclose(tf.reduce_mean(small(images), [1, 2]), tf.add_n(pooled) / 5.0, atol=1e-4)
    logits = Classifier(small, 3, image_size=128)({"images": images})["logits"]
    assert logits.shape == (2, 3)


def test_saved_and_loaded(small, tmp_path):
    small.save(str(tmp_path / "m.keras"))
    again = keras.models.load_model(str(tmp_path / "m.keras"))
    images = tf.random.stateless_normal([1, 128, 128, 3], [1, 2])
    np.testing.assert_allclose(again(images), small(images), atol=1e-6)
    assert again.pyramid_level_inputs == small.pyramid_level_inputs


def test_a_detector_has_no_other_pyramid(small):
    model = RetinaNet(small, 5, image_size=128, head_filters=8, head_convs=1, activation="swish")
    assert not any(layer.name.startswith("fpn") for layer in model.layers)
    assert model({"images": tf.zeros([1, 128, 128, 3])})["box"].shape == (1, 9 * (256 + 64 + 16 + 4 + 1), 4)
    acts = {layer.activation.__name__ for layer in model.layers if "_act_" in layer.name}
    assert acts == {"swish"}


def test_sizes_and_levels_that_do_not_fit(small):
    with pytest.raises(ValueError, match="image_size=192 is not a multiple of 128.*use 256"):
        build_task(tiny.experiment(backbone="spinenet-49", image_size=192), (Category(1, "a"),)).build_model()
    with pytest.raises(ValueError, match="joint_image_size.*=224 is not a multiple of 128"):
        Classifier(small, 3, image_size=224)
    with pytest.raises(ValueError, match=r"the backbone has no \['P8'\]"):
        RetinaNet(small, 5, image_size=256, max_level=8)


# Trainable parameters and multiply-adds of the paper's Table 5 (67 M, 524 B; 164 M, 1885 B); SpineNet-49 and
# the first decimals are those of Tables 2 and 3 of arXiv 1912.05027. All count the original's 91 outputs per
# anchor.
@pytest.mark.parametrize(
    "name, size, head, parameters, multiply_adds",
    [
        ("spinenet-49", 640, {}, 28.5e6, 85.4e9),
        pytest.param("spinenet-143", 1280, {}, 66.9e6, 524.4e9, marks=pytest.mark.slow),
        pytest.param(
            "spinenet-190",
            1280,
            dict(head_filters=512, head_convs=7),
            163.6e6,
            1885e9,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_published_sizes(name, size, head, parameters, multiply_adds):
    categories = tuple(Category(i, str(i)) for i in range(91))
    experiment = experiment_from(dict(backbone=name, image_size=size, activation="swish", **head))
    found = model_statistics(build_task(experiment, categories).build_model(), size)
    assert found["parameters"] == pytest.approx(parameters, rel=2.5e-3)
    assert found["multiply_adds"] == pytest.approx(multiply_adds, rel=2.5e-3)


@pytest.mark.parametrize(
    "level", [2, pytest.param(4, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow), 7]
)
def test_a_block_compiles_and_agrees(level):
    """Parents at levels 2, 4 and 7: repetition by 4 and 32, the strided convolution, and both max pools."""
    keras.utils.set_random_seed(0)
    build = _Builder(0.06, 0.5, 1, 0.9, 1e-3, "swish")
    images = keras.Input((32, 32, 3))
    pools = {2: 1, 4: 4, 7: 32}
    maps = [
        keras.layers.AveragePooling2D(pool)(build.conv_act(images, 4, 1, 1, f"level_{l}"))
        for l, pool in pools.items()
    ]
    features = [_Feature(Block(l, "residual", (0, 0)), x, 4) for l, x in zip(pools, maps)]
    for kind, parents in (("bottleneck", (0, 1)), ("residual", (1, 2))):
        features.append(build.permuted(Block(level, kind, parents), features, 0.9))
    model = keras.Model(images, [feature.map for feature in features[3:]])

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(y**2) for y in model(x, training=True)])
        return tape.gradient(loss, model.trainable_variables)

    x = tf.random.stateless_normal([2, 32, 32, 3], [1, 2])
    with step_randomness((3, 4), tf.range(2), 2):
        plain = tf.function(step)(x)
        compiled = tf.function(step, jit_compile=True)(x)
    for variable, a, b in zip(model.trainable_variables, plain, compiled):
        np.testing.assert_allclose(
            a, b, rtol=2e-3, atol=2e-3 * float(tf.reduce_max(tf.abs(a))) + 1e-6, err_msg=variable.name
        )


TINY = dict(
    backbone="spinenet-49", backbone_width=0.06, image_size=128, max_level=7, activation="swish", batch_size=2
)


@pytest.mark.slow
def test_retinanet_on_spinenet_trains():
    from tests.training.test_step import make_trainer, run

    metrics, _ = run(make_trainer(pseudo=False, **TINY), 2)
    assert np.isfinite(metrics[1]["loss"])


@pytest.mark.slow
def test_retinanet_on_spinenet_trains_alike_under_xla():
    from tests.training.test_step import assert_same, make_trainer, run

    assert_same(
        run(make_trainer(pseudo=False, xla=True, **TINY), 2), run(make_trainer(pseudo=False, **TINY), 2), 2e-3
    )
