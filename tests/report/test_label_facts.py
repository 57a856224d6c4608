"""Pseudo labels beside those of people, by hand."""

import dataclasses

import numpy as np
import pytest

from official.data.pseudo_labels import BoxLabels, Row
from official.data.source import Annotations
from official.report.label_facts import box_facts, human_sides, other_facts
from official.self_training.label_store import LabelStore
from official.self_training.stored_boxes import stored_boxes
from tests import tiny


@pytest.fixture
def labeled():
    """Four images of 64 x 64, two boxes of class 0 on the first, one of class 1 and a crowd on the second."""
    source = tiny.scenes_source(count=4)
    boxes = np.array([[0.0, 0, 32, 32], [0, 0, 16, 64], [8, 8, 24, 24], [0, 0, 64, 64]])
    rows = Annotations(np.array([0, 2, 4, 4, 4]), boxes.astype(np.float32), np.array([0, 0, 1, 2], np.int32),
                       np.array([False, False, False, True]), np.ones(4, np.float32), np.ones(4, np.float32))  # fmt: skip
    return dataclasses.replace(source, annotations=rows)


def store(folder, images):
    """A finished store; per image (score, class) of boxes that fill a quarter of it."""
    names = [c.name for c in tiny.scenes_source(count=1).categories]
    found = LabelStore(str(folder))
    found.start({"task": "detection", "kind": "boxes", "flags": {"score_floor": 0.05},
                 "categories": [{"id": i + 1, "name": n} for i, n in enumerate(names)]})  # fmt: skip

    def rows():
        for i, objects in enumerate(images):
            boxes = np.tile(np.float32([0, 0, 32, 32]), (len(objects), 1))
            scores, classes = np.float32([s for s, _ in objects]), np.int32([c for _, c in objects])
            yield Row(str(i), "", (64, 64), BoxLabels(boxes, scores, classes))

    found.write_shard(0, rows(), names)
    found.finish(1, {})
    return found


def test_boxes(tmp_path, labeled):
    """Six boxes on three images, at 0.5 four are in use, three of them on one image, which is full from 0.9
    of three on.
    """
    experiment = tiny.experiment(model_dir=str(tmp_path), score_threshold=0.5, max_detections=3)
    stored = stored_boxes(
        experiment, store(tmp_path / "s", [[(0.9, 0), (0.8, 0), (0.5, 0)], [(0.7, 2), (0.2, 1)], [(0.1, 1)]])
    )
    assert (
        stored.images == 3 and stored.used.sum() == 4 and stored.image[stored.used].tolist() == [0, 0, 0, 1]
    )
    np.testing.assert_allclose(stored.sides, 0.5)
    facts = box_facts(experiment, labeled, stored)
    assert facts.boxes == pytest.approx(4 / 3) and facts.boxes_where_any == 2 and facts.human_boxes == 0.75
    assert (
        facts.full == pytest.approx(1 / 3)
        and facts.used == pytest.approx(2 / 3)
        and facts.max_detections == 3
    )
    assert (
        facts.matching == 0.8
    )  # 0.75 boxes an image are two on three images; the second highest score is 0.8
    assert facts.empty_classes == (
        labeled.categories[1].name,
    )  # people drew 0 and 1, the pseudo labels are 0 and 2


def test_thresholds_by_class(tmp_path, labeled):
    name = labeled.categories[0].name
    experiment = tiny.experiment(
        model_dir=str(tmp_path), score_threshold=0.5, class_thresholds=f"{name}=0.85"
    )
    stored = stored_boxes(experiment, store(tmp_path / "s", [[(0.9, 0), (0.8, 0)], [(0.7, 2)]]))
    assert stored.used.tolist() == [True, False, True]


def test_sides_are_roots_of_shares_and_crowds_are_left_out(labeled):
    np.testing.assert_allclose(human_sides(labeled), [0.5, 0.5, 0.25])


def test_masks_and_classes():
    source = tiny.scenes_source(count=2, task="segmentation")
    names = [category.name for category in source.categories]
    numbers = {"labelled_pixels": 0.1, "pixels_per_class": dict.fromkeys(names, 5) | {names[2]: 0}}
    facts = other_facts(tiny.experiment(task="segmentation"), source, numbers)
    assert facts.used == 0.1 and facts.empty_classes == (names[2],) and facts.boxes is None
    labelled = tiny.scenes_source(count=8, task="classification")
    own = [c.name for c in labelled.categories]
    there = own[int(labelled.image_classes[0])]
    facts = other_facts(
        tiny.experiment(task="classification"),
        labelled,
        {"labels": 3, "images": 4, "per_class": dict.fromkeys(own, 1) | {there: 0}},
    )
    assert facts.used == 0.75 and facts.empty_classes == (there,)
