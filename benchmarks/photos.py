"""Photos to measure with where there are none: JPEG files of 640 x 480 that are as hard to decode as real
ones.
"""

from __future__ import annotations

import os

import numpy as np
from PIL import Image


def make(folder: str, count: int, *, height: int = 480, width: int = 640, different: int = 16) -> str:
    """Writes `count` files of which `different` differ, with the falling spectrum of photographs; returns the
    folder.

    About 100 kB each at quality 90: between COCO's (about 160 kB) and a phone's, scaled down.
    """
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = 1.0
    firsts = []
    for i in range(count):
        path = os.path.join(folder, f"{i:06d}.jpg")
        if i < different:
            shared, own = (rng.normal(size=(channels, height, width)) for channels in (1, 3))
            values = np.fft.ifft2(np.fft.fft2(shared + 0.3 * own) / frequency**1.1).real
            values = 128 + 60 * (values - values.mean()) / values.std()
            Image.fromarray(np.clip(values, 0, 255).astype(np.uint8).transpose(1, 2, 0)).save(
                path, quality=90
            )
            firsts.append(path)
        else:
            os.link(firsts[i % different], path)
    return folder
