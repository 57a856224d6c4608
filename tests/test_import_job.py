"""job=import_checkpoint on the original's own checkpoints, and what the run then does."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from official import jobs
from official.data.formats.coco_classes import COCO_CATEGORIES
from official.data.source import Category, DataError
from official.experiment import experiment_from
from official.export.detector import DetectionServing, detect_one
from official.jobs.class_names import named_classes
from official.tasks.registry import build_task
from official.training.run_folder import saved_flags
from tests import tiny
from tests.models.test_import_released import FLAGS, ORIGINAL, ROOT

keras = tf.keras


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    image = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).repeat(15, 0).repeat(15, 1)
    keras.utils.save_img(str(folder / "a.png"), image, scale=False)
    return str(folder)


def import_run(name, run, **more):
    flags = {
        **FLAGS[name],
        **more,
        "job": "import_checkpoint",
        "checkpoint": os.path.join(ORIGINAL, name),
        "model_dir": run,
    }
    flags.pop("legacy_resize", None)
    return jobs.run(experiment_from(flags))


def predict(run, photos, **more):
    saved = experiment_from({**saved_flags(run), "images": photos, "job": "predict", **more})
    return jobs.run(saved)["predictions"]


def test_the_command(tmp_path):
    """The printed lines, and the flags that later jobs find."""
    run, names = str(tmp_path / "run"), tmp_path / "names.txt"
    names.write_text("cat\ndog\n\nowl\nelk\nfox\n")
    flags = [f"--{name}={value}" for name, value in FLAGS["retinanet_b0"].items()]
    command = [
        sys.executable,
        "main.py",
        "--job=import_checkpoint",
        f"--checkpoint={ORIGINAL}/retinanet_b0",
        f"--model_dir={run}",
    ]
    done = subprocess.run(
        [*command, *flags, f"--classes={names}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "this run has the flags --legacy_resize --legacy_decoding now" in done.stdout
    assert f"classes: 5 channels named by {names}" in done.stdout
    saved = saved_flags(run)
    assert (
        saved["legacy_resize"]
        and saved["legacy_decoding"]
        and not saved["checkpoint"]
        and not saved["classes"]
    )
    with open(os.path.join(run, "run.json"), encoding="utf-8") as file:
        assert [c["name"] for c in json.load(file)["categories"]] == ["cat", "dog", "owl", "elk", "fox"]


def test_a_detector_predicts_as_the_original_decodes(tmp_path, photos, capsys):
    """The run's flags reach the boxes: with --nolegacy_decoding all of them change."""
    run = str(tmp_path / "run")
    imported = import_run("retinanet_b0", run)["imported"]
    assert (imported["channels"], imported["classes"]) == (6, 5)
    assert "called class_1 ... class_5" in capsys.readouterr().out

    def boxes(name, **more):
        predict(run, photos, output=str(tmp_path / name), eval_score_threshold=0.01, **more)
        with open(tmp_path / name / "detections.json", encoding="utf-8") as file:
            return {(d["category_id"], d["score"]): d["bbox"] for d in json.load(file)}

    with_one, without = boxes("legacy"), boxes("plain", legacy_decoding=False)
    shared = set(with_one) & set(without)
    assert len(shared) > 5 and {category for category, _ in with_one} <= {1, 2, 3, 4, 5}
    assert all(np.abs(np.subtract(with_one[key], without[key])).max() > 1e-3 for key in shared)


def test_flags_that_were_given_stay(tmp_path, capsys):
    flags = {
        **FLAGS["retinanet_b0"],
        "legacy_decoding": False,
        "model_dir": str(tmp_path / "run"),
        "job": "import_checkpoint",
    }
    jobs.run(experiment_from({**flags, "checkpoint": os.path.join(ORIGINAL, "retinanet_b0")}))
    assert "this run has the flags --legacy_resize now" in capsys.readouterr().out
    saved = saved_flags(str(tmp_path / "run"))
    assert saved["legacy_resize"] and not saved["legacy_decoding"]


def test_exports_decode_as_the_run_does():
    """The SavedModel's and TFLite's function: boxes end at the last pixel, as from the task's own decoder."""
    task = build_task(
        tiny.experiment(**FLAGS["retinanet_b0"], legacy_decoding=True),
        [Category(i, str(i)) for i in range(1, 6)],
    )
    model = task.build_model()
    serving = DetectionServing(model, task.decoder(0.0), list("abcde"), True)
    images = tf.random.stateless_normal([1, 128, 128, 3], [1, 2])
    served = serving._result(images, tf.constant([[128.0, 128.0]]), tf.constant([[1.0, 1.0, 128.0, 128.0]]))
    found = task.decoder(0.0)(model({"images": images}), model.anchors(), tf.constant([[128.0, 128.0]]))
    np.testing.assert_allclose(served["boxes"], found["boxes"], atol=1e-4)
    np.testing.assert_allclose(detect_one(serving, images)["boxes"], found["boxes"], atol=1e-4)
    assert float(tf.reduce_max(served["boxes"])) == 127.0


def test_a_segmenter_is_a_run_too(tmp_path, photos, capsys):
    run = str(tmp_path / "run")
    imported = import_run("nasfpn_segmenter", run)["imported"]
    assert imported["channels"] == imported["classes"] == 4
    printed = capsys.readouterr().out
    assert (
        "called background ... class_3" in printed and "this run has the flags --legacy_resize now" in printed
    )
    assert saved_flags(run)["legacy_resize"] and not saved_flags(run)["legacy_decoding"]
    predict(run, photos, output=str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out" / "masks")


def test_classes(tmp_path):
    coco, note = named_classes("detector", 91, "")
    assert coco == COCO_CATEGORIES and "COCO's 80" in note
    assert [c.name for c in named_classes("segmenter", 21, "")[0]][::20] == ["background", "tvmonitor"]
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"categories": [{"id": 4, "name": "b"}, {"id": 2, "name": "a"}]}))
    assert [(c.id, c.name) for c in named_classes("detector", 6, str(path))[0]] == [(2, "a"), (4, "b")]
    for network, channels, content, message in (
        ("detector", 4, {"categories": [{"id": 4, "name": "b"}]}, "ids of 1 to 3, not .4"),
        ("detector", 4, {"categories": [{"id": 0, "name": "b"}]}, "ids of 1 to 3, not .0"),
        ("detector", 4, {"categories": [{"id": 1, "name": "b"}, {"id": 2, "name": "b"}]}, "different names"),
        (
            "segmenter",
            4,
            {"categories": [{"id": 1, "name": "b"}]},
            "names 1 classes, the head has 4, 0 to 3",
        ),
        ("detector", 4, {}, "neither names"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            named_classes(network, channels, str(path))
    (tmp_path / "short.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="names 2 classes, the head has 3, 1 to 3"):
        named_classes("detector", 4, str(tmp_path / "short.txt"))
    with pytest.raises(DataError, match="absent.txt: neither names"):
        named_classes("detector", 4, str(tmp_path / "absent.txt"))


def test_what_is_no_network(tmp_path):
    with pytest.raises(DataError, match="a detector or a segmenter, not --task=classification"):
        jobs.run(
            tiny.experiment(
                task="classification",
                job="import_checkpoint",
                checkpoint="x",
                model_dir=str(tmp_path / "run"),
            )
        )
    with pytest.raises(ValueError, match="has no RetinaNet's head"):
        checkpoint = os.path.join(ORIGINAL, "nasfpn_segmenter")
        jobs.run(
            tiny.experiment(job="import_checkpoint", checkpoint=checkpoint, model_dir=str(tmp_path / "run"))
        )
    assert not os.path.exists(tmp_path / "run" / "run.json")
