"""Images that are there twice: the same file, or the same image encoded, scaled or lightly changed again.

Every image is looked at once, shrunk to 16 x 16 grey pixels (JPEGs are decoded at a fraction of their size,
which is what makes tens of thousands of them a matter of a minute). The signs of the low frequencies of those
are a perceptual hash of 63 bits; images whose hashes differ in few bits are compared by their correlation.
All pairs are looked at, as products of matrices, so nothing is missed and a thousand frames of one fixed
camera cost no more than others.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import io
import os
import warnings
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from official.data.source import Source

SIDE = 16  # of the shrunk images
BITS = 63  # of the hash: 8 x 8 frequencies without the mean
MOST_BITS = 12  # that hashes of near-duplicates differ in
CORRELATION = 0.98  # of the shrunk images, from which two are one image
LEAST_CONTRAST = 1.0  # standard deviation of grey values (of 255) below which there is nothing to compare
LEVELS = 256  # steps of a grey value of 255 that are kept, so that faint images can be told apart
_DRAFT = (128, 128)  # JPEGs are decoded at the smallest scale that is not below it
_BLOCK = 512
NONE = -1


@dataclasses.dataclass(frozen=True)
class Looks:
    """What images look like.

    Attributes:
      shrunk: uint16 [images, 16, 16], grey values times `LEVELS`.
      contents: str [images], digest of the file, or of the pixels where there is no file; equal: the same
        image.
    """

    shrunk: np.ndarray
    contents: np.ndarray

    def join(self, other: Looks) -> Looks:
        """One after the other."""
        return Looks(
            np.concatenate([self.shrunk, other.shrunk]), np.concatenate([self.contents, other.contents])
        )


def looks(source: Source) -> Looks:
    """Looks at every image of a source, in threads."""
    names = source.file_names if source.file_names is not None else [""] * len(source)

    def look(i: int) -> tuple[np.ndarray, str]:
        if os.path.isfile(names[i]):
            with open(names[i], "rb") as file:
                encoded = file.read()
            return shrunk_file(encoded), hashlib.sha256(encoded).hexdigest()
        pixels = source.read_image(tf.constant(i, tf.int64)).numpy()
        return (
            _shrunk(Image.fromarray(pixels)),
            hashlib.sha256(pixels.tobytes() + str(pixels.shape).encode()).hexdigest(),
        )

    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        found = list(pool.map(look, range(len(source)), chunksize=16))
    shrunk = np.array([grey for grey, _ in found], np.uint16).reshape(-1, SIDE, SIDE)
    return Looks(shrunk, np.array([content for _, content in found]))


def shrunk_file(encoded: bytes) -> np.ndarray:
    """Uint16 [16, 16] of an image file that can be read, upright; see `Looks`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(encoded)) as image:
            image.draft("L", _DRAFT)  # JPEGs alone take it
            return _shrunk(ImageOps.exif_transpose(image))


def _shrunk(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    grey = (
        image.convert("RGB").convert("L")
        if image.mode in ("P", "PA", "CMYK", "RGBA", "LA")
        else image.convert("L")
    )
    few = grey.resize((4 * SIDE, 4 * SIDE), Image.Resampling.BOX)  # in whole numbers, which is fast
    fewer = few.convert("F").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.rint(np.asarray(fewer) * LEVELS).astype(np.uint16)


def perceptual_hash(shrunk: np.ndarray) -> np.ndarray:
    """Bool [images, 63]: which low frequencies (DCT-II, 8 x 8 without the mean) are above their median.

    Source: the "pHash" of Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010),
      section 3.2.1.
    """
    k, n = np.mgrid[0:8, 0:SIDE]
    basis = np.cos(np.pi * k * (2 * n + 1) / (2 * SIDE))
    frequencies = (basis @ shrunk.astype(np.float64) @ basis.T).reshape(len(shrunk), -1)[:, 1:]
    return frequencies > np.median(frequencies, axis=1, keepdims=True)


def first_copies(these: Looks, those: Looks, *, same: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each of `these`, the first of `those` that is the same image, and the first that looks the same.

    Args:
      same: both are one set, in which an image is no copy of itself: only those before it count.

    Returns:
      Two int64 [these], -1 where there is none; one that is the same image does not count as looking the
      same.
    """
    exact = _first_equal(these.contents, those.contents, same)
    near = np.full(len(exact), NONE, np.int64)
    codes = np.unique(np.concatenate([these.contents, those.contents]), return_inverse=True)[1]
    ours, theirs = (
        _Descriptors.of(these.shrunk, codes[: len(exact)]),
        _Descriptors.of(those.shrunk, codes[len(exact) :]),
    )
    for first in range(0, len(exact), _BLOCK):
        last = min(first + _BLOCK, len(exact))
        place, alike = ours.alike(slice(first, last), theirs, slice(0, last if same else len(theirs.codes)))
        if same:
            alike &= np.arange(alike.shape[1])[None] < (first + place)[:, None]
        found = alike.any(axis=1)
        near[first + place[found]] = alike[found].argmax(axis=1)
    return exact, near


def _first_equal(these: np.ndarray, those: np.ndarray, same: bool) -> np.ndarray:
    place: dict[str, int] = {}
    if not same:
        for i, content in enumerate(those):
            place.setdefault(content, i)
        return np.array([place.get(content, NONE) for content in these], np.int64)
    found = []
    for i, content in enumerate(these):
        first = place.setdefault(content, i)
        found.append(first if first != i else NONE)
    return np.array(found, np.int64)


@dataclasses.dataclass(frozen=True)
class _Descriptors:
    """What is compared.

    Attributes:
      signs: float32 [images, 63], the hash as -1 and 1.
      values: float32 [images, 256], grey values of mean 0 and length 1; all 0 without contrast.
      codes: int [images], equal for the same image.
    """

    signs: np.ndarray
    values: np.ndarray
    codes: np.ndarray

    @staticmethod
    def of(shrunk: np.ndarray, codes: np.ndarray) -> _Descriptors:
        flat = shrunk.reshape(len(shrunk), -1).astype(np.float32) / LEVELS
        flat = flat - flat.mean(axis=1, keepdims=True)
        telling = flat.std(axis=1, keepdims=True) >= LEAST_CONTRAST
        values = np.where(telling, flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6), 0.0)
        signs = np.where(perceptual_hash(shrunk), 1.0, -1.0)
        return _Descriptors(signs.astype(np.float32), values.astype(np.float32), codes)

    def alike(self, rows: slice, others: _Descriptors, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Which of the rows have images with like hashes, int [found]; and which look alike, bool [found,
        columns].
        """
        agreeing = self.signs[rows] @ others.signs[columns].T >= BITS - 2 * MOST_BITS
        place = np.flatnonzero(agreeing.any(axis=1))
        if not len(place):
            return place, np.zeros((0, agreeing.shape[1]), bool)
        sure = self.values[rows][place] @ others.values[columns].T >= CORRELATION
        others_file = self.codes[rows][place][:, None] != others.codes[columns][None]
        return place, agreeing[place] & sure & others_file


def copies_between(these: Source, those: Source, seen: tuple[Looks, Looks]) -> dict[str, Any]:
    """How many of `these` are among `those`, with examples; see `first_copies`. The two may be one source."""
    exact, near = first_copies(*seen, same=these is those)
    found: dict[str, Any] = {"images": len(these), "of": len(those)}
    for name, places in (("same", exact), ("alike", np.where(exact >= 0, NONE, near))):
        rows = np.flatnonzero(places >= 0)
        pairs = [[these.name_of(i), those.name_of(int(places[i]))] for i in rows[:1000]]
        found[name] = {"count": len(rows), "pairs": pairs}
    return found
