"""Object detection with RetinaNet."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any, Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from losses.box import huber_loss
from losses.focal import focal_loss
from official.data import pipeline
from official.data.formats.coco import to_coco
from official.data.pseudo_labels import BoxLabels
from official.data.source import Annotations, Category, Source
from official.evaluation import coco_metrics, drawing
from official.experiment import Experiment
from official.export.detector import export_detector
from official.files import output_names, write_json
from official.models.anchors import encode_targets
from official.models.backbones.registry import build_backbone, check_levels
from official.models.decoding import DetectionDecoder
from official.models.replicas import programs_of
from official.models.retinanet import RetinaNet
from official.screen import counted
from official.tasks import keras_data
from official.tasks.augmentation import augmentation
from official.tasks.task import Checks, Columns, Recommended, Task, Tensors


class DetectionTask(Task):
    """RetinaNet, focal and Huber loss, COCO metrics."""

    name = "detection"
    network = RetinaNet
    paper_classes = 90
    has_anchors = True
    released_network = "detector"
    original_flags = {
        "legacy_resize": "resizes as TF1 did",
        "legacy_decoding": "decodes boxes with the original's +1",
    }
    label_kind = "boxes"
    keras_label = "bounding_boxes"
    metrics = ("AP", "AP50", "AP75", "APs", "APm", "APl")

    def __init__(self, experiment: Experiment, categories: tuple[Category, ...]) -> None:
        """Args: categories: the classes of the human labels."""
        super().__init__(experiment, categories)
        self.augment = augmentation(experiment.augment, "boxes")

    @classmethod
    def check(cls, experiment: Experiment) -> Checks:
        return [lambda: check_levels(experiment.model), lambda: augmentation(experiment.augment, "boxes")]

    @classmethod
    def recommended(cls, *, gpu: bool, large: bool) -> list[Recommended]:
        small = [
            ("fpn_filters", 64, "a quarter of the paper's, for CPUs"),
            ("head_filters", 64, "likewise"),
            ("head_convs", 2, "half of the paper's, for CPUs"),
        ]
        auto = [("score_threshold", "auto", "as many pseudo boxes of a class per image as people draw")]
        return ([] if gpu else small) + ([] if large else auto)

    # --- the model -------------------------------------------------------------------------------

    def build_model(self) -> RetinaNet:
        options = self.experiment.model
        size = options.image_size
        backbone = build_backbone(options)
        return RetinaNet(
            backbone,
            len(self.categories),
            image_size=size,
            min_level=options.min_level,
            max_level=options.max_level,
            fpn_filters=options.fpn_filters,
            head_filters=options.head_filters,
            head_convs=options.head_convs,
            anchor_scale=options.anchor_scale,
            num_scales=options.num_scales,
            activation=options.activation,
            batch_norm_momentum=options.batch_norm_momentum,
            batch_norm_epsilon=options.batch_norm_epsilon,
            decoder=self.decoder(self.experiment.decoding.eval_score_threshold),
        )

    def decoder(self, score_threshold: float) -> DetectionDecoder:
        """Post-processing with this run's settings."""
        options = self.experiment.decoding
        return DetectionDecoder(
            score_threshold=score_threshold,
            nms_iou_threshold=options.nms_iou,
            soft_nms_sigma=options.soft_nms_sigma,
            max_detections=options.max_detections,
            top_k=options.pre_nms_top_k,
            legacy_size=self.experiment.model.image_size if options.legacy_decoding else 0,
            static=bool(self.experiment.runtime.tpu),
        )

    # --- training --------------------------------------------------------------------------------

    def preparation(self) -> pipeline.Preparation:
        data = self.experiment.data
        return pipeline.placing(
            self.augment,
            image_size=self.experiment.model.image_size,
            max_boxes=data.max_boxes,
            legacy_resize=data.legacy_resize,
        )

    @functools.cached_property
    def anchors(self) -> list[tf.Tensor]:
        """Float32 [A_l, 4] per level."""
        from official.models import anchors

        options = self.experiment.model
        generator = anchors.anchor_generator(
            options.min_level, options.max_level, options.anchor_scale, options.num_scales
        )
        with tf.init_scope():
            return anchors.anchors_by_level(generator, options.image_size)

    def encode(self, batch: Tensors) -> Tensors:
        flat = tf.concat(self.anchors, axis=0)
        options, runtime = self.experiment, self.experiment.runtime
        return encode_targets(
            batch["boxes"],
            batch["classes"],
            flat,
            options.loss.match_iou,
            ignoring=options.pseudo_labels.ignore_above < 1.0,
            static=runtime.xla or bool(runtime.tpu),
        )

    def count(self, targets: Tensors) -> tf.Tensor:
        return tf.reduce_sum(targets["positives"])

    def normalizer(self, count: tf.Tensor) -> tf.Tensor:
        return count + 1.0  # original: losses.py:388-390; keeps batches without a box finite

    def loss_sums(self, outputs: Tensors, targets: Tensors) -> Tensors:
        options = self.experiment.loss
        class_targets = targets["class_targets"]
        class_loss = focal_loss(
            outputs["classification"], class_targets, alpha=options.focal_alpha, gamma=options.focal_gamma
        )
        box_loss = huber_loss(
            outputs["box"], targets["box_targets"], class_targets >= 0, delta=options.huber_delta
        )
        return {
            "class_loss": tf.reduce_sum(class_loss),
            "box_loss": options.box_weight * tf.reduce_sum(box_loss) / 4.0,
        }

    # --- in Keras' `fit`, `evaluate` and `predict` ------------------------------------------------

    def batch_of(self, data: Tensors, box_format: str) -> Tensors:
        if "boxes" in data:
            return data
        if "bounding_boxes" not in data:
            raise keras_data.missing("bounding_boxes", data)
        images = keras_data.network_images(data["images"], self.experiment.model.image_size)
        boxes, classes = keras_data.dense_boxes(
            data["bounding_boxes"],
            images,
            box_format,
            classes=len(self.categories),
            max_boxes=self.experiment.data.max_boxes,
        )
        return {"images": images, "boxes": boxes, "classes": classes}

    def found(self, network: RetinaNet, images: tf.Tensor, box_format: str) -> Tensors:
        """ "boxes" float32 [B, D, 4] in pixels of the images, "classes" int32, "confidence" [B, D],
        "num_detections" [B].
        """
        fitted = keras_data.fitted(self._fitting(), images)
        decoder = self.decoder(self.experiment.decoding.eval_score_threshold)
        found = decoder(
            network({"images": fitted["images"]}, training=False), network.anchors(), fitted["extent"]
        )
        boxes = found["boxes"] / tf.tile(fitted["scale"], [1, 2])[:, None]
        size = tf.shape(images)[1:3]
        boxes = tf.clip_by_value(boxes, 0.0, tf.cast(tf.tile(size, [2]), tf.float32))
        return self._in_keras_words(found, boxes, box_format, size)

    def compared(self, network: RetinaNet, outputs: Tensors, batch: Tensors, box_format: str) -> tuple:
        images, threshold = batch["images"], self.experiment.decoding.eval_score_threshold
        extents = tf.fill([tf.shape(images)[0], 2], float(network.image_size))
        found = self.decoder(threshold)(outputs, network.anchors(), extents)
        truth = keras_data.keras_boxes(batch["boxes"], batch["classes"], box_format, tf.shape(images)[1:3])
        truth = {"boxes": truth, "classes": tf.cast(batch["classes"], tf.float32)}
        return truth, self._in_keras_words(found, found["boxes"], box_format, tf.shape(images)[1:3]), None

    @staticmethod
    def _in_keras_words(found: Tensors, boxes: tf.Tensor, box_format: str, size: tf.Tensor) -> Tensors:
        return {
            "boxes": keras_data.keras_boxes(boxes, found["classes"], box_format, size),
            "classes": found["classes"],
            "confidence": found["scores"],
            "num_detections": found["count"],
        }

    # --- inference -------------------------------------------------------------------------------

    def predictions(
        self, model: RetinaNet, source: Source, first: int, last: int, score_threshold: float
    ) -> Iterator[dict[str, np.ndarray]]:
        """Detections of images first..last - 1, in order, in pixels of the stored images.

        Yields:
          "boxes" float32 [N, 4] yxyx inside the image, "scores" float32 [N], "classes" int32 [N].
        """
        batch_size = self.experiment.decoding.eval_batch_size
        dataset = pipeline.inference_dataset(
            source,
            prepare=self._fitting(),
            batch_size=batch_size,
            first=first,
            last=last,
            threads=self.experiment.runtime.threads,
        )
        detect = detection_function(model, self.decoder(score_threshold))
        for batch in dataset:
            found = {k: v.numpy() for k, v in detect(batch["images"], batch["extent"]).items()}
            scale = batch["scale"].numpy()
            for i, index in enumerate(batch["index"].numpy()):
                if index >= 0:
                    yield _in_image(found, i, scale[i], source.sizes[index])

    def _fitting(self) -> pipeline.Fitting:
        return pipeline.fitting(
            self.experiment.model.image_size, legacy_resize=self.experiment.data.legacy_resize
        )

    def label(self, model: RetinaNet, source: Source, first: int, last: int) -> Iterator[BoxLabels]:
        floor = self.experiment.pseudo_labels.score_floor
        return (BoxLabels(**found) for found in self.predictions(model, source, first, last, floor))

    def predict(
        self, model: RetinaNet, source: Source, first: int, last: int
    ) -> Iterator[dict[str, np.ndarray]]:
        return self.predictions(model, source, first, last, self.experiment.decoding.eval_score_threshold)

    def write_predictions(self, source: Source, found: Iterable[dict], output: str) -> dict[str, Any]:
        """`detections.json` (COCO results), `images.json` (what its ids mean), both in one `coco.json` with
        the classes, and `drawn/`.

        File names in `coco.json` are relative to the folder of images, boxes have scores.
        """
        kept, names = [], output_names(source.ids, ".jpg")
        for i, objects in enumerate(found):
            image = source.read_image(tf.constant(i, tf.int64)).numpy()
            drawing.write_jpeg(
                os.path.join(output, "drawn", names[i]), self.draw_with_legend(image, self.shown(objects))
            )
            kept.append(objects)
        results = coco_metrics.results(source, kept)
        images = [{"id": i, "file_name": str(n)} for i, n in zip(source.coco_image_ids(), source.ids)]
        labelled = source.with_annotations(Annotations.from_images(kept), self.categories)
        coco = to_coco(dataclasses.replace(labelled, file_names=None), with_scores=True)
        for name, content in (("detections", results), ("images", images), ("coco", coco)):
            write_json(os.path.join(output, f"{name}.json"), content, compact=True)
        columns = labelled.objects
        places = np.unique(
            np.stack([np.repeat(np.arange(len(source)), columns.counts()), columns.classes]), axis=1
        )[1]
        return {
            "boxes": len(results),
            "boxes_per_class": self._per_class(columns.classes),
            "images_per_class": self._per_class(places),
        }

    def _per_class(self, classes: np.ndarray) -> dict[str, int]:
        counts = np.bincount(classes.astype(int), minlength=len(self.categories))
        return {category.name: int(count) for category, count in zip(self.categories, counts)}

    def export(self, model: RetinaNet, folder: str) -> dict[str, str]:
        return export_detector(
            model,
            folder,
            [category.name for category in self.categories],
            dataclasses.replace(self.decoder(self.experiment.decoding.eval_score_threshold), static=False),
            class_ids=[category.id for category in self.categories],
            legacy_resize=self.experiment.data.legacy_resize,
            tflite=self.experiment.serving.tflite,
        )

    def look(self, model: RetinaNet, source: Source, first: int, last: int, progress: str = "") -> Columns:
        """int64 "count" [images], and of all detections one after the other what `predictions` yields."""
        found = self.predictions(model, source, first, last, self.experiment.decoding.eval_score_threshold)
        if progress:
            found = counted(found, progress, last - first, "images")
        kept = list(found)
        empty = {
            "boxes": np.zeros((0, 4), np.float32),
            "scores": np.zeros(0, np.float32),
            "classes": np.zeros(0, np.int32),
        }
        columns = {
            name: np.concatenate([none, *(objects[name] for objects in kept)]) for name, none in empty.items()
        }
        return {**columns, "count": np.array([len(objects["scores"]) for objects in kept], np.int64)}

    def score(self, source: Source, seen: Columns, output_dir: str) -> dict:
        ends = np.cumsum(seen["count"])
        parts = [slice(end - count, end) for end, count in zip(ends, seen["count"])]
        found = [{name: seen[name][part] for name in ("boxes", "scores", "classes")} for part in parts]
        return coco_metrics.evaluate_detections(source, found, output_dir)

    def draw(self, image: np.ndarray, objects: dict) -> np.ndarray:
        names = [category.name for category in self.categories]
        return drawing.draw_boxes(image, objects, names, scores=self.experiment.serving.draw_scores)

    def legend(self, objects: Sequence[dict] | None = None) -> list[tuple[str, drawing.Color]]:
        """The classes of crowds, in which not every box has its name."""
        if objects is not None and all(
            len(found.get("classes", ())) <= drawing.MOST_LABELS for found in objects
        ):
            return []
        drawn = (
            range(len(self.categories))
            if objects is None
            else np.unique(np.concatenate([o["classes"] for o in objects if len(o)]))
        )
        return [(self.categories[int(k)].name, drawing.class_color(int(k))) for k in drawn]

    def shown(self, objects: dict) -> dict:
        return drawing.confident(objects, self.experiment.pseudo_labels.drawn_from)

    def human_labels(self, source: Source, index: int) -> dict:
        return {k: v for k, v in source.objects.of(index).items() if k != "scores"}

    def batch_labels(self, batch: dict, index: int) -> dict:
        real = batch["classes"][index] >= 0
        return {name: batch[name][index][real] for name in ("boxes", "classes")}


def detection_function(model: RetinaNet, decoder: DetectionDecoder) -> Callable[..., Tensors]:
    """A compiled function (images, extent) -> decoded detections."""

    def detect(images, extent):
        outputs = model({"images": images}, training=False)
        return decoder(outputs, model.anchors(), extent)

    return programs_of(model)(decoder, detect)


def _in_image(found: dict, i: int, scale: np.ndarray, size: np.ndarray) -> dict[str, np.ndarray]:
    count = int(found["count"][i])
    limits = np.array([size[0], size[1], size[0], size[1]], np.float32)
    boxes = found["boxes"][i, :count] / np.tile(scale, 2)
    return {
        "boxes": np.clip(boxes, 0.0, limits).astype(np.float32),
        "scores": found["scores"][i, :count],
        "classes": found["classes"][i, :count],
    }
