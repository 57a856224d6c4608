"""VGG Image Annotator (VIA) 1 and 2: projects and exported annotations as JSON.

Format: VIA's own `via.js` (`_via_img_metadata`, or the same dict alone); regions are a list in VIA 2, a dict
in VIA 1.
"""

from __future__ import annotations

import collections
import math
from typing import Any

from official.data import image_files
from official.data.formats.coco_json import read_json_file
from official.data.formats.geometry import ellipse
from official.data.formats.recognise import what_it_is
from official.data.formats.records import NO_AREA, ImageRecord, ReadRules, Shape, source_of_records
from official.data.input_report import DataError, InputReport, printable, shown
from official.data.labels import number
from official.data.source import Source

USUAL = ("class", "label", "name", "category", "type", "object")
ONE_CLASS = "object"


def open_via(path: str, image_folder: str | None, attribute: str | None, rules: ReadRules) -> Source:
    """A source over the images of a VIA JSON; ids are their file names.

    Args:
      image_folder: where the images are; looked for beside the JSON when not given.
      attribute: of the regions, that is their class; found out where one alone can be.

    Raises:
      DataError: not VIA's; no folder; an attribute that is not there, or several; too much unusable.
    """
    word, report = f"via:{path}", InputReport()
    entries = _entries(read_json_file(path, "VIA file"), path)
    names = [entry["filename"] for entry in entries]
    folder = image_folder or image_files.guess_folder(word, path, names)
    image_files.require_folder(folder, word)
    attribute = _attribute(word, entries, attribute, report) if rules.labeled else ""
    finder, records = image_files.ImageFinder(folder), []
    for entry, name in zip(entries, names):
        found = finder.known(name)
        if found is None:
            report.skip_image("image is absent", printable(name), printable(name))
            continue
        record = ImageRecord(printable(name), found)
        for region in _regions(entry):
            shape = _shape(region, attribute)
            if isinstance(shape, str):
                record.lost.append(shape)
            else:
                record.shapes.append(shape)
        records.append(record)
    return source_of_records(word, records, report, rules)


def _entries(content: Any, path: str) -> list[dict]:
    content = content.get("_via_img_metadata", content) if isinstance(content, dict) else content
    found = list(content.values()) if isinstance(content, dict) else []
    if not found or not all(
        isinstance(e, dict) and isinstance(e.get("filename"), str) and "regions" in e for e in found
    ):
        raise DataError(f"{path} is not a JSON of VIA 1 or 2{what_it_is(path)}")
    return found


def _regions(entry: dict) -> list[dict]:
    regions = entry["regions"]
    regions = list(regions.values()) if isinstance(regions, dict) else regions
    return [r if isinstance(r, dict) else {} for r in regions] if isinstance(regions, list) else []


def _attributes(region: dict) -> dict:
    found = region.get("region_attributes")
    return found if isinstance(found, dict) else {}


def _attribute(word: str, entries: list[dict], wanted: str | None, report: InputReport) -> str:
    """The attribute that is the class; "" where regions have none, and are all of one class."""
    names = collections.Counter(
        name for e in entries for region in _regions(e) for name in _attributes(region)
    )
    if wanted is not None and wanted not in names:
        raise DataError(f"{word}: no region has an attribute {wanted!r}, they have {shown(names)}")
    usual = [name for name in names if name.strip().lower() in USUAL]
    found = [wanted] if wanted is not None else list(names) if len(names) == 1 else usual
    if len(found) == 1:
        return found[0]
    if names:
        raise DataError(
            f"{word}: which attribute of the regions is their class, {shown(names)}? Say ,attribute=NAME"
        )
    report.note(f"regions without an attribute: all are of one class, called {ONE_CLASS}", word)
    return ""


def _label(region: dict, attribute: str) -> Any:
    """Text, a number, or the one choice that is ticked; a list of several, which is no class."""
    if not attribute:
        return ONE_CLASS
    value = _attributes(region).get(attribute)
    if isinstance(value, dict):
        ticked = [name for name, on in value.items() if on]
        return ticked[0] if len(ticked) == 1 else ticked
    return value.strip() if isinstance(value, str) else value


def _shape(region: dict, attribute: str) -> Shape | str:
    """A region in pixels, or the reason why it is none."""
    form, label = region.get("shape_attributes"), _label(region, attribute)
    form = form if isinstance(form, dict) else {}
    kind = form.get("name")
    if isinstance(label, list):
        return "region of several classes, or of none"
    if kind == "rect":
        x, y, width, height = (number(form.get(key)) for key in ("x", "y", "width", "height"))
        return Shape(label, [x, y, x + width, y + height])
    if kind == "polygon":
        xs, ys = form.get("all_points_x"), form.get("all_points_y")
        if not (isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys) >= 3):
            return "polygon of fewer than three points"
        return Shape(label, outline=[[number(value) for point in zip(xs, ys) for value in point]])
    if kind in ("circle", "ellipse"):
        keys = ("cx", "cy", "r", "r") if kind == "circle" else ("cx", "cy", "rx", "ry")
        x, y, rx, ry = (number(form.get(key)) for key in keys)
        turn = math.degrees(number(form.get("theta", 0)))  # VIA turns by radians
        if not all(map(math.isfinite, (x, y, rx, ry, turn))):
            return f"{kind} with a value that is not a number"
        box, around = ellipse(x, y, rx, ry, turn)
        return Shape(label, box, [around])
    return f"{NO_AREA} ({printable(str(kind))})"
