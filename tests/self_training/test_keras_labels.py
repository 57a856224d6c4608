"""Pseudo labels in a Keras program: every image comes back with its own labels, in whatever order and shape
it comes.

A teacher that reads the labels off the pixels stands in for a trained one: an image of value k has an object
at k.
"""

import types

import numpy as np
import pytest
import tensorflow as tf

from official.data.keras_dataset import load_dataset
from official.data.pseudo_labels import BoxLabels, ClassLabels, MaskLabels
from official.data.source import Category
from official.errors import UserError
from official.experiment import experiment_from
from official.self_training.keras_labels import pseudo_label
from official.tasks.classification import softmax

NAMES = ("even", "odd")


class Reader:
    """A task whose labels follow from an image's first pixel k: class k % 2, score k / 100."""

    categories = tuple(Category(i, name) for i, name in enumerate(NAMES))

    def __init__(self, label_kind, **options):
        self.label_kind, self.experiment = label_kind, experiment_from(options)

    def label(self, network, source, first, last):
        for i in range(first, last):
            image = source.read_image(tf.constant(i, tf.int64)).numpy()
            assert image.shape == (*source.sizes[i], 3) and (image == image[0, 0, 0]).all()
            k = int(image[0, 0, 0])
            if self.label_kind == "boxes":  # and one more that no threshold here takes
                boxes = np.array([[k, k + 1, k + 10, k + 30], [0, 0, 1, 1]], np.float32)
                yield BoxLabels(boxes, np.array([k / 100, 0.06], np.float32), np.array([k % 2, 0]))
            elif self.label_kind == "masks":  # at half the size; the left column is sure
                mask = np.full([side // 2 for side in image.shape[:2]], k % 2, np.uint8)
                score = np.zeros_like(mask)
                score[:, 0] = 200
                yield MaskLabels(mask, score)
            else:
                yield ClassLabels(k % 2, k / 100, softmax(np.array([k, 0.0])))


def teacher(label_kind="boxes", box_format="xywh", **options):
    return types.SimpleNamespace(
        task=Reader(label_kind, **options), trained_network=lambda: None, bounding_box_format=box_format
    )


def images(values=range(40, 60), size=(8, 6)):
    return np.stack([np.full((*size, 3), value, np.uint8) for value in values])


def check_boxes(labelled, limit=0.5):
    """Each image's boxes are its own; returns the values in the order in which they came."""
    seen = []
    for example in labelled.as_numpy_iterator():
        k, objects = int(example["images"][0, 0, 0]), example["bounding_boxes"]
        real = objects["classes"] >= 0
        expected = [[k + 1, k, 29, 10]] if k / 100 >= limit else []
        assert objects["boxes"][real].tolist() == expected and objects["boxes"].shape == (1, 4)
        assert (objects["boxes"][~real] == -1).all() and (objects["confidence"][~real] == -1).all()
        np.testing.assert_allclose(objects["confidence"][real], [k / 100] * len(expected), rtol=1e-6)
        assert objects["classes"][real].tolist() == [k % 2] * len(expected)
        seen.append(k)
    return seen


@pytest.mark.parametrize(
    "kind", ["array", "list", "shuffled", "batched", "dicts", "pairs", "ragged", "float"]
)
def test_every_image_has_its_own_boxes(kind):
    data = tf.data.Dataset.from_tensor_slices(images())
    given = {
        "array": lambda: images(),
        "list": lambda: list(images()),
        "shuffled": lambda: data.shuffle(20),  # another order each time
        "batched": lambda: data.batch(6),
        "dicts": lambda: data.map(lambda x: {"images": x, "bounding_boxes": {"classes": [9]}}).batch(6),
        "pairs": lambda: data.map(lambda x: (x, 1)),
        "ragged": lambda: data.ragged_batch(6).map(lambda x: tf.RaggedTensor.from_tensor(x, ragged_rank=2)),
        "float": lambda: data.map(lambda x: tf.cast(x, tf.float32) + 0.25),
    }[kind]()
    labelled = pseudo_label(teacher(), given)
    assert int(labelled.cardinality()) == 20
    assert sorted(check_boxes(labelled)) == list(range(40, 60))
    dtype = tf.float32 if kind == "float" else tf.uint8
    assert labelled.element_spec["images"].dtype == dtype  # as they came


def test_images_of_any_size_and_equal_images():
    several = [*images([50, 70], (4, 9)), *images([70, 30, 70], (20, 5))]
    assert check_boxes(pseudo_label(teacher(), several)) == [50, 70, 70, 30, 70]


def test_a_threshold_of_a_class_and_images_without_labels():
    labelled = pseudo_label(teacher(), images(), {"odd": 0.45})
    found = [int((x["bounding_boxes"]["classes"] >= 0).sum()) for x in labelled.as_numpy_iterator()]
    assert found == [int(k >= (45 if k % 2 else 50)) for k in range(40, 60)]
    dropped = pseudo_label(teacher(empty_pseudo_images="drop"), images(), 0.5)
    assert check_boxes(dropped) == list(range(50, 60)) and int(dropped.cardinality()) == 10
    none = pseudo_label(teacher(), images([10]), 0.5)
    assert check_boxes(none) == [10] and none.element_spec["bounding_boxes"]["boxes"].shape == (1, 4)


def test_masks_at_the_images_size():
    for example in pseudo_label(teacher("masks"), images([7, 8])).as_numpy_iterator():
        k, mask = int(example["images"][0, 0, 0]), example["segmentation_masks"]
        assert mask.shape == (8, 6) and mask.dtype == np.uint8
        assert (mask[:, :2] == k % 2).all() and (mask[:, 2:] == 255).all()


def test_classes_of_sure_images():
    labelled = pseudo_label(teacher("classes"), images(), 0.5)
    found = [(int(x["images"][0, 0, 0]), int(x["labels"])) for x in labelled.as_numpy_iterator()]
    assert found == [(k, k % 2) for k in range(50, 60)]


def test_what_cannot_be_labelled():
    data = tf.data.Dataset.from_tensor_slices(images())
    with pytest.raises(UserError, match="endless"):
        pseudo_label(teacher(), data.repeat())
    with pytest.raises(UserError, match="no images"):
        pseudo_label(teacher(), [])
    with pytest.raises(UserError, match=r"score_threshold of \['cat'\]: the model knows the classes"):
        pseudo_label(teacher(), data, {"cat": 0.5})
    with pytest.raises(UserError, match=r"below score_floor=0.05"):
        pseudo_label(teacher(), data, 0.01)
    with pytest.raises(UserError, match=r"images of shape \(8, 6\)"):
        pseudo_label(teacher(), data.map(lambda x: x[..., 0]))
    changing = data.map(lambda x: x + _next(x))
    with pytest.raises(tf.errors.InvalidArgumentError, match="label before random augmentation"):
        list(pseudo_label(teacher(), changing))


_count = tf.Variable(0)


def _next(image):
    """Another value each time that it is asked."""
    return tf.cast(_count.assign_add(1) // 20 * 100, image.dtype)


def test_a_data_set_of_the_command_line():
    """Boxes in the format asked for, rows of -1 beyond an image's own; masks; classes; no labels."""
    boxes = load_dataset("scenes:train,count=3", bounding_box_format="xywh", scenes_size=64)
    assert (
        boxes.class_names == ["circle", "square", "triangle", "cross", "ring"] or len(boxes.class_names) == 5
    )
    plain = list(load_dataset("scenes:train,count=3", scenes_size=64).as_numpy_iterator())
    for xywh, yxyx in zip(boxes.as_numpy_iterator(), plain):
        real = yxyx["bounding_boxes"]["classes"] >= 0
        a, b = xywh["bounding_boxes"]["boxes"], yxyx["bounding_boxes"]["boxes"]
        np.testing.assert_allclose(a[real][:, :2], b[real][:, 1::-1])
        np.testing.assert_allclose(a[real][:, 2:], (b[:, 2:] - b[:, :2])[real][:, ::-1], rtol=1e-5)
        assert real.any() and (a[~real] == -1).all()
    assert boxes.element_spec["images"].shape == (64, 64, 3)
    masks = next(iter(load_dataset("scenes:train,count=1", "masks", scenes_size=64)))
    assert masks["segmentation_masks"].shape == (64, 64) and len(np.unique(masks["segmentation_masks"])) > 1
    assert set(load_dataset("scenes:train,count=1", "classes", scenes_size=64).element_spec) == {
        "images",
        "labels",
    }
    assert set(load_dataset("scenes:unlabeled,count=1", "none").element_spec) == {"images"}
