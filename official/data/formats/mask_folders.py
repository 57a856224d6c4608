"""Segmentation masks in folders: Pascal VOC, and folders of images and mask PNGs.

Masks are looked at once, when the source is opened, and kept in memory as small greyscale PNGs of
class indices: palettes, which TensorFlow would turn into colours, are resolved by Pillow there.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Sequence

import numpy as np

from official.data import image_files
from official.data.formats.mask_files import (
    IGNORE,
    Palette,
    encode_class_map,
    note_classes,
    present_labels,
    read_class_map,
    stored_mask_reader,
)
from official.data.formats.mask_palettes import VOC_CLASSES, read_palette
from official.data.frames import turned_upright
from official.data.input_report import DataError, InputReport, shown
from official.data.source import Category, Source
from official.data.text_lists import read_lines, read_split
from official.screen import counted

VOC_MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
# What masks of "x.png" are called: the same, or as Cityscapes calls them.
_IMAGE_ENDING = "_leftImg8bit"
_MASK_ENDINGS = ("_gtFine_labelTrainIds", "_gtCoarse_labelTrainIds", "_gtFine_labelIds", "_gtCoarse_labelIds")


@dataclasses.dataclass(frozen=True)
class MaskRules:
    """What the values of masks mean.

    Attributes:
      classes: names by index; numbers as far as the masks need them when None.
      palette: masks are coloured; class of every colour.
      ignore: a value that says nothing, as 255 does.
      foreground: the one value beside 0, such as 255, in masks of two classes.
    """

    classes: tuple[str, ...] | None = None
    palette: Palette | None = None
    ignore: int = IGNORE
    foreground: int | None = None


def mask_rules(word: str, named: dict[str, str], folder: str = "") -> MaskRules:
    """Takes `classes`, `palette`, `ignore` and `foreground` out of what a word says.

    Args:
      folder: where a `labelmap.txt` is looked for, none if "".

    Raises:
      DataError: a file or a number that is none.
    """
    classes, palette = _class_names(named.pop("classes", None)), named.pop("palette", "")
    label_map = os.path.join(folder, "labelmap.txt")
    if not palette and not classes and folder and os.path.isfile(label_map):
        palette = label_map
    names, colors = read_palette(palette) if palette else (None, None)
    ignore, foreground = (_value(word, name, named.pop(name, None)) for name in ("ignore", "foreground"))
    if foreground is not None and palette:
        raise DataError(f"{word}: foreground is for masks of two values, palette for masks of colours")
    if foreground is not None:
        classes = classes or ("background", "foreground")
    return MaskRules(classes or names, colors, IGNORE if ignore is None else ignore, foreground)


def _value(word: str, name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 0 <= int(text) <= IGNORE:
        raise DataError(f"{word}: {name}={text} is not a value of 0 to {IGNORE}")
    return int(text)


def _class_names(path: str | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    names = read_lines(path, "classes file")
    if not 1 <= len(names) <= IGNORE or len(set(names)) != len(names):
        raise DataError(f"classes={path}: needs 1 to {IGNORE} different names, one a line")
    return tuple(names)


def _mask_source(
    word: str,
    pairs: Sequence[tuple[str, str, str | None]],
    rules: MaskRules,
    report: InputReport,
    *,
    full_check: bool,
    max_pixels: int,
    max_skipped_fraction: float,
) -> Source:
    """A source over (id, image path, mask path or None for unlabelled).

    Raises:
      DataError: too much unusable; masks that mean nothing.
    """
    ids, paths, mask_paths = zip(*pairs) if pairs else ((), (), ())
    facts = image_files.inspect_images(paths, ids, report, full=full_check, max_pixels=max_pixels)
    kept, encoded, present = [], [], np.zeros(IGNORE + 1, np.int64)
    for i in counted(range(len(pairs)), "checking masks", len(pairs), "masks", shown=len(pairs) >= 2000):
        found = facts[i]
        if found is None:
            continue
        values = _checked_mask(mask_paths[i], found, rules) if mask_paths[i] else None
        if isinstance(values, str):
            report.skip_image(values, image_files.displayed(mask_paths[i]), ids[i])
            continue
        kept.append(i)
        if values is not None:
            encoded.append(encode_class_map(values))
            present += present_labels(values)
    report.check(word, len(pairs) + report.counts[NO_IMAGE], max_skipped_fraction)
    source = image_files.file_source(word, kept, ids, paths, facts, report)
    if not encoded:
        return source
    names = note_classes(word, present, rules.classes, report)
    return source.with_masks(stored_mask_reader(encoded), [Category(i, name) for i, name in enumerate(names)])


def _checked_mask(path: str, facts: image_files.ImageFacts, rules: MaskRules) -> np.ndarray | str:
    """Class indices upright as the image, or the reason why there are none."""
    size = (facts.height, facts.width)
    values = read_class_map(path, size, rules.palette, turned=facts.orientation >= 5)
    if isinstance(values, str):
        return values
    stored = size[::-1] if facts.orientation >= 5 else size
    if values.shape == stored:  # of the stored pixels, so it is turned with them
        values = np.ascontiguousarray(turned_upright(values, facts.orientation))
    values = _meant(values, rules)
    if isinstance(values, np.ndarray) and rules.classes is not None:
        unknown = np.setdiff1d(np.unique(values), [*range(len(rules.classes)), IGNORE])
        if unknown.size:
            return f"mask has unknown label {int(unknown[0])}; there are {len(rules.classes)} classes"
    return values


def _meant(values: np.ndarray, rules: MaskRules) -> np.ndarray | str:
    if rules.foreground is not None:
        found = set(np.unique(values).tolist())
        value = 1 if found <= {0, 1} else rules.foreground  # masks of one bit are 0 and 1
        others = found - {0, value, rules.ignore if rules.ignore != IGNORE else 0}
        if others:
            return f"mask has other values than 0 and {rules.foreground} ({shown(sorted(others))})"
        mapped = (values == value).astype(np.uint8)
    else:
        mapped = values
    return (
        np.where(values == rules.ignore, IGNORE, mapped).astype(np.uint8)
        if rules.ignore != rules.foreground
        else mapped
    )


# --- Pascal VOC -------------------------------------------------------------------------------------

NO_IMAGE = "entry of the list has no image"


def open_voc_masks(
    folder: str,
    split: str | None,
    *,
    mask_folder: str | None = None,
    rules: MaskRules = MaskRules(),
    labeled: bool = True,
    full_check: bool = True,
    max_pixels: int = 100_000_000,
    max_skipped_fraction: float = 0.1,
) -> Source:
    """A source over a Pascal VOC folder's segmentation: `JPEGImages`, `SegmentationClass`, 21 classes or
    one's own.

    Args:
      folder: such as VOCdevkit/VOC2012.
      split: a list in `ImageSets/Segmentation/<split>.txt` (train, val, trainaug ...); every image
        with a mask when not given. Lines may also be pairs of paths, as trainaug lists often are.
      mask_folder: below `folder`; when not given, `SegmentationClass` and then `SegmentationClassAug`.

    Raises:
      DataError: no such folder or list; too much unusable.
    """
    word, report, images = f"voc:{folder}", InputReport(), os.path.join(folder, "JPEGImages")
    image_files.require_folder(images, word)
    folders = [mask_folder] if mask_folder else VOC_MASK_FOLDERS
    folders = [os.path.join(folder, name) for name in folders if os.path.isdir(os.path.join(folder, name))]
    if labeled and not folders:
        raise DataError(f"{word}: no folder {mask_folder or ' or '.join(VOC_MASK_FOLDERS)} with masks")
    pairs = []
    for name, listed in _voc_names(folder, folders, split, word):
        image = image_files.named_image(images, name)
        if image is None:
            report.skip_image(NO_IMAGE, listed, name)
            continue
        candidates = [os.path.join(place, name + ".png") for place in folders]
        mask = next(
            (path for path in candidates if os.path.isfile(path)), candidates[0] if candidates else None
        )
        pairs.append((name, image, mask if labeled else None))
    if rules.classes is None:
        rules = dataclasses.replace(rules, classes=VOC_CLASSES)
    return _mask_source(
        word,
        pairs,
        rules,
        report,
        full_check=full_check,
        max_pixels=max_pixels,
        max_skipped_fraction=max_skipped_fraction,
    )


def _voc_names(
    folder: str, mask_folders: Sequence[str], split: str | None, word: str
) -> list[tuple[str, str]]:
    """(name, where it stands) of every image."""
    if not split:
        places = mask_folders or [os.path.join(folder, "JPEGImages")]
        endings = (".png",) if mask_folders else image_files.EXTENSIONS
        names = {
            os.path.splitext(name)[0]: place for place in places for name in image_files.walk(place, endings)
        }
        return sorted(names.items())
    path = os.path.join(folder, "ImageSets", "Segmentation", f"{split}.txt")
    if not os.path.isfile(path):
        raise DataError(f"{word}: no split list {path}")
    return [
        (_entry(line, os.path.join(folder, "JPEGImages")), path)
        for line in dict.fromkeys(read_split(path, "split list"))
    ]


def _entry(line: str, images: str) -> str:
    """A name with spaces, a path, or the first of a pair of paths, as the name of an image."""
    for text in (line, line.split()[0]):
        whole = os.path.splitext(text)[0] if text.lower().endswith(image_files.EXTENSIONS) else text
        for name in (whole, os.path.basename(whole)):
            if image_files.safe_join(images, name) and image_files.named_image(images, name):
                return name
    return os.path.splitext(os.path.basename(line.split()[0]))[0] if "/" in line else line


# --- two folders ------------------------------------------------------------------------------------


def open_masks(
    image_folder: str,
    mask_folder: str,
    *,
    rules: MaskRules = MaskRules(),
    labeled: bool = True,
    full_check: bool = True,
    max_pixels: int = 100_000_000,
    max_skipped_fraction: float = 0.1,
) -> Source:
    """A source over two folders: images, and PNG masks of the same names, or of Cityscapes' pairs of names.

    Raises:
      DataError: a folder is absent; too much unusable; masks that mean nothing.
    """
    word, report = f"masks:{image_folder}", InputReport()
    image_files.require_folder(image_folder, word)
    if labeled and not mask_folder:
        raise DataError(f"{word}: say where the masks are, as in masks:IMAGES,MASKS")
    if labeled:
        image_files.require_folder(mask_folder, word)
    masks = os.path.join(os.path.realpath(mask_folder), "") if mask_folder else None
    pairs = []
    for name in image_files.walk(image_folder):
        path = os.path.join(image_folder, name)
        if (
            masks
            and os.path.abspath(os.path.realpath(path)).startswith(masks)
            and not _same(image_folder, mask_folder)
        ):
            continue  # the masks' folder lies among the images
        mask = _mask_of(mask_folder, os.path.splitext(name)[0]) if labeled else None
        pairs.append((image_files.displayed(name), path, mask))
    return _mask_source(
        word,
        sorted(pairs),
        rules,
        report,
        full_check=full_check,
        max_pixels=max_pixels,
        max_skipped_fraction=max_skipped_fraction,
    )


def _same(folder: str, other: str) -> bool:
    return os.path.realpath(folder) == os.path.realpath(other)


def _mask_of(folder: str, stem: str) -> str:
    names = [stem]
    if stem.endswith(_IMAGE_ENDING):
        names += [stem.removesuffix(_IMAGE_ENDING) + ending for ending in _MASK_ENDINGS]
    paths = [os.path.join(folder, name + ".png") for name in names]
    return next((path for path in paths if os.path.isfile(path)), paths[0])
