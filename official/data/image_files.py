"""Image files: looking at them before a run, and reading them in the graph.

A file is inspected once, when its source is opened, so that a run does not meet a broken image
hours later. What a viewer shows is what is read: the EXIF orientation is applied.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
import os
import re
import warnings
from typing import Any, Callable, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from official.data.formats.coco_json import LFS_POINTER, LFS_REASON
from official.data.formats.png_chunks import png_exif
from official.data.frames import Frames, frames_of
from official.data.image_index import ImageIndex
from official.data.image_places import (  # noqa: F401
    EXTENSIONS,
    ImageFinder,
    displayed,
    guess_folder,
    holds_labels,
    is_foreign,
    named_image,
    require_folder,
    safe_join,
    walk,
)
from official.data.input_report import InputReport
from official.data.source import Source
from official.screen import counted

IN_GRAPH = ("JPEG", "MPO", "PNG", "GIF", "BMP")  # what TensorFlow decodes
BY_PILLOW = ("WEBP", "TIFF")  # what it does not
_PILLOW_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I;16L", "RGBX", "YCbCr", "LAB")
_EXIF_ORIENTATION = 0x0112
QUIET_COUNT = 2000  # images; below it no progress bar and no index
_KEPT_EVERY = 20_000  # images between two writings of the index


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """Size (height, width) as a viewer shows it, EXIF orientation, whether Pillow reads it, and notes worth
    counting.
    """

    height: int
    width: int
    orientation: int = 1
    by_pillow: bool = False
    notes: tuple[str, ...] = ()


def inspect_image(path: str | bytes, *, full: bool = True, max_pixels: int = 100_000_000) -> ImageFacts | str:
    """Looks at one file, or at its bytes.

    Args:
      path: local path, or bytes of the file.
      full: decode every pixel with the decoder that will read it, instead of the header and the last bytes.
      max_pixels: a header that claims more is not decoded.

    Returns:
      Facts, or the reason why the file cannot be used.
    """
    if isinstance(path, str) and not os.path.isfile(path):
        return "file is absent"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(path) if isinstance(path, bytes) else path) as image:
                return _facts(image, path, full, max_pixels)
    except Image.DecompressionBombError:
        return f"header claims more than {max_pixels} pixels"
    except Exception as error:  # Pillow raises many kinds for broken files
        if _content(path, len(LFS_POINTER)) == LFS_POINTER:
            return LFS_REASON
        # An address that differs from start to start.
        words = re.sub(r" <_io\.\w+ object at \w+>", "", str(error))
        return f"not a readable image ({type(error).__name__}: {words[:80]})"


def _content(path: str | bytes, length: int = -1) -> bytes:
    if isinstance(path, bytes):
        return path if length < 0 else path[:length]
    try:
        with open(path, "rb") as file:
            return file.read(length)
    except OSError:
        return b""


def _facts(image: Image.Image, path: str | bytes, full: bool, max_pixels: int) -> ImageFacts | str:
    width, height = image.size
    if width * height > max_pixels:
        return f"header claims more than {max_pixels} pixels"
    by_pillow = image.format in BY_PILLOW
    if not by_pillow and image.format not in IN_GRAPH:
        return f"format is not supported; convert it to JPEG or PNG ({image.format})"
    notes = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        notes.append(
            "animated image: first frame used"
            if image.format == "GIF"
            else "image of several frames: first frame used"
        )
    if (
        image.format == "BMP"
        and image.mode not in ("RGB", "L")
        or by_pillow
        and image.mode not in _PILLOW_MODES
    ):
        return (
            f"pixels are of a kind that is not supported; convert it to an 8-bit PNG ({image.format} of "
            f"mode {image.mode})"
        )
    exif = png_exif(image, path) if image.format == "PNG" else image.getexif()
    orientation = exif.get(_EXIF_ORIENTATION, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    if by_pillow:
        # Pillow gives a TIFF's size upright already.
        orientation = 1 if image.format == "TIFF" else orientation
    reason = _damage(image, path, full, by_pillow)
    if reason:
        return reason
    if orientation >= 5:
        width, height = height, width
    return ImageFacts(height, width, orientation, by_pillow, tuple(notes))


def _damage(image: Image.Image, path: str | bytes, full: bool, by_pillow: bool) -> str:
    """Why the pixels cannot be read, "" if they can."""
    if image.format == "BMP" and int.from_bytes(_content(path, 30)[28:], "little") not in (8, 24, 32):
        return (
            "file is of a kind that TensorFlow does not decode; convert it to PNG (BMP of other than 8, "
            "24 or 32 bits)"
        )
    if not full:
        return "" if _has_end(path, image.format) else "file is truncated"
    if by_pillow:
        image.load()
        return ""
    try:
        shape = tf.io.decode_image(_content(path), channels=3, expand_animations=False).shape
    except tf.errors.InvalidArgumentError as error:
        return f"file is damaged, or of a kind that TensorFlow does not decode ({str(error.message)[:80]})"
    if tuple(shape[:2]) != image.size[::-1]:
        return (
            f"pixels have another size than the header says ({shape[1]} x {shape[0]}, header "
            f"{image.size[0]} x {image.size[1]})"
        )
    return ""


def _has_end(path: str | bytes, image_format: str | None) -> bool:
    marker = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(image_format or "")
    if marker is None:
        return True
    if isinstance(path, bytes):
        return marker in path[-4096:]
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        return marker in file.read()


def inspect_images(
    paths: Sequence[str],
    ids: Sequence[object],
    report: InputReport,
    *,
    full: bool = True,
    max_pixels: int = 100_000_000,
) -> list[ImageFacts | None]:
    """Inspects many files in threads; None for those that cannot be used, which are reported.

    What is known from an earlier start (official/data/index.py) is not looked at again.
    """
    shown = len(paths) >= QUIET_COUNT
    known = ImageIndex(paths, {"full": full, "max_pixels": max_pixels}, kept=shown)
    missing = [i for i, entry in enumerate(known.entries) if entry is None]

    def look(i):
        return _as_entry(inspect_image(paths[i], full=full, max_pixels=max_pixels))

    pool = concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    try:
        found = counted(
            pool.map(look, missing), "checking images", len(missing), "images", shown=shown and bool(missing)
        )
        for number, (i, entry) in enumerate(zip(missing, found), 1):
            known.entries[i] = entry
            if number % _KEPT_EVERY == 0 or number == len(missing):
                known.keep(missing[(number - 1) // _KEPT_EVERY * _KEPT_EVERY : number])
    finally:  # when it is interrupted nobody waits for the thousands that are left
        pool.shutdown(wait=False, cancel_futures=True)
    made: dict[str, ImageFacts] = {}  # one object for all files of which the same is known
    facts = [entry if isinstance(entry, str) else _facts_of(entry, made) for entry in known.entries]
    for path, image_id, fact in zip(paths, ids, facts):
        if isinstance(fact, str):
            report.skip_image(fact, displayed(path), image_id)
        else:
            for note in fact.notes:
                report.note(note, displayed(path), image_id)
    return [None if isinstance(fact, str) else fact for fact in facts]


def _as_entry(facts: ImageFacts | str) -> list | str:
    return facts if isinstance(facts, str) else [*dataclasses.astuple(facts)[:4], list(facts.notes)]


def _facts_of(entry: Any, made: dict[str, ImageFacts]) -> ImageFacts:
    key = str(entry)
    if key not in made:
        height, width, orientation, by_pillow, notes = entry
        made[key] = ImageFacts(height, width, orientation, by_pillow, tuple(notes))
    return made[key]


def stated_frames(
    stated: Sequence[tuple[float, float]],
    facts: Sequence[ImageFacts],
    paths: Sequence[str],
    ids: Sequence[str],
    report: InputReport,
    *,
    scaled: bool,
) -> tuple[Frames, np.ndarray]:
    """`frames_of` image files: what their boxes count in, and which of them fit the (height, width) that is
    stated.
    """
    sizes = np.array([(fact.height, fact.width) for fact in facts], np.int32).reshape(-1, 2)
    turns = [fact.orientation for fact in facts]
    return frames_of(
        np.array(stated, np.float64).reshape(-1, 2), sizes, turns, paths, ids, report, scaled=scaled
    )


def file_source(
    word: str,
    kept: Sequence[int],
    ids: Sequence[str],
    paths: Sequence[str],
    facts: Sequence[ImageFacts | None],
    report: InputReport,
    **more: Any,
) -> Source:
    """A source over image files, without labels.

    Args:
      kept: places in `ids`, `paths` and `facts` of the images that can be used, in order.
      facts: of `inspect_images`.
      more: further attributes of `Source`.
    """
    ids, paths = ([column[i] for i in kept] for column in (ids, paths))
    known = [fact for i in kept if (fact := facts[i]) is not None]
    return Source(
        word=word,
        ids=np.array(ids),
        sizes=np.array([(fact.height, fact.width) for fact in known], np.int32).reshape(-1, 2),
        read_image=path_reader(paths, known),
        file_names=np.array([displayed(path) for path in paths]),
        report=report,
        **more,
    )


def path_reader(paths: Sequence[str], facts: Sequence[ImageFacts]) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function that reads image i of a list of files, upright."""
    table = tf.constant([os.fsencode(path) for path in paths])
    turns = tf.constant(np.array([fact.orientation for fact in facts], np.int32))
    any_by_pillow = any(fact.by_pillow for fact in facts)
    pillow = tf.constant(np.array([fact.by_pillow for fact in facts], bool))

    def read(index):
        encoded = tf.io.read_file(tf.gather(table, index))
        if not any_by_pillow:
            return upright(decode(encoded), tf.gather(turns, index))
        by_pillow = tf.gather(pillow, index)
        image = tf.cond(by_pillow, lambda: decode_by_pillow(encoded), lambda: decode(encoded))
        return upright(image, tf.where(by_pillow, 1, tf.gather(turns, index)))

    return read


def inspect_stored(encoded: bytes, *, full: bool = True, max_pixels: int = 100_000_000) -> ImageFacts | str:
    """`inspect_image` of bytes in a record, whose labels are of the stored pixels: EXIF turns nothing
    there.
    """
    facts = inspect_image(encoded, full=full, max_pixels=max_pixels) if encoded else "record has no image"
    if isinstance(facts, ImageFacts) and facts.orientation >= 5:
        return dataclasses.replace(facts, height=facts.width, width=facts.height, orientation=1)
    return facts


def stored_reader(
    read_encoded: Callable[[tf.Tensor], tf.Tensor], by_pillow: Sequence[bool] | np.ndarray
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function that reads image i from records, as it is stored.

    Args:
      read_encoded: record number -> bytes of the image.
    """
    pillow = tf.constant(np.array(by_pillow, bool))

    def read(index):
        encoded = read_encoded(index)
        if not any(by_pillow):
            return decode(encoded)
        return tf.cond(
            tf.gather(pillow, index), lambda: decode_by_pillow(encoded, turn=False), lambda: decode(encoded)
        )

    return read


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """JPEG, PNG, GIF (first frame) or BMP bytes to uint8 [H, W, 3]; alpha is dropped, 16 bits become 8."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def decode_by_pillow(encoded: tf.Tensor, turn: bool = True) -> tf.Tensor:
    """WebP or TIFF bytes to uint8 [H, W, 3], as `decode` does; not for a graph that is exported.

    Args:
      turn: applies the EXIF orientation of a WebP; a TIFF is always upright.
    """
    pixels = tf.numpy_function(lambda e: pillow_pixels(e, turn), [encoded], tf.uint8, stateful=False)
    return tf.ensure_shape(pixels, [None, None, 3])


def pillow_pixels(encoded: bytes | np.ndarray, turn: bool = True) -> np.ndarray:
    """Uint8 [H, W, 3] of any file that Pillow reads; alpha is dropped, 16 bits become 8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(encoded if isinstance(encoded, bytes) else encoded.item())) as image:
            image = ImageOps.exif_transpose(image) if turn else image
            if image.mode.startswith("I;16"):
                grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            if image.mode == "RGBA":  # not composed with black, as `decode`
                return np.ascontiguousarray(np.asarray(image)[..., :3])
            return np.asarray(image.convert("RGB"))


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
