"""Where the pixels that a file's boxes count in lie in the image that is read: turned by EXIF, or another
scale.
"""

from __future__ import annotations

import dataclasses
from typing import Sequence

import numpy as np

from official.data.input_report import InputReport

SIZE_TOLERANCE = 1.0  # pixels by which a scaled size may be off its ratio, from rounding


@dataclasses.dataclass(frozen=True)
class Frames:
    """The frame of every image of a source.

    A box of the file is turned within its frame first, and scaled to the image that is read then.

    Attributes:
      sizes: int32 [images, 2], (height, width) that the file's boxes count in.
      turns: int8 [images], EXIF orientation (1..8) that leads from there to the upright image; 1: none.
      read: int32 [images, 2], (height, width) of the image that is read.
    """

    sizes: np.ndarray
    turns: np.ndarray
    read: np.ndarray

    def take(self, indices: np.ndarray) -> Frames:
        """The frames of the given images."""
        return Frames(self.sizes[indices], self.turns[indices], self.read[indices])

    def scale(self, images: np.ndarray) -> np.ndarray:
        """Float64 [N, 2], pixels read per pixel of the (turned) file, y and x, of the given images."""
        turned = np.where(self.turns[images, None] >= 5, self.sizes[images, ::-1], self.sizes[images])
        return self.read[images] / np.maximum(turned, 1).astype(np.float64)

    def to_image(self, boxes: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] yxyx of the file, float64, in pixels of the images that are read."""
        turned = _turn(boxes, self.sizes[images], self.turns[images])
        return turned * np.tile(self.scale(images), 2)

    def to_file(self, boxes: np.ndarray, images: np.ndarray) -> np.ndarray:
        """The inverse of `to_image`."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4) / np.tile(self.scale(images), 2)
        turns = self.turns[images]
        boxes = np.where((turns >= 5)[:, None], boxes[:, [1, 0, 3, 2]], boxes)
        return _mirror(boxes, self.sizes[images], turns)

    def area_scale(self, images: np.ndarray) -> np.ndarray:
        """Float64 [N], square pixels read per square pixel of the file."""
        return self.scale(images).prod(axis=1)


def _mirror(boxes: np.ndarray, sizes: np.ndarray, turns: np.ndarray) -> np.ndarray:
    y, x = boxes[:, 0::2], boxes[:, 1::2]
    y = np.where(np.isin(turns, (3, 4, 6, 7))[:, None], sizes[:, :1] - y[:, ::-1], y)
    x = np.where(np.isin(turns, (2, 3, 7, 8))[:, None], sizes[:, 1:] - x[:, ::-1], x)
    return np.stack([y[:, 0], x[:, 0], y[:, 1], x[:, 1]], axis=1)


def _turn(boxes: np.ndarray, sizes: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """An EXIF orientation applied to yxyx boxes [N, 4] within frames of (height, width) [N, 2]."""
    mirrored = _mirror(np.asarray(boxes, np.float64).reshape(-1, 4), sizes, turns)
    return np.where((turns >= 5)[:, None], mirrored[:, [1, 0, 3, 2]], mirrored)


def turned_upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """An EXIF orientation (1..8) applied to [H, W]."""
    if orientation in (2, 3, 7, 8):
        values = values[:, ::-1]
    if orientation in (3, 4, 6, 7):
        values = values[::-1]
    return values.T if orientation >= 5 else values


def frame_of(
    stated: tuple[float, float], shown: tuple[int, int], orientation: int, *, scaled: bool
) -> tuple[int, int, int] | str:
    """(height, width, turn) of the frame that boxes count in, or the reason why it cannot be told.

    Args:
      stated: (height, width) that the annotations state; not positive or not finite where they state none.
      shown: (height, width) of the upright image.
      orientation: EXIF orientation of the stored image.
      scaled: a stated size of the same shape and another scale is taken for what boxes count in.
    """
    height, width = stated
    stored = shown[::-1] if orientation >= 5 else shown
    if (
        not (np.isfinite(height) and np.isfinite(width) and height > 0 and width > 0)
        or (height, width) == shown
    ):
        return (*shown, 1)
    if (height, width) == stored:
        return (*stored, orientation)
    detail = f"({width:g} x {height:g} stated, the file is {shown[1]} x {shown[0]})"
    for size, turn in ((shown, 1), (stored, orientation)):
        if abs(height * size[1] - width * size[0]) <= SIZE_TOLERANCE * max(max(stated), max(size)):
            if scaled:
                return int(round(height)), int(round(width)), turn
            return (
                f"another scale is stated than the image has; --stated_size=scale scales its boxes {detail}"
            )
    return f"another size is stated than the image has {detail}"


def frames_of(
    stated: np.ndarray,
    shown: np.ndarray,
    orientations: Sequence[int],
    files: Sequence[str],
    ids: Sequence[str],
    report: InputReport,
    *,
    scaled: bool,
) -> tuple[Frames, np.ndarray]:
    """Frames of many images, and which of them are usable, bool [images]; the others are reported as skipped.

    Args:
      stated, shown: [images, 2] (height, width); see `frame_of`.
    """
    sizes, turns = np.array(shown, np.int32).reshape(-1, 2), np.ones(len(files), np.int8)
    usable = np.ones(len(files), bool)
    for i in np.flatnonzero((np.asarray(stated).reshape(-1, 2) != sizes).any(axis=1)):
        found = frame_of(tuple(stated[i]), tuple(shown[i]), orientations[i], scaled=scaled)
        if isinstance(found, str):
            report.skip_image(found, files[i], ids[i])
            usable[i] = False
            continue
        *sizes[i], turns[i] = found
        if turns[i] > 1:
            report.note("boxes drawn on the stored image are turned upright with it", files[i], ids[i])
        elif tuple(sizes[i]) != tuple(shown[i]):
            report.note("boxes of another scale are scaled to the image", files[i], ids[i])
    return Frames(sizes, turns, np.array(shown, np.int32).reshape(-1, 2)), usable
