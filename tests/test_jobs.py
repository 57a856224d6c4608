"""The jobs, end to end, on the tiny experiment: what they write, and what they refuse."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from official import jobs
from official.data.source import Category, DataError
from official.experiment import Experiment, experiment_from
from official.flags import experiment_from_flagfile
from official.jobs import exporting, opening
from official.jobs.reviewed import unlabeled_pool
from official.self_training.loop import SelfTraining
from official.tasks.registry import build_task
from official.trained_model import describe
from official.training.loading import load_model
from official.training.recovery import find_checkpoint
from official.training.run_folder import FlagsDiffer
from tests import tiny

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    experiment = tiny.experiment(model_dir=str(folder), control=True, eval_every=6, teacher_batch_size=4)
    return folder, experiment, jobs.run(experiment)


def rerun(experiment: Experiment, **overrides):
    return jobs.run(experiment_from({**experiment.flags(), **overrides}))


def test_summary_has_what_programs_read(finished):
    folder, experiment, _ = finished
    summary = json.load(open(folder / "summary.json"))
    assert summary["job"] == "self_train" and summary["seed"] == 0
    found = {"input_normalization": "lite", "resnet_pool": "same"}  # auto, without foreign weights
    settled = experiment_from({**experiment.flags(), **found})
    assert summary["flags_fingerprint"] == settled.fingerprint()
    assert summary["versions"]["tensorflow"] == tf.__version__
    for phase, steps in (("teacher", 12), ("student", 12), ("control", 24)):
        row = summary[phase]
        assert row["steps"] == steps and len(row["weights_sha256"]) == 64
        assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "per_class"} <= set(row)
    assert len({summary[p]["weights_sha256"] for p in ("teacher", "student", "control")}) == 3
    labels = summary["pseudo_labels"]
    assert labels["images"] == 16 and labels["threshold"] == 0.01 and labels["skipped"] == {}
    assert len(summary["evaluation"]["coco_stats"]) == 12
    assert {"teacher", "student", "control", "pseudo_label", "total"} <= set(summary["seconds"])
    assert summary["images_seen"] == 12 * 4 + 12 * 16 + 24 * 4  # teacher, student, control


def test_the_verdict_is_in_the_summary_and_the_flagfile_repeats_the_run(finished):
    """The interval is around the difference of the table's scores; eight images decide nothing."""
    folder, experiment, _ = finished
    summary = json.load(open(folder / "summary.json"))
    found = summary["verdict"]
    assert (
        found["metric"] == "AP"
        and found["images"] == 8
        and found["word"] == "not decided"
        and found["seeds"] == 1
    )
    for other in ("teacher", "control"):
        own = found[f"student - {other}"]
        assert own["value"] == pytest.approx(summary["student"]["AP"] - summary[other]["AP"], abs=2e-5)
        assert own["low"] <= own["value"] <= own["high"] and set(own["per_class"]) <= set(
            summary["student"]["per_class"]
        )
    best = max(("teacher", "control", "student"), key=lambda phase: summary[phase]["AP"])
    assert summary[found["best"]]["AP"] == summary[best]["AP"]
    again = experiment_from_flagfile(str(folder / "flags.cfg"))
    assert again.decisive_flags() == experiment.decisive_flags()


def test_every_part_of_the_page_could_be_made(finished):
    folder, _, summary = finished
    text = (folder / "report.html").read_text()
    assert "could not be made" not in text and "NOT DECIDED" in text
    assert all(
        part in text
        for part in ("AP by class", "Pseudo labels", "The same images", "How it was made", "control")
    )
    assert os.path.isfile(summary["drawings"])


def test_the_ids_are_recorded(finished):
    folder, _, _ = finished
    ids = json.load(open(folder / "data" / "labeled_ids.json"))
    assert len(ids) == 16 and ids[0] == "train-0-000000"


def test_started_again_it_is_done_at_once(finished):
    """Neither trained nor labelled nor exported again."""
    _, experiment, summary = finished
    exported = summary["export"]["keras"]
    before = os.stat(exported).st_mtime_ns, os.stat(summary["drawings"]).st_mtime_ns
    again = jobs.run(experiment)
    assert again["student"] == summary["student"] and again["export"] == summary["export"]
    assert (os.stat(exported).st_mtime_ns, os.stat(summary["drawings"]).st_mtime_ns) == before


def test_an_export_that_lacks_a_file_is_made_again(finished):
    folder, experiment, summary = finished
    left = folder / "export.tmp-00000000-99-1-00000000"  # as a killed process leaves it
    left.mkdir()
    os.remove(summary["export"]["keras"])
    assert rerun(experiment, job="export", input_normalization="lite")["export"] == summary["export"]
    assert os.path.isfile(summary["export"]["keras"]) and not left.exists()


def test_other_flags_stop_and_show_the_difference(finished):
    _, experiment, _ = finished
    with pytest.raises(FlagsDiffer, match="--alpha: 1.0 there, 2.0 now"):
        rerun(experiment, alpha=2.0)
    rerun(experiment, drawn_images=0)  # decides nothing


def test_tensorboard_has_every_curve_and_image(finished):
    folder, _, _ = finished
    tags = set()
    for path in (folder / "student").glob("*tfevents*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {value.tag for value in event.summary.value}
    expected = {f"train/{n}" for n in (
        "human_loss", "pseudo_loss", "human_loss_average", "pseudo_loss_average", "loss_ratio", "pseudo_weight",
        "human_box_loss", "human_class_loss", "pseudo_box_loss", "pseudo_class_loss", "weight_decay_loss",
        "learning_rate", "gradient_norm", "images_per_second", "loss",
    )} | {"evaluation/AP", "predictions", "training_human", "training_pseudo", "pseudo_labels", "flags", "pseudo_labels/used_scores"}  # fmt: skip
    assert expected <= tags, expected - tags


def test_the_best_checkpoint_has_a_score(finished):
    folder, _, _ = finished
    meta = json.load(open(folder / "teacher" / "checkpoints" / "step_00000012" / "checkpoint.json"))
    assert "score" in meta


def test_evaluate_again_gives_the_same_numbers(finished):
    folder, experiment, summary = finished
    again = rerun(experiment, job="evaluate")
    assert again["evaluation"]["coco_stats"] == pytest.approx(summary["student"]["coco_stats"])
    assert again["weights_sha256"] == summary["student"]["weights_sha256"]
    text = (folder / "evaluation" / "report.html").read_text()
    assert (
        "could not be made" not in text
        and f"{again['evaluation']['AP']:.3f} [" in text
        and "The same images" in text
    )
    teacher = rerun(experiment, job="evaluate", checkpoint=summary["teacher"]["checkpoint"])
    assert teacher["weights_sha256"] == summary["teacher"]["weights_sha256"]


def test_evaluate_existing_detections(finished, tmp_path, capsys):
    folder, _, summary = finished
    files = folder / "student" / "evaluation"
    result = jobs.run(
        experiment_from(
            dict(
                job="evaluate",
                model_dir=str(tmp_path),
                eval_data=f"coco:{files}/ground_truth.json",
                detections=f"{files}/detections.json",
            )  # fmt: skip
        )
    )
    assert result["evaluation"]["coco_stats"] == pytest.approx(summary["student"]["coco_stats"], abs=1e-12)
    text = (tmp_path / "evaluation" / "report.html").read_text()
    assert (
        "could not be made" not in text
        and "Which class is taken for which" in text
        and "The same images" not in text
    )
    assert json.load(open(tmp_path / "summary.json"))["job"] == "evaluate"
    first, head, *rows = capsys.readouterr().out.splitlines()
    assert json.loads(first)["AP"] == pytest.approx(summary["student"]["AP"], abs=1e-4) and head.split() == [
        "AP"
    ]
    assert {row.split()[0]: float(row.split()[1].replace("-", "-1")) for row in rows} == pytest.approx(
        summary["student"]["per_class"], abs=1e-3
    )


def test_predicting_again_leaves_no_drawing_of_other_images(finished, tmp_path):
    folder, experiment, _ = finished
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tf.io.write_file(
            str(tmp_path / name / f"{name}.png"), tf.io.encode_png(tf.zeros([64, 64, 3], tf.uint8))
        )
        rerun(experiment, job="predict", images=str(tmp_path / name))
    drawn = folder / "predictions" / "drawn"
    assert os.listdir(drawn) == ["b.jpg"]
    rerun(experiment, job="predict", images=str(drawn))  # never the images that it is to look at
    assert (drawn / "b.jpg").is_file()
    summary = rerun(experiment, job="predict", images=str(folder / "predictions"))
    assert summary["predictions"]["images"] >= 1 and (drawn / "b.jpg").is_file()


def test_predict_on_a_folder(finished, tmp_path, capsys):
    _, experiment, _ = finished
    photos = tmp_path / "photos" / "deeper"
    photos.mkdir(parents=True)
    for i, size in enumerate(((64, 64), (40, 90))):
        image = np.random.default_rng(i).integers(0, 255, (*size, 3), np.uint8)
        tf.io.write_file(str(photos / f"{i}.png"), tf.io.encode_png(image))
    (tmp_path / "photos" / "broken.jpg").write_text("no")
    summary = rerun(
        experiment, job="predict", images=str(tmp_path / "photos"), output=str(tmp_path / "out"),
        max_skipped_fraction=0.5, eval_score_threshold=0.0,
    )  # fmt: skip
    results = json.load(open(tmp_path / "out" / "detections.json"))
    assert summary["predictions"]["images"] == 2 and len(results) == summary["predictions"]["boxes"] > 0
    for result in results:
        x, y, width, height = result["bbox"]
        limit = ((64, 64), (40, 90))[result["image_id"] - 1]
        assert x >= 0 and y >= 0 and x + width <= limit[1] + 1e-3 and y + height <= limit[0] + 1e-3
    assert sorted(os.listdir(tmp_path / "out" / "drawn" / "deeper")) == ["0.jpg", "1.jpg"]
    whole = json.load(open(tmp_path / "out" / "coco.json"))
    assert [image["file_name"] for image in whole["images"]] == ["deeper/0.png", "deeper/1.png"] and len(
        whole["categories"]
    ) == 5
    columns = [
        [(a["image_id"], a["category_id"], a["bbox"], a["score"]) for a in rows]
        for rows in (whole["annotations"], results)
    ]
    assert columns[0] == columns[1]
    numbers, names = summary["predictions"], {c["id"]: c["name"] for c in whole["categories"]}
    for name in names.values():
        own = [a["image_id"] for a in whole["annotations"] if names[a["category_id"]] == name]
        assert (numbers["boxes_per_class"][name], numbers["images_per_class"][name]) == (
            len(own),
            len(set(own)),
        )
    printed = capsys.readouterr().out
    assert (
        f"2 images, {len(results)} boxes at score >= 0 (--eval_score_threshold)\n" in printed
        and f"coco.json, detections.json, drawn, images.json in {tmp_path / 'out'}\n" in printed
    )
    assert sum(summary["skipped_inputs"]["images"].values()) == 1


def test_pseudo_label_and_inspect(finished, tmp_path):
    _, experiment, summary = finished
    store = str(tmp_path / "store")
    made = rerun(
        experiment, job="pseudo_label", label_store=store, unlabeled_data="scenes:unlabeled,count=10"
    )
    assert made["pseudo_labels"]["images"] == 10
    shown = rerun(
        experiment, job="inspect_labels", label_store=store, unlabeled_data="scenes:unlabeled,count=10",
        output=str(tmp_path / "look"),
    )  # fmt: skip
    assert os.path.getsize(shown["drawings"]) > 1000
    assert len(json.load(open(shown["exported"]))["annotations"]) == made["pseudo_labels"]["boxes"]


def test_export_labels(finished, tmp_path):
    """Pseudo labels at the thresholds, what the model finds in a folder, and what people said."""
    folder, experiment, summary = finished
    every = rerun(experiment, job="export_labels", output=str(tmp_path / "pseudo"))["exported"]
    assert every["images"] == 16 and every["boxes"] == summary["pseudo_labels"]["boxes"] > 0
    written = json.load(open(tmp_path / "pseudo" / "annotations.json"))
    scores = sorted(a["score"] for a in written["annotations"])
    middle = scores[len(scores) // 2]
    sure = rerun(
        experiment, job="export_labels", output=str(tmp_path / "sure"), format="cvat", score_threshold=middle
    )["exported"]
    assert len(scores) == every["boxes"] and sure["boxes"] == sum(score >= middle for score in scores) < len(
        scores
    )
    names = {a["category_id"]: a["score"] for a in written["annotations"]}
    assert set(names) <= {c["id"] for c in written["categories"]} and all(
        os.path.isfile(tmp_path / "pseudo" / "images" / i["file_name"]) for i in written["images"]
    )
    with pytest.raises(DataError, match="exists; name a new folder"):
        rerun(experiment, job="export_labels", output=str(tmp_path / "pseudo"))
    with pytest.raises(DataError, match="--output is needed"):
        rerun(experiment, job="export_labels")
    found = rerun(
        experiment, job="export_labels", labels="predictions", format="labelstudio", images=str(tmp_path / "pseudo" / "images"),
        output=str(tmp_path / "found"), score_threshold=0.0, eval_score_threshold=0.0, class_thresholds="disc=1",
    )["exported"]  # fmt: skip
    tasks = json.load(open(tmp_path / "found" / "tasks.json"))
    labels = [r["value"]["rectanglelabels"][0] for task in tasks for r in task["predictions"][0]["result"]]
    assert found["images"] == 16 and len(labels) == found["boxes"] > 0 and "disc" not in labels
    human = rerun(
        experiment, job="export_labels", labels="human", format="yolo", output=str(tmp_path / "human")
    )["exported"]
    source = opening.open_labeled(experiment)[0]
    back = opening.opened(experiment, "labeled", f"yolo:{tmp_path}/human/data.yaml")
    assert human["boxes"] == len(back.annotations.boxes) == len(source.annotations.boxes)


def test_images_for_review_are_chosen_by_the_network_that_labelled_them(finished, tmp_path, capsys):
    """Mirrored and smaller images are compared; the same images are left out once they are reviewed."""
    _, experiment, _ = finished
    flags = dict(job="review_labels", review_images=6, output=str(tmp_path / "review"))
    found = rerun(experiment, **flags)["review"]
    assert "views are not compared" not in capsys.readouterr().err and found["images"] == 6
    reasons = {
        r
        for entry in json.load(open(tmp_path / "review" / "review.manifest"))["images"]
        for r in entry["reasons"]
    }
    assert "views" in reasons and any(reason.startswith("class ") for reason in reasons)
    pool = unlabeled_pool(experiment_from({**experiment.flags(), "reviewed": found["reviewed"]}))
    assert len(pool) == 10


def test_predictions_are_exported_from_the_threshold_of_their_class_on():
    row = {"scores": np.float32([0.5, 0.5, 0.4]), "classes": np.array([0, 1, 0]), "boxes": np.eye(3, 4)}
    kept = exporting._sure(row, np.float32([0.5, 0.6]))
    assert (
        kept["scores"].tolist() == [0.5]
        and kept["classes"].tolist() == [0]
        and kept["boxes"].tolist() == [[1, 0, 0, 0]]
    )


def test_rest_is_what_the_fraction_leaves(tmp_path):
    experiment = tiny.experiment(labeled_fraction=0.5, unlabeled_data="rest")
    labeled, rest, _ = opening.open_labeled(experiment)
    pool = opening.open_unlabeled(experiment, rest)
    assert len(labeled) == len(pool) == 8 and not set(labeled.ids) & set(pool.ids)
    assert pool.annotations is None
    with pytest.raises(DataError, match="lower --labeled_fraction"):
        everything = tiny.experiment(unlabeled_data="rest")
        opening.open_unlabeled(everything, opening.open_labeled(everything)[1])


def test_labeled_ids_from_files(tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps({"labeled": ["train-0-000002.png"], "unlabeled": []}))
    (tmp_path / "ids.txt").write_text("train-0-000004\ntrain-0-000001\n")
    found = [
        opening.open_labeled(tiny.experiment(labeled_ids=str(tmp_path / n)))[0].ids.tolist()
        for n in ("ids.json", "ids.txt")
    ]
    assert found == [["train-0-000002"], ["train-0-000001", "train-0-000004"]]
    with pytest.raises(DataError, match="not a list of ids"):
        opening.open_labeled(tiny.experiment(labeled_ids=str(tmp_path / "gone.json")))


def test_no_usable_box_fails_at_once(tmp_path):
    empty = tiny.experiment(
        model_dir=str(tmp_path), labeled_data="scenes:train,count=1", scenes_seed=_empty_seed()
    )
    with pytest.raises(DataError, match="none of the 1 labelled images has a usable box"):
        jobs.run(empty)


def _empty_seed():
    from official.data.scenes import draw_scene

    return next(
        s for s in range(1000) if len(draw_scene(seed=s, split="train", index=0, size=64).classes) == 0
    )


@tiny.without_export()
def test_a_teacher_that_is_there_is_not_trained_again(finished, tmp_path):
    """Another student from the same teacher and labels: the teacher's numbers are its own, nothing is
    labelled again.
    """
    folder, experiment, summary = finished
    labels = {path: path.stat().st_mtime_ns for path in (folder / "pseudo_labels").glob("labels-*")}
    again = rerun(
        experiment, model_dir=str(tmp_path / "a"), teacher=str(folder / "teacher"), label_store=str(folder / "pseudo_labels"),
        control=False, drawn_images=0,
    )  # fmt: skip
    for name in ("AP", "weights_sha256", "checkpoint"):
        assert again["teacher"][name] == summary["teacher"][name]
    assert (
        again["teacher"]["steps"] == 0
        and again["student"]["weights_sha256"] == summary["student"]["weights_sha256"]
    )
    assert len(labels) == 8 and all(path.stat().st_mtime_ns == time for path, time in labels.items())
    assert not os.path.exists(tmp_path / "a" / "teacher" / "checkpoints")
    assert find_checkpoint(str(folder)) == summary["student"]["checkpoint"]
    with pytest.raises(ValueError, match="no such run folder: .*nowhere"):
        rerun(experiment, model_dir=str(tmp_path / "b"), teacher=str(tmp_path / "nowhere"))
    with pytest.raises(
        ValueError,
        match=r"--teacher=.* knows other classes .*\n  class 0: 'disc' \(id 1\) there, 'other' \(id 1\) now",
    ):
        task = build_task(experiment, [Category(1, "other")])
        SelfTraining(
            task, tiny.experiment(model_dir=str(tmp_path / "c"), teacher=str(folder)), None, None, None, None
        ).train_teacher()


@tiny.without_export()
def test_a_teacher_may_start_from_a_whole_model(finished, tmp_path):
    """With a learning rate of zero it ends with the weights that it got, heads included; statistics move."""
    folder, experiment, summary = finished
    started = rerun(
        experiment, job="train", model_dir=str(tmp_path / "a"), init_checkpoint=str(folder), teacher_steps=1, learning_rate=0.0,
        warmup_steps=0, eval_data="", drawn_images=0,
    )  # fmt: skip
    given, found = (
        load_model(describe(row["checkpoint"]), experiment)[1]
        for row in (summary["student"], started["teacher"])
    )
    for a, b in zip(given.trainable_variables, found.trainable_variables):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="no such run folder: .*nowhere"):
        rerun(
            experiment, job="train", model_dir=str(tmp_path / "b"), init_checkpoint=str(tmp_path / "nowhere")
        )
    assert not os.path.exists(tmp_path / "b" / "run.json")


def test_zero_labels_stop_the_loop(finished, tmp_path):
    folder, experiment, _ = finished
    made = dict(teacher=str(folder / "teacher"), label_store=str(folder / "pseudo_labels"))
    with pytest.raises(DataError, match="reaches score_threshold=1.0"):
        rerun(experiment, model_dir=str(tmp_path), score_threshold=1.0, control=False, **made)


def test_needs_a_model_dir_and_data(tmp_path):
    with pytest.raises(ValueError, match="model_dir"):
        jobs.run(tiny.experiment())
    with pytest.raises(DataError, match="--labeled_data is needed"):
        jobs.run(tiny.experiment(model_dir=str(tmp_path), labeled_data=""))
    with pytest.raises(ValueError, match="no such run folder: .*new"):
        jobs.run(tiny.experiment(model_dir=str(tmp_path / "new"), job="predict", images="x"))


def test_data_jobs(tmp_path):
    written = jobs.run(tiny.experiment(job="write_tfrecords", model_dir=str(tmp_path), output_shards=2))
    assert len(written["written"]) == 2 and all(os.path.isfile(p) for p in written["written"])


def test_options_are_flags_by_the_same_name():
    experiment = Experiment()
    names = list(experiment.flags())
    assert len(names) == len(set(names))
    assert experiment_from(experiment.flags()) == experiment
    with pytest.raises(ValueError, match="no such option"):
        experiment_from({"alhpa": 1})
    assert dataclasses.replace(experiment).fingerprint() == experiment.fingerprint()
    assert tiny.experiment(alpha=2.0).fingerprint() != tiny.experiment().fingerprint()
    assert tiny.experiment(threads=2).fingerprint() == tiny.experiment().fingerprint()


def test_command_line_errors_have_no_traceback(tmp_path):
    command = [
        sys.executable,
        "main.py",
        "--job=train",
        "--labeled_data=coco:/nowhere.json",
        f"--model_dir={tmp_path}",
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1
    assert "error: no COCO file /nowhere.json" in found.stderr and "Traceback" not in found.stderr


@tiny.without_export()
def test_backbone_weights_from_a_file(finished, tmp_path):
    """Export, import, start from it: the backbone is the student's, and a missing named file says what to
    do.
    """
    folder, experiment, _ = finished
    imported = rerun(
        experiment, job="import_checkpoint", model_dir=str(tmp_path / "i"), checkpoint=str(folder / "export" / "model.keras"),
        output=str(tmp_path / "b0.npz"),
    )  # fmt: skip
    assert imported["imported"]["variables"] == 30  # those of tests/tiny_backbone.py
    started = rerun(
        experiment, job="train", model_dir=str(tmp_path / "t"), init=str(tmp_path / "b0.npz"), teacher_steps=1,
        learning_rate=0.0, weight_decay=0.0, eval_data="", control=False, warmup_steps=0,
    )  # fmt: skip
    reader = tf.train.load_checkpoint(os.path.join(started["teacher"]["checkpoint"], "state"))
    with np.load(tmp_path / "b0.npz") as file:
        expected = file["p1_conv/kernel"]
    values = [
        reader.get_tensor(n)
        for n, shape in reader.get_variable_to_shape_map().items()
        if shape == list(expected.shape) and "VARIABLE_VALUE" in n
    ]
    assert any((value == expected).all() for value in values)
    with pytest.raises(
        ValueError,
        match=r"(?s)no .*efficientnet-b0_imagenet\+\+\.npz.*fetch https.*--download.*--job=import_checkpoint",
    ):
        rerun(
            experiment,
            job="train",
            model_dir=str(tmp_path / "u"),
            init="imagenet++",
            backbone="efficientnet-b0",
            weights_dir=str(tmp_path),
        )
