"""Classification end to end on tiny crops: the loop as Noisy Student, evaluating, label store, export."""

import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from augment.crops import STYLES, centre_crop
from official import jobs
from official.data.example import normalize
from official.data.source import Category, DataError, Source
from official.experiment import PseudoLabels, experiment_from
from official.export.classifier import ClassificationServing
from official.self_training.label_kinds import ClassKind
from official.self_training.label_store import LabelStore
from official.tasks.augmentation import crop_style
from official.tasks.classification import softmax, top_accuracy
from official.tasks.registry import build_task
from official.trained_model import describe
from official.training.loading import load_model
from tests import tiny

NAMES = ("disc", "ring", "square", "triangle", "cross")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the whole loop with soft labels, a weight average and four images per class."""
    folder = tmp_path_factory.mktemp("run")
    experiment = tiny.experiment(task="classification", model_dir=str(folder), pseudo_images_per_class=4)
    return folder, experiment, jobs.run(experiment)


def rerun(experiment, **overrides):
    return jobs.run(experiment_from({**experiment.flags(), **overrides}))


def test_top_k_by_hand():
    logits = np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.1], [0.3, 0.3, 0.3]])
    labels = np.array([1, 1, 1])
    assert top_accuracy(logits, labels, 1) == pytest.approx(1 / 3)
    assert top_accuracy(logits, labels, 2) == 1.0  # of equal logits the first class counts first
    assert top_accuracy(logits, np.array([2, 2, 2]), 2) == pytest.approx(1 / 3)
    assert top_accuracy(logits[:0], labels[:0], 1) == 0.0
    np.testing.assert_allclose(softmax(np.array([0.0, np.log(3)])), [0.25, 0.75], rtol=1e-6)


def test_the_summary(finished):
    folder, _, summary = finished
    for phase in ("teacher", "student"):
        assert 0 <= summary[phase]["top1"] <= summary[phase]["top5"] == 1.0
        assert set(summary[phase]["per_class"]) == set(NAMES)
    labels = summary["pseudo_labels"]
    assert labels["labels"] == labels["images"] and sum(labels["per_class"].values()) == labels["labels"]
    found = sum(count > 0 for count in labels["per_class"].values())
    assert labels["images_used"] == 4 * found
    assert os.path.isfile(folder / "drawings" / "teacher_student.png")


def test_evaluation_is_the_share_of_right_predictions(finished, tmp_path):
    folder, experiment, summary = finished
    again = rerun(experiment, job="evaluate")
    assert again["evaluation"]["top1"] == summary["student"]["top1"]
    matrix = np.array(again["evaluation"]["confusion_matrix"])
    assert np.trace(matrix) / matrix.sum() == pytest.approx(summary["student"]["top1"])
    assert summary["verdict"]["scores"]["student"]["value"] == pytest.approx(
        summary["student"]["top1"], abs=1e-5
    )
    assert "could not be made" not in (folder / "report.html").read_text()


def test_the_averaged_weights_are_what_is_evaluated(finished):
    """With the plain weights of the same checkpoint in their place the numbers behind the result differ."""
    _, experiment, summary = finished
    kept = describe(summary["teacher"]["checkpoint"])
    assert kept.averaged
    a, b = (load_model(model, experiment)[1] for model in (kept, dataclasses.replace(kept, averaged=False)))
    assert any((x.numpy() != y.numpy()).any() for x, y in zip(a.variables, b.variables))


def test_labels_are_stored_with_their_probabilities(finished):
    folder, experiment, summary = finished
    store = LabelStore(str(folder / "pseudo_labels"))
    assert (
        store.manifest()["kind"] == "classes"
        and store.manifest()["labels"] == summary["pseudo_labels"]["images"]
    )
    for row in store.rows():
        label, probabilities = row.labels.label, row.labels.probabilities
        assert probabilities.shape == (5,) and probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert label == probabilities.argmax() and row.labels.score == pytest.approx(
            probabilities.max(), rel=1e-5
        )
    result = rerun(experiment, job="inspect_labels")
    exported = json.load(open(result["exported"]))
    assert len(exported) == summary["pseudo_labels"]["images"] and set(exported[0]) == {
        "file_name",
        "class",
        "score",
    }
    nothing = rerun(experiment, job="inspect_labels", score_threshold=1.0)
    assert json.load(open(nothing["exported"])) == []


def test_predictions_and_saved_model_agree(finished, tmp_path):
    folder, experiment, _ = finished
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    os.makedirs(tmp_path / "in")
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    rerun(experiment, job="predict", images=str(tmp_path / "in"), output=str(tmp_path / "out"))
    row = json.load(open(tmp_path / "out" / "predictions.json"))[0]
    assert row["file_name"] == "a.png" and list(row["top5"])[0] == row["class"]
    assert os.path.isfile(tmp_path / "out" / "drawn" / "a.jpg")
    serve = tf.saved_model.load(str(folder / "export" / "saved_model")).signatures
    found = serve["serving_default"](image_bytes=tf.constant([open(tmp_path / "in" / "a.png", "rb").read()]))
    assert found["class_names"].numpy()[0].decode() == row["class"]
    assert float(found["scores"][0]) == pytest.approx(row["score"], abs=1e-4)
    again = serve["pixels"](images=tf.constant(pixels[None]))
    np.testing.assert_allclose(again["probabilities"], found["probabilities"], atol=1e-5)
    network = tf.keras.models.load_model(folder / "export" / "model.keras", compile=False)
    crop = normalize(centre_crop(tf.constant(pixels), 32))[None]
    np.testing.assert_allclose(tf.nn.softmax(network(crop)["logits"]), found["probabilities"], atol=1e-5)


def test_soft_and_hard_labels_reach_the_batches(finished):
    folder, experiment, _ = finished
    task = build_task(experiment, tuple(Category(i + 1, n) for i, n in enumerate(NAMES)))
    source = tiny.scenes_source(task="classification")
    soft = np.random.default_rng(0).dirichlet(np.ones(5), len(source)).astype(np.float32)
    labelled = source.with_classes(soft.argmax(axis=1), source.categories, soft)
    options = dict(batch_size=8, replica_batch_size=8, seed=1, stream="pseudo")
    batch = next(iter(task.training_dataset(labelled, **options).as_numpy_iterator()))
    np.testing.assert_array_equal(batch["probabilities"], soft[batch["index"]])
    np.testing.assert_array_equal(batch["class"], soft[batch["index"]].argmax(axis=1))
    targets = task.encode({name: tf.constant(value) for name, value in batch.items()})
    logits = tf.random.normal([8, 5])
    found = task.loss_sums({"logits": logits}, targets)["class_loss"]
    expected = -(
        batch["probabilities"] * tf.nn.log_softmax(logits).numpy()
    ).sum()  # soft labels are not smoothed
    assert float(found) == pytest.approx(expected, rel=1e-5)


def pool(classes):
    return Source(
        "pool",
        np.array([f"p{i}" for i in range(len(classes))]),
        np.ones((len(classes), 2)),
        None,
        image_classes=np.array(classes),
    )


def test_the_surest_of_every_class_are_repeated():
    """Class 0 has three sure images, class 1 one, class 2 none; two of each are wanted."""
    source, confidence = pool([0, 0, 1, 0, -1]), np.array([0.6, 0.9, 0.7, 0.8, 0.0])
    chosen = ClassKind().chosen(source, confidence, PseudoLabels(pseudo_images_per_class=2))
    assert chosen.tolist() == [1, 3, 2, 2]
    assert ClassKind().chosen(source, confidence, PseudoLabels(pseudo_images_per_class=5)).tolist() == [
        1,
        3,
        0,
        1,
        3,
        2,
        2,
        2,
        2,
        2,
    ]
    assert ClassKind().chosen(source, confidence, PseudoLabels()).tolist() == [0, 1, 2, 3]


def test_images_without_a_class_are_not_evaluated_and_not_learned(tmp_path):
    experiment = tiny.experiment(task="classification")
    source = tiny.scenes_source(task="classification", count=4)
    task = build_task(experiment, source.categories)
    tf.keras.utils.set_random_seed(0)
    model = task.build_model()
    some = np.where(np.arange(len(source)) % 2, source.image_classes, -1)
    metrics = task.evaluate(model, source.with_classes(some, source.categories), str(tmp_path))
    found = [objects["class"] for objects in task.predict(model, source, 0, len(source))]
    expected = np.zeros((5, 5), int)
    np.add.at(expected, (some[some >= 0], np.array(found)[some >= 0]), 1)  # rows are true classes
    assert metrics["confusion_matrix"] == expected.tolist() and (expected != expected.T).any()
    assert float(task.count(task.encode({"class": tf.constant(some)}))) == (some >= 0).sum()


def test_joint_training_needs_data_and_weight(tmp_path):
    with pytest.raises(DataError, match="needs both"):
        jobs.run(tiny.experiment(model_dir=str(tmp_path), job="train", joint_weight=0.5))
    with pytest.raises(DataError, match="not for --task=classification"):
        jobs.run(
            tiny.experiment(
                task="classification",
                model_dir=str(tmp_path / "b"),
                job="train",
                joint_weight=0.5,
                joint_data="scenes:train,count=4",
            )
        )


def test_presets_become_operations_on_crops():
    from official.tasks.augmentation import image_augmentation

    def policy(**options):
        return image_augmentation(tiny.experiment(task="classification", **options))

    assert (policy(augment="none").crop, policy(augment="none").flip) == (False, False)
    assert policy(augment="s1").autoaugment == "" and policy(augment="s1").randaugment_layers == 0
    assert (
        policy(augment="s2").autoaugment == "imagenet"
        and policy(augment="s3", autoaugment="v0").autoaugment == "v0"
    )
    assert policy(augment="s4").randaugment_layers == 1 and policy(augment="s4").settings.cutout_const == 40
    assert policy(augment="s1", randaugment_layers=2, randaugment_magnitude=28).randaugment_magnitude == 28
    assert dataclasses.replace(policy(augment="s1")).smallest_area == 0.08


class Means(tf.keras.Model):
    """A "network" whose logits are the mean normalised colours of what it is shown."""

    image_size = 48

    def call(self, inputs, training=None):
        return {"logits": tf.reduce_mean(inputs["images"], axis=[1, 2])}


@pytest.mark.parametrize("style", STYLES)
def test_crop_style_reaches_evaluation_labels_and_export(style, monkeypatch):
    """Crops of another share have other means; `auto` is EfficientNet's, of a linear evaluation and of SimCLR
    SimCLR's.
    """
    experiment = tiny.experiment(task="classification", image_size=48, crop_style=style, legacy_resize=True)
    source = tiny.scenes_source(count=1)  # 64 pixels: squares of 55, 38 and 56
    task = build_task(experiment, source.categories)
    image = source.read_image(tf.constant(0, tf.int64))
    crop = normalize(centre_crop(image, 48, style=style, legacy_resize=True)).numpy()
    found = np.stack(list(task._logits(Means(), source, 0, 1)))
    np.testing.assert_allclose(found[0], crop.mean((0, 1)), rtol=1e-4)
    others = [
        normalize(centre_crop(image, 48, style=other, legacy_resize=True)).numpy()
        for other in STYLES
        if other != style
    ]
    assert all(abs(found[0] - other.mean((0, 1))).max() > 1e-3 for other in others)

    handed = {}
    monkeypatch.setattr(
        "official.tasks.classification.export_classifier", lambda *args, **kwargs: handed.update(kwargs)
    )
    task.export(None, "folder")
    assert handed == {
        "class_ids": [1, 2, 3, 4, 5],
        "crop_style": style,
        "legacy_resize": True,
        "tflite": False,
    }
    inputs = tf.keras.Input((48, 48, 3), name="images")
    network = tf.keras.Model({"images": inputs}, {"logits": tf.keras.layers.GlobalAveragePooling2D()(inputs)})
    network.image_size = 48
    serving = ClassificationServing(network, NAMES, style, True)
    np.testing.assert_array_equal(serving._crop(image), crop)
    assert task.augment.style == style


def test_whose_crops_are_chosen():
    def chosen(**options):
        return crop_style(tiny.experiment(**options))

    assert chosen(task="classification") == "efficientnet" and chosen(task="detection") == "efficientnet"
    assert chosen(task="contrastive") == chosen(task="classification", linear_probe=True) == "simclr"
    assert chosen(task="contrastive", crop_style="noisy_student") == "noisy_student"
    assert chosen(task="classification", linear_probe=True, crop_style="efficientnet") == "efficientnet"
