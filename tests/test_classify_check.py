"""job=classify_check: imported weights with their head name images right, however the classes are named."""

import os

import numpy as np
import pytest
import tensorflow as tf

from official import jobs
from official.data.text_lists import imagenet_wnids
from official.errors import UserError
from official.experiment import experiment_from
from tests.models import torch_networks as torch

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 230)}


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    """A classifier of five channels that knows red (4), green (0) and blue (2) by the mean of its features.

    Its last layer is solved from the NumPy network's own features of the three colours, so that it is right
    by PyTorch's computation, on pixels of Lite's scale.
    """
    state = torch.efficientnet_state(timm=False, lite=True, seed=4)
    images = np.array([np.full((32, 32, 3), colour) for colour in COLOURS.values()], np.float64)
    with_identity = dict(state)
    with_identity["_fc.weight"], with_identity["_fc.bias"] = np.eye(1280), np.zeros(1280)
    features = torch.efficientnet(
        with_identity, ((images - 127) / 128).transpose(0, 3, 1, 2), timm=False, lite=True
    )
    wanted = np.zeros((3, 5))
    wanted[range(3), (4, 0, 2)] = 10.0
    state["_fc.weight"] = np.linalg.lstsq(features, wanted, rcond=None)[0].T.astype(np.float32)
    state["_fc.bias"] = np.zeros(5, np.float32)
    return torch.save_stream(
        tmp_path_factory.mktemp("evaluate") / "efficientnet-lite0.pth", *torch.tensors_of(state)
    )


def images_in(folder, names):
    """A folder per class with two images of its colour."""
    for name, colour in zip(names, COLOURS.values()):
        os.makedirs(folder / name)
        for i, side in enumerate((40, 50)):
            image = np.full((side, side, 3), colour, np.uint8)
            tf.io.write_file(str(folder / name / f"{i}.png"), tf.io.encode_png(image))
    return f"folder:{folder}"


def run(tmp_path, evaluate, word, **more):
    flags = dict(
        job="classify_check", backbone="efficientnet-lite0", backbone_width=0.25, image_size=32, init=evaluate,
        eval_data=word, model_dir=str(tmp_path / "run"), eval_batch_size=3, **more,
    )  # fmt: skip
    return jobs.run(experiment_from(flags))["classify_check"]


def test_folders_named_by_channel(tmp_path, evaluate, capsys):
    """Red is channel 4, green 0; the blue ones lie in the wrong folder."""
    found = run(tmp_path, evaluate, images_in(tmp_path / "images", ("4", "0", "1")))
    assert (found["top1"], found["images"]) == (pytest.approx(2 / 3), 6)
    assert "4 of 6 images right (top-1 0.6667), top-5 1.0000; 5 classes, 32 px" in capsys.readouterr().out


def test_channels_named_by_a_file(tmp_path, evaluate):
    (tmp_path / "names.txt").write_text("green\nx\nblue\ny\nred\n")
    word = images_in(tmp_path / "images", ("red", "green", "blue"))
    assert run(tmp_path, evaluate, word, classes=str(tmp_path / "names.txt"))["top1"] == 1.0


def test_what_is_refused(tmp_path, evaluate):
    word = images_in(tmp_path / "images", ("red", "green", "blue"))
    with pytest.raises(UserError, match="has 3 classes.*the weights' head has 5: name its channels"):
        run(tmp_path, evaluate, word)
    headless = torch.efficientnet_state(timm=False, lite=True)
    headless = {name: value for name, value in headless.items() if not name.startswith("_fc")}
    path = torch.save_stream(tmp_path / "efficientnet-lite0.pth", *torch.tensors_of(headless))
    with pytest.raises(UserError, match="has no classifier"):
        run(tmp_path, path, word)
    with pytest.raises(UserError, match="needs --init"):
        run(tmp_path, "random", word)


def test_imagenets_own_numbers():
    """ILSVRC 2012's: 1,000, sorted, from the tench to toilet tissue."""
    wnids = imagenet_wnids()
    assert len(set(wnids)) == 1000 and wnids == sorted(wnids)
    assert (wnids[0], wnids[207], wnids[999]) == (
        "n01440764",
        "n02099601",
        "n15075141",
    )  # 207: golden retriever
