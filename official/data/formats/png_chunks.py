"""What a PNG says beside its pixels, read chunk header by chunk header: nothing is inflated, pixel data is
skipped over.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO, Iterator

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LONGEST_EXIF = 1 << 20  # bytes; a longer chunk is no orientation


def png_exif(image: Image.Image, path: str | bytes) -> Image.Exif:
    """The EXIF block of an opened PNG, which may stand behind its pixels.

    Pillow's own `getexif` decodes the pixels to get there.

    Args:
      image: opened, not loaded; path: its file, or the bytes of it.
    """
    if "exif" not in image.info:
        with io.BytesIO(path) if isinstance(path, bytes) else open(path, "rb", buffering=0) as file:
            found = next((_body(file, size) for kind, size in _chunks(file) if kind == b"eXIf"), None)
        if found is not None:
            image.info["exif"] = b"Exif\0\0" + found
    return Image.Image.getexif(image)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(kind, length) of every chunk, up to the end or to where the file is no PNG; the file stands at its
    body.
    """
    if file.read(len(SIGNATURE)) != SIGNATURE:
        return
    place = len(SIGNATURE)
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        yield kind, length
        place += 12 + length
        file.seek(place)


def _body(file: BinaryIO, length: int) -> bytes:
    return file.read(length) if length <= _LONGEST_EXIF else b""
