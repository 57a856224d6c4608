"""Pseudo labels in a Keras program: images in, what the student's `fit` takes out.

The labels are made once and kept in memory; the images are read again from the dataset that they came from. A
label finds its image by a hash of the pixels, so the dataset may be shuffled and its images in another order
each time.
"""

from __future__ import annotations

import itertools
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from official.data.formats.mask_files import encode_class_map
from official.data.pipeline import as_it_is
from official.data.source import Source
from official.errors import UserError
from official.screen import counted
from official.self_training.label_kinds import KINDS
from official.tasks import keras_data
from official.tasks.task import Task
from official.training.keras_model import SelfTrainingModel

CHUNK = 256  # images that are in memory at once
_BUCKETS = 2**62


def pseudo_label(
    model: SelfTrainingModel, images: Any, score_threshold: float | Mapping[str, float] = 0.5
) -> tf.data.Dataset:
    """Labels every image once, with the functions that label for the command line.

    Args:
      model: the teacher; of averaged weights, where it has those.
      images: a dataset of images in 0..255, of batches of them, or of dicts with "images" (other entries are
        left out); an array [N, H, W, 3] or a list of images. Of any size. A dataset must give the same pixels
        each time: label before random augmentation.
      score_threshold: labels of a lower score are left out (segmentation: pixels are 255); of a mapping, a
        class's own by its name, 0.5 for others.

    Returns:
      A dataset of dicts, an image each: "images" as they came and, by task,
        "bounding_boxes"      {"boxes" float32 [M, 4] in the model's `bounding_box_format`,
                              "classes" int32 [M], "confidence" float32 [M]}; M is the most of all images,
                              rows beyond an image's own are -1
        "segmentation_masks"  uint8 [H, W]
        "labels"              int32 []; images that are below the threshold are left out

    Raises:
      UserError: no image, an endless dataset, or a class that the model does not know.
      InvalidArgumentError: when the dataset is read: an image that was not labelled.
    """
    task, one_by_one = model.task, _one_by_one(images)
    limits, floor = _limits(score_threshold, task), task.experiment.pseudo_labels.score_floor
    if task.label_kind == "boxes" and limits.min() < np.float32(floor):
        raise UserError(
            f"a score_threshold below score_floor={floor}: make the model with score_floor= of it"
        )
    marks, rows = _labelled(task, model.trained_network(), one_by_one, limits)
    places = dict(zip(reversed(marks), reversed(range(len(marks)))))  # of equal images the first
    keys = np.array(sorted(places), np.int64)
    rows = [rows[places[key]] for key in keys.tolist()]
    attach, sure = _ATTACH[task.label_kind](rows, model)
    dropped = task.label_kind == "classes" or task.experiment.pseudo_labels.empty_pseudo_images == "drop"
    kept = sure if dropped else np.ones_like(sure)
    words = (
        "this image was not labelled: the dataset now gives other pixels (label before random augmentation)"
    )

    def with_labels(image):
        mark = _mark(image)
        place = tf.minimum(tf.searchsorted(keys, mark[None])[0], len(keys) - 1)
        with tf.control_dependencies([tf.debugging.Assert(tf.gather(keys, place) == mark, [words])]):
            return tf.gather(kept, place), {"images": image, **attach(image, tf.identity(place))}

    labelled = one_by_one.map(as_it_is(with_labels), tf.data.AUTOTUNE, deterministic=True)
    labelled = labelled.filter(as_it_is(lambda good, _: good)).map(as_it_is(lambda _, example: example))
    return labelled.apply(
        tf.data.experimental.assert_cardinality(int(kept[np.searchsorted(keys, marks)].sum()))
    )


def _labelled(
    task: Task, network: tf.keras.Model, one_by_one: tf.data.Dataset, limits: np.ndarray
) -> tuple[list[int], list[dict]]:
    """(hash of every image, its labels at the limits), in order."""
    marks, rows, kind = [], [], KINDS[task.label_kind]
    count = one_by_one.cardinality().numpy()

    def marked(image):
        return _mark(image), keras_data.pixels(image)

    known = one_by_one.map(as_it_is(marked), tf.data.AUTOTUNE, deterministic=True)
    examples = counted(known.as_numpy_iterator(), "labelling", max(0, count), "images")
    for chunk in _chunks(examples):
        marks += [int(mark) for mark, _ in chunk]
        source = _in_memory([image for _, image in chunk])
        for labels in task.label(network, source, 0, len(source)):
            row = kind.at(labels, limits)
            rows.append({**row, "mask": encode_class_map(row["mask"])} if "mask" in row else row)
    if not rows:
        raise UserError("pseudo_label: there are no images")
    return marks, rows


def _chunks(examples: Iterator) -> Iterator[list]:
    while chunk := list(itertools.islice(examples, CHUNK)):
        yield chunk


def _in_memory(images: Sequence[np.ndarray]) -> Source:
    """A source of uint8 images of any sizes."""
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    ends = np.cumsum([image.size for image in images])
    flat, shapes = tf.constant(np.concatenate([image.ravel() for image in images])), tf.constant(sizes)
    starts = tf.constant(np.concatenate([[0], ends[:-1]]).astype(np.int64))

    def read(index):
        height, width = tf.unstack(tf.gather(shapes, index))
        start = tf.gather(starts, index)
        return tf.reshape(flat[start : start + tf.cast(height * width * 3, tf.int64)], [height, width, 3])

    return Source(
        word="images", ids=np.array([str(i) for i in range(len(images))]), sizes=sizes, read_image=read
    )


def _one_by_one(images: Any) -> tf.data.Dataset:
    """A dataset of single images [H, W, 3]."""
    if isinstance(images, (list, tuple)):
        spec = tf.TensorSpec([None, None, 3], tf.convert_to_tensor(images[0]).dtype if images else tf.uint8)
        data = tf.data.Dataset.from_generator(lambda: iter(images), output_signature=spec)
        data = data.apply(tf.data.experimental.assert_cardinality(len(images)))
    elif isinstance(images, tf.data.Dataset):
        data = images.map(as_it_is(_image_of), tf.data.AUTOTUNE, deterministic=True)
    else:
        data = tf.data.Dataset.from_tensor_slices(images)
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise UserError("pseudo_label: the dataset is endless; leave repeat() out, or take(N) of it")
    rank = data.element_spec.shape.rank
    if rank == 4:
        data = data.unbatch()
    elif rank != 3:
        raise UserError(
            f"pseudo_label: images of shape {data.element_spec.shape}, not [H, W, 3] or batches of them"
        )
    if isinstance(data.element_spec, tf.RaggedTensorSpec):
        data = data.map(as_it_is(lambda image: image.to_tensor()), tf.data.AUTOTUNE, deterministic=True)
    return data


def _image_of(*element: Any) -> tf.Tensor:
    first = element[0]
    return first["images"] if isinstance(first, Mapping) else first


def _mark(image: tf.Tensor) -> tf.Tensor:
    """A hash of dtype, shape and pixels, int64."""
    return tf.strings.to_hash_bucket_fast(tf.io.serialize_tensor(image), _BUCKETS)


def _limits(threshold: float | Mapping[str, float], task: Task) -> np.ndarray:
    names = [category.name for category in task.categories]
    own = dict(threshold) if isinstance(threshold, Mapping) else dict.fromkeys(names, threshold)
    unknown = sorted(set(own) - set(names))
    if unknown:
        raise UserError(f"score_threshold of {unknown}: the model knows the classes {names}")
    return np.array([own.get(name, 0.5) for name in names], np.float32)


# --- what is attached to an image: (rows, model) -> (function of image and row number, whether a row has a
# label) -------------


def _boxes(rows: list[dict], model: SelfTrainingModel) -> tuple[Callable, np.ndarray]:
    counts = np.array([len(row["classes"]) for row in rows])
    most = max(1, counts.max())

    def padded(name, dtype, *shape):
        table = np.full((len(rows), most, *shape), -1, dtype)
        for i, row in enumerate(rows):
            table[i, : counts[i]] = row[name]
        return tf.constant(table)

    boxes, classes, scores = (
        padded("boxes", np.float32, 4),
        padded("classes", np.int32),
        padded("scores", np.float32),
    )

    def attach(image, place):
        own, size = tf.gather(classes, place), tf.shape(image)[:2]
        found = keras_data.keras_boxes(
            tf.gather(boxes, place)[None], own[None], model.bounding_box_format, size
        )[0]
        return {"bounding_boxes": {"boxes": found, "classes": own, "confidence": tf.gather(scores, place)}}

    return attach, counts > 0


def _masks(rows: list[dict], model: SelfTrainingModel) -> tuple[Callable, np.ndarray]:
    encoded = tf.constant([row["mask"] for row in rows])

    def attach(image, place):
        mask = tf.image.decode_png(tf.gather(encoded, place), channels=1)
        mask = tf.image.resize(mask, tf.shape(image)[:2], method="nearest")[..., 0]
        return {"segmentation_masks": tf.ensure_shape(mask, image.shape[:2])}

    return attach, np.array([bool((tf.image.decode_png(row["mask"]).numpy() != 255).any()) for row in rows])


def _classes(rows: list[dict], model: SelfTrainingModel) -> tuple[Callable, np.ndarray]:
    labels = np.array([row["class"] for row in rows], np.int32)
    return lambda image, place: {"labels": tf.gather(labels, place)}, labels >= 0


_ATTACH = {"boxes": _boxes, "masks": _masks, "classes": _classes}
