"""Quantised TFLite networks: smaller, near the float one, evaluated by the task's own inference."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from official import jobs
from official.errors import UserError
from official.experiment import experiment_from
from official.export.tflite import StandIn, as_network, calibration_images, quantized
from official.jobs.quantizing import quantize
from official.tasks.registry import build_task
from tests import tiny

keras = tf.keras


@pytest.fixture(scope="module")
def detector():
    """A detector on an EfficientNet-Lite with weights and statistics that are not the initial ones."""
    experiment = tiny.experiment(**tiny.LITE, eval_score_threshold=0.0105, max_detections=20, quantize="int8")
    task = build_task(experiment, tiny.scenes_source().categories)
    keras.utils.set_random_seed(0)
    model, generator = task.build_model(), np.random.default_rng(0)
    for variable in model.variables:
        if "variance" in variable.name or "gamma" in variable.name:
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif "predictor" in variable.name and "kernel" in variable.name:
            variable.assign(generator.normal(0, 1.0, variable.shape))
    return task, model, tiny.scenes_source()


@pytest.fixture(scope="module")
def images(detector):
    return calibration_images(detector[0].predict, *detector[1:], 6)


@pytest.fixture(scope="module")
def files(detector, images):
    return {kind: quantized(detector[1], kind, images) for kind in ("", "int8", "float16")}


def test_calibration_sees_what_the_network_sees(detector, images):
    """Six images as evaluation feeds them, in order."""
    task, model, source = detector
    assert images.shape == (6, 64, 64, 3) and images.dtype == np.float32
    from official.data import pipeline

    dataset = pipeline.inference_dataset(
        source, prepare=pipeline.fitting(64, legacy_resize=False), batch_size=6, first=0, last=6, threads=1
    )
    np.testing.assert_allclose(images, next(iter(dataset))["images"], atol=1e-6)


def test_inside_the_files(files):
    """int8: kernels and activations of one byte, float32 at both ends; float16: half the bytes."""

    def kinds(kind):
        interpreter = tf.lite.Interpreter(model_content=files[kind])
        ends = [d["dtype"] for d in (*interpreter.get_input_details(), *interpreter.get_output_details())]
        assert set(ends) == {np.float32}
        return [d["dtype"] for d in interpreter.get_tensor_details() if len(d["shape"]) == 4]

    assert np.mean([kind == np.int8 for kind in kinds("int8")]) > 0.9
    assert np.int8 not in kinds("")
    assert len(files["int8"]) < 0.5 * len(files[""]) and len(files["float16"]) < 0.65 * len(files[""])


@pytest.mark.parametrize("kind, share", [("", 1e-5), ("float16", 5e-3), ("int8", 0.15)])
def test_outputs_are_near(detector, files, images, kind, share):
    """The mean error as a share of the outputs' deviation; and int8 is not float in disguise."""
    model = detector[1]
    wanted = model({"images": images}, training=False)
    found = as_network(files[kind], model)({"images": tf.constant(images)})
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        error = np.abs(found[name] - value).mean() / np.std(value)
        assert error < share, name
        assert error > 1e-4 or kind != "int8"


def test_a_file_is_evaluated_as_the_network_is(detector, files):
    """The float32 file through the interpreter finds the network's own boxes."""
    task, model, source = detector
    own = list(task.predict(model, source, 0, 3))
    found = list(task.predict(as_network(files[""], model), source, 0, 3))
    assert sum(len(o["scores"]) for o in own) > 10
    for a, b in zip(own, found):
        np.testing.assert_allclose(a["boxes"], b["boxes"], atol=1e-2)
        np.testing.assert_allclose(a["scores"], b["scores"], atol=1e-4)
        np.testing.assert_array_equal(a["classes"], b["classes"])


@pytest.mark.slow
@pytest.mark.parametrize("task_name", ["segmentation", "classification"])
def test_other_tasks(task_name):
    source = tiny.scenes_source(task=task_name)
    task = build_task(tiny.experiment(task=task_name), source.categories)
    keras.utils.set_random_seed(0)
    model = task.build_model()
    images = calibration_images(task.predict, model, source, 4)
    assert len(images) == 4
    stand_in = as_network(quantized(model, "int8", images), model)
    assert isinstance(stand_in, StandIn)
    own, found = (
        next(iter(task.predict(model, source, 0, 1))),
        next(iter(task.predict(stand_in, source, 0, 1))),
    )
    assert own.keys() == found.keys()
    np.testing.assert_allclose(own["score"], found["score"], atol=0.2)


def test_what_cannot_be_done(detector):
    model = detector[1]
    with pytest.raises(ValueError, match="int4.*is unknown"):
        quantized(model, "int4", np.zeros((1, 64, 64, 3)))
    with pytest.raises(ValueError, match="needs images"):
        quantized(model, "int8", np.zeros((0, 64, 64, 3)))


def test_what_stands_in_for_a_network_answers_though_that_one_was_run_before(detector):
    """Logits of zero are scores of a half; the network itself gives others, before and after."""
    task, model, source = detector
    raw = model({"images": tf.zeros([task.experiment.decoding.eval_batch_size, 64, 64, 3])})
    zeros = {name: tf.zeros_like(value) for name, value in raw.items()}
    before = [found["scores"] for found in task.predict(model, source, 0, 4)]
    for found in task.predict(StandIn(model, lambda images: zeros), source, 0, 4):
        assert len(found["scores"]) == 20 and (found["scores"] == 0.5).all()
    for scores, found in zip(before, task.predict(model, source, 0, 4)):
        np.testing.assert_array_equal(found["scores"], scores)
        assert (scores != 0.5).all()


def test_both_are_evaluated_and_written(detector, files, tmp_path, capsys, monkeypatch):
    """Both metrics in one table, the files where the report says, the anchors beside them."""
    task, model, source = detector
    assert calibration_images(task.predict, model, source, 0).shape == (0, 64, 64, 3)  # as for float16
    made = lambda model, kind, images: files[kind]  # made once, and tested above
    monkeypatch.setattr("official.jobs.quantizing.quantized", made)
    report = quantize(task, model, str(tmp_path))
    assert set(report["metrics"]) == {"float32", "int8"} and report["calibration_images"] == 8
    anchors = np.load(report["paths"]["anchors"])
    assert anchors.shape == ((64 + 16 + 4) * 9, 4)
    assert os.path.getsize(report["paths"]["tflite_int8"]) == report["bytes"]["int8"]
    printed = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in printed if line.startswith(("float32", "int8"))}
    assert {kind: float(row[0]) for kind, row in rows.items()} == {
        kind: round(metrics["AP"], 4) for kind, metrics in report["metrics"].items()
    }
    with open(tmp_path / "quantized.json", encoding="utf-8") as file:
        assert json.load(file)["metrics"] == report["metrics"]


@pytest.mark.slow
def test_the_job(tmp_path):
    """job=export on a checkpoint: the quantised file is beside the others."""
    experiment, categories = tiny.experiment(), tiny.scenes_source().categories
    model = build_task(experiment, categories).build_model()
    trained = tiny.teacher_result(tmp_path / "trained", experiment, categories, model)["checkpoint"]
    flags = dict(
        tiny.FLAGS, job="export", model_dir=str(tmp_path / "run"), checkpoint=trained, quantize="int8"
    )
    with pytest.raises(UserError, match="needs --tflite"):
        jobs.run(experiment_from(flags))
    summary = jobs.run(experiment_from({**flags, "tflite": True}))
    assert os.listdir(os.path.dirname(summary["export"]["tflite"])).count("model_int8.tflite") == 1
