"""SimCLR and keras-cv weights: files of the true format and names with random values, checked on a second
forward pass.
"""

import os

import numpy as np
import pytest
import tensorflow as tf

from official.data.example import normalize
from official.models.backbones.kerascv import KerasCVBackbone, stock_backbone
from official.models.backbones.resnet import ResNetBackbone
from official.models.weights.import_checkpoint import read_weights
from official.models.weights.import_simclr import layers_in_order, tf1_table, tf2_table
from official.models.weights.named_weights import (
    WeightsError,
    assign_weights,
    differences,
    epsilon_of,
    write_weights,
)
from official.models.weights.public_weights import weights_file

BLOCKS, WIDTH = (2, 1, 1, 1), 0.125


def ours(**options):
    options = {"input_normalization": "unit", "batch_norm_epsilon": 1e-5, **options}
    return ResNetBackbone(blocks=BLOCKS, width=WIDTH, **options)


NAMES = [v.name.split(":")[0] for v in ours().variables]


def test_the_tables_by_hand():
    """ResNet-50 counts 53 convolutions; the public converters number them as here."""
    whole = ResNetBackbone(blocks=(3, 4, 6, 3))
    names = [v.name.split(":")[0] for v in whole.variables]
    assert len(layers_in_order(names)) == 53
    table = tf1_table(names)
    assert set(table) == set(names)
    assert table["stem_conv/kernel"] == "base_model/conv2d/kernel"
    assert table["stage2_block0_shortcut_conv/kernel"] == "base_model/conv2d_1/kernel"
    assert table["stage2_block0_1_conv/kernel"] == "base_model/conv2d_2/kernel"
    assert table["stage2_block1_1_bn/gamma"] == "base_model/batch_normalization_5/gamma"
    assert table["stage3_block0_shortcut_conv/kernel"] == "base_model/conv2d_11/kernel"
    assert table["stage5_block2_3_bn/moving_variance"] == "base_model/batch_normalization_52/moving_variance"
    graph = tf2_table(names)
    assert set(graph) == set(names)
    assert graph["stem_bn/beta"] == "initial_conv_relu_max_pool/2/bn/beta"
    assert graph["stage2_block0_shortcut_bn/gamma"] == "block_groups/0/layers/0/projection_layers/1/bn/gamma"
    assert (
        graph["stage4_block5_2_conv/kernel"]
        == "block_groups/2/layers/5/conv_relu_dropblock_layers/3/conv2d/kernel"
    )
    assert (
        graph["stage5_block2_3_bn/moving_mean"]
        == "block_groups/3/layers/2/conv_relu_dropblock_layers/7/bn/moving_mean"
    )


@pytest.fixture(scope="module")
def values():
    """Random values under TF1 names."""
    generator, shapes = np.random.default_rng(0), {n: v.shape for n, v in zip(NAMES, ours().variables)}
    found = {}
    for name, theirs in tf1_table(NAMES).items():
        if "variance" in name or "gamma" in name:
            found[theirs] = generator.uniform(0.5, 1.5, shapes[name]).astype(np.float32)
        else:
            found[theirs] = generator.normal(0, 0.2, shapes[name]).astype(np.float32)
    return found


def forward(values, pixels):
    """SimCLR's resnet.py written down once more, on pixels in [0, 1]: the map before its average pool."""
    count = iter(range(1000))

    def conv_norm(x, stride):
        n = next(count)
        suffix = f"_{n}" if n else ""
        kernel = values[f"base_model/conv2d{suffix}/kernel"]
        padding = "SAME"
        if stride > 1:
            total = kernel.shape[0] - 1
            x = tf.pad(
                x, [[0, 0], [total // 2, total - total // 2], [total // 2, total - total // 2], [0, 0]]
            )
            padding = "VALID"
        x = tf.nn.conv2d(x, kernel, stride, padding)
        gamma, beta, mean, variance = (
            values[f"base_model/batch_normalization{suffix}/{k}"]
            for k in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    x = tf.nn.max_pool2d(tf.nn.relu(conv_norm(pixels, 2)), 3, 2, "SAME")
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = conv_norm(x, stride) if not block else x
            y = tf.nn.relu(conv_norm(x, 1))
            y = tf.nn.relu(conv_norm(y, stride))
            x = tf.nn.relu(conv_norm(y, 1) + shortcut)
    return x.numpy()


def write_tf1(values, prefix, leave_out=()):
    with tf.Graph().as_default():
        kept = {k: v for k, v in values.items() if k not in leave_out}
        extra = {
            "head_contrastive/nl_0/dense/kernel": np.ones((3, 3), np.float32),
            "global_step": np.int64(7),
        }
        extra["base_model/conv2d/kernel/Momentum"] = values["base_model/conv2d/kernel"]
        variables = [tf.compat.v1.get_variable(k, initializer=v) for k, v in {**kept, **extra}.items()]
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            return tf.compat.v1.train.Saver(variables).save(session, prefix, write_meta_graph=False)


class Node(tf.Module):
    """An object whose children are given by name; lists stay lists, as in SimCLR's layers."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


def tf2_model(values):
    """The object graph of SimCLR's TF2 model with the same numbers."""
    count = iter(range(1000))

    def pair():
        n = next(count)
        suffix = f"_{n}" if n else ""
        bn = {
            k: tf.Variable(values[f"base_model/batch_normalization{suffix}/{k}"])
            for k in ("gamma", "beta", "moving_mean", "moving_variance")
        }
        return Node(conv2d=Node(kernel=tf.Variable(values[f"base_model/conv2d{suffix}/kernel"]))), Node(
            bn=Node(**bn)
        )

    def block(first):
        projection = list(pair()) if first else []
        layers = []
        for _ in range(3):
            layers += [*pair(), Node()]
        return Node(projection_layers=projection, conv_relu_dropblock_layers=layers)

    conv, norm = pair()
    stem = [conv, Node(), norm, Node(), Node()]
    groups = [Node(layers=[block(number == 0) for number in range(n)]) for n in BLOCKS]
    resnet = Node(initial_conv_relu_max_pool=stem, block_groups=groups)
    return Node(resnet_model=resnet, _projection_head=Node(w=tf.Variable(1.0)))


def write_tf2_checkpoint(values, folder):
    checkpoint = tf.train.Checkpoint(model=tf2_model(values), global_step=tf.Variable(3, dtype=tf.int64))
    return checkpoint.write(os.path.join(folder, "ckpt-3"))


def write_saved_model(values, folder):
    """A SavedModel whose root also lists all variables, so that their keys are not their paths."""
    model = tf2_model(values)
    root = Node(model=model)
    root.everything = list(model.variables)
    tf.saved_model.save(root, os.path.join(folder, "saved"))
    return os.path.join(folder, "saved")


WRITERS = {
    "TF1": lambda v, f: write_tf1(v, os.path.join(f, "model.ckpt-225206")),
    "TF2": write_tf2_checkpoint,
    "SavedModel": write_saved_model,
}
PIXELS = np.random.default_rng(5).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_features_are_simclrs(values, tmp_path, kind):
    """The scale of the pixels comes with the weights: our normalised input, SimCLR's numbers, to 1e-4."""
    path = WRITERS[kind](values, str(tmp_path))
    backbone = ours()
    weights = read_weights(path, backbone)
    assert weights.normalization == "unit"
    assert weights.epsilon == 1e-5 and assign_weights(backbone, weights) == len(backbone.variables)
    if kind == "TF1":
        assert weights.unused == ("head_contrastive/nl_0/dense/kernel",)
    expected = forward(values, PIXELS / 255)
    found = backbone(normalize(PIXELS)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_another_epsilon_gives_the_same_features(values, tmp_path):
    path = write_tf1(values, str(tmp_path / "model.ckpt"))
    backbone = ours(batch_norm_epsilon=1e-4)
    weights = read_weights(path, backbone)
    assign_weights(backbone, weights)
    expected = forward(values, PIXELS / 255)
    np.testing.assert_allclose(
        backbone(normalize(PIXELS)), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )
    notes = " ".join(differences(backbone, weights))
    assert "'unit'" in notes and "epsilon 1e-05 in the weights, 0.0001 here" in notes


def test_the_wrong_scale_backbone_and_file_are_refused(values, tmp_path):
    path = write_tf1(values, str(tmp_path / "model.ckpt"))
    plain = ours(input_normalization="imagenet")
    before = [v.numpy() for v in plain.variables]
    with pytest.raises(WeightsError, match="--input_normalization=unit"):
        assign_weights(plain, read_weights(path, plain))
    assert all((a == b.numpy()).all() for a, b in zip(before, plain.variables))
    from official.models.backbones.efficientnet import build_efficientnet

    with pytest.raises(WeightsError, match="needs --backbone=resnet-50"):
        read_weights(path, build_efficientnet("efficientnet-b0", width=0.25, depth=0.25))
    other = ResNetBackbone(blocks=(3, 1, 1, 1), width=WIDTH, input_normalization="unit")
    with pytest.raises(WeightsError, match="lacks|another size"):
        assign_weights(other, read_weights(path, other))
    gone = write_tf1(values, str(tmp_path / "part.ckpt"), leave_out=("base_model/conv2d_3/kernel",))
    backbone = ours()
    with pytest.raises(WeightsError, match="lacks 1 of .*stage2_block0_2_conv/kernel"):
        assign_weights(backbone, read_weights(gone, backbone))
    unknown = tf.train.Checkpoint(thing=tf.Variable(1.0)).write(str(tmp_path / "other"))
    with pytest.raises(WeightsError, match="not of SimCLR's ResNet"):
        read_weights(unknown, backbone)
    shard = path + ".data-00000-of-00001"
    content = open(shard, "rb").read()
    open(shard, "wb").write(content[: len(content) // 2])
    with pytest.raises(WeightsError):
        read_weights(path, backbone)


def test_scale_and_epsilon_survive_the_imported_file(values, tmp_path):
    backbone = ours()
    write_weights(
        str(tmp_path / "resnet-50_simclr.npz"), read_weights(write_tf1(values, str(tmp_path / "m")), backbone)
    )
    weights = read_weights(str(tmp_path / "resnet-50_simclr.npz"), backbone)
    assert weights.normalization == "unit" and weights.epsilon == 1e-5
    assert read_weights(weights_file("simclr", str(tmp_path), "resnet-50"), backbone).normalization == "unit"
    with pytest.raises(WeightsError, match="put one of these into .*r50_1x_sk0, .*ResNet50_1x"):
        weights_file("simclr", str(tmp_path / "nowhere"), "resnet-50")


@pytest.mark.parametrize("ending", [".h5", ".weights.h5"])
def test_keras_cv_files(tmp_path, ending):
    stock = stock_backbone("keras-cv-resnet-50", 0.125)
    generator = np.random.default_rng(0)
    for variable in stock.variables:
        variable.assign(generator.uniform(0.1, 0.5, variable.shape))
    path = str(tmp_path / f"kcv{ending}")
    stock.save_weights(path)
    backbone = KerasCVBackbone(variant="keras-cv-resnet-50", width=0.125)
    weights = read_weights(path, backbone)
    assert weights.normalization == "unit" and weights.epsilon == pytest.approx(epsilon_of(backbone))
    assign_weights(backbone, weights)
    expected = stock(PIXELS / 255).numpy()
    np.testing.assert_allclose(
        backbone(normalize(PIXELS)), expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max()
    )
