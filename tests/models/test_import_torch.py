"""PyTorch's state dicts give our networks the logits of a second forward pass in NumPy."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from official.data.example import IMAGENET_MEAN, IMAGENET_STD
from official.experiment import Model, experiment_from
from official.export.stock import stock_model
from official.jobs.settling import settled
from official.models.backbones.registry import build_backbone
from official.models.backbones.resnet import ResNetBackbone
from official.models.classifier import Classifier
from official.models.weights.import_checkpoint import read_weights
from official.models.weights.import_torch import timm_family
from official.models.weights.named_weights import WeightsError, assign_weights, read_npz, write_weights
from official.trained_model import as_built
from tests.models import torch_networks as torch

keras = tf.keras
SIDE, CLASSES = 40, 5  # 40, 20, 10, 5, 3, 2: even and odd sides
PIXELS = np.random.default_rng(3).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.float32)
BLOCKS, STEM = (2, 1, 1, 1), 8


@pytest.fixture(scope="module")
def states():
    made = {
        (timm, lite): torch.efficientnet_state(timm=timm, lite=lite, seed=2 * timm + lite)
        for timm in (False, True)
        for lite in (False, True)
    }
    return {**made, "resnet": torch.resnet_state(BLOCKS, STEM)}


@pytest.fixture(scope="module")
def networks():
    """A classifier on each kind of backbone."""

    def classifier(lite, scale):
        options = Model(
            backbone=f"efficientnet-{'lite' if lite else 'b'}0",
            backbone_width=0.25,
            input_normalization=scale,
        )
        return Classifier(build_backbone(options, SIDE), CLASSES, image_size=SIDE)

    backbone = ResNetBackbone(
        blocks=BLOCKS,
        width=STEM / 64,
        batch_norm_epsilon=1e-4,
        pool_padding="symmetric",
        input_shape=(SIDE, SIDE, 3),
    )
    same = ResNetBackbone(blocks=(1, 1, 1, 1), width=STEM / 64, input_shape=(SIDE, SIDE, 3))
    return {
        "same": Classifier(same, CLASSES, image_size=SIDE),
        "b0": classifier(False, "auto"),
        "adversarial": classifier(False, "symmetric"),
        "lite": classifier(True, "auto"),
        "resnet": Classifier(backbone, CLASSES, image_size=SIDE),
    }


def normalised(pixels):
    """As this project feeds every network."""
    return (pixels / 255.0 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)


SCALED = {
    "imagenet": normalised(PIXELS),
    "symmetric": PIXELS / 127.5 - 1.0,
    "lite": (PIXELS - 127.0) / 128.0,
}


def assert_logits(network, path, wanted):
    """All variables are set, and the logits are the wanted ones."""
    generator = np.random.default_rng(9)
    for variable in network.variables:
        variable.assign(generator.uniform(0.1, 0.2, variable.shape))
    weights = read_weights(path, network)
    assert assign_weights(network, weights) == len(network.variables)
    assert weights.unused == ()
    found = network({"images": normalised(PIXELS)}, training=False)["logits"].numpy()
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-4 * np.abs(wanted).max())


def planes(pixels):
    return pixels.transpose(0, 3, 1, 2).astype(np.float64)


@pytest.mark.parametrize(
    "name, timm, network, scale",
    [
        ("efficientnet-b0-355c32eb.pth", False, "b0", "imagenet"),
        ("adv-efficientnet-b0-b64d5a18.pth", False, "adversarial", "symmetric"),
        ("efficientnet-lite0-57934424.pth", False, "lite", "lite"),
        ("tf_efficientnet_b0_ns-c0e6a31c.pth", True, "b0", "imagenet"),
        ("tf_efficientnet_b0_ap-f262efe1.pth", True, "adversarial", "symmetric"),
        ("tf_efficientnet_b0.ap_in1k.safetensors", True, "adversarial", "symmetric"),
        ("tf_efficientnet_b0.ns_jft_in1k/model.safetensors", True, "b0", "imagenet"),
        ("tf_efficientnet_lite0.in1k.safetensors", True, "lite", "lite"),
    ],
)
def test_an_efficientnet_gives_pytorchs_logits(states, networks, tmp_path, name, timm, network, scale):
    state = states[timm, network == "lite"]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith(".safetensors"):
        torch.save_safetensors(path, state)
    elif timm:
        torch.save_zip(path, *torch.tensors_of(state))
    else:
        torch.save_stream(path, *torch.tensors_of(state))
    wanted = torch.efficientnet(state, planes(SCALED[scale]), timm=timm, lite=network == "lite")
    assert_logits(networks[network], str(path), wanted)


def test_a_resnet_gives_torchvisions_logits(states, networks, tmp_path):
    path = torch.save_zip(tmp_path / "resnet50-0676ba61.pth", *torch.tensors_of(states["resnet"]))
    wanted = torch.resnet(states["resnet"], planes(SCALED["imagenet"]), BLOCKS)
    assert_logits(networks["resnet"], path, wanted)


def test_a_pool_with_tensorflows_padding_is_refused_for_it(states, networks, tmp_path):
    """With "same" the features would be those of an image that is moved by two pixels."""
    path = torch.save_zip(tmp_path / "resnet50.pth", *torch.tensors_of(states["resnet"]))
    backbone = ResNetBackbone(blocks=BLOCKS, width=STEM / 64, input_shape=(SIDE, SIDE, 3))
    weights = read_weights(path, backbone)
    with pytest.raises(WeightsError, match="use --resnet_pool=symmetric"):
        assign_weights(backbone, weights)
    npz = str(tmp_path / "imported.npz")
    write_weights(npz, weights)
    assert read_npz(npz, backbone).needs() == {"input_normalization": "imagenet", "resnet_pool": "symmetric"}


def test_the_pool_travels_into_an_exported_model(networks, tmp_path):
    path = str(tmp_path / "model.keras")
    stock_model(networks["resnet"]).save(path)
    assert read_weights(path, networks["resnet"].backbone).pool == "symmetric"
    stock_model(networks["same"]).save(path)
    assert read_weights(path, networks["same"].backbone).pool == "same"


@pytest.mark.parametrize(
    "layout, order",
    [("zip", (0, 2, 3, 1)), ("stream", (0, 2, 3, 1)), ("stream", (3, 2, 1, 0)), ("zip", (0, 1, 2, 3))],
)
def test_tensors_with_any_strides(states, networks, tmp_path, layout, order):
    """The published Lite files hold kernels whose memory is in TensorFlow's order."""
    state = states[False, True]
    strides = {name: order for name, value in state.items() if value.ndim == 4}
    save = torch.save_zip if layout == "zip" else torch.save_stream
    path = save(tmp_path / "efficientnet-lite0.pth", *torch.tensors_of(state, strides))
    values = read_weights(path, networks["lite"]).values
    np.testing.assert_array_equal(
        values["stem_conv/kernel"], state["_conv_stem.weight"].transpose(2, 3, 1, 0)
    )
    dwconv = state["_blocks.2._depthwise_conv.weight"]
    np.testing.assert_array_equal(values["block2b_dwconv/depthwise_kernel"], dwconv.transpose(2, 3, 0, 1))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_precisions(states, networks, tmp_path, dtype):
    kind = tf.bfloat16.as_numpy_dtype if dtype == "bfloat16" else np.dtype(dtype)
    state = {n: v.astype(kind) if v.dtype == np.float32 else v for n, v in states[False, True].items()}
    paths = [
        torch.save_zip(tmp_path / "lite0.pth", *torch.tensors_of(state)),
        torch.save_safetensors(tmp_path / "lite0.safetensors", state),
    ]
    for path in paths:
        found = read_weights(path, networks["lite"]).values["stem_conv/kernel"]
        np.testing.assert_array_equal(
            found, state["_conv_stem.weight"].astype(np.float32).transpose(2, 3, 1, 0)
        )


def test_a_training_checkpoint_gives_its_averaged_weights(states, networks, tmp_path):
    state = states[False, True]
    other = {name: value + 1 for name, value in state.items()}
    averaged, more = torch.tensors_of({f"module.{name}": value for name, value in state.items()})
    plain, storages = torch.tensors_of(other)
    for storage in more:
        storage.key += "e"
    content = {
        "epoch": 3,
        "lr": 0.5,
        "state_dict": plain,
        "state_dict_ema": averaged,
        "name": "x",
        "done": True,
    }
    path = torch.save_zip(tmp_path / "checkpoint.pth", content, storages + more)
    found = read_weights(path, networks["lite"]).values["predictions/bias"]
    np.testing.assert_array_equal(found, state["_fc.bias"])


# --- what is refused ---------------------------------------------------------------------------------


def test_a_timm_file_whose_padding_nobody_knows_is_refused(states, networks, tmp_path):
    path = torch.save_safetensors(tmp_path / "model.safetensors", states[True, False])
    with pytest.raises(WeightsError, match="keep the file under its own name"):
        read_weights(path, networks["b0"])
    config = {"architecture": "tf_efficientnet_b0", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_weights(path, networks["adversarial"]).normalization == "symmetric"
    config["pretrained_cfg"]["mean"] = [0.48, 0.45, 0.4]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"pixels of mean and deviation \(\(0.48, 0.45, 0.4\)"):
        read_weights(path, networks["b0"])


@pytest.mark.parametrize("name", ["efficientnet_b0_ra-3dd342df.pth", "efficientnet_lite0_ra-37913777.pth"])
def test_pytorchs_padding_is_refused(states, networks, tmp_path, name):
    path = torch.save_zip(tmp_path / name, *torch.tensors_of(states[True, "lite" in name]))
    with pytest.raises(WeightsError, match=r"symmetric padding.* Take tf_efficientnet_(b|lite)0"):
        read_weights(path, networks["lite" if "lite" in name else "b0"])


@pytest.mark.parametrize(
    "path, name, scale",
    [
        ("tf_efficientnet_b7.aa_in1k/model.safetensors", "timm's tf_efficientnet_b7", "imagenet"),
        (
            "models--timm--tf_efficientnet_l2.ns_jft_in1k/snapshots/ab12/model.safetensors",
            "timm's tf_efficientnet_l2",
            "imagenet",
        ),
        ("tf_efficientnet_l2_ns_475-bebbd00a.pth", "timm's tf_efficientnet_l2", "imagenet"),
        ("efficientnet_b1/tf_efficientnet_lite4-741542c3.pth", "timm's tf_efficientnet_lite4", "lite"),
        ("tf_efficientnet_b5.ap_in1k.safetensors", "timm's tf_efficientnet_b5", "symmetric"),
        ("tf_efficientnet_b5_apple.pth", "timm's tf_efficientnet_b5", "imagenet"),
    ],
)
def test_names_of_timm(path, name, scale):
    family = timm_family(path)
    assert (family.name, family.normalization, family.epsilon) == (name, scale, 1e-3)


def test_other_networks_are_refused(states, networks, tmp_path):
    lite = torch.save_zip(tmp_path / "efficientnet-lite0.pth", *torch.tensors_of(states[False, True]))
    big = torch.save_zip(tmp_path / "efficientnet-b0.pth", *torch.tensors_of(states[False, False]))
    res = torch.save_zip(tmp_path / "resnet50.pth", *torch.tensors_of(states["resnet"]))
    for path, network, wanted in (
        (lite, "b0", "needs --backbone=efficientnet-lite0"),
        (big, "lite", "needs --backbone=efficientnet-b0"),
        (big, "resnet", "needs --backbone=efficientnet-b0"),
        (res, "b0", "needs --backbone=resnet-50"),
    ):
        with pytest.raises(WeightsError, match=wanted):
            read_weights(path, networks[network])
    wider = torch.efficientnet_state(timm=False, lite=False, width=0.5)
    path = torch.save_zip(tmp_path / "wider.pth", *torch.tensors_of(wider))
    with pytest.raises(WeightsError, match="another size of model"):
        read_weights(path, networks["b0"])
    path = torch.save_safetensors(
        tmp_path / "vit.safetensors", {"cls_token": np.zeros((1, 1, 8), np.float32)}
    )
    with pytest.raises(WeightsError, match="names are none of efficientnet-pytorch.*cls_token"):
        read_weights(path, networks["b0"])


def test_a_published_lite_in_tensorflows_own_format(states, networks, tmp_path):
    """The scope of a TF1 checkpoint says that it is a Lite: its scale is taken, and no B0 gets it."""
    from official.models.weights.import_efficientnet import tf1_names

    backbone = networks["lite"].backbone
    for scope, model, message in (
        ("efficientnet-lite0", networks["b0"].backbone, "needs --backbone=efficientnet-lite0"),
        ("efficientnet-b0", backbone, "needs --backbone=efficientnet-b0"),
    ):
        table, prefix = tf1_names(backbone, scope), str(tmp_path / scope / "model.ckpt")
        os.makedirs(os.path.dirname(prefix))
        values = [v.numpy() for v in backbone.variables]
        tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=list(table.values()),
            shape_and_slices=[""] * len(table),
            tensors=values,
        )
        with pytest.raises(WeightsError, match=message):
            read_weights(prefix, model)
    assert read_weights(str(tmp_path / "efficientnet-lite0" / "model.ckpt"), backbone).normalization == "lite"


def test_what_the_weights_decide_is_settled_before_a_run(tmp_path):
    """--init=FILE gives a run the pool and the scale of its weights; random weights give a Lite its own
    scale.
    """
    path = torch.save_zip(tmp_path / "resnet50.pth", *torch.tensors_of(torch.resnet_state((3, 4, 6, 3), 8)))
    flags = dict(backbone="resnet-50", backbone_width=0.125, init=path, model_dir=str(tmp_path / "run"))
    model = settled(experiment_from(flags)).model
    assert (model.input_normalization, model.resnet_pool) == ("imagenet", "symmetric")
    model = settled(experiment_from({**flags, "resnet_pool": "same"})).model
    assert (model.input_normalization, model.resnet_pool) == ("imagenet", "same")
    model = settled(
        experiment_from(dict(backbone="efficientnet-lite0", model_dir=str(tmp_path / "run")))
    ).model
    assert (model.input_normalization, model.resnet_pool) == ("lite", "same")
    assert (
        as_built(experiment_from(dict(backbone="efficientnet-lite0")).flags())["input_normalization"]
        == "lite"
    )
