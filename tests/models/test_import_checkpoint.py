"""Weights from other people's files, written here in their true format and names with random values."""

import json
import os
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications.efficientnet import EfficientNet

from official.models.backbones.efficientnet import build_efficientnet
from official.models.weights.import_checkpoint import read_weights
from official.models.weights.import_efficientnet import tf1_names
from official.models.weights.named_weights import WeightsError, assign_weights, variable_name, write_weights

keras = tf.keras
SIZE = 64


@pytest.fixture(scope="module")
def theirs():
    """keras.applications' EfficientNet, a quarter as wide as B0, with random weights, its head included."""
    tf.keras.utils.set_random_seed(0)
    model = EfficientNet(0.25, 1.0, SIZE, weights=None, classes=10, input_shape=(SIZE, SIZE, 3))
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if "variance" in variable.name or "gamma" in variable.name:
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    return model


@pytest.fixture(scope="module")
def ours():
    return build_efficientnet("efficientnet-b0", width=0.25, input_shape=(SIZE, SIZE, 3))


def scramble(model, seed=7):
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        variable.assign(generator.uniform(0.1, 0.2, variable.shape))


def assert_same_features(theirs, ours):
    taps = list(ours.pyramid_level_inputs.values())
    mine = keras.Model(ours.input, [ours.get_layer(tap).output for tap in taps])
    other = keras.Model(
        theirs.get_layer("stem_conv_pad").input, [theirs.get_layer(tap).output for tap in taps]
    )
    images = np.random.default_rng(1).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)
    for a, b in zip(mine(images), other(images)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_keras_applications_file_gives_the_same_features(theirs, ours, tmp_path):
    path = str(tmp_path / "b0.h5")
    theirs.save_weights(path)
    scramble(ours)
    weights = read_weights(path, ours)
    assert assign_weights(ours, weights) == len(ours.variables)
    layers = {
        name.split("/")[0].rstrip("_0123456789") for name in weights.unused
    }  # Keras numbers repeated layers
    assert layers == {"normalization", "top_conv", "top_bn", "predictions"}
    assert_same_features(theirs, ours)


def tf1_checkpoint(theirs, ours, prefix, *, average=True, leave_out=(), name="efficientnet-b0"):
    """A TF1 checkpoint with the published names: variables, their averages, optimizer slots, step, head."""
    table = tf1_names(ours, name)
    found = {variable_name(v): v.numpy() for v in theirs.variables}
    values = {
        "global_step": np.int64(5),
        f"{name}/head/conv2d/kernel": np.zeros((1, 1, 320, 1280), np.float32),
    }
    for mine, published in table.items():
        if published in leave_out:
            continue
        values[published] = found[mine] + (
            1.0 if average else 0.0
        )  # the plain value differs from the average
        values[published + "/RMSProp"] = found[mine] * 0
        if average:
            values[published + "/ExponentialMovingAverage"] = found[mine]
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    return prefix


@pytest.mark.parametrize("average", [True, False])
def test_tf1_checkpoint_gives_the_same_features(theirs, ours, tmp_path, average):
    path = tf1_checkpoint(theirs, ours, str(tmp_path / "model.ckpt"), average=average)
    scramble(ours)
    weights = read_weights(path, ours)
    assert weights.unused == ("efficientnet-b0/head/conv2d/kernel", "global_step")
    assign_weights(ours, weights)
    assert_same_features(theirs, ours)


def test_tf1_names_by_hand(ours):
    """Read off the published B0 checkpoint's naming: block 2a is the second block, 7a the sixteenth."""
    table = tf1_names(ours, "efficientnet-b0")
    assert table["stem_bn/moving_mean"] == "efficientnet-b0/stem/tpu_batch_normalization/moving_mean"
    assert table["block1a_project_conv/kernel"] == "efficientnet-b0/blocks_0/conv2d/kernel"
    assert table["block1a_bn/gamma"] == "efficientnet-b0/blocks_0/tpu_batch_normalization/gamma"
    assert (
        table["block2a_dwconv/depthwise_kernel"]
        == "efficientnet-b0/blocks_1/depthwise_conv2d/depthwise_kernel"
    )
    assert table["block2a_bn/beta"] == "efficientnet-b0/blocks_1/tpu_batch_normalization_1/beta"
    assert table["block7a_project_bn/gamma"] == "efficientnet-b0/blocks_15/tpu_batch_normalization_2/gamma"
    assert table["block7a_se_expand/bias"] == "efficientnet-b0/blocks_15/se/conv2d_1/bias"
    assert len(set(table.values())) == len(ours.variables)


def test_missing_variable_is_named_and_nothing_is_half_loaded(theirs, ours, tmp_path):
    gone = "efficientnet-b0/blocks_3/conv2d/kernel"
    path = tf1_checkpoint(theirs, ours, str(tmp_path / "model.ckpt"), leave_out=(gone,))
    scramble(ours)
    before = [v.numpy() for v in ours.variables]
    with pytest.raises(WeightsError, match="lacks 1 of .*block3a_expand_conv/kernel"):
        assign_weights(ours, read_weights(path, ours))
    assert all((a == b.numpy()).all() for a, b in zip(before, ours.variables))


def test_another_size_of_model_is_refused(theirs, tmp_path):
    path = str(tmp_path / "b0.h5")
    theirs.save_weights(path)
    other = build_efficientnet("efficientnet-b0", width=0.5, input_shape=(SIZE, SIZE, 3))
    with pytest.raises(WeightsError, match="another size of model"):
        assign_weights(other, read_weights(path, other))


def test_imported_file_round_trips_and_notices_damage(theirs, ours, tmp_path):
    h5, npz = str(tmp_path / "b0.h5"), str(tmp_path / "b0.npz")
    theirs.save_weights(h5)
    weights = read_weights(h5, ours)
    write_weights(npz, weights)
    again = read_weights(npz, ours)
    assert again.fingerprint() == weights.fingerprint() and "b0.h5" in again.origin
    with np.load(npz) as file:
        note, values = json.loads(str(file["__meta__"])), {k: file[k] for k in file.files}
    assert note["licence"] and note["normalization"] == "imagenet"
    values["stem_conv/kernel"] = values["stem_conv/kernel"] + 1
    np.savez(npz, **values)
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(npz, ours)


def test_pickles_are_refused(ours, tmp_path):
    evil = str(tmp_path / "evil.npz")
    np.savez(evil, **{"__meta__": np.array({"run": print}, dtype=object)})
    with pytest.raises(WeightsError, match="__meta__ is no note"):
        read_weights(evil, ours)


def test_exported_model_of_this_project(tmp_path):
    from official.export.stock import stock_model
    from official.tasks.registry import build_task
    from tests import tiny

    task = build_task(tiny.experiment(**tiny.SQUEEZING), tiny.scenes_source().categories)
    model = task.build_model()
    path = str(tmp_path / "model.keras")
    stock_model(model).save(path)
    backbone = build_efficientnet("efficientnet-b0", width=0.25, depth=0.25, input_shape=(SIZE, SIZE, 3))
    assign_weights(backbone, read_weights(path, backbone))
    source = {variable_name(v): v.numpy() for v in model.variables}
    assert all((source[variable_name(v)] == v.numpy()).all() for v in backbone.variables)


def test_wrong_files(ours, tmp_path):
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 50)
    (tmp_path / "text.keras").write_text("no zip")
    for name in ("cut.h5", "text.keras"):
        with pytest.raises(WeightsError, match=f"{name} cannot be read"):
            read_weights(str(tmp_path / name), ours)
    with pytest.raises(WeightsError, match="no weights there"):
        read_weights(str(tmp_path / "absent.h5"), ours)
    with pytest.raises(WeightsError, match="is an address; nothing is fetched"):
        read_weights("https://example.com/model.ckpt", ours)
    with zipfile.ZipFile(tmp_path / "empty.keras", "w"):
        pass
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(str(tmp_path / "empty.keras"), ours)
    assert os.path.isfile(tmp_path / "cut.h5")


@pytest.mark.slow
def test_b7_of_keras_applications_gives_the_same_features(tmp_path):
    """813 layers, 64 pixels: same weights in, same features on every level out, to 1e-4."""
    theirs = keras.applications.EfficientNetB7(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    generator = np.random.default_rng(0)
    for variable in theirs.variables:
        if "variance" in variable.name or "gamma" in variable.name:
            variable.assign(generator.uniform(0.8, 1.2, variable.shape))
    path = str(tmp_path / "b7.h5")
    theirs.save_weights(path)
    ours = build_efficientnet("efficientnet-b7", input_shape=(SIZE, SIZE, 3))
    assign_weights(ours, read_weights(path, ours))
    assert_same_features(theirs, ours)
