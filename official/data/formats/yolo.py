"""YOLO as Ultralytics lays it out: a `data.yaml`, images below `images/`, and a text file each below
`labels/`.

A line is a box (class, centre x, centre y, width, height), a box with a score, or a polygon (class, x, y, x,
y ...), all in fractions of the upright image. An image without a text file, or with an empty one, has no
object.

Rules: Ultralytics' documentation of its dataset formats (detect, segment, pose) and, for paths, its
`check_det_dataset` and `img2label_paths`. Other than there a bad line loses its object, not the whole image,
and a box among polygons stays a box.
"""

from __future__ import annotations

import math
import os
from typing import Iterator

from official.data import image_files
from official.data.formats.coco_json import LFS_POINTER, LFS_REASON
from official.data.formats.records import ImageRecord, ReadRules, Shape, source_of_records
from official.data.formats.yolo_config import YoloConfig, read_config
from official.data.input_report import DataError, InputReport
from official.data.labels import number
from official.data.source import Category, Source
from official.data.text_lists import read_lines

OUTSIDE = 0.01  # by which a rounded fraction may leave [0, 1]; as Ultralytics
NOT_LABELS = ("classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt", "license.txt")
_IMAGES, _LABELS = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"


def open_yolo(place: str, split: str, rules: ReadRules) -> Source:
    """A source over one split of a YOLO data set.

    Ids of images are their paths below the folder, or as the list of images has them. Category ids are class
    numbers + 1.

    Args:
      place: the `data.yaml`, or the folder that it is in.
      split: a key of it, such as "train", "val" or "test".

    Raises:
      DataError: see `read_config`; no such split or image; not one text file; too much unusable.
    """
    config, report, word = read_config(place), InputReport(), f"yolo:{place}"
    records, labelled = [], set()
    for image_id, path in _images(config, split, report):
        record = ImageRecord(image_id, path, fractions=True)
        if rules.labeled:
            text = _label_file(path)
            failure = _read_labels(record, text, config) if text else None
            labelled |= {text} if text else set()
            if text and failure:
                report.skip_image(failure, image_files.displayed(text), image_id)
                continue
        records.append(record)
    if rules.labeled:
        _report_orphans(config, split, labelled, report)
        if records and not labelled:
            raise DataError(
                f"{word}: not one of the {len(records)} images of {split} has a text file, for example "
                f"{image_files.displayed(_label_place(records[0].path))}; without labels it can be "
                f"--unlabeled_data"
            )
    classes = sorted(config.names.items())
    return source_of_records(
        word,
        records,
        report,
        rules,
        categories=[Category(i + 1, name) for i, name in classes],
        references=[str(i) for i, _ in classes],
    )


# --- which images ------------------------------------------------------------------------------------


def _images(config: YoloConfig, split: str, report: InputReport) -> Iterator[tuple[str, str]]:
    """(id, path) of every image of a split, each file once."""
    entries, seen = config.entries(split), set()
    for entry, place in entries:
        found = _listed(config, place) if os.path.isfile(place) else _walked(place, report)
        for name, path in found:
            real = os.path.abspath(path)
            if real in seen:
                report.note("image is listed more than once: read once", image_files.displayed(path))
                continue
            seen.add(real)
            prefix = f"{_plain(entry)}/" if len(entries) > 1 and os.path.isdir(place) else ""
            yield image_files.displayed(prefix + name), path


def _plain(entry: str) -> str:
    """A relative path without its dots, the last folder of an absolute one's two."""
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts[-2:] if os.path.isabs(entry) else parts)


def _walked(folder: str, report: InputReport) -> Iterator[tuple[str, str]]:
    for name in image_files.walk(folder):
        path = os.path.join(folder, name)
        if image_files.holds_labels(name):
            report.note("image in a folder of masks or drawings: left out", image_files.displayed(path))
        else:
            yield name, path


def _listed(config: YoloConfig, path: str) -> Iterator[tuple[str, str]]:
    """The images of a list, relative to it, or to the root; one of another machine by the end of its path."""
    here = os.path.dirname(path)
    for line in read_lines(path, "list of images"):
        name = line.replace("\\", "/")
        place = config.find(name, (here, *config.roots)) or os.path.join(here, name)
        yield _below(place, (*config.roots, here)) if os.path.isabs(name) else os.path.normpath(name), place


def _below(path: str, roots: tuple[str, ...]) -> str:
    """A path relative to the first root that it is in, or else its last two parts."""
    inside = (root for root in roots if path.startswith(os.path.join(root, "")))
    root = next(inside, None)
    return os.path.relpath(path, root) if root else _plain(path)


# --- their labels ------------------------------------------------------------------------------------


def _label_place(image: str) -> str:
    """Where the text file of an image is: the last `images` of its path becomes `labels`."""
    return os.path.splitext(_LABELS.join(os.path.abspath(image).rsplit(_IMAGES, 1)))[0] + ".txt"


def _label_file(image: str) -> str | None:
    """The text file of an image, where it is meant to be or else beside the image; None if there is none."""
    candidates = (_label_place(image), os.path.splitext(os.path.abspath(image))[0] + ".txt")
    return next(filter(os.path.isfile, candidates), None)


def _report_orphans(config: YoloConfig, split: str, used: set[str], report: InputReport) -> None:
    """Counts text files with objects whose image is missing, in folders that belong to the split alone."""
    for _, place in config.entries(split):
        folder = os.path.dirname(_label_place(os.path.join(place, "x")))
        if os.path.isfile(place) or not os.path.isdir(folder):
            continue
        for name in image_files.walk(folder, (".txt",)):
            path = os.path.abspath(os.path.join(folder, name))
            if path not in used and os.path.basename(name).lower() not in NOT_LABELS and _holds_objects(path):
                report.skip_image(
                    "text file without its image", image_files.displayed(path), image_files.displayed(name)
                )


def _holds_objects(path: str) -> bool:
    text = _text(path)
    lines = text.splitlines() if isinstance(text, str) else []
    return any(
        len(line.split()) >= 5 and all(map(math.isfinite, map(number, line.split()))) for line in lines
    )


def _text(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def _read_labels(record: ImageRecord, path: str, config: YoloConfig) -> str | None:
    """Adds the objects of a text file to a record; returns the reason where the file cannot be read."""
    text = _text(path)
    if text is None:
        return "text file cannot be read as UTF-8"
    if text.startswith(LFS_POINTER.decode()):
        return LFS_REASON
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    kinds = set()
    for line in dict.fromkeys(lines):  # Ultralytics takes lines that are repeated once, too
        found = _shape(line.split(), config.keypoints)
        if isinstance(found, str):
            record.lost.append(f"{found} ({line:.60})")
        else:
            kinds.add(found.outline is None)
            record.shapes.append(found)
    record.notes += ["line that repeats another: taken once"] * (len(lines) - len(set(lines)))
    if len(kinds) == 2:
        record.notes.append("boxes and polygons in one text file: each read as what it is")
    return None


def _shape(columns: list[str], keypoints: int) -> Shape | str:
    """The object of a line, or the reason why it is none.

    Args:
      keypoints: columns of keypoints behind a box, which are left out; 0 for none.
    """
    values = [number(column) for column in columns]
    if not all(map(math.isfinite, values)):
        return "line with a value that is not a number"
    label, score, count = values[0], 1.0, len(values)
    if keypoints and count == 5 + keypoints:
        values, count = values[:5], 5
    elif count == 6:
        score, count = values[5], 5
        if not 0.0 <= score <= 1.0:
            return "line with a score outside 0 to 1"
    if count < 5 or count > 5 and count % 2 == 0:
        return "line that is neither a box (5 columns) nor a polygon (an odd number, from 7 on)"
    points = values[1 : 5 if count == 5 else None]
    if not all(-OUTSIDE <= value <= 1 + OUTSIDE for value in points):
        return "line with a coordinate that is not a fraction of the image"
    name = str(int(label)) if label.is_integer() else columns[0]
    if count > 5:
        return Shape(name, outline=[points])
    x, y, width, height = points
    return Shape(name, [x - width / 2, y - height / 2, x + width / 2, y + height / 2], score=score)
