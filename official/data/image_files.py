"""Picture files: looking at them before a run, and reading them in the graph.

A file is inspected once, when its source is opened, so that a run does not meet a broken picture
hours later. What a viewer shows is what is read: the EXIF orientation is applied.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import warnings
from typing import Callable, Sequence

import numpy as np
import tensorflow as tf
import tqdm
from PIL import Image

from official.data.source import DataError, InputReport

READABLE = ("JPEG", "MPO", "PNG", "GIF", "BMP")  # what the graph can decode
EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
_EXIF_ORIENTATION = 0x0112
_QUIET_COUNT = 2000  # below it no progress bar


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """Size (height, width) as a viewer shows it, EXIF orientation, and notes worth counting."""

    height: int
    width: int
    orientation: int = 1
    notes: tuple[str, ...] = ()


def inspect_image(path: str, *, full: bool = True, max_pixels: int = 100_000_000) -> ImageFacts | str:
    """Looks at one file.

    Args:
      path: local path.
      full: decode every pixel (finds damage anywhere) instead of the header and the last bytes.
      max_pixels: a header that claims more is not decoded.

    Returns:
      Facts, or the reason why the file cannot be used.
    """
    if not os.path.isfile(path):
        return "file is absent"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return _facts(image, path, full, max_pixels)
    except Image.DecompressionBombError:
        return f"header claims more than {max_pixels} pixels"
    except Exception as error:  # Pillow raises many kinds for broken files
        return f"not a readable image ({type(error).__name__}: {str(error)[:80]})"


def _facts(image: Image.Image, path: str, full: bool, max_pixels: int) -> ImageFacts | str:
    width, height = image.size
    if width * height > max_pixels:
        return f"header claims more than {max_pixels} pixels"
    if image.format not in READABLE:
        return f"format {image.format} is not supported; convert it to JPEG or PNG"
    notes = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        notes.append("animated image: first frame used")
    if image.format == "BMP" and image.mode not in ("RGB", "L"):
        return f"BMP of mode {image.mode} is not supported; convert it to PNG"
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    if full:
        image.load()
    elif not _has_end(path, image.format):
        return "file is truncated"
    if orientation >= 5:
        width, height = height, width
    return ImageFacts(height, width, orientation, tuple(notes))


def _has_end(path: str, image_format: str) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        tail = file.read()
    marker = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(image_format)
    return marker is None or marker in tail


def inspect_images(
    paths: Sequence[str],
    ids: Sequence[object],
    report: InputReport,
    *,
    full: bool = True,
    max_pixels: int = 100_000_000,
) -> list[ImageFacts | None]:
    """Inspects many files in threads; None for those that cannot be used, which are reported."""

    def look(path):
        return inspect_image(path, full=full, max_pixels=max_pixels)

    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        found = pool.map(look, paths, chunksize=16)
        hidden = len(paths) < _QUIET_COUNT
        found = list(tqdm.tqdm(found, "checking images", len(paths), disable=hidden, unit=" images"))
    for path, image_id, facts in zip(paths, ids, found):
        if isinstance(facts, str):
            report.skip_image(facts, path, image_id)
        else:
            for note in facts.notes:
                report.note(note, path, image_id)
    return [None if isinstance(facts, str) else facts for facts in found]


def path_reader(paths: Sequence[str], orientations: Sequence[int]) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function that reads picture i of a list of files, upright."""
    table = tf.constant([str(path) for path in paths])
    turns = tf.constant(np.asarray(orientations, np.int32))

    def read(index):
        return upright(decode(tf.io.read_file(tf.gather(table, index))), tf.gather(turns, index))

    return read


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """JPEG, PNG, GIF (first frame) or BMP bytes to uint8 [H, W, 3]; alpha is dropped, 16 bits become 8."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Applies an EXIF orientation (1..8) to [H, W, 3]."""
    mirrored = tf.constant([False, True, False, True, True, False, True, False])
    quarter_turns = tf.constant([0, 0, 2, 2, 1, 3, 3, 1])  # counter-clockwise, after mirroring

    def turn():
        flipped = tf.cond(
            tf.gather(mirrored, orientation - 1), lambda: tf.image.flip_left_right(image), lambda: image
        )
        return tf.image.rot90(flipped, tf.gather(quarter_turns, orientation - 1))

    turned = tf.cond(orientation > 1, turn, lambda: image)
    return tf.ensure_shape(turned, [None, None, 3])


def safe_join(folder: str, file_name: str) -> str | None:
    """`folder/file_name`, or None if the name climbs out of the folder."""
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, file_name))
    return os.path.join(folder, file_name) if path.startswith(root + os.sep) else None


def require_folder(folder: str, word: str) -> None:
    """Raises DataError if the folder is not there."""
    if not os.path.isdir(folder):
        raise DataError(f"{word}: no folder {folder}")
