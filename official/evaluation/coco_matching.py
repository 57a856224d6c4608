"""pycocotools' matching of detections with objects, for all images, thresholds and areas at once.

The rules, and what happens in a tie, are those of `pycocotools.cocoeval.COCOeval.evaluateImg`: in the order
of the scores, every detection takes the object of its class with the highest IoU that is not taken, of equal
ones the last; an ignored object only if it can take no other one; a crowd as often as one likes. The order
matters only within one image and class, so the first detection of every group is matched in one NumPy call,
then every second one, and so on.
"""

from __future__ import annotations

import dataclasses
from typing import Iterator

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = ((0, 1e5**2), (0, 32**2), (32**2, 96**2), (96**2, 1e5**2))  # all, small, medium, large; square pixels
MAX_DETECTIONS = (1, 10, 100)
_PAIRS_AT_ONCE = 1_000_000


@dataclasses.dataclass(frozen=True)
class Truths:
    """Objects sorted by group, within one in the order of the file.

    Attributes:
      group: int64 [G], class number * images + image number.
      boxes: float64 [G, 4] x, y, width, height.
      area: float64 [G] square pixels.
      crowd: bool [G]; ignored everywhere, and matched any number of times.
      counted: bool [G]; False where pycocotools takes a match for none: an id of 0.
    """

    group: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    counted: np.ndarray


@dataclasses.dataclass(frozen=True)
class Found:
    """Detections sorted by group, within one by falling score, equal ones in the order of the file; 100 at
    most.

    Attributes:
      group: int64 [D]; boxes: float64 [D, 4] x, y, width, height; area: float64 [D]; score: float64 [D].
      rank: int64 [D], place in the group.
    """

    group: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    score: np.ndarray
    rank: np.ndarray


def outside(area: np.ndarray) -> np.ndarray:
    """bool [N, areas]: whether each is outside of the ranges of `AREAS`."""
    low, high = np.array(AREAS, np.float64).T
    return (area[:, None] < low) | (area[:, None] > high)


def close_pairs(truths: Truths, found: Found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(detection, object, IoU) of the pairs of a group whose IoU can match at all, by detection, then
    object.
    """
    first = np.searchsorted(truths.group, found.group, "left")
    counts = np.searchsorted(truths.group, found.group, "right") - first
    parts = []
    for low, high in _chunks(counts):
        d = np.repeat(np.arange(low, high), counts[low:high])
        starts = np.cumsum(counts[low:high]) - counts[low:high]
        g = np.arange(len(d)) + np.repeat(first[low:high] - starts, counts[low:high])
        iou = box_iou(found.boxes[d], truths.boxes[g], truths.crowd[g])
        close = iou >= IOU_THRESHOLDS[0]
        parts.append((d[close], g[close], iou[close]))
    detections, objects, ious = map(np.concatenate, zip(*parts))
    return detections, objects, ious


def _chunks(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of detections with about a million pairs each; one empty range where there is nothing."""
    block = np.cumsum(counts) // _PAIRS_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(counts)]
    return zip(edges[:-1], edges[1:])


def box_iou(found: np.ndarray, truths: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """float64 [P] of pairs of boxes [P, 4] x, y, width, height; over the detection alone where the object is
    a crowd.

    The operations and their order are `bbIou`'s of pycocotools' maskApi.c, so the last digit is the same.
    """
    (x, y, width, height), (tx, ty, truth_width, truth_height) = found.T, truths.T
    w = np.minimum(width + x, truth_width + tx) - np.maximum(x, tx)
    h = np.minimum(height + y, truth_height + ty) - np.maximum(y, ty)
    inside = w * h
    area = width * height
    union = np.where(crowd, area, area + truth_width * truth_height - inside)
    meet = (w > 0) & (h > 0)
    return np.where(meet, inside / np.where(meet, union, 1.0), 0.0)


def match(
    truths: Truths, found: Found, pairs: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Matches at every threshold and in every range of areas.

    Args:
      pairs: see `close_pairs`.

    Returns:
      matched, ignored: bool [D, thresholds, areas].
    """
    ignore = truths.crowd[:, None] | outside(truths.area)
    taken = np.zeros((len(truths.group), len(IOU_THRESHOLDS), len(AREAS)), bool)
    matched, ignored = (np.zeros((len(found.group), *taken.shape[1:]), bool) for _ in range(2))
    for d, g, iou in _rounds(found, pairs):
        free = ~taken[g] | truths.crowd[g, None, None]
        able = free & (iou[:, None] >= IOU_THRESHOLDS)[:, :, None]
        starts = np.flatnonzero(np.diff(d, prepend=-1))
        # Pairs are in rising order of what decides within a detection, so the best is the last that is able.
        worth = np.where(
            able, np.arange(1, len(d) + 1)[:, None, None] + np.where(ignore[g], 0, len(d))[:, None, :], 0
        )
        best = np.maximum.reduceat(worth, starts, axis=0)
        row, t, a = np.nonzero(best)
        pair = (best[row, t, a] - 1) % len(d)
        taken[g[pair], t, a] = True
        matched[d[starts][row], t, a] = truths.counted[g[pair]]
        ignored[d[starts][row], t, a] = ignore[g[pair], a]
    ignored |= ~matched & outside(found.area)[:, None, :]
    return matched, ignored


def _rounds(
    found: Found, pairs: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of the detections that are first in their group, then of the second, ...; those without a pair
    left out.

    Within a detection the IoU rises, and of equal ones the object's number.
    """
    d, g, iou = pairs
    order = np.lexsort((g, iou, d))
    d, g, iou = d[order], g[order], iou[order]
    new = np.diff(d, prepend=-1) > 0
    having = d[new]  # detections with a pair, in their order
    group = found.group[having]
    place = np.arange(len(having)) - np.searchsorted(group, group, "left")
    turn = place[np.cumsum(new) - 1]
    order = np.argsort(turn, kind="stable")
    edges = np.searchsorted(turn[order], np.arange(turn.max(initial=-1) + 2))
    for low, high in zip(edges[:-1], edges[1:]):
        rows = order[low:high]
        yield d[rows], g[rows], iou[rows]
