"""Scores of re-drawn images are those of the set in which the images really are there so often; intervals by
law.
"""

import numpy as np
import pytest

from official.evaluation import bootstrap, coco_metrics
from official.evaluation.evaluated import (
    EvaluatedBoxes,
    EvaluatedClasses,
    EvaluatedMasks,
    read_evaluated,
    write_per_image,
)
from official.evaluation.mean_iou import ConfusionMatrix
from tests.evaluation.pycocotools_oracle import by_pycocotools, per_class
from tests.evaluation.test_coco_metrics import found, truth
from tests.evaluation.test_coco_scores import random_set


def repeated(ground_truth, results, times):
    """The set in which image i is there `times[i]` times, one after the other, with ids and annotations of
    their own.
    """
    images = sorted(ground_truth["images"], key=lambda image: image["id"])
    made = {"images": [], "annotations": [], "categories": ground_truth["categories"]}
    copies = []
    for image, count in zip(images, times):
        for _ in range(count):
            number = len(made["images"]) + 1
            made["images"].append({**image, "id": number})
            for a in (a for a in ground_truth["annotations"] if a["image_id"] == image["id"]):
                made["annotations"].append({**a, "id": len(made["annotations"]) + 1, "image_id": number})
            copies += [{**r, "image_id": number} for r in results if r["image_id"] == image["id"]]
    return made, copies


@pytest.mark.parametrize("classes", [2, 5])
def test_weighted_ap_is_pycocotools_on_the_repeated_images(classes):
    ground_truth, results = random_set(classes, images=10, classes=classes)
    evaluated = EvaluatedBoxes(ground_truth, results)
    generator = np.random.default_rng(0)
    weights = np.stack(
        [np.ones(10, int), *(np.bincount(generator.integers(0, 10, 10), minlength=10) for _ in range(3))]
    )
    whole, by_class = evaluated.scores(weights)
    for row, times in enumerate(weights):
        oracle = by_pycocotools(*repeated(ground_truth, results, times))
        assert whole[row] == pytest.approx(oracle.stats[0], abs=1e-12) and 0.01 < whole[row] < 0.99
        wanted = np.array(list(per_class(oracle).values()))
        np.testing.assert_allclose(np.nan_to_num(by_class[row], nan=-1.0), wanted, atol=1e-12)
    assert len(set(whole)) == len(whole)


def test_many_draws_in_parts_are_equal(monkeypatch):
    evaluated = EvaluatedBoxes(*random_set(1))
    weights = bootstrap.drawn(12, 30)
    whole = evaluated.scores(weights)
    monkeypatch.setattr("official.evaluation.evaluated._AT_ONCE", 100)
    for a, b in zip(evaluated.scores(weights), whole):
        np.testing.assert_array_equal(a, b)


def test_nothing_to_find_and_nothing_found():
    evaluated = EvaluatedBoxes(truth([(1, 1, [10, 10, 20, 20], 0)]), [])
    whole, by_class = evaluated.scores(np.array([[1, 1], [0, 2]]))
    np.testing.assert_array_equal(whole, [0.0, np.nan])  # the second set has no object
    np.testing.assert_array_equal(by_class, [[0.0, np.nan], [np.nan, np.nan]])
    assert evaluated.best_score() == 1.0
    np.testing.assert_array_equal(evaluated.by_image(), [0.0, np.nan])


def test_f1_of_an_image_by_hand():
    """Image 1: one of two objects found and one false box, 2 / (2 + 1 + 1); image 2: all right. 0.5 is the
    best score.
    """
    ground_truth = truth(
        [
            (1, 1, [10, 10, 20, 20], 0),
            (1, 5, [50, 50, 20, 20], 0),
            (2, 1, [10, 10, 20, 20], 0),
            (2, 1, [60, 60, 30, 30], 1),
        ]
    )
    rows = (
        (1, 1, [10, 10, 20, 20], 0.9),
        (1, 1, [70, 10, 20, 20], 0.7),
        (2, 1, [10, 10, 20, 20], 0.5),
        (2, 1, [61, 61, 9, 9], 0.6),
        (1, 5, [1, 1, 9, 9], 0.1),
    )
    evaluated = EvaluatedBoxes(ground_truth, found(*rows))
    assert evaluated.best_score() == 0.5
    np.testing.assert_allclose(evaluated.by_image(), [0.5, 1.0])
    assert [column.tolist() for column in evaluated.counts(0.0)] == [[1, 1], [2, 0], [1, 0]]


def test_miou_of_repeated_images_is_the_confusion_matrix_of_them():
    generator = np.random.default_rng(0)
    maps = generator.integers(0, 4, (2, 5, 9, 9))
    maps[0][maps[0] == 3] = 255  # class 3 is ignored where it is true, but predicted
    whole, columns = ConfusionMatrix(4), np.zeros((3, 5, 4), np.int64)
    for i in range(5):
        columns[:, i] = whole.add(maps[0, i], maps[1, i])
    evaluated = EvaluatedMasks(list("abcde"), ["p", "q", "r", "s"], *columns)
    assert evaluated.own()[0] == pytest.approx(whole.metrics(evaluated.class_names)["mIoU"])
    times = np.array([0, 3, 1, 1, 0])
    again = ConfusionMatrix(4)
    for i in np.repeat(np.arange(5), times):
        again.add(maps[0, i], maps[1, i])
    wanted = again.metrics(evaluated.class_names)
    score, by_class = evaluated.scores(times[None])
    assert score[0] == pytest.approx(wanted["mIoU"]) and score[0] != pytest.approx(evaluated.own()[0])
    np.testing.assert_allclose(np.nan_to_num(by_class[0], nan=-1.0), list(wanted["per_class"].values()))


def test_top1_by_hand():
    evaluated = EvaluatedClasses(
        list("abcd"), ["p", "q", "r"], np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
    )
    score, by_class = evaluated.scores(np.array([[1, 1, 1, 1], [3, 1, 0, 0]]))
    np.testing.assert_allclose(score, [0.5, 0.75])
    np.testing.assert_allclose(by_class, [[0.5, 0.5, np.nan], [0.75, np.nan, np.nan]])


def test_the_interval_of_a_share_is_the_binomial_one():
    """Top-1 of 400 images, 60 % right: the standard error is sqrt(0.24 / 400), and the interval 1.96 of them
    each way.
    """
    labels = np.zeros(400, int)
    evaluated = EvaluatedClasses(
        [str(i) for i in range(400)], ["p", "q"], labels, (np.arange(400) >= 240).astype(int)
    )
    found = bootstrap.interval(bootstrap.scored({"m": evaluated})["m"].whole)
    half = 1.96 * np.sqrt(0.24 / 400)
    assert found.value == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - half, abs=0.006) and found.high == pytest.approx(
        0.6 + half, abs=0.006
    )


def test_a_difference_is_paired():
    """Each of the models is right on half of the images, so alone it is unsure; but one is right wherever the
    other is, and on 8 more.
    """
    labels = np.zeros(200, int)
    ids, names = [str(i) for i in range(200)], ["p", "q"]
    weak = EvaluatedClasses(ids, names, labels, (np.arange(200) >= 100).astype(int))
    strong = EvaluatedClasses(ids, names, labels, (np.arange(200) >= 108).astype(int))
    models = bootstrap.scored({"weak": weak, "strong": strong})
    whole, by_class = bootstrap.difference(models["strong"], models["weak"], names)
    assert whole.value == pytest.approx(0.04) and whole.sign == 1 and list(by_class) == ["p"]
    alone = [bootstrap.interval(m.whole) for m in models.values()]
    assert alone[0].high > alone[1].low + 0.05  # as if unpaired: nothing could be said
    assert bootstrap.difference(models["weak"], models["strong"], names)[0].sign == -1
    assert bootstrap.difference(models["weak"], models["weak"], names)[0].sign == 0


def test_other_images_are_refused():
    one, two = (EvaluatedClasses([i], ["p"], np.zeros(1, int), np.zeros(1, int)) for i in "ab")
    with pytest.raises(ValueError, match="other images"):
        bootstrap.scored({"one": one, "two": two})


def test_files_give_the_same_scores(tmp_path):
    columns = np.arange(24).reshape(3, 2, 4)
    write_per_image(
        str(tmp_path / "masks"),
        ["a", "b"],
        list("pqrs"),
        hits=columns[0],
        true=columns[2],
        predicted=columns[2],
    )
    masks = read_evaluated(str(tmp_path / "masks"))
    assert (
        masks.own()[0]
        == EvaluatedMasks(["a", "b"], list("pqrs"), columns[0], columns[2], columns[2]).own()[0]
    )
    write_per_image(
        str(tmp_path / "classes"), ["a", "b"], list("pq"), labels=np.array([0, 1]), predicted=np.array([0, 0])
    )
    assert read_evaluated(str(tmp_path / "classes")).own()[0] == 0.5
    assert read_evaluated(str(tmp_path)) is None


def test_an_evaluation_s_own_ap(tmp_path, scenes):
    objects = [scenes.annotations.of(i) for i in range(len(scenes))]
    detections = [
        {**o, "boxes": o["boxes"] + 2.0, "scores": np.linspace(1, 0.5, len(o["classes"]))} for o in objects
    ]
    metrics = coco_metrics.evaluate_detections(scenes, detections, str(tmp_path))
    evaluated = read_evaluated(str(tmp_path))
    whole, by_class = evaluated.own()
    assert whole == pytest.approx(metrics["AP"], abs=1e-12) and 0.05 < whole < 0.95
    assert dict(zip(evaluated.class_names, np.nan_to_num(by_class, nan=-1.0))) == pytest.approx(
        metrics["per_class"], abs=1e-12
    )
