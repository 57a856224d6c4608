"""Label Studio's JSON and JSON-MIN: rectangles, ellipses, polygons and brush strokes in percent of the image.

Format: Label Studio's documentation of its export and `label_studio_sdk/converter` (brush strokes:
`brush.py`). Of several annotations of one image the ground truth counts, or else the newest that was not
cancelled, as in its own converter.
"""

from __future__ import annotations

import math
from typing import Any, Iterator

import numpy as np

from official.data import image_files
from official.data.formats.coco_json import read_json_file
from official.data.formats.geometry import ellipse, mask_box, placed_mask, points_outline, turned_rectangle
from official.data.formats.recognise import what_it_is
from official.data.formats.records import (
    NO_AREA,
    ImageRecord,
    ReadRules,
    Shape,
    source_of_records,
    stated_number,
)
from official.data.input_report import DataError, InputReport, printable
from official.data.labels import identifier, number
from official.data.source import Source

_IMAGE_KEYS = ("image", "img", "image_url", "url", "picture")
MAX_MASK = 100_000_000  # pixels of a brush stroke's image
_GEOMETRY = ("x", "points", "rle")


def open_label_studio(
    path: str, image_folder: str | None, rules: ReadRules, *, predictions: bool = False
) -> Source:
    """A source over the tasks of a JSON; ids are the tasks' own. Images are found by their bare names,
    without the prefix of an upload where need be.

    Args:
      image_folder: where the images are; looked for beside the JSON when not given.
      predictions: reads what a model has predicted, in place of what people said.

    Raises:
      DataError: not Label Studio's; no folder; too much unusable.
    """
    word, report = f"labelstudio:{path}", InputReport()
    tasks = read_json_file(path, "Label Studio file", _keep_numbers)
    images = [_image_of(task) for task in tasks] if isinstance(tasks, list) else []
    if not images or not any(images):
        raise DataError(f"{path} is not a JSON of Label Studio{what_it_is(path)}")
    folder = image_folder or image_files.guess_folder(word, path, [image for image in images if image])
    image_files.require_folder(folder, word)
    finder, records = image_files.ImageFinder(folder), []
    for place, (task, image) in enumerate(zip(tasks, images)):
        image_id = identifier(task.get("id") if isinstance(task, dict) else None) or f"task {place}"
        found = finder.known(image) if image else None
        if found is None:
            report.skip_image(
                "image is absent" if image else "task without one image", printable(str(image)), image_id
            )
            continue
        results = _results(task, predictions, report, image_id) if rules.labeled else ([], [])
        if results is not None:
            records.append(_record(image_id, found, *results))
    return source_of_records(word, records, report, rules)


def _keep_numbers(entry: dict) -> dict:
    """Brush strokes, long lists of bytes, as arrays while the file is read."""
    if isinstance(entry.get("rle"), list):
        try:
            entry["rle"] = np.array(entry["rle"], np.uint8)
        except (ValueError, TypeError, OverflowError):
            entry["rle"] = None
    return entry


def _image_of(task: Any) -> str | None:
    """The one image that a task is about."""
    data = task.get("data", task) if isinstance(task, dict) else {}
    texts = {k: v for k, v in data.items() if isinstance(v, str) and v} if isinstance(data, dict) else {}
    usual = [texts[key] for key in _IMAGE_KEYS if key in texts]
    named = [v for v in texts.values() if v.lower().partition("?")[0].endswith(image_files.EXTENSIONS)]
    return next(iter(usual or named), None)


def _results(
    task: dict, predictions: bool, report: InputReport, image_id: str
) -> tuple[list, list[str]] | None:
    """(regions, notes) of a task; None where nobody has looked at it."""
    if "data" not in task and "annotations" not in task:  # JSON-MIN
        regions = [r for v in task.values() if isinstance(v, list) for r in v if isinstance(r, dict)]
        return [{"value": region, **region} for region in regions], []
    found = task.get("predictions" if predictions else "annotations") or task.get("completions") or []
    found = (
        [a for a in found if isinstance(a, dict) and isinstance(a.get("result"), list)]
        if isinstance(found, list)
        else []
    )
    found = [a for a in found if not (a.get("was_cancelled") or a.get("skipped"))]
    if not found:
        report.note("task that nobody has annotated: left out", image_id)
        return None
    chosen = max(
        found, key=lambda a: (bool(a.get("ground_truth")), str(a.get("created_at", "")), number(a.get("id")))
    )
    notes = (
        ["image with several annotations: the ground truth, or the newest, is taken"]
        if len(found) > 1
        else []
    )
    return [r for r in chosen["result"] if isinstance(r, dict)], notes


def _record(image_id: str, path: str, results: list[dict], notes: list[str]) -> ImageRecord:
    sizes = [s for r in results if all(map(math.isfinite, s := _size(r)))]
    record = ImageRecord(
        image_id, path, sizes[0] if sizes else (math.nan, math.nan), notes=notes, fractions=True
    )
    for result in _regions(results):
        found = _shape(result, record.size)
        if isinstance(found, str):
            record.lost.append(found)
        else:
            record.notes += ["turned rectangle: the box around it is taken"] * bool(result["turned"])
            record.shapes.append(found)
    return record


def _size(result: dict) -> tuple[float, float]:
    return stated_number(result.get("original_height")), stated_number(result.get("original_width"))


def _regions(results: list[dict]) -> Iterator[dict[str, Any]]:
    """One dict a region: its geometry and its labels, which a second result of the same id may hold."""
    regions: dict[Any, dict[str, Any]] = {}
    for place, result in enumerate(results):
        value = result.get("value")
        if not isinstance(value, dict) or not any(key in value for key in _GEOMETRY):
            continue  # of the whole image, or a relation
        key = result.get("id") if isinstance(result.get("id"), (str, int)) else place
        region = regions.setdefault(key, {"labels": [], "turned": 0.0, "image_rotation": 0.0, "score": 1.0})
        region.update({k: v for k, v in value.items() if not k.endswith("labels")})
        named = [v for k, v in value.items() if k.endswith("labels") and isinstance(v, list)]
        region["labels"] += [label for labels in named for label in labels]
        region["turned"] = number(value.get("rotation") or 0)
        region["image_rotation"] = number(result.get("image_rotation") or 0)
        score = number(result.get("score"))
        region["score"] = score if 0 <= score <= 1 else 1.0
    yield from regions.values()


def _shape(region: dict[str, Any], size: tuple[float, float]) -> Shape | str:
    """A region in fractions of the image, or the reason why it is none."""
    labels = list(dict.fromkeys(map(identifier, region["labels"])))
    if len(labels) != 1:
        return "region of several classes, or of none"
    if region["image_rotation"]:
        return "region of an image that was turned in Label Studio"
    label, score = labels[0], region["score"]
    if "points" in region:
        outline = [[number(value) / 100 for value in points_outline(region["points"])[0]]]
        return (
            Shape(label, outline=outline, score=score)
            if len(outline[0]) >= 6
            else "polygon of fewer than three points"
        )
    if "rle" in region:
        return _brush(label, region["rle"], size, score)
    height, width = size if all(map(math.isfinite, size)) else (1.0, 1.0)
    names = ("x", "y", "radiusX", "radiusY") if "radiusX" in region else ("x", "y", "width", "height")
    if names[3] not in region:  # the `width` of a key point is that of its dot
        return f"{NO_AREA} (keypoint)"
    # In pixels, since percent of width and of height do not turn into each other.
    x, y, w, h = (number(region.get(name)) / 100 * side for name, side in zip(names, (width, height) * 2))
    if not all(map(math.isfinite, (x, y, w, h, region["turned"]))):
        return "region with a value that is not a number"
    if "radiusX" in region:
        box, around = ellipse(x, y, w, h, region["turned"])
        return Shape(label, _divided(box, width, height), [_divided(around, width, height)], score=score)
    if not region["turned"]:
        return Shape(label, _divided([x, y, x + w, y + h], width, height), score=score)
    corners = turned_rectangle([x, y, x + w, y + h], region["turned"], (x, y))
    return Shape(label, outline=[_divided(corners, width, height)], score=score)


def _divided(values: list[float], width: float, height: float) -> list[float]:
    return [value / side for value, side in zip(values, (width, height) * (len(values) // 2))]


def _brush(label: str, rle: Any, size: tuple[float, float], score: float) -> Shape | str:
    if not isinstance(rle, np.ndarray) or not all(map(math.isfinite, size)) or size[0] * size[1] > MAX_MASK:
        return "brush stroke that cannot be read"
    height, width = int(size[0]), int(size[1])
    try:
        values = decode_brush(rle, height * width * 4)
    except ValueError:
        return "brush stroke that cannot be read"
    mask = values.reshape(height, width, 4)[..., 3] > 127
    box = mask_box(mask)
    if box is None:
        return "brush stroke without a pixel"
    return Shape(label, _divided(box, width, height), placed_mask(mask, 0, 0, (height, width)), score=score)


def decode_brush(rle: np.ndarray, expected: int) -> np.ndarray:
    """Uint8 [expected], what Label Studio's run lengths (of @thi.ng/rle-pack) unpack to.

    A head of 32 bits: how many values; 5 bits: their width - 1; four times 4 bits: widths of counts - 1. Then
      runs: a bit, 1 for
    a value that is repeated; 2 bits: which width the count has; the count - 1; the value, or as many values.

    Raises:
      ValueError: another number of values, or an end before that.
    """
    bits = (np.unpackbits(rle) + ord("0")).astype(np.uint8).tobytes().decode()
    place = 0

    def take(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError("the run lengths end too early")
        place += count
        return int(bits[place - count : place], 2)

    total, width = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    if total != expected or width > 8:
        raise ValueError(f"{total} values of {width} bits, not {expected} of 8")
    found, filled = np.zeros(total, np.uint8), 0
    while filled < total:
        repeated, end = take(1), filled
        end += 1 + take(widths[take(2)])
        if end > total:
            raise ValueError("a run is too long")
        found[filled:end] = take(width) if repeated else [take(width) for _ in range(end - filled)]
        filled = end
    return found
