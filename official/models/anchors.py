"""Anchors, the matching of boxes to anchors, and the coding of boxes relative to anchors.

keras-cv's `AnchorGenerator` gives the original's anchors with `clip_boxes=False` and the ratios in
the original's order, so it is used as it is. Its label encoder is not: it ignores anchors between
two thresholds, cannot force a match without corrupting anchor 0, and turns NaN rows into targets.
All boxes are yxyx float32 pixels of the network's input image.
"""

from __future__ import annotations

import keras_cv
import tensorflow as tf

from losses.focal import BACKGROUND, IGNORED

ASPECT_RATIOS = (1.0, 2.0, 0.5)  # width / height, in the original's order
SIZE_EPSILON = 1e-8
MAX_LOG_SCALE = 4.135166556742356  # ln(1000 / 16)


def anchor_generator(
    min_level: int, max_level: int, anchor_scale: float = 4.0, num_scales: int = 3
) -> keras_cv.layers.AnchorGenerator:
    """Anchors of side `anchor_scale * stride * 2^(k / num_scales)`, not clipped to the image.

    Source: tensorflow/tpu models/official/detection/dataloader/anchor.py:69-136.
    """
    strides = [2**level for level in range(min_level, max_level + 1)]
    return keras_cv.layers.AnchorGenerator(
        bounding_box_format="yxyx",
        sizes=[anchor_scale * stride for stride in strides],
        scales=[2 ** (k / num_scales) for k in range(num_scales)],
        aspect_ratios=list(ASPECT_RATIOS),
        strides=strides,
        clip_boxes=False,
    )


def anchors_by_level(generator: keras_cv.layers.AnchorGenerator, image_size: int) -> list[tf.Tensor]:
    """Float32 [cells * anchors per cell, 4] per level, finest first: row, column, scale, ratio."""
    levels = generator(image_shape=(image_size, image_size, 3))
    return [tf.cast(levels[key], tf.float32) for key in sorted(levels)]


def iou_matrix(anchors: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Intersection over union, no +1 convention, 0 where both are empty.

    Args:
      anchors: float32 [A, 4].
      boxes: float32 [B, M, 4].

    Returns:
      float32 [B, A, M].
    """
    # Computed as [B, M, A]: the long axis last is twice as fast.
    a_y1, a_x1, a_y2, a_x2 = [c[None, None, :] for c in tf.unstack(anchors, axis=-1)]
    b_y1, b_x1, b_y2, b_x2 = [c[:, :, None] for c in tf.unstack(boxes, axis=-1)]
    height = tf.maximum(tf.minimum(a_y2, b_y2) - tf.maximum(a_y1, b_y1), 0.0)
    width = tf.maximum(tf.minimum(a_x2, b_x2) - tf.maximum(a_x1, b_x1), 0.0)
    intersection = height * width
    union = (a_y2 - a_y1) * (a_x2 - a_x1) + (b_y2 - b_y1) * (b_x2 - b_x1) - intersection
    iou = tf.where(intersection > 0.0, intersection / tf.maximum(union, SIZE_EPSILON), 0.0)
    return tf.transpose(iou, [0, 2, 1])


def match_anchors(iou: tf.Tensor, valid: tf.Tensor, threshold: float = 0.5) -> tf.Tensor:
    """Gives every anchor a box or the background.

    An anchor takes its best box (the first on ties) if their IoU is at least `threshold`. Then every
    box claims its best anchor (the first on ties), whatever the IoU, so that no box is left without
    an anchor; where several boxes claim one anchor the first box wins. A box that overlaps no anchor
    claims none (the original would give it anchor 0).

    Args:
      iou: float32 [B, A, M].
      valid: bool [B, M]; False marks padding, which matches nothing.

    Returns:
      int32 [B, A], the index of the matched box, or -1.

    Source: tensorflow/tpu .../utils/object_detection/argmax_matcher.py:102-175.
    """
    iou = tf.where(valid[:, None, :], iou, -1.0)
    best_box = tf.argmax(iou, axis=2, output_type=tf.int32)  # [B, A]
    matched = tf.where(tf.reduce_max(iou, axis=2) >= threshold, best_box, BACKGROUND)
    best_anchor = tf.argmax(iou, axis=1, output_type=tf.int32)  # [B, M]
    claims = valid & (tf.reduce_max(iou, axis=1) > 0.0)
    claimed = _first_claim(best_anchor, claims, tf.shape(iou)[1])
    return tf.where(claimed < tf.shape(iou)[2], claimed, matched)


def _first_claim(best_anchor: tf.Tensor, claims: tf.Tensor, anchor_count: tf.Tensor) -> tf.Tensor:
    """Int32 [B, A]: the lowest box index that claims the anchor, or M where none does."""
    batch, boxes = tf.shape(best_anchor)[0], tf.shape(best_anchor)[1]
    nobody = tf.fill([batch, anchor_count], boxes)
    rows = tf.broadcast_to(tf.range(batch)[:, None], [batch, boxes])
    places = tf.stack([rows, best_anchor], axis=-1)
    box_index = tf.broadcast_to(tf.range(boxes)[None], [batch, boxes])
    return tf.tensor_scatter_nd_min(nobody, places, tf.where(claims, box_index, boxes))


def _centre_and_size(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def encode_boxes(boxes: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
    """(dy, dx, dh, dw) of boxes [..., 4] relative to anchors [..., 4], no variances.

    Source: tensorflow/tpu .../utils/object_detection/faster_rcnn_box_coder.py:60-90.
    """
    centre, size = _centre_and_size(boxes)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    size, anchor_size = size + SIZE_EPSILON, anchor_size + SIZE_EPSILON
    offsets = (centre - anchor_centre) / anchor_size
    return tf.concat([offsets, tf.math.log(size / anchor_size)], axis=-1)


def decode_boxes(codes: tf.Tensor, anchors: tf.Tensor, *, legacy: bool = False) -> tf.Tensor:
    """The inverse of `encode_boxes`, with dh and dw capped at ln(1000/16).

    Args:
      codes: float32 [..., 4]; anchors: float32 [..., 4].
      legacy: decodes as the original does, with a convention that its encoder does not have: a box's sides
        are its corners' differences plus one pixel, so anchors are taken a pixel longer and the far corner a
        pixel nearer.

    Returns:
      float32 [..., 4] yxyx pixels.

    keras-cv's model decodes with a module constant instead of its encoder's variances.
    Source of `legacy`: tensorflow/tpu .../utils/box_utils.py:294-350.
    """
    if legacy:
        pixel = tf.constant([0.0, 0.0, 1.0, 1.0])
        return decode_boxes(codes, anchors + pixel) - pixel
    anchor_centre, anchor_size = _centre_and_size(anchors)
    centre = codes[..., :2] * anchor_size + anchor_centre
    size = tf.exp(tf.minimum(codes[..., 2:], MAX_LOG_SCALE)) * anchor_size
    return tf.concat([centre - 0.5 * size, centre + 0.5 * size], axis=-1)


def without_padding(boxes: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Boxes [B, M, 4] and classes [B, M] cut after the last box of the batch, but not to fewer than one."""
    places = tf.where(classes != BACKGROUND, tf.range(1, classes.shape[1] + 1), 1)
    used = tf.reduce_max(places)
    return boxes[:, :used], classes[:, :used]


def one_row_more(boxes: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Boxes [B, M, 4] and classes [B, M] with a row of padding if there may be none, as `encode_targets`
    wants.
    """
    if boxes.shape[1]:
        return boxes, classes
    padded = tf.pad(boxes, [[0, 0], [0, 1], [0, 0]], constant_values=-1.0)
    return padded, tf.pad(classes, [[0, 0], [0, 1]], constant_values=BACKGROUND)


def encode_targets(
    boxes: tf.Tensor,
    classes: tf.Tensor,
    anchors: tf.Tensor,
    threshold: float = 0.5,
    *,
    ignoring: bool = False,
    static: bool = True,
) -> dict[str, tf.Tensor]:
    """Turns boxes into static-shaped targets for every anchor.

    Args:
      boxes: float32 [B, M, 4], M >= 1 (pad; keras-cv's encoder fails on M = 0, this one does not
        need a box either, but static shapes do).
      classes: int32 [B, M], -1 for padding, -2 for boxes that may be objects or not.
      anchors: float32 [A, 4].
      threshold: the IoU from which an anchor is positive.
      ignoring: whether there are boxes of class -2: an anchor that one of them would make positive, and that
        is so for no other, is ignored. Without it they are left out.
      static: matches the padding too, which changes nothing but time: XLA and TPUs want static shapes.

    Returns:
      `class_targets` int32 [B, A] (-1 background, -2 ignored), `box_targets` float32 [B, A, 4] (zeros where
      not positive), `positives` float32 [B], the number of positive anchors.
    """
    if not static:
        boxes, classes = without_padding(boxes, classes)
    iou = iou_matrix(anchors, boxes)
    matched = match_anchors(iou, classes >= 0, threshold)
    positive = matched >= 0
    index = tf.maximum(matched, 0)
    matched_boxes = tf.gather(boxes, index, batch_dims=1)
    codes = encode_boxes(matched_boxes, anchors[None])
    others = BACKGROUND
    if ignoring:
        others = tf.where(match_anchors(iou, classes == IGNORED, threshold) >= 0, IGNORED, BACKGROUND)
    return {
        "class_targets": tf.where(positive, tf.gather(classes, index, batch_dims=1), others),
        "box_targets": tf.where(positive[..., None], codes, 0.0),
        "positives": tf.reduce_sum(tf.cast(positive, tf.float32), axis=1),
    }
