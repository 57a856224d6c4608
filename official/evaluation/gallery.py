"""Sheets that show what the augmentations do to an image, its boxes and its mask."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

from augment import ops
from augment import policy as augment_policy
from augment.policies import PRESETS
from official.data.source import Source
from official.evaluation.drawing import draw_boxes, draw_mask, sheet, write_png

LEVELS = (5.0, 10.0)
SAMPLES = 4


def draw_gallery(source: Source, folder: str, seed: int = 0) -> list[str]:
    """Writes `augment_operations.png` and `augment_policies.png`; returns their paths.

    The image with the most objects is taken (at most eight). Boxes get an ellipse each as a mask;
    a source of masks shows its own.
    """
    example, names = _telling_example(source)
    operations, captions = [], []
    for name in [
        n for n in ops.OPERATIONS if n not in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
    ]:
        for number, level in enumerate(LEVELS):
            probability = 3.0 if name in ops.DECIDES_ITSELF else 1.0  # every box
            found = ops.apply(
                example, name, level=level, key=tf.constant([seed, number]), probability=probability
            )
            operations.append(_drawn(found, names))
            captions.append(f"{name} {level:g}")
    policies, policy_captions = [], []
    size = int(max(example["image"].shape[:2]))
    for name in [n for n in PRESETS if n != "none"]:
        policy = augment_policy(name)
        for k in range(SAMPLES):
            found = policy.augment(example, tf.constant([seed, k]), output_size=size)
            policies.append(_drawn({**found, "image": tf.cast(found["image"], tf.uint8)}, names))
            policy_captions.append(f"{name} #{k}")
    return [
        write_png(
            os.path.join(folder, "augment_operations.png"),
            sheet(operations, columns=6, cell=300, captions=captions),
        ),
        write_png(
            os.path.join(folder, "augment_policies.png"),
            sheet(policies, columns=4, cell=420, captions=policy_captions),
        ),
    ]


def _telling_example(source: Source) -> tuple[dict, list[str]]:
    names = [category.name for category in source.categories]
    if source.annotations is None and source.read_mask is not None:
        index = tf.constant(0, tf.int64)
        return {"image": source.read_image(index), "mask": source.read_mask(index)}, names
    counts = source.objects.counts()
    index = int(np.argmax(np.where(counts <= 8, counts, -1)))
    objects = source.objects.of(index)
    image = source.read_image(tf.constant(index, tf.int64))
    mask = _ellipses(objects, image.shape[:2])
    columns = {name: tf.constant(objects[name]) for name in ("boxes", "classes")}
    return {"image": image, "mask": tf.constant(mask), **columns}, names


def _ellipses(objects: dict, size: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[0 : size[0], 0 : size[1]] + 0.5
    mask = np.zeros(size, np.uint8)
    for (y1, x1, y2, x2), label in zip(objects["boxes"], objects["classes"]):
        inside = ((2 * y - y1 - y2) / (y2 - y1)) ** 2 + ((2 * x - x1 - x2) / (x2 - x1)) ** 2 <= 1
        mask[inside] = label + 1
    return mask


def _drawn(example: dict, names: list[str]) -> np.ndarray:
    drawing = draw_mask(example["image"].numpy(), example["mask"].numpy(), opacity=0.45)
    if "boxes" not in example:
        return drawing
    return draw_boxes(
        drawing, {name: example[name].numpy() for name in ("boxes", "classes")}, [""] * len(names)
    )
