"""Shapes of labelling tools as boxes and outlines: turned rectangles, ellipses, masks of a part of the
image.
"""

from __future__ import annotations

import math
from typing import Any, Sequence

import numpy as np
from pycocotools import mask as mask_api

ELLIPSE_POINTS = 64


def turned_rectangle(box: Sequence[float], degrees: float, pivot: tuple[float, float]) -> list[float]:
    """The corners x, y, x, y ... of x1, y1, x2, y2 turned clockwise (in an image, whose y points down) about
    a point.
    """
    x1, y1, x2, y2 = box
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    found = []
    for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2)):
        dx, dy = x - pivot[0], y - pivot[1]
        found += [pivot[0] + dx * cos - dy * sin, pivot[1] + dx * sin + dy * cos]
    return found


def ellipse(
    x: float, y: float, rx: float, ry: float, degrees: float = 0.0
) -> tuple[list[float], list[float]]:
    """(the box around an ellipse that is turned clockwise, its outline) about its centre.

    A negative radius gives a box of negative sides, which is none, as a negative width does.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    sign = -1.0 if min(rx, ry) < 0 else 1.0
    half_width, half_height = sign * math.hypot(rx * cos, ry * sin), sign * math.hypot(rx * sin, ry * cos)
    points = []
    for step in range(ELLIPSE_POINTS):
        a, b = (
            rx * math.cos(2 * math.pi * step / ELLIPSE_POINTS),
            ry * math.sin(2 * math.pi * step / ELLIPSE_POINTS),
        )
        points += [x + a * cos - b * sin, y + a * sin + b * cos]
    return [x - half_width, y - half_height, x + half_width, y + half_height], points


def placed_mask(mask: np.ndarray, left: int, top: int, size: tuple[int, int]) -> dict[str, Any] | None:
    """Run lengths, as COCO has them, of a mask [h, w] laid into an image of (height, width); None where it
    does not fit.
    """
    height, width = size
    if left < 0 or top < 0 or top + mask.shape[0] > height or left + mask.shape[1] > width:
        return None
    canvas = np.zeros((height, width), np.uint8, order="F")
    canvas[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return mask_api.encode(canvas)


def mask_box(mask: np.ndarray) -> list[float] | None:
    """x1, y1, x2, y2 around what is set in a mask [h, w], None where nothing is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def points_outline(points: Any) -> list[list[Any]]:
    """A list of [x, y] as a polygon of COCO; what is no such list becomes one without points."""
    if not isinstance(points, list) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in points):
        return [[]]
    return [[value for point in points for value in point]]
