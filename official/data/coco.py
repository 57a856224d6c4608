"""COCO JSON files: reading them as a source, writing one from a source."""

from __future__ import annotations

import collections
import json
import os
from typing import Any

import numpy as np

from official.data import image_files
from official.data.coco_masks import class_map_reader, mask_categories
from official.data.source import Annotations, Category, DataError, InputReport, Source, clean_boxes


def load_coco_json(path: str) -> dict[str, Any]:
    """Reads an annotation file and checks its shape.

    Raises:
      DataError: absent, not JSON, not COCO, or an image id twice.
    """
    if not os.path.isfile(path):
        raise DataError(f"no COCO file {path}")
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DataError(f'{path} is not a COCO annotation file: it has no list "{key}"')
    for image in data["images"]:
        if not isinstance(image, dict) or "id" not in image:
            raise DataError(f"{path}: an image has no id: {str(image)[:100]}")
    repeated = [i for i, n in collections.Counter(str(m["id"]) for m in data["images"]).items() if n > 1]
    if repeated:
        raise DataError(f"{path}: image id {repeated[0]} occurs more than once ({len(repeated)} such ids)")
    return data


def open_coco(
    path: str,
    image_folder: str | None = None,
    *,
    masks: bool = False,
    full_check: bool = True,
    max_pixels: int = 100_000_000,
    max_skipped_fraction: float = 0.1,
) -> Source:
    """A source over a COCO JSON and its image folder.

    Args:
      path: the JSON.
      image_folder: where the `file_name`s are; looked for beside the JSON when not given.
      masks: labels are class maps rendered from the segmentations, in place of boxes.

    Raises:
      DataError: see `load_coco_json`; no folder; too much unusable.
    """
    data = load_coco_json(path)
    word, report = f"coco:{path}", InputReport()
    folder = image_folder or _guess_folder(path, data)
    image_files.require_folder(folder, word)
    images, paths = [], []
    for image in data["images"]:
        name = image.get("file_name")
        target = image_files.safe_join(folder, name) if isinstance(name, str) and name else None
        if target is None:
            report.skip_image("file_name is missing or leaves the image folder", str(name), image["id"])
        else:
            images.append(image)
            paths.append(target)
    ids = [str(image["id"]) for image in images]
    facts = image_files.inspect_images(paths, ids, report, full=full_check, max_pixels=max_pixels)
    report.check(word, len(data["images"]), max_skipped_fraction)
    kept = [i for i, fact in enumerate(facts) if fact is not None]
    facts = [_as_annotated(facts[i], images[i]) for i in kept]
    paths, ids = [paths[i] for i in kept], [ids[i] for i in kept]
    categories = _categories(data, path)
    sizes = np.array([(fact.height, fact.width) for fact in facts], np.int32).reshape(-1, 2)
    source = Source(
        word=word,
        ids=np.array(ids),
        sizes=sizes,
        read_image=image_files.path_reader(paths, [fact.orientation for fact in facts]),
        file_names=np.array(paths),
        report=report,
    )
    if masks:
        return source.with_masks(class_map_reader(data, categories, ids, sizes, report), mask_categories(categories))
    return source.with_annotations(_annotations(data, categories, ids, sizes, paths, report), categories)


def _guess_folder(path: str, data: dict[str, Any]) -> str:
    here = os.path.dirname(os.path.abspath(path))
    first = data["images"][0].get("file_name", "") if data["images"] else ""
    for folder in (os.path.join(here, "images"), os.path.join(here, "..", "images"), here):
        if os.path.isfile(os.path.join(folder, str(first))):
            return folder
    raise DataError(f"coco:{path}: its images are not beside it; say where with coco:{path},IMAGE_FOLDER")


def _as_annotated(fact: image_files.ImageFacts, image: dict) -> image_files.ImageFacts:
    """Keeps the stored orientation where the JSON's size says that the boxes were drawn on it."""
    stated = (image.get("height"), image.get("width"))
    stored = (fact.width, fact.height) if fact.orientation >= 5 else (fact.height, fact.width)
    if fact.orientation >= 5 and stated == stored and stated != (fact.height, fact.width):
        return image_files.ImageFacts(stored[0], stored[1], 1)
    return fact


def _categories(data: dict[str, Any], path: str) -> tuple[Category, ...]:
    try:
        found = [Category(int(c["id"]), str(c.get("name", c["id"]))) for c in data["categories"]]
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"{path}: a category has no integer id: {error}") from error
    for field in ("id", "name"):
        counts = collections.Counter(getattr(c, field) for c in found)
        if counts and max(counts.values()) > 1:
            raise DataError(f"{path}: category {field} {counts.most_common(1)[0][0]!r} occurs more than once")
    return tuple(sorted(found, key=lambda c: c.id))


def _annotations(data, categories, ids, sizes, paths, report) -> Annotations:
    class_of = {category.id: i for i, category in enumerate(categories)}
    known, listed = set(ids), {str(image["id"]) for image in data["images"]}
    rows = collections.defaultdict(list)
    for annotation in data["annotations"]:
        image_id = str(annotation.get("image_id"))
        if image_id not in known:
            if image_id not in listed:
                report.note("annotation of an image that is not listed", "", image_id)
        elif annotation.get("category_id") not in class_of:
            report.note(f"unknown category id {annotation.get('category_id')}", "", image_id)
        else:
            rows[image_id].append(annotation)
    per_image = []
    for image_id, size, path in zip(ids, sizes, paths):
        objects = _columns(rows[image_id], class_of)
        per_image.append(clean_boxes(objects, tuple(size), report, path, image_id))
    return Annotations.from_images(per_image)


def _columns(annotations: list[dict], class_of: dict[int, int]) -> dict[str, np.ndarray]:
    return {
        "boxes": np.array([_yxyx(a.get("bbox")) for a in annotations], np.float64).reshape(-1, 4),
        "classes": np.array([class_of[a["category_id"]] for a in annotations], np.int32),
        "crowd": np.array([bool(a.get("iscrowd", 0)) for a in annotations], bool),
        "area": np.array([_number(a.get("area")) for a in annotations], np.float32),
    }


def _yxyx(bbox: Any) -> tuple[float, float, float, float]:
    if not isinstance(bbox, (list, tuple)) or len(bbox) != 4:
        return (np.nan,) * 4
    x, y, width, height = map(_number, bbox)
    return y, x, y + height, x + width


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def to_coco(source: Source, *, with_scores: bool = False) -> dict[str, Any]:
    """A source as a COCO dict: images, annotations, categories.

    Args:
      source: labelled.
      with_scores: adds "score" to every annotation (for pseudo labels).
    """
    image_ids = source.coco_image_ids()
    images, annotations = [], []
    for i, image_id in enumerate(image_ids):
        height, width = (int(v) for v in source.sizes[i])
        name = str(source.file_names[i]) if source.file_names is not None else str(source.ids[i])
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        objects = source.annotations.of(i)
        for box, label, crowd, area, score in zip(*(objects[c] for c in ("boxes", "classes", "crowd", "area", "scores"))):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": source.categories[label].id,
                    "bbox": to_xywh(box),
                    "area": float(area),
                    "iscrowd": int(crowd),
                    **({"score": float(score)} if with_scores else {}),
                }
            )
    categories = [{"id": c.id, "name": c.name} for c in source.categories]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def to_xywh(box: np.ndarray) -> list[float]:
    """yxyx to COCO's [x, y, width, height]."""
    y1, x1, y2, x2 = (float(v) for v in box)
    return [x1, y1, x2 - x1, y2 - y1]
