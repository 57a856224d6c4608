"""Weights of a backbone from other people's files: every variable by name, or an error that names it.

    kind                                 what                                     pixels         batch norm
    TF1 checkpoint of EfficientNet       efficientnet-b7/model.ckpt               mean, std      0.99, 1e-3
    TF1 checkpoint of SimCLR             ResNet50_1x/model.ckpt-225206            [0, 1]         0.9, 1e-5
    TF2 checkpoint of SimCLR             ckpt-250228, or a SavedModel folder      [0, 1]         0.9, 1e-5
    keras.applications EfficientNet      a .h5, with or without head              mean, std      0.99, 1e-3
    keras-cv ResNet                      a .h5 or .weights.h5                     [0, 1]         0.99, 1.001e-5
    a run of this project                its folder, or an exported model.keras   as the run      as the run
    a file of --job=import_checkpoint    .npz                                     as its origin   as its origin

The scale of the pixels travels with the weights: a backbone gets a layer in front that makes it
(official/models/input_scale.py). Where the epsilon of batch norm differs, the difference goes into the
moving variances, which gives the same features, and is reported; momenta are the run's own.
Nothing that a file contains is executed: .npz is read without pickles, and a .keras with a Lambda
layer is refused before it is opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import zipfile
from typing import Callable

import numpy as np
import tensorflow as tf

from official.files import read_json, sync_folder
from official.models import import_simclr
from official.models.input_scale import SCALES, scale_of
from official.models.kerascv_backbones import KerasCVBackbone, stock_backbone

keras = tf.keras
EMA = "/ExponentialMovingAverage"
META = "__meta__"
LICENCE_NOTE = "Weights keep the licence of their origin; the public EfficientNet and SimCLR checkpoints are Apache 2.0."


class WeightsError(ValueError):
    """A weight file that cannot be used; the message names file and variable."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Values by the backbone's variable names, such as "block2a_expand_conv/kernel".

    Attributes:
      values: what the file holds.
      origin: where it came from and of what kind it is.
      unused: names in the file that no backbone has (classification head, optimizer).
      normalization: the scale of pixels that they want, a key of `input_scale.SCALES`.
      epsilon: of their batch norm.
    """

    values: dict[str, np.ndarray]
    origin: str
    unused: tuple[str, ...] = ()
    normalization: str = "imagenet"
    epsilon: float = 1e-3

    def fingerprint(self) -> str:
        """SHA-256 over the sorted names and their bytes."""
        digest = hashlib.sha256()
        for name in sorted(self.values):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.values[name]).tobytes())
        return digest.hexdigest()


def read_weights(path: str, backbone: keras.Model) -> Weights:
    """Reads the file or folder `path`, of whatever kind it is.

    Args:
      backbone: names the variables that are wanted.

    Raises:
      WeightsError: absent, damaged, or of a kind that is not known.
    """
    for matches, read in _KINDS:
        if matches(path):
            try:
                return read(path, backbone)
            except WeightsError:
                raise
            except Exception as error:  # h5py, zipfile, numpy and TensorFlow raise many kinds
                raise WeightsError(f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
    raise WeightsError(
        f"{path}: no weights there, or of an unknown kind; what can be read is a checkpoint prefix (model.ckpt) of "
        "EfficientNet or SimCLR, a .h5 of keras.applications or keras-cv, a run folder or an exported model.keras "
        "of this project, or an imported .npz"
    )


def variable_name(variable: tf.Variable) -> str:
    """The name without its output number."""
    return variable.name.split(":")[0]


def assign_weights(backbone: keras.Model, weights: Weights) -> int:
    """Puts values into the backbone; all of them or none.

    Returns:
      How many variables were set.

    Raises:
      WeightsError: a variable that the file lacks, or of another shape, by name.
    """
    missing = [name for name in map(variable_name, backbone.variables) if name not in weights.values]
    if missing:
        raise WeightsError(f"{weights.origin} lacks {len(missing)} of {len(backbone.variables)} variables: {missing[:5]}")
    for variable in backbone.variables:
        value = weights.values[variable_name(variable)]
        if tuple(value.shape) != tuple(variable.shape):
            raise WeightsError(
                f"{weights.origin}: {variable_name(variable)} is {tuple(value.shape)}, the model's is "
                f"{tuple(variable.shape)}; it is of another size of model"
            )
    wanted = scale_of(backbone)
    if weights.normalization != wanted:
        raise WeightsError(
            f"{weights.origin} wants pixels on the scale {weights.normalization!r}, the model is built for {wanted!r}: "
            f"use --input_normalization={weights.normalization}"
        )
    for variable in backbone.variables:
        name = variable_name(variable)
        value = weights.values[name]
        if name.endswith("/moving_variance"):
            value = np.maximum(value + np.float32(weights.epsilon - epsilon_of(backbone)), 0.0)
        variable.assign(value)
    return len(backbone.variables)


def epsilon_of(backbone: keras.Model) -> float:
    """Of the backbone's batch norm; all its layers have the same."""
    return next(float(layer.epsilon) for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization))


def differences(backbone: keras.Model, weights: Weights) -> list[str]:
    """What a reader should know about how the weights were used."""
    notes = []
    if weights.normalization != "imagenet":
        notes.append(f"the backbone brings pixels to the scale {weights.normalization!r}, as the weights want them")
    difference = weights.epsilon - epsilon_of(backbone)
    if abs(difference) > 1e-9:
        names = [n for n in weights.values if n.endswith("/moving_variance")]
        lost = sum(int((weights.values[n] + difference < 0).sum()) for n in names)
        notes.append(
            f"batch norm epsilon {weights.epsilon:g} in the weights, {epsilon_of(backbone):g} here: the difference is in the "
            f"moving variances" + (f"; {lost} channels had less variance than that" if lost else "")
        )
    return notes


def initialize_backbone(model: keras.Model, init: str, weights_dir: str, backbone: str) -> dict:
    """Sets a model's backbone to what --init names; prints and returns what was set and what was not."""
    weights = read_weights(weights_file(init, weights_dir, backbone), model.backbone)
    count = assign_weights(model.backbone, weights)
    own = {id(v) for v in model.backbone.variables}
    others = [v for v in model.variables if id(v) not in own]
    notes = differences(model.backbone, weights)
    print(f"{count} backbone variables from {weights.origin}; {len(others)} others start at random" + "".join(f"\n  {note}" for note in notes))
    return {
        "init": init,
        "origin": weights.origin,
        "sha256": weights.fingerprint(),
        "notes": notes,
        "initialized": [variable_name(v) for v in model.backbone.variables],
        "random": [variable_name(v) for v in others],
        "unused": list(weights.unused),
    }


def normalization_of(init: str, weights_dir: str, backbone: keras.Model, name: str) -> str:
    """The scale of pixels that the weights of --init want; a key of `input_scale.SCALES`.

    Args:
      backbone: any backbone of that name; name: of the backbone.
    """
    if init == "random":
        return "imagenet"
    return read_weights(weights_file(init, weights_dir, name), backbone).normalization


def write_weights(path: str, weights: Weights) -> None:
    """Writes an .npz with the values and a note of origin, fingerprint and licence; whole or not at all."""
    note = {
        "origin": weights.origin,
        "sha256": weights.fingerprint(),
        "licence": LICENCE_NOTE,
        "normalization": weights.normalization,
        "epsilon": weights.epsilon,
    }
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = f"{path}.tmp{os.getpid()}.npz"
    np.savez(temporary, **{META: np.array(json.dumps(note))}, **weights.values)
    os.replace(temporary, path)
    sync_folder(folder)


NAMED = {
    "imagenet": "the AutoAugment or RandAugment EfficientNet checkpoint (ckptsaug/<backbone>.tar.gz or randaug/…) of "
    "tensorflow/tpu models/official/efficientnet",
    "imagenet++": "the Noisy Student checkpoint (noisystudent/noisy_student_<backbone>.tar.gz) of the same page",
    "simclr": "a SimCLR checkpoint (v1: ResNet50_1x; v2: pretrained/r50_1x_sk0) of google-research/simclr",
}


def weights_file(init: str, weights_dir: str, backbone: str) -> str:
    """The path that --init names.

    Raises:
      WeightsError: a named one that is not there; says what to fetch and how to import it.
    """
    if init not in NAMED:
        return init
    path = os.path.join(weights_dir, f"{backbone}_{init}.npz")
    if not os.path.isfile(path):
        raise WeightsError(
            f"--init={init}: no {path}. On a machine with network fetch {NAMED[init]}, unpack it, and run "
            f"python main.py --job=import_checkpoint --backbone={backbone} --checkpoint=…/model.ckpt --output={path} --model_dir=RUN"
        )
    return path


# --- TF1 EfficientNet ------------------------------------------------------------------------------


def tf1_names(backbone: keras.Model, model_name: str) -> dict[str, str]:
    """The backbone's variable names -> names in a TF1 EfficientNet checkpoint, without the average's suffix.

    Source: tensorflow/tpu models/official/efficientnet/efficientnet_model.py (layers in order of creation).
    """
    blocks = sorted({m.group(1) for m in (re.match(r"block(\d+[a-z]+)_", variable_name(v)) for v in backbone.variables) if m}, key=_block_order)
    number = {block: i for i, block in enumerate(blocks)}
    return {name: f"{model_name}/{_tf1_name(name, number)}" for name in map(variable_name, backbone.variables)}


def _block_order(block: str) -> tuple[int, int, str]:
    digits, letters = re.match(r"(\d+)([a-z]+)", block).groups()
    return int(digits), len(letters), letters


def _tf1_name(name: str, number: dict[str, int]) -> str:
    layer, variable = name.split("/")
    if layer.startswith("stem"):
        return f"stem/{'conv2d' if layer == 'stem_conv' else 'tpu_batch_normalization'}/{variable}"
    block, part = re.match(r"block(\d+[a-z]+)_(.*)", layer).groups()
    first = block.startswith("1")  # its blocks have no expansion
    places = {
        "expand_conv": "conv2d",
        "expand_bn": "tpu_batch_normalization",
        "dwconv": "depthwise_conv2d",
        "bn": "tpu_batch_normalization" if first else "tpu_batch_normalization_1",
        "se_reduce": "se/conv2d",
        "se_expand": "se/conv2d_1",
        "project_conv": "conv2d" if first else "conv2d_1",
        "project_bn": "tpu_batch_normalization_1" if first else "tpu_batch_normalization_2",
    }
    return f"blocks_{number[block]}/{places[part]}/{variable}"


def _is_checkpoint(path: str) -> bool:
    return os.path.isfile(import_simclr.checkpoint_prefix(path) + ".index")


def _read_checkpoint(path: str, backbone: keras.Model) -> Weights:
    reader = tf.train.load_checkpoint(import_simclr.checkpoint_prefix(path))
    there = reader.get_variable_to_shape_map()
    if import_simclr.is_tf1(there):
        return _simclr(path, reader, import_simclr.read_tf1, backbone, "TF1")
    if import_simclr.GRAPH in there:
        if import_simclr.ObjectGraph(reader).root_of_resnet() is None:
            raise WeightsError(
                f"{path} is a TF2 checkpoint, but not of SimCLR's ResNet; of a run of this project give the run folder, "
                "or use --init_checkpoint"
            )
        return _simclr(path, reader, import_simclr.read_tf2, backbone, "TF2")
    return _read_efficientnet(path, reader, there, backbone)


def _simclr(path: str, reader, read, backbone: keras.Model, version: str) -> Weights:
    names = [variable_name(v) for v in backbone.variables]
    if not any(name.startswith("stage2_block0") for name in names):
        raise WeightsError(f"{path} is a SimCLR ResNet; it needs --backbone=resnet-50 (or -101, -152)")
    found = dict(read(reader, names))
    values = {ours: reader.get_tensor(key) for ours, key in found.items()}
    used = set(found.values())
    skipped = ("Momentum", "OBJECT_GRAPH", "OPTIMIZER_SLOT", "global_step", "save_counter")
    unused = tuple(sorted(key for key in reader.get_variable_to_shape_map() if key not in used and not any(s in key for s in skipped)))
    return Weights(values, f"SimCLR {version} checkpoint {path}", unused, "unit", import_simclr.EPSILON)


def _read_efficientnet(path: str, reader, there: dict, backbone: keras.Model) -> Weights:
    models = {name.split("/")[0] for name in there if re.match(r"efficientnet-\w+/stem/", name)}
    if len(models) != 1:
        raise WeightsError(
            f"{path} is no EfficientNet checkpoint (it has no efficientnet-*/stem) and none of SimCLR (no base_model/conv2d), "
            f"but holds {sorted(there)[:3]}"
        )
    table = tf1_names(backbone, models.pop())
    values, used = {}, set()
    for ours, theirs in table.items():
        name = theirs + EMA if theirs + EMA in there else theirs  # the averages are what was published
        if name in there:
            values[ours] = reader.get_tensor(name)
            used |= {theirs, theirs + EMA}
    unused = tuple(sorted(name for name in there if name not in used and "/RMSProp" not in name and "/Momentum" not in name))
    return Weights(values, f"TF1 checkpoint {path}", unused)


# --- keras.applications, keras-cv ------------------------------------------------------------------


def _read_h5(path: str, backbone: keras.Model) -> Weights:
    import h5py

    kind = {}
    if isinstance(backbone, KerasCVBackbone):
        kind = {"normalization": "unit", "epsilon": epsilon_of(backbone)}
    if path.endswith(".weights.h5") and kind:
        return _read_keras_cv(path, backbone, kind)
    found: dict[str, np.ndarray] = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            layer, variable = name.split("/")[-2:]
            found[f"{layer}/{variable.split(':')[0]}"] = np.array(item)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return _wanted(found, backbone, f"Keras weights {path}", **kind)


def _read_keras_cv(path: str, backbone: KerasCVBackbone, kind: dict) -> Weights:
    """Keras' newer files number the layers, so keras-cv's own model of that name reads them."""
    stock = stock_backbone(backbone.variant, backbone.get_config()["width"])
    stock.load_weights(path)
    return _wanted({variable_name(v): v.numpy() for v in stock.variables}, backbone, f"keras-cv weights {path}", **kind)


def _wanted(found: dict[str, np.ndarray], backbone: keras.Model, origin: str, **kind) -> Weights:
    names = set(map(variable_name, backbone.variables))
    values = {name: value for name, value in found.items() if name in names}
    return Weights(values, origin, tuple(sorted(set(found) - names)), **kind)


# --- this project ----------------------------------------------------------------------------------


def _read_npz(path: str, backbone: keras.Model) -> Weights:
    with np.load(path, allow_pickle=False) as file:
        if META not in file:
            raise WeightsError(f"{path} was not written by --job=import_checkpoint: it has no {META}")
        note = json.loads(str(file[META]))
        found = {name: file[name] for name in file.files if name != META}
    kind = {"normalization": note["normalization"], "epsilon": note.get("epsilon", 1e-3)}
    if kind["normalization"] not in SCALES:
        raise WeightsError(f"{path} wants pixels on the scale {kind['normalization']!r}, which is unknown here")
    weights = _wanted(found, backbone, f"{path} ({note['origin']})", **kind)
    if Weights(found, "").fingerprint() != note["sha256"]:
        raise WeightsError(f"{path} is damaged: its values do not have the fingerprint that it states")
    return weights


def _read_keras(path: str, backbone: keras.Model) -> Weights:
    with zipfile.ZipFile(path) as file:
        config = file.read("config.json").decode()
    if re.search(r'"class_name":\s*"(Lambda|__lambda__)"', config):
        raise WeightsError(f"{path} holds a Lambda layer, that is code; it is refused")
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    found = {variable_name(v): v.numpy() for v in model.variables}
    parts = _all_layers(model)
    mine = {layer.name for layer in backbone.layers}
    norms = [part for part in parts if isinstance(part, keras.layers.BatchNormalization) and part.name in mine]
    kind = {"normalization": scale_of(model), "epsilon": float(norms[0].epsilon) if norms else 1e-3}
    return _wanted(found, backbone, f"model {path}", **kind)


def _all_layers(model: keras.Model) -> list:
    """Layers of a model and of the models in it."""
    found = []
    for layer in model.layers:
        found += _all_layers(layer) if isinstance(layer, keras.Model) else [layer]
    return found


def _is_run(path: str) -> bool:
    return os.path.isfile(os.path.join(path, "run.json"))


def _read_run(path: str, backbone: keras.Model) -> Weights:
    """The model that a run of this project handed over."""
    exported = os.path.join(path, "export", "model.keras")
    if not os.path.isfile(exported):
        raise WeightsError(f"{path} has no export/model.keras: the run is not finished; run it to its end, or --job=export")
    flags = read_json(os.path.join(path, "run.json")).get("flags", {})
    weights = _read_keras(exported, backbone)
    return dataclasses.replace(weights, origin=f"run {path} ({flags.get('task')}, {flags.get('backbone')})")


_KINDS: tuple[tuple[Callable[[str], bool], Callable], ...] = (
    (_is_run, _read_run),
    (_is_checkpoint, _read_checkpoint),
    (lambda path: path.endswith(".h5") and os.path.isfile(path), _read_h5),
    (lambda path: path.endswith(".npz") and os.path.isfile(path), _read_npz),
    (lambda path: path.endswith(".keras") and os.path.isfile(path), _read_keras),
)
