"""Segmentation end to end on tiny images: evaluation, multi-scale labels, the label store, export, jobs."""

import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from official import jobs
from official.data import pipeline
from official.data.formats.mask_files import stored_score
from official.evaluation.evaluated import read_evaluated
from official.evaluation.small_maps import read_map
from official.experiment import experiment_from
from official.self_training.label_store import LabelError, LabelStore
from official.self_training.labeler import label_source
from official.tasks.registry import build_task
from official.tasks.segmentation import parse_scales, probabilities_function
from tests import tiny


@pytest.fixture(scope="module")
def setting():
    """(task, model with random weights, labelled images that are not square)."""
    source = tiny.scenes_source(task="segmentation", count=6)
    heights = np.array([64, 50, 40, 64, 33, 64], np.int32)
    read_image, read_mask, table = source.read_image, source.read_mask, tf.constant(heights)
    source = dataclasses.replace(
        source, sizes=np.stack([heights, np.full(6, 64, np.int32)], axis=1),
        read_image=lambda i: read_image(i)[: table[i]], read_mask=lambda i: read_mask(i)[: table[i]],
    )  # fmt: skip
    task = build_task(tiny.experiment(task="segmentation"), source.categories)
    tf.keras.utils.set_random_seed(3)
    model = task.build_model()
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if "classifier" in variable.name:
            variable.assign(generator.normal(0, 1.0, variable.shape))
    return task, model, source


def test_evaluation_equals_numpy_on_the_predictions(setting, tmp_path):
    task, model, source = setting
    metrics = task.evaluate(model, source, str(tmp_path))
    found = list(task.predict(model, source, 0, len(source)))
    hits, union, matrix = np.zeros(6), np.zeros(6), np.zeros((6, 6), int)
    for i, objects in enumerate(found):
        truth = source.read_mask(tf.constant(i, tf.int64)).numpy()
        assert objects["mask"].shape == truth.shape == tuple(source.sizes[i])
        for k in range(6):
            hits[k] += ((truth == k) & (objects["mask"] == k)).sum()
            union[k] += ((truth == k) | (objects["mask"] == k)).sum()
        np.add.at(matrix, (truth.ravel(), objects["mask"].ravel()), 1)
    assert metrics["mIoU"] == np.mean(hits[union > 0] / union[union > 0])
    assert metrics["confusion_matrix"] == matrix.tolist() and (matrix != matrix.T).any()
    assert len(metrics["per_class"]) == 6 and 0 < metrics["mIoU_padded"] <= 1
    assert json.load(open(tmp_path / "metrics.json"))["mIoU"] == metrics["mIoU"]
    evaluated = read_evaluated(str(tmp_path))
    assert evaluated.own()[0] == pytest.approx(metrics["mIoU"]) and evaluated.ids == [
        str(i) for i in source.ids
    ]
    np.testing.assert_array_equal(
        read_map(str(tmp_path), 1), found[1]["mask"]
    )  # 64 pixels are kept as they are


def test_one_scale_is_the_plain_prediction_and_scales_are_averaged(setting):
    task, model, source = setting
    single = build_task(tiny.experiment(task="segmentation", label_scales="1"), source.categories)
    for i, row in enumerate(single.label(model, source, 0, 3)):
        images = next(iter(single._batches(source, i, i + 1)))["images"]
        logits = model({"images": images}, training=False)["logits"]
        probabilities = tf.image.resize(tf.nn.softmax(logits), [64, 64])[0].numpy()[: row.mask.shape[0]]
        np.testing.assert_array_equal(row.mask, probabilities.argmax(-1))
        np.testing.assert_allclose(row.score / 256, probabilities.max(-1), atol=1 / 250)
        assert row.mask.shape[0] == source.sizes[i][0]
    several = [row.score for row in task.label(model, source, 0, 3)]
    assert any((a != b.score).any() for a, b in zip(several, single.label(model, source, 0, 3)))
    mirrored = build_task(
        tiny.experiment(task="segmentation", label_scales="1", label_flip=True), source.categories
    )
    for i, (row, plain) in enumerate(
        zip(mirrored.label(model, source, 0, 2), single.label(model, source, 0, 2))
    ):
        images = next(iter(single._batches(source, i, i + 1)))["images"][:1]
        views = tf.concat([images, images[:, :, ::-1]], 0)
        found = tf.nn.softmax(model({"images": views}, training=False)["logits"])
        found = tf.image.resize(found, [64, 64]).numpy()
        expected = 0.5 * (found[0] + found[1][:, ::-1])[: row.mask.shape[0]]
        assert (row.mask == expected.argmax(-1)).mean() > 0.999
        np.testing.assert_allclose(row.score / 256, expected.max(-1), atol=1 / 250)
        assert np.abs(row.score - plain.score).max() > 2


class Brightness(tf.Module):
    """A segmenter with two classes whose logits are the mean of the red and of the green channel in every
    cell of 4 x 4.
    """

    distribute_strategy = tf.distribute.get_strategy()

    def __init__(self):
        super().__init__()
        self.sides = []

    def __call__(self, inputs, training):
        self.sides.append(inputs["images"].shape[1])
        return {"logits": tf.nn.avg_pool2d(inputs["images"][..., :2], 4, 4, "VALID")}


@pytest.mark.parametrize("side, padded", [(24, 32), (32, 32), (40, 64), (17, 32), (56, 64)])
@pytest.mark.parametrize("flip", [False, True])
def test_every_scale_is_the_scale_it_says(side, padded, flip):
    """An image of two halves (left: class 0, right: class 1) at any side gives halves of the output, wherever
    the padding ends.

    By hand: logits 4 and 0 in the left half make 1 / (1 + e^-4) = 0.982; between the halves bilinear.
    """
    model, size = Brightness(), 32
    columns = np.arange(side)
    image = np.zeros((1, side, side, 3), np.float32)
    image[..., 0], image[..., 1] = 4.0 * (columns < side / 2), 4.0 * (columns >= side / 2)
    found = probabilities_function(model, side=side, size=size, multiple=32, flip=flip, legacy_resize=False)(
        image
    ).numpy()
    assert set(model.sides) == {padded} and found.shape == (1, size, size, 2)
    cell = 4 * size / side  # pixels of the output that blend at the border of two cells
    left, right = int(size / 2 - cell), int(np.ceil(size / 2 + cell))
    edge = size - int(np.ceil(cell)) if side % 4 or flip else size  # a cell that is part padding
    np.testing.assert_allclose(
        found[0, :edge, int(flip) * (size - edge) : left, 0], 1 / (1 + np.exp(-4)), atol=1e-5
    )
    np.testing.assert_allclose(found[0, :edge, right:edge, 1], 1 / (1 + np.exp(-4)), atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-5)


def test_six_scales_are_six_inputs_of_one_reading(setting):
    """0.5 ... 1.75 of 64 pixels on a pyramid to stride 8: six different inputs. Labels are, bit for bit, the
    mean of six passes that each read the photo for itself."""
    _, model, source = setting
    task = build_task(
        tiny.experiment(task="segmentation", label_scales="0.5,0.75,1,1.25,1.5,1.75"), source.categories
    )
    reads, calls, read_image = [], [], source.read_image

    def counted(index):
        calls.append(index)  # by tracing, so once for each place that reads
        return read_image(index)

    def alone(side):
        prepare = pipeline.fitting(side)
        for batch in task._prepared(prepare, source, 0, len(source)):
            reads.append(batch["images"].shape[1])
            yield task._probabilities_at(model, side)(batch["images"])

    labels = list(task.label(model, dataclasses.replace(source, read_image=counted), 0, len(source)))
    assert len(calls) == 1
    means = [sum(parts) / 6 for parts in zip(*map(alone, (32, 48, 64, 80, 96, 112)))]
    assert set(reads) == {32, 48, 64, 80, 96, 112}
    for row, mean in zip(labels, tf.concat(means, axis=0).numpy()):
        mean = mean[: row.mask.shape[0], : row.mask.shape[1]]
        np.testing.assert_array_equal(row.mask, mean.argmax(-1))
        np.testing.assert_array_equal(row.score, stored_score(mean.max(-1)))


def test_masks_in_the_label_store(setting, tmp_path):
    task, model, source = setting
    unlabelled = source.without_labels()
    store = LabelStore(str(tmp_path))
    experiment = tiny.experiment(task="segmentation")
    manifest = label_source(task, model, unlabelled, store, experiment, "t")
    assert manifest["kind"] == "masks" and manifest["images"] == 6
    assert (
        manifest["pixels"]
        == sum(h * 64 for h in (64, 50, 40, 64, 33, 64))
        == sum(manifest["score_histogram"])
        == sum(manifest["class_counts"])
    )
    rows = list(store.rows())
    threshold = float(np.median(np.concatenate([row.labels.score.ravel() for row in rows]))) / 256
    pseudo, any_label, numbers = store.read(unlabelled, threshold)
    for i, row in enumerate(rows):
        mask = pseudo.read_mask(tf.constant(i, tf.int64)).numpy()
        assert mask.shape == tuple(source.sizes[i])
        np.testing.assert_array_equal(
            mask, np.where(row.labels.score >= round(threshold * 256), row.labels.mask, 255)
        )
    assert numbers["images_with_labels"] == any_label.sum() and 0.3 < numbers["labelled_pixels"] < 0.8
    with pytest.raises(LabelError, match="no pseudo pixel.*score_threshold=1.0") as caught:
        store.read(unlabelled, 1.0)
    assert "would keep a pixel in 50%" in str(caught.value)
    folder = store.export(str(tmp_path / "out"), threshold)
    for i, row in enumerate(rows):
        name = os.path.splitext(os.path.basename(row.file_name))[0] + ".png"
        with Image.open(os.path.join(folder, name)) as image:
            assert image.mode == "P" and image.size == (64, source.sizes[i][0])
            np.testing.assert_array_equal(np.asarray(image), pseudo.read_mask(tf.constant(i, tf.int64)))


def test_labels_are_enlarged_to_large_images(setting, tmp_path):
    task, model, source = setting
    import dataclasses

    double = dataclasses.replace(
        source.without_labels(), sizes=source.sizes * 2,
        read_image=lambda i: tf.repeat(tf.repeat(source.read_image(i), 2, axis=0), 2, axis=1),
    )  # fmt: skip
    store = LabelStore(str(tmp_path))
    label_source(task, model, double, store, tiny.experiment(task="segmentation"), "t")
    pseudo, _, _ = store.read(double, 0.0)
    row = next(iter(store.rows())).labels
    assert row.mask.shape == (64, 64)  # as in the network's input
    np.testing.assert_array_equal(
        pseudo.read_mask(tf.constant(0, tf.int64)), row.mask.repeat(2, 0).repeat(2, 1)
    )


def test_export_agrees_with_predict(setting, tmp_path):
    task, model, source = setting
    paths = task.export(model, str(tmp_path))
    signature = tf.saved_model.load(paths["saved_model"]).signatures["serving_default"]
    for i, expected in enumerate(task.predict(model, source, 0, 3)):
        found = signature(image_bytes=tf.io.encode_png(source.read_image(tf.constant(i, tf.int64))))
        assert (found["classes"].numpy() != expected["mask"]).mean() < 1e-3
        np.testing.assert_allclose(found["scores"], expected["score"], atol=1e-4)
    assert [n.decode() for n in found["class_names"].numpy()] == task.class_names
    again = tf.keras.models.load_model(paths["keras"], compile=False)
    images = tf.random.stateless_normal([1, 64, 64, 3], [1, 1])
    np.testing.assert_allclose(again(images)["logits"], model(images)["logits"], atol=1e-4)


def test_everything_ignored_is_finite():
    import dataclasses

    from tests.training.test_step import make_trainer, run

    source = tiny.scenes_source(task="segmentation")
    ignored = dataclasses.replace(source, read_mask=lambda i: tf.fill([64, 64], tf.constant(255, tf.uint8)))
    metrics, weights = run(make_trainer(task="segmentation", pseudo=False, human=ignored), 2)
    assert metrics[0]["human_count"] == 0 and metrics[0]["human_loss"] == 0
    assert all(np.isfinite(w).all() for w in weights)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_other_ways_to_meet_the_labels(method):
    from tests.training.test_step import make_trainer, run

    metrics, _ = run(make_trainer(task="segmentation", pseudo=False, mask_resize=method), 1)
    assert np.isfinite(metrics[0]["loss"])


@tiny.without_export()
def test_the_loop_and_every_job(tmp_path):
    run = tiny.experiment(
        task="segmentation", model_dir=str(tmp_path), control=True, teacher_steps=4, student_steps=4
    )
    summary = jobs.run(run)
    for phase in ("teacher", "control", "student"):
        assert {"mIoU", "mIoU_padded", "pixel_accuracy", "per_class"} <= set(summary[phase])
    assert summary["pseudo_labels"]["images"] == 16 and 0 < summary["pseudo_labels"]["labelled_pixels"] <= 1
    assert summary["evaluation"]["mIoU"] == summary["student"]["mIoU"]
    tags = set()
    for path in (tmp_path / "student").glob("*tfevents*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {value.tag for value in event.summary.value}
    assert {
        "evaluation_confusion",
        "predictions",
        "training_human",
        "training_pseudo",
        "pseudo_labels",
        "evaluation/mIoU",
    } <= tags

    def again(**overrides):
        return jobs.run(experiment_from({**run.flags(), **overrides}))

    assert again(job="evaluate")["evaluation"]["mIoU"] == pytest.approx(summary["student"]["mIoU"])
    shown = again(job="inspect_labels", output=str(tmp_path / "look"))
    assert os.path.getsize(shown["drawings"]) > 1000 and len(os.listdir(shown["exported"])) == 16
    photos = tmp_path / "new_photos"
    photos.mkdir()
    tf.io.write_file(str(photos / "a.png"), tf.io.encode_png(np.zeros((40, 90, 3), np.uint8)))
    found = again(job="predict", images=str(photos), output=str(tmp_path / "out"))
    assert sum(found["predictions"]["pixels"].values()) == 40 * 90
    with Image.open(tmp_path / "out" / "masks" / "a.png") as image:
        assert image.mode == "P" and image.size == (90, 40)
    exported = again(
        job="export_labels",
        labels="predictions",
        format="voc",
        images=str(photos),
        output=str(tmp_path / "voc"),
    )
    assert exported["exported"]["images"] == 1
    with (
        Image.open(tmp_path / "voc" / "SegmentationClass" / "a.png") as image,
        Image.open(tmp_path / "out" / "masks" / "a.png") as same,
    ):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(same))
    pseudo = again(job="export_labels", format="coco", output=str(tmp_path / "coco"))
    assert (
        pseudo["exported"]["images"]
        == len(json.load(open(tmp_path / "coco" / "annotations.json"))["images"])
        == 16
    )
    assert again(job="model_stats")["model"]["parameters"] > 1000


def test_parse_scales():
    assert parse_scales("0.5, 1,1.75") == [0.5, 1.0, 1.75]
    for text in ("", "a", "1,-1", "1,inf", "nan"):
        with pytest.raises(ValueError, match="label_scales"):
            parse_scales(text)
