"""Weights of a backbone by name: put into a network, all of them or none, and kept in a file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from official.files import whole_file
from official.models.backbones.input_scale import SCALES, scale_of
from official.models.backbones.resnet import pool_padding_of
from official.models.weights.weight_files import WeightFile, WeightsError, open_npz

META = "__meta__"
BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
LICENCE_NOTE = (
    "Weights keep the licence of their origin; the public EfficientNet and SimCLR checkpoints are Apache 2.0."
)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Values by the backbone's variable names, such as "block2a_expand_conv/kernel".

    Attributes:
      values: what the file holds.
      origin: where it came from and of what kind it is.
      unused: names in the file that no backbone has (classification head, optimizer).
      normalization: the scale of pixels that they want, a key of `input_scale.SCALES`.
      epsilon: of their batch norm.
      pool: padding of a ResNet's pool, "same" or "symmetric".
    """

    values: dict[str, np.ndarray]
    origin: str
    unused: tuple[str, ...] = ()
    normalization: str = "imagenet"
    epsilon: float = 1e-3
    pool: str = "same"

    def needs(self) -> dict[str, Any]:
        """The options of a backbone that these weights decide."""
        return {"input_normalization": self.normalization, "resnet_pool": self.pool}

    def fingerprint(self) -> str:
        """SHA-256 over the sorted names and their bytes."""
        digest = hashlib.sha256()
        for name in sorted(self.values):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.values[name]).tobytes())
        return digest.hexdigest()


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
        raise WeightsError(
            f"{weights.origin} lacks {len(missing)} of {len(backbone.variables)} variables: {missing[:5]}"
        )
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
            f"{weights.origin} wants pixels on the scale {weights.normalization!r}, the model is built for"
            f" {wanted!r}: use --input_normalization={weights.normalization}"
        )
    if weights.pool != pool_padding_of(backbone):
        raise WeightsError(
            f"{weights.origin} was trained with a pool padded {weights.pool!r}, the model's is padded"
            f" {pool_padding_of(backbone)!r}: use --resnet_pool={weights.pool}"
        )
    for variable in backbone.variables:
        name = variable_name(variable)
        value = weights.values[name]
        if name.endswith("/moving_variance"):
            value = np.maximum(value + np.float32(weights.epsilon - epsilon_of(backbone)), 0.0)
        variable.assign(value)
    return len(backbone.variables)


def epsilon_of(backbone: keras.Model) -> float:
    """Of the first batch norm of a network, or else of a model inside it; a backbone's have all the same."""
    inside = [layer for model in backbone.layers if isinstance(model, keras.Model) for layer in model.layers]
    return next(
        float(layer.epsilon)
        for layer in (*backbone.layers, *inside)
        if isinstance(layer, keras.layers.BatchNormalization)
    )


def differences(backbone: keras.Model, weights: Weights) -> list[str]:
    """What a reader should know about how the weights were used."""
    notes = []
    if weights.normalization != "imagenet":
        notes.append(
            f"the backbone brings pixels to the scale {weights.normalization!r}, as the weights want them"
        )
    if weights.pool != "same":
        notes.append(f"the pool after the stem is padded {weights.pool!r}, as the weights want it")
    difference = weights.epsilon - epsilon_of(backbone)
    if abs(difference) > 1e-9:
        names = [n for n in weights.values if n.endswith("/moving_variance")]
        lost = sum(int((weights.values[n] + difference < 0).sum()) for n in names)
        notes.append(
            f"batch norm epsilon {weights.epsilon:g} in the weights, {epsilon_of(backbone):g} here: the"
            " difference is in the moving variances"
            + (f"; {lost} channels had less variance than that" if lost else "")
        )
    return notes


def write_weights(path: str, weights: Weights) -> None:
    """Writes an .npz with the values and a note of origin, fingerprint and licence; whole or not at all."""
    note = {
        "origin": weights.origin,
        "sha256": weights.fingerprint(),
        "licence": LICENCE_NOTE,
        "normalization": weights.normalization,
        "epsilon": weights.epsilon,
        "pool": weights.pool,
    }
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{META: np.array(json.dumps(note))}, **weights.values)


def read_npz(path: str, backbone: keras.Model) -> Weights:
    """Reads what `write_weights` wrote.

    Raises:
      WeightsError: another file, one of another backbone, an unknown scale of pixels, or damage.
    """
    with open_npz(path) as file:
        if META not in file.arrays:
            raise WeightsError(f"{path} was not written by --job=import_checkpoint: it has no {META}")
        note = json.loads(file.read_text(META))
        others = sorted(set(file.arrays) - {META} - set(shapes_of(backbone)))
        if others:  # the fingerprint is of all that is there, and what nobody wants is not read
            raise WeightsError(
                f"{path} is of another backbone: it has {len(others)} variables that this one lacks:"
                f" {others[:5]}"
            )
        kind = {"normalization": note["normalization"], "epsilon": note.get("epsilon", 1e-3)}
        if kind["normalization"] not in SCALES:
            raise WeightsError(
                f"{path} wants pixels on the scale {kind['normalization']!r}, which is unknown here"
            )
        table = {name: name for name in file.arrays if name != META}
        weights = take(
            file, table, shapes_of(backbone), f"{path} ({note['origin']})", without=(META,), **kind
        )
    if weights.fingerprint() != note["sha256"]:
        raise WeightsError(f"{path} is damaged: its values do not have the fingerprint that it states")
    return dataclasses.replace(weights, pool=note.get("pool", "same"))


def shapes_of(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's variables by name."""
    return {variable_name(variable): tuple(variable.shape) for variable in model.variables}


def take(
    file: WeightFile,
    table: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    origin: str,
    *,
    without: Sequence[str] = (),
    normalization: str = "imagenet",
    epsilon: float = 1e-3,
) -> Weights:
    """Reads from an open file what a model has a place for, all shapes before the first value.

    Args:
      table: the model's names -> the file's; what the file lacks is left out, `assign_weights` names it.
      shapes: of what is wanted, by the model's names.
      without: pieces of names in the file that `unused` does not tell of (optimizer, step).

    Raises:
      WeightsError: another shape; values that are no finite real numbers.
    """
    there = {ours: theirs for ours, theirs in table.items() if theirs in file.arrays}
    for ours, theirs in there.items():
        file.check(theirs, shapes[ours])
    values = {ours: file.read(theirs, shapes[ours]) for ours, theirs in there.items()}
    used = set(there.values())
    unused = (
        name for name in file.arrays if name not in used and not any(piece in name for piece in without)
    )
    return Weights(values, origin, tuple(sorted(unused)), normalization, epsilon)
