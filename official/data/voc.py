"""Pascal VOC folders: one XML per picture."""

from __future__ import annotations

import glob
import os
import xml.etree.ElementTree as ElementTree

import numpy as np

from official.data import image_files
from official.data.source import Annotations, Category, DataError, InputReport, Source, clean_boxes


def open_voc(
    folder: str,
    split: str | None = None,
    *,
    image_folder: str | None = None,
    full_check: bool = True,
    max_pixels: int = 100_000_000,
    max_skipped_fraction: float = 0.1,
) -> Source:
    """A source over a VOC folder: `Annotations/*.xml` and `JPEGImages/`, or XML and pictures anywhere in it.

    Boxes become 0-based and exclusive at the far side. Objects marked difficult count as crowd:
    they are not trained on and not held against a detection.

    Args:
      folder: the folder, such as VOCdevkit/VOC2007.
      split: a list in `ImageSets/Main/<split>.txt`; every XML when not given.

    Raises:
      DataError: nothing found, a bad list, an XML that cannot be read at all, too much unusable.
    """
    word, report = f"voc:{folder}", InputReport()
    image_files.require_folder(folder, word)
    records, paths, ids = [], [], []
    xml_paths = _xml_paths(folder, split, word)
    pictures = _pictures(image_folder or folder)
    for xml_path in xml_paths:
        image_id = os.path.splitext(os.path.basename(xml_path))[0]
        record = _parse(xml_path)
        if isinstance(record, str):
            report.skip_image(record, xml_path, image_id)
            continue
        picture = pictures.get(os.path.basename(record["file_name"])) or pictures.get(image_id)
        if picture is None:
            report.skip_image("image is absent", xml_path, image_id)
            continue
        records.append(record)
        paths.append(picture)
        ids.append(image_id)
    facts = image_files.inspect_images(paths, ids, report, full=full_check, max_pixels=max_pixels)
    report.check(word, len(xml_paths), max_skipped_fraction)
    kept = [i for i, fact in enumerate(facts) if fact is not None]
    names = sorted({name for i in kept for name in records[i]["names"]})
    objects = []
    for i in kept:
        columns = {k: np.array(records[i][k]) for k in ("boxes", "crowd")}
        columns["classes"] = np.array([names.index(name) for name in records[i]["names"]], np.int32)
        objects.append(clean_boxes(columns, (facts[i].height, facts[i].width), report, paths[i], ids[i]))
    return Source(
        word=word,
        ids=np.array([ids[i] for i in kept]),
        sizes=np.array([(facts[i].height, facts[i].width) for i in kept], np.int32),
        read_image=image_files.path_reader([paths[i] for i in kept], [facts[i].orientation for i in kept]),
        categories=tuple(Category(i + 1, name) for i, name in enumerate(names)),
        annotations=Annotations.from_images(objects),
        file_names=np.array([paths[i] for i in kept]),
        report=report,
    )


def _xml_paths(folder: str, split: str | None, word: str) -> list[str]:
    found = sorted(glob.glob(os.path.join(glob.escape(folder), "**", "*.xml"), recursive=True))
    if split:
        list_path = os.path.join(folder, "ImageSets", "Main", f"{split}.txt")
        if not os.path.isfile(list_path):
            raise DataError(f"{word}: no split list {list_path}")
        with open(list_path, encoding="utf-8") as file:
            wanted = {line.split()[0] for line in file if line.strip()}
        found = [p for p in found if os.path.splitext(os.path.basename(p))[0] in wanted]
    if not found:
        raise DataError(f"{word}: no XML annotation found")
    return found


def _pictures(folder: str) -> dict[str, str]:
    """File name and bare name -> path, for every picture below the folder."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            stem, extension = os.path.splitext(name)
            if extension.lower() in image_files.EXTENSIONS:
                found[name] = found[stem] = os.path.join(root, name)
    return found


def _parse(path: str) -> dict | str:
    """The fields of one XML, or the reason why it cannot be used."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        return f"not XML ({error})"
    if root.tag != "annotation":
        return f"root element is <{root.tag}>, not <annotation>"
    boxes, names, crowd = [], [], []
    for item in root.iter("object"):
        corners = [_float(item.find(f"bndbox/{key}")) for key in ("ymin", "xmin", "ymax", "xmax")]
        boxes.append([corners[0] - 1, corners[1] - 1, corners[2], corners[3]])
        names.append((item.findtext("name") or "").strip())
        crowd.append((item.findtext("difficult") or "0").strip() == "1")
    return {
        "file_name": (root.findtext("filename") or "").strip(),
        "boxes": np.array(boxes, np.float64).reshape(-1, 4),
        "names": names,
        "crowd": np.array(crowd, bool),
    }


def _float(element) -> float:
    try:
        return float(element.text)
    except (AttributeError, TypeError, ValueError):
        return float("nan")
