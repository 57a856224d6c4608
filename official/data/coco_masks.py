"""COCO segmentations rendered to class maps."""

from __future__ import annotations

import collections
from typing import Any, Sequence

import numpy as np
import tensorflow as tf
from pycocotools import mask as mask_api

from official.data.source import Category, InputReport

IGNORE = 255


def mask_categories(categories: Sequence[Category]) -> tuple[Category, ...]:
    """Background, then the categories in their order."""
    return (Category(0, "background"), *categories)


def class_map_reader(
    data: dict[str, Any], categories: Sequence[Category], ids: Sequence[str], sizes: np.ndarray, report: InputReport
):
    """A graph function: picture number -> uint8 [H, W], 0 background, i + 1 for categories[i].

    Crowds are ignored (255). Where objects overlap the smaller one shows. Pictures are rendered when
    they are read; annotations without a usable segmentation are counted in `report` and left out.
    """
    place = {category.id: i + 1 for i, category in enumerate(categories)}
    known = {image_id: i for i, image_id in enumerate(ids)}
    objects: dict[int, list] = collections.defaultdict(list)
    for annotation in data["annotations"]:
        index = known.get(str(annotation.get("image_id")))
        if index is None:
            continue
        label = IGNORE if annotation.get("iscrowd") else place.get(annotation.get("category_id"))
        coded = _coded(annotation.get("segmentation"), sizes[index])
        if label is None or coded is None:
            reason = "unknown category id" if label is None else "no usable segmentation"
            report.note(f"{reason} in annotation {annotation.get('id')}", "", ids[index])
        else:
            objects[index].append((float(mask_api.area(coded)), label, coded))

    def render(index):
        height, width = (int(v) for v in sizes[index])
        canvas = np.zeros((height, width), np.uint8)
        for _, label, coded in sorted(objects[int(index)], key=lambda o: -o[0]):
            canvas[mask_api.decode(coded) > 0] = label
        return canvas

    def read(index):
        return tf.ensure_shape(tf.numpy_function(render, [index], tf.uint8, stateful=False), [None, None])

    return read


def _coded(segmentation: Any, size: np.ndarray) -> dict | None:
    """Run-length code of polygons or of a run-length list, or None."""
    height, width = (int(v) for v in size)
    try:
        if isinstance(segmentation, list) and segmentation:
            return mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
        if isinstance(segmentation, dict) and list(segmentation.get("size", ())) == [height, width]:
            if isinstance(segmentation["counts"], list):
                return mask_api.frPyObjects(segmentation, height, width)
            return segmentation
    except Exception:  # pycocotools raises many kinds on malformed lists
        return None
    return None
