"""A labelled source as a folder in one of the formats of labelling tools, with its images: whole, or not
there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import Iterator

import numpy as np
import tensorflow as tf

from official import catalog
from official.data.formats.contours import regions
from official.data.formats.mask_files import IGNORE, encode_class_map
from official.data.formats.mask_palettes import voc_color
from official.data.formats.writers import Format, Header, OutImage, OutObject
from official.data.image_files import inspect_image
from official.data.input_report import DataError, InputReport
from official.data.source import Source
from official.files import output_names
from official.screen import counted

FORMATS: dict[str, Format] = {name: catalog.load(place) for name, place in catalog.FORMATS.items()}
NO_PLACE = "object that is ignored (a crowd, or difficult): this format has no place for it, left out"
CUT = "box that reaches outside its image: cut at the border"
UNREADABLE_NAME = (
    "class whose name has a colon or starts with #: other tools cannot read labelmap.txt with it"
)
SAYS_NOTHING = "image with pixels that say nothing: whoever reads this format takes them for background"
_PALETTE = [value for label in range(256) for value in voc_color(label)]


def export_labels(
    source: Source, kind: str, folder: str, *, scored: bool, image_files: str = "copy"
) -> InputReport:
    """Writes images and labels; boxes and masks are those of the upright images.

    Args:
      source: with boxes, or with masks, whose regions become polygons (VOC: PNGs).
      kind: of `FORMATS`.
      folder: new, or empty; it appears by one rename.
      scored: a model made the labels: their scores are written where the format has a place.
      image_files: "copy", or "link": hard links where the disk allows it.

    Returns:
      What was changed or left out.

    Raises:
      DataError: the folder exists, or a source without boxes and masks.
    """
    if source.annotations is None and source.read_mask is None:
        raise DataError(
            f"{source.word}: --format={kind} holds boxes or masks; these labels are classes of images"
        )
    form, report = FORMATS[kind], InputReport()
    with whole_folder(folder) as unfinished:
        images = os.path.join(unfinished, form.images)
        names = image_names(source)
        for i in counted(
            range(len(source)), "writing images", len(source), "images", shown=len(source) >= 2000
        ):
            write_image(source, i, os.path.join(images, names[i]), image_files)
        header, first = _header(source, form, scored)
        for name in header.names if kind == "voc" else ():
            if ":" in name or name.startswith("#"):
                report.note(UNREADABLE_NAME, "labelmap.txt", name)
        form.write(unfinished, list(_out_images(source, names, form, first, scored, report)), header)
    return report


def refuse_existing(folder: str) -> None:
    """Raises DataError if something is there already that is not an empty folder."""
    if os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise DataError(f"--output={folder} exists; name a new folder")


@contextlib.contextmanager
def whole_folder(folder: str) -> Iterator[str]:
    """A folder of the same name in `<folder>.unfinished/`, which takes its place at the end; nothing is left
    after an error.
    """
    folder = os.path.abspath(folder)
    refuse_existing(folder)
    holder = folder + ".unfinished"
    try:
        os.makedirs(holder)
    except FileExistsError:
        raise DataError(
            f"{holder} is of an export that was stopped, or goes on: remove it, or name another --output"
        ) from None
    unfinished = os.path.join(holder, os.path.basename(folder))
    try:
        os.mkdir(unfinished)
        yield unfinished
        os.sync()
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


# --- images -------------------------------------------------------------------------------------------


def image_names(source: Source) -> list[str]:
    """A relative path for every image, different also without their endings: labels are called so."""
    files = [_file_of(source, i) for i in range(len(source))]
    named = [os.path.abspath(file) if file else str(i) for file, i in zip(files, source.ids)]
    if not all(files):
        named = [os.path.basename(file) if file else name for file, name in zip(files, named)]
    endings = [os.path.splitext(file)[1] if file else ".png" for file in files]
    return [stem + ending for stem, ending in zip(output_names(named, ""), endings)]


def _file_of(source: Source, index: int) -> str | None:
    """The file that an image is read from, None where it comes from elsewhere (records, or drawn)."""
    name = str(source.file_names[index]) if source.file_names is not None else ""
    if not os.path.dirname(name) or not os.path.isfile(name) or source.cut_from is not None:
        return None  # records and drawn images have bare names, files of a source never
    facts = inspect_image(name, full=False)
    same = not isinstance(facts, str) and (facts.height, facts.width) == tuple(source.sizes[index].tolist())
    return name if same else None


def write_image(source: Source, index: int, path: str, image_files: str) -> None:
    """Copies or links the file of an image; one that has none, or is of another size, is written as PNG."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = _file_of(source, index)
    if file is None:
        encoded = tf.io.encode_png(source.read_image(tf.constant(index, tf.int64))).numpy()
        with open(path, "wb") as out:
            out.write(encoded)
        return
    if image_files == "link":
        with contextlib.suppress(OSError):  # another disk, or one without links
            os.link(os.path.realpath(file), path)
            return
    shutil.copyfile(file, path)


# --- labels -------------------------------------------------------------------------------------------


def _header(source: Source, form: Format, predicted: bool) -> tuple[Header, int]:
    """The classes that are written, and the index of the first: a background is none in formats of
    objects.
    """
    names = [c.name for c in source.categories]
    if source.read_mask is None:
        ids = [c.id if i is None else i for c, i in zip(source.categories, source.own_category_ids())]
        return Header(names, ids, predicted), 0
    first = int(names[0] == "background" and form.masks == "polygons")
    return Header(names[first:], list(range(1, len(names) - first + 1)), predicted), first


def _out_images(
    source: Source, names: list[str], form: Format, first: int, scored: bool, report: InputReport
) -> Iterator[OutImage]:
    ids = source.coco_image_ids()
    for i, name in enumerate(names):
        height, width = source.sizes[i].tolist()
        size = (height, width)
        if source.read_mask is None:
            yield OutImage(name, ids[i], size, _boxes(source, i, form, scored, report))
            continue
        mask = source.read_mask(tf.constant(i, tf.int64)).numpy()
        if form.masks == "pngs":
            yield OutImage(name, ids[i], size, mask=encode_class_map(mask, _PALETTE))
            continue
        if (mask == IGNORE).any():
            report.note(SAYS_NOTHING, name, source.ids[i])
        labels = range(first, len(source.categories))
        yield OutImage(
            name,
            ids[i],
            size,
            [_region(label - first, r) for label in labels for r in regions(mask == label)],
        )


def _boxes(source: Source, index: int, form: Format, scored: bool, report: InputReport) -> list[OutObject]:
    """The objects of an image that the format has a place for, in its pixels."""
    found, (height, width), place = (
        [],
        source.sizes[index].tolist(),
        (source.name_of(index), source.ids[index]),
    )
    objects = source.objects.of(index)
    for box, label, crowd, area, score in zip(
        *(objects[key].tolist() for key in ("boxes", "classes", "crowd", "area", "scores"))
    ):
        if crowd and not form.crowd:
            report.note(NO_PLACE, *place)
            continue
        inside = [min(max(v, 0.0), float(side)) for v, side in zip(box, (height, width, height, width))]
        if not form.outside and inside != box:
            report.note(CUT, *place)
            box = inside
        found.append(OutObject(label, tuple(box), area, crowd, score if scored and form.scores else None))
    return found


def _region(label: int, polygons: list[list[float]]) -> OutObject:
    points = np.concatenate([np.reshape(p, (-1, 2)) for p in polygons])
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    area = 0.0
    for polygon in polygons:
        x, y = np.reshape(polygon, (-1, 2)).T
        area += float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    return OutObject(label, (y1, x1, y2, x2), area, outline=polygons)
