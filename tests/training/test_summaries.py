"""What TensorBoard is told: runs by the names of phases, what a tag means, flags that compare runs."""

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import metadata

from official.report.curves import events_files
from official.training.summaries import DESCRIPTIONS, Summaries, description


def values(folder):
    return [
        v
        for path in events_files(folder)
        for e in tf.compat.v1.train.summary_iterator(path)
        for v in e.summary.value
    ]


def test_tags_are_described(tmp_path):
    summaries = Summaries(str(tmp_path))
    summaries.scalars({"loss_ratio": 1.0, "human_class_loss": 2.0}, 1)
    summaries.scalars({"AP": 0.5}, 1, prefix="evaluation")
    summaries.scalars({"AP": 0.5}, 1, prefix="evaluation_per_class")  # a class of that name
    summaries.drawings("predictions", [np.zeros((4, 4, 3), np.uint8)], 1)
    summaries.flush()
    found = {v.tag: v.metadata.summary_description for v in values(str(tmp_path))}
    assert (
        found["train/loss_ratio"] == DESCRIPTIONS["loss_ratio"]
        and found["evaluation/AP"] == DESCRIPTIONS["AP"]
    )
    assert (
        "this class alone" in found["evaluation_per_class/AP"]
        and found["predictions"] == DESCRIPTIONS["predictions"]
    )
    assert all(found.values()), found
    assert description("something/else") == ""


def test_the_hparams_tab_gets_the_flags_that_decide(tmp_path):
    flags = {"alpha": 2.0, "seed": 0, "model_dir": "runs/a", "control": True}
    summaries = Summaries(str(tmp_path / "student"))
    summaries.flags(
        flags,
        {"alpha": 1.0, "seed": 0, "model_dir": "", "control": True},
        {"alpha": 2.0, "seed": 0, "control": True},
    )
    summaries.flush()
    found = {v.tag: v for v in values(str(tmp_path))}
    start = metadata.parse_session_start_info_plugin_data(
        found[metadata.SESSION_START_INFO_TAG].metadata.plugin_data.content
    )
    assert {name: value.WhichOneof("kind") for name, value in start.hparams.items()} == {
        "alpha": "number_value",
        "seed": "number_value",
        "control": "bool_value",
    }
    assert start.hparams["alpha"].number_value == 2.0
    text = (
        tf.make_ndarray(next(v for tag, v in found.items() if tag.startswith("flags")).tensor).item().decode()
    )
    assert (
        text.index("--alpha=2.0")
        < text.index("--model_dir")
        < text.index("the others")
        < text.index("--seed=0")
    )


def test_a_worker_that_is_not_the_chief_writes_nothing(tmp_path):
    summaries = Summaries(str(tmp_path), chief=False)
    summaries.flags({"alpha": 2.0}, {}, {"alpha": 2.0})
    summaries.scalars({"loss": 1.0}, 1)
    summaries.flush()
    assert events_files(str(tmp_path)) == []
