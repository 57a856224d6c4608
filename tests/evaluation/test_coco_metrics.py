"""COCO numbers by hand, and equal to pycocotools on the files that are written."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from official.data.source import DataError
from official.evaluation import coco_metrics
from official.evaluation.drawing import class_color, draw_boxes, draw_mask, sheet, write_jpeg


def scores_of_files(truth, found, iou_type="bbox", **options):
    """What --job=evaluate --predictions gives."""
    options = {"max_skipped_fraction": 1.0, **options}
    return coco_metrics.score(*coco_metrics.read_files(truth, found, iou_type, **options), iou_type)


def truth(annotations, images=(1, 2), categories=(1, 5)):
    return {
        "images": [{"id": i, "width": 100, "height": 100} for i in images],
        "categories": [{"id": c, "name": f"class{c}"} for c in categories],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": crowd}
            for n, (i, c, b, crowd) in enumerate(annotations, 1)
        ],
    }


def found(*rows):
    return [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in rows]


def test_perfect_and_half():
    gt = truth([(1, 1, [10, 10, 20, 20], 0), (2, 5, [30, 30, 40, 40], 0)])
    perfect = coco_metrics.score(gt, found((1, 1, [10, 10, 20, 20], 0.9), (2, 5, [30, 30, 40, 40], 0.8)))
    assert perfect["AP"] == pytest.approx(1.0) and perfect["per_class"] == {
        "class1": pytest.approx(1),
        "class5": pytest.approx(1),
    }
    half = coco_metrics.score(gt, found((1, 1, [10, 10, 20, 20], 0.9)))
    assert half["AP"] == pytest.approx(0.5) and half["per_class"]["class5"] == 0.0
    assert half["APs"] == pytest.approx(1.0) and half["APm"] == 0.0 and half["APl"] == -1.0


def test_iou_of_two_thirds_counts_at_four_of_ten_thresholds():
    """A 20 x 20 box moved by 4 px: IoU 320 / 480 = 2/3, above .5, .55, .6, .65."""
    gt = truth([(1, 1, [10, 10, 20, 20], 0)])
    metrics = coco_metrics.score(gt, found((1, 1, [14, 10, 20, 20], 0.9)))
    assert (
        metrics["AP"] == pytest.approx(0.4) and metrics["AP50"] == pytest.approx(1) and metrics["AP75"] == 0
    )


def test_crowd_is_not_held_against_a_detection():
    gt = truth([(1, 1, [10, 10, 20, 20], 0), (1, 1, [50, 50, 40, 40], 1)])
    metrics = coco_metrics.score(gt, found((1, 1, [60, 60, 10, 10], 0.95), (1, 1, [10, 10, 20, 20], 0.9)))
    assert metrics["AP"] == pytest.approx(1.0)


def test_no_detections_and_no_objects():
    gt = truth([(1, 1, [10, 10, 20, 20], 0)])
    nothing = coco_metrics.score(gt, [])
    assert nothing["AP"] == 0.0 and nothing["APl"] == -1.0
    assert coco_metrics.score(truth([]), found((1, 1, [1, 1, 5, 5], 0.5)))["AP"] == -1.0


def test_written_files_give_the_same_numbers_by_hand(tmp_path, scenes):
    generator = np.random.default_rng(0)
    detections = []
    for i in range(len(scenes)):
        objects = scenes.annotations.of(i)
        detections.append(
            {
                "boxes": objects["boxes"] + generator.normal(0, 2, objects["boxes"].shape),
                "scores": generator.uniform(0.1, 1, len(objects["classes"])),
                "classes": objects["classes"],
            }
        )
    metrics = coco_metrics.evaluate_detections(scenes, detections, str(tmp_path))
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(str(tmp_path / "ground_truth.json"))
        by_hand = COCOeval(gt, gt.loadRes(str(tmp_path / "detections.json")), "bbox")
        by_hand.evaluate()
        by_hand.accumulate()
        by_hand.summarize()
    np.testing.assert_array_equal(metrics["coco_stats"], by_hand.stats)
    assert 0.1 < metrics["AP"] < 1.0
    assert metrics["AP"] == pytest.approx(np.mean([v for v in metrics["per_class"].values() if v >= 0]))
    again = scores_of_files(str(tmp_path / "ground_truth.json"), str(tmp_path / "detections.json"))
    assert again == metrics


def test_segmentation_results():
    from pycocotools import mask

    pixels = np.zeros((100, 100), np.uint8)
    pixels[10:30, 10:40] = 1
    rle = mask.encode(np.asfortranarray(pixels))
    rle["counts"] = rle["counts"].decode()
    gt = truth([(1, 1, [10, 10, 30, 20], 0)])
    gt["annotations"][0]["segmentation"] = rle
    results = [{"image_id": 1, "category_id": 1, "segmentation": rle, "bbox": [0, 0, 1, 1], "score": 0.7}]
    assert coco_metrics.score(gt, results, "segm")["AP"] == pytest.approx(1.0)


def test_files_that_are_no_results(tmp_path):
    gt = tmp_path / "gt.json"
    gt.write_text(json.dumps(truth([(1, 1, [1, 1, 5, 5], 0)])))
    for content, message in (
        ("{}", "no list"),
        ("[{}]", "result 0 lacks"),
        ("nope", "not a COCO results file"),
    ):
        dt = tmp_path / "dt.json"
        dt.write_text(content)
        with pytest.raises(DataError, match=message):
            scores_of_files(str(gt), str(dt))
    dt.write_text(json.dumps(found((99, 1, [1, 1, 5, 5], 0.5))))
    with pytest.raises(DataError, match="image 99"):
        scores_of_files(str(gt), str(dt))


def test_integer_ids_survive_and_others_are_numbered(scenes):
    assert scenes.coco_image_ids() == list(range(1, 17))
    import dataclasses

    numbered = dataclasses.replace(scenes, ids=np.array([str(7 * i) for i in range(16)]))
    assert numbered.coco_image_ids() == [7 * i for i in range(16)]


def test_drawn_box_has_its_colour_on_its_border():
    image = np.zeros((60, 80, 3), np.uint8)
    objects = {"boxes": np.array([[20.0, 10, 50, 70]]), "classes": np.array([1]), "scores": np.array([0.5])}
    drawn = draw_boxes(image, objects, ["a", "b"])
    assert tuple(drawn[49, 40]) == class_color(1) and tuple(drawn[35, 10]) == class_color(1)
    assert not drawn[35, 40].any() and not image.any()


def test_sheet_places_every_drawing():
    drawings = [np.full((10, 20, 3), 40 * (i + 1), np.uint8) for i in range(5)]
    grid = sheet(drawings, columns=3, cell=20)
    assert grid.shape == (20, 60, 3)  # rows as high as the highest image
    assert [int(grid[5, 10, 0]), int(grid[5, 50, 0]), int(grid[15, 30, 0])] == [40, 120, 200]


def test_a_mask_laid_over_is_the_mean_of_colour_and_image():
    """By hand: class 3 at 55 %, class 0 untouched, ignored pixels at 70 %, two in six of them hatched."""
    image = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    mask = np.repeat(np.uint8([0, 3, 255]), 10)[None].repeat(24, 0)
    drawn = draw_mask(image, mask)
    np.testing.assert_array_equal(drawn[:, :10], image[:, :10])
    color = np.float32(class_color(3))
    mixed = (1 - 0.55) * image[:, 11:19] + 0.55 * color
    np.testing.assert_array_equal(drawn[:, 11:19], mixed.astype(np.uint8))
    assert (drawn[:, [10, 19]] == class_color(3)).all()  # its rim
    x, y = np.meshgrid(np.arange(20, 30), np.arange(24))
    hatched = ((x + y) % 6 < 2)[..., None]
    np.testing.assert_array_equal(
        drawn[:, 20:], np.where(hatched, 235, (0.7 * image[:, 20:]).astype(np.uint8))
    )
    smaller = draw_mask(image, mask[::2, ::2])
    np.testing.assert_array_equal(smaller, drawn)


def test_drawings_for_people_are_jpegs(tmp_path):
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = 200
    path = write_jpeg(str(tmp_path / "drawn" / "a.jpg"), image)
    read = Image.open(path)
    assert read.format == "JPEG" and np.abs(np.asarray(read).astype(int) - image).mean() < 3
