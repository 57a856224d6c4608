"""The original stack's numbers of tests/golden/original, and its draws put in the place of ours."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, Iterator, Sequence
from unittest import mock

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import tensor_util

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "original")


def load(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays by name, index) of `original/<name>.npz`; the README there says what they are."""
    with np.load(os.path.join(FOLDER, f"{name}.npz"), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads(str(arrays.pop("index")))


@contextlib.contextmanager
def forced(*numbers: float | Sequence) -> Iterator[None]:
    """Every uniform draw inside gets the next of `numbers`, in the order in which our code asks.

    Raises:
      AssertionError: a draw of another shape or kind than the next number, or a number nobody asked for.
    """
    waiting = [np.asarray(number, np.float32) for number in numbers]

    def draw(shape, seed, minval=0, maxval=None, dtype=tf.float32, **_):
        assert waiting, "a draw that the original does not make"
        assert dtype == tf.float32 and minval == 0 and maxval is None, "not a draw from [0, 1)"
        number = waiting.pop(0)
        asked = tensor_util.constant_value_as_shape(tf.convert_to_tensor(shape, tf.int32))
        assert asked.is_compatible_with(number.shape), f"a draw of shape {asked} for {number.shape}"
        return tf.constant(number)

    with mock.patch.object(tf.random, "stateless_uniform", draw):
        yield
    assert not waiting, f"{len(waiting)} draws of the original were not made"
