"""Boxes and masks drawn on images, and sheets of images."""

from __future__ import annotations

import functools
import os
from typing import Sequence, Union

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from official.data.formats.mask_palettes import voc_color
from official.files import whole_file

# Okabe and Ito's colours, the bright ones first, then Paul Tol's muted ones: colour-blind people tell them
# apart.
_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
    (204, 121, 167),
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
    (221, 204, 119),
    (136, 204, 238),
    (170, 68, 153),
    (153, 153, 51),
    (68, 170, 153),
    (136, 34, 85),
    (51, 34, 136),
    (17, 119, 51),
)
MOST_LABELS = 20  # texts in one image
LABELS_IN_A_CROWD = 5  # where there are more boxes than that; the surest have them
MOST_IN_LEGEND = 30
Color = tuple[int, int, int]
Font = Union[ImageFont.FreeTypeFont, ImageFont.ImageFont]


def class_color(label: int) -> Color:
    """A colour per class; from the sixteenth on the same ones, lighter and darker in turn."""
    turn, place = divmod(label, len(_COLOURS))
    toward, share = (255 if turn % 2 else 0), 1.0 - 0.6 ** ((turn + 1) // 2)
    red, green, blue = (round(channel + share * (toward - channel)) for channel in _COLOURS[place])
    return red, green, blue


def _is_bright(color: Color) -> bool:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 120


def _against(color: Color) -> Color:
    """Black or white, whichever is seen on a colour."""
    return (0, 0, 0) if _is_bright(color) else (255, 255, 255)


@functools.lru_cache
def _font(letters: int) -> Font:
    """Pillow's own font; reading it takes as long as drawing ten boxes."""
    return ImageFont.load_default(size=letters)


def draw_boxes(
    image: np.ndarray,
    objects: dict[str, np.ndarray],
    names: Sequence[str],
    *,
    scores: bool = True,
    most_labels: int | None = None,
) -> np.ndarray:
    """Draws boxes, and class names where there is room for them: inside the image and beside each other.

    A line is edged in black or white, so that it is seen on whatever colour the photo has there.

    Args:
      image: uint8 [H, W, 3].
      objects: "boxes" [N, 4] yxyx pixels, "classes" [N], optionally "scores" [N].
      names: of the classes.
      scores: writes them behind the names.
      most_labels: boxes that get a text, the surest first; None: 20, and 5 where there are more boxes than
        that.

    Returns:
      uint8 [H, W, 3].
    """
    canvas = Image.fromarray(np.asarray(image))
    pen = ImageDraw.Draw(canvas)
    known = objects.get("scores")
    order = (
        np.arange(len(objects["classes"])) if known is None else np.argsort(-np.asarray(known), kind="stable")
    )
    width = max(1, round(min(canvas.size) / 220))
    for i in order[::-1]:  # the surest above
        _draw_box(
            pen,
            objects["boxes"][i],
            class_color(int(objects["classes"][i])),
            width,
            edged=min(canvas.size) >= 100,
        )
    taken: list[tuple[float, float, float, float]] = []
    font = _font(max(10, round(min(canvas.size) / 26)))  # still legible when the image is shown small
    if most_labels is None:
        most_labels = MOST_LABELS if len(order) <= MOST_LABELS else LABELS_IN_A_CROWD
    for i in order[:most_labels]:
        label = int(objects["classes"][i])
        text = names[label] + (f" {known[i]:.2f}" if known is not None and scores else "")
        if text:
            _write_label(pen, canvas.size, objects["boxes"][i], text, class_color(label), font, taken)
    return np.asarray(canvas)


def _draw_box(pen: ImageDraw.ImageDraw, box: np.ndarray, color: Color, width: int, *, edged: bool) -> None:
    y1, x1, y2, x2 = (float(v) for v in box)
    x2, y2 = max(x1, x2 - 1), max(y1, y2 - 1)
    if edged:
        pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_against(color))
    pen.rectangle((x1, y1, x2, y2), outline=color, width=width)


def _write_label(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: np.ndarray,
    text: str,
    color: Color,
    font: Font,
    taken: list[tuple[float, float, float, float]],
) -> None:
    """Writes a text at the first free place at its box, and notes that in `taken`; nothing where all are
    taken.
    """
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    place = free_place(box, (right - left + 4, bottom - top + 4), size, taken)
    if place is not None:
        x, y = place[:2]
        taken.append(place)
        pen.rectangle((x, y, place[2] - 1, place[3] - 1), fill=color)
        pen.text((x + 2 - left, y + 2 - top), text, fill=_against(color), font=font)


def free_place(
    box: np.ndarray,
    text: tuple[float, float],
    size: tuple[int, int],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float] | None:
    """Where at a box a text covers no other one: above it, below it or inside; moved into the image. None:
    nowhere.

    Args:
      box: yxyx pixels. text: its width and height. size: width and height of the image.
      taken: (left, top, right, bottom) of other texts, as is the result.
    """
    y1, x1, y2, x2 = (float(v) for v in box)
    width, height = text
    corners = (
        (x1, y1 - height),
        (x2 - width, y1 - height),
        (x1, y2),
        (x2 - width, y2),
        (x1 + 1, y1 + 1),
        (x2 - width - 1, y2 - height - 1),
    )
    for x, y in corners:
        x, y = max(0.0, min(x, size[0] - width)), max(0.0, min(y, size[1] - height))
        if not any(x < t[2] and t[0] < x + width and y < t[3] and t[1] < y + height for t in taken):
            return x, y, x + width, y + height
    return None


@functools.lru_cache
def _laid_over(opacity: float) -> np.ndarray:
    """uint8 [3, 256 * 256]: by channel, what a pixel of label l and value v becomes, at 256 l + v."""
    colors = np.array([class_color(label) for label in range(256)], np.float32).T[..., None]
    values = np.arange(256, dtype=np.uint8)
    shown = (1 - opacity) * values + opacity * colors  # [3, label, value]
    shown[:, 0], shown[:, 255] = values, 0.7 * values
    return shown.astype(np.uint8).reshape(3, -1)


VOC_PALETTE = [value for label in range(256) for value in voc_color(label)]


def draw_mask(image: np.ndarray, mask: np.ndarray, *, opacity: float = 0.55) -> np.ndarray:
    """Lays a class map over an image; ignored pixels are hatched, class 0 shows the image, the rim of a class
    its colour alone.

    Args:
      image: uint8 [H, W, 3].
      mask: uint8 [H, W], or of another size with the same aspect.

    Returns:
      uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    if mask.shape != (height, width):
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    tables = _laid_over(opacity)
    shown = np.stack(
        [tables[channel][mask.astype(np.int32) * 256 + image[..., channel]] for channel in range(3)], axis=-1
    )
    y, x = np.ogrid[0:height, 0:width]
    shown[(mask == 255) & ((x + y) % 6 < 2)] = 235
    rim = _rim(mask, max(1, round(min(height, width) / 300)))
    shown[rim] = _class_colors()[mask[rim]]
    return shown


def _rim(mask: np.ndarray, width: int) -> np.ndarray:
    """bool [H, W]: pixels of a class (neither 0 nor ignored) within so many pixels, along rows or columns, of
    another value.
    """
    found = np.zeros(mask.shape, bool)
    for step in range(1, width + 1):
        for a, b in ((mask[step:], mask[:-step]), (mask[:, step:], mask[:, :-step])):
            differing = a != b
            rows, columns = differing.shape
            found[:rows, :columns] |= differing
            found[mask.shape[0] - rows :, mask.shape[1] - columns :] |= differing
    return found & (mask > 0) & (mask < 255)


@functools.lru_cache
def _class_colors() -> np.ndarray:
    """uint8 [256, 3]."""
    return np.array([class_color(label) for label in range(256)], np.uint8)


def with_legend(drawing: np.ndarray, entries: Sequence[tuple[str, Color]], letters: int = 0) -> np.ndarray:
    """An image uint8 [H, W, 3] with names in their colours below it, in as many lines as that takes; of the
    same width.
    """
    entries = list(entries)[:MOST_IN_LEGEND]
    if not entries:
        return drawing
    width, letters = drawing.shape[1], letters or max(10, round(min(drawing.shape[:2]) / 26))
    font, gap = _font(letters), 4
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places, x, row = [], gap, 0
    for name, _ in entries:
        long = round(pen.textlength(name, font=font)) + 4
        if x > gap and x + long > width:
            x, row = gap, row + 1
        places.append((x, gap + row * (letters + 8), long))
        x += long + gap
    strip = Image.new("RGB", (width, (row + 1) * (letters + 8) + gap), (24, 24, 24))
    pen = ImageDraw.Draw(strip)
    for (name, color), (x, y, long) in zip(entries, places):
        pen.rectangle((x, y, x + long, y + letters + 4), fill=color)
        pen.text((x + 2, y + 1), name, fill=_against(color), font=font)
    return np.concatenate([drawing, np.asarray(strip)])


def draw_caption(image: np.ndarray, text: str, label: int) -> np.ndarray:
    """Writes a text in the colour of a class at the top left. uint8 [H, W, 3]."""
    canvas = Image.fromarray(np.asarray(image))
    pen, font, color = (
        ImageDraw.Draw(canvas),
        _font(max(10, round(min(canvas.size) / 22))),
        class_color(label),
    )
    pen.rectangle(pen.textbbox((2, 1), text, font=font), fill=color)
    pen.text((2, 1), text, fill=_against(color), font=font)
    return np.asarray(canvas)


def draw_confusion(matrix: np.ndarray, names: Sequence[str], *, cell: int = 26) -> np.ndarray:
    """A confusion matrix as an image: rows are true classes, each adding up to 100 %. uint8 [H, W, 3]."""
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
            pen.rectangle(
                (left, top, left + cell - 1, top + cell - 1), fill=(shade, shade, 255 if share else 250)
            )
            if share >= 0.005:
                pen.text(
                    (left + 3, top + 6),
                    f"{100 * share:.0f}",
                    fill=(255, 255, 255) if share > 0.5 else (0, 0, 0),
                    font=font,
                )
    return np.asarray(canvas)


def sheet(
    drawings: Sequence[np.ndarray],
    *,
    columns: int = 4,
    cell: int = 256,
    captions: Sequence[str] = (),
    legend: Sequence[tuple[str, Color]] = (),
) -> np.ndarray:
    """Drawings in a grid, each fitted into a cell, with a caption above it, cut to the cell, and a legend
    below all. uint8 [H, W, 3].
    """
    shown = [_fitted(drawing, cell) for drawing in drawings]
    rows = max(1, -(-len(shown) // columns))
    bar, height = (17 if captions else 0), max((image.height for image in shown), default=cell)
    canvas = Image.new("RGB", (columns * cell, rows * (height + bar)), (24, 24, 24))
    pen, font = ImageDraw.Draw(canvas), _font(12)
    for i, image in enumerate(shown):
        left, top = (i % columns) * cell, (i // columns) * (height + bar)
        canvas.paste(image, (left, top + bar))
        if captions:
            pen.text(
                (left + 2, top + 1), _cut(captions[i], cell - 4, pen, font), fill=(255, 255, 255), font=font
            )
    return with_legend(np.asarray(canvas), legend, 14)


def _cut(text: str, width: int, pen: ImageDraw.ImageDraw, font: Font) -> str:
    """A text that is at most so many pixels long; the middle is left out, because names differ at their
    ends.
    """
    if pen.textlength(text, font=font) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = text[: kept // 2] + "…" + text[len(text) - (kept - kept // 2) :]
        if pen.textlength(shorter, font=font) <= width:
            return shorter
    return ""


def _fitted(drawing: np.ndarray, cell: int) -> Image.Image:
    image = Image.fromarray(drawing)
    ratio = min(cell / image.width, cell / image.height)
    return image.resize((max(1, round(image.width * ratio)), max(1, round(image.height * ratio))))


def confident(objects: dict[str, np.ndarray], threshold: float) -> dict[str, np.ndarray]:
    """The objects whose score reaches the threshold."""
    keep = objects["scores"] >= threshold
    return {name: column[keep] for name, column in objects.items()}


def write_png(path: str, drawing: np.ndarray) -> str:
    """Writes uint8 [H, W, 3], making the folder, whole or not at all; returns the path."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file(path, flush=False) as temporary:
        Image.fromarray(drawing).save(temporary, format="PNG")
    return path


def write_jpeg(path: str, drawing: np.ndarray) -> str:
    """Writes uint8 [H, W, 3] for people to look at, in a tenth of a PNG's time and space; as `write_png`."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file(path, flush=False) as temporary:
        Image.fromarray(drawing).save(temporary, format="JPEG", quality=90)
    return path
