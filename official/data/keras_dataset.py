"""Any data set that the command line reads, as a `tf.data.Dataset` of keras-cv's dicts."""

from __future__ import annotations

from typing import Any

import keras_cv
import tensorflow as tf

from official.data.example import pad_rows
from official.data.pipeline import as_it_is, example_reader
from official.data.source import Source
from official.data.sources import ReadOptions, open_source


def load_dataset(
    word: str, labels: str = "boxes", *, bounding_box_format: str = "yxyx", **options: Any
) -> tf.data.Dataset:
    """Images and labels, one at a time, in the order of the source.

    Args:
      word: as on the command line, as `coco:train.json,images`, `yolo:data.yaml` or `scenes:train,count=200`.
      labels: "boxes", "masks" (class maps), "classes" (of whole images) or "none".
      bounding_box_format: keras-cv's name.
      options: of `ReadOptions`, as `scenes_size`, `split`, `crowd`.

    Returns:
      Dicts of "images" uint8 [H, W, 3] and, by `labels`, "bounding_boxes" {"boxes" float32 [M, 4], "classes"
      int32 [M]} (rows of -1 beyond an image's own; M is the most that an image has; crowds are left out),
      "segmentation_masks" uint8 [H, W] or "labels" int32 []. The dataset has an attribute `class_names`.

    Raises:
      DataError: see `open_source`; unknown labels.
    """
    labeled = labels != "none"
    source = open_source(
        word, ReadOptions(label_kind=labels if labeled else "boxes", **options), labeled=labeled
    )
    return source_dataset(source, bounding_box_format=bounding_box_format)


def source_dataset(source: Source, *, bounding_box_format: str = "yxyx") -> tf.data.Dataset:
    """`load_dataset` of a source that is open."""
    read, objects = example_reader(source), source.annotations
    rows = 0 if objects is None else max(1, int(objects.counts().max(initial=0)))

    def load(index):
        example = read(index)
        found = {"images": example["image"]}
        if "mask" in example:
            found["segmentation_masks"] = example["mask"]
        if "class" in example:
            found["labels"] = example["class"]
        if rows:
            found["bounding_boxes"] = _boxes(example, rows, bounding_box_format)
        return found

    dataset = tf.data.Dataset.range(len(source)).map(as_it_is(load), tf.data.AUTOTUNE, deterministic=True)
    if (
        len(source) and (source.sizes == source.sizes[0]).all()
    ):  # then batches of the images as they are have a fixed shape
        shape = [int(side) for side in source.sizes[0]]
        dataset = dataset.map(as_it_is(lambda example: _of_shape(example, shape)))
    dataset.class_names = [category.name for category in source.categories]
    return dataset


def _boxes(example: dict[str, tf.Tensor], rows: int, box_format: str) -> dict[str, tf.Tensor]:
    kept = ~example["crowd"]
    boxes, classes = tf.boolean_mask(example["boxes"], kept), tf.boolean_mask(example["classes"], kept)
    boxes = keras_cv.bounding_box.convert_format(
        boxes, source="yxyx", target=box_format, images=example["image"]
    )
    return {"boxes": pad_rows(boxes, rows, -1.0), "classes": pad_rows(classes, rows, -1)}


def _of_shape(example: dict[str, Any], shape: list[int]) -> dict[str, Any]:
    fixed = {
        name: tf.ensure_shape(example[name], [*shape, *example[name].shape[2:]])
        for name in example
        if name in _SIZED
    }
    return {**example, **fixed}


_SIZED = ("images", "segmentation_masks")
