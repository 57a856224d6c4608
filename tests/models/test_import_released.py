"""The original's own checkpoints: its names, read by us, give its outputs (tests/golden/original)."""

import json
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf

from official.data.formats.coco_classes import COCO_CATEGORIES
from official.data.source import Category
from official.export.stock import stock_model
from official.models.backbones.efficientnet import build_efficientnet
from official.models.backbones.registry import build_backbone
from official.models.backbones.resnet import ResNetBackbone
from official.models.backbones.spinenet import SpineNetBackbone
from official.models.retinanet import RetinaNet
from official.models.weights.import_checkpoint import class_channels, read_network, read_weights
from official.models.weights.import_released import heads_table, spinenet_table
from official.models.weights.named_weights import WeightsError, assign_weights, variable_name
from official.tasks.registry import build_task
from tests import tiny

keras = tf.keras
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ORIGINAL = os.path.join(ROOT, "tests", "golden", "original")
SMALL = dict(
    backbone_width=0.25,
    backbone_depth=0.25,
    backbone="efficientnet-b0",
    fpn_filters=16,
    survival_probability=1.0,
)
# How the original's networks are called here; the numbers are those that they were built with.
FLAGS = {
    "retinanet_b0": dict(
        **SMALL, head_filters=16, head_convs=2, max_level=7, image_size=128, anchor_scale=4.0,
    ),
    "spinenet_detector": dict(
        backbone="spinenet-49", backbone_width=0.1, backbone_depth=1.0, head_filters=16, head_convs=2,
        activation="swish", batch_norm_epsilon=1e-3, max_level=7, image_size=128, survival_probability=1.0,
        anchor_scale=4.0,
    ),
    "nasfpn_segmenter": dict(
        **SMALL, task="segmentation", pyramid="nas_fpn", pyramid_repeats=2, segmentation_convs=3,
        batch_norm_epsilon=1e-3, max_level=7, image_size=128, legacy_resize=True,
    ),
}  # fmt: skip
IDS = {
    "retinanet_b0": [1, 2, 3, 4, 5],
    "spinenet_detector": [1, 2, 3, 4, 5],
    "nasfpn_segmenter": [0, 1, 2, 3],
}


def network(name, ids=None):
    experiment = tiny.experiment(**FLAGS[name])
    return build_task(experiment, [Category(i, str(i)) for i in ids or IDS[name]]).build_model()


def case_of(name):
    with np.load(os.path.join(ORIGINAL, name, "case.npz"), allow_pickle=False) as case:
        return dict(case)


def assert_close(ours, theirs):
    """To 1e-5 of the largest value: the two sum in another order (3e-6 measured)."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def assert_same_outputs(model, case):
    found = model({"images": case["images"]})
    if "logits" in case:
        assert_close(found["logits"], case["logits"])
    else:
        assert_close(found["box"], case["box"])
        assert_close(found["classification"], case["class_logits"][..., 1:])


@pytest.fixture(scope="module", params=sorted(FLAGS))
def imported(request):
    """(name, model with the file's weights, weights)."""
    model = network(request.param)
    weights = read_network(os.path.join(ORIGINAL, request.param), model, IDS[request.param])
    assert assign_weights(model, weights) == len(model.variables)
    return request.param, model, weights


def test_the_same_outputs(imported):
    name, model, weights = imported
    assert_same_outputs(model, case_of(name))
    heads = {n.split("/")[1] for n in weights.unused}  # EfficientNet's classifier, which no detector uses
    assert heads == (set() if name == "spinenet_detector" else {"head"})


def test_the_exported_network_too(imported):
    name, model, _ = imported
    if name == "nasfpn_segmenter":  # its layers have the most to be replaced
        assert_same_outputs(stock_model(model), case_of(name))


def test_the_number_of_classes_is_the_files():
    for name, network, channels in (
        ("retinanet_b0", "detector", 6),
        ("spinenet_detector", "detector", 6),
        ("nasfpn_segmenter", "segmenter", 4),
    ):
        assert class_channels(os.path.join(ORIGINAL, name), network) == channels
    with pytest.raises(WeightsError, match="has no segmenter's head"):
        class_channels(os.path.join(ORIGINAL, "retinanet_b0"), "segmenter")
    with pytest.raises(WeightsError, match="has no RetinaNet's head"):
        class_channels(os.path.join(ORIGINAL, "nasfpn_segmenter"), "detector")


def test_chosen_classes_keep_their_channels():
    """Classes 5 and 2 alone, in that order, of channels that are anchor-major."""
    model, case = network("retinanet_b0", [5, 2]), case_of("retinanet_b0")
    assign_weights(model, read_network(os.path.join(ORIGINAL, "retinanet_b0"), model, [5, 2]))
    assert_close(model({"images": case["images"]})["classification"], case["class_logits"][..., [5, 2]])


def rewritten(name, folder, rename):
    """The checkpoint with other names."""
    reader = tf.train.load_checkpoint(os.path.join(ORIGINAL, name, "model.ckpt"))
    return write_checkpoint(
        folder, {rename(n): reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}
    )


def write_checkpoint(folder, values):
    os.makedirs(folder, exist_ok=True)
    prefix = os.path.join(folder, "model.ckpt")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    return prefix


def test_a_segmenter_named_as_before_april_2020(tmp_path):
    """heads.py called the layers class-N and class-N-bn then."""
    path = rewritten(
        "nasfpn_segmenter",
        str(tmp_path),
        lambda name: name.replace("segmentation/conv-", "segmentation/class-"),
    )
    model = network("nasfpn_segmenter")
    assert assign_weights(model, read_network(path, model, IDS["nasfpn_segmenter"])) == len(model.variables)
    assert_same_outputs(model, case_of("nasfpn_segmenter"))


# --- ResNet ----------------------------------------------------------------------------------------


def value_of(name, shape):
    """What the original's variable of that name was given; a function of the name."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("kernel"):
        return generator.normal(0, np.sqrt(2.0 / np.prod(shape[:-1])), shape).astype(np.float32)
    low, high = (0.5, 1.5) if name.endswith(("gamma", "moving_variance")) else (-0.3, 0.3)
    return generator.uniform(low, high, shape).astype(np.float32)


@pytest.fixture(scope="module")
def resnet_names():
    """The original's variables: of its ResNet-50, and of a RetinaNet on its ResNet-14."""
    with open(os.path.join(ORIGINAL, "retinanet_resnet14", "names.json"), encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture(scope="module")
def resnet14_file(resnet_names, tmp_path_factory):
    shapes = resnet_names["retinanet_resnet14"]
    values = {name: value_of(name, shape) for name, shape in shapes.items()}
    return write_checkpoint(str(tmp_path_factory.mktemp("resnet14")), {**values, "global_step": np.int64(3)})


def test_retinanet_on_resnet(resnet14_file):
    backbone = ResNetBackbone(blocks=(1, 1, 1, 1))
    model = RetinaNet(backbone, 2, image_size=128, fpn_filters=16, head_filters=16, head_convs=1)
    weights = read_network(resnet14_file, model, [1, 2])
    assert assign_weights(model, weights) == len(model.variables) and weights.unused == ()
    images = np.random.default_rng(0).normal(size=(1, 128, 128, 3)).astype(np.float32)
    assert_same_outputs(model, {**case_of("retinanet_resnet14"), "images": images})

    alone = ResNetBackbone(blocks=(1, 1, 1, 1), batch_norm_epsilon=1e-3)
    read = read_weights(resnet14_file, alone)
    assign_weights(alone, read)
    assert read.epsilon == 1e-3 and read.normalization == "imagenet"
    for ours, theirs in zip(alone.variables, backbone.variables):
        np.testing.assert_array_equal(ours, theirs)


def test_resnet50_has_the_originals_names_and_shapes(resnet_names):
    """Each of the original's 265 variables has a place of its shape, with the scope and without."""
    from official.models.weights.import_resnet import resnet_table

    theirs = {name: tuple(shape) for name, shape in resnet_names["resnet50"].items()}
    backbone = build_backbone(tiny.experiment(backbone="resnet-50", backbone_width=0.0).model)
    shapes = {variable_name(v): tuple(v.shape) for v in backbone.variables}
    table = resnet_table("file", theirs, backbone)
    assert {theirs[table[name]] == shape for name, shape in shapes.items()} == {True}
    assert set(table.values()) == set(theirs)
    bare = resnet_table("file", {name.removeprefix("resnet50/"): 0 for name in theirs}, backbone)
    assert {f"resnet50/{name}" for name in bare.values()} == set(theirs)


def test_a_classifiers_resnet_has_another_epsilon(resnet_names, tmp_path):
    shapes = {
        n.removeprefix("resnet14/"): s
        for n, s in resnet_names["retinanet_resnet14"].items()
        if n.startswith("resnet14/")
    }
    path = write_checkpoint(str(tmp_path), {name: value_of(name, shape) for name, shape in shapes.items()})
    backbone = ResNetBackbone(blocks=(1, 1, 1, 1))
    weights = read_weights(path, backbone)
    assert weights.epsilon == 1e-5 and len(weights.values) == len(backbone.variables)
    with pytest.raises(WeightsError, match="needs --backbone=resnet-50"):
        read_weights(path, build_efficientnet("efficientnet-b0", width=0.25, depth=0.25))


# --- names, errors, the job ------------------------------------------------------------------------


def test_names_by_hand():
    """The public SpineNet-49S checkpoint's: 13 layers in the outer scope, endpoints last; a second repeat."""
    names = [variable_name(v) for v in SpineNetBackbone(filter_scale=0.05, endpoint_filters=4).variables]
    table = spinenet_table(names)
    assert table["stem_conv/kernel"] == "spinenet/conv2d/kernel"
    assert table["block0_0_shortcut_conv/kernel"] == "spinenet/conv2d_1/kernel"
    assert table["block0_0_3_bn/gamma"] == "spinenet/batch_normalization_4/gamma"
    assert table["block1_0_1_conv/kernel"] == "spinenet/conv2d_5/kernel"
    assert table["endpoint_3_conv/kernel"] == "spinenet/conv2d_8/kernel"
    assert table["endpoint_7_bn/moving_mean"] == "spinenet/batch_normalization_12/moving_mean"
    assert (
        table["block14_parent0_match_conv/kernel"]
        == "spinenet/sub_policy12/resample_with_alpha_resample_12_0/conv2d_2/kernel"
    )
    assert (
        table["block3_0_2_bn/beta"]
        == "spinenet/sub_policy1/scale_permuted_block_3/batch_normalization_1/beta"
    )
    assert len(set(table.values())) == len(table)
    again = spinenet_table([*names, *(f"block0_1_{i}_conv/kernel" for i in (1, 2, 3))])
    assert again["block0_1_2_conv/kernel"] == "spinenet/conv2d_6/kernel"
    assert again["block1_0_1_conv/kernel"] == "spinenet/conv2d_8/kernel"


def test_heads_by_hand():
    names = [
        "classification_bn_2_level_5/gamma", "box_predictor/bias", "nas_6_node_11_conv/pointwise_kernel",
        "head_bn_0/beta",
        "fpn_conv_5/kernel", "fpn_conv_6/kernel", "other/kernel",
    ]  # fmt: skip
    assert heads_table(names, ["segmentation/class-0-bn/beta"]) == {
        "classification_bn_2_level_5/gamma": "retinanet/class_net/class-2-5/gamma",
        "box_predictor/bias": "retinanet/box_net/box-predict/bias",
        "nas_6_node_11_conv/pointwise_kernel": "fpn_cells/cell_6/sub_policy6/op_after_combine11/conv/pointwise_kernel",
        "head_bn_0/beta": "segmentation/class-0-bn/beta",
        "fpn_conv_5/kernel": "fpn/post_hoc_d5/kernel",
        "fpn_conv_6/kernel": "fpn/p6/kernel",
    }  # fmt: skip


def test_what_does_not_fit_is_named(imported, tmp_path):
    name, model, _ = imported
    folder = os.path.join(ORIGINAL, name)
    if name == "nasfpn_segmenter":
        other = build_task(
            tiny.experiment(**{**FLAGS[name], "segmentation_convs": 4}),
            [Category(i, str(i)) for i in range(4)],
        ).build_model()
        with pytest.raises(WeightsError, match="lacks 6 of .*head_conv_3/kernel"):
            assign_weights(other, read_network(folder, other, range(4)))
        return
    with pytest.raises(WeightsError, match="has 6 classes, background included; there is none of number 6"):
        read_network(folder, model, [1, 2, 3, 4, 6])
    if name == "retinanet_b0":
        deeper = build_backbone(tiny.experiment(**{**FLAGS[name], "backbone_depth": 0.5}).model)
        with pytest.raises(WeightsError, match="lacks .*block3b_|another size"):
            assign_weights(deeper, read_weights(folder, deeper))
        return
    with pytest.raises(WeightsError, match="needs --backbone=spinenet"):
        read_weights(folder, build_efficientnet("efficientnet-b0", width=0.25, depth=0.25))
    with pytest.raises(
        WeightsError, match="nowhere is no checkpoint of TensorFlow .there is no .*nowhere.index"
    ):
        read_network(str(tmp_path / "nowhere"), model, [1])


def test_its_backbone_alone(imported):
    name, model, _ = imported
    backbone = build_backbone(tiny.experiment(**FLAGS[name]).model)
    weights = read_weights(os.path.join(ORIGINAL, name, "model.ckpt"), backbone)
    assign_weights(backbone, weights)
    assert any(n.startswith(("retinanet/box_net", "segmentation/")) for n in weights.unused)
    for ours, theirs in zip(backbone.variables, model.backbone.variables):
        np.testing.assert_array_equal(ours, theirs)


# --- more repeats than the original's checkpoint has -------------------------------------------------


@pytest.mark.slow
def test_a_spinenet_with_two_repeats(tmp_path):
    """Out of TF1 layers that TF1 itself names, with COCO's 91 channels."""
    from tests.models.tf1_networks import HEAD, SCALING

    subprocess.run(
        [sys.executable, "-m", "tests.models.tf1_networks", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with np.load(tmp_path / "case.npz") as file:
        case = dict(file)
    model = RetinaNet(
        SpineNetBackbone(**SCALING, batch_norm_epsilon=1e-3),
        80,
        image_size=128,
        activation="swish",
        batch_norm_epsilon=1e-3,
        **HEAD,
    )
    ids = [category.id for category in COCO_CATEGORIES]
    weights = read_network(str(tmp_path), model, ids)
    assert assign_weights(model, weights) == len(model.variables) and weights.unused == ()
    found = model({"images": case["images"]})
    assert_close(found["box"], case["box"])
    assert_close(found["classification"], case["classification"][..., ids])
