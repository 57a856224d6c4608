"""Boxes drawn on pictures, and sheets of pictures."""

from __future__ import annotations

import colorsys
import os
from typing import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def class_color(label: int) -> tuple[int, int, int]:
    """A bright colour per class."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.381966) % 1.0, 0.85, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw_boxes(image: np.ndarray, objects: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Draws boxes with class names and, where there are any, scores.

    Args:
      image: uint8 [H, W, 3].
      objects: "boxes" [N, 4] yxyx pixels, "classes" [N], optionally "scores" [N].
      names: of the classes.

    Returns:
      uint8 [H, W, 3].
    """
    canvas = Image.fromarray(np.asarray(image))
    pen = ImageDraw.Draw(canvas)
    scores = objects.get("scores")
    width = max(1, round(min(canvas.size) / 250))
    letters = max(10, round(min(canvas.size) / 22))  # still legible when the picture is shown small
    font = ImageFont.load_default(size=letters)
    for i, (box, label) in enumerate(zip(objects["boxes"], objects["classes"])):
        y1, x1, y2, x2 = (float(v) for v in box)
        color = class_color(int(label))
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=width)
        text = names[int(label)] + (f" {scores[i]:.2f}" if scores is not None else "")
        place = (x1 + width, max(0.0, y1 - letters - 1))
        pen.rectangle(pen.textbbox(place, text, font=font), fill=color)
        pen.text(place, text, fill=(0, 0, 0), font=font)
    return np.asarray(canvas)


def sheet(pictures: Sequence[np.ndarray], *, columns: int = 4, cell: int = 256, captions: Sequence[str] = ()) -> np.ndarray:
    """Pictures in a grid, each fitted into a cell, with a caption above it. uint8 [H, W, 3]."""
    shown = [_fitted(picture, cell) for picture in pictures]
    rows = max(1, -(-len(shown) // columns))
    bar, height = (14 if captions else 0), max((image.height for image in shown), default=cell)
    canvas = Image.new("RGB", (columns * cell, rows * (height + bar)), (24, 24, 24))
    pen = ImageDraw.Draw(canvas)
    for i, image in enumerate(shown):
        left, top = (i % columns) * cell, (i // columns) * (height + bar)
        canvas.paste(image, (left, top + bar))
        if captions:
            pen.text((left + 2, top + 1), captions[i], fill=(255, 255, 255))
    return np.asarray(canvas)


def _fitted(picture: np.ndarray, cell: int) -> Image.Image:
    image = Image.fromarray(picture)
    ratio = min(cell / image.width, cell / image.height)
    return image.resize((max(1, round(image.width * ratio)), max(1, round(image.height * ratio))))


def confident(objects: dict[str, np.ndarray], threshold: float) -> dict[str, np.ndarray]:
    """The objects whose score reaches the threshold."""
    keep = objects["scores"] >= threshold
    return {name: column[keep] for name, column in objects.items()}


def write_png(path: str, picture: np.ndarray) -> str:
    """Writes uint8 [H, W, 3], making the folder; returns the path."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.fromarray(picture).save(path)
    return path
