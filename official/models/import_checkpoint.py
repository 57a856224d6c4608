"""Weights of a backbone from other people's files: every variable by name, or an error that names it.

    a TF1 checkpoint of EfficientNet     efficientnet-b7/model.ckpt (AutoAugment, RandAugment, Noisy Student)
    keras.applications EfficientNet      a .h5 or .weights.h5 file, with or without the classification head
    a model of this project              an exported model.keras (--init_checkpoint takes checkpoint folders)
    a weight file of --job=import_checkpoint   .npz

All of these networks take pixels with the ImageNet mean and deviation removed, as ours does, and
have batch norm momentum 0.99 and epsilon 1e-3. Nothing that a file contains is executed: .npz is
read without pickles, and a .keras with a Lambda layer is refused before it is opened.
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

from official.files import sync_folder

keras = tf.keras
EMA = "/ExponentialMovingAverage"
META = "__meta__"
LICENCE_NOTE = "Weights keep the licence of their origin; the public EfficientNet checkpoints are Apache 2.0."


class WeightsError(ValueError):
    """A weight file that cannot be used; the message names file and variable."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Values by the backbone's variable names, such as "block2a_expand_conv/kernel".

    Attributes:
      values: what the file holds.
      origin: where it came from and of what kind it is.
      unused: names in the file that no backbone has (classification head, optimizer).
    """

    values: dict[str, np.ndarray]
    origin: str
    unused: tuple[str, ...] = ()

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
        f"{path}: no weights there, or of an unknown kind; what can be read is a TF1 checkpoint prefix (model.ckpt), "
        "a .h5 of keras.applications, an exported model.keras of this project, or an imported .npz"
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
    for variable in backbone.variables:
        variable.assign(weights.values[variable_name(variable)])
    return len(backbone.variables)


def write_weights(path: str, weights: Weights) -> None:
    """Writes an .npz with the values and a note of origin, fingerprint and licence; whole or not at all."""
    note = {"origin": weights.origin, "sha256": weights.fingerprint(), "licence": LICENCE_NOTE, "normalization": "imagenet"}
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


def _is_tf1(path: str) -> bool:
    return os.path.isfile(path + ".index")


def _read_tf1(path: str, backbone: keras.Model) -> Weights:
    reader = tf.train.load_checkpoint(path)
    there = reader.get_variable_to_shape_map()
    models = {name.split("/")[0] for name in there if re.match(r"efficientnet-\w+/stem/", name)}
    if len(models) != 1:
        raise WeightsError(f"{path} is no EfficientNet checkpoint: it has no efficientnet-*/stem, but {sorted(there)[:3]}")
    table = tf1_names(backbone, models.pop())
    values, used = {}, set()
    for ours, theirs in table.items():
        name = theirs + EMA if theirs + EMA in there else theirs  # the averages are what was published
        if name in there:
            values[ours] = reader.get_tensor(name)
            used |= {theirs, theirs + EMA}
    unused = tuple(sorted(name for name in there if name not in used and "/RMSProp" not in name and "/Momentum" not in name))
    return Weights(values, f"TF1 checkpoint {path}", unused)


# --- keras.applications ----------------------------------------------------------------------------


def _read_h5(path: str, backbone: keras.Model) -> Weights:
    import h5py

    found: dict[str, np.ndarray] = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            layer, variable = name.split("/")[-2:]
            found[f"{layer}/{variable.split(':')[0]}"] = np.array(item)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return _wanted(found, backbone, f"Keras weights {path}")


def _wanted(found: dict[str, np.ndarray], backbone: keras.Model, origin: str) -> Weights:
    names = set(map(variable_name, backbone.variables))
    values = {name: value for name, value in found.items() if name in names}
    return Weights(values, origin, tuple(sorted(set(found) - names)))


# --- this project ----------------------------------------------------------------------------------


def _read_npz(path: str, backbone: keras.Model) -> Weights:
    with np.load(path, allow_pickle=False) as file:
        if META not in file:
            raise WeightsError(f"{path} was not written by --job=import_checkpoint: it has no {META}")
        note = json.loads(str(file[META]))
        found = {name: file[name] for name in file.files if name != META}
    weights = _wanted(found, backbone, f"{path} ({note['origin']})")
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
    return _wanted(found, backbone, f"model {path}")


_KINDS: tuple[tuple[Callable[[str], bool], Callable], ...] = (
    (_is_tf1, _read_tf1),
    (lambda path: path.endswith(".h5") and os.path.isfile(path), _read_h5),
    (lambda path: path.endswith(".npz") and os.path.isfile(path), _read_npz),
    (lambda path: path.endswith(".keras") and os.path.isfile(path), _read_keras),
)
