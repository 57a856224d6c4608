"""What the colours of masks mean: Pascal VOC's, `labelmap.txt` of CVAT and Datumaro, or lines of `r g b
name`.
"""

from __future__ import annotations

import re

from official.data.formats.mask_files import IGNORE, Palette
from official.data.input_report import DataError
from official.data.text_lists import read_lines

VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_VOC_BORDER = (224, 224, 192)
_NOTHING = ("void", "ignore", "ignored", "unlabeled", "unlabelled")  # names of classes that say nothing
_LABEL_MAP = re.compile(r"^(?P<name>[^:]*):(?P<r>\d+),(?P<g>\d+),(?P<b>\d+):[^:]*:[^:]*$")
_COLOR_NAME = re.compile(r"^(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)[\s,]+(?P<name>\S.*)$")


def voc_color(label: int) -> tuple[int, int, int]:
    """The colour of a label in Pascal VOC's palette: the bits of the label spread over the channels, highest
    first.
    """
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


def read_palette(source: str) -> tuple[tuple[str, ...], Palette]:
    """Names by index, and the class of every colour.

    Args:
      source: "voc", or a file; a class called background becomes the first, void and ignore say nothing.

    Raises:
      DataError: no such file, or a line of it that is no colour with a name.
    """
    if source == "voc":
        colors = {voc_color(i): i for i in range(len(VOC_CLASSES))}
        return VOC_CLASSES, {**colors, _VOC_BORDER: IGNORE}
    entries = [
        _entry(line, source) for line in read_lines(source, "palette file") if not line.startswith("#")
    ]
    named = [name for name, _ in entries if name.lower() not in _NOTHING]
    names = sorted(dict.fromkeys(named), key=lambda name: name.lower() != "background")
    if not 1 <= len(names) < IGNORE:
        raise DataError(
            f"palette={source}: needs 1 to {IGNORE - 1} classes, a line each; there are {len(names)}"
        )
    palette: dict[tuple[int, int, int], int] = {}
    for name, color in entries:
        label = IGNORE if name.lower() in _NOTHING else names.index(name)
        if palette.setdefault(color, label) != label:
            raise DataError(f"palette={source}: the colour {color} has two names, {name!r} among them")
    return tuple(names), palette


def _entry(line: str, source: str) -> tuple[str, tuple[int, int, int]]:
    match = _LABEL_MAP.match(line) or _COLOR_NAME.match(line)
    if not match or max(int(match[c]) for c in "rgb") > 255:
        raise DataError(
            f"palette={source}: {line!r:.80} is neither `name:r,g,b::` nor `r g b name`, with colours of 0 "
            f"to 255"
        )
    return match["name"].strip(), (int(match["r"]), int(match["g"]), int(match["b"]))
