"""Writes augment_pillow.json: what Pillow makes of one small image. Run by hand, with Pillow 11.3.0."""

import json
import math
import os

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

HEIGHT, WIDTH, FILL = 11, 15, 128


def sample() -> np.ndarray:
    """A gradient with noise and a bright square, uint8 [11, 15, 3]."""
    generator = np.random.default_rng(2006)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    image = np.stack([14 * y + 20, 15 * x + 10, 8 * (x + y)], axis=-1) + generator.integers(
        0, 40, (HEIGHT, WIDTH, 3)
    )
    image[4:8, 5:10] = (230, 220, 40)
    return np.clip(image, 0, 255).astype(np.uint8)


def warp(image: Image.Image, matrix) -> np.ndarray:
    """matrix: output pixel centre -> input point, (a, b, c, d, e, f); what is outside becomes FILL."""
    marked = image.convert("RGBA").transform(
        image.size, Image.AFFINE, matrix, Image.NEAREST, fillcolor=(0, 0, 0, 0)
    )
    moved = np.array(marked)
    return np.where(moved[..., 3:] > 0, moved[..., :3], FILL)


def rotation(degrees: float):
    """Counter-clockwise about the centre, in pixel-edge coordinates."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (
        cos,
        -sin,
        WIDTH / 2 * (1 - cos) + HEIGHT / 2 * sin,
        sin,
        cos,
        HEIGHT / 2 * (1 - cos) - WIDTH / 2 * sin,
    )


def cases(image: Image.Image) -> dict:
    """Outputs by case name."""
    found = {
        "equalize": ImageOps.equalize(image),
        "autocontrast": ImageOps.autocontrast(image),
        "invert": ImageOps.invert(image),
    }
    for threshold in (0, 1, 77, 128, 255, 256):
        found[f"solarize {threshold}"] = ImageOps.solarize(image, threshold)
    for bits in (1, 2, 4, 8):
        found[f"posterize {bits}"] = ImageOps.posterize(image, bits)
    for factor in (0.0, 0.1, 0.64, 1.0, 1.36, 1.9):
        found[f"color {factor}"] = ImageEnhance.Color(image).enhance(factor)
        found[f"brightness {factor}"] = ImageEnhance.Brightness(image).enhance(factor)
        found[f"contrast {factor}"] = ImageEnhance.Contrast(image).enhance(factor)
        found[f"sharpness {factor}"] = ImageEnhance.Sharpness(image).enhance(factor)
    for slope in (0.3, -0.12):
        found[f"shear_x {slope}"] = warp(image, (1, slope, -slope / 2, 0, 1, 0))
        found[f"shear_y {slope}"] = warp(image, (1, 0, 0, slope, 1, -slope / 2))
    for pixels in (5, -7, 20):
        found[f"translate_x {pixels}"] = warp(image, (1, 0, pixels, 0, 1, 0))
        found[f"translate_y {pixels}"] = warp(image, (1, 0, 0, 0, 1, pixels))
    for degrees in (30, -12, 90):
        found[f"rotate {degrees}"] = warp(image, rotation(degrees))
    return {name: np.asarray(value).tolist() for name, value in found.items()}


if __name__ == "__main__":
    image = sample()
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "augment_pillow.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(
            {"input": image.tolist(), "outputs": cases(Image.fromarray(image))}, file, separators=(",", ":")
        )
