"""ONE cleaning of labels: from what a file says about objects to what a `Source` holds.

A reader of a format gives `RawObjects`, a row an object, of whatever types stand in the file. `clean_objects`
reads numbers that are strings, fills in what may be missing, drops what cannot be learnt from or scored
against, and counts every repair and every loss. Training, evaluation and the scoring of result files share
it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from typing import Any, Mapping, Sequence, Union, overload

import numpy as np

from official.data.frames import Frames
from official.data.input_report import DataError, InputReport, printable
from official.data.source import Annotations, Category, Names

UNLISTED, UNUSABLE = -1, -2  # in place of an image's index: not among the file's images; left out already
CROWD_SHARE = 0.9  # from which a class counts as marked all over
STRING_NUMBER = "number written as a string: read as a number"
NO_AREA = "area is missing or not positive: that of the box is taken"
Column = Union[Sequence[Any], np.ndarray]  # a value a row
_FALSE, _TRUE = ("0", "false", "no", "n", "f", "none", "null", ""), ("1", "true", "yes", "y", "t")


@dataclasses.dataclass
class RawObjects:
    """Objects as files state them, one row each, in any order, of any types.

    Attributes:
      images: int64 [N], index of the object's image, or `UNLISTED`, `UNUSABLE`.
      boxes: N times four values, or anything else where there is no box.
      classes: N references to classes (ids or names).
      box_format: order of the four values: "xywh", "xyxy" or "yxyx".
      crowd, area, scores: N values each, None where the format has none.
      ids: N ids of the annotations, None where the format has none.
      text: every value is text, as in XML and CSV: reading it as a number is no repair.
    """

    images: np.ndarray
    boxes: Column
    classes: Column
    box_format: str = "xyxy"
    crowd: Column | None = None
    area: Column | None = None
    scores: Column | None = None
    ids: Column | None = None
    text: bool = False


@dataclasses.dataclass(frozen=True)
class ImageTable:
    """The usable images that objects belong to.

    Attributes:
      ids, files: of every image, for messages.
      sizes: int [images, 2], (height, width) as read; 0 where it is not known.
      frames: what boxes count in, None where that is the image as read.
    """

    ids: Sequence[str] | np.ndarray
    files: Sequence[str] | Names
    sizes: np.ndarray
    frames: Frames | None = None


def clean_objects(
    raw: RawObjects,
    images: ImageTable,
    class_of: Mapping[str, int],
    report: InputReport,
    *,
    crowd: str = "ignore",
) -> tuple[Annotations, np.ndarray]:
    """The objects that can be used, image by image, and the rows of `raw` that they come from.

    Args:
      class_of: class index by `identifier` of a reference.
      report: gets every repair and every lost object.
      crowd: "ignore" keeps crowds as such, "objects" takes them as objects like others.
    """
    boxes = _corners(box_numbers(raw.boxes, report, text=raw.text), raw.box_format)
    labels = _class_indices(raw.classes, class_of)
    listed = raw.images >= 0
    if images.frames is not None and listed.any():
        boxes[listed] = images.frames.to_image(boxes[listed], raw.images[listed])
    keep = _keep(raw, boxes, labels, images, report)
    rows = np.flatnonzero(keep)
    rows = rows[np.argsort(raw.images[rows], kind="stable")]
    image, boxes = raw.images[rows], boxes[rows]
    _note_ids(raw, rows, report)
    area = _areas(raw, rows, boxes, images, report)
    crowds = (
        _flags(raw.crowd, rows, report, text=raw.text) if crowd == "ignore" else np.zeros(len(rows), bool)
    )
    scores = (
        np.ones(len(rows)) if raw.scores is None else numbers(_at(raw.scores, rows), report, text=raw.text)
    )
    splits = np.concatenate([[0], np.cumsum(np.bincount(image, minlength=len(images.ids)))])
    return Annotations(
        row_splits=splits.astype(np.int64),
        boxes=boxes.astype(np.float32),
        classes=labels[rows].astype(np.int32),
        crowd=crowds,
        area=area.astype(np.float32),
        scores=scores.astype(np.float32),
    ), rows


def _keep(
    raw: RawObjects, boxes: np.ndarray, labels: np.ndarray, images: ImageTable, report: InputReport
) -> np.ndarray:
    """Bool [N], which objects can be used; the others are reported once, for the first reason that they
    have.
    """
    usable = raw.images != UNUSABLE
    report.objects += int(usable.sum())
    finite = np.isfinite(boxes).all(axis=1)
    safe = np.where(finite[:, None], boxes, 0.0)
    positive = (safe[:, 2] > safe[:, 0]) & (safe[:, 3] > safe[:, 1])
    sizes = np.append(np.asarray(images.sizes, np.float64).reshape(-1, 2), [[0.0, 0.0]], axis=0)[
        np.maximum(raw.images, -1)
    ]
    sizes = np.where(sizes > 0, sizes, np.inf)
    inside = (safe[:, 0] < sizes[:, 0]) & (safe[:, 1] < sizes[:, 1]) & (safe[:, 2] > 0) & (safe[:, 3] > 0)
    keep = usable.copy()
    for reason, bad, detail in (
        ("annotation of an image that is not listed", raw.images == UNLISTED, None),
        ("unknown category", labels < 0, raw.classes),
        ("box with a coordinate that is not a number", ~finite, None),
        ("box with zero or negative width or height", ~positive, None),
        ("box outside its image", ~inside, None),
    ):
        for row in np.flatnonzero(bad & keep):
            index = raw.images[row]
            place = (images.files[index], images.ids[index]) if index >= 0 else ("", None)
            more = f" ({detail[row]!r:.60})" if detail is not None else ""
            report.lose_object(reason + more, *place)
        keep &= ~bad
    return keep


def _areas(
    raw: RawObjects, rows: np.ndarray, boxes: np.ndarray, images: ImageTable, report: InputReport
) -> np.ndarray:
    of_box = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    if raw.area is None or not len(rows):
        return of_box
    area = numbers(_at(raw.area, rows), report, text=raw.text)
    if images.frames is not None:
        area = area * images.frames.area_scale(raw.images[rows])
    bad = ~(np.isfinite(area) & (area > 0))
    if bad.any():
        first = raw.images[rows[np.argmax(bad)]]
        report.note(NO_AREA, images.files[first], images.ids[first], count=int(bad.sum()))
    return np.where(bad, of_box, area)


def _note_ids(raw: RawObjects, rows: np.ndarray, report: InputReport) -> None:
    """Counts annotations without an id of their own: the scorer numbers all anew, from 1."""
    if raw.ids is None:
        return
    seen = [identifier(raw.ids[i]) for i in rows]
    bad = len(seen) - len(set(seen) - {"0", None})
    if bad:
        report.note("annotation id is missing, 0 or repeated: annotations are numbered anew", "", count=bad)


# --- values of any type ----------------------------------------------------------------------------


def number(value: Any) -> float:
    """A value as a number, NaN if it is none; text that spells a number is one, a truth value is none."""
    if isinstance(value, (bool, np.bool_)):
        return math.nan
    try:
        return float(value) if isinstance(value, (int, float, str, np.number)) else math.nan
    except (ValueError, OverflowError):  # int too large, or text that is no number
        return math.nan


def numbers(values: Column, report: InputReport, *, text: bool = False) -> np.ndarray:
    """`number` of each, float64 [N]; text is counted unless everything is text."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return values.astype(np.float64)
    kinds = set(map(type, values))
    if kinds <= {int, float}:
        try:
            return np.fromiter(values, np.float64, len(values))
        except OverflowError:
            pass
    found = np.array([number(v) for v in values], np.float64)
    spelled = (
        0 if text or str not in kinds else sum(isinstance(v, str) and f == f for v, f in zip(values, found))
    )
    if spelled:
        report.note(STRING_NUMBER, "", count=spelled)
    return found


def _at(values: Column, rows: np.ndarray) -> Column:
    """Some of a column: of an array an array, else a list."""
    return values[rows] if isinstance(values, np.ndarray) else [values[i] for i in rows]


def box_numbers(boxes: Column, report: InputReport, *, text: bool = False) -> np.ndarray:
    """Float64 [N, 4]; a row of NaN where there are not four values."""
    if isinstance(boxes, np.ndarray) and boxes.dtype.kind in "fiu":
        return np.array(boxes, np.float64).reshape(-1, 4)
    if not all(isinstance(box, (list, tuple, np.ndarray)) and len(box) == 4 for box in boxes):
        nothing = (math.nan,) * 4
        boxes = [
            box if isinstance(box, (list, tuple, np.ndarray)) and len(box) == 4 else nothing for box in boxes
        ]
    return numbers(list(itertools.chain.from_iterable(boxes)), report, text=text).reshape(-1, 4)


def _corners(boxes: np.ndarray, box_format: str) -> np.ndarray:
    """Four numbers in any order -> yxyx."""
    if box_format == "yxyx":
        return boxes
    a, b, c, d = boxes.T
    if box_format == "xywh":
        with np.errstate(over="ignore", invalid="ignore"):  # 1e308 + 1e308 is infinite, and found to be so
            c, d = a + c, b + d
    return np.stack([b, a, d, c], axis=1)


@overload
def identifier(value: str) -> str: ...


@overload
def identifier(value: Any) -> str | None: ...


def identifier(value: Any) -> str | None:
    """An id as text: 7, 7.0 and "7" are one; None where there is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, (bool, float, list, dict)):
        return None
    return printable(str(value).strip())


def file_id(value: Any) -> int | str:
    """An id as it is written into results for the file that it is from: an integer stays one, text stays
    text.
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _class_indices(references: Column, class_of: Mapping[str, int]) -> np.ndarray:
    """Int64 [N], -1 where a reference is unknown."""
    if isinstance(references, np.ndarray) and references.dtype.kind in "iu":
        references = references.tolist()
    known: dict[Any, int] = {}

    def index(reference):
        try:
            key = (type(reference), reference)
            if key not in known:
                known[key] = class_of.get(identifier(reference), -1)
            return known[key]
        except TypeError:  # a list or a dict
            return -1

    return np.fromiter(map(index, references), np.int64, len(references))


def flag(value: Any) -> bool | None:
    """A yes or no of any type, None if it is neither; missing is no."""
    if value is None or isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _FALSE or word in _TRUE:
            return word in _TRUE
        value = number(value)
    value = number(value)
    return value != 0 if math.isfinite(value) else None


def _flags(values: Column | None, rows: np.ndarray, report: InputReport, *, text: bool) -> np.ndarray:
    """Bool [N]; what is neither yes nor no counts as no, and is reported."""
    if values is None:
        return np.zeros(len(rows), bool)
    if isinstance(values, np.ndarray) and values.dtype == bool:
        return values[rows]
    chosen = [values[i] for i in rows]
    kinds = set(map(type, chosen))
    if kinds <= {int, bool}:
        return np.fromiter(map(operator.truth, chosen), bool, len(chosen))
    found = [flag(value) for value in chosen]
    if str in kinds and not text:
        report.note(
            "crowd mark written as a string: read as yes or no",
            "",
            count=sum(isinstance(v, str) for v in chosen),
        )
    if None in found:
        report.note("crowd mark that is neither yes nor no: taken as no", "", count=found.count(None))
    return np.array([bool(value) for value in found], bool)


# --- what is said about a whole set ----------------------------------------------------------------


def note_crowded_classes(
    annotations: Annotations, categories: Sequence[Category], report: InputReport
) -> None:
    """Warns of classes whose objects are (nearly) all marked as crowds: nothing of them would be learnt or
    scored.
    """
    count = np.bincount(annotations.classes, minlength=len(categories))
    crowds = np.bincount(annotations.classes[annotations.crowd], minlength=len(categories))
    for i in np.flatnonzero((count > 0) & (crowds >= CROWD_SHARE * count)):
        report.note(
            "nearly every object of a class is marked as a crowd (or difficult), which is ignored; "
            f"--crowd=objects takes them as objects ({categories[i].name}: {crowds[i]} of {count[i]})",
            "",
        )


def require_objects(word: str, annotations: Annotations) -> None:
    """Refuses labelled data without a single object that is no crowd.

    Raises:
      DataError: says so.
    """
    if annotations.crowd.all():  # also of none
        n = len(annotations.crowd)
        what = (
            f"its {n} objects are all crowds (--crowd=objects takes them as objects)"
            if n
            else "not one object"
        )
        raise DataError(
            f"{word}: holds {what}: there is nothing to learn or to score; images without objects can be "
            "used beside others, or as --unlabeled_data"
        )
