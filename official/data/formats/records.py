"""What every reader of a labelling tool's files gives, image by image, and the one way from there to a
`Source`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Sequence

import numpy as np

from official.data import image_files
from official.data.formats.coco_masks import class_map_reader, mask_categories, outline_box
from official.data.frames import Frames
from official.data.input_report import DataError, InputReport, printable
from official.data.labels import (
    ImageTable,
    RawObjects,
    clean_objects,
    identifier,
    note_crowded_classes,
    number,
)
from official.data.source import Category, Source

NO_AREA = "shape without an area"


@dataclasses.dataclass(frozen=True)
class ReadRules:
    """How strictly files are read; see `official.data.sources.ReadOptions`.

    Attributes:
      labeled: False reads images alone.
      masks: labels are class maps rendered from the outlines, in place of boxes.
    """

    labeled: bool = True
    masks: bool = False
    full_check: bool = True
    max_pixels: int = 100_000_000
    max_skipped_fraction: float = 0.1
    crowd: str = "ignore"
    stated_size: str = "check"


@dataclasses.dataclass
class Shape:
    """One object as a file states it, of whatever types stand there.

    Attributes:
      label: reference to its class, a name or a number.
      box: x1, y1, x2, y2; None: that of the outline.
      outline: a segmentation as COCO has them (polygons, or run lengths), or None.
    """

    label: Any
    box: Sequence[Any] | None = None
    outline: Any = None
    crowd: Any = False
    score: Any = 1.0


@dataclasses.dataclass
class ImageRecord:
    """One image with what is said about it.

    Attributes:
      id: unique, the same on every machine.
      path: of the image file.
      size: stated (height, width); NaN where none is stated.
      shapes: its objects.
      lost: a reason for every object that cannot be read.
      notes: what was repaired.
      fractions: coordinates are fractions of width and height, in place of pixels.
    """

    id: str
    path: str
    size: tuple[float, float] = (math.nan, math.nan)
    shapes: list[Shape] = dataclasses.field(default_factory=list)
    lost: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    fractions: bool = False


def joined(shapes: list[Shape]) -> Shape:
    """Parts of one object as one: the box around all, and all polygons; without an outline where a part has
    none.
    """
    if len(shapes) == 1:
        return shapes[0]
    boxes = [shape.box if shape.box is not None else _around(shape.outline) for shape in shapes]
    box = [*np.min([b[:2] for b in boxes], axis=0).tolist(), *np.max([b[2:] for b in boxes], axis=0).tolist()]
    whole = all(isinstance(shape.outline, list) for shape in shapes)
    return Shape(
        shapes[0].label,
        box,
        [p for shape in shapes for p in shape.outline] if whole else None,
        crowd=any(shape.crowd for shape in shapes),
        score=min(shape.score for shape in shapes),
    )


def _around(outline: Any) -> list[float]:
    found = outline_box(outline)
    return [math.nan] * 4 if found is None else [found[0], found[1], found[0] + found[2], found[1] + found[3]]


def stated_number(value: Any) -> float:
    """A stated side of an image, NaN if it is none."""
    found = number(value)
    return found if found > 0 else math.nan


def source_of_records(
    word: str,
    records: Sequence[ImageRecord],
    report: InputReport,
    rules: ReadRules,
    *,
    categories: Sequence[Category] | None = None,
    references: Sequence[str] | None = None,
) -> Source:
    """A source over the records whose images can be used, with their cleaned objects.

    Args:
      categories: None: the names that occur, sorted, ids from 1.
      references: what objects call each category; None: its name.
      report: already has what was skipped on the way here.

    Raises:
      DataError: two images of one id; too much unusable.
    """
    records = list(records)
    _refuse_repeated(word, records)
    total = len(records) + report.skipped_images
    paths, ids = [r.path for r in records], [r.id for r in records]
    facts = image_files.inspect_images(paths, ids, report, full=rules.full_check, max_pixels=rules.max_pixels)
    kept = [i for i, fact in enumerate(facts) if fact is not None]
    frames = None
    if rules.labeled:
        frames, usable = image_files.stated_frames(
            [records[i].size for i in kept],
            [fact for fact in facts if fact is not None],
            [paths[i] for i in kept],
            [ids[i] for i in kept],
            report,
            scaled=rules.stated_size == "scale",
        )
        kept, frames = [i for i, fits in zip(kept, usable) if fits], frames.take(usable)
    report.check(word, total, rules.max_skipped_fraction)
    source = image_files.file_source(word, kept, ids, paths, facts, report, frames=frames)
    if not rules.labeled:
        return source
    return _labelled(source, [records[i] for i in kept], categories, references, rules)


def _refuse_repeated(word: str, records: Sequence[ImageRecord]) -> None:
    seen: dict[str, str] = {}
    for record in records:
        if record.id in seen:
            raise DataError(
                f"{word}: image {printable(record.id)} occurs twice: "
                f"{image_files.displayed(seen[record.id])} and {image_files.displayed(record.path)}"
            )
        seen[record.id] = record.path


def _labelled(
    source: Source,
    records: Sequence[ImageRecord],
    categories: Sequence[Category] | None,
    references: Sequence[str] | None,
    rules: ReadRules,
) -> Source:
    _report_losses(source, records)
    shapes = [shape for record in records for shape in record.shapes]
    if categories is None:
        names = sorted({name for shape in shapes if (name := identifier(shape.label))})
        categories = [Category(i + 1, name) for i, name in enumerate(names)]
    images = np.repeat(np.arange(len(records)), [len(record.shapes) for record in records])
    assert source.frames is not None  # of `stated_frames`
    scales = _scales(records, source.frames)[images]
    outlines = [_scaled(shape.outline, scale) for shape, scale in zip(shapes, scales)]
    raw = RawObjects(
        images=images,
        boxes=[_box(shape, scale) for shape, scale in zip(shapes, scales)],
        classes=[shape.label for shape in shapes],
        crowd=[shape.crowd for shape in shapes],
        scores=[shape.score for shape in shapes],
    )
    table = ImageTable(source.ids.tolist(), source.names.tolist(), source.sizes, source.frames)
    references = [identifier(category.name) for category in categories] if references is None else references
    places = {reference: i for i, reference in enumerate(references)}
    annotations, rows = clean_objects(raw, table, places, source.report, crowd=rules.crowd)
    if rules.masks:
        read = class_map_reader([{"segmentation": outlines[row]} for row in rows], annotations, source)
        source = source.with_masks(read, mask_categories(categories))
    else:
        note_crowded_classes(annotations, categories, source.report)
        source = source.with_annotations(annotations, tuple(categories))
    source.report.check_objects(source.word, rules.max_skipped_fraction)
    return source


def _report_losses(source: Source, records: Sequence[ImageRecord]) -> None:
    for record, file in zip(records, source.names.tolist()):
        source.report.objects += len(record.lost)
        for reason in record.lost:
            source.report.lose_object(reason, file, record.id)
        for note in record.notes:
            source.report.note(note, file, record.id)


def _scales(records: Sequence[ImageRecord], frames: Frames) -> np.ndarray:
    """Float64 [images, 2], what x and y are multiplied with to be pixels of the frame that boxes count in."""
    found = np.ones((len(records), 2))
    fractions = np.array([record.fractions for record in records], bool)
    found[fractions] = frames.sizes[fractions, ::-1]
    return found


def _box(shape: Shape, scale: np.ndarray) -> Any:
    box = shape.box
    if box is None:
        around = outline_box(shape.outline)
        if around is None:
            return None
        x, y, width, height = around
        box = (x, y, x + width, y + height)
    if scale[0] == 1 and scale[1] == 1 or not isinstance(box, (list, tuple)):
        return box
    return [number(value) * factor for value, factor in zip(box, (*scale, *scale))]


def _scaled(outline: Any, scale: np.ndarray) -> Any:
    """Polygons, flat lists of x and y, in pixels; whatever else as it is."""
    if not isinstance(outline, list) or scale[0] == 1 and scale[1] == 1:
        return outline
    return [np.asarray(polygon, np.float64) * np.tile(scale, len(polygon) // 2) for polygon in outline]
