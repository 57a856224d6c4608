"""TensorBoard: scalars, image grids, histograms and the flags of a run."""

from __future__ import annotations

import json
from typing import Any, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

# What a tag means, by its last part; TensorBoard shows it beside the curve.
DESCRIPTIONS = {
    "loss": "What is minimised: the joined losses and the weight decay.",
    "human_loss": "Loss on human labels, divided by their positive anchors (pixels, images).",
    "pseudo_loss": "The same on pseudo labels, before it is weighted.",
    "human_loss_average": "Moving average of the human loss, for the normalised joint loss.",
    "pseudo_loss_average": "Moving average of the pseudo loss.",
    "loss_ratio": "Human over pseudo average: what makes both losses equally large.",
    "pseudo_weight": "What the pseudo loss is multiplied with in the end.",
    "weight_decay_loss": "weight_decay / 2 times the sum of squared kernels.",
    "gradient_norm": "Norm of the whole gradient before clipping.",
    "learning_rate": "Of this step.",
    "images_per_second": "Training images of all streams.",
    "AP": "COCO's AP: mean over IoU 0.5 to 0.95 and the classes.",
    "AP50": "AP at IoU 0.5.",
    "AP75": "AP at IoU 0.75.",
    "APs": "AP of objects below 32² pixels.",
    "APm": "AP of objects from 32² to 96² pixels.",
    "APl": "AP of objects above 96² pixels.",
    "mIoU": "Mean IoU at the images' own sizes.",
    "mIoU_padded": "Mean IoU at the network's padded input, as the original counts.",
    "pixel_accuracy": "Share of labelled pixels that are right.",
    "top1": "Top-1 accuracy: the class of the highest probability is right.",
    "top5": "Top-5 accuracy: the class is among the five of the highest probabilities.",
    "predictions": "Evaluation images: labels of people beside what the network finds.",
    "training_human": "Training images with human labels as the network sees them, augmented.",
    "training_pseudo": "Training images with pseudo labels as the network sees them, augmented.",
    "pseudo_labels": "Unlabelled images with the pseudo labels in use.",
    "pseudo_labels/used_scores": "Scores of the pseudo boxes in use.",
    "pseudo_labels/stored_scores": "Scores of all pseudo boxes that are stored.",
    "evaluation_confusion": "Rows are true classes, columns what they are called, in per cent.",
}
_BY_PREFIX = {
    "evaluation_per_class": "The evaluation's first number, of this class alone.",
    "train": "Part of the loss, or how many of what a loss is divided by.",
}


def description(tag: str) -> str:
    """What a tag means; "" where its name says it."""
    first, _, last = tag.rpartition("/")
    return (
        DESCRIPTIONS.get(tag)
        or (_BY_PREFIX["evaluation_per_class"] if first == "evaluation_per_class" else "")
        or DESCRIPTIONS.get(last)
        or _BY_PREFIX.get(first, "")
    )


class Summaries:
    """Writes the events of one phase; silent on workers that are not the chief."""

    def __init__(self, folder: str, *, chief: bool = True) -> None:
        """Args: folder: <model_dir>/<phase>, so that TensorBoard calls it by the phase's name."""
        self.folder = folder
        self.writer = tf.summary.create_file_writer(folder) if chief else tf.summary.create_noop_writer()

    def scalars(self, values: Mapping[str, Any], step: int, prefix: str = "train") -> None:
        """One point per name, as `prefix/name`."""
        with self.writer.as_default(step=step):
            for name, value in values.items():
                tag = f"{prefix}/{name}"
                tf.summary.scalar(tag, float(value), description=description(tag))

    def drawings(self, name: str, drawings: Sequence[np.ndarray], step: int) -> None:
        """Drawings of any sizes, uint8 [H, W, 3] each, padded to the largest."""
        if not drawings:
            return
        height = max(p.shape[0] for p in drawings)
        width = max(p.shape[1] for p in drawings)
        grid = np.zeros((len(drawings), height, width, 3), np.uint8)
        for i, drawing in enumerate(drawings):
            grid[i, : drawing.shape[0], : drawing.shape[1]] = drawing
        with self.writer.as_default(step=step):
            tf.summary.image(name, grid, max_outputs=len(drawings), description=description(name))

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """A histogram of any number of values."""
        if len(values):
            with self.writer.as_default(step=step):
                tf.summary.histogram(name, values, description=description(name))

    def flags(
        self, flags: Mapping[str, Any], defaults: Mapping[str, Any], deciding: Mapping[str, Any]
    ) -> None:
        """The resolved flags: as a text, those that differ from the defaults first, and for the HParams tab.

        The tab compares runs; of several it shows the flags that differ between them first.

        Args:
          deciding: those that decide numbers, which the tab gets.
        """
        differing = {name: value for name, value in flags.items() if value != defaults.get(name)}
        rest = {name: value for name, value in flags.items() if name not in differing}
        parts = [("differ from the defaults", differing), ("the others", rest)]
        text = [
            f"{title}:\n\n" + "\n".join(f"    --{n}={json.dumps(v)}" for n, v in sorted(part.items()))
            for title, part in parts
        ]
        with self.writer.as_default(step=0):
            tf.summary.text("flags", "\n\n".join(text))
            hparams.hparams(dict(deciding))

    def flush(self) -> None:
        """Writes what is buffered."""
        self.writer.flush()
