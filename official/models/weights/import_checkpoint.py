"""Weights of a backbone from other people's files: every variable by name, or an error that names it.

    kind                                 what                                     pixels         batch norm
    TF1 checkpoint of EfficientNet       efficientnet-b7/model.ckpt               mean, std      0.99, 1e-3
    TF1 checkpoint of SimCLR             ResNet50_1x/model.ckpt-225206            [0, 1]         0.9, 1e-5
    TF2 checkpoint of SimCLR             ckpt-250228, or a SavedModel folder      [0, 1]         0.9, 1e-5
    TF1 checkpoint of a detector         spinenet-143-ssl/model.ckpt              mean, std      as the run
    TF1 checkpoint of a ResNet           resnet50/conv2d/kernel …                 mean, std      as the run
      (of tensorflow/tpu's classifiers)  conv2d/kernel …                          mean, std      0.9, 1e-5
    keras.applications EfficientNet      a .h5, with or without head              mean, std      0.99, 1e-3
    keras-cv ResNet                      a .h5 or .weights.h5                     [0, 1]        0.99, 1.001e-5
    PyTorch: efficientnet-pytorch, timm  .pth, .pt or .safetensors                see import_torch.py
    a run of this project                an exported model.keras                  as the run     as the run
    a file of --job=import_checkpoint    .npz                                     its origin's   its origin's

A run folder itself is read by official/training/loading.py. The scale of the pixels travels with the
weights: a backbone gets a layer in front that makes it (official/models/backbones/input_scale.py). Where the
epsilon of batch norm differs, the difference goes into the moving variances, which gives the same features,
and is reported; momenta are the run's own. Nothing that a file contains is executed, and nothing but what is
wanted is read: see official/models/weights/weight_files.py.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Callable, Iterator, Sequence

from tensorflow import keras

from official.models.weights import import_released, import_simclr
from official.models.weights.import_efficientnet import read_efficientnet
from official.models.weights.import_keras import read_h5, read_keras
from official.models.weights.import_resnet import read_resnet, scope_of_resnet
from official.models.weights.import_torch import read_torch
from official.models.weights.named_weights import (
    Weights,
    WeightsError,
    assign_weights,
    differences,
    read_npz,
    variable_name,
)
from official.models.weights.torch_files import open_safetensors, open_torch
from official.models.weights.weight_files import WeightFile, checkpoint_prefix, open_checkpoint, open_h5
from official.screen import note


def read_weights(path: str, backbone: keras.Model) -> Weights:
    """Reads the file or folder `path`, of whatever kind it is.

    Args:
      backbone: names the variables that are wanted.

    Raises:
      WeightsError: absent, damaged, or of a kind that is not known.
    """
    if "://" in path:
        raise WeightsError(
            f"{path} is an address; nothing is fetched here: download the file, unpack it, and give its path"
        )
    for matches, read in _KINDS:
        if matches(path):
            with _named(path):
                return read(path, backbone)
    raise WeightsError(
        f"{path}: no weights there, or of an unknown kind; what can be read is a checkpoint prefix "
        "(model.ckpt) of EfficientNet, ResNet, SpineNet or SimCLR, a .h5 of keras.applications or "
        "keras-cv, a .pth, .pt or .safetensors of efficientnet-pytorch, timm or torchvision, a run folder "
        "or an exported model.keras of this project, or an imported .npz"
    )


def read_network(path: str, model: keras.Model, class_ids: Sequence[int]) -> Weights:
    """A whole detector or segmenter out of a checkpoint of the original stack; see `import_released`.

    Args:
      class_ids: of a detector, the original's class number of every class of the model.

    Raises:
      WeightsError: absent, damaged, or of another network.
    """
    with _named(path):
        return import_released.read_network(path, _network_file(path), model, class_ids)


def class_channels(path: str, network: str) -> int:
    """How many classes the head in a checkpoint of the original stack has, its background included.

    Args:
      network: "detector" or "segmenter".

    Raises:
      WeightsError: absent, damaged, or without such a head.
    """
    with _named(path):
        return import_released.class_channels(path, _network_file(path), network)


# The bias of a classifier's last layer in the files that are read with their head.
_CLASSIFIER = re.compile(
    r"(_fc\.bias|classifier\.bias|fc\.bias|(.*/)?predictions/bias(:0)?|efficientnet-[^/]+/head/dense/bias)"
)


def classifier_channels(path: str) -> int:
    """How many classes the classifier in a file has: of PyTorch, TF1's EfficientNet or keras.applications.

    Raises:
      WeightsError: absent, damaged, of another kind, or without a classifier.
    """
    with _named(path), _opened(path) as file:
        found = {array.shape[0] for name, array in file.arrays.items() if _CLASSIFIER.fullmatch(name)}
        if len(found) != 1:
            raise WeightsError(
                f"{path} has no classifier (_fc, classifier, fc, predictions or head/dense) to evaluate it "
                f"by; it holds {sorted(file.arrays)[:3]}"
            )
        return found.pop()


@contextlib.contextmanager
def _opened(path: str) -> Iterator[WeightFile]:
    """A file of any kind whose classifier can be read, as arrays."""
    if _is_checkpoint(path):
        yield open_checkpoint(checkpoint_prefix(path))
        return
    ending = os.path.splitext(path)[1]
    openers = {".h5": open_h5, ".pth": open_torch, ".pt": open_torch, ".safetensors": open_safetensors}
    if ending not in openers or not os.path.isfile(path):
        raise WeightsError(
            f"{path}: no file with a classifier: a TF1 checkpoint, .h5, .pth, .pt or .safetensors"
        )
    with openers[ending](path) as file:
        yield file


def _network_file(path: str) -> WeightFile:
    if not _is_checkpoint(path):
        raise WeightsError(
            f"{path} is no checkpoint of TensorFlow (there is no {path}.index, nor one .index in a folder of"
            " that name); a whole network is read from such a one alone, of other files the backbone: give"
            " --output=FILE.npz"
        )
    return open_checkpoint(checkpoint_prefix(path))


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Turns what goes wrong inside into a WeightsError that names the file."""
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:  # h5py, zipfile, numpy and TensorFlow raise many kinds
        raise WeightsError(f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]})") from error


def initialize_backbone(model: keras.Model, init: str, weights: Weights) -> dict:
    """Sets a model's backbone to the weights that --init names; prints and returns what was set."""
    count = assign_weights(model.backbone, weights)
    own = {id(v) for v in model.backbone.variables}
    others = [v for v in model.variables if id(v) not in own]
    notes = differences(model.backbone, weights)
    note(
        f"{count} backbone variables from {weights.origin}; {len(others)} others start at random"
        + "".join(f"\n  {note}" for note in notes)
    )
    return {
        "init": init,
        "origin": weights.origin,
        "sha256": weights.fingerprint(),
        "notes": notes,
        "initialized": [variable_name(v) for v in model.backbone.variables],
        "random": [variable_name(v) for v in others],
        "unused": list(weights.unused),
    }


def _is_checkpoint(path: str) -> bool:
    return os.path.isfile(checkpoint_prefix(path) + ".index")


def _read_checkpoint(path: str, backbone: keras.Model) -> Weights:
    file = open_checkpoint(checkpoint_prefix(path))
    if import_simclr.is_tf1(file.arrays) or import_simclr.GRAPH in file.arrays:
        return import_simclr.read_simclr(path, file, backbone)
    if import_released.SPINENET in file.arrays:
        return import_released.read_backbone(path, file, backbone)
    if scope_of_resnet(file.arrays) is not None:
        return read_resnet(path, file, backbone)
    return read_efficientnet(path, file, backbone)


_KINDS: tuple[tuple[Callable[[str], bool], Callable], ...] = (
    (_is_checkpoint, _read_checkpoint),
    (lambda path: path.endswith(".h5") and os.path.isfile(path), read_h5),
    (lambda path: path.endswith(".npz") and os.path.isfile(path), read_npz),
    (lambda path: path.endswith(".keras") and os.path.isfile(path), read_keras),
    (lambda path: path.endswith((".pth", ".pt", ".safetensors")) and os.path.isfile(path), read_torch),
)
