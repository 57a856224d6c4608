"""What an opened data set holds, class by class, in numbers that a person and a program read."""

from __future__ import annotations

from typing import Any

import numpy as np

from official.data.holdout import class_counts, class_presence
from official.data.source import Source

PERCENTILES = (0, 5, 50, 95, 100)
FEW = 10  # objects of a class below which it is hardly learnt, and not evaluated
_SMALL, _MEDIUM = 32.0**2, 96.0**2  # COCO's limits of area, square pixels of the image


def set_statistics(source: Source) -> dict[str, Any]:
    """Images and their sizes; of labels, per class: images, objects, sides in pixels, COCO's size classes."""
    found: dict[str, Any] = {"data": source.word, "images": len(source)}
    if len(source):
        found["longer_side"] = _spread(source.sizes.max(axis=1))
        found["shorter_side"] = _spread(source.sizes.min(axis=1))
    if not source.categories:
        return found
    presence, counts = class_presence(source), class_counts(source)
    found["images_without_objects"] = int((~presence.any(axis=1)).sum())
    rows = {
        c.name: {"images": int(p), "objects": int(n)}
        for c, p, n in zip(source.categories, presence.sum(axis=0), counts)
    }
    if source.annotations is not None:
        found |= _boxes(source, rows)
    return {**found, "classes": rows}


def _boxes(source: Source, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    columns = source.objects
    real = ~columns.crowd
    side = np.sqrt((columns.boxes[:, 2:] - columns.boxes[:, :2]).prod(axis=1).clip(0))
    images = np.repeat(np.arange(len(source)), columns.counts())
    for i, row in enumerate(rows.values()):
        own = real & (columns.classes == i)
        row["crowds"] = int((columns.crowd & (columns.classes == i)).sum())
        if own.any():
            area = columns.area[own]
            row["side"] = _spread(side[own])
            row["small_medium_large"] = [
                int((area < _SMALL).sum()),
                int(((area >= _SMALL) & (area < _MEDIUM)).sum()),
                int((area >= _MEDIUM).sum()),
            ]
    per_image = np.bincount(images[real], minlength=len(source))
    return {
        "objects": int(real.sum()),
        "crowds": int(columns.crowd.sum()),
        "objects_per_image": _spread(per_image) if len(source) else {},
        "repeated_objects": repeated_objects(source),
    }


def repeated_objects(source: Source) -> int:
    """How many objects are written twice: the same class and the same box in one image."""
    columns = source.objects
    images = np.repeat(np.arange(len(source)), columns.counts())
    rows = np.concatenate([images[:, None], columns.classes[:, None], columns.boxes], axis=1)[~columns.crowd]
    return len(rows) - len(np.unique(rows, axis=0))


def _spread(values: np.ndarray) -> dict[str, float]:
    found = np.percentile(values, PERCENTILES)
    return {f"{p} %": round(float(v), 1) for p, v in zip(PERCENTILES, found)}


def table(role: str, found: dict[str, Any]) -> list[str]:
    """`set_statistics` as lines."""
    lines = [f"{role}: {found['images']} images of {found['data']}" + _sides(found)]
    if "classes" not in found:
        return lines
    boxes = "objects_per_image" in found
    if boxes:
        per_image = found["objects_per_image"]
        lines[0] += (
            f"; {found['objects']} objects, {per_image.get('50 %', 0):g} in the median image, at most "
            f"{per_image.get('100 %', 0):g}"
        )
    lines[0] += f"; {found['images_without_objects']} images without an object"
    width = max(12, *(len(name) + 2 for name in found["classes"]))
    head = f"  {'class':<{width}}{'images':>8}{'objects':>9}"
    lines.append(head + ("   side in pixels: 5 %   50 %   95 %   small/medium/large" if boxes else ""))
    for name, row in found["classes"].items():
        line = f"  {name:<{width}}{row['images']:>8}{row['objects']:>9}"
        if "side" in row:
            sides = "".join(f"{row['side'][f'{p} %']:>7.0f}" for p in (5, 50, 95))
            line += f"{'':>16}{sides}   " + "/".join(map(str, row["small_medium_large"]))
        lines.append(line)
    return lines


def _sides(found: dict[str, Any]) -> str:
    if "longer_side" not in found:
        return ""
    low, middle, high = (found["longer_side"][f"{p} %"] for p in (0, 50, 100))
    return f", longer side {low:g}" + (f" to {high:g}, mostly {middle:g}" if low != high else "")
