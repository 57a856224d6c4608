"""One cleaning of labels: what people's files say, through the jobs that read them, against numbers by
hand.
"""

import json
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official import jobs
from official.data.formats.coco import open_coco
from official.data.formats.coco_json import load_coco_json
from official.data.frames import Frames
from official.data.input_report import DataError, InputReport
from official.data.labels import box_numbers, flag, identifier, number
from official.data.source import Category
from official.data.sources import ReadOptions, open_source
from official.evaluation import coco_metrics
from official.jobs.opening import open_eval
from official.tasks.registry import build_task
from tests import tiny

BOXES = ([10, 10, 40, 40], [100, 10, 50, 60], [10, 100, 80, 80])


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def truth(change=lambda number, annotation: None, **more):
    """Three objects of one image of 200 x 200, each annotation changed as wanted."""
    annotations = []
    for i, bbox in enumerate(BOXES):
        annotation = {
            "id": i + 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": bbox,
            "area": bbox[2] * bbox[3],
            "iscrowd": 0,
        }
        change(i, annotation)
        annotations.append(annotation)
    images = [{"id": 1, "file_name": "a.png", "width": 200, "height": 200}]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
        **more,
    }


def perfect(change=lambda number, result: None):
    found = []
    for i, bbox in enumerate(BOXES):
        result = {"image_id": 1, "category_id": 1, "bbox": bbox, "score": 0.9 - 0.1 * i}
        change(i, result)
        found.append(result)
    return found


def evaluated(tmp_path, gt, dt, **flags):
    """What `--job=evaluate --detections` says: the metrics and the counts of repairs."""
    word = f"coco:{write(tmp_path / 'gt.json', gt)}"
    summary = jobs.run(
        tiny.experiment(
            job="evaluate",
            detections=write(tmp_path / "dt.json", dt),
            eval_data=word,
            model_dir=str(tmp_path / "run"),
            **flags,
        )
    )
    return summary["evaluation"], summary["skipped_inputs"]


def setting(**values):
    return lambda i, entry: entry.update({k: v(i) if callable(v) else v for k, v in values.items()})


def without(*names):
    return lambda i, entry: [entry.pop(name) for name in names]


# --- a ground truth and results that are equal score 1, whatever the file is like -------------------

SPOILED_TRUTHS = {
    "ids from zero": setting(id=lambda i: i),
    "ids repeated": setting(id=7),
    "ids missing": without("id"),
    "ids that are text": setting(id=lambda i: f"a{i}"),
    "no area": without("area"),
    "negative area": setting(area=-3),
    "area that is not a number": setting(area=math.nan),
    "area as text": setting(area=lambda i: str(BOXES[i][2] * BOXES[i][3])),
    "iscrowd as text": setting(iscrowd="0"),
    "iscrowd as a word": setting(iscrowd="False"),
    "no iscrowd": without("iscrowd"),
    "null iscrowd": setting(iscrowd=None),
    "boxes as text": setting(bbox=lambda i: [f"{v:.1f}" for v in BOXES[i]]),
    "ids that are floats": setting(image_id=1.0, category_id=1.0, id=lambda i: float(i)),
    "ids of others as text": setting(image_id="1", category_id="1"),
}


@pytest.mark.parametrize("name", SPOILED_TRUTHS)
def test_perfect_detections_score_one(tmp_path, name):
    metrics, _ = evaluated(tmp_path, truth(SPOILED_TRUTHS[name]), perfect())
    assert metrics["AP"] == pytest.approx(1.0) and metrics["per_class"] == {
        "x": pytest.approx(1.0),
        "y": -1.0,
    }
    assert metrics["APm"] == pytest.approx(1.0)  # areas of the boxes are between 32^2 and 96^2


@pytest.mark.parametrize(
    "change",
    [
        setting(score=lambda i: str(0.9 - 0.1 * i)),
        setting(bbox=lambda i: [str(v) for v in BOXES[i]]),
        setting(category_id="1", image_id=1.0),
    ],
)
def test_results_of_other_types_score_one(tmp_path, change):
    assert evaluated(tmp_path, truth(), perfect(change))[0]["AP"] == pytest.approx(1.0)


def test_each_repair_is_counted_printed_once_and_listed(tmp_path, capsys):
    _, counts = evaluated(tmp_path, truth(without("area", "id")), perfect())
    assert counts["eval"] == {
        "area is missing or not positive: that of the box is taken": 3,
        "annotation id is missing, 0 or repeated: annotations are numbered anew": 3,
    }
    assert capsys.readouterr().err.count("that of the box is taken") == 1
    listed = json.loads((tmp_path / "run" / "data" / "eval_skipped.json").read_text())
    assert listed["counts"] == counts["eval"]


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("category_id", 0, "category 0"),
        ("category_id", 91, "category 91"),
        ("image_id", 5, "image 5"),
        ("category_id", None, "category None"),
    ],
)
def test_results_of_unknown_ids_are_refused_by_name(tmp_path, field, value, said):
    with pytest.raises(DataError, match=said):
        evaluated(tmp_path, truth(), perfect(setting(**{field: value})))


@pytest.mark.parametrize(
    "spoil",
    [
        {"bbox": [math.nan] * 4},
        {"score": math.nan},
        {"bbox": [1, 1, math.inf, 5]},
        {"bbox": [1, 1, -5, 5]},
        {"score": "high"},
        {"bbox": [1, 2, 3]},
    ],
)
def test_results_that_are_no_numbers_match_nothing(tmp_path, spoil):
    """One of three is lost: refused at a limit of 0.1; allowed, AP is 2/3 (101 points: 0.6733); all lost is
    an error.
    """
    one = perfect(lambda i, r: r.update(spoil) if i == 2 else None)
    with pytest.raises(DataError, match="1 of 3 objects cannot be used"):
        evaluated(tmp_path, truth(), one)
    metrics, counts = evaluated(tmp_path, truth(), one, max_skipped_fraction=0.5)
    assert metrics["AP"] == pytest.approx(67 / 101) and sum(counts["detections"].values()) == 1
    with pytest.raises(DataError, match="3 of 3 objects cannot be used"):
        evaluated(tmp_path, truth(), perfect(lambda i, r: r.update(spoil)), max_skipped_fraction=1.0)


def test_a_model_whose_boxes_are_no_numbers_is_not_scored(scenes):
    spoiled = [{"boxes": np.full((1, 4), np.nan), "scores": np.ones(1), "classes": np.zeros(1, int)}] * len(
        scenes
    )
    with pytest.raises(DataError, match="not numbers"):
        coco_metrics.results(scenes, spoiled)


def test_lost_objects_of_an_evaluation_set_count(tmp_path):
    gt = truth(lambda i, a: a.update(bbox=[5, 5, 0, 0]) if i == 0 else None)
    with pytest.raises(
        DataError,
        match=r"1 of 3 objects cannot be used: 1 x box with zero or negative width or height\. For example a.png",
    ):
        evaluated(tmp_path, gt, perfect(), max_skipped_fraction=0.3)
    assert evaluated(tmp_path, gt, perfect(), max_skipped_fraction=0.34)[0]["AP"] < 1.0


def test_no_object_at_all_is_said_before_anything_is_scored(tmp_path):
    with pytest.raises(DataError, match="not one object"):
        evaluated(tmp_path, truth(annotations=[]), perfect())
    with pytest.raises(DataError, match="3 objects are all crowds"):
        evaluated(tmp_path, truth(setting(iscrowd=1)), perfect())
    assert evaluated(tmp_path, truth(setting(iscrowd=1)), perfect(), crowd="objects")[0][
        "AP"
    ] == pytest.approx(1.0)


# --- masks ------------------------------------------------------------------------------------------


def polygon(i):
    x, y, w, h = BOXES[i]
    return [x, y, x + w, y, x + w, y + h, x, y + h]


@pytest.mark.parametrize(
    "shape", [lambda p: [p], lambda p: p, lambda p: [[a, b] for a, b in zip(p[::2], p[1::2])], lambda p: [[[a, b] for a, b in zip(p[::2], p[1::2])]], lambda p: [p, [0, 0, 1e8, 1e8, 0, 1e8]], lambda p: [p, [3, math.nan, 4, 4, 5, 5]], lambda p: [p, "no"]],
    ids=["nested", "flat", "points", "nested points", "one absurd", "one of NaN", "one of text"],
)  # fmt: skip
def test_outlines_of_every_shape_score_one(tmp_path, shape):
    gt = truth(setting(segmentation=lambda i: shape(polygon(i))))
    dt = perfect(setting(segmentation=lambda i: [polygon(i)]))
    assert evaluated(tmp_path, gt, dt, iou_type="segm")[0]["AP"] == pytest.approx(1.0)


def test_an_object_without_an_outline_is_not_held_against_the_results(tmp_path):
    gt = truth(lambda i, a: a.update(segmentation=[polygon(i)] if i else [[1, 1, 1e9, 1, 1e9, 1e9]]))
    dt = perfect(setting(segmentation=lambda i: [polygon(i)]))
    metrics, counts = evaluated(tmp_path, gt, dt, iou_type="segm", max_skipped_fraction=0.4)
    assert metrics["AP"] == pytest.approx(1.0) and counts["eval"] == {
        "object without a usable outline: ignored inside its box": 1
    }


# --- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"images": ' + "1" * 5000 + "}", "not JSON"),
        ('{"images": [\0]}', "not JSON"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        ('{"images": [{"id": NaN}], "annotations": [], "categories": []}', "has no id"),
        (
            '{"images": [{"id": 1}, {"id": "1"}, {"id": 1.0}], "annotations": [], "categories": []}',
            "id 1 occurs more",
        ),
    ],
)
def test_files_that_are_no_coco_say_why(tmp_path, text, message):
    path = write(tmp_path / "x.json", text)
    with pytest.raises(DataError, match=message) as caught:
        load_coco_json(path)
    assert path in str(caught.value) and len(str(caught.value)) < 500


def write_image(path, size=(40, 30), **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **save)


def one_image(tmp_path, annotations=(), **image):
    """A COCO file of one image of 40 x 30, opened later."""
    write_image(tmp_path / "images" / "1.png")
    image = {"id": 1, "file_name": "1.png", "width": 40, "height": 30, **image}
    objects = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 12], "area": 120, "iscrowd": 0, **a}
        for n, a in enumerate(annotations, 1)
    ]
    return write(
        tmp_path / "a.json",
        {"images": [image], "annotations": objects, "categories": [{"id": 1, "name": "x"}]},
    )


def test_a_byte_order_mark_and_huge_numbers_are_read(tmp_path):
    path = one_image(tmp_path, [{}, {"bbox": [1, 2, 10**400, 5]}, {"area": 10**400}])
    text = open(path).read()
    open(path, "w", encoding="utf-8-sig").write(text)
    source = open_coco(path, max_skipped_fraction=0.5)
    np.testing.assert_array_equal(source.annotations.boxes, [[2, 1, 14, 11]] * 2)
    assert source.annotations.area.tolist() == [120, 120]
    assert source.report.lost_objects == 1


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png", "", None, 7, ["1.png"], "x" * 5000 + ".png"])
def test_file_names_that_are_none_are_skipped(tmp_path, name):
    path = one_image(tmp_path, [{}])
    data = json.loads(open(path).read())
    data["images"].append({"id": 2, "file_name": name})
    write(tmp_path / "a.json", data)
    source = open_coco(path, max_skipped_fraction=0.5)
    assert source.ids.tolist() == ["1"] and source.report.skipped_images == 1
    json.dumps(source.report.entries)
    "\n".join(source.report.lines("x")).encode("utf-8")


def test_names_of_classes_with_lone_surrogates_can_be_printed(tmp_path):
    path = one_image(tmp_path, [{}])
    text = open(path).read().replace('"x"', '"x\\ud800"')
    open(path, "w").write(text)
    open_coco(path).categories[0].name.encode("utf-8")


@pytest.mark.parametrize(
    "annotation",
    [
        "text",
        5,
        None,
        [],
        {"bbox": {"x": 1}},
        {"bbox": [1, 2, [3], 4]},
        {"category_id": {}},
        {"image_id": []},
    ],
)
def test_annotations_of_any_type_are_lost_and_counted(tmp_path, annotation):
    path = one_image(tmp_path, [{}])
    data = json.loads(open(path).read())
    data["annotations"].append(
        {**data["annotations"][0], **annotation} if isinstance(annotation, dict) else annotation
    )
    write(tmp_path / "a.json", data)
    with pytest.raises(DataError, match="1 of 2 objects cannot be used"):
        open_coco(path)
    assert len(open_coco(path, max_skipped_fraction=0.5).annotations.boxes) == 1


def test_at_fraction_zero_no_object_may_vanish(tmp_path):
    path = one_image(tmp_path, [{}] * 99 + [{"bbox": [100, 100, 5, 5]}])
    with pytest.raises(DataError, match="1 of 100 objects"):
        open_coco(path, max_skipped_fraction=0.0)
    assert len(open_coco(path, max_skipped_fraction=0.01).annotations.boxes) == 99


def test_all_objects_lost_is_an_error_at_any_limit(tmp_path):
    """And no limit is offered as the remedy."""
    with pytest.raises(DataError, match="2 of 2 objects cannot be used: 2 x unknown category") as found:
        open_coco(one_image(tmp_path, [{"category_id": 2}, {"category_id": 3}]), max_skipped_fraction=1.0)
    assert "max_skipped_fraction" not in str(found.value)


def test_messages_stay_short_whatever_the_number_of_files():
    report = InputReport()
    for i in range(20_000):
        report.skip_image(f"not a readable image (cannot identify {i})", f"/some/folder/{i}.png", i)
    report.skip_image("file is absent", "/some/folder/gone.png", "gone")
    with pytest.raises(DataError) as caught:
        report.check("folder:x", 20_001, 0.1)
    text = str(caught.value)
    assert (
        len(text) < 500
        and "20000 x not a readable image, 1 x file is absent" in text
        and text.count("/some/folder") == 3
    )
    assert report.counts == {"not a readable image": 20_000, "file is absent": 1}
    assert len(report.lines("x")) == 2 and len(report.entries) == InputReport.MAX_ENTRIES + 1


def test_nearly_all_crowds_of_a_class_is_a_warning_with_a_remedy(tmp_path):
    path = one_image(tmp_path, [{"iscrowd": 1}] * 9 + [{}])
    source = open_coco(path)
    assert [reason for reason in source.report.counts if "--crowd=objects" in reason]
    assert not open_coco(path, crowd="objects").annotations.crowd.any()
    assert not open_coco(one_image(tmp_path, [{"iscrowd": 1}] * 5 + [{}] * 5)).report.counts


def test_images_without_annotations_are_unlabelled_data(tmp_path):
    write_image(tmp_path / "images" / "1.png")
    path = write(tmp_path / "image_info.json", {"images": [{"id": 1, "file_name": "1.png"}]})
    assert open_source(f"coco:{path}", labeled=False).ids.tolist() == ["1"]
    with pytest.raises(DataError, match='no list "annotations"; it can be used as --unlabeled_data'):
        open_source(f"coco:{path}")


# --- sizes ------------------------------------------------------------------------------------------


def marked(path, orientation, size=(40, 30)):
    """A photo of which the viewer turns the pixels; [4, 5, 14, 25] (yxyx) of the stored ones is bright."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[4:14, 5:25] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)


def bright(source, i=0):
    rows, columns = np.nonzero(source.read_image(tf.constant(i, tf.int64)).numpy()[..., 0] > 128)
    return [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]


def voc_xml(name, size, box, extra="", file_name=None):
    y1, x1, y2, x2 = box
    return (
        f"<annotation><filename>{name + '.png' if file_name is None else file_name}</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"<object><name>x</name>{extra}<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object></annotation>"
    )


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_boxes_on_the_stored_photo_are_turned_upright_with_it(tmp_path, orientation, kind):
    marked(tmp_path / "images" / "1.png", orientation)
    if kind == "coco":
        write(
            tmp_path / "a.json",
            {
                "images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 30}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 4, 20, 10]}],
                "categories": [{"id": 1, "name": "x"}],
            },
        )
        source = open_source(f"coco:{tmp_path}/a.json")
    else:
        write(tmp_path / "1.xml", voc_xml("1", (40, 30), (4, 5, 14, 25)))
        source = open_source(f"voc:{tmp_path}")
    assert tuple(source.sizes[0]) == (40, 30)
    assert source.annotations.boxes[0].tolist() == bright(source)
    files = source.frames.to_file(source.annotations.boxes, np.zeros(1, int))
    np.testing.assert_allclose(files, [[4, 5, 14, 25]])


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 6])
def test_boxes_on_the_upright_photo_stay(tmp_path, orientation):
    marked(tmp_path / "1.png", orientation)
    shown = (40, 30) if orientation < 5 else (30, 40)
    write(tmp_path / "1.xml", voc_xml("1", shown, (1, 2, 11, 12)))
    source = open_source(f"voc:{tmp_path}")
    assert source.annotations.boxes.tolist() == [[1, 2, 11, 12]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_come_back_from_every_turn_and_scale(orientation):
    generator = np.random.default_rng(orientation)
    frames = Frames(np.array([[30, 40]]), np.array([orientation]), np.array([[61, 77]]))
    boxes = np.sort(generator.uniform(0, 30, (20, 2, 2)), axis=1).reshape(20, 4)
    images = np.zeros(20, int)
    there = frames.to_image(boxes, images)
    assert (there[:, 2:] > there[:, :2]).all()
    np.testing.assert_allclose(frames.to_file(there, images), boxes, atol=1e-9)


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_another_stated_scale_is_left_out_or_scaled(tmp_path, kind):
    if kind == "coco":
        word = "coco:" + one_image(tmp_path, [{"bbox": [4, 8, 20, 24], "area": 480}], width=80, height=60)
    else:
        write_image(tmp_path / "1.png")
        write(tmp_path / "1.xml", voc_xml("1", (80, 60), (8, 4, 32, 24)))
        word = f"voc:{tmp_path}"
    with pytest.raises(DataError, match=r"--stated_size=scale.*80 x 60 stated, the file is 40 x 30"):
        open_source(word)
    source = open_source(word, ReadOptions(stated_size="scale"))
    np.testing.assert_allclose(source.annotations.boxes, [[4, 2, 16, 12]])
    np.testing.assert_allclose(source.annotations.area, [120])
    if kind == "coco":  # and comes back into the file's pixels
        found = coco_metrics.results(
            source, [{"boxes": source.annotations.boxes, "scores": [1.0], "classes": [0]}]
        )
        assert found[0]["bbox"] == [4, 8, 20, 24]


@pytest.mark.parametrize("size", [(30, 40), (40, 31), (41, 30), (400, 20)])
def test_another_stated_shape_is_never_ignored(tmp_path, size):
    path = one_image(tmp_path, [{}], width=size[0], height=size[1])
    with pytest.raises(DataError, match="stated than the image has"):
        open_source(f"coco:{path}")


@pytest.mark.parametrize("size", [(0, 0), (-1, -1), (None, None), ("40", "30"), (40.0, 30.0), ("wide", 30)])
def test_sizes_that_say_nothing_or_the_same_pass(tmp_path, size):
    assert len(open_source(f"coco:{one_image(tmp_path, [{}], width=size[0], height=size[1])}")) == 1


# --- values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, said",
    [
        (1, True),
        (0, False),
        ("1", True),
        ("0", False),
        ("0.0", False),
        ("True", True),
        ("no", False),
        (None, False),
        (2.0, True),
        ("maybe", None),
        ([], None),
        (math.nan, None),
    ],
)
def test_flags(value, said):
    assert flag(value) is said


@pytest.mark.parametrize(
    "value, said",
    [
        (7, "7"),
        (7.0, "7"),
        ("7", "7"),
        (" 7 ", "7"),
        ("007", "007"),
        ("frame_1", "frame_1"),
        (None, None),
        (True, None),
        (7.5, None),
        (10**30, str(10**30)),
        (np.int64(4), "4"),
    ],
)
def test_identifiers(value, said):
    assert identifier(value) == said


def test_numbers():
    assert [number(v) for v in (1, "2.5", np.float32(3))] == [1.0, 2.5, 3.0]
    assert all(math.isnan(number(v)) for v in (True, None, "8,0", [], 10**400, {}))
    report = InputReport()
    assert (
        np.isnan(box_numbers([None, [1, 2, 3], "1234", [1, 2, 3, 4]], report)[:3]).all() and not report.counts
    )


def test_the_jobs_write_what_was_refused_into_the_run_folder(tmp_path):
    path = one_image(tmp_path, [{"bbox": [0, 0, 0, 0]}])
    with pytest.raises(DataError) as caught:
        jobs.run(
            tiny.experiment(
                job="write_tfrecords", labeled_data=f"coco:{path}", model_dir=str(tmp_path / "run")
            )
        )
    listed = str(tmp_path / "run" / "data" / "refused.json")
    assert listed in str(caught.value) and len(json.load(open(listed))["entries"]) == 1


def test_evaluation_sets_without_objects_stop_before_the_model_is_run(tmp_path):
    write_image(tmp_path / "voc" / "1.png")
    write(tmp_path / "voc" / "1.xml", "<annotation><filename>1.png</filename></annotation>")
    experiment = tiny.experiment(eval_data=f"voc:{tmp_path}/voc", model_dir=str(tmp_path / "run"))
    with pytest.raises(DataError, match="not one object"):
        open_eval(experiment, build_task(experiment, [Category(1, "x")]))
    assert len(open_source(f"voc:{tmp_path}/voc", labeled=False)) == 1
