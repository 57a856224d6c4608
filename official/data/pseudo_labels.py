"""What a teacher says of one image, by kind of label; what a label store keeps of every image."""

from __future__ import annotations

import dataclasses
from typing import Generic, TypeVar, Union

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class BoxLabels:
    """Detections.

    Attributes:
      boxes: float32 [N, 4] yxyx, pixels of the stored image. scores: float32 [N]. classes: int32 [N].
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class MaskLabels:
    """A class map at the image's size in the network's input.

    Attributes:
      mask: uint8 [h, w], the likeliest class. score: uint8 [h, w], floor(256 p) of its probability.
    """

    mask: np.ndarray
    score: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ClassLabels:
    """The class of an image.

    Attributes:
      label: index of the likeliest class. score: its probability. probabilities: float32 [C], softened by
        --label_temperature, which `score` is not.
    """

    label: int
    score: float
    probabilities: np.ndarray


ImageLabels = Union[BoxLabels, MaskLabels, ClassLabels]
L = TypeVar("L", BoxLabels, MaskLabels, ClassLabels)


@dataclasses.dataclass(frozen=True, eq=False)
class Row(Generic[L]):
    """The labels of one image of a source.

    Attributes:
      id, file_name: as in the source; the name is "" where it has none. size: (height, width) of the image.
    """

    id: str
    file_name: str
    size: tuple[int, int]
    labels: L
