"""Labels are stored once, whole, and read at any threshold."""

import concurrent.futures
import json
import os
import threading
from unittest import mock

import numpy as np
import pytest

from official.data.pseudo_labels import BoxLabels, ClassLabels, MaskLabels, Row
from official.data.source import Category
from official.files import machine
from official.self_training.inspect_labels import describe
from official.self_training.label_kinds import KINDS
from official.self_training.label_store import LabelError, LabelStore, parse_thresholds
from official.self_training.labeler import label_source
from official.tasks.registry import build_task
from tests import tiny


class Teacher:
    """Stands in for a task: labels that are a function of the image's number, and a count of the work."""

    name, label_kind = "detection", "boxes"
    categories = (Category(3, "a"), Category(9, "b"))

    def __init__(self):
        self.labelled = []

    def label(self, model, source, first, last):
        for i in range(first, last):
            self.labelled.append(i)
            count = i % 3
            yield BoxLabels(
                boxes=np.array([[1, 2, 10 + k, 20.5] for k in range(count)], np.float32).reshape(-1, 4),
                scores=np.array([0.9 - 0.1 * i / 16 - 0.4 * k for k in range(count)], np.float32),
                classes=np.array([k % 2 for k in range(count)], np.int32),
            )


def label(folder, teacher=None, sha="t", **overrides):
    teacher = teacher or Teacher()
    store = LabelStore(str(folder))
    experiment = tiny.experiment(label_shard_size=4, **overrides)
    return label_source(
        teacher, None, tiny.scenes_source("unlabeled", labeled=False), store, experiment, sha
    ), store


def test_every_image_once_with_counts_and_histograms(tmp_path):
    manifest, store = label(tmp_path)
    rows = list(store.rows())
    assert [row.id for row in rows] == tiny.scenes_source("unlabeled").ids.tolist()
    assert manifest["images"] == 16 and manifest["boxes"] == sum(i % 3 for i in range(16))
    assert manifest["images_without_boxes"] == 6 and sum(manifest["score_histogram"]) == manifest["boxes"]
    assert manifest["class_counts"] == [10, 5] and manifest["teacher_sha256"] == "t"
    np.testing.assert_allclose(rows[2].labels.boxes, [[1, 2, 10, 20.5], [1, 2, 11, 20.5]], atol=1e-4)


def test_thresholds_apply_on_reading(tmp_path):
    _, store = label(tmp_path)
    source = tiny.scenes_source("unlabeled", labeled=False)
    everything = np.concatenate([row.labels.scores for row in store.rows()])
    for threshold in (0.0, 0.45, 0.85):
        assert len(store.read(source, threshold)[0].annotations.boxes) == (everything >= threshold).sum()
    exact = float(everything[0])
    assert exact in store.read(source, exact)[0].annotations.scores  # a score equal to the threshold stays
    per_class = store.read(source, 0.0, {"b": 2.0})[0].annotations
    assert set(per_class.classes) == {0}
    with pytest.raises(LabelError, match="'zebra'"):
        store.read(source, 0.5, {"zebra": 0.1})


def test_a_subset_in_another_order_gets_its_own_labels(tmp_path):
    _, store = label(tmp_path)
    source = tiny.scenes_source("unlabeled", labeled=False).subset(np.array([5, 2, 1]))
    assert store.read(source, 0.0)[0].annotations.counts().tolist() == [2, 2, 1]
    other = tiny.scenes_source("val", labeled=False)
    with pytest.raises(LabelError, match="no labels for 16 images"):
        store.read(other, 0.0)


def test_nothing_above_the_threshold_says_what_would_be(tmp_path):
    _, store = label(tmp_path)
    with pytest.raises(LabelError) as caught:
        store.read(tiny.scenes_source("unlabeled", labeled=False), 0.99)
    text = str(caught.value)
    best = np.sort(np.float32([0.9 - 0.1 * i / 16 if i % 3 else 0.0 for i in range(16)]))[::-1]
    for share, place in ((1, 0), (10, 1), (50, 7)):
        assert f"a threshold of {best[place]:.3f} would keep a box in {share}% of the images" in text


def test_where_nothing_is_stored_no_threshold_is_named(tmp_path):
    store = LabelStore(str(tmp_path))
    for scores, words in (((0.3, 0, 0, 0), ("0.300 would keep a box in 10%", ("in 50% of the images: none " "stored in so many"), ("or lower " "--score_threshold"))),
                          ((0, 0, 0, 0), (("in 1% of the images: none " "stored"), ("none is stored at all: " "--score_floor=0.05")))):  # fmt: skip
        rows = [
            Row("", "", (1, 1), BoxLabels(None, np.float32([score] if score else []), None))
            for score in scores
        ]
        with mock.patch.multiple(LabelStore, rows=lambda self: iter(rows), kind=lambda self: KINDS["boxes"],
                                 plan=lambda self: {"flags": {"score_floor": 0.05}}):  # fmt: skip
            text = store.explain_nothing(0.9)
        assert all(word in text for word in words) and "0.000" not in text
    with pytest.raises(LabelError, match="no such run folder: .*nowhere"):
        LabelStore(str(tmp_path / "nowhere" / "pseudo_labels")).manifest()


def test_killed_and_continued(tmp_path):
    """A shard without its JSON is made again; finished ones are not; the result is byte for byte the same."""
    _, whole = label(tmp_path / "whole")
    _, store = label(tmp_path / "cut")
    os.remove(store.shard_path(2) + ".json")
    with open(store.shard_path(3), "ab") as file:
        file.write(b"damage")
    os.remove(os.path.join(store.folder, "manifest.json"))
    teacher = Teacher()
    label(tmp_path / "cut", teacher)
    assert teacher.labelled == list(range(8, 16))
    for shard in range(4):
        assert open(store.shard_path(shard), "rb").read() == open(whole.shard_path(shard), "rb").read()


def test_an_error_leaves_no_partial_shard(tmp_path):
    class Broken(Teacher):
        def label(self, model, source, first, last):
            for i, row in enumerate(super().label(model, source, first, last), first):
                if i == 6:
                    raise KeyboardInterrupt
                yield row

    with pytest.raises(KeyboardInterrupt):
        label(tmp_path, Broken())
    assert sorted(os.listdir(tmp_path)) == [
        "labels-00000.tfrecord",
        "labels-00000.tfrecord.json",
        "plan.json",
    ]
    with pytest.raises(LabelError, match="not finished"):
        LabelStore(str(tmp_path)).manifest()


def test_workers_share_the_job(tmp_path):
    _, alone = label(tmp_path / "alone")
    first, store = label(tmp_path / "shared", shard_index=0, num_shards=2)
    assert first is None
    second, _ = label(tmp_path / "shared", shard_index=1, num_shards=2)
    assert second is not None and second["images"] == 16
    for shard in range(4):
        assert open(store.shard_path(shard), "rb").read() == open(alone.shard_path(shard), "rb").read()


def test_three_workers_who_label_the_same_at_once(tmp_path):
    """Each writes under a name of its own; what a dead one left goes, what a living one writes stays."""
    shared, seen = tmp_path / "shared", []
    barrier = threading.Barrier(3, action=lambda: seen.append(os.listdir(shared)))

    class Slow(Teacher):
        def label(self, model, source, first, last):
            yield from super().label(model, source, first, last)
            barrier.wait(30.0)  # three unfinished files of one shard

    _, alone = label(tmp_path / "alone")
    shared.mkdir()
    dead = shared / f"labels-00001.tfrecord.tmp-{machine()}-999999999-1-00000000"
    dead.write_bytes(b"half")
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        manifests = list(pool.map(lambda _: label(shared, Slow())[0], range(3)))
    assert manifests[0] == manifests[1] == manifests[2] and manifests[0]["images"] == 16
    assert sorted(os.listdir(shared)) == sorted(os.listdir(tmp_path / "alone"))
    for shard in range(4):
        names = [name for name in seen[shard] if name.startswith(f"labels-{shard:05d}.tfrecord")]
        assert len(names) == 3 and all(".tmp-" in name for name in names)
        written = (shared / f"labels-{shard:05d}.tfrecord").read_bytes()
        assert written == open(alone.shard_path(shard), "rb").read()


def test_another_teacher_or_other_flags_are_refused(tmp_path):
    label(tmp_path)
    with pytest.raises(LabelError, match="teacher_sha256: 't' there, 'u' now"):
        label(tmp_path, sha="u")
    with pytest.raises(LabelError, match="nms_iou: 0.5 there, 0.7 now"):
        label(tmp_path, nms_iou=0.7)


def test_damaged_shard_and_foreign_folder(tmp_path):
    _, store = label(tmp_path / "a")
    with open(store.shard_path(1), "ab") as file:
        file.write(b"x")
    with pytest.raises(LabelError, match="labels-00001.tfrecord is missing or damaged"):
        store.manifest()
    with pytest.raises(LabelError, match="not a label store"):
        LabelStore(str(tmp_path)).manifest()


def test_exported_as_coco(tmp_path):
    _, store = label(tmp_path / "store")
    path = store.export(str(tmp_path), 0.6)
    data = json.load(open(path))
    assert len(data["images"]) == 16 and {c["id"] for c in data["categories"]} == {3, 9}
    assert all(a["score"] >= 0.6 for a in data["annotations"]) and len(data["annotations"]) == 10
    from pycocotools.coco import COCO

    assert len(COCO(path).getAnnIds()) == 10


def test_masks_are_named_after_their_images_and_stay_in_the_folder(tmp_path):
    """Names from elsewhere, the same base name in two folders, endings alone that differ: a file each, none
    outside.
    """
    store = LabelStore(str(tmp_path / "store"))
    plan = {"kind": "masks", "categories": [{"id": 0, "name": "background"}, {"id": 1, "name": "thing"}]}
    store.start(plan)
    names = ["a/1.jpg", "b/1.jpg", "2.jpg", "2.png", "../../../escaped.jpg", ""]
    rows = [
        Row(
            f"../../{i}",
            name,
            (4, 4),
            MaskLabels(np.full((2, 2), i % 2, np.uint8), np.full((2, 2), 255, np.uint8)),
        )
        for i, name in enumerate(names)
    ]
    store.write_shard(0, rows, ["background", "thing"])
    store.finish(1, {})
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "deep" / "deeper" / "out"
    folder = store.export(str(out), 0.5)
    written = sorted(str(path.relative_to(folder)) for path in out.rglob("*.png"))
    assert written == [
        "%2e%2e/%2e%2e/%2e%2e/escaped.png",
        "%2e%2e/%2e%2e/5.png",
        "2.jpg.png",
        "2.png.png",
        "a/1.png",
        "b/1.png",
    ]
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert len(new) == 6 and all(out in path.parents for path in new)
    from PIL import Image

    for i, name in enumerate(("a/1", "b/1", "2.jpg", "2.png")):
        assert np.unique(Image.open(f"{folder}/{name}.png")).tolist() == [i % 2]


def test_thresholds_of_classes_hold_for_tables_and_exports(tmp_path):
    _, store = label(tmp_path / "store")
    limits = store.limits(0.6, {"b": 0.4})
    stored = [row.labels for row in store.rows()]
    counts = [sum(((own.scores >= limits[c]) & (own.classes == c)).sum() for own in stored) for c in (0, 1)]
    assert counts[1] > sum(((own.scores >= 0.6) & (own.classes == 1)).sum() for own in stored)
    last = describe(store, limits).splitlines()[-2].split()
    assert last[:5] == ["in", "use", str(counts[0]), str(counts[1]), str(sum(counts))]
    data = json.load(open(store.export(str(tmp_path), 0.6, {"b": 0.4})))
    assert [sum(a["category_id"] == c for a in data["annotations"]) for c in (3, 9)] == counts


def test_tables_count_pixels_and_images_by_hand(tmp_path):
    """Two images of 100 x 100 stored pixels: of 15,000 of class 1 that have 0.5, 5,000 have 0.8; and two whose
    class is 0.7 and 0.9 sure.
    """
    score = np.full((100, 100), 128, np.uint8)
    score[50:] = 205
    mask = np.zeros((100, 100), np.uint8)
    mask[50:] = 1
    masks = [MaskLabels(np.ones_like(mask), np.full_like(score, 128)), MaskLabels(mask, score)]
    classes = [ClassLabels(i, score, np.float32([0.5, 0.5])) for i, score in enumerate((0.7, 0.9))]
    tables = {}
    for kind, stored in (("masks", masks), ("classes", classes)):
        store = LabelStore(str(tmp_path / kind))
        plan = {"kind": kind, "teacher_sha256": "t", "data": "d"}
        store.start({**plan, "categories": [{"id": i, "name": name} for i, name in enumerate("ab")]})
        store.write_shard(0, [Row(str(i), "", (9, 9), own) for i, own in enumerate(stored)], "ab")
        store.finish(1, {})
        lines = describe(store, np.float32([0.75, 0.5])).splitlines()
        tables[kind] = {line.split()[0]: [int(cell) for cell in line.split()[1:]] for line in lines[1:-2]}
        tables[kind]["use"] = [int(cell) for cell in lines[-2].split()[2:]]
    columns = ("0.40", "0.60", "0.80", "0.90", "use")  # a, b, both, images without any
    assert [tables["masks"][at] for at in columns] == [[5, 15, 20, 0], [0, 5, 5, 1], [0, 5, 5, 1], [0, 0, 0, 2], [0, 15, 15, 0]]  # fmt: skip
    assert [tables["classes"][at] for at in columns] == [[1, 1, 2, 0], [1, 1, 2, 0], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]  # fmt: skip


def test_a_kind_that_lacks_something_cannot_be_made():
    class Half(type(KINDS["boxes"]).__mro__[1]):
        name = one = noun = none = "half"

        def encode(self, row, names):
            return None

    with pytest.raises(TypeError, match="abstract method.* at, .*export"):
        Half()


def test_the_tables_thresholds_are_those_of_reading(tmp_path):
    """A score of float32's 0.7, which is below 0.7, is at 0.70 in the table as it is when labels are read."""
    store = LabelStore(str(tmp_path))
    store.start({"kind": "boxes", "teacher_sha256": "t", "data": "d", "categories": [{"id": 1, "name": "a"}]})
    labels = BoxLabels(np.zeros((1, 4), np.float32), np.float32([0.7]), np.int32([0]))
    store.write_shard(0, [Row("0", "", (9, 9), labels)], "a")
    store.finish(1, {})
    table = {line.split()[0]: line.split()[1] for line in describe(store, store.limits(0.7)).splitlines()}
    assert (table["0.70"], table["0.80"]) == ("1", "0")


def test_a_class_map_that_is_no_image_is_named():
    row = Row("7", "", (4, 4), MaskLabels(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)))
    example = KINDS["masks"].encode(row, ["a"])
    example.features.feature["image/segmentation/score/encoded"].bytes_list.value[0] = b"no image"
    with pytest.raises(
        LabelError, match="image 7: a class map of its labels cannot be read: .*not a readable PNG"
    ):
        KINDS["masks"].parse(example.SerializeToString())


def test_what_an_earlier_version_did_not_note_does_not_lock_a_store(tmp_path):
    label(tmp_path)
    place = tmp_path / "plan.json"
    plan = json.loads(place.read_text())
    del plan["network"], plan["flags"]["soft_nms_sigma"]
    place.write_text(json.dumps({**plan, "data": "folder:/where/it/was"}))
    label(tmp_path, soft_nms_sigma=0.3)
    with pytest.raises(LabelError, match="max_detections"):
        label(tmp_path, max_detections=7)


def test_a_store_of_other_images_says_which(tmp_path):
    """And never to remove a folder, which may be another run's."""
    label(tmp_path)
    fewer = tiny.scenes_source("unlabeled", 12, labeled=False)
    with pytest.raises(LabelError) as caught:
        label_source(
            Teacher(), None, fewer, LabelStore(str(tmp_path)), tiny.experiment(label_shard_size=4), "t"
        )
    text = str(caught.value)
    assert f"images: 16 of scenes:unlabeled there, 12 of {fewer.word} now. Use another" in text
    assert "leave it out to label anew" in text and "sha256" not in text and "remove" not in text


def test_labels_of_a_real_network_do_not_depend_on_shards(tmp_path):
    """Batches start at shard borders, so sizes that divide into batches differently still agree."""
    source = tiny.scenes_source("unlabeled", 8, labeled=False)
    rows = []
    for size in (8, 4):
        experiment = tiny.experiment(label_shard_size=size)
        task = build_task(experiment, tiny.scenes_source().categories)
        import tensorflow as tf

        tf.keras.utils.set_random_seed(0)
        model = task.build_model()
        store = LabelStore(str(tmp_path / str(size)))
        label_source(task, model, source, store, experiment, "x")
        rows.append([row.labels for row in store.rows()])
    for a, b in zip(*rows):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)


def test_parse_thresholds():
    assert parse_thresholds("a=0.5, b=0.25") == {"a": 0.5, "b": 0.25}
    assert parse_thresholds("") == {}
    for text, what in (
        ("a", "'a' is not NAME"),
        ("a=nan", "'a=nan'"),
        ("a=2", "from 0 to 1"),
        ("b=0.1,a=-1", "'a=-1'"),
        ("a=0.1, a=0.2", "twice"),
    ):
        with pytest.raises(ValueError, match=what):
            parse_thresholds(text)
