"""Class maps as polygons along the borders of pixels, which give the same pixels back; none has a hole.

A region with a hole is cut into parts side by side, since polygons of COCO, YOLO and the labelling tools
cannot have one.
"""

from __future__ import annotations

from typing import Iterator

import numpy as np

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up


def regions(mask: np.ndarray) -> Iterator[list[list[float]]]:
    """The connected regions of a bool mask [H, W] (neighbours share a side), each as polygons x, y, x, y ...
    in pixels.
    """
    for top, left, part in _components(np.asarray(mask, bool)):
        yield [[float(v) for x, y in loop for v in (x + left, y + top)] for loop in _hole_free(part, 0)]


def _components(mask: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """(top, left, mask of its bounding box) of every connected region, by joining the runs of neighbouring
    rows.
    """
    runs: list[tuple[int, int, int]] = []  # row, first column, end
    parent: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above: list[int] = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
        current = []
        for first, end in zip(edges[0::2].tolist(), edges[1::2].tolist()):
            number = len(runs)
            runs.append((row, first, end))
            parent.append(number)
            current.append(number)
            for other in above:
                if runs[other][1] < end and first < runs[other][2]:
                    parent[root(number)] = root(other)
        above = current
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for number, run in enumerate(runs):
        groups.setdefault(root(number), []).append(run)
    for group in groups.values():
        top, bottom = group[0][0], group[-1][0] + 1
        left, right = min(first for _, first, _ in group), max(end for *_, end in group)
        part = np.zeros((bottom - top, right - left), bool)
        for row, first, end in group:
            part[row - top, first - left : end - left] = True
        yield top, left, part


def _hole_free(mask: np.ndarray, left: int) -> list[list[tuple[int, int]]]:
    """Outer loops of the parts of a mask, cut until none has a hole; `left` is added to every x."""
    loops = _loops(mask)
    hole = next((loop for loop in loops if _area(loop) < 0), None)
    if hole is None:
        return [[(x + left, y) for x, y in loop] for loop in loops]
    columns = [x for x, _ in hole]
    cut = (min(columns) + max(columns)) // 2
    return _hole_free(mask[:, :cut], left) + _hole_free(mask[:, cut:], left + cut)


def _loops(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The corners of every border, with the set pixels to its right: clockwise around a region, the other way
    around a hole.

    Where two pixels touch at a corner alone the border turns right, so that they stay apart.
    """
    edges = _border(mask)
    loops: list[list[tuple[int, int]]] = []
    while edges:
        start = next(iter(edges))
        point, step, corners = start, next(iter(edges[start])), []
        while True:
            edges[point].discard(step)
            if not edges[point]:
                del edges[point]
            corners.append((point, step))
            point = (point[0] + _STEPS[step][0], point[1] + _STEPS[step][1])
            turns: tuple[int, ...] = ((step + 1) % 4, step, (step + 3) % 4)
            if point == start:  # unless it turns further right there than to where it began
                turns = turns[: turns.index(corners[0][1])]
            following = next((turn for turn in turns if turn in edges.get(point, ())), None)
            if following is None:
                break
            step = following
        loops.append([p for i, (p, s) in enumerate(corners) if s != corners[i - 1][1]])
    return loops


def _border(mask: np.ndarray) -> dict[tuple[int, int], set[int]]:
    """Directions of the unit edges that start at every corner, with a set pixel to their right and none to
    their left.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = (
        (0, inside & ~padded[:-2, 1:-1], 0, 0),
        (1, inside & ~padded[1:-1, 2:], 1, 0),
        (2, inside & ~padded[2:, 1:-1], 1, 1),
        (3, inside & ~padded[1:-1, :-2], 0, 1),
    )
    edges: dict[tuple[int, int], set[int]] = {}
    for step, found, dx, dy in sides:
        for y, x in zip(*(axis.tolist() for axis in np.nonzero(found))):
            edges.setdefault((x + dx, y + dy), set()).add(step)
    return edges


def _area(loop: list[tuple[int, int]]) -> int:
    """Twice the area within a loop, below 0 where it goes around a hole."""
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(loop, loop[1:] + loop[:1]))
