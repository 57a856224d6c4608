"""Boxes and masks drawn on pictures, and sheets of pictures."""

from __future__ import annotations

import colorsys
import functools
import os
from typing import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from official.data.mask_palettes import voc_color
from official.files import whole_file


def class_color(label: int) -> tuple[int, int, int]:
    """A bright colour per class."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.381966) % 1.0, 0.85, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


@functools.lru_cache
def _font(letters: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font; reading it takes as long as drawing ten boxes."""
    return ImageFont.load_default(size=letters)


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
    font = _font(letters)
    for i, (box, label) in enumerate(zip(objects["boxes"], objects["classes"])):
        y1, x1, y2, x2 = (float(v) for v in box)
        color = class_color(int(label))
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=width)
        text = names[int(label)] + (f" {scores[i]:.2f}" if scores is not None else "")
        place = (x1 + width, max(0.0, y1 - letters - 1))
        pen.rectangle(pen.textbbox(place, text, font=font), fill=color)
        pen.text(place, text, fill=(0, 0, 0), font=font)
    return np.asarray(canvas)


@functools.lru_cache
def _laid_over(opacity: float) -> np.ndarray:
    """uint8 [3, 256 * 256]: by channel, what a pixel of label l and value v becomes, at 256 l + v."""
    colors = np.array([class_color(label) for label in range(256)], np.float32).T[..., None]
    values = np.arange(256, dtype=np.uint8)
    shown = (1 - opacity) * values + opacity * colors  # [3, label, value]
    shown[:, 0], shown[:, 255] = values, 0.7 * values
    return shown.astype(np.uint8).reshape(3, -1)


VOC_PALETTE = [value for label in range(256) for value in voc_color(label)]


def draw_mask(image: np.ndarray, mask: np.ndarray, names: Sequence[str], *, opacity: float = 0.55) -> np.ndarray:
    """Lays a class map over a picture; ignored pixels are hatched, class 0 shows the picture.

    Args:
      image: uint8 [H, W, 3].
      mask: uint8 [H, W], or of another size with the same aspect.
      names: of the classes, written beside their colours.

    Returns:
      uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    if mask.shape != (height, width):
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.NEAREST))
    tables = _laid_over(opacity)
    shown = np.stack([tables[channel][mask.astype(np.int32) * 256 + image[..., channel]] for channel in range(3)], axis=-1)
    y, x = np.ogrid[0:height, 0:width]
    shown[(mask == 255) & ((x + y) % 6 < 2)] = 235
    canvas = Image.fromarray(shown)
    _write_legend(canvas, [label for label in np.unique(mask) if 0 < label < min(255, len(names))], names)
    return np.asarray(canvas)


def draw_caption(image: np.ndarray, text: str, label: int) -> np.ndarray:
    """Writes a text in the colour of a class at the top left. uint8 [H, W, 3]."""
    canvas = Image.fromarray(np.asarray(image))
    _write_legend(canvas, [label], {label: text})
    return np.asarray(canvas)


def _write_legend(canvas: Image.Image, labels: Sequence[int], names: Sequence[str] | dict[int, str]) -> None:
    pen = ImageDraw.Draw(canvas)
    letters = max(10, round(min(canvas.size) / 22))
    font = _font(letters)
    for row, label in enumerate(labels):
        place = (2, 1 + row * (letters + 2))
        pen.rectangle(pen.textbbox(place, names[label], font=font), fill=class_color(int(label)))
        pen.text(place, names[label], fill=(0, 0, 0), font=font)


def draw_confusion(matrix: np.ndarray, names: Sequence[str], *, cell: int = 26) -> np.ndarray:
    """A confusion matrix as a picture: rows are true classes, each adding up to 100 %. uint8 [H, W, 3]."""
    margin = 12 + 7 * max(map(len, names))
    side = margin + cell * len(names)
    canvas = Image.new("RGB", (side, side), (255, 255, 255))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=11)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for i, name in enumerate(names):
        pen.text((4, margin + i * cell + 6), name, fill=(0, 0, 0), font=font)
        text = Image.new("L", (margin, 14), 0)
        ImageDraw.Draw(text).text((4, 1), name, fill=255, font=font)
        canvas.paste((0, 0, 0), (margin + i * cell + 6, 0), text.rotate(90, expand=True))
        for j in range(len(names)):
            share = float(shares[i, j])
            left, top = margin + j * cell, margin + i * cell
            shade = int(255 * (1 - share))
            pen.rectangle((left, top, left + cell - 1, top + cell - 1), fill=(shade, shade, 255 if share else 250))
            if share >= 0.005:
                pen.text((left + 3, top + 6), f"{100 * share:.0f}", fill=(255, 255, 255) if share > 0.5 else (0, 0, 0), font=font)
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
    """Writes uint8 [H, W, 3], making the folder, whole or not at all; returns the path."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file(path, flush=False) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    return path


def write_jpeg(path: str, picture: np.ndarray) -> str:
    """Writes uint8 [H, W, 3] for people to look at, in a tenth of a PNG's time and space; as `write_png`."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file(path, flush=False) as temporary:
        Image.fromarray(picture).save(temporary, format="JPEG", quality=90)
    return path
