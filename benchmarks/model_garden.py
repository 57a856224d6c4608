"""TF Model Garden's RetinaNet as a side of `benchmarks.step_speed`; run by a Python that has
tf-models-official 2.15.0.

The network is the one that this project builds: EfficientNet, FPN, 4 + 4 head convolutions with a batch norm
per level. Its task's own `train_step`, its own losses, legacy SGD with momentum (fused kernels) as its
factory gives.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import turns

from official.vision.configs import retinanet as configs
from official.vision.modeling import backbones, factory
from official.vision.ops import anchor
from official.vision.tasks.retinanet import RetinaNetTask

CLASSES, BOXES = 80, 8


def network(backbone: str, size: int) -> tuple[RetinaNetTask, tf.keras.Model]:
    """The task and the model on EfficientNet `backbone` ("b0")."""
    specs = tf.keras.layers.InputSpec(shape=[None, size, size, 3])
    options = configs.RetinaNetTask()
    options.model.num_classes = CLASSES
    options.model.input_size = [size, size, 3]
    options.model.norm_activation.norm_momentum = 0.997
    options.model.norm_activation.norm_epsilon = 1e-4
    options.model.norm_activation.use_sync_bn = False  # the fused kernel
    regularizer = tf.keras.regularizers.L2(options.losses.l2_weight_decay / 2.0)
    body = backbones.efficientnet.EfficientNet(
        backbone,
        specs,
        se_ratio=0.25,
        stochastic_depth_drop_rate=0.2,
        activation="swish",
        se_inner_activation="swish",
        kernel_regularizer=regularizer,
        kernel_initializer="VarianceScaling",
    )
    return RetinaNetTask(options), factory.build_retinanet(specs, options.model, regularizer, backbone=body)


def batch_of(size: int, batch: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Noise images with eight random boxes each, as `benchmarks.peers.random_source` draws them."""
    draws = np.random.default_rng(0)
    images = draws.normal(size=(batch, size, size, 3)).astype(np.float32)
    corner = draws.uniform(0, 0.6 * size, (batch, BOXES, 2))
    boxes = np.concatenate(
        [corner, corner + draws.uniform(0.1 * size, 0.4 * size, (batch, BOXES, 2))], axis=-1
    )
    return (
        tf.constant(images),
        tf.constant(boxes, tf.float32),
        tf.constant(draws.integers(0, CLASSES, (batch, BOXES, 1)), tf.int32),
    )


def encoder(size: int):
    """(boxes, classes) -> labels as the task wants them, with its own labeler, an image after the other."""
    anchors = anchor.Anchor(3, 7, 3, [1.0, 2.0, 0.5], 4.0, (size, size)).multilevel_boxes
    labeler = anchor.AnchorLabeler(0.5, 0.5)

    def encode(boxes, classes):
        rows = [labeler.label_anchors(anchors, b, c) for b, c in zip(tf.unstack(boxes), tf.unstack(classes))]
        class_targets, box_targets, _, class_weights, box_weights = (
            tf.nest.map_structure(lambda *parts: tf.stack(parts), *column) for column in zip(*rows)
        )
        return {
            "cls_targets": class_targets,
            "box_targets": box_targets,
            "cls_weights": class_weights,
            "box_weights": box_weights,
        }

    return encode


def main() -> None:
    """Serves steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="b0")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--encode_outside", action="store_true", help="labels are made before the step")
    parser.add_argument("--bfloat16", choices=("", "policy", "rewriter"), default="")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if options.bfloat16 == "rewriter":
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    elif options.bfloat16:
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    task, model = network(options.backbone, options.size)
    optimizer = tf.keras.optimizers.legacy.SGD(1e-3, 0.9)
    encode = encoder(options.size)
    images, boxes, classes = batch_of(options.size, options.batch)
    labels = tf.function(encode)(boxes, classes) if options.encode_outside else None

    @tf.function
    def step(images, boxes, classes):
        made = encode(boxes, classes) if labels is None else labels
        return task.train_step((images, made), model, optimizer)["loss"]

    parameters = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    turns.serve(lambda: float(step(images, boxes, classes)), {"parameters": parameters})


if __name__ == "__main__":
    main()
