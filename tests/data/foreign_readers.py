"""Reads an exported folder with the readers of the formats themselves, and prints what they found; see
test_foreign_readers.py.

    python foreign_readers.py coco=FOLDER yolo=FOLDER ...

It runs in an environment of its own (requirements-interop.txt), so it imports nothing of this project. It
prints one JSON: {format: {reader: {"names": classes in order or null, "images": {file below the folder:
{"size": [height, width],
"objects": [[class, [x1, y1, x2, y2], pixels of its mask or null]]}}}}}.
"""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from typing import Any, Callable

import numpy as np

Found = dict[str, Any]


def _image(size: Any, objects: list[list[Any]]) -> Found:
    return {"size": [v if v is None else int(v) for v in size], "objects": objects}


def by_datumaro(folder: str, kind: str, images: str) -> Found:
    """Datumaro's importer of the format: Intel's and CVAT's own toolkit, whose CVAT reader is from CVAT's
    makers.
    """
    import datumaro

    root = folder
    dataset = datumaro.Dataset.import_from(root, kind)
    labels = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
    found = {}
    for item in dataset:
        height, width = item.media.size
        objects = []
        for a in item.annotations:
            if a.type.name == "bbox":
                objects.append([labels[a.label], list(a.points), None])
            elif a.type.name in ("polygon", "mask"):
                x, y, w, h = a.get_bbox()
                area = float(a.get_area())
                objects.append([labels[a.label], [float(v) for v in (x, y, x + w, y + h)], area])
        path = os.path.relpath(item.media.path, os.path.join(folder, images))
        found[path] = _image((height, width), objects)
    return {"names": labels, "images": found}


def by_supervision(folder: str, images: str, read: Callable[[Any, str], Any], whole: bool = False) -> Found:
    """Roboflow's library; it reads one folder of images at a time, or the `whole` as a file lists it."""
    import supervision

    found: dict[str, Found] = {}
    names = None
    root = os.path.join(folder, images)
    places = {os.path.dirname(p) for p in glob.glob(f"{root}/**/*.*", recursive=True) if os.path.isfile(p)}
    for place in [root] if whole else sorted(places):
        dataset = read(supervision.DetectionDataset, os.path.relpath(place, root))
        names = dataset.classes
        for path, image, boxes in dataset:
            masks = [None] * len(boxes) if boxes.mask is None else [int(m.sum()) for m in boxes.mask]
            rows = zip(boxes.class_id, boxes.xyxy.tolist(), masks)
            objects = [[names[c], box, pixels] for c, box, pixels in rows]
            found[os.path.relpath(path, root)] = _image(image.shape[:2], objects)
    return {"names": names, "images": found}


def read_coco(folder: str) -> dict[str, Found]:
    def read(dataset, place):
        return dataset.from_coco(f"{folder}/images", f"{folder}/annotations.json", force_masks=True)

    return {"supervision": by_supervision(folder, "images", read, whole=True)}


def read_yolo(folder: str) -> dict[str, Found]:
    def read(dataset, place):
        labels = f"{folder}/labels/{place}"
        polygons = any(
            len(line.split()) > 5 for p in glob.glob(f"{glob.escape(labels)}/*.txt") for line in open(p)
        )
        return dataset.from_yolo(
            f"{folder}/images/{place}", labels, f"{folder}/data.yaml", force_masks=polygons
        )

    return {"supervision": by_supervision(folder, "images", read)}


def read_voc(folder: str) -> dict[str, Found]:
    def read(dataset, place):
        return dataset.from_pascal_voc(f"{folder}/JPEGImages/{place}", f"{folder}/Annotations/{place}")

    if os.path.isdir(f"{folder}/SegmentationClass"):
        return {"datumaro": by_datumaro(folder, "voc_segmentation", "JPEGImages")}
    boxes = by_datumaro(folder, "voc_detection", "JPEGImages")
    return {"datumaro": boxes, "supervision": by_supervision(folder, "JPEGImages", read)}


def read_cvat(folder: str) -> dict[str, Found]:
    return {"datumaro": by_datumaro(folder, "cvat", "images")}


def read_labelme(folder: str) -> dict[str, Found]:
    """LabelMe's own loader, which opens the image as well and compares its size with the stated one."""
    from labelme import utils
    from labelme._label_file import read_label_file

    found = {}
    for path in sorted(glob.glob(f"{glob.escape(folder)}/**/*.json", recursive=True)):
        content = read_label_file(path)
        pixels = utils.img_data_to_arr(content.image_data)
        objects = []
        for shape in content.shapes:
            points = np.array(shape["points"])
            drawn = utils.shape_to_mask(pixels.shape[:2], shape["points"], shape["shape_type"])
            objects.append(
                [shape["label"], [*points.min(0).tolist(), *points.max(0).tolist()], int(drawn.sum())]
            )
        image = os.path.join(os.path.dirname(path), content.image_path)
        found[os.path.relpath(image, folder)] = _image(pixels.shape[:2], objects)
    return {"labelme": {"names": None, "images": found}}


def read_labelstudio(folder: str) -> dict[str, Found]:
    """Label Studio's SDK: its validator of config and tasks, and its converter to COCO, which reads
    annotations alone.
    """
    import logging
    import tempfile

    from label_studio_sdk.converter import Converter
    from label_studio_sdk.label_interface import LabelInterface

    logging.disable(logging.CRITICAL)
    config = open(f"{folder}/label_config.xml", encoding="utf-8").read()
    tasks = json.load(open(f"{folder}/tasks.json", encoding="utf-8"))
    interface = LabelInterface(config)
    interface.validate()
    errors = []
    for task in tasks:
        for kind, check in (
            ("annotations", interface.validate_annotation),
            ("predictions", interface.validate_prediction),
        ):
            errors += [f"task {task['id']}: refused" for made in task[kind] if not check(made)]
        # `validate_task` calls its checks of labels without an argument when there are labels, so it gets the
        # data alone.
        if not interface.validate_task({"data": task["data"]}):
            errors.append(f"task {task['id']}: its data does not fit the config")
    if errors:
        raise ValueError(errors)
    with tempfile.TemporaryDirectory() as out:
        converter = Converter(config, folder, download_resources=False)
        converter.convert_to_coco(f"{folder}/tasks.json", out, is_dir=False)
        content = json.load(open(f"{out}/result.json", encoding="utf-8"))
    names = {c["id"]: c["name"] for c in content["categories"]}
    found = {}
    for image in content["images"]:
        rows = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        objects = []
        for a in rows:
            x, y, w, h = a["bbox"]
            objects.append([names[a["category_id"]], [x, y, x + w, y + h], a["area"]])
        path = re.split(r"\?d=[^/]*/images/|/images/", image["file_name"])[-1]
        found[path] = _image((image["height"], image["width"]), objects)
    return {"label_studio_sdk": {"names": [names[i] for i in sorted(names)], "images": found}}


READERS: dict[str, Callable[[str], dict[str, Found]]] = {
    "coco": read_coco,
    "yolo": read_yolo,
    "voc": read_voc,
    "cvat": read_cvat,
    "labelme": read_labelme,
    "labelstudio": read_labelstudio,
}


if __name__ == "__main__":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # LabelMe imports Qt
    json.dump({k: READERS[k](f) for k, f in (word.split("=", 1) for word in sys.argv[1:])}, sys.stdout)
