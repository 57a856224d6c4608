"""Pascal VOC folders: one XML per image."""

from __future__ import annotations

import collections
import os
import xml.etree.ElementTree as ElementTree

import numpy as np

from official.data import image_files
from official.data.formats.coco_json import LFS_POINTER, LFS_REASON
from official.data.formats.recognise import what_it_is
from official.data.input_report import DataError, InputReport, printable
from official.data.labels import (
    ImageTable,
    RawObjects,
    clean_objects,
    flag,
    note_crowded_classes,
    number,
)
from official.data.source import Category, Source
from official.data.text_lists import read_split

NO_XML = "entry of the list has no XML"


def open_voc(
    folder: str,
    split: str | None = None,
    *,
    image_folder: str | None = None,
    first_pixel: str = "auto",
    full_check: bool = True,
    max_pixels: int = 100_000_000,
    max_skipped_fraction: float = 0.1,
    crowd: str = "ignore",
    stated_size: str = "check",
) -> Source:
    """A source over a VOC folder: `Annotations/*.xml` and `JPEGImages/`, or XML and images anywhere in it.

    Boxes become 0-based and exclusive at the far side: Pascal VOC counts pixels from 1, LabelImg (which calls
    its database "Unknown") and other tools from 0. Objects marked difficult count as crowd:
    they are not trained on and not held against a detection. The id of an image is the name of its XML, with
    the folders below `folder` (or below `Annotations`) where names occur twice.

    Args:
      folder: the folder, such as VOCdevkit/VOC2007.
      split: a list in `ImageSets/Main/<split>.txt`; every XML when not given.
      image_folder: where the images are, when not in `folder`.
      first_pixel: number of the first pixel, "0" or "1"; "auto": 0 in XMLs of LabelImg, and in all where one
        has a 0.
      crowd: see `official.data.labels.clean_objects`.
      stated_size: "check": an image of another size than its XML states is left out; "scale": its boxes are
        scaled.

    Raises:
      DataError: nothing found, a bad list, two images that fit one XML, too much unusable.
    """
    word, report = f"voc:{folder}", InputReport()
    image_files.require_folder(folder, word)
    entries = _xml_files(folder, split, word, report)
    records, paths, ids = _read_entries(folder, entries, _ImageFinder(folder, image_folder), report)
    facts = image_files.inspect_images(paths, ids, report, full=full_check, max_pixels=max_pixels)
    kept = [i for i, fact in enumerate(facts) if fact is not None]
    records, paths, ids = [records[i] for i in kept], [paths[i] for i in kept], [ids[i] for i in kept]
    known = [fact for fact in facts if fact is not None]
    stated = [record["size"] for record in records]
    frames, usable = image_files.stated_frames(
        stated, known, paths, ids, report, scaled=stated_size == "scale"
    )
    report.check(word, len(entries) + report.counts[NO_XML], max_skipped_fraction)
    kept = np.flatnonzero(usable).tolist()
    source = image_files.file_source(word, kept, ids, paths, known, report, frames=frames.take(usable))
    records, paths, ids = [records[i] for i in kept], [paths[i] for i in kept], [ids[i] for i in kept]
    source = _labelled(source, _counted_from_zero(records, paths, ids, first_pixel, report), crowd)
    report.check_objects(word, max_skipped_fraction)
    return source


def _read_entries(
    folder: str, entries: dict[str, str], finder: _ImageFinder, report: InputReport
) -> tuple[list[dict], list[str], list[str]]:
    """What the XMLs say, the paths of their images, and their ids; what cannot be used is reported."""
    records, paths, ids = [], [], []
    for image_id, xml_name in entries.items():
        record = _parse(os.path.join(folder, xml_name))
        image = None if isinstance(record, str) else finder.image_of(record["file_name"], xml_name)
        if isinstance(record, str) or image is None:
            reason = record if isinstance(record, str) else "image is absent"
            report.skip_image(reason, image_files.displayed(os.path.join(folder, xml_name)), image_id)
            continue
        records.append(record)
        paths.append(image)
        ids.append(image_id)
    return records, paths, ids


def _counted_from_zero(
    records: list[dict], paths: list[str], ids: list[str], first_pixel: str, report: InputReport
) -> list[dict]:
    """The records with their near corners counted from 0.

    Raises:
      DataError: `first_pixel` is neither "auto", "0" nor "1".
    """
    if first_pixel not in ("auto", "0", "1"):
        raise DataError(f"first_pixel={first_pixel} is neither auto, 0 nor 1")
    a_zero = any(min(box[:2]) == 0 for record in records for box, *_ in record["objects"])
    found = []
    for record, path, image_id in zip(records, paths, ids):
        from_zero = (a_zero or record["labelimg"]) if first_pixel == "auto" else first_pixel == "0"
        if from_zero and first_pixel == "auto" and record["objects"]:
            report.note(
                "boxes count pixels from 0, not from 1 as Pascal VOC; ,first_pixel=1 says otherwise",
                path,
                image_id,
            )
        shift = 0.0 if from_zero else 1.0
        objects = [([b[0] - shift, b[1] - shift, b[2], b[3]], *rest) for b, *rest in record["objects"]]
        found.append({**record, "objects": objects})
    return found


def _labelled(source: Source, records: list[dict], crowd: str) -> Source:
    objects = [item for record in records for item in record["objects"]]
    names = sorted({name for *_, name in objects if name})
    raw = RawObjects(
        images=np.repeat(np.arange(len(records)), [len(record["objects"]) for record in records]),
        boxes=np.array([box for box, *_ in objects], np.float64).reshape(-1, 4),
        classes=[name for *_, name in objects],
        box_format="yxyx",
        crowd=[difficult for _, difficult, _ in objects],
        text=True,
    )
    table = ImageTable(source.ids.tolist(), source.names.tolist(), source.sizes, source.frames)
    annotations, _ = clean_objects(
        raw, table, {name: i for i, name in enumerate(names)}, source.report, crowd=crowd
    )
    categories = tuple(Category(i + 1, name) for i, name in enumerate(names))
    note_crowded_classes(annotations, categories, source.report)
    return source.with_annotations(annotations, categories)


# --- which files ------------------------------------------------------------------------------------


def _xml_files(folder: str, split: str | None, word: str, report: InputReport) -> dict[str, str]:
    """XML path below `folder` by the id of its image, in order; entries of the list without one are
    reported.
    """
    names = list(image_files.walk(folder, (".xml",)))
    bare = collections.Counter(_stem(name) for name in names)
    found = {_whole_id(name) if bare[_stem(name)] > 1 else _stem(name): name for name in names}
    found = {image_files.displayed(image_id): name for image_id, name in sorted(found.items())}
    if split:
        list_path = os.path.join(folder, "ImageSets", "Main", f"{split}.txt")
        if not os.path.isfile(list_path):
            raise DataError(f"{word}: no split list {list_path}")
        found = _listed(found, read_split(list_path, "split list"), list_path, report)
    if not found and not report.skipped_images:
        raise DataError(f"{word}: no XML annotation found{what_it_is(folder)}")
    return found


def _listed(found: dict[str, str], entries: list[str], list_path: str, report: InputReport) -> dict[str, str]:
    by_name = {_whole_id(name): image_id for image_id, name in found.items()}
    by_bare: dict[str, list[str]] = collections.defaultdict(list)
    for image_id, name in found.items():
        by_bare[_stem(name)].append(image_id)
    listed = {}
    for entry in dict.fromkeys(entries):
        candidates = (entry, os.path.splitext(entry)[0], os.path.splitext(os.path.basename(entry))[0])
        known = next((c for c in candidates if c in found), None) or by_name.get(entry)
        several = [i for c in candidates for i in by_bare.get(c, [])]
        if known is None and len(set(several)) > 1:
            raise DataError(
                f"{list_path}: {entry} may be {several[0]} or {several[1]}; list it with its folder"
            )
        known = known or next(iter(several), None)
        if known is None:
            report.skip_image(NO_XML, list_path, entry)
        else:
            listed[known] = found[known]
    return listed


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]


def _whole_id(name: str) -> str:
    """The path of an XML below the folder without its ending, and without `Annotations/`."""
    return os.path.splitext(name)[0].removeprefix("Annotations" + os.sep)


class _ImageFinder:
    """The image of an XML: by its relative path, beside the XML, in `JPEGImages`, then anywhere below the
    folder.
    """

    def __init__(self, folder: str, image_folder: str | None) -> None:
        self.folder, self.images = folder, image_folder
        self.everywhere = image_files.ImageFinder(image_folder or folder)

    def image_of(self, file_name: str, xml_name: str) -> str | None:
        """Path of an existing image, or None.

        Args:
          file_name: as the XML says it, maybe without an ending, with foreign folders, or empty.
          xml_name: path of the XML below the folder.

        Raises:
          DataError: two images fit.
        """
        file_name = file_name.replace("\\", "/")
        beside, below = os.path.split(xml_name)[0], os.path.split(_whole_id(xml_name))[0]
        places = self._places(beside, below)
        for spelled in ([file_name, os.path.basename(file_name)], [_stem(xml_name)]):
            names = [name for name in dict.fromkeys(spelled) if image_files.safe_join(".", name)]
            near = (image_files.named_image(os.path.join(*place), name) for name in names for place in places)
            far = (self.everywhere.elsewhere(os.path.join(below, name), stem=True) for name in names)
            found = next(filter(None, near), None) or next(filter(None, far), None)
            if found:
                return found
        return None

    def _places(self, beside: str, below: str) -> list[tuple[str, str]]:
        if self.images:
            return [(self.images, below), (self.images, "")] if below else [(self.images, "")]
        places = ["", beside, os.path.join("JPEGImages", below), "JPEGImages"]
        return [
            (self.folder, place) for place in dict.fromkeys(os.path.normpath(p) if p else "" for p in places)
        ]


# --- one file ---------------------------------------------------------------------------------------


def _parse(path: str) -> dict | str:
    """The fields of one XML, or the reason why it cannot be used."""
    try:
        with open(path, "rb") as file:
            text = file.read()
        if text.startswith(LFS_POINTER):
            return LFS_REASON
        root = ElementTree.fromstring(text.lstrip())
    except (
        ElementTree.ParseError,
        ValueError,
        LookupError,
    ) as error:  # also of an encoding that Python lacks
        return f"not XML ({error})"
    except OSError as error:
        return f"XML cannot be read ({error})"
    if root.tag != "annotation":
        return f"root element is not <annotation> (<{printable(str(root.tag)):.40}>)"
    size = root.find("size")
    return {
        "file_name": (root.findtext("filename") or "").strip(),
        "size": tuple(
            number(size.findtext(side)) if size is not None else np.nan for side in ("height", "width")
        ),
        "labelimg": (root.findtext("source/database") or "").strip().lower() == "unknown",
        "objects": [_object(item) for item in root.iter("object")],
    }


def _object(item: ElementTree.Element) -> tuple[list[float], bool, str]:
    """yxyx as written; whether it is ignored; the name of its class."""
    corners = [number(item.findtext(f"bndbox/{key}")) for key in ("ymin", "xmin", "ymax", "xmax")]
    difficult = flag(item.findtext("difficult")) or False
    return corners, difficult, printable((item.findtext("name") or "").strip())
