"""keras-cv's dicts ({"images", "bounding_boxes" | "segmentation_masks" | "labels"}) to a task's batches, and
checks of them.

The functions run in `tf.data` (where a check stops the program) and in graphs. Images are in 0..255, of any
dtype.
"""

from __future__ import annotations

from typing import Any, Callable

import keras_cv
import tensorflow as tf

from losses.focal import BACKGROUND
from official.data.example import checked_range, normalize
from official.models.anchors import one_row_more
from official.tasks.task import Tensors


def network_images(images: tf.Tensor | tf.RaggedTensor, size: int) -> tf.Tensor:
    """Images [B, S, S, 3] in 0..255 as the networks take them in training, float32.

    Raises:
      ValueError: another shape than the network's.
      InvalidArgumentError: in `tf.data`, values in 0..1.
    """
    if (
        isinstance(images, tf.RaggedTensor)
        or images.shape.rank != 4
        or tuple(images.shape[1:]) != (size, size, 3)
    ):
        raise ValueError(
            f"images of shape {images.shape}, the network is trained on batches [B, {size}, {size}, 3]: map "
            f"augment.policy(..., size={size}), or a layer that resizes images and labels together, over the "
            f"dataset, then batch it"
        )
    return normalize(checked_range(images))


def pixels(images: tf.Tensor) -> tf.Tensor:
    """Images [B, H, W, 3] in 0..255 of any dtype as uint8, rounded: what every source gives.

    Raises:
      InvalidArgumentError: values in 0..1.
    """
    if images.dtype == tf.uint8:
        return images
    return tf.saturate_cast(tf.round(tf.cast(checked_range(images), tf.float32)), tf.uint8)


def fitted(prepare: Callable, images: tf.Tensor) -> Tensors:
    """Images [B, H, W, 3] in 0..255 of one size through a preparation of `official.data.pipeline.fitting`."""
    spec = {"images": tf.float32, "scale": tf.float32, "extent": tf.float32}
    return tf.map_fn(lambda image: prepare({"image": image}), pixels(images), fn_output_signature=spec)


def dense_boxes(
    labels: dict[str, Any], images: tf.Tensor, box_format: str, *, classes: int, max_boxes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Boxes float32 [B, M, 4] in yxyx pixels and classes int32 [B, M], -1 in padding rows, of keras-cv's
    bounding boxes.

    Args:
      labels: "boxes" [B, N, 4] in `box_format` and "classes" [B, N], dense (padding: class -1) or ragged.
      images: [B, H, W, 3], what relative formats are relative to.
      classes: how many there are; max_boxes: M of ragged boxes.

    Raises:
      InvalidArgumentError: in `tf.data`, a class that there is not, or more ragged boxes than max_boxes.
    """
    boxes, indices, checks = labels["boxes"], labels["classes"], []
    if isinstance(boxes, tf.RaggedTensor):
        most = tf.reduce_max(tf.cast(boxes.row_lengths(), tf.int32))
        words = f"an image has more than max_boxes={max_boxes} boxes; raise max_boxes"
        checks.append(tf.debugging.Assert(most <= max_boxes, [words, most]))
        boxes = boxes.to_tensor(-1.0, shape=[None, max_boxes, 4])
    if isinstance(indices, tf.RaggedTensor):
        indices = indices.to_tensor(-1, shape=[None, max_boxes])
    indices = tf.cast(indices, tf.int32)
    words = f"a box is of a class that is not below {classes}, the number of classes"
    checks.append(tf.debugging.Assert(tf.reduce_all(indices < classes), [words, tf.reduce_max(indices)]))
    with tf.control_dependencies(checks):
        real = tf.identity(indices) >= 0
    corners = keras_cv.bounding_box.convert_format(
        tf.cast(boxes, tf.float32), source=box_format, target="yxyx", images=images
    )
    return one_row_more(tf.where(real[..., None], corners, -1.0), tf.where(real, indices, BACKGROUND))


def keras_boxes(boxes: tf.Tensor, classes: tf.Tensor, box_format: str, size: Any) -> tf.Tensor:
    """yxyx pixels [B, N, 4] to another format of keras-cv, -1 in the rows of class -1.

    Args:
      size: (height, width) of the images, numbers or an int32 tensor; what relative formats are relative to.
    """
    height, width = tf.unstack(tf.convert_to_tensor(size))
    found = keras_cv.bounding_box.convert_format(
        boxes, source="yxyx", target=box_format, image_shape=(height, width, 3)
    )
    return tf.where((classes >= 0)[..., None], found, -1.0)


def class_maps(masks: tf.Tensor, images: tf.Tensor, classes: int) -> tf.Tensor:
    """Class maps [B, S, S] or [B, S, S, 1] of any integer or float dtype as uint8 [B, S, S]; 255 says
    nothing.

    Raises:
      ValueError: not the size of the images.
      InvalidArgumentError: in `tf.data`, a class that there is not.
    """
    masks = masks[..., 0] if masks.shape.rank == 4 else masks
    if masks.shape[1:] != images.shape[1:3]:
        raise ValueError(f"segmentation masks of shape {masks.shape} beside images of shape {images.shape}")
    masks = tf.cast(masks, tf.int32)
    words = f"a pixel is neither 255 (nothing is said) nor of a class from 0 to {classes - 1}"
    good = tf.reduce_all(((masks >= 0) & (masks < classes)) | (masks == 255))
    with tf.control_dependencies(
        [tf.debugging.Assert(good, [words, tf.reduce_max(masks), tf.reduce_min(masks)])]
    ):
        return tf.cast(masks, tf.uint8)


def class_labels(labels: tf.Tensor, classes: int) -> Tensors:
    """Class indices "class" int32 [B] (-1: none known), and "probabilities" float32 [B, C] too where
    labels are rows of those.

    Raises:
      ValueError: rows that are not as long as there are classes.
      InvalidArgumentError: in `tf.data`, a class that there is not.
    """
    if labels.shape.rank == 2 and labels.shape[-1] == classes and classes > 1:
        return {
            "class": tf.argmax(labels, axis=-1, output_type=tf.int32),
            "probabilities": tf.cast(labels, tf.float32),
        }
    if labels.shape.rank == 2 and labels.shape[-1] == 1:
        labels = labels[:, 0]
    if labels.shape.rank != 1:
        raise ValueError(
            f"labels of shape {labels.shape}: class indices [B] or probabilities [B, {classes}] are needed"
        )
    labels = tf.cast(labels, tf.int32)
    words = f"an image is of a class that is not below {classes}, the number of classes"
    with tf.control_dependencies(
        [tf.debugging.Assert(tf.reduce_all(labels < classes), [words, tf.reduce_max(labels)])]
    ):
        return {"class": tf.identity(labels)}


def missing(label: str, data: Tensors) -> ValueError:
    """What is raised where a batch has no labels."""
    return ValueError(f'a batch for training needs "images" and "{label}", this one has {sorted(data)}')
