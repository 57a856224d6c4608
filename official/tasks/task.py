"""The protocol between a task and everything that trains, labels and evaluates it.

A new task is one file that implements `Task`, and one line in `official/catalog.py`; the trainer, the
self-training loop and the jobs are written once, against this. A task plays three parts, which can be read by
themselves: it is learned (`Learning`), a trained network is used for it (`Inference`), and people look at it
(`Drawing`).
"""

from __future__ import annotations

import abc
from typing import Any, Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from official.data import pipeline
from official.data.example import denormalize
from official.data.pseudo_labels import ImageLabels
from official.data.source import Category, Source
from official.evaluation.drawing import Color, sheet, with_legend
from official.experiment import Experiment, PseudoLabels

Tensors = dict[str, tf.Tensor]
Columns = dict[str, np.ndarray]
Checks = list[Callable[[], object]]
Recommended = tuple[str, Any, str]


class _Known(abc.ABC):
    """What all three parts know."""

    name: str
    categories: tuple[Category, ...]
    metrics: tuple[str, ...]
    experiment: Experiment


class Learning(_Known):
    """How a task is learned: a network, batches, targets, losses."""

    @abc.abstractmethod
    def build_model(self) -> tf.keras.Model:
        """A new model, called on {"images"}; its weights follow from the Keras global seed."""

    @abc.abstractmethod
    def preparation(self) -> pipeline.Preparation:
        """What happens to a training example before it is batched."""

    def training_dataset(self, source: Source, **options: Any) -> tf.data.Dataset:
        """Endless training batches; options are those of `official.data.pipeline.training_dataset`."""
        return pipeline.training_dataset(source, prepare=self.preparation(), **options)

    @abc.abstractmethod
    def encode(self, batch: Tensors) -> Tensors:
        """A batch to static-shaped targets, inside the step."""

    @abc.abstractmethod
    def count(self, targets: Tensors) -> tf.Tensor:
        """Float32 scalar: what this replica adds to the normaliser (positive anchors, valid pixels)."""

    @abc.abstractmethod
    def normalizer(self, count: tf.Tensor) -> tf.Tensor:
        """The divisor of the loss sums, from the count over all replicas."""

    @abc.abstractmethod
    def loss_sums(self, outputs: Tensors, targets: Tensors) -> Tensors:
        """Named float32 scalars, weighted but not normalised; their sum is the loss."""

    # --- in Keras' `fit`, `evaluate` and `predict` ------------------------------------------------

    def batch_of(self, data: Tensors, box_format: str) -> Tensors:
        """A training batch of keras-cv's dict of batched images in 0..255 and labels; what is one already
        stays as it is.

        Args:
          box_format: keras-cv's name of the boxes' format.

        Raises:
          ValueError: no labels, or images that are not the network's size.
        """
        return data

    def found(self, network: tf.keras.Model, images: tf.Tensor, box_format: str) -> Tensors:
        """What the network finds in images [B, H, W, 3] in 0..255, of any one size; a graph function."""
        raise NotImplementedError(f"task={self.name} predicts nothing")

    def compared(self, network: tf.keras.Model, outputs: Tensors, batch: Tensors, box_format: str) -> tuple:
        """(y_true, y_pred, sample_weight) of a batch, as Keras' metrics for this task take them."""
        raise NotImplementedError(f"task={self.name} has no Keras metrics")


class Inference(_Known):
    """What is done with a trained network."""

    def evaluate(self, model: tf.keras.Model, source: Source, output_dir: str, progress: str = "") -> dict:
        """Evaluates a model, writes its predictions below `output_dir`, returns the metrics."""
        return self.score(source, self.look(model, source, 0, len(source), progress), output_dir)

    @abc.abstractmethod
    def look(
        self, model: tf.keras.Model, source: Source, first: int, last: int, progress: str = ""
    ) -> Columns:
        """What a model says to images first..last - 1, for `score`: columns, which of parts are joined one
        after the other.

        Parts that begin at multiples of --eval_batch_size are together, to the bit, what is seen in one go.
        """

    @abc.abstractmethod
    def score(self, source: Source, seen: Columns, output_dir: str) -> dict:
        """Metrics from what `look` saw in all images; writes predictions below `output_dir`."""

    @abc.abstractmethod
    def label(self, model: tf.keras.Model, source: Source, first: int, last: int) -> Iterable[ImageLabels]:
        """Pseudo labels of images first..last - 1, in order, of the task's `label_kind`."""

    @abc.abstractmethod
    def predict(self, model: tf.keras.Model, source: Source, first: int, last: int) -> Iterable[dict]:
        """What the model finds in images first..last - 1, in pixels of the stored images, in order."""

    @abc.abstractmethod
    def write_predictions(self, source: Source, found: Iterable[dict], output: str) -> dict[str, Any]:
        """Writes what `predict` gave, as files and drawn, below `output`; returns numbers for the summary."""

    @abc.abstractmethod
    def export(self, model: tf.keras.Model, folder: str) -> dict[str, str]:
        """Writes the model as files; their paths by kind."""


class Drawing(_Known):
    """What people look at."""

    @abc.abstractmethod
    def draw(self, image: Any, objects: dict) -> Any:
        """A uint8 image with the given human labels, pseudo labels or predictions drawn on it, of the same
        size.
        """

    @abc.abstractmethod
    def shown(self, objects: dict) -> dict:
        """The part of labels or predictions that is sure enough to be drawn."""

    @abc.abstractmethod
    def human_labels(self, source: Source, index: int) -> dict:
        """The labels of one image, as `draw` takes them."""

    @abc.abstractmethod
    def batch_labels(self, batch: dict, index: int) -> dict:
        """The labels of one row of a NumPy training batch, as `draw` takes them."""

    def training_drawings(self, batch: dict) -> list:
        """Uint8 images of a NumPy training batch as the network sees it, with its labels."""
        images = denormalize(batch["images"]).numpy()
        return [self.draw_with_legend(image, self.batch_labels(batch, i)) for i, image in enumerate(images)]

    def legend(self, objects: Sequence[dict] | None = None) -> list[tuple[str, Color]]:
        """Names that images need beside them, in the colours that are drawn; by default none.

        Args:
          objects: what is drawn; None: anything may be.
        """
        return []

    def draw_with_legend(self, image: Any, objects: dict) -> Any:
        """As `draw`, with a legend below the image where it takes one."""
        return with_legend(self.draw(image, objects), self.legend([objects]))

    def draw_beside(self, name: str, image: Any, columns: Mapping[str, dict]) -> Any:
        """Labels of several kinds on the same image, beside each other under their names; the image's stands
        before the first.
        """
        drawings = [self.draw(image, objects) for objects in columns.values()]
        captions = [f"{name}: {kind}" if k == 0 else kind for k, kind in enumerate(columns)]
        side = min(512, max(160, *image.shape[:2]))
        return sheet(
            drawings,
            columns=len(drawings),
            cell=side,
            captions=captions,
            legend=self.legend(list(columns.values())),
        )

    def summary_drawings(self, metrics: dict) -> dict[str, Any]:
        """Drawings made of an evaluation's metrics, uint8 by name; for TensorBoard."""
        return {}


class Task(Learning, Inference, Drawing):
    """What is learned and how it is evaluated.

    Attributes:
      name: as in --task.
      network: the class of its networks.
      categories: the classes, in the order of the class indices.
      label_kind: what its sources and label stores hold: "boxes", "masks" or "classes".
      metrics: names of the numbers that a result shows; the first one decides the best checkpoint.
      keras_label: the key of its labels in keras-cv's dicts.
      needs_labels: whether its training images must be labelled.
      whole_images: whether it learns from images as wholes, as pre-training does, not from what is where in
        them.
      has_anchors: whether the data can be checked against anchors.
      released_network: what a released network of this task is, "detector" or "segmenter"; "": none is
        imported.
      original_flags: how the original's networks of this task were trained and scored: flag to be set -> what
        it does.
      paper_classes: how many the paper's networks of this task have, with segmentation's background.
      decays_biases: whether weight decay covers all but batch norm (the original's classifiers), or kernels
        alone.
      experiment: what it was built from.
    """

    name: str
    network: type
    categories: tuple[Category, ...]
    label_kind: str
    metrics: tuple[str, ...]
    keras_label: str = ""
    needs_labels: bool = True
    whole_images: bool = False
    has_anchors: bool = False
    released_network: str = ""
    original_flags: Mapping[str, str] = {}
    paper_classes: int = 1000
    decays_biases: bool = False
    experiment: Experiment

    def __init__(self, experiment: Experiment, categories: Sequence[Category]) -> None:
        """Args: categories: the classes, in the order of their indices."""
        self.experiment = experiment
        self.categories = tuple(categories)

    @classmethod
    def check(cls, experiment: Experiment) -> Checks:
        """What the flags of a run of this task are checked by: functions that raise FlagError, each for one
        thing.
        """
        return []

    @classmethod
    def labelling_views(cls, options: PseudoLabels) -> float:
        """Forward passes at --image_size that the label of an image takes, counted by their pixels."""
        return 1.0

    @classmethod
    def recommended(cls, *, gpu: bool, large: bool) -> list[Recommended] | None:
        """What --recipe=auto chooses for this task alone: (flag, value, reason); None: there is no recipe for
        it.

        Args:
          gpu: whether the machine has one. large: whether there is much data, and a GPU.
        """
        return None
