"""Holds out a share of labelled images for evaluation: by image, every class in proportion, the same at every
start.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np
import tensorflow as tf

from official.data.input_report import DataError, InputReport, shown
from official.data.source import Source

NORMAL_95 = 1.959964  # two-sided
WIDE = 0.1  # half of an interval from which a number says little
_MASK_VALUES = 256


def class_presence(source: Source) -> np.ndarray:
    """Bool [images, classes], which classes occur in which images; crowds and ignored pixels do not count.

    Raises:
      DataError: the source has no labels.
    """
    found = np.zeros((len(source), len(source.categories)), bool)
    if source.annotations is not None:
        images = np.repeat(np.arange(len(source)), source.annotations.counts())
        real = ~source.annotations.crowd
        found[images[real], source.annotations.classes[real]] = True
    elif source.image_classes is not None:
        known = np.flatnonzero(source.image_classes >= 0)
        found[known, source.image_classes[known]] = True
    elif source.read_mask is not None:
        dataset = tf.data.Dataset.range(len(source)).map(
            lambda i: tf.math.bincount(tf.cast(source.read_mask(i), tf.int32), minlength=_MASK_VALUES) > 0,
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        for i, present in enumerate(dataset.as_numpy_iterator()):
            found[i] = present[: found.shape[1]]
    else:
        raise DataError(f"{source.word}: has no labels to hold out a part of")
    return found


def held_out_images(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Splits labelled images: (those to train on, those held out), each in the order of the source.

    What was cut out of one image stays on one side. The choice depends on the seed, the ids and the classes
    alone, not on the order of the files or the machine.

    Args:
      fraction: in (0, 1), the share that is held out.

    Raises:
      DataError: the fraction is not in (0, 1), or leaves one of the parts without an image.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"--eval_fraction={fraction} is not between 0 and 1")
    whole = source.cut_from if source.cut_from is not None else source.ids
    ids, place = np.unique(whole.astype(str), return_inverse=True)
    presence = np.zeros((len(ids), len(source.categories)), bool)
    np.logical_or.at(presence, place, class_presence(source))
    out = stratified(presence, ids, fraction, seed)[place]
    if out.all() or not out.any():
        raise DataError(
            f"--eval_fraction={fraction} of {len(ids)} labelled images leaves "
            f"{'none to train on' if out.all() else 'none to hold out'}; "
            "label more, or name other images with --eval_data"
        )
    # What was skipped is said once.
    held = dataclasses.replace(source.subset(np.flatnonzero(out)), report=InputReport())
    return source.subset(np.flatnonzero(~out)), held


def stratified(presence: np.ndarray, ids: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Which images are held out, bool [images], so that every class has its share on both sides.

    The rarest class that is left is dealt out first, each of its images to the side that wants more of the
    class; an image without any class is of a class of its own. A class of a single image stays in training.

    Args:
      presence: bool [images, classes]; ids: str [images].

    Source: Sechidis, Tsoumakas, Vlahavas, On the Stratification of Multi-Label Data (2011), algorithm 1, for
      two parts.
    """
    keys = [hashlib.sha256(f"holdout:{seed}:{i}".encode()).digest() for i in ids]
    order = sorted(range(len(ids)), key=keys.__getitem__)
    labels = np.concatenate([presence, ~presence.any(axis=1, keepdims=True)], axis=1)[order]
    shares = np.array([1.0 - fraction, fraction])
    wanted = shares[:, None] * labels.sum(axis=0)  # [2, classes + 1]
    room = shares * len(ids)
    left = labels.sum(axis=0)
    side = np.full(len(ids), -1)
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        for i in np.flatnonzero((side < 0) & labels[:, rarest]):
            want = wanted[:, rarest]
            better = want[1] > want[0] or (want[1] == want[0] and room[1] > room[0])
            side[i] = int(better)
            wanted[side[i]] -= labels[i]
            room[side[i]] -= 1
            left -= labels[i]
    _make_up(side, labels, wanted, round(fraction * len(ids)))
    held = np.zeros(len(ids), bool)
    held[order] = side == 1
    return held


def _make_up(side: np.ndarray, labels: np.ndarray, wanted: np.ndarray, count: int) -> None:
    """Moves images until `count` are on side 1: those whose classes that side lacks most, and no class's last
    one.

    Args:
      side: int [images], 0 or 1, changed in place; labels: bool [images, classes]; wanted: [2, classes] of
        either side.
    """
    while (missing := count - int((side == 1).sum())) != 0:
        to = int(missing > 0)
        lost = labels[side != to].sum(axis=0) == 1
        gain = labels @ (wanted[to] - wanted[1 - to]) / labels.sum(axis=1)
        gain = np.where(side == to, -np.inf, gain - 1e6 * (labels & lost).any(axis=1))
        i = int(np.argmax(gain))
        side[i] = to
        wanted[1 - to] += labels[i]
        wanted[to] -= labels[i]


def half_interval(count: int) -> float:
    """Half the width of a 95 % interval of a rate near a half that was found in `count` trials (Wilson's
    interval).
    """
    return NORMAL_95 / (2.0 * math.sqrt(count + NORMAL_95**2))


def describe(kept: Source, held: Source) -> tuple[list[str], dict[str, Any]]:
    """What was held out and how sure numbers on it can be: lines to print, and the same for the run
    folder.
    """
    counts = {name: class_counts(part) for name, part in (("training", kept), ("held_out", held))}
    names = [category.name for category in held.categories]
    objects, images = int(counts["held_out"].sum()), _whole_images(held)
    per_image = half_interval(images)
    unit = {"boxes": "boxes", "masks": "classes in images", "classes": "images"}[_kind(held)]
    detail = (
        f" (± {half_interval(objects):.2f} if its {objects} {unit} were independent)"
        if objects > images
        else ""
    )
    lines = [
        f"held out for evaluation: {images} of {images + _whole_images(kept)} labelled images; "
        f"a score near 0.5 on them is known to about ± {per_image:.2f}{detail}, with 95 % confidence"
    ]
    if per_image > WIDE:
        needed = math.ceil((NORMAL_95 / (2 * WIDE)) ** 2 - NORMAL_95**2)
        lines.append(
            f"WARNING: {images} held-out images tell apart only models whose scores differ by about "
            f"{per_image:.2f} or more; "
            f"± {WIDE} takes {needed}. Label more, or raise --eval_fraction (which leaves fewer to train on)"
        )
    for where, text in (
        ("held_out", "cannot be evaluated: no held-out image has it"),
        ("training", "cannot be learnt: no training image has it"),
    ):
        lacking = [n for n, count in zip(names, counts[where]) if not count]
        if lacking:
            lines.append(f"WARNING: {text}: {shown(lacking, 8)}")
    rows = {n: {k: int(c[i]) for k, c in counts.items()} for i, n in enumerate(names)}
    numbers = {"images": images, "objects": objects, "half_interval": round(per_image, 4), "per_class": rows}
    return lines, {**numbers, "half_interval_if_objects_were_independent": round(half_interval(objects), 4)}


def class_counts(source: Source) -> np.ndarray:
    """Int64 [classes]: objects that are no crowds, or images with the class."""
    if source.annotations is not None:
        return np.bincount(
            source.annotations.classes[~source.annotations.crowd], minlength=len(source.categories)
        )
    return class_presence(source).sum(axis=0)


def _kind(source: Source) -> str:
    return (
        "boxes" if source.annotations is not None else "masks" if source.read_mask is not None else "classes"
    )


def _whole_images(source: Source) -> int:
    return len(np.unique(source.cut_from)) if source.cut_from is not None else len(source)
