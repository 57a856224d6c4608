"""The class maps that an evaluation found, small: to look at them later without the network."""

from __future__ import annotations

import os
import zipfile

import numpy as np

from official.data.formats.mask_files import encode_class_map, read_class_map
from official.files import whole_file

MAPS = "maps.zip"
SIDE = 320  # pixels of the longer side, at most


def small_map(found: np.ndarray) -> bytes:
    """A class map [H, W] as PNG, every n-th pixel of it so that it is at most `SIDE` long."""
    step = -(-max(found.shape) // SIDE)
    return encode_class_map(found[step // 2 :: step, step // 2 :: step].astype(np.uint8))


def write_maps(folder: str, maps: list[bytes]) -> None:
    """Keeps the maps of all images, in their order."""
    with whole_file(os.path.join(folder, MAPS), flush=False) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for i, png in enumerate(maps):
                # Without the time: the same maps are the same file.
                archive.writestr(zipfile.ZipInfo(f"{i}.png"), png)


def read_map(folder: str, index: int) -> np.ndarray | None:
    """uint8 [h, w], the map of an image; None where none was kept."""
    path = os.path.join(folder, MAPS)
    if not os.path.isfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        found = read_class_map(archive.read(f"{index}.png"))
    assert isinstance(found, np.ndarray), found  # it was written here
    return found
