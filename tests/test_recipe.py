"""--recipe=auto: for which machine and data which flags; what somebody gives and what a run has kept wins."""

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from official import jobs
from official.errors import FlagError
from official.experiment import Experiment, experiment_from
from official.flags import experiment_from_flagfile
from official.jobs import preparing
from official.jobs.preparing import missing, rehearse, with_recipe
from official.jobs.recipe import SIZES, Facts, gigabytes_per_image, lines, passes, recipe
from official.training.machine import Machine
from official.training.run_folder import RunFolder, saved_recipe
from tests import tiny

RECALL = {256: 0.93, 320: 0.97, 384: 0.99, 512: 1.0, 640: 1.0}
PHOTOS = Facts(46, 234, 3, 640, RECALL, {}, frozenset(("efficientnet-lite0", "efficientnet-b0")))
COCO = Facts(118_287, 1_281_167, 80, 640, dict.fromkeys(SIZES, 0.9), {640: 3.0})
LAPTOP, GPU, SERVER = Machine(2, 8), Machine(8, 32, 1, 16), Machine(96, 1000, 8, 80)


def chosen(machine, facts, task="detection"):
    return {choice.flag: choice.value for choice in recipe(task, machine, facts)}


def test_photos_on_a_laptop_are_what_the_config_for_it_says():
    """configs/your_own_images_cpu.cfg, which was tried on such a machine: but for the steps, the same."""
    found, config = (
        chosen(LAPTOP, PHOTOS),
        experiment_from_flagfile("configs/your_own_images_cpu.cfg").flags(),
    )
    steps = ("teacher_steps", "student_steps", "eval_every", "checkpoint_every", "score_threshold")
    assert {n: v for n, v in found.items() if n not in steps} == {
        n: config[n] for n in found if n not in steps
    }
    assert (found["teacher_steps"], found["student_steps"], found["eval_every"]) == (900, 1800, 220)
    experiment_from(found)


def test_photos_on_a_gpu():
    found = chosen(GPU, PHOTOS)
    assert (found["backbone"], found["image_size"], found["batch_size"], found["control"]) == (
        "efficientnet-b0",
        320,
        16,
        True,
    )
    assert (
        chosen(GPU, dataclasses.replace(PHOTOS, recall={**RECALL, 320: 0.9, 384: 0.94}))["image_size"] == 512
    )
    assert (
        chosen(GPU, dataclasses.replace(PHOTOS, side=250, recall={}))["image_size"] == 256
    )  # no larger than the images


def test_coco_on_eight_gpus_is_the_papers_with_a_smaller_network():
    found = chosen(SERVER, COCO)
    assert (found["image_size"], found["backbone"], found["precision"]) == (
        640,
        "efficientnet-b5",
        "bfloat16",
    )
    assert found["batch_size"] % 8 == 0 and found["learning_rate"] == pytest.approx(
        0.32 * found["batch_size"] / 256
    )
    held = 2 * found["batch_size"] / 8 * gigabytes_per_image("efficientnet-b5", 640, 2)
    assert held <= 0.9 * 80 and found["teacher_steps"] * found["batch_size"] == pytest.approx(
        48 * 118_287, rel=0.03
    )
    assert "control" not in found and found["ema_decay"] == 0.9997


def test_the_passes_go_from_photos_to_coco():
    assert passes(60) == 150.0 and passes(118_287) == pytest.approx(48, abs=0.5)
    assert all(passes(a) > passes(b) for a, b in zip((1, 60, 1000), (60, 1000, 10_000)))


def test_cores_get_no_more_than_a_night():
    """5,000 images want 8 x (2 x 48,000 + 3 x 48,000) images: at 13 a second more than a day, so ten hours'
    worth.
    """
    found = chosen(LAPTOP, dataclasses.replace(PHOTOS, labeled=5000, unlabeled=100_000))
    seconds = 8 * (2 * found["teacher_steps"] + 3 * found["student_steps"]) / 13.0
    assert seconds == pytest.approx(36_000, rel=0.05)
    assert (
        chosen(Machine(64, 256), dataclasses.replace(PHOTOS, labeled=5000, unlabeled=100_000))[
            "teacher_steps"
        ]
        > found["teacher_steps"]
    )


def test_few_unlabelled_images_want_no_long_student():
    assert chosen(LAPTOP, dataclasses.replace(PHOTOS, unlabeled=60))["student_steps"] == pytest.approx(
        150 * 60 / 8, rel=0.05
    )


@pytest.mark.parametrize(
    "machine", [LAPTOP, GPU, SERVER, Machine(1, 1), Machine(4, 16, 4, 8), Machine(16, 64, 3, 24)]
)
@pytest.mark.parametrize("labeled", [1, 5, 60, 3000, 40_000])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_every_recipe_is_an_experiment(machine, labeled, task):
    """All flags exist and are within their bounds, the batch is shared evenly, the flagfile can be read,
    twice the same.
    """
    facts = Facts(labeled, 10 * labeled, 3, 500, RECALL if task == "detection" else {})
    found = recipe(task, machine, facts)
    values = {choice.flag: choice.value for choice in found}
    assert len(values) == len(found) and values["batch_size"] % max(1, machine.gpus) == 0
    assert (
        min(
            values[n]
            for n in ("batch_size", "teacher_steps", "student_steps", "eval_every", "checkpoint_every")
        )
        >= 1
    )
    assert values["warmup_steps"] < values["teacher_steps"] and all(choice.reason for choice in found)
    assert recipe(task, machine, facts) == found


def test_it_is_printed_as_a_flagfile_with_a_reason_a_line(tmp_path):
    choices = recipe("detection", LAPTOP, PHOTOS)
    text = lines(choices, {"augment": "s3"}, LAPTOP, PHOTOS)
    (tmp_path / "a.cfg").write_text("\n".join(text))
    read = experiment_from_flagfile(str(tmp_path / "a.cfg"))
    assert {n: read.flags()[n] for n in read.given} == {
        c.flag: c.value for c in choices if c.flag != "augment"
    }
    assert "# augment is given: s3 (the recipe would say s1)" in text and text[0].startswith(
        "# --recipe=auto for 2 CPU cores"
    )
    flags = [i for i, line in enumerate(text) if line.startswith("--")]
    assert all(text[i - 1].startswith("# ") for i in flags)


def test_anchors_fit_the_objects():
    """Squares of 12 px in images of 512: 6 px at 256, where the smallest anchor is 32 x 0.75 and 4 x 8; at
    640 they are 15 px.
    """
    boxes = np.tile(np.float32([[100, 100, 112, 112]]), (8, 1)) + np.arange(8, dtype=np.float32)[:, None] * 30
    sizes = np.full((8, 2), 512)
    found = {size: preparing._best_scale(Experiment(), boxes, sizes, size) for size in (256, 640)}
    assert found[256][0] == 1.0 and found[640][0] < 4.0 and found[640][1] > 0.5
    assert preparing._best_scale(experiment_from({"anchor_scale": 4.0}), boxes, sizes, 640) == (4.0, 0.0)
    large = np.tile(np.float32([[100, 100, 300, 300]]), (8, 1))
    assert preparing._best_scale(Experiment(), large, sizes, 640) == (4.0, 1.0)
    small = dataclasses.replace(PHOTOS, scales={256: 2.0, 320: 2.5})
    assert chosen(LAPTOP, small)["anchor_scale"] == 2.0 and chosen(GPU, small)["anchor_scale"] == 2.5
    assert "anchor_scale" not in chosen(SERVER, COCO) and "anchor_scale" not in chosen(LAPTOP, PHOTOS)


def test_other_tasks_have_none():
    with pytest.raises(FlagError, match="knows detection and segmentation, not --task=classification"):
        recipe("classification", LAPTOP, PHOTOS)


# --- in a job ---------------------------------------------------------------------------------------


def flags(**more):
    return {"labeled_data": "scenes:train,count=12", "unlabeled_data": "scenes:unlabeled,count=4", "scenes_size": 64, "recipe": "auto",
            "machine": "cores=2,memory=8", **more}  # fmt: skip


def test_what_is_given_wins_and_a_run_keeps_what_was_chosen(tmp_path, capsys):
    experiment = experiment_from(flags(model_dir=str(tmp_path), batch_size=3))
    found = with_recipe(experiment, unlabeled=True)
    values = found.experiment.flags()
    assert (values["batch_size"], values["backbone"], values["eval_fraction"]) == (
        3,
        "efficientnet-lite0",
        0.2,
    )
    assert "batch_size" not in found.chosen and found.experiment.given == experiment.given
    assert found.data.counts() == {
        "labeled": len(found.data.labeled),
        "unlabeled": 4,
        "eval": len(found.data.evaluation),
    }
    assert len(found.data.labeled) < 12 and "\n".join(found.lines) in capsys.readouterr().err
    folder = RunFolder(found.experiment)
    folder.note_recipe(found.chosen, found.lines)
    folder.claim()
    assert saved_recipe(str(tmp_path)) == json.loads(json.dumps(found.chosen))
    assert (
        experiment_from_flagfile(str(tmp_path / "recipe.cfg")).flags()["image_size"] == values["image_size"]
    )
    with mock.patch.object(preparing, "open_all", side_effect=AssertionError("opened again")):
        again = with_recipe(
            experiment_from(
                flags(
                    model_dir=str(tmp_path), batch_size=3, machine="cores=64,memory=512,gpus=8,gpu_memory=80"
                )
            ),
            unlabeled=True,
        )
    assert again.experiment.decisive_flags() == found.experiment.decisive_flags() and not again.chosen
    assert RunFolder(again.experiment).check() == ""


def test_without_it_nothing_is_opened():
    with mock.patch.object(preparing, "open_all", side_effect=AssertionError("opened")):
        assert with_recipe(Experiment(), unlabeled=True).experiment == Experiment()


def test_a_rehearsal_says_the_plan_and_writes_nothing(tmp_path, tmp_path_factory, capsys, monkeypatch):
    """Not even which images it left out: one of two is no image."""
    monkeypatch.chdir(tmp_path)
    images = tmp_path_factory.mktemp("images")
    Image.new("RGB", (64, 64)).save(images / "a.png")
    (images / "b.png").write_text("no image")
    few = dict(unlabeled_data=f"folder:{images}", max_skipped_fraction=0.6)
    found = jobs.run(
        tiny.experiment(dry_run=True, model_dir="run", teraflops=1.0, eval_data="", control=True, **few)
    )
    out, err = capsys.readouterr()
    assert [part["name"] for part in found["parts"]] == ["teacher", "labels", "student", "control"] and set(
        found["hours"]
    ) == {"teacher", "labels", "student", "control"}
    assert (
        "teacher    12 steps of 8 labelled images (6.0 times through the data)" in out
        and "missing: evaluation data" in out
    )
    assert (
        "missing: labels: 16 labelled images teach very little" in out
        and "at 1 teraflops on each of 1 devices" in out
    )
    assert not list(tmp_path.iterdir()) and "unlabeled: 1 images left out" in err
    (tmp_path / "run" / "teacher").mkdir(parents=True)
    (tmp_path / "run" / "teacher" / "result.json").write_text('{"checkpoint": "x"}')
    jobs.run(tiny.experiment(dry_run=True, model_dir="run", eval_data="", **few))
    assert "teacher    done" in capsys.readouterr().out and len(list(tmp_path.rglob("*"))) == 3


def test_a_rehearsal_for_another_machine(capsys):
    """Data and weights that are elsewhere are said, and the plan is made without them; shares are those of
    that machine.
    """
    server = "cores=96,memory=1000,gpus=8,gpu_memory=80"
    found = rehearse(experiment_from(dict(labeled_data="coco:/nowhere/train.json,images", unlabeled_data="folder:/nowhere", dry_run=True, batch_size=64,
                                          pseudo_batch_size=64, machine=server)))  # fmt: skip
    out = capsys.readouterr().out
    assert (
        len(found["absent"]) == 1
        and "not here: no COCO file /nowhere/train.json" in out
        and "8 GPUs of 80 GB" in out
    )
    assert "teacher    45,000 steps of 64 labelled images\n" in out
    with pytest.raises(FlagError, match="--batch_size=12: choose a multiple of 8"):
        rehearse(experiment_from(dict(batch_size=12, dry_run=True, machine=server)))


def test_a_step_that_does_not_fit_is_said():
    """B7 at 640 px in bfloat16: 0.45 x 1.5625 x 2.0 x 3.1 / 2 = 2.18 GB an image; 256 + 256 on 8 GPUs are 64
    each, 139.5 GB.
    """
    paper = experiment_from(dict(precision="bfloat16"))
    found = preparing.memory_words(paper, SERVER)
    assert len(found) == 1 and "64 images on a GPU need about 140 GB of its 80; about 33 fit" in found[0]
    assert "--accumulate=2," in found[0] and not preparing.memory_words(
        paper.with_flags({"accumulate": 2}), SERVER
    )
    assert not preparing.memory_words(paper, Machine(96, 1000, 16, 80)) and not preparing.memory_words(
        paper, LAPTOP
    )
    assert not preparing.memory_words(paper.with_flags({"job": "train"}), SERVER)  # 32 each
    for machine, facts in ((SERVER, COCO), (GPU, PHOTOS)):
        assert not preparing.memory_words(experiment_from(chosen(machine, facts)), machine)


def test_what_is_missing(scenes):
    data = preparing.Opened(scenes, scenes.subset(range(3)), scenes, None, None)
    found = missing(tiny.experiment(), data)
    assert [line.split(":")[0] for line in found] == [
        "evaluation images",
        "labels",
        "unlabelled images",
        "a control",
        "weights to start from",
    ]
    assert not missing(tiny.experiment(task="contrastive"), data)
    many = mock.MagicMock()
    many.__len__.return_value = 500
    assert (
        missing(
            tiny.experiment(control=True, init="imagenet"), preparing.Opened(many, many, many, None, None)
        )
        == []
    )
