"""Which images are worth a person's minute, and labels that come back corrected: by hand-made label stores,
without a network.
"""

import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official import jobs
from official.data.formats.class_folders import write_class_folders
from official.data.formats.image_folder import open_folder
from official.data.pseudo_labels import BoxLabels, ClassLabels, MaskLabels, Row
from official.data.source import Category, DataError
from official.jobs.opening import open_training, open_unlabeled
from official.jobs.reviewed import unlabeled_pool, with_reviewed
from official.self_training import review
from official.self_training.label_store import LabelStore
from tests import tiny

LIMITS = np.float32([0.5, 0.8])


def boxes_of(*objects):
    """(y1, x1, y2, x2, score, class) each."""
    table = np.array(objects, np.float64).reshape(-1, 6)
    return BoxLabels(
        table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int32)
    )


def test_the_expected_number_of_wrong_labels():
    """By hand: used labels are wrong with 1 - score, those from half the threshold on are missing with their
    score.
    """
    rows = [
        boxes_of(
            (0, 0, 9, 9, 0.9, 0), (20, 20, 30, 30, 0.6, 1)
        ),  # class 1's threshold is 0.8: not in use, but nearly
        boxes_of((0, 0, 9, 9, 0.2, 0)),  # far from 0.5
        boxes_of(),
        boxes_of((0, 0, 9, 9, 0.4, 0), (20, 20, 30, 30, 0.3, 0)),
    ]
    found = review.worth(rows, LIMITS)
    np.testing.assert_allclose(found.reasons["uncertain"], [0.1 + 0.6, 0, 0, 0.7], atol=1e-6)
    np.testing.assert_allclose(found.classes, [[0.1, 0.6], [0, 0], [0, 0], [0.7, 0]], atol=1e-6)
    np.testing.assert_allclose(found.reasons["empty"], [0, 0.2, 0, 0.7], atol=1e-6)


def test_two_classes_on_one_spot():
    """The second best counts, once; another spot, the same class and what is far from its threshold do
    not.
    """
    spot = (0, 0, 10, 10)
    rows = [
        boxes_of((*spot, 0.9, 0), (1, 0, 11, 10, 0.7, 1), (0, 1, 10, 11, 0.6, 1)),
        boxes_of((*spot, 0.9, 0), (40, 40, 50, 50, 0.9, 1)),
        boxes_of((*spot, 0.9, 0), (*spot, 0.8, 0)),
        boxes_of((*spot, 0.9, 0), (*spot, 0.3, 1)),
    ]
    np.testing.assert_allclose(review.worth(rows, LIMITS).reasons["classes"], [1.3, 0, 0, 0], atol=1e-6)


def test_views_that_disagree():
    one = boxes_of((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.9, 1), (40, 40, 50, 50, 0.9, 0))
    other = boxes_of((0, 1, 10, 11, 0.9, 0), (20, 20, 30, 30, 0.9, 0), (1, 0, 11, 10, 0.9, 0))
    one, other, none = (dataclasses.asdict(labels) for labels in (one, other, boxes_of()))
    assert review.disagreement(one, one) == 0 and review.disagreement(none, none) == 0
    assert (
        review.disagreement(one, other) == review.disagreement(other, one) == 4
    )  # one pair: a partner is one once, and of one class
    assert review.disagreement(one, none) == 3


def test_mirrors():
    source = tiny.scenes_source(count=2)
    pixels = review.mirrored(source).read_image(tf.constant(1, tf.int64)).numpy()
    np.testing.assert_array_equal(pixels, source.read_image(tf.constant(1, tf.int64)).numpy()[:, ::-1])
    boxes = source.annotations.of(1)["boxes"]
    seen = boxes[:, [0, 3, 2, 1]] * [1, -1, 1, -1] + [0, 64, 0, 64]
    labels = BoxLabels(seen, np.ones(len(seen), np.float32), np.arange(len(seen)))
    found = review.unmirrored(labels, 64)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-5)
    assert found.scores is labels.scores and found.classes is labels.classes


def test_reasons_and_classes_take_turns():
    """Six images; no image twice, all its reasons are kept, images without a reason are left out."""
    found = review.Worth(
        {"uncertain": np.array([9.0, 8, 0, 1, 0, 0]), "empty": np.array([0, 0, 5.0, 0, 0, 0])},
        np.array([[9.0, 0], [8, 0], [0, 0], [0, 1], [0, 0], [0, 0]]),
    )
    chosen = review.choose(found, 10, ("cat", "dog"))
    assert list(chosen) == [0, 1, 2, 3]
    assert chosen[0] == ["uncertain", "class cat"] and chosen[1][0] == "class cat" and chosen[2] == ["empty"]
    assert chosen[3][0] == "class dog"
    assert list(review.choose(found, 2, ("cat", "dog"))) == [0, 1]


def test_candidates_are_the_uncertain_and_some_others():
    found = review.Worth({"uncertain": np.arange(100.0)}, np.zeros((100, 1)))
    chosen = review.candidates(found, 10)
    assert set(range(95, 100)) <= set(chosen.tolist()) and len(chosen) == 10 and chosen[0] == 0
    assert review.candidates(review.Worth({"uncertain": np.zeros(3)}, np.zeros((3, 1))), 10).tolist() == [
        0,
        1,
        2,
    ]


# --- the job --------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """A folder of eight images, two of one name in sub-folders."""
    rng = np.random.default_rng(0)
    for i in range(8):
        path = tmp_path / "photos" / ("a" if i % 2 else "b") / f"{i // 2}.png"
        os.makedirs(path.parent, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 64, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def row_of(source, i, labels):
    return Row(str(source.ids[i]), str(source.file_names[i]), tuple(source.sizes[i]), labels)


def stored(folder, source, rows, categories):
    store = LabelStore(str(folder))
    store.start(
        {
            "kind": "boxes",
            "teacher_sha256": "none",
            "data": source.word,
            "categories": [dataclasses.asdict(c) for c in categories],
        }
    )
    store.write_shard(
        0, [row_of(source, i, labels) for i, labels in enumerate(rows)], [c.name for c in categories]
    )
    store.finish(1, {})


GIVEN = ("job", "model_dir", "unlabeled_data", "score_threshold", "review_images")


@pytest.fixture
def reviewing(tmp_path, photos):
    """A run folder with labels of the photos, of two of the scenes' classes; the experiment of the review."""
    source = open_folder(str(photos))
    rows = [boxes_of((1, 2, 20, 30, 0.45 + 0.06 * i, i % 2), (10, 10, 30, 40, 0.3, 1)) for i in range(7)] + [
        boxes_of()
    ]
    stored(tmp_path / "run" / "pseudo_labels", source, rows, tiny.scenes_source(count=1).categories)
    return tiny.experiment(
        job="review_labels",
        model_dir=str(tmp_path / "run"),
        unlabeled_data=f"folder:{photos}",
        score_threshold=0.5,
        review_images=5,
    )


def corrected(experiment, change):
    """Writes the review, lets `change` edit its COCO file, and gives the experiment that takes it back."""
    word = jobs.run(experiment)["review"]["reviewed"]
    path = word.partition(":")[2].split(",")[0]
    with open(path) as file:
        content = json.load(file)
    change(content)
    with open(path, "w") as file:
        json.dump(content, file)
    values = {**experiment.flags(), "job": "self_train", "reviewed": word}
    return tiny.experiment(**{k: values[k] for k in ("job", "model_dir", "unlabeled_data", "reviewed")})


def test_a_review_holds_images_with_their_labels(reviewing, tmp_path, capsys):
    summary = jobs.run(reviewing)["review"]
    assert summary["images"] == 5 and "views are not compared" in capsys.readouterr().err
    listed = json.load(open(tmp_path / "run" / "review" / "review.manifest"))["images"]
    coco = json.load(open(tmp_path / "run" / "review" / "annotations.json"))
    pool = open_folder(str(tmp_path / "photos"))
    for entry, image in zip(listed, coco["images"]):
        assert entry["file"] == f"images/{image['file_name']}" and (image["width"], image["height"]) == (
            64,
            40,
        )
        original = pool.file_names[pool.ids.tolist().index(entry["id"])]
        assert open(tmp_path / "run" / "review" / entry["file"], "rb").read() == open(original, "rb").read()
    assert len({entry["file"] for entry in listed}) == 5
    assert all(a["score"] >= 0.5 for a in coco["annotations"]) and coco["annotations"]
    with pytest.raises(DataError, match="exists; name a new folder"):
        jobs.run(reviewing)


@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "cvat", "labelme", "labelstudio"])
def test_every_format_goes_out_and_comes_back(reviewing, tmp_path, form):
    """Nobody changes anything: every image is found again, with its labels as they were."""
    values = {**reviewing.flags(), "format": form}
    word = jobs.run(tiny.experiment(**{k: values[k] for k in (*GIVEN, "format")}))["review"]["reviewed"]
    if form == "labelstudio":  # what was not corrected is still a prediction there
        word = word.replace("EXPORTED.json", f"{tmp_path}/run/review/tasks.json") + ",which=predictions"
    experiment = tiny.experiment(**{k: values[k] for k in ("model_dir", "unlabeled_data")}, reviewed=word)
    labeled, rest, _ = open_training(experiment)
    joined, left = with_reviewed(experiment, labeled, open_unlabeled(experiment, rest))
    assert len(left) == 3 and len(joined) == len(labeled) + 5
    reviewed = joined.subset(np.arange(len(labeled), len(joined)))
    assert review.review_changes(reviewed) == "; 5 unchanged, 0 corrected, 0 of them emptied"


def test_corrected_images_are_human_and_the_rest_stays_pseudo(reviewing, capsys):
    """One image emptied, one box moved, the others as they were: all five leave the pool, with what people
    say.
    """
    emptied = []

    def change(content):
        first = content["annotations"][0]["image_id"]
        emptied.append(next(i["file_name"] for i in content["images"] if i["id"] == first))
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != first]
        content["annotations"][0]["bbox"] = [5.0, 6.0, 10.0, 12.0]

    experiment = corrected(reviewing, change)
    labeled, rest, _ = open_training(experiment)
    pool = open_unlabeled(experiment, rest)
    capsys.readouterr()
    joined, left = with_reviewed(experiment, labeled, pool)
    assert len(joined) == len(labeled) + 5 and len(left) == 3
    assert joined.ids[: len(labeled)].tolist() == labeled.ids.tolist()
    out = capsys.readouterr().err
    assert (
        "5 images are labelled by people now, 5 of them were unlabelled" in out
        and "3 unchanged, 2 corrected, 1 of them emptied" in out
    )
    counts = {
        n: c
        for n, c in zip(joined.file_names, joined.annotations.counts())
        if n.endswith(os.path.join("images", emptied[0]))
    }
    assert list(counts.values()) == [0]
    boxes = joined.annotations.boxes[len(labeled.annotations.boxes) :]
    assert [6.0, 5.0, 18.0, 15.0] in boxes.tolist()
    assert (joined.annotations.scores == 1.0).all()
    assert unlabeled_pool(experiment).ids.tolist() == left.ids.tolist()


def test_images_are_found_again_without_the_list(reviewing, tmp_path):
    """By their content, which says which of two equal names it is."""
    experiment = corrected(reviewing, lambda content: None)
    os.remove(tmp_path / "run" / "review" / "review.manifest")
    labeled, rest, _ = open_training(experiment)
    assert len(with_reviewed(experiment, labeled, open_unlabeled(experiment, rest))[1]) == 3


def test_a_class_that_nobody_knows_is_refused(reviewing):
    def change(content):
        content["categories"][0]["name"] = "zebra"

    experiment = corrected(reviewing, change)
    with pytest.raises(DataError, match="'zebra'"):
        with_reviewed(experiment, open_training(experiment)[0], None)


def test_a_pool_that_is_reviewed_whole_is_said(reviewing, photos):
    experiment = corrected(
        dataclasses.replace(reviewing, serving=dataclasses.replace(reviewing.serving, review_images=50)),
        lambda c: None,
    )
    labeled, rest, _ = open_training(experiment)
    pool = open_unlabeled(experiment, rest).subset(np.arange(3))
    with pytest.raises(DataError, match="none to pseudo-label"):
        with_reviewed(experiment, labeled, pool)


# --- classes of images ----------------------------------------------------------------------------


def test_the_chance_that_a_class_is_wrong_and_the_second_best():
    rows = [
        ClassLabels(0, 0.75, np.float32([0.75, 0.125, 0.125])),
        ClassLabels(2, 0.5, np.float32([0.375, 0.125, 0.5])),
    ]
    found = review.worth_of_classes(rows, 3)
    np.testing.assert_allclose(found.reasons["uncertain"], [0.25, 0.5])
    np.testing.assert_allclose(found.reasons["classes"], [0.125, 0.375])
    np.testing.assert_allclose(found.classes, [[0.25, 0, 0], [0, 0, 0.5]])


@pytest.fixture
def classified(tmp_path, photos):
    """A run folder with classes of the photos, cat or dog, ever surer; and three labelled images."""
    source, names = open_folder(str(photos)), ["cat", "dog"]
    store = LabelStore(str(tmp_path / "run" / "pseudo_labels"))
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    store.start({"kind": "classes", "teacher_sha256": "n", "data": source.word, "categories": categories})
    rows = []
    for i in range(8):
        score = 0.55 + 0.05 * i
        probabilities = np.float32([score, 1 - score] if i % 2 else [1 - score, score])
        rows.append(row_of(source, i, ClassLabels(int(probabilities.argmax()), score, probabilities)))
    store.write_shard(0, rows, names)
    store.finish(1, {})
    for i, name in enumerate([*names, "cat"]):
        (tmp_path / "human" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 40), (i, 0, 0)).save(tmp_path / "human" / name / f"{i}.png")
    return dict(
        task="classification", model_dir=str(tmp_path / "run"), unlabeled_data=f"folder:{photos}",
        labeled_data=f"folder:{tmp_path}/human", score_threshold=0.5,
    )  # fmt: skip


def test_classes_of_images_are_reviewed_as_folders(classified, tmp_path, photos, capsys):
    """The three least sure; one is moved to the other class, one is of none and removed: it stays pseudo."""
    found = jobs.run(tiny.experiment(**classified, job="review_labels", review_images=3))["review"]
    review_folder = tmp_path / "run" / "review"
    assert found["reviewed"] == f"folder:{review_folder}" and "Move every image" in capsys.readouterr().out
    listed = json.load(open(review_folder / "review.manifest"))["images"]
    ids = open_folder(str(photos)).ids.tolist()
    assert sorted(e["id"] for e in listed) == sorted(ids[:3])
    assert [e["class"] for e in sorted(listed, key=lambda e: ids.index(e["id"]))] == ["dog", "cat", "dog"]
    moved, removed, kept = (review_folder / e["file"] for e in listed)
    os.rename(moved, review_folder / {"dog": "cat", "cat": "dog"}[moved.parent.name] / moved.name)
    os.remove(removed)
    experiment = tiny.experiment(**classified, reviewed=found["reviewed"])
    labeled, rest, _ = open_training(experiment)
    pool = open_unlabeled(experiment, rest)
    joined, left = with_reviewed(experiment, labeled, pool)
    assert len(joined) == 3 + 2 and sorted(left.ids) == sorted({*ids} - {listed[0]["id"], listed[2]["id"]})
    assert "1 unchanged, 1 corrected" in capsys.readouterr().err
    classes = {
        os.path.basename(n): joined.categories[c].name
        for n, c in zip(joined.file_names, joined.image_classes)
    }
    assert classes[moved.name] != listed[0]["class"] and classes[kept.name] == listed[2]["class"]


def test_a_moved_image_without_a_file_of_its_own_is_known_by_its_name(classified, tmp_path):
    """Its content is no longer that of the pool, as of an image from records."""
    found = jobs.run(tiny.experiment(**classified, job="review_labels", review_images=1))["review"]
    entry = json.load(open(tmp_path / "run" / "review" / "review.manifest"))["images"][0]
    path = tmp_path / "run" / "review" / entry["file"]
    path.unlink()
    other = {"dog": "cat", "cat": "dog"}[entry["class"]]
    Image.new("RGB", (64, 40)).save(tmp_path / "run" / "review" / other / path.name)
    experiment = tiny.experiment(**classified, reviewed=found["reviewed"])
    labeled, rest, _ = open_training(experiment)
    left = with_reviewed(experiment, labeled, open_unlabeled(experiment, rest))[1]
    assert len(left) == 7 and entry["id"] not in left.ids.tolist()


def test_a_class_that_can_be_no_folder_is_refused(tmp_path):
    source = tiny.scenes_source(count=1).without_labels()
    for name in ("a/b", ".a", ""):
        with pytest.raises(DataError, match="cannot be the name of a folder"):
            write_class_folders(source.with_classes([0], [Category(1, name)]), str(tmp_path / "out"))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("form", ["voc", "coco", "cvat", "labelme", "yolo"])
def test_masks_are_reviewed_by_their_share_of_unsure_pixels(tmp_path, photos, form):
    """Image i has 4 i unsure pixels of 40 x 64, of class 1.

    They come back as pixels that say nothing from VOC's PNGs; formats of polygons have no place for them.
    Every sure pixel comes back as it was from all.
    """
    source, categories = open_folder(str(photos)), tiny.scenes_source(count=1, task="segmentation").categories
    store = LabelStore(str(tmp_path / "run" / "pseudo_labels"))
    store.start(
        {
            "kind": "masks",
            "teacher_sha256": "n",
            "data": source.word,
            "categories": [dataclasses.asdict(c) for c in categories],
        }
    )
    rows = []
    for i in range(8):
        mask, score = np.zeros((40, 64), np.uint8), np.full((40, 64), 250, np.uint8)
        mask[:20, :20], score[0, : 4 * i] = 1, 10
        mask[0, : 4 * i] = 1
        rows.append(row_of(source, i, MaskLabels(mask, score)))
    store.write_shard(0, rows, [c.name for c in categories])
    store.finish(1, {})
    flags = dict(
        task="segmentation",
        model_dir=str(tmp_path / "run"),
        unlabeled_data=f"folder:{photos}",
        score_threshold=0.5,
    )
    found = jobs.run(tiny.experiment(**flags, job="review_labels", review_images=2, format=form))["review"]
    listed = json.load(open(tmp_path / "run" / "review" / "review.manifest"))["images"]
    assert [entry["id"] for entry in listed] == source.ids[[7, 6]].tolist() and listed[0]["reasons"] == [
        "uncertain",
        "class disc",
    ]
    experiment = tiny.experiment(**flags, reviewed=found["reviewed"])
    labeled, rest, _ = open_training(experiment)
    joined, left = with_reviewed(experiment, labeled, open_unlabeled(experiment, rest))
    assert left.ids.tolist() == source.ids[:6].tolist() and len(joined) == len(labeled) + 2
    masks = [joined.read_mask(tf.constant(len(labeled) + k, tf.int64)).numpy() for k in range(2)]
    label = [c.name for c in joined.categories].index("disc")
    expected = []
    for k in (6, 7):
        mask = np.zeros((40, 64), np.uint8)
        mask[:20, :20] = label
        mask[0, : 4 * k] = 255 if form == "voc" else 0
        expected.append(mask)
    np.testing.assert_array_equal(sorted(m.tobytes() for m in masks), sorted(m.tobytes() for m in expected))


def test_no_review_changes_nothing(scenes):
    assert with_reviewed(tiny.experiment(), scenes, None) == (scenes, None)
