"""COCO's JSON files as text: read with the memory of their numbers, refused with the reason where they are
not COCO.
"""

from __future__ import annotations

import collections
import json
import os
from typing import Any, Callable

import numpy as np

from official.data.formats.recognise import what_it_is
from official.data.input_report import DataError
from official.data.labels import identifier

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_REASON = "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"


def read_json_file(path: str, what: str, hook: Callable[[dict], Any] | None = None) -> Any:
    """The content of a JSON file; a byte order mark is skipped.

    Args:
      what: it should be, for messages.
      hook: called with every object as soon as it is read.

    Raises:
      DataError: absent, a Git LFS pointer, or not JSON.
    """
    if not os.path.isfile(path):
        raise DataError(f"no {what} {path}{what_it_is(path)}")
    try:
        with open(path, "rb") as file:
            start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise DataError(f"{path} is {LFS_REASON}")
        with open(path, encoding="utf-8-sig") as file:
            return json.loads(file.read(), object_hook=hook)
    except RecursionError as error:
        raise DataError(f"{path} is not a {what}: it is nested too deeply") from error
    except ValueError as error:  # not JSON, not UTF-8, or a number of more digits than Python reads
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is not a {what}: it is not JSON ({str(error)[:200]}){what_it_is(path)}"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def load_coco_json(path: str, *, labeled: bool = True, outlines: bool = True) -> dict[str, Any]:
    """Reads an annotation file and checks its shape.

    Args:
      labeled: False takes a file of images alone, as COCO's `image_info_*`; annotations are left out then.
      outlines: False leaves out the segmentations, most of such a file.

    Raises:
      DataError: absent, not JSON, not COCO, or an image id twice.
    """
    data = read_json_file(path, "COCO file", _hook(labeled, outlines))
    for key in ("images", "annotations", "categories") if labeled else ("images",):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            without = isinstance(data, dict) and isinstance(data.get("images"), list) and key == "annotations"
            remedy = "; it can be used as --unlabeled_data" if without else ""
            raise DataError(
                f'{path} is not a COCO annotation file: it has no list "{key}"{remedy or what_it_is(path)}'
            )
    for image in data["images"]:
        if not isinstance(image, dict) or identifier(image.get("id")) is None:
            raise DataError(f"{path}: an image has no id: {str(image)[:100]}")
    counts = collections.Counter(identifier(image["id"]) for image in data["images"])
    repeated = [i for i, n in counts.items() if n > 1]
    if repeated:
        raise DataError(
            f"{path}: image id {', '.join(repeated[:5])} occurs more than once ({len(repeated)} such ids)"
        )
    if labeled:
        data["annotations"] = [a if isinstance(a, dict) else {} for a in data["annotations"]]
    return data


def _hook(labeled: bool, outlines: bool) -> Callable[[dict], Any]:
    """Keeps of an annotation what is wanted, while it is read: a COCO file is far larger as Python
    objects.
    """

    def hook(entry: dict) -> dict:
        if "segmentation" not in entry:
            return entry
        if not labeled:
            return {}
        if not outlines:
            del entry["segmentation"]
        else:
            entry["segmentation"] = _compact(entry["segmentation"])
        return entry

    return hook


def _compact(outline: Any) -> Any:
    """Lists of numbers as arrays; whatever else as it is."""
    if (
        isinstance(outline, list)
        and outline
        and all(type(p) is list and p and type(p[0]) in (int, float) for p in outline)
    ):
        try:
            return [np.array(p, np.float64) for p in outline]
        except (ValueError, TypeError, OverflowError):
            return outline
    return outline
