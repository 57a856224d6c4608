"""Pseudo labels for people to correct: which images are worth a minute, written with their labels, and found
again after.

An image is worth it for one of these reasons, each a number that is higher the more a person would change:

    uncertain   labels in use or nearly, times how likely each is wrong by its score: how many wrong ones are
                expected
    classes     boxes of different classes on one spot, by the score of the second best
    views       labels of the mirrored and of the smaller image that those in use do not agree with
    empty       no label in use, and many that nearly were: the expected number of objects that are missed

Of masks there is the first alone: the share of pixels that are not sure. Of classes of images `uncertain` is
the chance that the class is wrong, `classes` the probability of the second best, `views` how many views have
another class. Half of the images are shared out to these reasons, half to the classes (the most uncertain
images of each), so that a class that is everywhere does not take all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import Any, Iterable, Sequence

import numpy as np
import tensorflow as tf

from official.data.formats.mask_files import stored_limit
from official.data.pseudo_labels import BoxLabels, ClassLabels, MaskLabels
from official.data.source import Source
from official.files import read_json

NEARLY = 0.5  # times its class's threshold: from there on a label that is not in use is looked at
SAME_SPOT = 0.5  # IoU
MANIFEST = "review.manifest"  # JSON, not called so: in a folder of LabelMe every .json is an image's labels
_LEVELS = 8  # folders above an image in which its list is looked for


@dataclasses.dataclass(frozen=True)
class Worth:
    """How much images are worth a look.

    Attributes:
      reasons: float64 [images] by reason, 0: none.
      classes: float64 [images, classes], `uncertain` of each class alone.
    """

    reasons: dict[str, np.ndarray]
    classes: np.ndarray


def worth(stored: Iterable[BoxLabels], limits: np.ndarray) -> Worth:
    """What a label store's boxes say by themselves.

    Args:
      stored: the labels of every image; limits: float32 [classes], thresholds in use.
    """
    reasons: dict[str, list[float]] = {"uncertain": [], "classes": [], "empty": []}
    by_class = []
    for labels in stored:
        scores, classes = labels.scores.astype(np.float64), labels.classes
        used, near = scores >= limits[classes], scores >= NEARLY * limits[classes]
        wrong = np.where(used, 1.0 - scores, np.where(near, scores, 0.0))
        by_class.append(np.bincount(classes, wrong, minlength=len(limits)))
        reasons["uncertain"].append(wrong.sum())
        reasons["classes"].append(_contested(labels.boxes[near], scores[near], classes[near]))
        reasons["empty"].append(0.0 if used.any() else scores.sum())
    found = {name: np.array(values, np.float64) for name, values in reasons.items()}
    return Worth(found, np.array(by_class, np.float64).reshape(-1, len(limits)))


def _contested(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> float:
    """The scores of boxes on the spot of a better one of another class, summed."""
    overlap = iou(boxes, boxes) >= SAME_SPOT
    other = classes[:, None] != classes[None]
    order = np.argsort(np.argsort(-scores, kind="stable"), kind="stable")
    better = order[None] < order[:, None]
    return float(scores[(overlap & other & better).any(axis=1)].sum())


def unsure_shares(labels: MaskLabels, limits: np.ndarray) -> np.ndarray:
    """Float64 [classes], which share of an image's pixels is of a class and below its limit."""
    unsure = labels.score < stored_limit(limits)[labels.mask]
    return np.bincount(labels.mask[unsure], minlength=len(limits)) / labels.mask.size


def worth_of_masks(shares: Sequence[np.ndarray]) -> Worth:
    """The same of a label store's masks: images are as uncertain as their share of pixels that are not in
    use.
    """
    table = np.array(shares, np.float64)
    return Worth({"uncertain": table.sum(axis=1)}, table)


def worth_of_classes(stored: Sequence[ClassLabels], count: int) -> Worth:
    """The same of a label store's classes of images, by their probabilities.

    Args:
      stored: the labels of every image; count: of the classes.
    """
    wrong = np.array([1.0 - labels.score for labels in stored], np.float64)
    second = np.array([_second(labels.probabilities) for labels in stored], np.float64)
    by_class = np.zeros((len(stored), count))
    by_class[np.arange(len(stored)), [labels.label for labels in stored]] = wrong
    return Worth({"uncertain": wrong, "classes": second}, by_class)


def _second(probabilities: np.ndarray) -> float:
    return float(np.sort(probabilities)[-2]) if len(probabilities) > 1 else 0.0


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Float64 [A, B] of yxyx boxes [A, 4] and [B, 4]."""
    a, b = np.asarray(a, np.float64).reshape(-1, 1, 4), np.asarray(b, np.float64).reshape(1, -1, 4)
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(
        -1
    )
    area = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return shared / np.maximum(area, 1e-9)


def disagreement(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """How many labels of two views have no partner of their class on their spot; each is a partner once, best
    first.
    """
    overlap, same_class = iou(one["boxes"], other["boxes"]), one["classes"][:, None] == other["classes"][None]
    overlap, pairs = np.where(same_class & (overlap >= SAME_SPOT), overlap, 0.0), 0
    while overlap.size and overlap.max() > 0.0:
        i, j = np.unravel_index(overlap.argmax(), overlap.shape)
        overlap[i], overlap[:, j] = 0.0, 0.0
        pairs += 1
    return float(len(one["classes"]) + len(other["classes"]) - 2 * pairs)


def mirrored(source: Source) -> Source:
    """The images seen in a mirror."""
    return dataclasses.replace(source, read_image=lambda index: tf.reverse(source.read_image(index), [1]))


def unmirrored(labels: BoxLabels, width: int) -> BoxLabels:
    """What was found in a mirrored image, on the image."""
    y1, x1, y2, x2 = labels.boxes.T
    return dataclasses.replace(labels, boxes=np.stack([y1, width - x2, y2, width - x1], axis=1))


def candidates(found: Worth, count: int) -> np.ndarray:
    """Images to compare views of: half the most uncertain, half evenly spaced. Int64, ascending."""
    total = len(found.classes)
    sure = np.argsort(-found.reasons["uncertain"], kind="stable")[: -(-count // 2)]
    spaced = np.linspace(0, total - 1, min(total, count)).astype(int)
    others = [i for i in spaced if i not in set(sure.tolist())][: count // 2]
    return np.unique(np.concatenate([sure, np.array(others, int)]))


def choose(found: Worth, count: int, names: Sequence[str]) -> dict[int, list[str]]:
    """Images and why they were chosen, at most `count`: reasons and classes take turns, each its best image
    that is left.

    Args:
      names: of the classes.
    """
    turns = _turns([(reason, values) for reason, values in found.reasons.items()])
    class_turns = _turns([(f"class {name}", found.classes[:, i]) for i, name in enumerate(names)])
    chosen: dict[int, list[str]] = {}
    while len(chosen) < count and (turns or class_turns):
        for kind in (turns, class_turns):
            if kind and len(chosen) < count:
                reason, order = kind.pop(0)
                while order and order[0] in chosen:
                    chosen[order.pop(0)].append(reason)
                if order:
                    chosen[order.pop(0)] = [reason]
                    kind.append((reason, order))
    return chosen


def _turns(columns: Sequence[tuple[str, np.ndarray]]) -> list[tuple[str, list[int]]]:
    """(reason, its images from the best on)."""
    return [
        (name, [int(i) for i in np.argsort(-v, kind="stable") if v[i] > 0.0])
        for name, v in columns
        if (v > 0.0).any()
    ]


# --- taking them back -----------------------------------------------------------------------------


def places_in(images: Source, pool: Source) -> np.ndarray:
    """Where in `pool` each image is, int64, -1 where it is not there.

    By the list that job=review_labels wrote beside the images; or it is the same file, or a file of the same
    content.
    """
    ids: dict[str | None, int] = {str(image_id): i for i, image_id in enumerate(pool.ids)}
    listed = _Listed()
    found = np.array([ids.get(listed.id_of(_name(images, i)), -1) for i in range(len(images))], np.int64)
    missing = np.flatnonzero(found < 0)
    if len(missing):
        found[missing] = _same_files(
            [_name(images, i) for i in missing], [_name(pool, i) for i in range(len(pool))]
        )
    return found


def review_changes(reviewed: Source) -> str:
    """How many images people changed and emptied, where the labels that they were given are known; for a
    message.
    """
    listed, same, emptied, known = _Listed(), 0, 0, 0
    for i, label in enumerate(reviewed.image_classes if reviewed.image_classes is not None else ()):
        called = listed.class_of(_name(reviewed, i))
        if called is not None:
            known, same = known + 1, same + (called == reviewed.categories[label].name)
    for i in range(len(reviewed)):
        before = listed.boxes_of(_name(reviewed, i))
        if before is None or reviewed.annotations is None:
            continue
        objects = reviewed.annotations.of(i)
        names = [reviewed.categories[c].name for c in objects["classes"]]
        now = sorted([name, *np.rint(box).tolist()] for name, box in zip(names, objects["boxes"]))
        known, same, emptied = known + 1, same + (now == sorted(before)), emptied + (bool(before) and not now)
    emptied_text = "" if reviewed.annotations is None else f", {emptied} of them emptied"
    return f"; {same} unchanged, {known - same} corrected{emptied_text}" if known else ""


def _name(source: Source, i: int) -> str:
    return str(source.file_names[i]) if source.file_names is not None else ""


class _Listed:
    """The lists of job=review_labels in the folders around image files."""

    def __init__(self) -> None:
        self.lists: dict[str, dict[str, Any]] = {}

    def id_of(self, path: str) -> str | None:
        """The id of the image that a written file shows."""
        return (self._entry(path) or {}).get("id")

    def boxes_of(self, path: str) -> list | None:
        """[name, y1, x1, y2, x2], whole pixels, of the labels that it was written with."""
        return (self._entry(path) or {}).get("boxes")

    def class_of(self, path: str) -> str | None:
        """The class that an image was written with; its file may have been moved since."""
        return (self._entry(path) or {}).get("class")

    def _entry(self, path: str) -> dict[str, Any] | None:
        place = os.path.dirname(os.path.abspath(path)) if path else ""
        for _ in range(_LEVELS if place else 0):
            if place not in self.lists:
                content = read_json(os.path.join(place, MANIFEST))
                self.lists[place] = {entry["file"]: entry for entry in content.get("images", [])}
                # Files of class folders are moved: they are known by their names.
                moved = [entry for entry in content.get("images", []) if entry.get("class") is not None]
                self.lists[place].update({os.path.basename(entry["file"]): entry for entry in moved})
            names = os.path.relpath(os.path.abspath(path), place), os.path.basename(path)
            entry = next((self.lists[place][name] for name in names if name in self.lists[place]), None)
            if entry is not None:
                return entry
            place = os.path.dirname(place)
        return None


def _same_files(paths: Sequence[str], pool: Sequence[str]) -> list[int]:
    lengths: dict[int, list[int]] = {}
    for i, path in enumerate(pool):
        if os.path.isfile(path):
            lengths.setdefault(os.path.getsize(path), []).append(i)
    return [
        next((i for i in _of_length(path, lengths) if _content(pool[i]) == _content(path)), -1)
        for path in paths
    ]


def _of_length(path: str, lengths: dict[int, list[int]]) -> list[int]:
    return lengths.get(os.path.getsize(path), []) if os.path.isfile(path) else []


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).digest()
