"""Smaller TFLite networks: int8 with calibrated activations, or float16 weights; and what they are worth.

The file maps one image as the network sees it, float32 [1, S, S, 3], to the raw outputs of `model.keras`. A
detector's decoding stays outside: in pixels of the image, 256 steps of int8 are too few. `anchors.npy`,
float32 [A, 4] yxyx pixels of the input, is written beside a detector for whoever decodes.

Source of the two schemes: tensorflow.org/lite/performance/post_training_quantization.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf
from tensorflow import keras

from official.data.source import Source
from official.export.stock import stock_model
from official.files import write_bytes

KINDS = ("int8", "float16")
CALIBRATION_IMAGES = 100


class StandIn:
    """Takes a network's place in a task's inference: `answer` says its outputs, all else is the network's.

    Args of the answer: float32 [B, S, S, 3]; it returns tensors by name, as the network does.
    """

    def __init__(self, model: keras.Model, answer: Callable[[tf.Tensor], dict[str, tf.Tensor]]) -> None:
        self._model, self._answer = model, answer
        self.distribute_strategy = tf.distribute.get_strategy()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, inputs: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        return self._answer(inputs["images"])


def calibration_images(
    predict: Callable[..., Iterable[Any]], model: keras.Model, source: Source, count: int
) -> np.ndarray:
    """The first images of a source as a task feeds them to its network, float32 [N, S, S, 3].

    Args:
      predict: the task's `predict(model, source, start, stop)`.
    """
    seen: list[np.ndarray] = []

    def note(images: np.ndarray) -> np.float32:
        seen.append(images)
        return np.float32(0.0)

    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.numpy_function(note, [images], tf.float32)]):
            return model({"images": tf.identity(images)}, training=False)

    count = min(count, len(source))
    if not count:
        return np.zeros((0, model.image_size, model.image_size, 3), np.float32)
    for _ in predict(StandIn(model, answer), source, 0, count):
        pass
    return np.concatenate(seen)[:count]


def quantized(model: keras.Model, kind: str, images: np.ndarray) -> bytes:
    """The network as a TFLite file.

    Args:
      kind: "int8", "float16", or "" for float32.
      images: for the ranges of int8's activations, float32 [N, S, S, 3].

    Raises:
      ValueError: unknown kind; int8 without images.
    """
    if kind and kind not in KINDS:
        raise ValueError(f"quantize={kind!r} is unknown; choose one of {KINDS}")
    if kind == "int8" and not len(images):
        raise ValueError("quantize=int8 needs images to calibrate on")
    network = stock_model(model)
    spec = tf.TensorSpec([1, model.image_size, model.image_size, 3], tf.float32, "images")
    concrete = tf.function(
        lambda images: network({"images": images}, training=False), input_signature=[spec]
    ).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], network)
    if kind:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        converter.representative_dataset = lambda: ([image[None]] for image in images)
    return converter.convert()


def as_network(content: bytes, model: keras.Model) -> StandIn:
    """A TFLite file in the place of the network that it was made of."""
    interpreter = tf.lite.Interpreter(model_content=content, num_threads=os.cpu_count())
    runner = interpreter.get_signature_runner()
    details = runner.get_output_details()
    names = sorted(details)

    def run(images: np.ndarray) -> list[np.ndarray]:
        rows = [runner(images=image[None]) for image in images]
        return [np.concatenate([row[name] for row in rows]) for name in names]

    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        found = dict(zip(names, tf.numpy_function(run, [images], [tf.float32] * len(names))))
        for name, tensor in found.items():
            tensor.set_shape([None, *details[name]["shape"][1:]])
        return found

    return StandIn(model, answer)


def write_quantized(model: keras.Model, folder: str, kind: str, content: bytes) -> dict[str, str]:
    """Writes `model_KIND.tflite` and, of a detector, `anchors.npy`; the paths by kind."""
    paths = {f"tflite_{kind}": os.path.join(folder, f"model_{kind}.tflite")}
    write_bytes(paths[f"tflite_{kind}"], content)
    if hasattr(model, "anchors"):
        paths["anchors"] = os.path.join(folder, "anchors.npy")
        np.save(paths["anchors"], np.concatenate(list(_levels(model))))
    return paths


def _levels(model: keras.Model) -> Iterator[np.ndarray]:
    for level in model.anchors():
        yield np.asarray(level, np.float32)
