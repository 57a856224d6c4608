"""Formats that are known by their looks: which word reads them, or how they are converted to one that is
read.
"""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ElementTree
from typing import Any, Callable

MAX_BYTES = 64_000_000  # of a JSON or XML that is looked at in whole, after it could not be read
_HEAD = 4096

# What is read, by its word; what is not, by its name, and what to do.
READ = {
    "coco": "a COCO JSON: coco:FILE.json,IMAGE_FOLDER",
    "results": (
        "a COCO results file: it is scored with --job=evaluate --detections=FILE.json "
        "--eval_data=coco:GROUND_TRUTH.json"
    ),
    "voc": "Pascal VOC's XML: voc:FOLDER",
    "yolo": "a YOLO data.yaml: yolo:data.yaml",
    "labelme": "a JSON of LabelMe: labelme:FOLDER",
    "cvat": "CVAT for images: cvat:FILE.xml,IMAGE_FOLDER",
    "via": "a JSON of VIA: via:FILE.json,IMAGE_FOLDER",
    "labelstudio": "a JSON of Label Studio: labelstudio:FILE.json,IMAGE_FOLDER",
    "tfrecord": (
        "TFRecords, as of the TensorFlow detection stack or Roboflow's `Pascal TFRecord`: tfrecord:GLOB"
    ),
}
CONVERT = {
    "darknet": "Darknet's obj.data: its text files are YOLO's; write a data.yaml with `train:` (its list of "
    "images) and `names:` (the "
    "lines of obj.names), and read it with yolo:data.yaml",
    "cvat_video": "CVAT for video: export the task as `CVAT for images 1.1` or as COCO",
    "via3": "a project of VIA 3: label in VIA 2, or write its regions as COCO",
    "supervisely": "Supervisely's: export the project there as COCO (app `Export to COCO`)",
    "labelbox": "a Labelbox export: `pip install labelformat; labelformat convert --task object-detection "
    "--input-format labelbox "
    "--output-format coco …`",
    "createml": (
        "CreateML's JSON, whose boxes are centre and size in pixels: import it into Roboflow or "
        "Label Studio and export COCO"
    ),
    "openimages": (
        "Open Images' CSV: tfds:open_images_v4, or `datum convert -if open_images -i FOLDER -f "
        "coco -o OUT` (datumaro)"
    ),
    "kitti": "KITTI's: `datum convert -if kitti -i FOLDER -f coco -o OUT` (datumaro), or labelformat",
    "vott": (
        "VoTT's JSON: export Pascal VOC from VoTT, or `datum convert -if vott_json -i FOLDER -f coco -o "
        "OUT` (datumaro)"
    ),
    "datumaro": "Datumaro's JSON: `datum convert -if datumaro -i FOLDER -f coco -o OUT`",
    "bdd100k": "BDD100K's JSON: `python -m bdd100k.label.to_coco` makes COCO of it",
    "sagemaker": (
        "a manifest of SageMaker Ground Truth: write its boxes (left, top, width, height in pixels) as COCO"
    ),
    "darwin": "V7 Darwin's JSON: export the data set there as COCO",
    "csv": (
        "a CSV of boxes: export the same data set as COCO, Pascal VOC or YOLO (Roboflow and others offer "
        "all of them)"
    ),
    "cityscapes": "Cityscapes' polygons: the masks beside them are read with masks:IMAGES,MASKS",
}
_NAMES = {
    "open_images": "openimages",
    "ground_truth": "sagemaker",
    "v7": "darwin",
    "bdd": "bdd100k",
    "label_studio": "labelstudio",
}


def advice(name: str) -> str:
    """What to do with a format of this name; "" if it is not known."""
    key = _NAMES.get(name.lower().replace("-", "_"), name.lower())
    known = {**READ, **CONVERT}
    return f". That is {known[key]}" if key in known else ""


def what_it_is(path: str) -> str:
    """What a file or folder that was not read looks like, and what to do; "" if it is not known. Never
    raises.
    """
    try:
        found = _of_folder(path) if os.path.isdir(path) else _of_file(path) if os.path.isfile(path) else None
    except (OSError, ValueError, RecursionError, ElementTree.ParseError, LookupError):
        return ""
    return f". It looks like {({**READ, **CONVERT})[found]}" if found else ""


def _of_folder(path: str) -> str | None:
    names = sorted(os.listdir(path))
    if "obj.data" in names:
        return "darknet"
    if "meta.json" in names and any(os.path.isdir(os.path.join(path, name, "ann")) for name in [*names, ""]):
        return "supervisely"
    files = [
        name
        for name in names
        if name.lower().endswith((".yaml", ".yml", ".json", ".xml", ".csv", ".tfrecord", ".data"))
    ]
    found = (_of_file(os.path.join(path, name)) for name in files[:5])
    return next(filter(None, found), None)


def _of_file(path: str) -> str | None:
    ending = os.path.splitext(path)[1].lower()
    if ending in (".tfrecord", ".record", ".tfrecords"):
        return "tfrecord"
    with open(path, "rb") as file:
        head = file.read(_HEAD).decode("utf-8-sig", "replace").lstrip()
    if head.startswith("<"):
        return _of_xml(path)
    if head.startswith(("{", "[")):
        return _of_json(path, head)
    return _of_text(head)


def _of_xml(path: str) -> str | None:
    if os.path.getsize(path) > MAX_BYTES:
        return None
    root = ElementTree.parse(path).getroot()
    if root.tag == "annotation":
        return "voc"
    if root.tag == "annotations":
        return "cvat_video" if root.find("track") is not None and root.find("image") is None else "cvat"
    return None


def _of_text(head: str) -> str | None:
    lines = [line.strip() for line in head.splitlines() if line.strip()]
    keys = {line.partition("=")[0].strip() for line in lines if "=" in line}
    if {"names", "train"} <= keys:
        return "darknet"
    columns = {column.strip().lower() for column in lines[0].split(",")} if lines else set()
    if {"imageid", "labelname"} <= columns:
        return "openimages"
    if {"xmin", "ymin", "xmax", "ymax"} <= columns:
        return "csv"
    if any(line.startswith("names:") for line in lines):
        return "yolo"
    kitti = [line.split() for line in lines[:5]]
    return (
        "kitti"
        if kitti and all(len(columns) in (15, 16) and not _is_number(columns[0]) for columns in kitti)
        else None
    )


def _is_number(text: str) -> bool:
    try:
        return bool(float(text)) or True
    except ValueError:
        return False


def _of_json(path: str, head: str) -> str | None:
    if os.path.getsize(path) > MAX_BYTES:
        return None
    with open(path, encoding="utf-8-sig") as file:
        text = file.read()
    try:
        content = json.loads(text)
    except ValueError:  # a JSON a line
        content = json.loads(head.splitlines()[0]) if len(head.splitlines()) > 1 else None
    tests = _OF_LISTS if isinstance(content, list) else _OF_DICTS
    content = content[0] if isinstance(content, list) and content else content
    return next((name for name, fits in tests if isinstance(content, dict) and fits(content)), None)


def _has(*keys: str) -> Callable[[dict], bool]:
    return lambda content: set(keys) <= set(content)


def _all_have(*keys: str) -> Callable[[dict], bool]:
    def fits(content: dict[str, Any]) -> bool:
        values = list(content.values())
        return bool(values) and all(isinstance(v, dict) and set(keys) <= set(v) for v in values[:5])

    return fits


_OF_DICTS = (
    ("coco", _has("images", "annotations", "categories")),
    ("labelme", _has("shapes", "imagePath")),
    ("via", _has("_via_img_metadata")),
    ("via", _all_have("filename", "regions")),
    ("via3", _has("project", "metadata", "view")),
    ("datumaro", _has("items", "categories")),
    ("supervisely", _has("objects", "tags", "size")),
    ("supervisely", _has("classes", "tags", "projectType")),
    ("vott", _has("asset", "regions")),
    ("vott", _has("assets", "tags")),
    ("cityscapes", _has("imgHeight", "imgWidth", "objects")),
    ("darwin", _has("item", "annotations")),
    ("labelbox", _has("data_row", "projects")),
    ("sagemaker", _has("source-ref")),
)
_OF_LISTS = (
    ("labelstudio", _has("data", "annotations")),
    ("createml", _has("image", "annotations")),
    ("results", _has("image_id", "category_id", "score")),
    ("labelbox", _has("Labeled Data")),
    ("labelbox", _has("data_row")),
    ("bdd100k", _has("name", "labels")),
)
