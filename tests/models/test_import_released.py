"""Released networks: weights from checkpoints that TF1 wrote, with TF1's own names, give TF1's own outputs."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from official import jobs
from official.data.coco_classes import COCO_CATEGORIES
from official.experiment import experiment_from
from official.export import stock_model
from official.models.efficientnet import build_efficientnet
from official.models.import_checkpoint import read_network, read_weights
from official.models.import_released import heads_table, spinenet_table
from official.models.retinanet import RetinaNet
from official.models.segmenter import Segmenter
from official.models.spinenet import SpineNetBackbone
from official.models.weights import WeightsError, assign_weights, variable_name
from official.training.run_folder import saved_flags
from tests import tiny
from tests.models.tf1_networks import HEAD, SCALING, SIZE, WIDTH

keras = tf.keras
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COCO_IDS = [category.id for category in COCO_CATEGORIES]


def written(kind, folder):
    """A folder with a checkpoint, and its input and outputs."""
    subprocess.run([sys.executable, "-m", "tests.models.tf1_networks", kind, str(folder)], cwd=ROOT, check=True, capture_output=True)
    with np.load(folder / "case.npz") as case:
        return folder, dict(case)


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory):
    return written("detector", tmp_path_factory.mktemp("spinenet-tiny"))


def our_detector(classes=80):
    backbone = SpineNetBackbone(**SCALING, batch_norm_epsilon=1e-3)
    return RetinaNet(backbone, classes, image_size=128, activation="swish", batch_norm_epsilon=1e-3, **HEAD)


def test_detector_gives_the_same_outputs(detector_file):
    folder, case = detector_file
    model = our_detector()
    weights = read_network(str(folder), model, COCO_IDS)
    assert assign_weights(model, weights) == len(model.variables)
    assert weights.unused == ()
    found = model({"images": case["images"]})
    np.testing.assert_allclose(found["box"], case["box"], atol=1e-4 * np.abs(case["box"]).max())
    chosen = case["classification"][..., COCO_IDS]
    np.testing.assert_allclose(found["classification"], chosen, atol=1e-4 * np.abs(chosen).max())


def test_its_backbone_alone(detector_file):
    folder, case = detector_file
    backbone = SpineNetBackbone(**SCALING, batch_norm_epsilon=1e-3)
    weights = read_weights(str(folder / "model.ckpt"), backbone)
    assign_weights(backbone, weights)
    assert any(name.startswith("retinanet/box_net") for name in weights.unused)
    model = our_detector()
    assign_weights(model, read_network(str(folder), model, COCO_IDS))
    np.testing.assert_array_equal(backbone(case["images"]), model.backbone(case["images"]))


def test_names_by_hand():
    """Those of the public SpineNet-49S checkpoint: 13 unnumbered-scope layers, endpoints of P3..P7 last."""
    table = spinenet_table([variable_name(v) for v in SpineNetBackbone(filter_scale=0.05, endpoint_filters=4).variables])
    assert table["stem_conv/kernel"] == "spinenet/conv2d/kernel"
    assert table["block0_0_shortcut_conv/kernel"] == "spinenet/conv2d_1/kernel"
    assert table["block0_0_3_bn/gamma"] == "spinenet/batch_normalization_4/gamma"
    assert table["block1_0_1_conv/kernel"] == "spinenet/conv2d_5/kernel"
    assert table["endpoint_3_conv/kernel"] == "spinenet/conv2d_8/kernel"
    assert table["endpoint_7_bn/moving_mean"] == "spinenet/batch_normalization_12/moving_mean"
    assert table["block14_parent0_match_conv/kernel"] == "spinenet/sub_policy12/resample_with_alpha_resample_12_0/conv2d_2/kernel"
    assert table["block3_0_2_bn/beta"] == "spinenet/sub_policy1/scale_permuted_block_3/batch_normalization_1/beta"
    assert len(set(table.values())) == len(table)


def test_what_does_not_fit_is_named(detector_file, tmp_path):
    folder = str(detector_file[0])
    with pytest.raises(WeightsError, match="has 91 classes, background included; there is none of number 91"):
        read_network(folder, our_detector(1), [91])
    deeper = SpineNetBackbone(**{**SCALING, "repeats": 3})
    with pytest.raises(WeightsError, match="lacks .*block1_2_3_conv/kernel"):
        assign_weights(deeper, read_weights(folder, deeper))
    with pytest.raises(WeightsError, match="needs --backbone=spinenet"):
        read_weights(folder, build_efficientnet("efficientnet-b0", width=0.25, depth=0.25))
    with pytest.raises(WeightsError, match="nowhere cannot be read"):
        read_network(str(tmp_path / "nowhere"), our_detector(80), COCO_IDS)


def test_the_job_makes_a_finished_run(detector_file, tmp_path):
    """Imported, then used on a folder, with no flag of the network."""
    run, photos = str(tmp_path / "run"), tmp_path / "photos"
    flags = dict(
        model_dir=run, backbone="spinenet-49", backbone_width=0.1, backbone_depth=2.0, image_size=128, max_level=7,
        activation="swish", batch_norm_epsilon=1e-3, anchor_scale=4.0, **HEAD,
    )  # fmt: skip
    imported = jobs.run(tiny.experiment(job="import_checkpoint", checkpoint=str(detector_file[0]), **flags))
    assert imported["imported"]["unused"] == []
    photos.mkdir()
    keras.utils.save_img(str(photos / "a.png"), np.random.default_rng(0).integers(0, 255, (90, 120, 3)), scale=False)
    saved = experiment_from({**saved_flags(run), "images": str(photos), "score_floor": 0.01})
    found = jobs.run(experiment_from({**saved.flags(), "job": "predict"}))
    assert found["predictions"]["boxes"] > 0 and found["predictions"]["checkpoint"] == imported["checkpoint"]
    results = json.load(open(tmp_path / "run" / "predictions" / "detections.json"))
    assert {result["category_id"] for result in results} <= {category.id for category in COCO_CATEGORIES}


def test_segmenter_gives_the_same_outputs(tmp_path):
    """Pyramid and head on the same features; the backbone's own import is tests/models/test_import_checkpoint.py's."""
    folder, case = written("segmenter", tmp_path)
    model = Segmenter(
        build_efficientnet("efficientnet-b0", width=0.25, depth=0.25), 21, image_size=SIZE, pyramid_repeats=2, fpn_filters=WIDTH,
        head_convs=2, batch_norm_epsilon=1e-3, legacy_resize=True,
    )  # fmt: skip
    weights = read_network(str(folder), model, range(21))
    assert assign_weights(model, weights) == len(model.variables) and weights.unused == ()
    levels = (3, 4, 5)
    after = keras.Model([model.get_layer(f"nas_lateral_{level}").input for level in levels], model.output["logits"])
    found = after([case[f"P{level}"] for level in levels])
    np.testing.assert_allclose(found, case["logits"], atol=1e-4 * np.abs(case["logits"]).max())
    image = tf.random.stateless_normal([1, SIZE, SIZE, 3], [1, 2])
    stock = stock_model(model)({"images": image})["logits"]
    np.testing.assert_allclose(stock, model({"images": image})["logits"], atol=1e-4)


def test_heads_by_hand():
    names = ["classification_bn_2_level_5/gamma", "box_predictor/bias", "nas_6_node_11_conv/pointwise_kernel", "head_bn_0/beta", "other/kernel"]
    assert heads_table(names) == {
        "classification_bn_2_level_5/gamma": "retinanet/class_net/class-2-5/gamma",
        "box_predictor/bias": "retinanet/box_net/box-predict/bias",
        "nas_6_node_11_conv/pointwise_kernel": "fpn_cells/cell_6/sub_policy6/op_after_combine11/conv/pointwise_kernel",
        "head_bn_0/beta": "segmentation/class-0-bn/beta",
    }  # fmt: skip
