"""What --eval_fraction holds out: whole images, every class in proportion, the same whatever the order."""

import json
import os

import numpy as np
import pytest

from official import jobs
from official.data import holdout
from official.data.source import Annotations, Category, DataError
from official.experiment import experiment_from
from official.jobs import opening
from official.jobs.held_out import warn_of_seen_images
from tests import tiny


def names(count):
    return np.array([f"image-{i}" for i in range(count)])


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_of_classes_that_do_not_meet_each_has_its_share(fraction):
    """Less than an image off the exact share, and as many images in all as was said."""
    counts = (1, 2, 3, 10, 41, 200)
    presence = np.repeat(np.eye(6, dtype=bool), counts, axis=0)
    held = holdout.stratified(presence, names(len(presence)), fraction, seed=1)
    for label, count in enumerate(counts):
        assert abs(held[presence[:, label]].sum() - fraction * count) < 1, (label, count)
    assert held.sum() == round(fraction * len(held))


def test_a_class_of_one_image_stays_in_training():
    presence = np.array([[True, False]] * 9 + [[True, True]])
    held = holdout.stratified(presence, names(10), 0.4, seed=0)
    assert held.sum() == 4 and not held[9]


def test_images_of_several_classes_are_dealt_out_far_better_than_by_chance():
    """The mean absolute error of the classes' shares, beside a hundred random choices of as many images."""
    rng = np.random.default_rng(0)
    presence = rng.random((120, 12)) < np.geomspace(0.02, 0.7, 12)

    def error(held):
        share = (presence & held[:, None]).sum(axis=0) / np.maximum(presence.sum(axis=0), 1)
        return np.abs(share - 0.25).mean()

    held = holdout.stratified(presence, names(120), 0.25, seed=0)
    chance = [error(rng.permutation(held)) for _ in range(100)]
    assert held.sum() == 30
    assert error(held) < 0.4 * np.mean(chance) and error(held) < min(chance)


def test_the_choice_follows_the_seed_and_not_the_order():
    rng = np.random.default_rng(3)
    presence, ids = rng.random((60, 4)) < 0.3, names(60)
    held = holdout.stratified(presence, ids, 0.2, seed=5)
    moved = rng.permutation(60)
    assert (holdout.stratified(presence[moved], ids[moved], 0.2, seed=5) == held[moved]).all()
    assert (holdout.stratified(presence, ids, 0.2, seed=6) != held).any()


@pytest.mark.parametrize("seed", range(5))
def test_as_many_are_held_out_as_was_said(seed):
    rng = np.random.default_rng(seed)
    presence = rng.random((37, 6)) < 0.4
    for fraction in (0.1, 0.3, 0.7):
        held = holdout.stratified(presence, names(37), fraction, seed=seed)
        assert held.sum() == round(fraction * 37)


def test_images_without_an_object_are_shared_out_too():
    presence = np.zeros((50, 3), bool)
    presence[:10, 0] = True
    held = holdout.stratified(presence, names(50), 0.2, seed=0)
    assert held[:10].sum() == 2 and held[10:].sum() == 8


@pytest.mark.parametrize("count", [2, 10, 40, 400])
def test_the_interval_is_wilsons(count):
    """By its definition: the rates that half of the trials do not refute, found by trying them."""
    rates = np.linspace(0, 1, 200_001)
    kept = rates[abs(0.5 - rates) <= 1.959964 * np.sqrt(rates * (1 - rates) / count)]
    assert holdout.half_interval(count) == pytest.approx((kept[-1] - kept[0]) / 2, abs=1e-5)


def test_crowds_and_ignored_pixels_are_no_presence(scenes):
    source = scenes.subset([0, 1]).with_annotations(
        Annotations.from_images(
            [
                {"boxes": [[0, 0, 5, 5]] * 2, "classes": [0, 1], "crowd": [False, True]},
                {"boxes": [], "classes": []},
            ]
        ),
        (Category(1, "a"), Category(2, "b")),
    )
    assert holdout.class_presence(source).tolist() == [[True, False], [False, False]]
    assert holdout.class_counts(source).tolist() == [1, 0]
    with pytest.raises(DataError, match="no labels"):
        holdout.class_presence(source.without_labels())


@pytest.mark.parametrize("task", list(tiny.TASKS))
def test_every_task_holds_out_whole_images(task):
    """What is trained on and what is evaluated on share no image, not even parts of one; together they are
    all.
    """
    flags = dict(task=task, eval_data="", eval_fraction=0.25, labeled_fraction=0.75, unlabeled_data="rest")
    kept, rest, held = opening.open_labeled(tiny.experiment(**flags))
    parts = [{i.split("#")[0] for i in part.ids} for part in (kept, held)]
    assert not parts[0] & parts[1] and len(parts[1]) == round(0.25 * len(parts[0] | parts[1]))
    assert len(kept) + len(held) + len(rest) == len(tiny.scenes_source(task=task))
    classes = holdout.class_presence(kept).any(axis=0)
    assert classes.sum() >= 5  # each of the five is learnt
    again = opening.open_labeled(tiny.experiment(**flags))[2]
    assert again.ids.tolist() == held.ids.tolist()
    other = opening.open_labeled(tiny.experiment(**flags, split_seed=1))[2]
    assert other.ids.tolist() != held.ids.tolist()
    lines, numbers = holdout.describe(kept, held)
    assert numbers["images"] == len(parts[1]) and lines[1].startswith("WARNING")
    assert sum(row["held_out"] for row in numbers["per_class"].values()) == numbers["objects"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (dict(eval_fraction=0.2), "give one of them"),
        (dict(eval_fraction=0.01, eval_data=""), "none to hold out"),
        (dict(eval_fraction=0.2, eval_data="", labeled_data="", task="contrastive"), "needs --labeled_data"),
    ],
)
def test_what_cannot_be_held_out_is_said(flags, message):
    with pytest.raises(DataError, match=message):
        opening.open_training(tiny.experiment(**flags))


def test_a_class_that_cannot_be_evaluated_is_named(scenes):
    kept, held = scenes.subset(range(8)), scenes.subset([9])
    lines, _ = holdout.describe(kept, held)
    lacking = [n.name for n, c in zip(held.categories, holdout.class_counts(held)) if not c]
    text = next(line for line in lines if "cannot be evaluated" in line)
    assert lacking and all(repr(name) in text for name in lacking)


@pytest.mark.slow
def test_a_run_evaluates_on_what_it_held_out(tmp_path, capsys):
    """Recorded, the same in the job that evaluates later; other data is refused; a teacher that has seen it
    is told on.
    """
    flags = dict(
        eval_data="",
        eval_fraction=0.25,
        job="train",
        teacher_steps=1,
        drawn_images=0,
        model_dir=str(tmp_path / "a"),
    )
    experiment = tiny.experiment(**flags)
    first = jobs.run(experiment)
    assert "held out for evaluation: 4 of 16 labelled images" in capsys.readouterr().err
    data = {
        n: json.load(open(tmp_path / "a" / "data" / f"{n}.json"))
        for n in ("labeled_ids", "eval_ids", "held_out")
    }
    assert len(data["labeled_ids"]) == 12 and data["held_out"]["ids"] == data["eval_ids"]
    assert not set(data["labeled_ids"]) & set(data["eval_ids"])
    settled = {**experiment.flags(), "input_normalization": "lite"}
    again = jobs.run(experiment_from({**settled, "job": "evaluate"}))
    assert again["evaluation"]["coco_stats"] == pytest.approx(first["evaluation"]["coco_stats"])
    with pytest.raises(DataError, match="not what it was"):
        jobs.run(experiment_from({**settled, "job": "evaluate", "labeled_data": "scenes:train,count=15"}))
    held = opening.open_labeled(experiment)[2]
    assert warn_of_seen_images(tiny.experiment(teacher=str(tmp_path / "a")), held) == []
    everything = tiny.scenes_source()
    (warning,) = warn_of_seen_images(
        tiny.experiment(teacher=os.path.join(str(tmp_path / "a"), "teacher")), everything
    )
    assert "trained on 12 of the 16 images" in warning
