"""Boxes drawn on pictures, and sheets of pictures."""

from __future__ import annotations

import colorsys
import os
from typing import Sequence

import numpy as np
from PIL import Image, ImageDraw


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
    for i, (box, label) in enumerate(zip(objects["boxes"], objects["classes"])):
        y1, x1, y2, x2 = (float(v) for v in box)
        color = class_color(int(label))
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=width)
        text = names[int(label)] + (f" {scores[i]:.2f}" if scores is not None else "")
        frame = pen.textbbox((x1 + width, max(0.0, y1 - 11)), text)
        pen.rectangle(frame, fill=color)
        pen.text(frame[:2], text, fill=(0, 0, 0))
    return np.asarray(canvas)


def sheet(pictures: Sequence[np.ndarray], *, columns: int = 4, cell: int = 256, captions: Sequence[str] = ()) -> np.ndarray:
    """Pictures in a grid, each fitted into a cell, with a caption above it. uint8 [H, W, 3]."""
    rows = max(1, -(-len(pictures) // columns))
    bar = 14 if captions else 0
    canvas = Image.new("RGB", (columns * cell, rows * (cell + bar)), (24, 24, 24))
    pen = ImageDraw.Draw(canvas)
    for i, picture in enumerate(pictures):
        image = Image.fromarray(picture)
        ratio = min(cell / image.width, cell / image.height)
        image = image.resize((max(1, round(image.width * ratio)), max(1, round(image.height * ratio))))
        left, top = (i % columns) * cell, (i // columns) * (cell + bar)
        canvas.paste(image, (left, top + bar))
        if captions:
            pen.text((left + 2, top + 1), captions[i], fill=(255, 255, 255))
    return np.asarray(canvas)


def confident(objects: dict[str, np.ndarray], threshold: float) -> dict[str, np.ndarray]:
    """The objects whose score reaches the threshold."""
    keep = objects["scores"] >= threshold
    return {name: column[keep] for name, column in objects.items()}


def write_png(path: str, picture: np.ndarray) -> str:
    """Writes uint8 [H, W, 3], making the folder; returns the path."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.fromarray(picture).save(path)
    return path
