"""COCO segmentations rendered to class maps; an object without a usable outline is ignored inside its box."""

from __future__ import annotations

from typing import Any, Callable, Sequence

import numpy as np
import tensorflow as tf
from pycocotools import mask as mask_api

from official.data.frames import Frames, turned_upright
from official.data.labels import number
from official.data.source import Annotations, Category, Source

IGNORE = 255
FARTHEST = (
    10.0  # image sides from its corner; pycocotools' polygons take memory by the length of their border
)
NO_OUTLINE = "object without a usable outline: ignored inside its box"


def mask_categories(categories: Sequence[Category]) -> tuple[Category, ...]:
    """Background, then the categories in their order."""
    return (Category(0, "background"), *categories)


def class_map_reader(
    records: Sequence[dict], annotations: Annotations, source: Source
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function: image number -> uint8 [H, W], 0 background, i + 1 for class i.

    Crowds are ignored (255), and so is the box of an object without a usable outline, which is counted as
    lost. Where objects overlap the smaller one shows. Images are rendered when they are read.

    Args:
      records: of `annotations`, row by row, with "segmentation".
      source: its images and report.
    """
    images = np.repeat(np.arange(len(source)), annotations.counts())
    sizes = source.sizes if source.frames is None else source.frames.sizes
    boxes = annotations.boxes if source.frames is None else source.frames.to_file(annotations.boxes, images)
    objects: list[list] = [[] for _ in range(len(source))]
    for row, (record, image) in enumerate(zip(records, images)):
        height, width = sizes[image].tolist()
        code, repair = outline(record.get("segmentation"), (height, width), boxes[row])
        if code is None:
            source.report.lose_object(NO_OUTLINE, str(source.names[image]), source.ids[image])
        elif repair:
            source.report.note(repair, str(source.names[image]), source.ids[image])
        ignored = annotations.crowd[row] or code is None
        label = IGNORE if ignored else int(annotations.classes[row]) + 1
        area = float(mask_api.area(code)) if code is not None else np.inf
        objects[image].append((area, label, code, boxes[row]))
    return _reader(objects, sizes, source.frames)


def _reader(
    objects: list[list], sizes: np.ndarray, frames: Frames | None
) -> Callable[[tf.Tensor], tf.Tensor]:
    def render(index):
        height, width = (int(v) for v in sizes[index])
        canvas = np.zeros((height, width), np.uint8)
        for _, label, code, box in sorted(objects[int(index)], key=lambda o: -o[0]):
            if code is None:
                canvas[_pixels(box)] = label
            else:
                canvas[mask_api.decode(code) > 0] = label
        return canvas if frames is None else as_read(canvas, frames, int(index))

    def read(index):
        return tf.ensure_shape(tf.numpy_function(render, [index], tf.uint8, stateful=False), [None, None])

    return read


def _pixels(box: np.ndarray) -> tuple[slice, slice]:
    """Every pixel that a yxyx box touches."""
    y1, x1 = (max(0, int(np.floor(v))) for v in box[:2])
    y2, x2 = (max(0, int(np.ceil(v))) for v in box[2:])
    return slice(y1, y2), slice(x1, x2)


def as_read(canvas: np.ndarray, frames: Frames, index: int) -> np.ndarray:
    """A class map [h, w] in the file's frame, turned and scaled (nearest) to the image that is read."""
    turned = turned_upright(canvas, int(frames.turns[index]))
    height, width = (int(v) for v in frames.read[index])
    if turned.shape == (height, width):
        return np.ascontiguousarray(turned)
    rows = ((np.arange(height) + 0.5) * turned.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * turned.shape[1] / width).astype(int)
    return turned[rows][:, columns]


# --- outlines --------------------------------------------------------------------------------------


def outline(segmentation: Any, size: tuple[int, int], box: np.ndarray) -> tuple[dict | None, str]:
    """Run-length code of a segmentation in an image of (height, width), None where it has no usable one; what
    was mended.

    Polygons may be nested as COCO has them, one flat list, or lists of points. One that cannot be used is
    left out.

    Args:
      box: yxyx of the object, which says which of two readings of a mask of swapped size is meant.
    """
    try:
        if isinstance(segmentation, dict):
            return _run_lengths(segmentation, size, box)
        polygons, repair = _polygons(segmentation)
        usable = [p for p in polygons if _is_usable(p, size)]
        if not usable:
            return None, ""
        if len(usable) < len(polygons):
            repair = "polygon that cannot be used beside others that can: left out"
        return mask_api.merge(mask_api.frPyObjects([p.tolist() for p in usable], *size)), repair
    except Exception:  # pycocotools raises many kinds on malformed lists
        return None, ""


def outline_box(segmentation: Any) -> list[float] | None:
    """[x, y, width, height] around polygons, for an annotation without a box; None where there are none."""
    try:
        polygons = _polygons(segmentation)[0] if not isinstance(segmentation, dict) else []
        points = np.concatenate(polygons).reshape(-1, 2)
    except ValueError:  # none, or an odd number of values
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _polygons(segmentation: Any) -> tuple[list[np.ndarray], str]:
    """Float64 [2 N] x, y, x, y ... each; NaN where a value is no number."""
    if not isinstance(segmentation, (list, tuple, np.ndarray)) or not len(segmentation):
        return [], ""
    if not _is_list(segmentation[0]):
        return [_flat(segmentation)], "polygon that is one flat list: read as a polygon"
    if (
        all(_is_list(p) and len(p) == 2 and not _is_list(p[0]) for p in segmentation)
        and len(segmentation) > 2
    ):
        return [
            _flat([v for point in segmentation for v in point])
        ], "polygon that is a list of points: read as a polygon"
    paired = any(_is_list(p) and len(p) and _is_list(p[0]) for p in segmentation)
    repair = "polygon that is a list of points: read as a polygon" if paired else ""
    return [
        _flat([v for point in p for v in point] if len(p) and _is_list(p[0]) else p)
        for p in segmentation
        if _is_list(p)
    ], repair


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def _flat(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    return np.array([number(v) for v in values], np.float64)


def _is_usable(polygon: np.ndarray, size: tuple[int, int]) -> bool:
    """At least three points, all numbers, none absurdly far from the image."""
    limit = FARTHEST * max(size)
    return len(polygon) >= 6 and len(polygon) % 2 == 0 and bool((np.abs(polygon) <= limit).all())


def _run_lengths(coded: dict, size: tuple[int, int], box: np.ndarray) -> tuple[dict | None, str]:
    height, width = size
    counts, stated = coded.get("counts", ()), [number(v) for v in coded.get("size", ())]
    counts = _decoded(counts) if isinstance(counts, (str, bytes)) else [number(c) for c in counts]
    lengths = np.array(counts, np.float64)
    if not len(lengths) or not (
        np.isfinite(lengths).all() and (lengths >= 0).all() and lengths.sum() == height * width
    ):
        return None, ""
    lengths = lengths.astype(np.int64).tolist()
    code = mask_api.frPyObjects({"size": [height, width], "counts": lengths}, height, width)
    if stated == [height, width]:
        return code, ""
    if stated != [width, height]:
        return None, ""
    turned = mask_api.decode(
        mask_api.frPyObjects({"size": [width, height], "counts": lengths}, width, height)
    ).T
    found = [c for c in (code, mask_api.encode(np.asfortranarray(turned))) if _has_box(c, box)]
    return (found[0], "mask of swapped size: read as its box says") if len(found) == 1 else (None, "")


def _has_box(code: dict, box: np.ndarray) -> bool:
    x, y, width, height = mask_api.toBbox(code)
    return bool(np.abs(np.array([y, x, y + height, x + width]) - box).max() <= 2.0)


def _decoded(text: str | bytes) -> list[int]:
    """COCO's compressed counts; pycocotools' own decoder writes past its memory where their sum is wrong.

    Format: cocodataset/cocoapi common/maskApi.c, rleFrString: LEB128-like with 5 bits a character, from the
      third
    count on as differences to the one before the last.
    """
    data = text.encode() if isinstance(text, str) else text
    counts: list[int] = []
    value = shift = 0
    for character in data:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("not a compressed mask")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
