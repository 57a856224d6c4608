"""PNGs are looked at without inflating their pixels, wherever their EXIF block stands."""

import io
import struct
import zlib

import pytest
from PIL import Image, ImageOps, PngImagePlugin

from official.data.image_files import ImageFacts, inspect_image


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(orientation, *, behind, pixels=None):
    """Bytes of a PNG of 6 x 4 pixels whose EXIF block stands before or behind its pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 4, 8, 0, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + bytes(range(6)) for _ in range(4))) if pixels is None else pixels
    parts = [chunk(b"IDAT", data[:5]), chunk(b"IDAT", data[5:])]
    parts = [*parts, block] if behind else [block, *parts]
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(parts) + chunk(b"IEND", b"")


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("in_memory", [False, True])
def test_the_turn_is_that_of_pillow(tmp_path, behind, full, in_memory):
    for orientation in range(1, 9):
        data = png(orientation, behind=behind)
        (tmp_path / "a.png").write_bytes(data)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        found = inspect_image(data if in_memory else str(tmp_path / "a.png"), full=full)
        assert found == ImageFacts(upright.height, upright.width, orientation)


def test_the_header_check_inflates_nothing(tmp_path, monkeypatch):
    """Neither by Pillow nor by TensorFlow: pixels that are no zlib stream pass, and fail the full check."""
    (tmp_path / "a.png").write_bytes(png(6, behind=True, pixels=b"no stream"))
    assert isinstance(inspect_image(str(tmp_path / "a.png")), str)

    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    assert inspect_image(str(tmp_path / "a.png"), full=False) == ImageFacts(6, 4, 6)


def test_chunks_that_lie_about_their_length_do_no_harm(tmp_path):
    data = png(6, behind=True)
    place = data.index(b"eXIf") - 4
    for length in (2**31 - 1, 2**32 - 1, 0):
        (tmp_path / "a.png").write_bytes(data[:place] + struct.pack(">I", length) + data[place + 4 :])
        assert inspect_image(str(tmp_path / "a.png"), full=False) == ImageFacts(4, 6)
