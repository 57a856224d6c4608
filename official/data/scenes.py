"""The embedded data set: images of shapes drawn from a seed, with exact boxes and masks.

Five classes that differ in shape alone. Every object has a random colour, one of four surface
patterns, a size from a few pixels to most of the image, a rotation and a shadow; objects cover
each other, strokes and blobs clutter the ground, light falls off across the image and the sensor
is noisy. The "unlabeled" split is drawn from a shifted distribution: other ground colours, more
clutter, other contrast, more noise. The "noisy" split is drawn as the labelled ones are, but its labels
are those of careless people: displaced, of a wrong class, or missing. Image (seed, split, index) is
always the same.
"""

from __future__ import annotations

import dataclasses
from typing import Callable

import numpy as np

from official.errors import FlagError

CLASSES = ("disc", "ring", "square", "triangle", "cross")
SPLITS = ("train", "val", "test", "unlabeled", "noisy")
# Of the split "noisy": the share of objects that nobody labelled, that of wrong classes, and how far the
# labels of all lie beside them, in sides of their boxes (a standard deviation along each axis).
MISSED, MISNAMED, DISPLACED = 0.1, 0.1, 0.12
MIN_VISIBLE = 0.4  # of an object's own pixels; a new object that would hide another one more is not drawn
SMALLEST_SIDE, LARGEST_SIDE = 0.11, 0.8  # of the image


@dataclasses.dataclass(frozen=True)
class Scene:
    """One image.

    Attributes:
      image: uint8 [S, S, 3].
      boxes: float32 [N, 4] yxyx pixels, tight around the visible pixels.
      classes: int32 [N], indices into `CLASSES`.
      masks: bool [N, S, S], the visible pixels of every object; they never overlap.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    masks: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Look:
    """What a split looks like: ranges of the random draws."""

    ground: tuple[float, float]
    clutter: tuple[int, int]
    noise: tuple[float, float]
    contrast: tuple[float, float]


_LOOKS = {
    "labeled": _Look(ground=(0.25, 0.75), clutter=(2, 7), noise=(3.0, 9.0), contrast=(0.85, 1.1)),
    "unlabeled": _Look(ground=(0.15, 0.85), clutter=(3, 10), noise=(4.0, 14.0), contrast=(0.7, 1.2)),
}


def draw_scene(
    *, seed: int, split: str, index: int, size: int = 160, empty_fraction: float = 0.05, max_objects: int = 6
) -> Scene:
    """Draws one image, a pure function of its arguments.

    Args:
      seed, split, index: which image; split is one of `SPLITS`.
      size: side in pixels.
      empty_fraction: share of images without an object.
      max_objects: images that are not empty have 1..max_objects.

    Raises:
      ValueError: unknown split.
    """
    if split not in SPLITS:
        raise FlagError(f"scenes has no split {split!r}; choose one of {SPLITS}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
    look = _LOOKS["unlabeled" if split == "unlabeled" else "labeled"]
    canvas = _ground(rng, look, size)
    for _ in range(rng.integers(*look.clutter)):
        _draw_clutter(rng, canvas)
    owner = np.full((size, size), -1, np.int32)  # which object a pixel shows
    count = 0 if rng.random() < empty_fraction else int(rng.integers(1, max_objects + 1))
    classes: list[int] = []
    for _ in range(count):
        label = int(rng.integers(len(CLASSES)))
        if _place_object(rng, canvas, owner, label, len(classes)):
            classes.append(label)
    image = _photograph(rng, canvas, look)
    masks = (
        np.stack([owner == i for i in range(len(classes))]) if classes else np.zeros((0, size, size), bool)
    )
    found = np.array(classes, np.int32)
    if split == "noisy":
        masks, found = _carelessly(rng, masks, found)
    boxes = np.array([_tight_box(mask) for mask in masks], np.float32).reshape(-1, 4)
    return Scene(image, boxes, found, masks)


def _carelessly(
    rng: np.random.Generator, masks: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Masks and classes as careless people give them; a later mask covers an earlier one."""
    owner = np.full(masks.shape[1:], -1, np.int32)
    named = np.where(
        rng.random(len(classes)) < MISNAMED,
        (classes + rng.integers(1, len(CLASSES), len(classes))) % len(CLASSES),
        classes,
    )
    missed = rng.random(len(classes)) < MISSED
    for i, mask in enumerate(masks):
        top, left, bottom, right = _tight_box(mask)
        moved = np.rint(rng.normal(0.0, DISPLACED, 2) * (bottom - top, right - left)).astype(int)
        if not missed[i]:
            owner[_shifted(mask, *moved)] = i
    seen = [i for i in range(len(classes)) if (owner == i).any()]
    masks = np.stack([owner == i for i in seen]) if seen else np.zeros((0, *owner.shape), bool)
    return masks, named[seen].astype(np.int32)


def _shifted(mask: np.ndarray, down: int, right: int) -> np.ndarray:
    """A mask moved by whole pixels; what leaves the image is gone."""
    rows, columns = np.nonzero(mask)
    rows, columns = rows + down, columns + right
    inside = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
    out = np.zeros_like(mask)
    out[rows[inside], columns[inside]] = True
    return out


def _ground(rng: np.random.Generator, look: _Look, size: int) -> np.ndarray:
    """A two-colour gradient with coarse texture, float32 [S, S, 3] around 0..255."""
    low, high = look.ground
    corners = rng.uniform(low, high, (2, 3)) * 255
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    ramp = np.clip(np.cos(angle) * x + np.sin(angle) * y + 0.5, 0, 1)[..., None]
    cells = int(rng.integers(4, 20))
    coarse = rng.normal(0, rng.uniform(4, 16), (cells, cells, 1)).astype(np.float32)
    places = (np.arange(size) * cells) // size
    return (corners[0] * (1 - ramp) + corners[1] * ramp + coarse[places][:, places]).astype(np.float32)


def _draw_clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """A stroke or a soft blob that belongs to no class."""
    size = canvas.shape[0]
    cy, cx = rng.uniform(0, size, 2)
    angle = rng.uniform(0, np.pi)
    stroke = rng.random() < 0.6
    reach = 0.55 * size if stroke else 50
    rows, columns = _window(cy, reach, size), _window(cx, reach, size)
    y, x = np.mgrid[rows, columns].astype(np.float32)
    u = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
    v = -np.sin(angle) * (x - cx) + np.cos(angle) * (y - cy)
    if stroke:
        length, width = rng.uniform(0.1, 0.5) * size, rng.uniform(0.7, 2.0)
        strength = (np.abs(u) < length) & (np.abs(v + 0.002 * u * u) < width)
    else:
        strength = np.exp(-((u / rng.uniform(4, 20)) ** 2) - (v / rng.uniform(4, 20)) ** 2)
    strength = strength.astype(np.float32)[..., None] * rng.uniform(0.4, 1.0)
    view = canvas[rows, columns]
    view += strength * (rng.uniform(0, 255, 3).astype(np.float32) - view)


# Inside tests on coordinates scaled so that the shape fits in [-1, 1]^2.
_SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda u, v: u * u + v * v <= 1,
    "ring": lambda u, v: (u * u + v * v <= 1) & (u * u + v * v >= 0.3),
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 0.8,
    "triangle": lambda u, v: (v <= 0.6) & (v >= np.sqrt(3.0) * abs(u) - 1.0),
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 0.95),
}


def _place_object(
    rng: np.random.Generator, canvas: np.ndarray, owner: np.ndarray, label: int, number: int
) -> bool:
    """Draws one object with its shadow, unless it would hide an earlier one or be cut off itself."""
    size = canvas.shape[0]
    radius = 0.5 * np.exp(rng.uniform(np.log(SMALLEST_SIDE), np.log(LARGEST_SIDE))) * size
    cy, cx = rng.uniform(0.6 * radius, size - 0.6 * radius, 2)
    turn = rng.uniform(-0.35, 0.35) if CLASSES[label] in ("square", "cross") else rng.uniform(0, 2 * np.pi)
    stretch = rng.uniform(0.8, 1.25)
    rows, columns = _window(cy, 2 * radius + 2, size), _window(cx, 2 * radius + 2, size)
    y, x = np.mgrid[rows, columns].astype(np.float32) + 0.5

    def inside(offset: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        dx, dy = (x - cx - offset) / radius, (y - cy - offset) / radius
        u = (np.cos(turn) * dx + np.sin(turn) * dy) * stretch
        v = (-np.sin(turn) * dx + np.cos(turn) * dy) / stretch
        return _SHAPES[CLASSES[label]](u, v), u, v

    mask, u, v = inside(0.0)
    surface = _surface(rng, u, v, radius)
    shade = rng.uniform(0.45, 0.8)
    whole = np.zeros((size, size), bool)
    whole[rows, columns] = mask
    if mask.sum() < 12 or _hides_too_much(owner, whole):
        return False
    view = canvas[rows, columns]
    view[inside(0.12 * radius + 1.0)[0] & ~mask] *= shade
    view[mask] = surface[mask]
    owner[whole] = number
    return True


def _window(centre: float, reach: float, size: int) -> slice:
    return slice(max(0, int(centre - reach)), min(size, int(centre + reach) + 1))


def _hides_too_much(owner: np.ndarray, mask: np.ndarray) -> bool:
    before = np.bincount(owner[owner >= 0].ravel())
    after = np.bincount(owner[(owner >= 0) & ~mask].ravel(), minlength=len(before))
    return bool(np.any(after < np.maximum(MIN_VISIBLE * before, 6)))


def _surface(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Two random colours in a plain, striped, chequered or dotted pattern, lit from one side."""
    first, second = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    second = 0.5 * first + 0.5 * second
    period = max(rng.uniform(0.25, 0.6), 4.0 / radius)
    pattern = rng.integers(4)
    if pattern == 0:
        choice = np.zeros_like(u, bool)
    elif pattern == 1:
        choice = np.floor(u / period) % 2 == 0
    elif pattern == 2:
        choice = (np.floor(u / period) + np.floor(v / period)) % 2 == 0
    else:
        choice = ((u / period) % 1 - 0.5) ** 2 + ((v / period) % 1 - 0.5) ** 2 < 0.09
    light = 1.0 + rng.uniform(0.0, 0.3) * u
    return np.where(choice[..., None], second, first) * light[..., None]


def _photograph(rng: np.random.Generator, canvas: np.ndarray, look: _Look) -> np.ndarray:
    """Uneven light, contrast and sensor noise; rounds to uint8."""
    size = canvas.shape[0]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5)
    light = 1.0 + fall * (np.cos(angle) * x + np.sin(angle) * y)
    image = (canvas * light[..., None] - 128) * rng.uniform(*look.contrast) + 128
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(np.rint(image + rng.uniform(*look.noise) * noise), 0, 255).astype(np.uint8)


def _tight_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
