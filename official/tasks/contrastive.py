"""SimCLR: contrastive pre-training of a backbone on images without labels.

Where the images have classes, a linear classifier on features without gradient is trained beside
it (the original's evaluation while pre-training); it tells how good the features are and changes
nothing.

Source: google-research/simclr run.py, model.py, objective.py.
"""

from __future__ import annotations

import os
from typing import Any, Iterable

import numpy as np
import tensorflow as tf

from augment.crops import centre_crop
from augment.views import ViewPolicy
from losses.classification import class_cross_entropy
from losses.contrastive import nt_xent
from official.data import pipeline
from official.data.example import denormalize, normalize
from official.data.pseudo_labels import ImageLabels
from official.data.source import Category, DataError, Source
from official.errors import FlagError
from official.evaluation import drawing
from official.experiment import Experiment
from official.export.classifier import export_backbone
from official.files import write_json
from official.hashing import hashed_key, named_seed
from official.models.backbones.registry import build_backbone
from official.models.classifier import ContrastiveModel
from official.models.replicas import programs_of
from official.screen import counted
from official.tasks.augmentation import crop_style
from official.tasks.task import Checks, Columns, Task, Tensors

_EVALUATION = named_seed("contrastive evaluation")
_NO_LABELS = (
    "task=contrastive learns features and finds no classes; train a task with --init=<this run "
    "folder>, or evaluate it with --job=linear_eval"
)


class ContrastiveTask(Task):
    """Two views of every image, NT-Xent."""

    name = "contrastive"
    network = ContrastiveModel
    label_kind = "classes"
    needs_labels = False
    whole_images = True

    def __init__(self, experiment: Experiment, categories: tuple[Category, ...]) -> None:
        """Args: categories: of the images, for the linear evaluation; empty for none."""
        super().__init__(experiment, categories)
        self.crop_style = crop_style(experiment)
        self.decays_biases = experiment.optimizer.optimizer != "lars"  # which leaves biases out
        self.metrics = ("contrast_accuracy", *(("probe_top1",) if categories else ()))
        options = experiment.augment
        self.views = ViewPolicy(
            strength=options.color_strength,
            blur=options.blur,
            blur_per_image=options.blur_per_image,
            smallest_area=options.smallest_crop,
            legacy_resize=experiment.data.legacy_resize,
        )

    @classmethod
    def check(cls, experiment: Experiment) -> Checks:
        return [lambda: _check_whole(experiment)]

    # --- training ---------------------------------------------------------------------------------

    def build_model(self) -> ContrastiveModel:
        options = self.experiment.model
        return ContrastiveModel(
            build_backbone(options),
            image_size=options.image_size,
            projection_layers=options.projection_layers,
            projection_dim=options.projection_dim,
            num_classes=len(self.categories),
            batch_norm_momentum=options.batch_norm_momentum,
        )

    def _two_views(self, image: tf.Tensor, key: tf.Tensor, *batch: int | tf.Tensor) -> tf.Tensor:
        """Float32 [S, S, 6], normalised; `batch` are integers that name the draws which a batch shares."""
        views = []
        for number, own in enumerate(
            tf.unstack(tf.random.experimental.stateless_split(key, 2, alg="philox"))
        ):
            view = self.views.view(image, own, hashed_key(number, *batch), self.experiment.model.image_size)
            views.append(normalize(255.0 * view))
        return tf.concat(views, axis=-1)

    def preparation(self) -> pipeline.Preparation:
        seed = self.experiment.runtime.seed

        def prepare(example, key):
            views = self._two_views(example["image"], key, seed, example["step"])
            return {
                "images": views,
                "index": example["index"],
                "class": example.get("class", tf.constant(-1)),
            }

        return prepare

    def encode(self, batch: Tensors) -> Tensors:
        return {"labels": batch["class"]}

    def count(self, targets: Tensors) -> tf.Tensor:
        return tf.cast(tf.size(targets["labels"]), tf.float32)

    def normalizer(self, count: tf.Tensor) -> tf.Tensor:
        return count

    def loss_sums(self, outputs: Tensors, targets: Tensors) -> Tensors:
        first, second = tf.unstack(outputs["projections"], axis=1)
        loss, _ = nt_xent(first, second, temperature=self.experiment.loss.temperature)
        sums = {"contrastive_loss": tf.reduce_sum(loss)}
        if "probe" in outputs:
            both = [
                class_cross_entropy(logits, targets["labels"])
                for logits in tf.unstack(outputs["probe"], axis=1)
            ]
            sums["probe_loss"] = 0.5 * tf.reduce_sum(tf.add_n(both))
        return sums

    # --- on a trained model -----------------------------------------------------------------------

    def look(
        self, model: ContrastiveModel, source: Source, first: int, last: int, progress: str = ""
    ) -> Columns:
        """Counts [1] of all: "seen" and "known" images, "hits" among the views of a batch, "right"
        classes.
        """
        size, legacy_resize = self.experiment.model.image_size, self.experiment.data.legacy_resize

        def prepare(example):
            # The same views in every evaluation, whatever the run's seed.
            words = (_EVALUATION, example["index"])
            views = self._two_views(example["image"], hashed_key(*words), *words)
            centre = centre_crop(example["image"], size, style=self.crop_style, legacy_resize=legacy_resize)
            return {"images": views, "centres": tf.concat([normalize(centre)] * 2, axis=-1)}

        dataset = pipeline.inference_dataset(
            source,
            prepare=prepare,
            batch_size=self.experiment.decoding.eval_batch_size,
            first=first,
            last=last,
            threads=self.experiment.runtime.threads,
        )
        hits, right, known, seen = 0.0, 0, 0, 0
        run = programs_of(model)("outputs", lambda images: model({"images": images}, training=False))
        batches = -(-(last - first) // self.experiment.decoding.eval_batch_size)
        for batch in counted(dataset, progress, batches, "batches", shown=bool(progress)):
            index = batch["index"].numpy()
            real = index >= 0
            one, other = tf.unstack(run(batch["images"])["projections"], axis=1)
            # A batch that was filled up is evaluated without the filling.
            found = nt_xent(
                one[: real.sum()], other[: real.sum()], temperature=self.experiment.loss.temperature
            )[1]
            hits, seen = hits + float(tf.reduce_sum(found)), seen + int(real.sum())
            if self.categories and source.image_classes is not None:
                labels = source.image_classes[index[real]]
                guesses = run(batch["centres"])["probe"][:, 0].numpy()[real].argmax(axis=1)
                right, known = (
                    right + int(((guesses == labels) & (labels >= 0)).sum()),
                    known + int((labels >= 0).sum()),
                )
        return {
            name: np.array([value])
            for name, value in dict(hits=hits, seen=seen, right=right, known=known).items()
        }

    def score(self, source: Source, seen: Columns, output_dir: str) -> dict:
        """How often a view is nearest to its own other view of those of a batch, and the online linear
        evaluation's top-1.
        """
        totals = {name: column.sum().item() for name, column in seen.items()}
        metrics = {
            "contrast_accuracy": totals["hits"] / max(1, totals["seen"]),
            "contrast_batch": self.experiment.decoding.eval_batch_size,
        }
        if totals["known"]:
            metrics["probe_top1"] = totals["right"] / totals["known"]
        write_json(os.path.join(output_dir, "metrics.json"), metrics)
        return metrics

    def label(self, model: ContrastiveModel, source: Source, first: int, last: int) -> Iterable[ImageLabels]:
        raise DataError(_NO_LABELS)

    def predict(self, model: ContrastiveModel, source: Source, first: int, last: int) -> Iterable[dict]:
        raise DataError(_NO_LABELS)

    def write_predictions(self, source: Source, found: Iterable[dict], output: str) -> dict[str, Any]:
        raise DataError(_NO_LABELS)

    def export(self, model: ContrastiveModel, folder: str) -> dict[str, str]:
        """The backbone; the projection head has done its work."""
        return export_backbone(model, folder)

    # --- images ---------------------------------------------------------------------------------

    def draw(self, image: np.ndarray, objects: dict) -> np.ndarray:
        return image

    def shown(self, objects: dict) -> dict:
        return objects

    def human_labels(self, source: Source, index: int) -> dict:
        return {}

    def batch_labels(self, batch: dict, index: int) -> dict:
        return {}

    def training_drawings(self, batch: dict) -> list[np.ndarray]:
        """Both views of every image beside each other."""
        views = [denormalize(batch["images"][..., part]).numpy() for part in (slice(0, 3), slice(3, 6))]
        return [drawing.sheet(pair, columns=2, cell=pair[0].shape[0]) for pair in zip(*views)]


def _check_whole(experiment: Experiment) -> None:
    if experiment.training.accumulate > 1:
        raise FlagError(
            "--accumulate: a contrastive loss compares all images of a batch with each other, so it cannot "
            "be passed in parts"
        )
