"""Thresholds that leave as many pseudo boxes as people draw, and boxes that are neither object nor
background.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from losses.focal import BACKGROUND, IGNORED, focal_loss
from official.data.pipeline import example_reader
from official.data.pseudo_labels import BoxLabels, Row
from official.data.source import Annotations, Category
from official.experiment import Experiment, PseudoLabels, experiment_from
from official.files import read_json
from official.jobs.checks import check_flags
from official.models.anchors import encode_targets
from official.self_training import thresholds
from official.self_training.label_store import LabelError, LabelStore
from tests import tiny

CLASSES = (Category(7, "a"), Category(3, "b"), Category(11, "c"))


def _human() -> object:
    """Four images: class a on average 1.25 times, b 0.25 times (and a crowd, which does not count), c
    never.
    """
    rows = [[0, 0, 1], [0], [0, 0], [1]]
    boxes = [{"boxes": np.tile([0, 0, 4, 4], (len(r), 1)), "classes": r} for r in rows]
    boxes[3]["crowd"] = [True]
    source = tiny.scenes_source("train").subset(np.arange(4))
    return source.with_annotations(Annotations.from_images(boxes), CLASSES)


def test_as_many_boxes_as_people_draw():
    scores = [np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], np.float32), np.array([0.35, 0.3], np.float32)]
    scores.append(np.array([0.99], np.float32))
    found = thresholds.matched(_human(), scores, images=4, density=1.0, floor=0.05)["classes"]
    assert [found[c.name]["used"] for c in CLASSES] == [5, 1, 0]  # 1.25 * 4, 0.25 * 4, never
    assert [found[c.name]["threshold"] for c in CLASSES] == [np.float32(0.5), np.float32(0.35), 1.0]
    assert (
        found["a"]["per_image_at"]["0.60"] == 1.0
    )  # four boxes on four images; 0.6 itself counts in float32
    more = thresholds.matched(_human(), scores, images=2, density=1.0, floor=0.05)["classes"]
    assert more["a"]["used"] == 3 and more["a"]["per_image_at"]["0.60"] == 2.0  # ceil(1.25 * 2) on two images
    half = thresholds.matched(_human(), scores, images=4, density=0.5, floor=0.05)["classes"]
    assert [half[c.name]["used"] for c in CLASSES] == [3, 1, 0]  # ceil(2.5), ceil(0.5)


def test_too_few_boxes_are_said():
    few = [np.array([0.9, 0.2], np.float32), np.array([0.3], np.float32), np.zeros(0, np.float32)]
    found = thresholds.matched(_human(), few, images=4, density=1.0, floor=0.05)
    assert found["classes"]["a"]["threshold"] == 0.05 and found["classes"]["a"]["used"] == 2
    warning = [line for line in thresholds.lines(found) if "WARNING" in line]
    assert len(warning) == 1 and "a: 2 pseudo boxes" in warning[0] and "--score_floor" in warning[0]


def _store(folder: str, source, scores) -> LabelStore:
    """A finished store: one box of class 0 per score on every image."""
    store = LabelStore(folder)
    store.start(
        {"task": "detection", "kind": "boxes", "flags": {"score_floor": 0.05}, "data": source.word,
         "categories": [{"id": c.id, "name": c.name} for c in CLASSES], "images_to_label": len(source)}
    )  # fmt: skip
    rows = []
    for i, own in enumerate(scores):
        corners = np.array([[2 * k, 0, 2 * k + 10, 10] for k in range(len(own))], np.float32).reshape(-1, 4)
        labels = BoxLabels(corners, np.array(own, np.float32), np.zeros(len(own), np.int32))
        rows.append(Row(str(source.ids[i]), "", tuple(source.sizes[i]), labels))
    store.write_shard(0, rows, [c.name for c in CLASSES])
    store.finish(1, {})
    return store


def test_the_run_writes_what_it_uses(tmp_path):
    human = _human()
    store = _store(str(tmp_path / "labels"), human, [[0.9, 0.2], [0.6], [0.4, 0.3], [0.1]])
    experiment = experiment_from(
        {"score_threshold": "auto", "model_dir": str(tmp_path), "class_thresholds": "b=0.7"}
    )
    with pytest.raises(LabelError, match="when the student begins"):
        thresholds.in_use(experiment, CLASSES)
    threshold, by_class = thresholds.settle(experiment, human, store)
    assert threshold[0] == np.float32(0.2) and by_class == {"b": 0.7}  # 5 boxes of 6
    again, by_class = thresholds.in_use(experiment, CLASSES)
    assert by_class == {"b": 0.7}
    np.testing.assert_array_equal(again, threshold)
    assert read_json(str(tmp_path / "thresholds.json"))["classes"]["a"]["used"] == 5
    assert store.limits(threshold, by_class).tolist() == [np.float32(0.2), np.float32(0.7), 1.0]
    with pytest.raises(LabelError, match="no threshold for .*zebra"):
        thresholds.in_use(experiment, (Category(1, "zebra"),))


def test_numbers_are_taken_as_they_are(tmp_path):
    experiment = experiment_from({"score_threshold": 0.4, "model_dir": str(tmp_path)})
    assert (
        thresholds.settle(experiment, _human(), None) == (0.4, {}) == thresholds.in_use(experiment, CLASSES)
    )


def test_uncertain_boxes_are_read_after_the_sure_ones(tmp_path):
    human = _human()
    store = _store(str(tmp_path), human, [[0.25, 0.9, 0.1], [0.6], [0.3, 0.5], []])
    paper, any_label, numbers = store.read(human.without_labels(), 0.5)
    assert paper.sure_from is None and numbers["boxes"] == 3 and "uncertain_boxes" not in numbers
    kept, any_more, numbers = store.read(human.without_labels(), 0.5, ignore_above=0.25)
    assert numbers == {"images_with_boxes": 3, "boxes": 3, "uncertain_boxes": 2}
    np.testing.assert_array_equal(any_label, any_more)  # an uncertain box does not make an image labelled
    assert kept.annotations.of(0)["scores"].tolist() == [np.float32(0.9), 0.25]
    assert kept.annotations.of(2)["scores"].tolist() == [0.5, np.float32(0.3)]
    read = example_reader(kept)
    assert read(tf.constant(0, tf.int64))["classes"].numpy().tolist() == [0, IGNORED]
    assert example_reader(kept.subset(np.array([2])))(tf.constant(0, tf.int64))[
        "classes"
    ].numpy().tolist() == [0, IGNORED]
    assert example_reader(paper)(tf.constant(0, tf.int64))["classes"].numpy().tolist() == [0]


def test_their_anchors_are_neither_object_nor_background():
    anchors = tf.constant([[0, 0, 10, 10], [0, 20, 10, 30], [0, 40, 10, 50], [0, 60, 10, 70]], tf.float32)
    boxes = tf.constant([[[0, 0, 10, 10], [0, 21, 10, 31], [0, 0, 10, 11], [-1, -1, -1, -1]]], tf.float32)
    classes = tf.constant([[2, IGNORED, IGNORED, -1]])
    found = encode_targets(boxes, classes, anchors, ignoring=True)
    # The first is an object, whatever lies beside it; the second may be one; nobody claims the others.
    assert found["class_targets"].numpy().tolist() == [[2, IGNORED, BACKGROUND, BACKGROUND]]
    assert found["positives"].numpy().tolist() == [1.0]
    assert not found["box_targets"].numpy()[0, 1:].any()
    without = encode_targets(boxes, classes, anchors)["class_targets"].numpy().tolist()
    assert without == [[2, BACKGROUND, BACKGROUND, BACKGROUND]]
    far = encode_targets(
        tf.constant([[[0.0, 24.0, 10.0, 44.0]]]), tf.constant([[IGNORED]]), anchors, ignoring=True
    )
    # Below the IoU: only the anchor that a real box would be given (6 of 24 and 4 of 26 overlap).
    assert far["class_targets"].numpy().tolist() == [[BACKGROUND, IGNORED, BACKGROUND, BACKGROUND]]
    logits = tf.Variable(tf.zeros([1, 4, 3]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(focal_loss(logits, found["class_targets"]))
    gradient = tape.gradient(loss, logits).numpy()[0]
    assert not gradient[1].any() and gradient[[0, 2, 3]].all()


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"ignore_above": 0.04}, "below --score_floor"),
        ({"ignore_above": 0.2, "task": "segmentation"}, "is for boxes"),
        ({"score_threshold": "auto", "task": "classification"}, "counts boxes"),
    ],
)
def test_what_cannot_be_is_said_first(flags, message):
    with pytest.raises(ValueError, match=message):
        check_flags(experiment_from({**Experiment().flags(), **flags}, given=flags))


def test_drawings_start_somewhere():
    assert (
        PseudoLabels(score_threshold="auto").drawn_from == 0.3
        and PseudoLabels(score_threshold=0.6).drawn_from == 0.6
    )


def test_a_source_with_other_labels_knows_no_limits():
    source = dataclasses.replace(_human(), sure_from=np.zeros(3, np.float32))
    assert source.without_labels().sure_from is None
