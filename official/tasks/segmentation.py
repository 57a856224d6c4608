"""Semantic segmentation with NAS-FPN (the paper's PASCAL experiments)."""

from __future__ import annotations

import functools
import math
import os
from typing import Any, Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from losses.segmentation import labels_at, pixel_cross_entropy, resize_logits, valid_pixels
from official.data import pipeline
from official.data.formats.mask_files import encode_class_map, stored_score
from official.data.pseudo_labels import MaskLabels
from official.data.source import Category, Source
from official.errors import FlagError
from official.evaluation import drawing
from official.evaluation.evaluated import write_per_image
from official.evaluation.mean_iou import ConfusionMatrix
from official.evaluation.small_maps import small_map, write_maps
from official.experiment import Experiment, Model, PseudoLabels
from official.export.segmenter import class_probabilities, export_segmenter
from official.files import output_names, write_bytes, write_json
from official.models.backbones.registry import build_backbone, check_levels, family_of
from official.models.replicas import logits_function, programs_of
from official.models.segmenter import Segmenter
from official.screen import counted
from official.tasks import keras_data
from official.tasks.augmentation import augmentation
from official.tasks.task import Checks, Columns, Recommended, Task, Tensors

STRIDE = 4  # of the logits


class SegmentationTask(Task):
    """NAS-FPN or FPN, pixel cross-entropy with ignore, mean IoU."""

    name = "segmentation"
    network = Segmenter
    paper_classes = 21
    released_network = "segmenter"
    original_flags = {"legacy_resize": "resizes as TF1 did"}
    label_kind = "masks"
    keras_label = "segmentation_masks"
    metrics = ("mIoU", "mIoU_padded", "pixel_accuracy")

    def __init__(self, experiment: Experiment, categories: tuple[Category, ...]) -> None:
        """Args: categories: the classes of the masks, in the order of their indices, background included."""
        super().__init__(experiment, categories)
        self.augment = augmentation(experiment.augment, "image")
        self.class_names = [category.name for category in self.categories]

    @classmethod
    def check(cls, experiment: Experiment) -> Checks:
        return [
            lambda: _check_levels(experiment.model),
            lambda: augmentation(experiment.augment, "image"),
            lambda: parse_scales(experiment.pseudo_labels.label_scales),
        ]

    @classmethod
    def labelling_views(cls, options: PseudoLabels) -> float:
        return sum(scale**2 for scale in parse_scales(options.label_scales)) * (1 + options.label_flip)

    @classmethod
    def recommended(cls, *, gpu: bool, large: bool) -> list[Recommended]:
        epsilon = [("batch_norm_epsilon", 1e-3, "the segmenter's")]
        if not gpu:
            return [
                ("fpn_filters", 64, "a quarter of the paper's, for CPUs"),
                ("pyramid_repeats", 1, "the paper's 7, for CPUs"),
                *epsilon,
            ]
        fewer = [
            ("pyramid_repeats", 3, "the paper repeats it 7 times, for more images"),
            ("fpn_filters", 128, "likewise"),
        ]
        return ([] if large else fewer) + epsilon

    # --- training ---------------------------------------------------------------------------------

    def build_model(self) -> Segmenter:
        options = self.experiment.model
        backbone = build_backbone(options)
        return Segmenter(
            backbone,
            len(self.categories),
            image_size=options.image_size,
            max_level=options.max_level,
            pyramid=options.pyramid,
            pyramid_repeats=options.pyramid_repeats,
            fpn_filters=options.fpn_filters,
            separable=options.separable_pyramid,
            head_convs=options.segmentation_convs,
            activation=options.activation,
            batch_norm_momentum=options.batch_norm_momentum,
            batch_norm_epsilon=options.batch_norm_epsilon,
            legacy_resize=self.experiment.data.legacy_resize,
        )

    def preparation(self) -> pipeline.Preparation:
        legacy = self.experiment.data.legacy_resize
        return pipeline.placing(
            self.augment, image_size=self.experiment.model.image_size, legacy_resize=legacy
        )

    def encode(self, batch: Tensors) -> Tensors:
        if self.experiment.loss.mask_resize == "logits":
            return {"labels": tf.cast(batch["masks"], tf.int32)}
        side = self.experiment.model.image_size // STRIDE
        method, legacy = self.experiment.loss.mask_resize, self.experiment.data.legacy_resize
        return {"labels": labels_at(batch["masks"], (side, side), method=method, legacy_resize=legacy)}

    def count(self, targets: Tensors) -> tf.Tensor:
        return tf.reduce_sum(valid_pixels(targets["labels"]))

    def normalizer(self, count: tf.Tensor) -> tf.Tensor:
        return tf.maximum(count, 1.0)  # the original has no floor: a batch of ignored pixels is NaN there

    def loss_sums(self, outputs: Tensors, targets: Tensors) -> Tensors:
        logits = outputs["logits"]
        if self.experiment.loss.mask_resize == "logits":
            legacy = self.experiment.data.legacy_resize
            logits = resize_logits(logits, targets["labels"].shape[1:3], legacy_resize=legacy)
        smoothing = self.experiment.loss.label_smoothing
        loss = pixel_cross_entropy(logits, targets["labels"], label_smoothing=smoothing)
        return {"class_loss": tf.reduce_sum(loss)}

    # --- in Keras' `fit`, `evaluate` and `predict` ------------------------------------------------

    def batch_of(self, data: Tensors, box_format: str) -> Tensors:
        if "masks" in data:
            return data
        if "segmentation_masks" not in data:
            raise keras_data.missing("segmentation_masks", data)
        images = keras_data.network_images(data["images"], self.experiment.model.image_size)
        return {
            "images": images,
            "masks": keras_data.class_maps(data["segmentation_masks"], images, len(self.categories)),
        }

    def found(self, network: Segmenter, images: tf.Tensor, box_format: str) -> Tensors:
        """ "classes" uint8 [B, H, W] and "confidence" float32 [B, H, W], the winner's probability, at the
        images' size.
        """
        options, legacy = self.experiment.model, self.experiment.data.legacy_resize
        fitted = keras_data.fitted(pipeline.fitting(options.image_size, legacy_resize=legacy), images)
        logits = network({"images": fitted["images"]}, training=False)["logits"]
        # One for all images of a batch.
        extent, size = tf.cast(fitted["extent"][0], tf.int32), tf.shape(images)[1:3]

        def at_its_size(own):
            probabilities = class_probabilities(own[None], options.image_size, extent, size, legacy)
            return tf.cast(tf.argmax(probabilities, axis=-1), tf.uint8), tf.reduce_max(probabilities, axis=-1)

        classes, confidence = tf.map_fn(at_its_size, logits, fn_output_signature=(tf.uint8, tf.float32))
        return {"classes": classes, "confidence": confidence}

    def compared(self, network: Segmenter, outputs: Tensors, batch: Tensors, box_format: str) -> tuple:
        found = _argmax_at(outputs["logits"], batch["masks"].shape[1], self.experiment.data.legacy_resize)
        known = batch["masks"] != 255
        return tf.where(known, tf.cast(batch["masks"], tf.int32), 0), found, tf.cast(known, tf.float32)

    # --- on a trained model -----------------------------------------------------------------------

    def _batches(self, source: Source, first: int, last: int, *, masks: bool = False) -> Iterator[Tensors]:
        """Inference batches at the network's input size."""
        fit = pipeline.fitting(
            self.experiment.model.image_size, legacy_resize=self.experiment.data.legacy_resize
        )
        return self._prepared(fit, source, first, last, masks=masks)

    def _prepared(
        self, prepare: pipeline.Fitting, source: Source, first: int, last: int, *, masks: bool = False
    ) -> Iterator[Tensors]:
        options = self.experiment
        batch_size, threads = options.decoding.eval_batch_size, options.runtime.threads
        dataset = pipeline.inference_dataset(
            source,
            prepare=prepare,
            batch_size=batch_size,
            first=first,
            last=last,
            masks=masks,
            threads=threads,
        )
        return iter(dataset)

    def look(self, model: Segmenter, source: Source, first: int, last: int, progress: str = "") -> Columns:
        """Pixel counts.

        Int64 "hits", "true", "predicted" [images, C] at the images' own sizes, "native" and "padded" [1, C,
        C] of all, there and at the input's size; "maps" uint8, small maps one after the other, and their
        lengths "map_bytes" [images].
        """
        native, padded = ConfusionMatrix(len(self.categories)), ConfusionMatrix(len(self.categories))
        columns = np.zeros((3, last - first, len(self.categories)), np.int64)
        maps: list[bytes] = [b""] * (last - first)
        logits_of, size = logits_function(model), self.experiment.model.image_size
        legacy, read_mask = self.experiment.data.legacy_resize, source.read_mask
        assert read_mask is not None
        batches = -(-(last - first) // self.experiment.decoding.eval_batch_size)
        found = self._batches(source, first, last, masks=True)
        for batch in counted(found, progress, batches, "batches", shown=bool(progress)):
            logits = logits_of(batch["images"])
            input_maps = _argmax_at(logits, size, legacy).numpy()
            for i, index in enumerate(batch["index"].numpy()):
                if index < 0:
                    continue
                padded.add(batch["masks"][i].numpy(), input_maps[i])
                truth = read_mask(tf.constant(index, tf.int64)).numpy()
                extent = tf.cast(batch["extent"][i], tf.int32)
                winners = tf.argmax(
                    _probabilities(logits[i : i + 1], size, extent, source.sizes[index], legacy), axis=-1
                )
                columns[:, index - first] = native.add(truth, winners.numpy())
                maps[index - first] = small_map(winners.numpy())
        return {
            **dict(zip(("hits", "true", "predicted"), columns)),
            "native": native.counts[None],
            "padded": padded.counts[None],
            "maps": np.frombuffer(b"".join(maps), np.uint8),
            "map_bytes": np.array([len(content) for content in maps], np.int64),
        }

    def score(self, source: Source, seen: Columns, output_dir: str) -> dict:
        """mIoU at the images' own sizes (as the VOC server) and at the padded input size (as the
        original).
        """
        native, padded = (ConfusionMatrix.of(seen[name].sum(axis=0)) for name in ("native", "padded"))
        metrics = {
            **native.metrics(self.class_names),
            "mIoU_padded": padded.metrics(self.class_names)["mIoU"],
        }
        metrics["confusion_matrix"] = native.counts.tolist()
        write_json(os.path.join(output_dir, "metrics.json"), {**metrics, "classes": self.class_names})
        columns = {name: seen[name] for name in ("hits", "true", "predicted")}
        write_per_image(output_dir, source.ids, self.class_names, **columns)
        content, ends = seen["maps"].tobytes(), np.cumsum(seen["map_bytes"])
        write_maps(output_dir, [content[end - length : end] for end, length in zip(ends, seen["map_bytes"])])
        return metrics

    def predict(
        self, model: Segmenter, source: Source, first: int, last: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields "mask" uint8 [H, W] and "score" float32 [H, W] at the images' own sizes."""
        logits_of, size = logits_function(model), self.experiment.model.image_size
        legacy = self.experiment.data.legacy_resize
        for batch in self._batches(source, first, last):
            logits = logits_of(batch["images"])
            for i, index in enumerate(batch["index"].numpy()):
                if index >= 0:
                    extent = tf.cast(batch["extent"][i], tf.int32)
                    probabilities = _probabilities(
                        logits[i : i + 1], size, extent, source.sizes[index], legacy
                    )
                    yield {
                        "mask": tf.argmax(probabilities, axis=-1).numpy().astype(np.uint8),
                        "score": tf.reduce_max(probabilities, axis=-1).numpy(),
                    }

    def label(self, model: Segmenter, source: Source, first: int, last: int) -> Iterator[MaskLabels]:
        """Class maps averaged over `--label_scales` (and mirrored), at the size in the network's input.

        Softmax probabilities of every scale are brought to the input's size, averaged, and the winner
        and its probability are kept. Source: paper section 3.2 (scales, threshold); fusion is A11.
        """
        options, size = self.experiment.pseudo_labels, self.experiment.model.image_size
        sides = [max(1, round(scale * size)) for scale in parse_scales(options.label_scales)]
        functions = [self._probabilities_at(model, side) for side in sides]
        prepare = pipeline.fitting_all(sides, legacy_resize=self.experiment.data.legacy_resize)
        for batch in self._prepared(prepare, source, first, last):
            # Outside of a graph, which would add in another order.
            mean = sum(of(images) for of, images in zip(functions, batch["images"])) / len(sides)
            winner, best = (
                tf.argmax(mean, axis=-1, output_type=tf.int32),
                tf.reduce_max(mean, axis=-1).numpy(),
            )
            winner = winner.numpy().astype(np.uint8)
            for i, index in enumerate(batch["index"].numpy()):
                if index >= 0:
                    height, width = _extent(source.sizes[index], size)
                    score = stored_score(best[i, :height, :width])
                    yield MaskLabels(winner[i, :height, :width], score)

    def _probabilities_at(self, model: Segmenter, side: int) -> Callable[[tf.Tensor], tf.Tensor]:
        options = self.experiment
        return probabilities_function(
            model,
            side=side,
            size=options.model.image_size,
            multiple=2**options.model.max_level,
            flip=options.pseudo_labels.label_flip,
            legacy_resize=options.data.legacy_resize,
        )

    def write_predictions(self, source: Source, found: Iterable[dict], output: str) -> dict[str, Any]:
        """`masks/` with palette PNGs of class indices, and `drawn/`."""
        pixels = np.zeros(len(self.categories), np.int64)
        names, drawn = (output_names(source.ids, ending) for ending in (".png", ".jpg"))
        for i, objects in enumerate(found):
            mask = encode_class_map(objects["mask"], drawing.VOC_PALETTE)
            write_bytes(os.path.join(output, "masks", names[i]), mask)
            image = source.read_image(tf.constant(i, tf.int64)).numpy()
            drawing.write_jpeg(os.path.join(output, "drawn", drawn[i]), self.draw_with_legend(image, objects))
            pixels += np.bincount(objects["mask"].ravel(), minlength=len(pixels))
        return {"pixels": dict(zip(self.class_names, pixels.tolist()))}

    def export(self, model: Segmenter, folder: str) -> dict[str, str]:
        serving, data = self.experiment.serving, self.experiment.data
        ids = [category.id for category in self.categories]
        return export_segmenter(
            model,
            folder,
            self.class_names,
            class_ids=ids,
            legacy_resize=data.legacy_resize,
            tflite=serving.tflite,
        )

    # --- images ---------------------------------------------------------------------------------

    def draw(self, image: np.ndarray, objects: dict) -> np.ndarray:
        return drawing.draw_mask(image, objects["mask"])

    def legend(self, objects: Sequence[dict] | None = None) -> list[tuple[str, drawing.Color]]:
        """All classes that are drawn; the first shows the image itself."""
        drawn = (
            range(len(self.categories))
            if objects is None
            else np.unique(np.concatenate([np.unique(o["mask"]) for o in objects]))
        )
        return [
            (self.class_names[k], drawing.class_color(int(k))) for k in drawn if 0 < k < len(self.categories)
        ]

    def shown(self, objects: dict) -> dict:
        return objects

    def human_labels(self, source: Source, index: int) -> dict:
        assert source.read_mask is not None
        return {"mask": source.read_mask(tf.constant(index, tf.int64)).numpy()}

    def batch_labels(self, batch: dict, index: int) -> dict:
        return {"mask": batch["masks"][index]}

    def summary_drawings(self, metrics: dict) -> dict[str, np.ndarray]:
        return {"confusion": drawing.draw_confusion(np.array(metrics["confusion_matrix"]), self.class_names)}


def _check_levels(options: Model) -> None:
    """`check_levels`, and what the original's segmenters have.

    Raises:
      FlagError: says which flag does not fit and what does.
    """
    check_levels(options)
    if options.min_level != 3:
        raise FlagError(f"--min_level={options.min_level}: a segmenter's finest level is 3")
    if not family_of(options.backbone).levels and options.pyramid == "nas_fpn" and options.max_level != 7:
        raise FlagError(
            f"--max_level={options.max_level}: NAS-FPN's levels are 3 to 7; leave the flag out, or take "
            f"--pyramid=fpn"
        )


def parse_scales(text: str) -> list[float]:
    """`0.5,1,1.5` -> [0.5, 1.0, 1.5].

    Raises:
      ValueError: not positive numbers.
    """
    try:
        scales = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        scales = []
    if not scales or not all(0.0 < scale < math.inf for scale in scales):
        raise FlagError(f"--label_scales={text}: positive numbers are needed, comma separated")
    return scales


def probabilities_function(
    model: Segmenter, *, side: int, size: int, multiple: int, flip: bool, legacy_resize: bool
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A compiled function: normalised images [B, side, side, 3] -> probabilities [B, size, size, C].

    The network takes sides that are a multiple of its coarsest stride: images are padded at the bottom and
    right with the mean colour, and the padding is cut off the probabilities again, so that any scale is the
    scale it says.

    Args:
      multiple: the coarsest stride.
      flip: averages with the probabilities of the mirrored images.
      legacy_resize: probabilities are resized as TF1 did.
    """
    missing = -side % multiple

    def probabilities(images):
        padded = tf.pad(images, [[0, 0], [0, missing], [0, missing], [0, 0]])
        found = tf.nn.softmax(model({"images": padded}, training=False)["logits"])
        if side % STRIDE:  # the border runs through a cell: it can be cut in pixels alone
            found = resize_logits(found, [side + missing] * 2, legacy_resize=legacy_resize)[:, :side, :side]
        else:
            found = found[:, : side // STRIDE, : side // STRIDE]
        return resize_logits(found, [size, size], legacy_resize=legacy_resize)

    def average(images):
        found = probabilities(images)
        if flip:  # an image smaller than the input stands at its left, so the whole input is mirrored
            found = 0.5 * (found + tf.reverse(probabilities(tf.reverse(images, [2])), [2]))
        return found

    return programs_of(model)((side, size, multiple, flip, legacy_resize), average)


@functools.partial(tf.function, reduce_retracing=True)
def _probabilities(
    logits: tf.Tensor, size: int, extent: tf.Tensor, original_size: tf.Tensor, legacy_resize: bool
) -> tf.Tensor:
    return class_probabilities(logits, size, extent, original_size, legacy_resize)


@functools.partial(tf.function, reduce_retracing=True)
def _argmax_at(logits: tf.Tensor, size: int, legacy_resize: bool) -> tf.Tensor:
    enlarged = resize_logits(logits, [size, size], legacy_resize=legacy_resize)
    return tf.argmax(enlarged, axis=-1, output_type=tf.int32)


def _extent(original_size: np.ndarray, size: int) -> tuple[int, int]:
    """Height and width of an image fitted into the input, as `augment.jitter.resize_and_crop` rounds them."""
    scale = np.float32(size) / np.max(original_size).astype(np.float32)
    height, width = np.maximum(np.rint(original_size.astype(np.float32) * scale), 1).astype(int)
    return int(height), int(width)
