"""Parameters and multiply-adds of a model, as papers list them."""

from __future__ import annotations

from typing import Iterator

import numpy as np
import tensorflow as tf
from tensorflow import keras

from official.models.backbones.efficientnet import EfficientNetBackbone, top_filters

HEAD_CLASSES = 1000


def model_statistics(model: keras.Model, image_size: int) -> dict[str, int]:
    """Counts a dense model.

    Args:
      model: has a `backbone`.
      image_size: side of the square input for which multiply-adds are counted.

    Returns:
      "parameters" (trainable), "all_parameters" (with batch norm's statistics), "multiply_adds" of
      one image (convolutions and dense layers), and "unused_head_parameters": what EfficientNet's
      classification head would add. The original stack builds that head and never uses it, and the
      paper's Table 6 counts it.
    """
    return {
        "parameters": sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        "all_parameters": model.count_params(),
        "multiply_adds": _multiply_adds(model, image_size),
        "unused_head_parameters": _head_parameters(model.backbone),
    }


def _head_parameters(backbone: keras.Model) -> int:
    if not isinstance(backbone, EfficientNetBackbone):
        return 0
    config, width = backbone.get_config(), backbone.output.shape[-1]
    top = top_filters(config["width"], config["lite"])
    return width * top + 2 * top + top * HEAD_CLASSES + HEAD_CLASSES


def activation_bytes(model: keras.Model, image_size: int) -> int:
    """Bytes that a training step keeps of one image until its backward pass: the least that it takes.

    Counted are the outputs of convolutions (batch norm's gradient reads them) and of batch norm (the
    activation's gradient does). Losses, gradients and what is on its way come on top.
    """
    kept = ("Conv2D", "DepthwiseConv2dNative", "FusedBatchNormV3")
    outputs = [
        op.outputs[0] for op in _operations(_graph(model, image_size, training=True)) if op.type in kept
    ]
    return sum(int(np.prod(output.shape)) * output.dtype.size for output in outputs)


def _multiply_adds(model: keras.Model, image_size: int) -> int:
    """Adds up the convolutions by tracing shapes through the graph, a shared layer once per call."""
    return sum(_of_operation(op) for op in _operations(_graph(model, image_size, training=False)))


def _graph(model: keras.Model, image_size: int, *, training: bool) -> tf.Graph:
    """The forward pass of one image."""
    traced = tf.function(lambda x: model({"images": x}, training=training))
    return traced.get_concrete_function(tf.TensorSpec([1, image_size, image_size, 3])).graph


def _operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    for op in graph.get_operations():
        if op.type in ("PartitionedCall", "StatefulPartitionedCall"):
            yield from _operations(graph._get_function(op.get_attr("f").name).graph)
        else:
            yield op


def _of_operation(op: tf.Operation) -> int:
    if op.type not in ("Conv2D", "DepthwiseConv2dNative", "MatMul"):
        return 0
    kernel, output = op.inputs[1].shape, op.outputs[0].shape
    if op.type == "MatMul":
        return int(np.prod(kernel)) * int(output[0])
    per_place = int(np.prod(kernel))  # depthwise kernels are [h, w, channels, multiplier]
    return per_place * int(output[1]) * int(output[2])
