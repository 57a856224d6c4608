"""The page of a run: whole, self-contained, with every part, and never a reason for a run to fail."""

import dataclasses
import html.parser
import os

import numpy as np
import pytest

from official.evaluation import coco_metrics
from official.evaluation.evaluated import EvaluatedClasses, EvaluatedMasks, read_evaluated
from official.evaluation.small_maps import SIDE, read_map, small_map, write_maps
from official.files import write_json
from official.jobs import afterwards
from official.report import drawing_rows, run_page
from official.report import verdict as verdicts
from official.report.curves import read_curves
from official.report.label_facts import StoredBoxes
from official.report.predictions import Predictions
from official.report.run_page import Ended
from official.report.verdict import Commands, Facts, LabelFacts
from official.tasks.registry import build_task
from official.training.summaries import Summaries
from tests import tiny

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(html.parser.HTMLParser):
    """Tags that are opened and not closed, addresses, and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.words, self.images = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def shifted(source, pixels, seed):
    """Detections that are the objects, moved, some of another class; scores differ."""
    generator, found = np.random.default_rng(seed), []
    for i in range(len(source)):
        own = source.annotations.of(i)
        classes = np.where(generator.random(len(own["classes"])) < 0.2, 0, own["classes"])
        boxes = own["boxes"] + generator.normal(0, pixels, own["boxes"].shape)
        found.append({"boxes": boxes, "classes": classes, "scores": generator.random(len(classes))})
    return found


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run of three models that nobody trained: their boxes are the objects, moved by more or less."""
    folder = str(tmp_path_factory.mktemp("run"))
    source = tiny.scenes_source("val", 12)
    experiment = tiny.experiment(model_dir=folder)
    task = build_task(experiment, source.categories)
    places, results, logs = {}, {}, {}
    for seed, (name, pixels) in enumerate((("teacher", 6), ("control", 4), ("student", 1))):
        places[name] = os.path.join(folder, name, "evaluation")
        results[name] = {
            **coco_metrics.evaluate_detections(source, shifted(source, pixels, seed), places[name]),
            "steps": 12,
            "seconds": 3.0,
        }
        logs[name] = os.path.join(folder, name, "logs")
        summaries = Summaries(logs[name])
        for step in (1, 2, 3):
            summaries.scalars({"loss": 3.0 / step, "human_loss": 1.0 / step, "pseudo_loss": 2.0 / step}, step)
            summaries.scalars({"AP": 0.1 * step}, step, prefix="evaluation")
        summaries.flush()
    evaluated = {name: read_evaluated(place) for name, place in places.items()}
    verdict = verdicts.decide(
        Facts("AP", {n: r["AP"] for n, r in results.items()}, evaluated, LabelFacts(empty_classes=("ring",)))
    )
    generator = np.random.default_rng(0)
    stored = StoredBoxes(20, np.sort(generator.integers(0, 20, 90)), generator.integers(0, 5, 90), generator.random(90), generator.random(90) > 0.5, generator.random(90))  # fmt: skip
    return Ended(
        "<my run>", experiment, task, results, evaluated, places, logs, source, source, source.without_labels(), verdict,
        commands=Commands("runs/a", "runs/a/flags.cfg", "runs/a_2"), stored=stored, changed=afterwards.changed(experiment),
        notes={"versions": {"numpy": np.__version__}, "seconds": {"teacher": 3.0}, "seed": 0, "warnings": ["a & b"], "skipped_inputs": {"labeled": {"broken": 2}}},
    )  # fmt: skip


def test_the_page_has_every_part_and_needs_nothing_else(ended):
    text = run_page.page(ended)
    read = Reader(text)
    words = " ".join(read.words)
    assert read.open == [] and "could not be made" not in words
    assert (
        all(address.startswith("data:image/") for address in read.addresses)
        and "url(" not in text
        and "@import" not in text
    )
    assert "name='viewport'" in text and "<my run>" in words and "a & b" in words
    for part in ("Scores", "AP by class", "Training", ("Precision and " "recall"), "Which class is taken for which", "Pseudo labels",
                 ("The same " "images"), "Data", "How it was made", ("flags that " "differ"), "Versions", "broken 2"):  # fmt: skip
        assert part in words, part
    assert (
        verdicts.headline(ended.verdict)[1:] in words
        and "python main.py --flagfile=runs/a/flags.cfg --model_dir=runs/a_2" in words
    )
    assert f"{ended.results['student']['AP']:.3f} [" in words
    assert len(text) < 3_000_000 and 15 <= read.images <= 70


def test_a_part_that_fails_is_a_line(ended):
    class Broken:
        def __getattr__(self, name):
            raise RuntimeError("no drawing today")

    text = run_page.page(dataclasses.replace(ended, evaluation=Broken(), stored=Broken()))
    assert (
        text.count("could not be made") == 4 and "no drawing today" in text and "Precision and recall" in text
    )


def test_a_page_that_cannot_be_written_is_a_line(ended, tmp_path):
    (tmp_path / "file").write_text("")
    line = afterwards.write_report(
        dataclasses.replace(ended, evaluated={}, logs={}, evaluation=None),
        str(tmp_path / "file" / "report.html"),
    )
    assert line.startswith("no report: ")


def test_a_run_without_evaluation_data_says_so(ended):
    bare = Ended("run", ended.experiment, ended.task, {"teacher": {"steps": 3, "seconds": 1.0}}, words=[])
    text = run_page.page(bare)
    assert "Nothing has been evaluated" in text and "could not be made" not in text


def test_predictions_come_back_from_the_files(ended):
    """In the order of falling score, in pixels of the image; the third image of the source is the third
    again.
    """
    source = ended.evaluation
    wanted = shifted(source, 1, 2)[2]
    found = Predictions(ended.evaluated["student"], ended.folders["student"], source).of(2)
    sure = np.argsort(-wanted["scores"])[: len(found["scores"])]
    np.testing.assert_allclose(found["boxes"], wanted["boxes"][sure], atol=1e-3)
    np.testing.assert_array_equal(found["classes"], wanted["classes"][sure])
    assert len(found["scores"]) == (wanted["scores"] >= ended.evaluated["student"].best_score()).sum()


def test_ids_that_sort_otherwise_still_find_their_image(tmp_path):
    """Twelve images whose ids are text: "10" comes before "2" when they are sorted."""
    source = dataclasses.replace(
        tiny.scenes_source("val", 12),
        ids=np.array([f"image {i}" for i in range(12)]),
        file_ids=np.array([f"image {i}" for i in range(12)], object),
    )
    detections = [
        {**source.annotations.of(i), "scores": np.full(source.annotations.counts()[i], 0.9)}
        for i in range(12)
    ]
    coco_metrics.evaluate_detections(source, detections, str(tmp_path))
    predictions = Predictions(read_evaluated(str(tmp_path)), str(tmp_path), source)
    for i in range(12):
        np.testing.assert_allclose(
            np.sort(predictions.of(i)["boxes"], axis=0), np.sort(detections[i]["boxes"], axis=0), atol=1e-3
        )


def test_gains_losses_and_random_images_are_all_different():
    student = np.array([0.9, 0.1, 0.5, np.nan, 0.5, 0.8, 0.5, 0.5, 0.4, 0.5])
    control = np.array([0.1, 0.9, 0.5, 0.5, 0.5, 0.1, 0.5, 0.5, 0.5, 0.5])
    found = drawing_rows.chosen({"teacher": control * 0, "control": control, "student": student}, per_kind=3)
    gains, losses, random = found.values()
    assert gains.tolist() == [0, 5] and losses.tolist() == [1, 8] and len(random) == 3
    assert len({*gains, *losses, *random}) == 7 and list(found)[0].endswith("against control)")
    evaluated = drawing_rows.chosen({"model": np.full(9, np.nan)}, among=np.array([3, 5]))
    assert [v.tolist() for v in evaluated.values()] == [[], [], [3, 5]]
    alone = drawing_rows.chosen({"model": np.array([0.2, np.nan, 0.9])}, per_kind=1)
    assert [v.tolist() for v in alone.values()] == [[0], [2], [1]]


def test_curves_take_the_later_value_and_end_where_a_killed_process_did(tmp_path):
    for values in ((1.0, 2.0), (3.0,)):  # the second start takes step 2 again
        summaries = Summaries(str(tmp_path))
        for step, value in enumerate(values, 3 - len(values)):
            summaries.scalars({"loss": value}, step)
        summaries.drawings("large", [np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)], 1)
        summaries.scalars({"after": 7.0}, 9)
        summaries.flush()
    assert read_curves(str(tmp_path)) == {"train/loss": [(1, 1.0), (2, 3.0)], "train/after": [(9, 7.0)]}
    last = sorted(os.listdir(tmp_path))[-1]
    content = (tmp_path / last).read_bytes()
    (tmp_path / last).write_bytes(content[:-10])  # into the last record
    assert read_curves(str(tmp_path))["train/loss"] == [(1, 1.0), (2, 3.0)]
    assert read_curves(str(tmp_path / "nothing")) == {}


def test_small_maps(tmp_path):
    large = np.repeat(np.repeat(np.arange(4, dtype=np.uint8).reshape(2, 2), 200, 0), 300, 1)
    write_maps(str(tmp_path), [small_map(large), small_map(large[:5, :7])])
    found = read_map(str(tmp_path), 0)
    assert (
        max(found.shape) <= SIDE
        and found[0, 0] == 0
        and found[0, -1] == 1
        and found[-1, -1] == 3
        and abs((found == 2).mean() - 0.25) < 0.01
    )
    np.testing.assert_array_equal(read_map(str(tmp_path), 1), large[:5, :7])
    assert read_map(str(tmp_path / "none"), 0) is None


def test_masks_have_a_page_too(tmp_path):
    source = tiny.scenes_source("val", 4, task="segmentation")
    experiment = tiny.experiment(task="segmentation", model_dir=str(tmp_path))
    task = build_task(experiment, source.categories)
    masks = [task.human_labels(source, i)["mask"] for i in range(4)]
    pixels = np.stack(
        [np.bincount(mask[mask != 255].ravel(), minlength=len(task.class_names)) for mask in masks]
    )
    evaluated = EvaluatedMasks([str(i) for i in source.ids], task.class_names, pixels, pixels, pixels)
    os.makedirs(tmp_path / "e")
    write_maps(str(tmp_path / "e"), [small_map(mask) for mask in masks])
    verdict = verdicts.decide(Facts("mIoU", {"model": 1.0}, {"model": evaluated}))
    write_json(
        str(tmp_path / "e" / "metrics.json"), {"confusion_matrix": np.diag(pixels.sum(axis=0)).tolist()}
    )
    numbers, notes = {"labelled_pixels": 0.5}, {"score_histogram": [1, 2, 3]}
    text = run_page.page(Ended("run", experiment, task, {"model": {"mIoU": 1.0}}, {"model": evaluated}, {"model": str(tmp_path / "e")}, {}, source, verdict=verdict, numbers=numbers, notes=notes))  # fmt: skip
    assert "could not be made" not in text and "model 1.00" in text and "mIoU by class" in text
    assert "Which class is taken for which" in text and "score histogram" in text


def test_classes_of_images_have_a_page_too(tmp_path):
    source = tiny.scenes_source("val", 4, task="classification")
    experiment = tiny.experiment(task="classification", model_dir=str(tmp_path))
    task = build_task(experiment, source.categories)
    labels = source.image_classes
    evaluated = {name: EvaluatedClasses([str(i) for i in source.ids], task.class_names, labels, (labels + wrong) % len(task.class_names))
              for name, wrong in (("teacher", np.arange(len(labels)) % 2), ("student", 0))}  # fmt: skip
    scores = {name: found.own()[0] for name, found in evaluated.items()}
    verdict = verdicts.decide(Facts("top1", scores, evaluated, LabelFacts()))
    results = {name: {"top1": score} for name, score in scores.items()}
    text = run_page.page(
        Ended(
            "run",
            experiment,
            task,
            results,
            evaluated,
            dict.fromkeys(evaluated, str(tmp_path)),
            {},
            source,
            source,
            verdict=verdict,
        )
    )
    assert (
        "could not be made" not in text
        and "student 1.00" in text
        and "Best gains (student against teacher)" in text
    )
    assert "Which class is taken for which" in text and "top1 by class" in text


def test_a_task_without_classes_has_a_page_too(tmp_path):
    experiment = tiny.experiment(task="contrastive", model_dir=str(tmp_path))
    source = tiny.scenes_source("val", 4).without_labels()
    task = build_task(experiment, ())
    text = run_page.page(
        Ended(
            "run",
            experiment,
            task,
            {"teacher": {"contrast_accuracy": 0.5, "steps": 3, "seconds": 1.0}},
            evaluation=source,
            labeled=source,
        )
    )
    assert "could not be made" not in text and "0.500" in text
