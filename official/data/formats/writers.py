"""One writer a format: images with their labels -> the files that the tools of the format open.

A writer gets the folder, whose images are there already, and writes what stands beside them. Numbers are
written so that they come back as they were: pixels in the fewest digits that are the same float32.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import xml.etree.ElementTree as ElementTree
from typing import Any, Callable, Sequence

import numpy as np
import yaml

from official.data.formats.mask_palettes import voc_color
from official.files import write_bytes


@dataclasses.dataclass(frozen=True)
class OutObject:
    """One object.

    Attributes:
      label: index of its class.
      box: y1, x1, y2, x2 in pixels of the upright image.
      area: square pixels.
      score: None for a human label.
      outline: polygons x, y, x, y ...; empty where the box is all that is known.
    """

    label: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool = False
    score: float | None = None
    outline: Sequence[Sequence[float]] = ()


@dataclasses.dataclass(frozen=True)
class OutImage:
    """One image: its name below the folder of images, its id for COCO, (height, width), objects, a PNG of its
    class map.
    """

    name: str
    id: int | str
    size: tuple[int, int]
    objects: Sequence[OutObject] = ()
    mask: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Header:
    """Names of the classes and their ids in COCO files, in order; whether a model made the labels."""

    names: Sequence[str]
    ids: Sequence[int | str]
    predicted: bool = False


@dataclasses.dataclass(frozen=True)
class Format:
    """What a format can hold.

    Attributes:
      write: (folder, images, header) -> None.
      images: folder of the images below that which is written.
      word: what reads it again, when people have corrected it; see official/data/sources.py.
      crowd, scores: whether it has a place for them.
      outside: whether boxes may reach outside the image.
      masks: "polygons", or "pngs" of class maps.
    """

    write: Callable[[str, Sequence[OutImage], Header], None]
    images: str
    word: str
    crowd: bool = False
    scores: bool = False
    outside: bool = True
    masks: str = "polygons"


def _digits(value: float) -> str:
    """The shortest decimal that is the same float32."""
    return np.format_float_positional(np.float32(value), trim="-")


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _write_text(path: str, text: str) -> None:
    write_bytes(path, text.encode())


def _write_json(path: str, content: Any) -> None:
    _write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def _corners(box: Sequence[float]) -> list[float]:
    y1, x1, y2, x2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def write_coco(folder: str, images: Sequence[OutImage], header: Header) -> None:
    """`annotations.json` beside `images/`; where the box is all that is known its corners are the
    segmentation.
    """
    annotations: list[dict[str, Any]] = []
    for image in images:
        for found in image.objects:
            y1, x1, y2, x2 = found.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.id,
                    "category_id": header.ids[found.label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": found.area,
                    "iscrowd": int(found.crowd),
                    "segmentation": [list(p) for p in found.outline or [_corners(found.box)]],
                    **({} if found.score is None else {"score": found.score}),
                }
            )
    entries = [{"id": i.id, "file_name": i.name, "height": i.size[0], "width": i.size[1]} for i in images]
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in zip(header.ids, header.names)]
    content = {
        "info": {},
        "licenses": [],
        "images": entries,
        "annotations": annotations,
        "categories": categories,
    }
    _write_json(os.path.join(folder, "annotations.json"), content)


def write_yolo(folder: str, images: Sequence[OutImage], header: Header) -> None:
    """`data.yaml`, and in `labels/` a line a box or a polygon. `val:` is the same images, since Ultralytics
    wants one.
    """
    for image in images:
        lines = [line for found in image.objects for line in _yolo_lines(found, image.size)]
        place = "/labels/".join(f"/images/{image.name}".rsplit("/images/", 1))
        _write_text(os.path.join(folder, _stem(place[1:]) + ".txt"), "".join(f"{line}\n" for line in lines))
    content = {
        "train": "images",
        "val": "images",
        "nc": len(header.names),
        "names": dict(enumerate(header.names)),
    }
    _write_text(
        os.path.join(folder, "data.yaml"),
        yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=1000),
    )


def _yolo_lines(found: OutObject, size: tuple[int, int]) -> list[str]:
    height, width = size
    y1, x1, y2, x2 = found.box
    box = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    polygons = [[v / side for v, side in zip(p, (width, height) * (len(p) // 2))] for p in found.outline]
    return [" ".join([str(found.label), *(f"{v:.9f}" for v in values)]) for values in polygons or [box]]


def write_voc(folder: str, images: Sequence[OutImage], header: Header) -> None:
    """`Annotations/*.xml` beside `JPEGImages/`, boxes counted from 1; or `SegmentationClass/*.png`; lists and
    `labelmap.txt`.
    """
    kind = "Main"
    for image in images:
        if image.mask is not None:
            kind = "Segmentation"
            write_bytes(os.path.join(folder, "SegmentationClass", _stem(image.name) + ".png"), image.mask)
        else:
            _write_xml(
                os.path.join(folder, "Annotations", _stem(image.name) + ".xml"), _voc_xml(image, header)
            )
    names = "".join(f"{_stem(image.name)}\n" for image in images)
    _write_text(os.path.join(folder, "ImageSets", kind, "default.txt"), names)
    # As CVAT and Datumaro read and write it; the colours are those of the masks' palette.
    lines = [f"{name}:{','.join(map(str, voc_color(i)))}::\n" for i, name in enumerate(header.names)]
    if kind == "Segmentation":
        lines.append("void:224,224,192::\n")
    _write_text(os.path.join(folder, "labelmap.txt"), "# label:color_rgb:parts:actions\n" + "".join(lines))


def _voc_xml(image: OutImage, header: Header) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _add(root, "folder", os.path.dirname(image.name) or "JPEGImages")
    _add(root, "filename", os.path.basename(image.name))
    _add(_add(root, "source"), "database", "exported")
    size = _add(root, "size")
    for name, side in zip(("width", "height", "depth"), (image.size[1], image.size[0], 3)):
        _add(size, name, side)
    _add(root, "segmented", 0)
    for found in image.objects:
        item = _add(root, "object")
        texts = {
            "name": header.names[found.label],
            "pose": "Unspecified",
            "truncated": 0,
            "difficult": int(found.crowd),
        }
        for name, text in texts.items():
            _add(item, name, text)
        box = _add(item, "bndbox")
        y1, x1, y2, x2 = found.box
        for name, value in zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2)):
            _add(box, name, f"{value:.6f}".rstrip("0").rstrip("."))
    return root


def _add(parent: ElementTree.Element, tag: str, text: Any = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag)
    child.text = None if text is None else str(text)
    return child


def _write_xml(path: str, root: ElementTree.Element, declared: bool = True) -> None:
    ElementTree.indent(root, " ")
    write_bytes(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=declared))


def write_cvat(folder: str, images: Sequence[OutImage], header: Header) -> None:
    """`annotations.xml` (CVAT for images 1.1) beside `images/`; polygons of one object share a `group_id`."""
    root = ElementTree.Element("annotations")
    _add(root, "version", "1.1")
    labels = _add(_add(_add(root, "meta"), "task"), "labels")
    for name in header.names:
        label = _add(labels, "label")
        _add(label, "name", name)
        _add(label, "attributes")
    for number, image in enumerate(images):
        height, width = image.size
        place = {"id": str(number), "name": image.name, "width": str(width), "height": str(height)}
        item = ElementTree.SubElement(root, "image", place)
        for group, found in enumerate(image.objects, 1):
            common = {
                "label": header.names[found.label],
                "source": "auto" if header.predicted else "manual",
                "occluded": "0",
            }
            y1, x1, y2, x2 = map(_digits, found.box)
            if not found.outline:
                ElementTree.SubElement(
                    item, "box", {**common, "xtl": x1, "ytl": y1, "xbr": x2, "ybr": y2, "z_order": "0"}
                )
            shared = {"group_id": str(group)} if len(found.outline) > 1 else {}
            for polygon in found.outline:
                points = ";".join(f"{_digits(x)},{_digits(y)}" for x, y in zip(polygon[0::2], polygon[1::2]))
                ElementTree.SubElement(
                    item, "polygon", {**common, "points": points, "z_order": "0", **shared}
                )
    _write_xml(os.path.join(folder, "annotations.xml"), root)


def write_labelme(folder: str, images: Sequence[OutImage], header: Header) -> None:
    """A JSON beside every image; polygons of one object share a `group_id`. LabelMe keeps the key `score`."""
    for image in images:
        shapes: list[dict[str, Any]] = []
        for group, found in enumerate(image.objects, 1):
            y1, x1, y2, x2 = found.box
            points = [list(zip(p[0::2], p[1::2])) for p in found.outline] or [[(x1, y1), (x2, y2)]]
            kind = "polygon" if found.outline else "rectangle"
            for corners in points:
                shapes.append(
                    {
                        "label": header.names[found.label],
                        "points": [list(corner) for corner in corners],
                        "group_id": group if len(points) > 1 else None,
                        "description": "",
                        "shape_type": kind,
                        "flags": {},
                        "mask": None,
                        **({} if found.score is None else {"score": found.score}),
                    }
                )
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": os.path.basename(image.name),
            "imageData": None,
            "imageHeight": image.size[0],
            "imageWidth": image.size[1],
        }
        _write_json(os.path.join(folder, _stem(image.name) + ".json"), content)


def write_label_studio(folder: str, images: Sequence[OutImage], header: Header) -> None:
    """`tasks.json` and `label_config.xml` beside `images/`: a model's labels are predictions, human ones
    annotations.

    Images are named as files of local storage, relative to the folder above the one that is written.
    """
    above, tasks = os.path.basename(os.path.abspath(folder)), []
    kinds: collections.Counter = collections.Counter()
    for number, image in enumerate(images, 1):
        regions = [
            r
            for n, found in enumerate(image.objects, 1)
            for r in _studio_regions(found, f"{number}-{n}", image, header)
        ]
        kinds.update(region["type"] for region in regions)
        scores = [found.score for found in image.objects if found.score is not None]
        content: dict[str, Any] = {"result": regions}
        if header.predicted:
            content.update(model_version="exported", **({"score": min(scores)} if scores else {}))
        url = f"/data/local-files/?d={above}/images/{image.name}"
        made = {
            "annotations": [],
            "predictions": [],
            "predictions" if header.predicted else "annotations": [content],
        }
        tasks.append({"id": number, "data": {"image": url, "image_id": image.id}, **made})
    _write_json(os.path.join(folder, "tasks.json"), tasks)
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", {"name": "image", "value": "$image"})
    tag = "PolygonLabels" if kinds["polygonlabels"] else "RectangleLabels"
    labels = ElementTree.SubElement(view, tag, {"name": "label", "toName": "image"})
    for name in header.names:
        ElementTree.SubElement(labels, "Label", {"value": name})
    # It is pasted as a text, and a text with an encoding declaration is refused there.
    _write_xml(os.path.join(folder, "label_config.xml"), view, declared=False)


def _studio_regions(
    found: OutObject, region_id: str, image: OutImage, header: Header
) -> list[dict[str, Any]]:
    height, width = image.size
    y1, x1, y2, x2 = found.box
    values: list[dict[str, Any]] = [
        {"points": [[100 * x / width, 100 * y / height] for x, y in zip(p[0::2], p[1::2])], "closed": True}
        for p in found.outline
    ]
    if not values:
        box = {
            "x": 100 * x1 / width,
            "y": 100 * y1 / height,
            "width": 100 * (x2 - x1) / width,
            "height": 100 * (y2 - y1) / height,
        }
        values = [{**box, "rotation": 0}]
    kind = "polygonlabels" if found.outline else "rectanglelabels"
    common = {
        "from_name": "label",
        "to_name": "image",
        "type": kind,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        **({} if found.score is None else {"score": found.score}),
    }
    return [
        {"id": f"{region_id}-{n}", **common, "value": {**value, kind: [header.names[found.label]]}}
        for n, value in enumerate(values)
    ]


COCO = Format(write_coco, "images", "coco:{output}/annotations.json", crowd=True, scores=True)
# Ultralytics refuses a sixth column, of scores, when it trains.
YOLO = Format(write_yolo, "images", "yolo:{output}/data.yaml", outside=False)
VOC = Format(write_voc, "JPEGImages", "voc:{output}", crowd=True, outside=False, masks="pngs")
CVAT = Format(write_cvat, "images", "cvat:{output}/annotations.xml")
LABELME = Format(write_labelme, "", "labelme:{output}", scores=True)
# What comes back from Label Studio is its export.
LABEL_STUDIO = Format(write_label_studio, "images", "labelstudio:EXPORTED.json,{output}/images", scores=True)
