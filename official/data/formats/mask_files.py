"""Class maps as PNG files: reading, checking and encoding them.

What every mask is read and written by; `official.data.formats.mask_folders` opens folders of them.
"""

from __future__ import annotations

import io
from typing import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from official.data.input_report import DataError, InputReport

IGNORE = 255

# Colour (r, g, b) of every class; more than one may mean one class.
Palette = Mapping[tuple[int, int, int], int]


def read_class_map(
    path_or_bytes: str | bytes,
    size: tuple[int, int] | None = None,
    palette: Palette | None = None,
    turned: bool = False,
) -> np.ndarray | str:
    """Uint8 [H, W] class indices of a palette or greyscale PNG, or the reason why it has none.

    Args:
      size: the (height, width) that it must have; another is found out without a pixel being decoded.
      palette: the mask is coloured; of every colour its class.
      turned: width and height may also be exchanged.
    """
    try:
        file = io.BytesIO(path_or_bytes) if isinstance(path_or_bytes, bytes) else path_or_bytes
        with Image.open(
            file, formats=["PNG"]
        ) as image:  # of Pillow's other decoders some are old and few are needed
            height, width = image.size[::-1] if size is None else size
            sizes = [(height, width), (width, height)] if turned else [(height, width)]
            if image.size[::-1] not in sizes:
                return (
                    f"mask has another size than its image ({image.height} x {image.width}, its image "
                    f"{height} x {width})"
                )
            if palette is not None:
                classes = _classes_of_colors(np.asarray(image.convert("RGB")), palette)
                if isinstance(classes, np.ndarray) or image.mode not in ("L", "1"):
                    return classes  # a greyscale one may hold class indices all the same
            if image.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
                return (
                    "mask is a colour image, not class indices; say what its colours mean with "
                    f",palette=FILE or make it greyscale (mode {image.mode})"
                )
            values = np.asarray(image)
    except FileNotFoundError:
        return "mask is absent"
    except Exception as error:  # Pillow raises many kinds for broken files
        return f"mask is not a readable PNG ({type(error).__name__}: {str(error)[:80]})"
    if values.size and (values.max() > IGNORE or values.min() < 0):
        return (
            f"mask has a label beyond 8 bits, which hold at most 254 and 255 for ignore (label "
            f"{int(values.max())})"
        )
    return values.astype(np.uint8)


def _classes_of_colors(pixels: np.ndarray, palette: Palette) -> np.ndarray | str:
    """Uint8 [H, W] of RGB pixels, or the reason why a colour has no class."""
    codes = pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    table = {(r << 16) + (g << 8) + b: label for (r, g, b), label in palette.items()}
    found, places = np.unique(codes, return_inverse=True)
    unknown = [int(code) for code in found if int(code) not in table]
    if unknown:
        color = (unknown[0] >> 16, unknown[0] >> 8 & 255, unknown[0] & 255)
        return f"mask has a colour that the palette lacks ({' '.join(map(str, color))})"
    return np.array([table[int(code)] for code in found], np.uint8)[places].reshape(codes.shape)


def sized_class_map(path_or_bytes: str | bytes, size: tuple[int, int]) -> np.ndarray | str:
    """`read_class_map` of a mask that must have its image's (height, width)."""
    return read_class_map(path_or_bytes, size)


def present_labels(values: np.ndarray) -> np.ndarray:
    """Int64 [256], 1 for every value that occurs in a class map."""
    return (np.bincount(values.ravel(), minlength=IGNORE + 1) > 0).astype(np.int64)


def note_classes(
    word: str, present: np.ndarray, classes: Sequence[str] | None, report: InputReport
) -> list[str]:
    """Names of the classes of masks, after a look at what occurs in them.

    Args:
      present: int [256], in how many masks each value occurs.
      classes: names by index; None: numbers up to the highest label.

    Raises:
      DataError: nothing but one class and "ignore" occurs: most often masks of 0 and 255 whose 255 is the
        object.
    """
    labels = np.flatnonzero(present[:IGNORE])
    names = list(classes) if classes is not None else [str(i) for i in range(int(labels.max(initial=0)) + 1)]
    if len(labels) < 2 and present[IGNORE]:
        held = f"{labels[0]} and 255" if len(labels) else "255"
        raise DataError(
            f"{word}: the masks hold nothing but {held}, and 255 means that nothing is said there. Where it "
            "is the object, add ,foreground=255 to the word"
        )
    if len(labels) < 2:
        only = names[labels[0]] if len(labels) else "none"
        report.note(f"masks hold fewer than two classes ({only})", "")
    for label in range(len(names)):
        if not present[label]:
            report.note(f"class occurs in no mask ({names[label]})", "")
    return names


SCORE_LEVELS = 256


def stored_score(probability: np.ndarray) -> np.ndarray:
    """Probabilities as uint8: floor(256 p), at most 255, so that thresholds k / 256 are kept exactly."""
    return np.minimum(np.floor(SCORE_LEVELS * probability), SCORE_LEVELS - 1).astype(np.uint8)


def stored_limit(threshold: np.ndarray | float) -> np.ndarray:
    """The smallest stored score that reaches a threshold in [0, 1]; above 255 none does."""
    return np.ceil(np.asarray(threshold, np.float64) * SCORE_LEVELS - 1e-9).astype(np.int64)


def encode_class_map(values: np.ndarray, palette: Sequence[int] | None = None) -> bytes:
    """PNG bytes of class indices uint8 [H, W]; with a palette of 768 numbers, a palette PNG."""
    image = Image.fromarray(np.asarray(values, np.uint8))
    if palette is not None:
        image = image.convert("P") if image.mode != "P" else image
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def stored_mask_reader(encoded: Sequence[bytes]) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function over greyscale PNGs in memory: image number -> uint8 [H, W]."""
    table = tf.constant(list(encoded))
    return lambda index: tf.io.decode_png(tf.gather(table, index), channels=1)[..., 0]
