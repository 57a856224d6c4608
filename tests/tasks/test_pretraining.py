"""SimCLR on tiny crops, and what is made of its weights: linear evaluation, transfer, the comparison."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from losses.contrastive import nt_xent
from official import jobs
from official.data.source import DataError
from official.flags import experiment_from_flagfile
from official.tasks import contrastive
from official.tasks.registry import build_task
from official.trained_model import ModelError
from tests import tiny


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A contrastive run whose network wants pixels in [0, 1]."""
    folder = tmp_path_factory.mktemp("simclr")
    experiment = tiny.experiment(
        task="contrastive",
        model_dir=str(folder),
        input_normalization="unit",
        optimizer="lars",
        learning_rate=1.0,
    )
    return folder, jobs.run(experiment)


def test_the_result(pretrained):
    folder, summary = pretrained
    assert 0 < summary["teacher"]["contrast_accuracy"] <= 1 and 0 <= summary["teacher"]["probe_top1"] <= 1
    tags = set()
    for path in (folder / "teacher").glob("*tfevents*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {value.tag for value in event.summary.value}
    assert {
        "train/human_contrastive_loss",
        "train/human_probe_loss",
        "training_human",
        "evaluation/contrast_accuracy",
    } <= tags


def test_views_follow_the_step_and_the_image():
    source = tiny.scenes_source(task="contrastive")
    task = build_task(tiny.experiment(task="contrastive"), source.categories)
    options = dict(batch_size=8, replica_batch_size=8, seed=1, stream="human")
    first, again = (
        next(iter(task.training_dataset(source, **options).as_numpy_iterator())) for _ in range(2)
    )
    assert first["images"].shape == (8, 32, 32, 6) and np.isfinite(first["images"]).all()
    np.testing.assert_array_equal(first["images"], again["images"])
    assert all((image[..., :3] != image[..., 3:]).any() for image in first["images"])
    np.testing.assert_array_equal(first["class"], source.image_classes[first["index"]])
    assert [p.shape for p in task.training_drawings(first)] == [(32, 64, 3)] * 8


class Means(tf.keras.Model):
    """A "network" whose projections and probe are the mean colours of each view."""

    def call(self, inputs, training=None):
        means = tf.reduce_mean(tf.reshape(inputs["images"], [-1, 48 * 48, 2, 3]), axis=1)
        return {"projections": means, "probe": means}


def test_evaluating_by_hand(tmp_path, monkeypatch):
    """Accuracy over the batches' other views alone; the same views whatever the run's seed; the centre is cut
    as SimCLR does.
    """
    source, styles = tiny.scenes_source(task="contrastive", count=4), []
    whole = contrastive.centre_crop
    monkeypatch.setattr(
        contrastive, "centre_crop", lambda *args, **options: styles.append(options) or whole(*args, **options)
    )
    found, means, mild = [], [], dict(color_strength=0.0, smallest_crop=0.2)
    for seed in (0, 1):
        task = build_task(
            tiny.experiment(task="contrastive", image_size=48, seed=seed, eval_batch_size=8, **mild),
            source.categories,
        )
        model = Means()
        model.seen = []
        monkeypatch.setattr(
            contrastive,
            "programs_of",
            lambda model: lambda _, run: lambda images: model.seen.append(images.numpy()) or run(images),
        )
        found.append(task.evaluate(model, source, str(tmp_path)))
        means.append(
            np.concatenate(
                [images.reshape(len(images), 48 * 48, 2, 3).mean(axis=1) for images in model.seen[::2]]
            )
        )
    np.testing.assert_array_equal(means[0], means[1])
    assert found[0] == found[1]
    assert {(o["style"], o["legacy_resize"]) for o in styles} == {("simclr", False)}
    right = 0
    for first in range(0, len(source), 8):
        rows = means[0][first : min(first + 8, len(source))]
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (rows[:, 0], rows[:, 1]))
        right += ((a @ b.T).argmax(axis=1) == np.arange(len(rows))).sum()
    assert found[0]["contrast_accuracy"] == pytest.approx(right / len(source)) and 0 < right < len(source)


def test_the_draws_of_a_batch_are_its_own():
    """The sigma of the blur: one for a view of a whole step; another one for another view, step or seed
    (simclr data_util.py).
    """
    keys, image = [], tf.zeros([8, 8, 3], tf.uint8)

    class Recorder:
        def view(self, image, key, batch_key, size):
            keys.append((tuple(key.numpy()), tuple(batch_key.numpy())))
            return tf.zeros([size, size, 3])

    for seed in range(4):
        task = build_task(tiny.experiment(task="contrastive", seed=seed), ())
        task.views = Recorder()
        prepare = task.preparation()
        for step in range(4):
            for index in range(2):
                prepare(
                    {"image": image, "step": tf.constant(step, tf.int64), "index": index},
                    tf.constant([index, 5]),
                )
    own, shared = ({key[part] for key in keys} for part in (0, 1))
    assert len(own) == 4 and len(shared) == 4 * 4 * 2  # two views of two images; seeds, steps, views
    assert all(keys[i][1] == keys[i + 2][1] for i in range(0, len(keys), 4))


def test_without_classes_there_is_no_probe(tmp_path):
    experiment = tiny.experiment(task="contrastive")
    source = tiny.scenes_source(task="contrastive").without_labels()
    task = build_task(experiment, source.categories)
    assert task.metrics == ("contrast_accuracy",)
    batch = next(
        iter(
            task.training_dataset(
                source, batch_size=8, replica_batch_size=8, seed=1, stream="s"
            ).as_numpy_iterator()
        )
    )
    assert (batch["class"] == -1).all()
    projections = tf.random.normal([8, 2, 4])
    sums = task.loss_sums({"projections": projections}, {"labels": tf.constant(batch["class"])})
    expected = tf.reduce_sum(nt_xent(projections[:, 0], projections[:, 1], temperature=0.1)[0])
    assert set(sums) == {"contrastive_loss"} and float(sums["contrastive_loss"]) == pytest.approx(
        float(expected)
    )


def test_linear_evaluation_of_the_run(pretrained, tmp_path):
    """The backbone stays bit for bit what the run handed over, its scale of pixels with it."""
    folder, _ = pretrained
    experiment = tiny.experiment(
        task="classification",
        weight_average=0.0,
        job="linear_eval",
        init=str(folder),
        model_dir=str(tmp_path),
        augment="s1",
    )
    summary = jobs.run(experiment)
    assert "top1" in summary["teacher"]
    report = json.load(open(tmp_path / "teacher" / "initialized.json"))
    assert (
        set(report["random"]) == {"predictions/kernel", "predictions/bias"}
        and "p1_conv/kernel" in report["initialized"]
    )
    assert json.load(open(tmp_path / "run.json"))["flags"]["input_normalization"] == "unit"
    backbone = tf.keras.models.load_model(folder / "export" / "model.keras", compile=False)
    reader = tf.train.load_checkpoint(summary["teacher"]["checkpoint"] + "/state")
    stored = {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if "model/" in name and "OPTIMIZER" not in name
    }
    for variable in backbone.variables:
        assert any(v.shape == variable.shape and (v == variable.numpy()).all() for v in stored.values()), (
            variable.name
        )
    with pytest.raises(DataError, match="needs --init"):
        jobs.run(tiny.experiment(task="classification", job="linear_eval", model_dir=str(tmp_path / "b")))


def test_what_it_cannot_do_is_said(pretrained, tmp_path):
    folder, _ = pretrained
    with pytest.raises(DataError, match="job=self_train makes pseudo labels"):
        jobs.run(tiny.experiment(task="contrastive", job="self_train", model_dir=str(tmp_path)))
    with pytest.raises(DataError, match="finds no classes"):
        flags = json.load(open(folder / "run.json"))["flags"]
        flags.update(job="predict", images=str(folder / "photos"), model_dir=str(folder))
        os.makedirs(folder / "photos", exist_ok=True)
        tf.io.write_file(str(folder / "photos" / "a.png"), tf.io.encode_png(tf.zeros([40, 40, 3], tf.uint8)))
        from official.experiment import experiment_from

        jobs.run(experiment_from(flags))
    with pytest.raises(DataError, match="needs images"):
        jobs.run(
            tiny.experiment(
                task="contrastive",
                job="train",
                labeled_data="",
                unlabeled_data="rest",
                model_dir=str(tmp_path / "c"),
            )
        )
    with pytest.raises(
        ModelError, match="(?s)--init=.*another network.*--backbone_width: 0.0 there, 0.5 given"
    ):
        jobs.run(
            tiny.experiment(
                job="train",
                init=str(folder),
                backbone_width=0.5,
                input_normalization="unit",
                model_dir=str(tmp_path / "d"),
            )
        )


def write_flagfile(path, **options):
    path.write_text("\n".join(line for line in tiny.command_line(**options)))
    return str(path)


def test_a_flagfile_alone_is_an_experiment(tmp_path):
    path = write_flagfile(tmp_path / "a.cfg", task="classification")
    assert experiment_from_flagfile(path) == tiny.experiment(task="classification")
    assert experiment_from_flagfile(path, seed=7).runtime.seed == 7
    (tmp_path / "b.cfg").write_text("--no_such_flag=1\n")
    with pytest.raises(ValueError, match="no_such_flag"):
        experiment_from_flagfile(str(tmp_path / "b.cfg"))
