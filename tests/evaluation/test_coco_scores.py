"""The NumPy scorer gives pycocotools' precision and recall, entry by entry, and the twelve numbers to the
last bit.
"""

import numpy as np
import pytest
from pycocotools import mask as mask_api

from official.data.source import DataError
from official.evaluation import coco_metrics
from official.evaluation.coco_scores import curves
from tests.evaluation.pycocotools_oracle import by_pycocotools, per_class

SIZE = 400


def random_set(
    seed, *, images=12, classes=4, objects=8, found=60, text_ids=False, scores=None, grid=None, first_id=1
):
    """A random ground truth and results: crowds, all areas, empty images, absent classes, ties.

    Args:
      scores: that many different ones alone, so that most are equal; grid: boxes on multiples of it, so that
        IoUs are.
    """
    rng = np.random.default_rng(seed)
    image_ids = (
        [f"image {i}" for i in rng.permutation(images)]
        if text_ids
        else (3 * rng.permutation(images) + 1).tolist()
    )
    class_ids = (2 * rng.permutation(classes) + 1).tolist()

    def box():
        low, extent = rng.uniform(0, SIZE / 2, 2), np.exp(rng.uniform(np.log(4), np.log(SIZE / 2), 2))
        values = np.concatenate([low, extent])
        return (np.maximum(grid, np.round(values / grid) * grid) if grid else values).tolist()

    annotations, results = [], []
    for image in image_ids[: images * 3 // 4]:  # the rest have no objects
        for _ in range(rng.integers(0, objects)):
            bbox, label = box(), int(rng.choice(class_ids[:-1]))  # the last class has none
            area = float(bbox[2] * bbox[3] * rng.uniform(0.5, 1))
            number = first_id + len(annotations)
            annotations.append({"id": number, "image_id": image, "category_id": label, "bbox": bbox, "area": area,
                                "iscrowd": int(rng.random() < 0.15), "ignore": int(rng.random() < 0.1)})  # fmt: skip
    for image in image_ids[images // 6 :]:  # some images have no detections
        own = [a for a in annotations if a["image_id"] == image]
        for _ in range(rng.integers(0, found)):
            near = own[rng.integers(len(own))] if own and rng.random() < 0.7 else None
            bbox = (np.array(near["bbox"]) * (1 + rng.normal(0, 0.04, 4))).tolist() if near else box()
            bbox = [max(1.0, round(v / grid) * grid) for v in bbox] if grid else bbox
            label = near["category_id"] if near and rng.random() < 0.9 else int(rng.choice(class_ids))
            score = rng.random() if scores is None else float(rng.integers(1, scores + 1)) / scores
            results.append({"image_id": image, "category_id": label, "bbox": bbox, "score": score})
    results = [results[i] for i in rng.permutation(len(results))]
    truth = {
        "images": [{"id": i, "width": SIZE, "height": SIZE} for i in image_ids],
        "categories": [{"id": c, "name": f"class {c}"} for c in class_ids],
        "annotations": annotations,
    }
    return truth, results


def assert_equal_numbers(truth, results, iou_type="bbox"):
    """Bit for bit."""
    oracle, ours = by_pycocotools(truth, results, iou_type), curves(truth, results, iou_type)
    np.testing.assert_array_equal(ours.precision, oracle.eval["precision"][..., -1])
    np.testing.assert_array_equal(ours.recall, oracle.eval["recall"])
    np.testing.assert_array_equal(ours.stats(), oracle.stats)
    assert ours.per_class() == per_class(oracle)
    return ours


SETS = {
    "plain": {},
    "ties in score": {"scores": 4},
    "ties in score and IoU": {"scores": 3, "grid": 20, "found": 90},
    "one class": {"classes": 2, "objects": 14},
    "more than a hundred of a class": {"classes": 2, "images": 8, "found": 450, "scores": 50},
    "text ids": {"text_ids": True},
    "many classes": {"classes": 40, "objects": 20},
    "an annotation of id 0, which pycocotools takes for no match": {"first_id": 0},
}


@pytest.mark.parametrize("name", SETS)
def test_random_sets_are_equal_to_pycocotools(name):
    known = [assert_equal_numbers(*random_set(seed, **SETS[name])).stats() for seed in range(6)]
    assert np.mean(known, axis=0)[0] > 0.02  # neither all right nor all wrong: the numbers can differ
    assert len({tuple(stats) for stats in known}) == len(known)


def test_every_size_and_limit_is_exercised():
    """The random sets have values in all twelve numbers that differ from each other."""
    stats = np.array(curves(*random_set(0, images=60)).stats())
    assert (stats > 0.01).all() and len(set(stats)) == len(stats)


def test_masks_are_equal_to_pycocotools():
    for seed in range(4):
        truth, results = random_set(seed, images=8, found=25)
        for record in [*truth["annotations"], *results]:
            record["segmentation"] = _ellipse(record["bbox"])
        for record in truth["annotations"][::3]:  # also a polygon and plain run lengths
            x, y, w, h = record["bbox"]
            record["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
        for record in truth["annotations"][1::3]:
            counts = mask_api.decode(record["segmentation"]).T.ravel()
            edges = np.flatnonzero(np.diff(counts, prepend=0, append=0))
            record["segmentation"]["counts"] = np.diff([0, *edges, SIZE * SIZE]).tolist()
        for record in results:
            del record["bbox"]
        stats = assert_equal_numbers(truth, results, "segm").stats()
        assert stats[0] > 0.005


def _ellipse(box):
    rows, columns = np.mgrid[:SIZE, :SIZE]
    x, y, w, h = box
    inside = ((columns - x - w / 2) / w) ** 2 + ((rows - y - h / 2) / h) ** 2 < 0.25
    code = mask_api.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def test_nothing_found_and_nothing_to_find():
    truth, results = random_set(0)
    assert_equal_numbers(truth, [])
    assert assert_equal_numbers({**truth, "annotations": []}, results).stats() == [-1.0] * 12


def test_results_of_unknown_classes_are_left_out_and_of_unknown_images_refused():
    truth, results = random_set(0)
    assert_equal_numbers(truth, [*results, {**results[0], "category_id": 77, "score": 1.0}])
    with pytest.raises(DataError, match="does not have: .*elsewhere"):
        curves(truth, [{**results[0], "image_id": "elsewhere"}])


def test_pairs_of_many_detections_are_made_in_parts(monkeypatch):
    truth, results = random_set(1)
    whole = coco_metrics.score(truth, results)
    monkeypatch.setattr("official.evaluation.coco_matching._PAIRS_AT_ONCE", 7)
    assert coco_metrics.score(truth, results) == whole


def test_arguments_are_left_as_they_are():
    truth, results = random_set(2)
    before = repr((truth, results))
    coco_metrics.score(truth, results)
    assert repr((truth, results)) == before


def test_of_equal_ious_the_last_object_is_taken():
    """The surer detection lies between two objects and takes the second, which leaves none to the other
    detection.
    """
    size = [0.0, 20.0, 20.0]
    truth = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, "bbox": [x, *size], "area": 400.0, "iscrowd": 0}
                        for i, x in enumerate((0.0, 8.0), 1)],
    }  # fmt: skip
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [x, *size], "score": s} for x, s in ((4.0, 0.9), (8.0, 0.8))
    ]
    ours = assert_equal_numbers(truth, results)
    assert ours.recall[0, 0, 0].tolist() == [0.5, 0.5, 0.5]  # 0.5, 1, 1 if it had taken the first
