"""The embedded scenes as a source, and as a folder of files in COCO format."""

from __future__ import annotations

import os
from typing import Callable

import numpy as np
import tensorflow as tf
from PIL import Image

from official.data.formats.coco import to_coco
from official.data.scenes import CLASSES, SPLITS, Scene, draw_scene
from official.data.source import Annotations, Category, DataError, Source
from official.files import write_json
from official.screen import counted

DEFAULT_COUNTS = {"train": 1000, "val": 300, "test": 300, "unlabeled": 2000, "noisy": 1000}
CATEGORIES = tuple(Category(i + 1, name) for i, name in enumerate(CLASSES))
MASK_CATEGORIES = (Category(0, "background"), *CATEGORIES)
_KEPT_BYTES = 2**30  # images are kept in memory up to this


def open_scenes(
    split: str = "train",
    count: int | None = None,
    *,
    seed: int = 0,
    size: int = 160,
    labeled: bool = True,
    masks: bool = False,
) -> Source:
    """A source of drawn images.

    Args:
      split: one of `scenes.SPLITS`.
      count: how many; see `DEFAULT_COUNTS`.
      seed: of the drawing; other seeds give other images of the same kind.
      size: side in pixels.
      labeled: False drops the labels.
      masks: labels are class maps (0 is background) in place of boxes.

    Raises:
      DataError: unknown split or no image.
    """
    if split not in SPLITS:
        raise DataError(f"scenes has no split {split!r}; choose one of {SPLITS}")
    count = DEFAULT_COUNTS[split] if count is None else count
    if count < 1:
        raise DataError(f"scenes:{split},count={count}: needs at least one image")
    keep = count * size * size * 3 <= _KEPT_BYTES
    images = np.zeros((count, size, size, 3), np.uint8) if keep else None
    maps = np.zeros((count, size, size), np.uint8) if keep and masks else None
    objects = []
    for i in counted(range(count), f"drawing scenes:{split}", count, "images", shown=count >= 500):
        scene = draw_scene(seed=seed, split=split, index=i, size=size)
        objects.append(_objects(scene))
        if images is not None:
            images[i] = scene.image
        if maps is not None:
            maps[i] = class_map(scene)

    def drawn(i):
        return draw_scene(seed=seed, split=split, index=int(i), size=size)

    source = Source(
        word=f"scenes:{split}",
        ids=np.array([f"{split}-{seed}-{i:06d}" for i in range(count)]),
        sizes=np.full((count, 2), size, np.int32),
        read_image=_reader(images, lambda i: drawn(i).image, [size, size, 3]),
        file_names=np.array([f"{split}-{seed}-{i:06d}.png" for i in range(count)]),
    )
    if labeled and masks:
        return source.with_masks(_reader(maps, lambda i: class_map(drawn(i)), [size, size]), MASK_CATEGORIES)
    return source.with_annotations(Annotations.from_images(objects), CATEGORIES) if labeled else source


def _objects(scene: Scene) -> dict[str, np.ndarray]:
    area = scene.masks.sum(axis=(1, 2))
    return {"boxes": scene.boxes, "classes": scene.classes, "area": area.astype(np.float32)}


def _reader(kept: np.ndarray | None, draw: Callable, shape: list[int]) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function over what is kept in memory, or drawn again when it is too much to keep."""
    if kept is not None:
        table = tf.constant(kept)
        return lambda index: tf.gather(table, index)

    def read(index):
        return tf.ensure_shape(tf.numpy_function(draw, [index], tf.uint8, stateful=False), shape)

    return read


def write_scenes(
    folder: str, *, seed: int = 0, size: int = 160, counts: dict[str, int] | None = None
) -> list[str]:
    """Writes every split as `folder/<split>/images/*.png`, `masks/*.png` and `annotations.json` (COCO); the
    noisy one only if `counts` names it.

    A mask PNG holds 0 for the ground and class index + 1 for an object's pixels.

    Returns:
      The JSON paths.
    """
    written = []
    usual = {split: count for split, count in DEFAULT_COUNTS.items() if split != "noisy"}
    for split, count in {**usual, **(counts or {})}.items():
        source = open_scenes(split, count, seed=seed, size=size)
        for name in ("images", "masks"):
            os.makedirs(os.path.join(folder, split, name), exist_ok=True)
        for i in range(count):
            scene = draw_scene(seed=seed, split=split, index=i, size=size)
            name = str(source.names[i])
            Image.fromarray(scene.image).save(os.path.join(folder, split, "images", name))
            Image.fromarray(class_map(scene)).save(os.path.join(folder, split, "masks", name))
        path = os.path.join(folder, split, "annotations.json")
        write_json(path, to_coco(source))
        written.append(path)
    return written


def class_map(scene: Scene) -> np.ndarray:
    """Uint8 [S, S]: 0 ground, class index + 1 where an object shows."""
    out = np.zeros(scene.image.shape[:2], np.uint8)
    for mask, label in zip(scene.masks, scene.classes):
        out[mask] = label + 1
    return out
