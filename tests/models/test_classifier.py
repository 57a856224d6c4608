"""Heads for whole images, and what the layers beneath them promise."""

import numpy as np
import pytest
import tensorflow as tf

from official.data.example import normalize
from official.models.backbones.efficientnet import build_efficientnet
from official.models.backbones.input_scale import scale_of
from official.models.backbones.kerascv import KerasCVBackbone, stock_backbone
from official.models.backbones.resnet import ResNetBackbone
from official.models.classifier import Classifier, ContrastiveModel
from official.models.layers import (
    Dropout,
    StochasticDepth,
    SyncBatchNormalization,
    statistics_kept,
    step_randomness,
)

keras = tf.keras


def small(**options):
    return build_efficientnet("efficientnet-b0", width=0.25, depth=0.25, **options)


def scramble(model, seed=0):
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        low = 0.5 if "variance" in variable.name or "gamma" in variable.name else -0.1
        variable.assign(generator.uniform(low, low + (1.0 if low > 0 else 0.2), variable.shape))


def test_the_classifier_is_keras_applications_with_its_top():
    """B0, 64 pixels: same weights in, same logits out."""
    theirs = keras.applications.EfficientNetB0(
        weights=None, classes=7, input_shape=(64, 64, 3), classifier_activation=None
    )
    scramble(theirs)
    ours = Classifier(build_efficientnet("efficientnet-b0"), 7, image_size=64, dropout=0.2)
    values = {v.name: v for v in theirs.variables}
    for variable in ours.variables:
        variable.assign(values[variable.name])
    after_preprocessing = keras.Model(theirs.get_layer("stem_conv_pad").input, theirs.output)
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    expected = after_preprocessing(images, training=False).numpy()
    np.testing.assert_allclose(
        ours({"images": images})["logits"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )


def test_a_linear_probe_trains_one_layer_on_features_that_do_not_move():
    backbone = small()
    scramble(backbone)
    model = Classifier(backbone, 3, image_size=32, linear_probe=True)
    assert {v.name for v in model.trainable_variables} == {"predictions/kernel:0", "predictions/bias:0"}
    images = tf.random.normal([4, 32, 32, 3])
    np.testing.assert_array_equal(model({"images": images}, training=True)["logits"], np.zeros([4, 3]))
    before = [v.numpy() for v in backbone.variables]
    model({"images": images}, training=True)
    assert all((a == b.numpy()).all() for a, b in zip(before, backbone.variables))


def test_contrastive_outputs_pair_the_views():
    """Both views equal: both projections equal; the head has batch norm with a shift on all layers but the
    last.
    """
    model = ContrastiveModel(small(), image_size=32, num_classes=5)
    images = tf.random.normal([3, 32, 32, 3])
    found = model({"images": tf.concat([images, images], -1)}, training=False)
    assert found["projections"].shape == (3, 2, 128) and found["probe"].shape == (3, 2, 5)
    np.testing.assert_allclose(found["projections"][:, 0], found["projections"][:, 1], atol=1e-6)
    names = {v.name.split(":")[0] for v in model.trainable_variables}
    assert {"projection_0_bn/beta", "projection_1_bn/beta", "projection_2_bn/gamma"} <= names
    assert not {"projection_2_bn/beta", "projection_0/bias"} & names
    width = model.backbone.output.shape[-1]
    assert model.get_layer("projection_0").kernel.shape == (width, width)
    assert "probe" not in ContrastiveModel(small(), image_size=32)({"images": tf.zeros([1, 32, 32, 6])})


def test_the_probe_sends_no_gradient_into_the_features():
    model = ContrastiveModel(small(survival_probability=1.0), image_size=32, num_classes=5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model({"images": tf.random.normal([2, 32, 32, 6])}, training=True)["probe"])
    gradients = dict(
        zip((v.name for v in model.trainable_variables), tape.gradient(loss, model.trainable_variables))
    )
    assert {name for name, g in gradients.items() if g is not None} == {
        "head_supervised/kernel:0",
        "head_supervised/bias:0",
    }


@pytest.mark.parametrize(
    "scale,factor,shift", [("unit", 1 / 255, 0), ("symmetric", 2 / 255, -1), ("bytes", 1, 0)]
)
def test_input_scales(scale, factor, shift):
    """The network with the layer, on our pixels, is the network without it, on theirs."""
    pixels = tf.random.uniform([2, 32, 32, 3], 0, 255)
    plain, scaled = small(), small(input_normalization=scale)
    scramble(plain)
    scaled.set_weights(plain.get_weights())
    expected = plain(pixels * factor + shift).numpy()
    np.testing.assert_allclose(
        scaled(normalize(pixels)), expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max()
    )
    assert scale_of(scaled) == scale and scale_of(plain) == "imagenet"
    copy = type(scaled).from_config(scaled.get_config())
    assert scale_of(copy) == scale
    with pytest.raises(ValueError, match="unknown"):
        small(input_normalization="zero")


@pytest.mark.parametrize(
    "variant", [pytest.param("keras-cv-resnet-50", marks=pytest.mark.slow), "keras-cv-resnet-50-v2"]
)
def test_keras_cv_backbones_are_keras_cvs(variant):
    """Same weights, same features on every level, in inference and with batch statistics."""
    stock, ours = (
        stock_backbone(variant, 0.25),
        KerasCVBackbone(variant=variant, width=0.25, input_normalization="imagenet"),
    )
    scramble(stock)
    ours.set_weights(stock.get_weights())
    assert [v.name for v in ours.variables] == [v.name for v in stock.variables]
    images = tf.random.normal([2, 64, 64, 3])
    for training in (False, True):
        for level, name in stock.pyramid_level_inputs.items():
            assert ours.pyramid_level_inputs[level] == name
        taps = list(stock.pyramid_level_inputs.values())
        pairs = [
            keras.Model(m.inputs, [m.get_layer(t).output for t in taps])(images, training=training)
            for m in (stock, ours)
        ]
        for a, b in zip(*pairs):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(a).max())
    assert any(isinstance(layer, SyncBatchNormalization) for layer in ours.layers)
    assert not any(type(layer) is keras.layers.BatchNormalization for layer in ours.layers)
    copy = KerasCVBackbone.from_config(ours.get_config())
    assert [v.shape for v in copy.variables] == [v.shape for v in ours.variables]


@pytest.mark.slow  # that every family can be trained is in test_resnet.py, test_spinenet.py and test_efficientnet.py
@pytest.mark.parametrize("name", ["keras-cv-resnet-50", "resnet-50"])
def test_other_backbones_carry_every_task(name, tmp_path):
    """Built, called and handed over in stock layers with the scale of their pixels; same outputs."""
    from official.data.source import Category
    from official.export.stock import stock_model
    from official.models.backbones.input_scale import scale_of
    from official.tasks.registry import TASKS, build_task
    from tests import tiny

    for task in TASKS:
        experiment = tiny.experiment(
            task=task, backbone=name, backbone_width=0.125, input_normalization="unit"
        )
        model = build_task(experiment, (Category(1, "a"), Category(2, "b"))).build_model()
        images = tf.random.normal([1, model.image_size, model.image_size, 6 if task == "contrastive" else 3])
        assert all(np.isfinite(v).all() for v in model({"images": images}, training=True).values())
        assert scale_of(model.backbone) == "unit"
        if task == "detection":
            stock_model(model).save(tmp_path / "m.keras")
            copy = tf.keras.models.load_model(tmp_path / "m.keras", compile=False)
            assert scale_of(copy) == "unit"
            np.testing.assert_allclose(copy(images)["box"], model({"images": images})["box"], atol=1e-5)


def test_zero_last_gamma():
    names = {"zeros": set(), "ones": set()}
    for variable in ResNetBackbone(
        blocks=(1, 1, 1, 1), width=0.125, zero_last_gamma=True
    ).trainable_variables:
        if "gamma" in variable.name:
            names["zeros" if (variable.numpy() == 0).all() else "ones"].add(variable.name)
    assert (
        names["zeros"] == {f"stage{s}_block0_3_bn/gamma:0" for s in (2, 3, 4, 5)} and len(names["ones"]) == 13
    )


def test_statistics_kept():
    layer = SyncBatchNormalization(momentum=0.5)
    images = tf.random.normal([4, 3, 3, 2], mean=3.0)
    layer.build(images.shape)
    with statistics_kept():
        inside = layer(images, training=True)
    assert (layer.moving_mean.numpy() == 0).all()
    np.testing.assert_array_equal(inside, layer(images, training=True))  # normalised by the batch either way
    assert (layer.moving_mean.numpy() > 1).all()


def test_dropout_keeps_the_mean_and_follows_the_slots():
    layer, ones = Dropout(0.25), tf.ones([400, 50])
    assert (layer(ones, training=False) == ones).numpy().all()
    seed = (1, 2)
    with step_randomness(seed, tf.range(400), 400):
        whole = layer(ones, training=True).numpy()
    np.testing.assert_allclose(np.unique(whole), [0, 4 / 3], rtol=1e-6)
    assert abs(whole.mean() - 1) < 0.02
    with step_randomness(seed, tf.range(100, 200), 400):
        np.testing.assert_array_equal(layer(ones[:100], training=True), whole[100:200])


def test_views_of_one_slot_are_dropped_independently():
    layer, ones = StochasticDepth(0.5), tf.ones([128, 1, 1, 1])
    with step_randomness((1, 2), tf.range(64), 64):
        found = layer(ones, training=True).numpy().ravel()
        alone = layer(ones[:64], training=True).numpy().ravel()
    np.testing.assert_array_equal(found[:64], alone)
    assert 12 < (found[:64] != found[64:]).sum() < 52
