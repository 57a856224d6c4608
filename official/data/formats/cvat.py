"""CVAT for images (XML 1.1): boxes, polygons, ellipses and masks of many images in one file.

Format: CVAT's documentation, "XML annotation format". Boxes count from the corner of the first pixel;
`rotation` turns clockwise about the centre; polygons and masks of one label and `group_id` are one object, as
its export to COCO has them.
"""

from __future__ import annotations

import collections
import math
import os
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np

from official.data import image_files
from official.data.formats.coco_json import LFS_POINTER, LFS_REASON
from official.data.formats.geometry import ellipse, mask_box, placed_mask, turned_rectangle
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
from official.data.input_report import DataError, InputReport, printable, shown
from official.data.labels import flag, number
from official.data.source import Category, Source

_SHAPES = ("box", "polygon", "mask", "ellipse", "polyline", "points", "cuboid", "skeleton")
_CROWD = ("iscrowd", "is_crowd", "difficult")  # attributes that CVAT makes of COCO's and VOC's marks
MAX_MASK = 100_000_000  # pixels


def open_cvat(path: str, image_folder: str | None, rules: ReadRules) -> Source:
    """A source over the images of a CVAT XML; ids are their names in it.

    Args:
      image_folder: where the images are; looked for beside the XML when not given.

    Raises:
      DataError: no such XML; labels said twice; no folder; too much unusable.
    """
    word, report = f"cvat:{path}", InputReport()
    root = _read_xml(path)
    images = root.findall("image")
    names = [(image.get("name") or "").strip() for image in images]
    folder = image_folder or image_files.guess_folder(word, path, names)
    image_files.require_folder(folder, word)
    finder, records = image_files.ImageFinder(folder), []
    if rules.labeled:
        _lose_tracks(root, report, word)
    for image, name in zip(images, names):
        found = finder.known(name) if name else None
        if found is None:
            report.skip_image("image is absent", printable(name), image.get("id"))
        else:
            records.append(_record(image, printable(name), found))
    return source_of_records(
        word, records, report, rules, categories=_categories(root, path) if rules.labeled else None
    )


def _lose_tracks(root: ElementTree.Element, report: InputReport, word: str) -> None:
    """Counts the objects of video tracks beside the images: no image of the file shows them."""
    for track in root.iterfind("track"):
        for item in track:
            if item.tag in _SHAPES and item.get("outside") != "1":
                report.objects += 1
                report.lose_object(
                    "object of a video's track: not read, export `CVAT for images 1.1`", word, track.get("id")
                )


def _read_xml(path: str) -> ElementTree.Element:
    try:
        with open(path, "rb") as file:
            text = file.read()
        if text.startswith(LFS_POINTER):
            raise DataError(f"{path} is {LFS_REASON}")
        root = ElementTree.fromstring(text.lstrip())
    except OSError as error:
        raise DataError(f"cvat:{path}: {error.strerror or error}") from error
    except (ElementTree.ParseError, LookupError) as error:
        raise DataError(f"{path} is not XML ({error}){what_it_is(path)}") from error
    if root.tag != "annotations" or (root.find("track") is not None and root.find("image") is None):
        video = (
            ": it holds the tracks of a video; export it as `CVAT for images 1.1`"
            if root.tag == "annotations"
            else ""
        )
        raise DataError(f"{path} is not `CVAT for images 1.1`{video or what_it_is(path)}")
    return root


def _categories(root: ElementTree.Element, path: str) -> list[Category] | None:
    """The labels of the task in their order, None where the XML does not list them."""
    found = [
        label for label in root.iterfind("meta//labels/label") if not (label.findtext("parent") or "").strip()
    ]
    names = [printable((label.findtext("name") or "").strip()) for label in found]
    repeated = [name for name, n in collections.Counter(names).items() if n > 1]
    if repeated:  # of several tasks of one project: one list is enough where all are the same
        names = list(dict.fromkeys(names))
    if "" in names:
        raise DataError(f"{path}: a label has no name: {shown(names)}")
    return [Category(i + 1, name) for i, name in enumerate(names)] or None


def _record(image: ElementTree.Element, image_id: str, path: str) -> ImageRecord:
    size = stated_number(image.get("height")), stated_number(image.get("width"))
    record = ImageRecord(image_id, os.fspath(path), size)
    groups: dict[Any, list[Shape]] = collections.defaultdict(list)
    for place, item in enumerate(item for item in image if item.tag in _SHAPES):
        found = _shape(item, size)
        if isinstance(found, str):
            record.lost.append(found)
            continue
        if item.tag == "box" and found.outline is not None:
            record.notes.append("turned rectangle: the box around it is taken")
        group, parts = item.get("group_id", "0"), item.tag in ("polygon", "mask")
        groups[(found.label, group) if parts and group not in ("", "0") else place].append(found)
    record.shapes += [joined(shapes) for shapes in groups.values()]
    record.notes += ["shapes of one group: read as one object"] * sum(
        len(shapes) > 1 for shapes in groups.values()
    )
    return record


def _shape(item: ElementTree.Element, size: tuple[float, float]) -> Shape | str:
    """A shape in pixels, or the reason why it is none."""
    label = printable((item.get("label") or "").strip())
    crowd = any(
        flag((a.text or "").strip())
        for a in item.iterfind("attribute")
        if (a.get("name") or "").lower() in _CROWD
    )
    turn = number(item.get("rotation") or 0)
    if item.tag == "box":
        box = [number(item.get(key)) for key in ("xtl", "ytl", "xbr", "ybr")]
        if not turn:
            return Shape(label, box, crowd=crowd)
        corners = turned_rectangle(box, turn, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        return Shape(label, outline=[corners], crowd=crowd)
    if item.tag == "ellipse":
        x, y, rx, ry = (number(item.get(key)) for key in ("cx", "cy", "rx", "ry"))
        if not all(map(math.isfinite, (x, y, rx, ry, turn))):
            return "ellipse with a value that is not a number"
        box, around = ellipse(x, y, rx, ry, turn)
        return Shape(label, box, [around], crowd=crowd)
    if item.tag == "polygon":
        points = [number(value) for value in (item.get("points") or "").replace(";", ",").split(",")]
        usable = len(points) >= 6 and len(points) % 2 == 0
        return Shape(label, outline=[points], crowd=crowd) if usable else "polygon of fewer than three points"
    if item.tag == "mask":
        return _mask(item, label, size, crowd)
    return f"{NO_AREA} ({item.tag})"


def _mask(item: ElementTree.Element, label: str, size: tuple[float, float], crowd: bool) -> Shape | str:
    """Run lengths, row by row from unset, of the part of the image at (left, top)."""
    left, top, width, height = (number(item.get(key)) for key in ("left", "top", "width", "height"))
    runs = np.array([number(run) for run in (item.get("rle") or "").split(",")])
    if not all(map(float.is_integer, (left, top, width, height))) or not 0 < width * height <= MAX_MASK:
        return "mask without a place"
    if not (np.isfinite(runs).all() and (runs >= 0).all() and runs.sum() == width * height):
        return "mask whose run lengths do not fill it"
    values = np.arange(len(runs)) % 2
    pixels = np.repeat(values, runs.astype(np.int64)).reshape(int(height), int(width)).astype(bool)
    box = mask_box(pixels)
    if box is None:
        return "mask without a pixel"
    outline = (
        placed_mask(pixels, int(left), int(top), (int(size[0]), int(size[1])))
        if all(map(math.isfinite, size))
        else None
    )
    return Shape(label, [box[0] + left, box[1] + top, box[2] + left, box[3] + top], outline, crowd=crowd)
