"""Crowds, areas, class ids and slices survive every reader, every written file and the scores of them."""

import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official.data.formats.coco import to_coco
from official.data.formats.tfrecord import write_tfrecords
from official.data.pseudo_labels import BoxLabels, Row
from official.data.source import Annotations, Category
from official.data.sources import ReadOptions, open_source
from official.evaluation import coco_metrics
from official.self_training.label_store import LabelStore

CATEGORIES = ({"id": 7, "name": "seven"}, {"id": 3, "name": "three"}, {"id": 11, "name": "eleven"})
# (image, category, [x, y, width, height], crowd, area): areas are not those of the boxes.
OBJECTS = (
    (5, 7, [10, 20, 40, 40], 0, 500),
    (5, 11, [60, 10, 30, 20], 1, 77),
    (5, 3, [1, 2, 8, 9], 0, 50),
    (9, 11, [30, 30, 50, 60], 0, 2000),
    (9, 3, [5, 70, 20, 25], 1, 321),
)


def scores_of_files(truth, found, iou_type="bbox", **options):
    """What --job=evaluate --predictions gives."""
    options = {"max_skipped_fraction": 1.0, **options}
    return coco_metrics.score(*coco_metrics.read_files(truth, found, iou_type, **options), iou_type)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Two images of 100 pixels with the objects above, read from a COCO file."""
    folder = tmp_path_factory.mktemp("coco")
    os.makedirs(folder / "images")
    for i in (5, 9):
        Image.fromarray(np.full((100, 100, 3), 20 * i, np.uint8)).save(folder / "images" / f"{i}.png")
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "bbox": b, "iscrowd": crowd, "area": area}
        for n, (i, c, b, crowd, area) in enumerate(OBJECTS, 1)
    ]
    images = [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 100} for i in (5, 9)]
    (folder / "a.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES})
    )
    return open_source(f"coco:{folder}/a.json")


def assert_columns(source, *, area=True):
    """The objects of a source are those above, whatever the order of its classes."""
    found = source.annotations
    assert [source.categories[k].name for k in found.classes] == [
        "seven",
        "eleven",
        "three",
        "eleven",
        "three",
    ]
    assert found.crowd.tolist() == [False, True, False, False, True]
    if area:
        np.testing.assert_allclose(found.area, [500, 77, 50, 2000, 321], rtol=1e-6)
    boxes = [[y, x, y + h, x + w] for _, _, (x, y, w, h), _, _ in OBJECTS]
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-4)
    assert found.counts().tolist() == [3, 2]


def test_coco_is_read_with_its_columns(coco):
    assert_columns(coco)
    assert [c.id for c in coco.categories] == [3, 7, 11] and coco.ids.tolist() == ["5", "9"]


def test_coco_is_written_with_its_columns(coco):
    data = to_coco(coco)
    rows = [
        (a["image_id"], a["category_id"], a["bbox"], a["iscrowd"], a["area"]) for a in data["annotations"]
    ]
    assert rows == list(OBJECTS)
    assert data["categories"] == sorted(CATEGORIES, key=lambda c: c["id"])
    assert [(i["id"], i["height"], i["width"]) for i in data["images"]] == [(5, 100, 100), (9, 100, 100)]


def detections(source):
    """Every object that is not a crowd, found exactly."""
    rows = [source.annotations.of(i) for i in range(len(source))]
    return [{name: row[name][~row["crowd"]] for name in ("boxes", "classes", "scores")} for row in rows]


def test_results_have_the_ids_of_the_file(coco):
    found = coco_metrics.results(coco, detections(coco))
    expected = [(i, c, b) for i, c, b, crowd, _ in OBJECTS if not crowd]
    assert [(r["image_id"], r["category_id"], r["bbox"]) for r in found] == expected


def test_what_is_found_exactly_scores_one(coco, tmp_path):
    """The file's areas decide small, medium and large: 500 is small though its box is 1,600."""
    metrics, one = coco_metrics.evaluate_detections(coco, detections(coco), str(tmp_path)), pytest.approx(1.0)
    assert metrics["AP"] == one and metrics["per_class"] == {"three": one, "seven": one, "eleven": one}
    assert metrics["APs"] == one and metrics["APm"] == one and metrics["APl"] == -1.0
    only_small = coco.subset(np.array([0]))
    assert coco_metrics.evaluate_detections(only_small, detections(only_small), str(tmp_path))["APm"] == -1.0


def test_a_detection_in_a_crowd_is_not_held_against_it(coco, tmp_path):
    """A sure detection of class eleven inside its crowd on image 5; elsewhere it halves the precision."""
    for box, expected in (([12, 62, 28, 88], 1.0), ([70, 5, 95, 40], 0.5)):
        found = detections(coco)
        more = {
            "boxes": np.array([box], np.float32),
            "classes": np.array([2], np.int32),
            "scores": np.array([2.0], np.float32),
        }
        found[0] = {name: np.concatenate([found[0][name], more[name]]) for name in more}
        metrics = coco_metrics.evaluate_detections(coco, found, str(tmp_path))
        assert metrics["per_class"]["eleven"] == pytest.approx(expected, abs=1e-6)


def test_tfrecords_keep_the_columns(coco, tmp_path):
    scores = np.float32([0.5, 0.25, 0.125, 0.75, 1.0])
    scored = coco.with_annotations(dataclasses.replace(coco.annotations, scores=scores), coco.categories)
    paths = write_tfrecords(scored, str(tmp_path / "data"), 1)
    found = open_source(f"tfrecord:{tmp_path}/data-*")
    assert_columns(found)
    np.testing.assert_array_equal(found.annotations.scores, scores)
    record = next(tf.data.TFRecordDataset(paths).as_numpy_iterator())
    feature = tf.train.Example.FromString(record).features.feature
    assert list(feature["image/object/is_crowd"].int64_list.value) == [0, 1, 0]
    assert list(feature["image/object/area"].float_list.value) == [500, 77, 50]


def prepare_tfds(name, data_dir, images, per_shard=2):
    """Prepares a builder of TFDS' own on disk; images: dicts of its features, those that lack are made up."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=str(data_dir), try_gcs=False)
    os.makedirs(builder.data_dir)
    writer = tfds.core.SequentialWriter(builder.info, max_examples_per_shard=per_shard)
    writer.initialize_splits(["train"])
    writer.add_examples({"train": [builder.info.features.encode_example(image) for image in images]})
    writer.close_splits(["train"])
    return builder


def tfds_objects(flag, boxes=((0.1, 0.2, 0.5, 0.6), (0.3, 0.3, 0.9, 0.8)), **more):
    """Two objects, the second one with the flag set."""
    import tensorflow_datasets as tfds

    return [
        {"bbox": tfds.features.BBox(*box), "label": k, flag: bool(k), **more} for k, box in enumerate(boxes)
    ]


GROUP = dict.fromkeys(("source", "is_depiction", "is_inside", "is_occluded", "is_truncated"), 0)


@pytest.mark.parametrize(
    "builder, field, flag, more",
    [
        ("coco/2017", "objects", "is_crowd", {"id": 1, "area": 60}),
        ("voc/2007", "objects", "is_difficult", {"is_truncated": False, "pose": 0}),
        ("open_images_v4/200k", "bobjects", "is_group_of", GROUP),
    ],
)  # fmt: skip
def test_tfds_crowds_difficult_ones_and_groups(tmp_path, builder, field, flag, more):
    pixels = np.full((20, 40, 3), 90, np.uint8)
    image = {
        "coco/2017": {"image/filename": "a.jpg", "image/id": 5},
        "voc/2007": {"image/filename": "a.jpg", "labels": [0], "labels_no_difficult": [0]},
        "open_images_v4/200k": {"image/filename": "a.jpg", "objects": [], "objects_trainable": []},
    }[builder]
    objects = [{**o, flag: int(o[flag])} if flag == "is_group_of" else o for o in tfds_objects(flag, **more)]
    prepare_tfds(builder, tmp_path, [{"image": pixels, **image, field: objects}])
    source = open_source(f"tfds:{builder}:train", ReadOptions(data_dir=str(tmp_path)))
    assert source.annotations.crowd.tolist() == [False, True]
    np.testing.assert_allclose(source.annotations.boxes, [[2, 8, 10, 24], [6, 12, 18, 32]], atol=1e-4)
    np.testing.assert_allclose(
        source.annotations.area, [60, 60] if "coco" in builder else [128, 240], rtol=1e-5
    )


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """imagenet2012 with seven images in shards of 3, 3 and 1; image k is all 10 k and of class 100 + k."""
    folder = tmp_path_factory.mktemp("tfds")
    images = [
        {"image": np.full((16, 16, 3), 10 * k, np.uint8), "label": 100 + k, "file_name": f"{k}.jpg"}
        for k in range(7)
    ]
    prepare_tfds("imagenet2012", folder, images, per_shard=3)
    return ReadOptions(data_dir=str(folder), label_kind="classes")


@pytest.mark.parametrize(
    "slice_", ["", "[:3]", "[3:]", "[2:5]", "[50%:]", "[:50%]", "[-2:]", "[:2]+train[5:]"]
)
def test_tfds_slices_are_those_of_a_list(seven, slice_):
    """In the builder's own order, whole shards and parts of them, with the right pixels and classes."""
    order = open_source("tfds:imagenet2012:train", seven).ids.tolist()
    expected = {
        "": order, "[:3]": order[:3], "[3:]": order[3:], "[2:5]": order[2:5], "[-2:]": order[-2:],
        "[50%:]": order[4:], "[:50%]": order[:4], "[:2]+train[5:]": order[:2] + order[5:],
    }[slice_]  # fmt: skip
    found = open_source(f"tfds:imagenet2012:train{slice_}", seven)
    assert found.ids.tolist() == expected
    for i, image_id in enumerate(found.ids):
        number = int(image_id.split(".")[0])
        assert found.image_classes[i] == 100 + number
        assert abs(int(found.read_image(tf.constant(i, tf.int64))[8, 8, 0]) - 10 * number) <= 2


def test_stored_labels_keep_the_ids_of_the_classes(coco, tmp_path):
    """Ids 3, 7 and 11 in the plan; what is exported has them, and what is read back has the right names."""
    store = LabelStore(str(tmp_path / "store"))
    categories = [{"id": c.id, "name": c.name} for c in coco.categories]
    store.start({"kind": "boxes", "categories": categories})
    objects = [coco.annotations.of(i) for i in range(2)]
    labels = [BoxLabels(of["boxes"], of["scores"], of["classes"]) for of in objects]
    rows = [Row(str(i), f"{i}.png", (100, 100), own) for i, own in zip(coco.ids, labels)]
    store.write_shard(0, rows, [c["name"] for c in categories])
    store.finish(1, {})
    data = json.load(open(store.export(str(tmp_path), 0.5)))
    assert [(a["image_id"], a["category_id"], a["score"]) for a in data["annotations"]] == [
        (i, c, 1.0) for i, c, *_ in OBJECTS
    ]
    np.testing.assert_allclose(
        [a["bbox"] for a in data["annotations"]], [b for _, _, b, _, _ in OBJECTS], atol=1e-3
    )
    assert data["categories"] == categories
    read = store.read(coco.without_labels(), 0.5)[0]
    names = {c["id"]: c["name"] for c in CATEGORIES}
    assert [read.categories[k] for k in read.annotations.classes] == [
        Category(c, names[c]) for _, c, *_ in OBJECTS
    ]


def test_columns_left_out_are_the_usual_ones():
    """Without crowd, area and scores: no crowd, the box's area, score one; an area of NaN is the box's."""
    boxes, classes = np.array([[1, 2, 5, 12], [0, 0, 2, 3]], np.float32), np.array([1, 0])
    unknown = {"boxes": boxes[:1], "classes": classes[:1], "area": np.array([np.nan])}
    found = Annotations.from_images([{"boxes": boxes, "classes": classes}, unknown])
    assert found.crowd.tolist() == [False] * 3 and found.scores.tolist() == [1.0] * 3
    np.testing.assert_allclose(found.area, [40, 6, 40])
    stated = Annotations.from_images([{"boxes": boxes, "classes": classes, "area": np.array([7.0, np.nan])}])
    np.testing.assert_allclose(stated.area, [7, 6])


# --- the evaluation file's own ids ------------------------------------------------------------------


@pytest.mark.parametrize("image_id", [lambda n: f"frame_{n}", lambda n: 100 + n, lambda n: f"00{n}"])
@pytest.mark.parametrize(
    "category_id", [lambda n: 10 * (3 - n) + 1, lambda n: f"class-{n}", lambda n: str(n)]
)
def test_results_score_the_same_against_the_users_own_file(coco, tmp_path, image_id, category_id):
    """A model of classes (three, seven, eleven) on a file that numbers its images and classes in another
    way.
    """
    names = ["eleven", "three", "seven"]
    numbers = {"three": 3, "seven": 7, "eleven": 11}
    images = [
        {"id": image_id(n), "file_name": f"{i}.png", "height": 100, "width": 100}
        for n, i in enumerate((5, 9))
    ]
    place = {5: image_id(0), 9: image_id(1)}
    own = {numbers[name]: category_id(n) for n, name in enumerate(names)}
    annotations = [
        {"id": n, "image_id": place[i], "category_id": own[c], "bbox": b, "iscrowd": crowd, "area": area}
        for n, (i, c, b, crowd, area) in enumerate(OBJECTS)
    ]
    categories = [{"id": category_id(n), "name": name} for n, name in enumerate(names)]
    path = str(tmp_path / "own.json")
    with open(path, "w") as file:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, file)
    source = open_source(f"coco:{path},{os.path.dirname(coco.file_names[0])}").aligned_to(coco.categories)
    found = detections(source)
    found[0]["boxes"] = found[0]["boxes"] + np.float32(4)  # not perfect, so that ids matter
    found[1]["classes"] = (found[1]["classes"] + 1) % 3
    printed = coco_metrics.evaluate_detections(source, found, str(tmp_path / "out"))
    scored = scores_of_files(path, str(tmp_path / "out" / "detections.json"))
    assert 0 < printed["AP"] < 1
    np.testing.assert_allclose(scored["coco_stats"], printed["coco_stats"], atol=1e-9)
    assert scored["per_class"] == pytest.approx(printed["per_class"])
    written = json.load(open(tmp_path / "out" / "detections.json"))
    assert {r["category_id"] for r in written} <= set(own.values()) and {
        r["image_id"] for r in written
    } <= set(place.values())


def test_classes_that_an_evaluation_file_lacks_are_left_out_of_the_results(coco, tmp_path):
    """Two of the model's three classes in the file: a detection of the third has no id there."""
    kept = [c for c in CATEGORIES if c["name"] != "eleven"]
    objects = [o for o in OBJECTS if o[1] != 11]
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "bbox": b} for n, (i, c, b, *_) in enumerate(objects, 1)
    ]
    images = [{"id": i, "file_name": f"{i}.png"} for i in (5, 9)]
    path = tmp_path / "two.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": kept}))
    source = open_source(f"coco:{path},{os.path.dirname(coco.file_names[0])}").aligned_to(coco.categories)
    metrics = coco_metrics.evaluate_detections(source, detections(coco), str(tmp_path / "out"))
    assert metrics["per_class"]["eleven"] == -1.0 and set(metrics["per_class"]) == {
        "three",
        "seven",
        "eleven",
    }
    again = scores_of_files(str(path), str(tmp_path / "out" / "detections.json"))
    assert again["AP"] == pytest.approx(metrics["AP"])


def test_a_class_without_objects_may_be_unknown_to_the_model(coco, tmp_path):
    annotations = [{"id": 1, "image_id": 5, "category_id": 3, "bbox": [1, 2, 8, 9]}]
    content = {
        "images": [{"id": 5, "file_name": "5.png"}],
        "annotations": annotations,
        "categories": [*CATEGORIES, {"id": 99, "name": "new"}],
    }
    path = tmp_path / "more.json"
    path.write_text(json.dumps(content))
    word = f"coco:{path},{os.path.dirname(coco.file_names[0])}"
    assert len(open_source(word).aligned_to(coco.categories).categories) == 3
    annotations[0]["category_id"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="new"):
        open_source(word).aligned_to(coco.categories)
