"""COCO JSON files: reading them as a source, writing one from a source."""

from __future__ import annotations

import collections
import dataclasses
import os
from typing import Any, Sequence

import numpy as np

from official.data import image_files
from official.data.formats.coco_json import load_coco_json
from official.data.formats.coco_masks import class_map_reader, mask_categories, outline_box
from official.data.input_report import DataError, InputReport, printable, shown
from official.data.labels import (
    UNLISTED,
    UNUSABLE,
    ImageTable,
    RawObjects,
    clean_objects,
    file_id,
    identifier,
    note_crowded_classes,
    number,
)
from official.data.source import Annotations, Category, Source


def open_coco(
    path: str,
    image_folder: str | None = None,
    *,
    masks: bool = False,
    labeled: bool = True,
    full_check: bool = True,
    max_pixels: int = 100_000_000,
    max_skipped_fraction: float = 0.1,
    crowd: str = "ignore",
    stated_size: str = "check",
) -> Source:
    """A source over a COCO JSON and its image folder.

    Args:
      path: the JSON.
      image_folder: where the `file_name`s are; looked for beside the JSON when not given.
      masks: labels are class maps rendered from the segmentations, in place of boxes.
      labeled: False reads images alone; the file needs no annotations.
      crowd: see `official.data.labels.clean_objects`.
      stated_size: "check": an image of another size than the JSON states is left out; "scale": its labels are
        scaled.

    Raises:
      DataError: see `load_coco_json`; no folder; too much unusable.
    """
    data = load_coco_json(path, labeled=labeled, outlines=masks)
    word, report = f"coco:{path}", InputReport()
    names = [name for image in data["images"] if isinstance(name := image.get("file_name"), str) and name]
    folder = image_folder or image_files.guess_folder(word, path, names)
    image_files.require_folder(folder, word)
    records, paths = _found_images(data["images"], folder, report)
    ids = [identifier(image["id"]) for image in records]
    facts = image_files.inspect_images(paths, ids, report, full=full_check, max_pixels=max_pixels)
    kept = [i for i, fact in enumerate(facts) if fact is not None]
    frames = None
    if labeled:
        frames, usable = image_files.stated_frames(
            [_stated(records[i]) for i in kept],
            [fact for fact in facts if fact is not None],
            [paths[i] for i in kept],
            [ids[i] for i in kept],
            report,
            scaled=stated_size == "scale",
        )
        kept = [i for i, fits in zip(kept, usable) if fits]
        frames = frames.take(usable)
    report.check(word, len(data["images"]), max_skipped_fraction)
    own_ids = _objects([file_id(records[i]["id"]) for i in kept])
    source = image_files.file_source(word, kept, ids, paths, facts, report, file_ids=own_ids, frames=frames)
    return _labelled(source, data, path, masks, max_skipped_fraction, crowd) if labeled else source


def _labelled(
    source: Source, data: dict[str, Any], path: str, masks: bool, max_skipped_fraction: float, crowd: str
) -> Source:
    categories, category_ids = read_categories(data, path, source.report)
    annotations, rows = read_objects(data, source, category_ids, crowd=crowd)
    if masks:
        read = class_map_reader([data["annotations"][row] for row in rows], annotations, source)
        source.report.check_objects(source.word, max_skipped_fraction)
        return source.with_masks(read, mask_categories(categories))
    source.report.check_objects(source.word, max_skipped_fraction)
    note_crowded_classes(annotations, categories, source.report)
    return dataclasses.replace(source.with_annotations(annotations, categories), category_ids=category_ids)


def _objects(values: Sequence[Any]) -> np.ndarray:
    """A NumPy column that keeps integers integers and text text."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _found_images(images: list[dict], folder: str, report: InputReport) -> tuple[list[dict], list[str]]:
    """The images whose names are inside the folder, and their paths."""
    finder = image_files.ImageFinder(folder)
    records, paths = [], []
    for image in images:
        name = image.get("file_name")
        target = _path(finder, name) if isinstance(name, str) and name else None
        if target is None:
            report.skip_image(
                "file_name is missing or leaves the image folder", str(name), file_id(image["id"])
            )
        else:
            records.append(image)
            paths.append(target)
    return records, paths


def _path(finder: image_files.ImageFinder, name: str) -> str | None:
    """The path of a file of the folder, or of a labelling server's by its bare name; None if it leaves the
    folder.
    """
    if image_files.is_foreign(name):
        return finder.known(name) or os.path.join(finder.folder, os.path.basename(name))
    return finder.inside(name)


def _stated(image: dict) -> tuple[float, float]:
    return number(image.get("height")), number(image.get("width"))


def read_categories(
    data: dict[str, Any], path: str, report: InputReport
) -> tuple[tuple[Category, ...], tuple[int | str, ...]]:
    """The classes in the order of their ids, and their ids as they stand in the file.

    Ids that are no numbers become 1, 2, ... in their order. Roboflow's category 0, which is called as the
    data set and has no object, is left out.

    Raises:
      DataError: an id or a name is missing or occurs twice.
    """
    if not all(isinstance(c, dict) and identifier(c.get("id")) is not None for c in data["categories"]):
        raise DataError(f"{path}: a category has no id: {shown(data['categories'])}")
    entries = _without_dummies(data, path, report)
    ids = [file_id(c["id"]) for c in entries]
    names = [printable(str(c.get("name", i))) for c, i in zip(entries, ids)]
    for field, values in (("id", list(map(identifier, ids))), ("name", names)):
        repeated = [value for value, n in collections.Counter(values).items() if n > 1]
        if repeated:
            raise DataError(f"{path}: category {field} {shown(repeated)} occurs more than once")
    numbers = [n for i in ids if (n := _integer(i)) is not None]
    if len(numbers) < len(ids):
        numbers = [sorted(map(str, ids)).index(str(i)) + 1 for i in ids]
    order = sorted(range(len(ids)), key=numbers.__getitem__)
    return tuple(Category(numbers[i], names[i]) for i in order), tuple(ids[i] for i in order)


def _without_dummies(data: dict[str, Any], path: str, report: InputReport) -> list[dict]:
    """The categories without one of id 0 that is above the others, or is called as one of them, and has no
    object.
    """
    categories = data["categories"]
    dummies = [
        c for c in categories if identifier(c["id"]) == "0" and str(c.get("supercategory")).lower() == "none"
    ]
    for dummy in dummies:
        others = [c for c in categories if c is not dummy]
        above = any(dummy.get("name") in (c.get("name"), c.get("supercategory")) for c in others)
        if above and not any(identifier(a.get("category_id")) == "0" for a in data["annotations"]):
            report.note(
                (
                    f"category 0 stands for all others and has no object: left out "
                    f"({printable(str(dummy.get('name')))})"
                ),
                path,
            )
            return others
    return categories


def _integer(value: int | str) -> int | None:
    text = identifier(value) or ""
    return int(text) if text.lstrip("-").isdecimal() and len(text) < 19 else None


def read_objects(
    data: dict[str, Any], source: Source, category_ids: Sequence[int | str], *, crowd: str = "ignore"
) -> tuple[Annotations, np.ndarray]:
    """The cleaned objects of the images of `source`, and which annotations of the file they are.

    Args:
      data: of `load_coco_json`; source: its usable images; category_ids: in the order of the classes.
    """
    place = {identifier(image["id"]): UNUSABLE for image in data["images"]}
    place.update({image_id: i for i, image_id in enumerate(source.ids.tolist())})
    rows = data["annotations"]
    raw = RawObjects(
        images=_image_indices([a.get("image_id") for a in rows], place),
        boxes=[a["bbox"] if a.get("bbox") is not None else outline_box(a.get("segmentation")) for a in rows],
        classes=[a.get("category_id") for a in rows],
        box_format="xywh",
        crowd=[a.get("iscrowd", 0) for a in rows],
        area=[a.get("area") for a in rows],
        ids=[a.get("id") for a in rows],
    )
    names = source.file_names if source.file_names is not None else [""] * len(source)
    table = ImageTable(source.ids.tolist(), list(map(str, names)), source.sizes, source.frames)
    class_of = {text: i for i, own in enumerate(category_ids) if (text := identifier(own)) is not None}
    return clean_objects(raw, table, class_of, source.report, crowd=crowd)


def _image_indices(references: list, place: dict[str, int]) -> np.ndarray:
    known = {}  # most annotations say an id as the image does; spelling every one out takes a second in COCO

    def index(reference):
        key = (type(reference), reference) if isinstance(reference, (int, str, float)) else None
        if key not in known:
            known[key] = place.get(identifier(reference), UNLISTED)
        return known[key]

    return np.fromiter(map(index, references), np.int64, len(references))


def labels_alone(
    path: str, *, outlines: bool = False, crowd: str = "ignore"
) -> tuple[Source, dict[str, Any], np.ndarray]:
    """An annotation file without its images: a source that reads none, the file's content, and the rows that
    it kept.

    Raises:
      DataError: see `load_coco_json`.
    """
    data, report = load_coco_json(path, outlines=outlines), InputReport()
    stated = np.nan_to_num(
        np.array([_stated(i) for i in data["images"]], np.float64).reshape(-1, 2), posinf=0, neginf=0
    )

    def read_image(index):
        raise DataError(f"{path} was opened without its images")

    source = Source(
        word=f"coco:{path}",
        ids=np.array([identifier(image["id"]) for image in data["images"]]),
        sizes=np.clip(stated, 0, 2**31 - 1).astype(np.int32),
        read_image=read_image,
        file_names=np.array([printable(str(image.get("file_name", ""))) for image in data["images"]]),
        report=report,
        file_ids=_objects([file_id(image["id"]) for image in data["images"]]),
    )
    categories, category_ids = read_categories(data, path, report)
    annotations, rows = read_objects(data, source, category_ids, crowd=crowd)
    note_crowded_classes(annotations, categories, report)
    labelled = dataclasses.replace(
        source.with_annotations(annotations, categories), category_ids=category_ids
    )
    return labelled, data, rows


def to_coco(source: Source, *, with_scores: bool = False) -> dict[str, Any]:
    """A source as a COCO dict: images, annotations, categories, with the ids and in the pixels of the file it
    is from.

    Args:
      source: labelled.
      with_scores: adds "score" to every annotation (for pseudo labels).
    """
    image_ids, category_ids = source.coco_image_ids(), source.own_category_ids()
    sizes = source.sizes if source.frames is None else source.frames.sizes
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, image_id in enumerate(image_ids):
        height, width = (int(v) for v in sizes[i])
        images.append({"id": image_id, "file_name": str(source.names[i]), "height": height, "width": width})
        objects = source.objects.of(i)
        boxes, areas = in_file(source, i, objects["boxes"], objects["area"])
        assert areas is not None  # they were given
        for box, label, crowd, area, score in zip(
            to_xywh(boxes), objects["classes"], objects["crowd"], areas, objects["scores"]
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "bbox": box,
                    "area": float(area),
                    "iscrowd": int(crowd),
                    **({"score": float(score)} if with_scores else {}),
                }
            )
    categories = [{"id": i, "name": c.name} for i, c in zip(category_ids, source.categories) if i is not None]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def in_file(
    source: Source, index: int, boxes: np.ndarray, area: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Boxes [N, 4] yxyx of the image as read, and their areas, in pixels of the file that the image is
    from.
    """
    if source.frames is None:
        return boxes, area
    images = np.full(len(boxes), index)
    scale = source.frames.area_scale(np.array([index]))[0]
    return source.frames.to_file(boxes, images), None if area is None else area / scale


def to_xywh(boxes: np.ndarray) -> list[list[float]]:
    """Boxes [N, 4] yxyx as COCO's [x, y, width, height], computed in float64."""
    y1, x1, y2, x2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=1).tolist()
