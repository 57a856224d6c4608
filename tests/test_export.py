"""Exported and in-process predictions agree, and the files need none of our code."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from official.data.formats.image_folder import open_folder
from official.export.detector import export_detector
from official.export.stock import stock_model
from official.tasks.registry import build_task
from tests import tiny


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    experiment = tiny.experiment(**tiny.SQUEEZING, eval_score_threshold=0.0105, max_detections=20)
    task = build_task(experiment, tiny.scenes_source().categories)
    tf.keras.utils.set_random_seed(0)
    model = task.build_model()
    generator = np.random.default_rng(0)
    for variable in model.variables:  # statistics and weights that are not the initial ones
        if "variance" in variable.name or "gamma" in variable.name:
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif "predictor" in variable.name and "kernel" in variable.name:
            variable.assign(generator.normal(0, 3.0, variable.shape))
    names = [c.name for c in task.categories]
    decoder = task.decoder(0.0105)
    paths = export_detector(
        model, str(folder), names, decoder, class_ids=[c.id for c in task.categories], tflite=True
    )
    return task, model, paths, folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(1)
    for i, (height, width) in enumerate(((64, 64), (50, 90), (120, 33))):
        image = generator.integers(0, 255, (height, width, 3), np.uint8)
        encode = tf.io.encode_jpeg if i else tf.io.encode_png
        tf.io.write_file(str(folder / f"{i}.{'jpg' if i else 'png'}"), encode(image))
    return folder


def detect_bytes(signature, encoded):
    """Columns of the detections in one encoded image."""
    found = {k: v.numpy()[0] for k, v in signature(image_bytes=tf.constant([encoded])).items()}
    count = int(found.pop("num_detections"))
    return {name: column[:count] for name, column in found.items()}


def test_saved_model_from_bytes_agrees_with_predict(exported, photos):
    task, model, paths, _ = exported
    signature = tf.saved_model.load(paths["saved_model"]).signatures["serving_default"]
    source = open_folder(str(photos))
    in_process = list(task.predictions(model, source, 0, len(source), 0.0105))
    for path, expected in zip(source.file_names, in_process):
        with open(path, "rb") as file:
            found = detect_bytes(signature, file.read())
        assert len(found["scores"]) == len(expected["scores"]) > 0
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
        np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-2)
        names = [task.categories[c].name.encode() for c in expected["classes"]]
        assert found["class_names"].tolist() == names


def test_the_documented_decoder_finds_what_the_saved_model_finds(exported, photos):
    """docs/export.md's programs in plain NumPy, run as they stand there, on images of three sizes."""
    *_, paths, folder = exported
    page = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs", "export.md")
    with open(page, encoding="utf-8") as file:
        programs = [
            block for block in re.findall(r"```python\n(.*?)```", file.read(), re.S) if "decode(" in block
        ]
    assert len(programs) == 2
    signature = tf.saved_model.load(paths["saved_model"]).signatures["serving_default"]
    for path in sorted(photos.iterdir()):
        names = {"export": str(folder), "photo": str(path)}
        exec("".join(programs), names)  # pylint: disable=exec-used
        expected = detect_bytes(signature, path.read_bytes())
        assert len(names["scores"]) == len(expected["scores"]) > 0
        np.testing.assert_allclose(names["scores"], expected["scores"], atol=1e-5)
        np.testing.assert_allclose(names["boxes"], expected["boxes"], atol=2e-2)
        assert names["classes"].tolist() == expected["classes"].tolist()
        assert [names["labels"]["class_names"][c].encode() for c in names["classes"]] == expected[
            "class_names"
        ].tolist()
    assert names["labels"]["class_ids"] == [1, 2, 3, 4, 5]


def test_stock_model_has_the_same_outputs(exported):
    _, model, _, _ = exported
    images = np.random.default_rng(2).normal(size=(2, 64, 64, 3)).astype(np.float32)
    plain = stock_model(model)({"images": images})
    for name, value in model({"images": images}, training=False).items():
        np.testing.assert_allclose(plain[name], value, atol=1e-5)


def test_a_backbone_cut_off_below_its_last_stages_has_a_stock_model():
    experiment = tiny.experiment(max_level=4, image_size=32)
    model = build_task(experiment, tiny.scenes_source(count=1).categories).build_model()
    images = np.random.default_rng(2).normal(size=(1, 32, 32, 3)).astype(np.float32)
    plain = stock_model(model)({"images": images})
    for name, value in model({"images": images}, training=False).items():
        np.testing.assert_allclose(plain[name], value, atol=1e-5)


def test_keras_file_loads_with_tensorflow_alone(exported, tmp_path):
    """A fresh process, outside the project, that imports nothing but TensorFlow and NumPy."""
    _, model, paths, _ = exported
    images = np.random.default_rng(2).normal(size=(1, 64, 64, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        f"model = tf.keras.models.load_model({paths['keras']!r}, compile=False)\n"
        "assert not any(m.split('.')[0] in ('official', 'keras_cv', 'augment') for m in sys.modules)\n"
        "out = model({'images': np.load('images.npy')})\n"
        "np.save('box.npy', out['box']); np.save('classification.npy', out['classification'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    expected = model({"images": images}, training=False)
    for name in ("box", "classification"):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected[name], atol=1e-5)


def test_pixels_signature(exported):
    task, model, paths, _ = exported
    image = np.random.default_rng(3).integers(0, 255, (2, 40, 64, 3), np.uint8)
    found = tf.saved_model.load(paths["saved_model"]).signatures["pixels"](images=tf.constant(image))
    assert found["boxes"].shape == (2, 20, 4) and found["boxes"].numpy()[..., 2].max() <= 40


def test_tflite_agrees(exported):
    task, model, paths, _ = exported
    images = np.random.default_rng(4).normal(size=(1, 64, 64, 3)).astype(np.float32)
    interpreter = tf.lite.Interpreter(paths["tflite"])
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    values = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
    boxes = next(v for v in values if v.ndim == 3)
    expected = task.decoder(0.0105)(
        model({"images": images}, training=False), model.anchors(), tf.constant([[64.0, 64.0]])
    )
    count = int(expected["count"][0])
    assert count > 0
    np.testing.assert_allclose(boxes[0, :count], expected["boxes"][0, :count], atol=0.05)
