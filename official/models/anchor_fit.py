"""How well anchors fit the boxes of a data set: the best recall that the matching leaves possible, and flags
that raise it.

A box that no anchor overlaps by --match_iou still claims its best anchor in training, but learns from that
one alone, whose shape is another: it is found late or never. The share of boxes that do have such an anchor
is the best possible recall.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from official.models.anchors import anchor_generator, anchors_by_level, iou_matrix, match_anchors

GOOD_RECALL = 0.95  # from which nothing is proposed
WORTHWHILE = 0.01  # a smaller gain is not proposed
AS_GOOD = 0.005  # of values that differ by less, the one nearer to what is set is proposed
SCALES = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
LARGEST_SIDE = 2048
LARGEST_GROWTH = 3  # times --image_size
_ROWS = 50_000


@dataclasses.dataclass(frozen=True)
class AnchorFlags:
    """The flags that decide the anchors; see official/experiment.py."""

    image_size: int
    min_level: int
    max_level: int
    anchor_scale: float
    num_scales: int

    def by_level(self) -> list[tf.Tensor]:
        """The network's own anchors: float32 [A_l, 4] per level, yxyx pixels of its input."""
        generator = anchor_generator(self.min_level, self.max_level, self.anchor_scale, self.num_scales)
        return anchors_by_level(generator, self.image_size)


def in_network(boxes: np.ndarray, sizes: np.ndarray, image_size: int) -> np.ndarray:
    """Boxes as the network's input shows them without augmentation, cut off at the images' borders.

    Args:
      boxes: float [N, 4] yxyx pixels of the images; sizes: int [N, 2], (height, width) of each box's image.

    Source: augment/jitter.py `resize_and_crop`.
    """
    longer = sizes.max(axis=1, keepdims=True).astype(np.float32)
    scaled = np.maximum(np.rint(sizes.astype(np.float32) * (np.float32(image_size) / longer)), 1.0)
    placed = boxes * np.tile(scaled / sizes, 2)
    return np.clip(placed, 0.0, np.tile(scaled, 2)).astype(np.float32)


def best_iou(boxes: np.ndarray, flags: AnchorFlags) -> np.ndarray:
    """The highest overlap of every box with any anchor, float32 [N].

    Of the anchors of one level and shape the one whose centre is nearest, along either axis, overlaps a box
    most, so one anchor per level and shape is looked at.

    Args:
      boxes: float32 [N, 4] yxyx pixels of the network's input.
    """
    best = np.zeros(len(boxes), np.float32)
    for level, anchors in enumerate(flags.by_level()):
        cells = -(-flags.image_size // 2 ** (flags.min_level + level))
        grid = anchors.numpy().reshape(cells, cells, -1, 4)
        for first in range(0, len(boxes), _ROWS):
            rows = slice(first, first + _ROWS)
            best[rows] = np.maximum(best[rows], _best_of_level(boxes[rows], grid))
    return best


def _best_of_level(boxes: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Float32 [N], the best overlap with the anchors [rows, columns, shapes, 4] of a level."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    middles = [
        (line[:, 0, axis] + line[:, 0, axis + 2]) / 2 for axis, line in enumerate((grid[:, 0], grid[0]))
    ]
    y, x = (_nearest(centres[:, axis], middle) for axis, middle in enumerate(middles))
    near = grid[y, x]  # [N, shapes, 4]
    low, high = np.maximum(near[..., :2], boxes[:, None, :2]), np.minimum(near[..., 2:], boxes[:, None, 2:])
    shared = np.maximum(high - low, 0.0).prod(axis=-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)[:, None] + (near[..., 2:] - near[..., :2]).prod(
        axis=-1
    )
    return (shared / np.maximum(area - shared, 1e-8)).max(axis=1)


def _nearest(values: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Int [N], which of the evenly spaced, ascending places of `line` is nearest."""
    step = line[1] - line[0] if len(line) > 1 else 1.0
    return np.clip(np.rint((values - line[0]) / step), 0, len(line) - 1).astype(np.int64)


def possible_recall(
    boxes: np.ndarray, sizes: np.ndarray, flags: AnchorFlags, match_iou: float = 0.5
) -> float:
    """The share of boxes that some anchor overlaps by at least `match_iou`; see `in_network`."""
    return (
        float((best_iou(in_network(boxes, sizes, flags.image_size), flags) >= match_iou).mean())
        if len(boxes)
        else 1.0
    )


def taught(boxes: np.ndarray, flags: AnchorFlags, match_iou: float = 0.5) -> np.ndarray:
    """Bool [N], which boxes of ONE image the training's matching gives an anchor; a box may lose all to its
    neighbours.

    Args:
      boxes: float32 [N, 4] yxyx pixels of the network's input, N >= 1.
    """
    overlap = iou_matrix(tf.concat(flags.by_level(), axis=0), tf.constant(boxes, tf.float32)[None])
    matched = match_anchors(overlap, tf.ones([1, len(boxes)], tf.bool), match_iou).numpy()
    return np.isin(np.arange(len(boxes)), matched)


def proposals(
    boxes: np.ndarray, sizes: np.ndarray, flags: AnchorFlags, match_iou: float = 0.5
) -> dict[str, Any]:
    """The best possible recall, and what would raise it.

    Args:
      boxes: float [N, 4] yxyx pixels of the images; sizes: int [N, 2], (height, width) of each box's image.

    Returns:
      "recall", and for "anchor_scale" and "image_size", where another value is worth it, {"value", "recall"}:
      each alone.
    """

    def recall(**changed):
        return possible_recall(boxes, sizes, dataclasses.replace(flags, **changed), match_iou)

    found: dict[str, Any] = {"recall": round(recall(), 4)}
    if found["recall"] >= GOOD_RECALL:
        return found
    scales: dict[float, float] = {
        scale: recall(anchor_scale=scale)
        for scale in sorted(SCALES, key=lambda s: abs(np.log(s / flags.anchor_scale)))
    }
    sides: dict[float, float] = {side: recall(image_size=side) for side in _larger_sides(flags)}
    for name, tried in (("anchor_scale", scales), ("image_size", sides)):
        best = max(tried.values(), default=0.0)
        value = next((value for value, r in tried.items() if r >= best - AS_GOOD), None)
        if value is not None and tried[value] >= found["recall"] + WORTHWHILE:
            found[name] = {"value": value, "recall": round(tried[value], 4)}
    return found


def _larger_sides(flags: AnchorFlags) -> list[int]:
    """Sides that the pyramid takes, ascending, to `LARGEST_GROWTH` times what is set."""
    stride = 2**flags.max_level
    last = min(LARGEST_SIDE, LARGEST_GROWTH * flags.image_size)
    return list(range((flags.image_size // stride + 1) * stride, last + 1, stride))
