"""Classification of whole images: supervised pre-training, Noisy Student, and the third stream of joint
training.
"""

from __future__ import annotations

import os
from typing import Any, Iterable, Iterator

import numpy as np
import tensorflow as tf

from augment.crops import centre_crop
from losses.classification import class_cross_entropy, known_labels
from official.data import pipeline
from official.data.example import normalize
from official.data.pseudo_labels import ClassLabels
from official.data.source import Category, Source
from official.evaluation import drawing
from official.evaluation.evaluated import write_per_image
from official.evaluation.mean_iou import ConfusionMatrix
from official.experiment import Experiment
from official.export.classifier import export_classifier
from official.files import output_names, write_json
from official.models.backbones.registry import build_backbone
from official.models.classifier import Classifier
from official.models.replicas import logits_function
from official.screen import counted
from official.tasks import keras_data
from official.tasks.augmentation import crop_style, image_augmentation
from official.tasks.task import Columns, Task, Tensors

MOST_DRAWN = 40  # classes in a confusion image


class ClassificationTask(Task):
    """Softmax over whole images; top-1 and top-5."""

    name = "classification"
    network = Classifier
    label_kind = "classes"
    keras_label = "labels"
    whole_images = True
    metrics = ("top1", "top5")

    def __init__(self, experiment: Experiment, categories: tuple[Category, ...]) -> None:
        """Args: categories: the classes, in the order of their indices."""
        super().__init__(experiment, categories)
        self.class_names = [category.name for category in self.categories]
        self.augment = image_augmentation(experiment)
        self.crop_style = crop_style(experiment)
        self.decays_biases = experiment.optimizer.optimizer != "lars"  # which leaves biases out

    # --- training ---------------------------------------------------------------------------------

    def build_model(self, backbone: tf.keras.Model | None = None) -> Classifier:
        """A new model; with a backbone, a new head on that one."""
        options = self.experiment.model
        return Classifier(
            backbone or build_backbone(options),
            len(self.categories),
            image_size=options.image_size,
            dropout=options.dropout,
            linear_probe=options.linear_probe,
        )

    def preparation(self) -> pipeline.Preparation:
        size = self.experiment.model.image_size

        def prepare(example, key):
            image = normalize(self.augment.augment(example["image"], key, size))
            kept = {name: example[name] for name in ("index", "class", "probabilities") if name in example}
            return {"images": image, **kept}

        return prepare

    def encode(self, batch: Tensors) -> Tensors:
        return {"labels": batch["class"], **{k: batch[k] for k in ("probabilities",) if k in batch}}

    def count(self, targets: Tensors) -> tf.Tensor:
        return tf.reduce_sum(known_labels(targets["labels"]))

    def normalizer(self, count: tf.Tensor) -> tf.Tensor:
        return tf.maximum(count, 1.0)

    def loss_sums(self, outputs: Tensors, targets: Tensors) -> Tensors:
        loss = class_cross_entropy(
            outputs["logits"],
            targets["labels"],
            probabilities=targets.get("probabilities"),
            label_smoothing=self.experiment.loss.label_smoothing,
        )
        return {"class_loss": tf.reduce_sum(loss)}

    # --- in Keras' `fit`, `evaluate` and `predict` ------------------------------------------------

    def batch_of(self, data: Tensors, box_format: str) -> Tensors:
        if "class" in data:
            return data
        if "labels" not in data:
            raise keras_data.missing("labels", data)
        images = keras_data.network_images(data["images"], self.experiment.model.image_size)
        return {"images": images, **keras_data.class_labels(data["labels"], len(self.categories))}

    def found(self, network: Classifier, images: tf.Tensor, box_format: str) -> Tensors:
        """ "classes" int32 [B], "confidence" float32 [B] and "probabilities" float32 [B, C] on the centre
        crop.
        """
        crops = tf.map_fn(self._centre, keras_data.pixels(images), fn_output_signature=tf.float32)
        probabilities = tf.nn.softmax(network({"images": crops}, training=False)["logits"])
        return {
            "classes": tf.argmax(probabilities, axis=-1, output_type=tf.int32),
            "confidence": tf.reduce_max(probabilities, axis=-1),
            "probabilities": probabilities,
        }

    def compared(self, network: Classifier, outputs: Tensors, batch: Tensors, box_format: str) -> tuple:
        known = tf.cast(batch["class"] >= 0, tf.float32)
        return tf.maximum(batch["class"], 0), tf.nn.softmax(outputs["logits"]), known

    # --- on a trained model -----------------------------------------------------------------------

    def _centre(self, image: tf.Tensor) -> tf.Tensor:
        size, legacy_resize = self.experiment.model.image_size, self.experiment.data.legacy_resize
        return normalize(centre_crop(image, size, style=self.crop_style, legacy_resize=legacy_resize))

    def _logits(self, model: Classifier, source: Source, first: int, last: int) -> Iterator[np.ndarray]:
        """Logits [C] of images first..last - 1, centre-cropped, in order."""
        dataset = pipeline.inference_dataset(
            source,
            prepare=lambda example: {"images": self._centre(example["image"])},
            batch_size=self.experiment.decoding.eval_batch_size,
            first=first,
            last=last,
            threads=self.experiment.runtime.threads,
        )
        run = logits_function(model)
        for batch in dataset:
            for row, index in zip(run(batch["images"]).numpy(), batch["index"].numpy()):
                if index >= 0:
                    yield row

    def look(self, model: Classifier, source: Source, first: int, last: int, progress: str = "") -> Columns:
        """Float32 "logits" [images, C] of the centre crops."""
        found = self._logits(model, source, first, last)
        if progress:
            found = counted(found, progress, last - first, "images")
        return {"logits": np.array(list(found), np.float32).reshape(last - first, len(self.categories))}

    def score(self, source: Source, seen: Columns, output_dir: str) -> dict:
        """Top-1 and top-5 on the centre crop, top-1 by class; images without a class are left out."""
        logits = seen["logits"]
        known = source.image_labels >= 0
        labels, logits = source.image_labels[known], logits[known]
        matrix = ConfusionMatrix(len(self.categories))
        matrix.add(labels, logits.argmax(axis=1))
        totals = matrix.counts.sum(axis=1)
        shares = np.diag(matrix.counts) / np.maximum(totals, 1)
        metrics = {
            "top1": top_accuracy(logits, labels, 1),
            "top5": top_accuracy(logits, labels, 5),
            "per_class": {n: float(s) if t else -1.0 for n, s, t in zip(self.class_names, shares, totals)},
            "confusion_matrix": matrix.counts.tolist(),
        }
        write_json(os.path.join(output_dir, "metrics.json"), {**metrics, "classes": self.class_names})
        write_per_image(
            output_dir, source.ids[known], self.class_names, labels=labels, predicted=logits.argmax(axis=1)
        )
        return metrics

    def predict(self, model: Classifier, source: Source, first: int, last: int) -> Iterator[dict[str, Any]]:
        """Yields "class" (index), "score" and "probabilities" float32 [C]."""
        for logits in self._logits(model, source, first, last):
            label, probabilities = int(logits.argmax()), softmax(logits)
            yield {"class": label, "score": float(probabilities[label]), "probabilities": probabilities}

    def label(self, model: Classifier, source: Source, first: int, last: int) -> Iterator[ClassLabels]:
        """As `predict`, with the probabilities softened by --label_temperature; class and score are not."""
        temperature = self.experiment.pseudo_labels.label_temperature
        for logits in self._logits(model, source, first, last):
            label = int(logits.argmax())
            yield ClassLabels(label, float(softmax(logits)[label]), softmax(logits / temperature))

    def write_predictions(self, source: Source, found: Iterable[dict], output: str) -> dict[str, Any]:
        """`predictions.json`: file, class, score, five highest probabilities of each image; and `drawn/`."""
        rows, counts, names = [], np.zeros(len(self.categories), np.int64), output_names(source.ids, ".jpg")
        for i, objects in enumerate(found):
            order = np.argsort(-objects["probabilities"])[:5]
            top5 = {self.class_names[k]: round(float(objects["probabilities"][k]), 6) for k in order}
            rows.append(
                {
                    "file_name": str(source.ids[i]),
                    "class": self.class_names[objects["class"]],
                    "score": round(objects["score"], 6),
                    "top5": top5,
                }
            )
            image = source.read_image(tf.constant(i, tf.int64)).numpy()
            drawing.write_jpeg(os.path.join(output, "drawn", names[i]), self.draw(image, objects))
            counts[objects["class"]] += 1
        os.makedirs(output, exist_ok=True)
        write_json(os.path.join(output, "predictions.json"), rows)
        return {"images": dict(zip(self.class_names, counts.tolist()))}

    def export(self, model: Classifier, folder: str) -> dict[str, str]:
        data, serving = self.experiment.data, self.experiment.serving
        return export_classifier(
            model,
            folder,
            self.class_names,
            class_ids=[category.id for category in self.categories],
            crop_style=self.crop_style,
            legacy_resize=data.legacy_resize,
            tflite=serving.tflite,
        )

    # --- images ---------------------------------------------------------------------------------

    def draw(self, image: np.ndarray, objects: dict) -> np.ndarray:
        label = int(objects["class"])
        if label < 0:
            return image
        score = f" {float(objects['score']):.2f}" if "score" in objects else ""
        return drawing.draw_caption(image, self.class_names[label] + score, label)

    def shown(self, objects: dict) -> dict:
        return objects

    def human_labels(self, source: Source, index: int) -> dict:
        return {"class": source.image_labels[index]}

    def batch_labels(self, batch: dict, index: int) -> dict:
        return {"class": batch["class"][index]}

    def summary_drawings(self, metrics: dict) -> dict[str, np.ndarray]:
        if len(self.class_names) > MOST_DRAWN:
            return {}
        return {"confusion": drawing.draw_confusion(np.array(metrics["confusion_matrix"]), self.class_names)}


def top_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows whose label is among the k highest logits; of equal ones the first classes count."""
    if not len(labels):
        return 0.0
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((order == labels[:, None]).any(axis=1).mean())


def softmax(logits: np.ndarray) -> np.ndarray:
    """Float32 [C]."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return (powers / powers.sum()).astype(np.float32)
