"""Segmentation masks in files: Pascal VOC folders, and folders of pictures and mask PNGs.

Masks are looked at once, when the source is opened, and kept in memory as small greyscale PNGs of
class indices: palettes, which TensorFlow would turn into colours, are resolved by Pillow there.
"""

from __future__ import annotations

import io
import os
from typing import Callable, Sequence

import numpy as np
import tensorflow as tf
import tqdm
from PIL import Image

from official.data import image_files
from official.data.source import Category, DataError, InputReport, Source

IGNORE = 255
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC_MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")


def read_class_map(path_or_bytes: str | bytes, size: tuple[int, int] | None = None) -> np.ndarray | str:
    """Uint8 [H, W] class indices of a palette or greyscale PNG, or the reason why it has none.

    Args:
      size: the (height, width) that it must have; another is found out without a pixel being decoded.
    """
    try:
        file = io.BytesIO(path_or_bytes) if isinstance(path_or_bytes, bytes) else path_or_bytes
        with Image.open(file, formats=["PNG"]) as image:  # of Pillow's other decoders some are old and few are needed
            if size is not None and image.size[::-1] != tuple(size):
                return f"mask is {image.height} x {image.width}, its image {size[0]} x {size[1]}"
            if image.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
                return f"mask is a colour picture (mode {image.mode}), not class indices; make it greyscale or palette"
            values = np.asarray(image)
    except FileNotFoundError:
        return "mask is absent"
    except Exception as error:  # Pillow raises many kinds for broken files
        return f"mask is not a readable PNG ({type(error).__name__}: {str(error)[:80]})"
    if values.size and (values.max() > IGNORE or values.min() < 0):
        return f"mask has label {int(values.max())}; 8 bits hold at most 254 and 255 for ignore"
    return values.astype(np.uint8)


def sized_class_map(path_or_bytes: str | bytes, size: tuple[int, int]) -> np.ndarray | str:
    """`read_class_map` of a mask that must have its picture's (height, width)."""
    return read_class_map(path_or_bytes, size)


SCORE_LEVELS = 256


def stored_score(probability: np.ndarray) -> np.ndarray:
    """Probabilities as uint8: floor(256 p), at most 255, so that thresholds k / 256 are kept exactly."""
    return np.minimum(np.floor(SCORE_LEVELS * probability), SCORE_LEVELS - 1).astype(np.uint8)


def stored_limit(threshold: np.ndarray | float) -> np.ndarray:
    """The smallest stored score that reaches a threshold in [0, 1]; above 255 none does."""
    return np.ceil(np.asarray(threshold, np.float64) * SCORE_LEVELS - 1e-9).astype(np.int64)


def highest_label(values: np.ndarray) -> int:
    """The highest class index, 0 where every pixel is ignored."""
    return int(values[values != IGNORE].max(initial=0))


def encode_class_map(values: np.ndarray, palette: Sequence[int] | None = None) -> bytes:
    """PNG bytes of class indices uint8 [H, W]; with a palette of 768 numbers, a palette PNG."""
    image = Image.fromarray(np.asarray(values, np.uint8))
    if palette is not None:
        image = image.convert("P") if image.mode != "P" else image
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def stored_mask_reader(encoded: Sequence[bytes]) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function over greyscale PNGs in memory: picture number -> uint8 [H, W]."""
    table = tf.constant(list(encoded))
    return lambda index: tf.io.decode_png(tf.gather(table, index), channels=1)[..., 0]


def mask_source(
    word: str, pairs: Sequence[tuple[str, str, str | None]], classes: Sequence[str] | None, report: InputReport,
    *, full_check: bool, max_pixels: int, max_skipped_fraction: float,
) -> Source:  # fmt: skip
    """A source over (id, picture path, mask path or None for unlabelled).

    Args:
      classes: names by index; numbers as far as the masks need them when None.

    Raises:
      DataError: too much unusable.
    """
    ids, paths, mask_paths = zip(*pairs) if pairs else ((), (), ())
    facts = image_files.inspect_images(paths, ids, report, full=full_check, max_pixels=max_pixels)
    kept, encoded, highest = [], [], 0
    for i in tqdm.trange(len(pairs), desc="checking masks", unit=" masks", disable=len(pairs) < 2000):
        if facts[i] is None:
            continue
        values = _checked_mask(mask_paths[i], facts[i], classes) if mask_paths[i] else None
        if isinstance(values, str):
            report.skip_image(values, mask_paths[i], ids[i])
            continue
        kept.append(i)
        if values is not None:
            encoded.append(encode_class_map(values))
            highest = max(highest, highest_label(values))
    report.check(word, len(pairs), max_skipped_fraction)
    source = Source(
        word=word,
        ids=np.array([ids[i] for i in kept]),
        sizes=np.array([(facts[i].height, facts[i].width) for i in kept], np.int32),
        read_image=image_files.path_reader([paths[i] for i in kept], [facts[i] for i in kept]),
        file_names=np.array([paths[i] for i in kept]),
        report=report,
    )
    if not encoded:
        return source
    names = classes or [str(i) for i in range(highest + 1)]
    return source.with_masks(stored_mask_reader(encoded), [Category(i, name) for i, name in enumerate(names)])


def _checked_mask(path: str, facts: image_files.ImageFacts, classes: Sequence[str] | None) -> np.ndarray | str:
    values = sized_class_map(path, (facts.height, facts.width))
    if isinstance(values, str):
        return values
    if classes is not None:
        unknown = np.setdiff1d(np.unique(values), [*range(len(classes)), IGNORE])
        if unknown.size:
            return f"mask has unknown label {int(unknown[0])}; there are {len(classes)} classes"
    return values


def open_voc_masks(
    folder: str, split: str | None, *, mask_folder: str | None = None, labeled: bool = True, full_check: bool = True,
    max_pixels: int = 100_000_000, max_skipped_fraction: float = 0.1,
) -> Source:  # fmt: skip
    """A source over a Pascal VOC folder's segmentation: `JPEGImages`, `SegmentationClass`, 21 classes.

    Args:
      folder: such as VOCdevkit/VOC2012.
      split: a list in `ImageSets/Segmentation/<split>.txt` (train, val, trainaug ...); every picture
        with a mask when not given. Lines may also be pairs of paths, as trainaug lists often are.
      mask_folder: below `folder`; when not given, `SegmentationClass` and then `SegmentationClassAug`.

    Raises:
      DataError: no such folder or list; too much unusable.
    """
    word, report = f"voc:{folder}", InputReport()
    image_files.require_folder(os.path.join(folder, "JPEGImages"), word)
    folders = [mask_folder] if mask_folder else VOC_MASK_FOLDERS
    folders = [os.path.join(folder, name) for name in folders if os.path.isdir(os.path.join(folder, name))]
    if labeled and not folders:
        raise DataError(f"{word}: no folder {mask_folder or ' or '.join(VOC_MASK_FOLDERS)} with masks")
    pairs = []
    for name in _voc_names(folder, folders, split, word):
        candidates = [os.path.join(place, name + ".png") for place in folders]
        mask = next((path for path in candidates if os.path.isfile(path)), candidates[0] if candidates else None)
        pairs.append((name, os.path.join(folder, "JPEGImages", name + ".jpg"), mask if labeled else None))
    return mask_source(
        word, pairs, VOC_CLASSES, report, full_check=full_check, max_pixels=max_pixels,
        max_skipped_fraction=max_skipped_fraction,
    )  # fmt: skip


def _voc_names(folder: str, mask_folders: Sequence[str], split: str | None, word: str) -> list[str]:
    if not split:
        places = mask_folders or [os.path.join(folder, "JPEGImages")]
        return sorted({os.path.splitext(name)[0] for place in places for name in os.listdir(place)})
    path = os.path.join(folder, "ImageSets", "Segmentation", f"{split}.txt")
    if not os.path.isfile(path):
        raise DataError(f"{word}: no split list {path}")
    with open(path, encoding="utf-8") as file:
        return [os.path.splitext(os.path.basename(line.split()[0]))[0] for line in file if line.strip()]


def open_masks(
    image_folder: str, mask_folder: str, *, class_file: str | None = None, labeled: bool = True, full_check: bool = True,
    max_pixels: int = 100_000_000, max_skipped_fraction: float = 0.1,
) -> Source:  # fmt: skip
    """A source over two folders: pictures, and PNG masks of the same names.

    Args:
      class_file: a class name a line, in the order of the indices; indices are the names without it.

    Raises:
      DataError: a folder is absent; too much unusable.
    """
    word, report = f"masks:{image_folder}", InputReport()
    image_files.require_folder(image_folder, word)
    if labeled and not mask_folder:
        raise DataError(f"{word}: say where the masks are, as in masks:IMAGES,MASKS")
    if labeled:
        image_files.require_folder(mask_folder, word)
    pairs = []
    for root, _, names in os.walk(image_folder):
        for name in sorted(names):
            stem, extension = os.path.splitext(os.path.relpath(os.path.join(root, name), image_folder))
            if extension.lower() in image_files.EXTENSIONS:
                mask = os.path.join(mask_folder, stem + ".png") if labeled else None
                pairs.append((stem + extension, os.path.join(root, name), mask))
    return mask_source(
        word, sorted(pairs), _class_names(class_file), report, full_check=full_check, max_pixels=max_pixels,
        max_skipped_fraction=max_skipped_fraction,
    )  # fmt: skip


def _class_names(path: str | None) -> list[str] | None:
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            names = [line.strip() for line in file if line.strip()]
    except OSError as error:
        raise DataError(f"classes={path}: {error}") from error
    if not 1 <= len(names) <= IGNORE or len(set(names)) != len(names):
        raise DataError(f"classes={path}: needs 1 to 255 different names, one a line")
    return names
