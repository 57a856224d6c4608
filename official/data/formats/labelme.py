"""LabelMe: a JSON beside every image, with polygons, rectangles, circles and masks.

Format: wkentaro/labelme, `label_file.py` and `utils/shape.py`; shapes of one label and `group_id` are one
object, as in its own export to COCO (`examples/instance_segmentation/labelme2coco.py`).
"""

from __future__ import annotations

import base64
import collections
import io
import math
import os
from typing import Any

import numpy as np
from PIL import Image

from official.data import image_files
from official.data.formats.coco_json import read_json_file
from official.data.formats.geometry import ellipse, mask_box, placed_mask, points_outline
from official.data.formats.recognise import what_it_is
from official.data.formats.records import (
    NO_AREA,
    ImageRecord,
    ReadRules,
    Shape,
    joined,
    source_of_records,
    stated_number,
)
from official.data.input_report import DataError, InputReport
from official.data.labels import identifier, number
from official.data.source import Source

NO_CLASS = ("__ignore__", "_background_")  # of LabelMe's label lists


def open_labelme(folder: str, image_folder: str | None, rules: ReadRules) -> Source:
    """A source over the JSONs of a folder and of those in it. Ids are their paths below it without `.json`.

    Args:
      image_folder: where the images are, when not in `folder`.

    Raises:
      DataError: no JSON of LabelMe; two images that fit one; too much unusable.
    """
    word, report, records = f"labelme:{folder}", InputReport(), []
    image_files.require_folder(folder, word)
    finder, others = image_files.ImageFinder(image_folder or folder), []
    names = list(image_files.walk(folder, (".json",)))
    for name in names:
        path, image_id = os.path.join(folder, name), image_files.displayed(os.path.splitext(name)[0])
        try:
            content = read_json_file(path, "LabelMe file", _without_pixels)
        except DataError as error:
            detail = str(error).replace("(", "").replace(")", "")
            report.skip_image(f"JSON cannot be read ({detail})", image_files.displayed(path), image_id)
            continue
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            others.append(path)
            report.skip_image("not a JSON of LabelMe", image_files.displayed(path), image_id)
            continue
        image = _image_of(content, finder, name)
        if image is None:
            where = (
                "image is only inside the JSON; `labelme_export_json` writes it out"
                if content.get("imageData")
                else "image is absent"
            )
            report.skip_image(where, image_files.displayed(path), image_id)
            continue
        records.append(_record(content, image_id, image))
    if not records and len(others) == len(names):
        found = what_it_is(folder) or "".join(map(what_it_is, others[:1]))
        raise DataError(f"{word}: not one JSON of LabelMe{found}")
    _note_others(finder, records, report)
    return source_of_records(word, records, report, rules)


def _without_pixels(entry: dict) -> dict:
    """Drops the image that LabelMe stores in the JSON as text."""
    if isinstance(entry.get("imageData"), str):
        entry["imageData"] = True
    return entry


def _image_of(content: dict, finder: image_files.ImageFinder, json_name: str) -> str | None:
    written, (below, own) = content.get("imagePath"), os.path.split(os.path.splitext(json_name)[0])
    if isinstance(written, str) and written:
        beside = os.path.join(below, written.replace("\\", "/"))
        found = finder.known(beside) or finder.known(written)
        if found:
            return found
    return finder.elsewhere(os.path.join(below, own), stem=True)


def _note_others(finder: image_files.ImageFinder, records: list[ImageRecord], report: InputReport) -> None:
    used = {os.path.realpath(record.path) for record in records}
    paths = (
        os.path.join(finder.folder, name)
        for name in image_files.walk(finder.folder)
        if not image_files.holds_labels(name)
    )
    left = [path for path in paths if os.path.realpath(path) not in used]
    if left:
        report.note(
            "image without a JSON: nobody says that it is empty, left out",
            image_files.displayed(left[0]),
            count=len(left),
        )


def _record(content: dict, image_id: str, image: str) -> ImageRecord:
    size = stated_number(content.get("imageHeight")), stated_number(content.get("imageWidth"))
    record = ImageRecord(image_id, image, size)
    groups: dict[Any, list[Shape]] = collections.defaultdict(list)
    for place, entry in enumerate(content["shapes"]):
        entry = entry if isinstance(entry, dict) else {}
        label, group = entry.get("label"), entry.get("group_id")
        if label in NO_CLASS:
            record.notes.append(f"shape that is marked as no class: left out ({label})")
            continue
        found, score = _shape(entry, size), number(entry.get("score"))
        if isinstance(found, str):
            record.lost.append(found)
        else:
            found.score = score if 0 <= score <= 1 else 1.0  # of tools that label with a model
            key = (identifier(label), group) if isinstance(group, (int, str)) else place
            groups[key].append(found)
    record.shapes += [joined(shapes) for shapes in groups.values()]
    record.notes += ["shapes of one group: read as one object"] * sum(
        len(shapes) > 1 for shapes in groups.values()
    )
    return record


def _shape(entry: dict, size: tuple[float, float]) -> Shape | str:
    """A shape in pixels, or the reason why it is none."""
    kind, label, points = entry.get("shape_type") or "polygon", entry.get("label"), entry.get("points")
    outline = points_outline(points)
    values = [number(value) for value in outline[0]]
    flags = entry.get("flags")
    flags = flags if isinstance(flags, dict) else {}
    crowd = flags.get("iscrowd", flags.get("difficult", False))
    if kind in ("polygon", "rotation"):
        return (
            Shape(label, outline=outline, crowd=crowd)
            if len(values) >= 6
            else "polygon of fewer than three points"
        )
    if kind in ("rectangle", "mask", "circle") and (len(values) < 4 or not all(map(math.isfinite, values))):
        return f"{kind} without two points that are numbers"
    if kind == "rectangle":
        x, y = values[0::2], values[1::2]
        return Shape(label, [min(x), min(y), max(x), max(y)], crowd=crowd)
    if kind == "circle":
        radius = math.hypot(values[2] - values[0], values[3] - values[1])
        box, around = ellipse(values[0], values[1], radius, radius)
        return Shape(label, box, [around], crowd=crowd)
    if kind == "mask":
        return _mask(label, entry.get("mask"), values, size, crowd)
    return f"{NO_AREA} ({kind})"


def _mask(label: Any, text: Any, corner: list[float], size: tuple[float, float], crowd: Any) -> Shape | str:
    """A mask is a PNG of the part of the image whose near corner is the first point."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            pixels = np.asarray(image.convert("L")) > 0
    except Exception:  # Pillow and base64 raise many kinds
        return "mask that is no PNG"
    left, top = int(corner[0]), int(corner[1])
    box = mask_box(pixels)
    if box is None:
        return "mask without a pixel"
    known = all(map(math.isfinite, size)) and pixels.size <= size[0] * size[1]
    outline = placed_mask(pixels, left, top, (int(size[0]), int(size[1]))) if known else None
    return Shape(label, [box[0] + left, box[1] + top, box[2] + left, box[3] + top], outline, crowd=crowd)
