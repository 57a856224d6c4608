"""From raw head outputs to final boxes: per-level top-k, decoding, class-wise (Soft-)NMS.

keras-cv's decoder runs a padded NMS over every anchor of every image, which costs seconds at 640
pixels; here only the best candidates of each level reach the NMS. The same code serves labelling,
evaluation and export.

TensorFlow's op of (Soft-)NMS has no kernel under XLA, and the one that has (NonMaxSuppressionV4) knows no
Soft-NMS and compares all candidates with all. On TPUs the same greedy choice is therefore made by a loop of
plain operations, see `static`.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from official.models.anchors import decode_boxes


@tf.keras.saving.register_keras_serializable("self_training")
@dataclasses.dataclass(frozen=True)
class DetectionDecoder:
    """Settings and code of post-processing.

    Attributes:
      score_threshold: detections below it are dropped (original: 0.05).
      nms_iou_threshold: hard NMS suppresses above it (original: 0.5).
      soft_nms_sigma: above 0 turns on Gaussian Soft-NMS: a score is multiplied by exp(-iou^2 / (2 sigma))
        for every better box kept, as in `tf.image.non_max_suppression_with_scores`. In Soft-NMS' own
        paper (Bodla et al. 2017) it is exp(-iou^2 / sigma): 0.3 here is 0.6 there.
      max_detections: per image (original: 100).
      top_k: candidates per level before NMS, over all classes.
      legacy_size: above 0, boxes are decoded as in the original (`decode_boxes`) and cut off at legacy_size -
        1, the last pixel of the network's input; it must be the side of that.
      static: suppresses by operations that XLA has, of static shapes, in place of TensorFlow's op, for TPUs:
        the same boxes in the same order, by max_detections steps over all candidates.
      bounding_box_format: of the boxes returned; keras-cv asks its decoders for it.
    """

    score_threshold: float = 0.05
    nms_iou_threshold: float = 0.5
    soft_nms_sigma: float = 0.0
    max_detections: int = 100
    top_k: int = 1000
    legacy_size: int = 0
    static: bool = False
    bounding_box_format: str = "yxyx"

    def __call__(
        self, outputs: dict[str, tf.Tensor], anchors: list[tf.Tensor], extents: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Decodes a batch.

        Args:
          outputs: "box" float [B, A, 4] codes and "classification" float [B, A, C] logits.
          anchors: float32 [A_l, 4] per level, in the order of the outputs.
          extents: float32 [B, 2], the (height, width) to which boxes are clipped, in network pixels.

        Returns:
          "boxes" float32 [B, D, 4] yxyx pixels, "scores" float32 [B, D] descending, "classes"
          int32 [B, D] (-1 beyond the count), "count" int32 [B]; D = max_detections.
        """
        candidates = self._candidates(outputs, anchors, extents)
        if self.static:
            found = self._suppress_by_steps(*candidates)
        else:
            found = tf.map_fn(
                lambda image: self._suppress(*image),
                candidates,
                fn_output_signature=(tf.float32, tf.float32, tf.int32, tf.int32),
            )
        return dict(zip(("boxes", "scores", "classes", "count"), found))

    def get_config(self) -> dict:
        """Its settings, for a model that is saved."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict) -> DetectionDecoder:
        """The inverse of `get_config`."""
        return cls(**config)

    def single(
        self, outputs: dict[str, tf.Tensor], anchors: list[tf.Tensor], extents: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The same for a batch of one, without a loop (TFLite)."""
        found = self._suppress(*(part[0] for part in self._candidates(outputs, anchors, extents)))
        return {name: part[None] for name, part in zip(("boxes", "scores", "classes", "count"), found)}

    def _candidates(
        self, outputs: dict[str, tf.Tensor], anchors: list[tf.Tensor], extents: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The best (anchor, class) pairs of all levels: boxes [B, K, 4], scores, classes [B, K]."""
        sizes = [level.shape[0] for level in anchors]
        codes = tf.split(tf.cast(outputs["box"], tf.float32), sizes, axis=1)
        logits = tf.split(tf.cast(outputs["classification"], tf.float32), sizes, axis=1)
        found = [self._level_candidates(*level) for level in zip(codes, logits, anchors)]
        boxes, scores, classes = (tf.concat(parts, axis=1) for parts in zip(*found))
        limits = tf.minimum(extents, self.legacy_size - 1.0) if self.legacy_size else extents
        boxes = tf.clip_by_value(boxes, 0.0, tf.concat([limits, limits], axis=-1)[:, None, :])
        return boxes, tf.where(_has_area(boxes), tf.sigmoid(scores), 0.0), classes

    def _level_candidates(
        self, codes: tf.Tensor, logits: tf.Tensor, anchors: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Two exact steps: a pair among the top k has its anchor among the top k by best class."""
        num_classes = logits.shape[-1]
        _, best_anchors = tf.math.top_k(
            tf.reduce_max(logits, axis=-1), min(self.top_k, logits.shape[1]), sorted=True
        )
        kept = tf.sort(best_anchors, axis=1)  # ties then fall as in one flat top-k
        pairs = tf.gather(logits, kept, batch_dims=1)
        pairs = tf.reshape(pairs, [tf.shape(pairs)[0], kept.shape[1] * num_classes])
        scores, flat = tf.math.top_k(pairs, min(self.top_k, pairs.shape[1]))
        anchor_index = tf.gather(kept, flat // num_classes, batch_dims=1)
        boxes = decode_boxes(
            tf.gather(codes, anchor_index, batch_dims=1),
            tf.gather(anchors, anchor_index),
            legacy=self.legacy_size > 0,
        )
        return boxes, scores, flat % num_classes

    def _suppress(
        self, boxes: tf.Tensor, scores: tf.Tensor, classes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """NMS of one image; boxes of different classes are moved apart so that they never meet."""
        offset = tf.cast(classes, tf.float32)[:, None] * (tf.reduce_max(boxes) + 1.0)
        picked, picked_scores, count = tf.raw_ops.NonMaxSuppressionV5(
            boxes=boxes + offset,
            scores=scores,
            max_output_size=self.max_detections,
            iou_threshold=self.nms_iou_threshold if self.soft_nms_sigma <= 0 else 1.0,
            score_threshold=self.score_threshold,
            soft_nms_sigma=self.soft_nms_sigma,
            pad_to_max_output_size=True,
        )
        real = tf.range(self.max_detections) < count
        return (
            tf.where(real[:, None], tf.gather(boxes, picked), 0.0),
            tf.where(real, picked_scores, 0.0),
            tf.where(real, tf.gather(classes, picked), -1),
            count,
        )

    def _suppress_by_steps(
        self, boxes: tf.Tensor, scores: tf.Tensor, classes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """`_suppress` of a batch, boxes [B, K, 4]: each step takes the best candidate left, the first of
        equals, and weakens or removes those that it covers."""
        shifted = boxes + tf.cast(classes, tf.float32)[..., None] * (
            tf.reduce_max(boxes, axis=[1, 2], keepdims=True) + 1.0
        )
        places, rows = tf.range(boxes.shape[1])[None], tf.range(self.max_detections)[None]

        def step(number, left, picked, kept):
            best = tf.argmax(left, axis=1, output_type=tf.int32)
            score = tf.gather(left, best, batch_dims=1)
            iou = _iou(tf.gather(shifted, best, batch_dims=1)[:, None], shifted)
            left = self._weakened(left, iou)
            left = tf.where(
                places == best[:, None], _GONE, tf.where(left > self.score_threshold, left, _GONE)
            )
            here = rows == number
            return (
                number + 1,
                left,
                tf.where(here, best[:, None], picked),
                tf.where(here, score[:, None], kept),
            )

        nothing = tf.zeros_like(scores[:, :1]) + tf.zeros([self.max_detections])
        first = (
            0,
            tf.where(scores > self.score_threshold, scores, _GONE),
            tf.cast(nothing, tf.int32),
            nothing,
        )
        found = tf.while_loop(lambda number, *_: number < self.max_detections, step, first)
        picked, kept = found[2:]
        real = kept > self.score_threshold
        return (
            tf.where(real[..., None], tf.gather(boxes, picked, batch_dims=1), 0.0),
            tf.where(real, kept, 0.0),
            tf.where(real, tf.gather(classes, picked, batch_dims=1), -1),
            tf.reduce_sum(tf.cast(real, tf.int32), axis=1),
        )

    def _weakened(self, scores: tf.Tensor, iou: tf.Tensor) -> tf.Tensor:
        """What a kept box leaves of the scores of others that it covers so much."""
        if self.soft_nms_sigma > 0.0:
            return scores * tf.exp(-0.5 / self.soft_nms_sigma * iou * iou)
        return tf.where(iou > self.nms_iou_threshold, _GONE, scores)


_GONE = -1.0  # the score of a candidate that has been taken or suppressed


def _iou(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Intersection over union as TensorFlow's NMS computes it, yxyx [..., 4] with corners in order; 0 where
    one is empty.
    """
    sides = tf.maximum(tf.minimum(a[..., 2:], b[..., 2:]) - tf.maximum(a[..., :2], b[..., :2]), 0.0)
    common = sides[..., 0] * sides[..., 1]
    areas = [(x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b)]
    full = (areas[0] > 0.0) & (areas[1] > 0.0)
    return tf.where(full, common / tf.where(full, areas[0] + areas[1] - common, 1.0), 0.0)


def _has_area(boxes: tf.Tensor) -> tf.Tensor:
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
