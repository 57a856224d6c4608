"""Labelling on Apache Beam gives the store of this process, byte for byte, also where shards are there or
bundles come twice.

Beam is an extra (requirements-beam.txt); where it is not installed these are skipped, but for the message.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from official import jobs
from official.errors import FlagError
from official.jobs.checks import check_flags
from official.tasks.registry import build_task
from tests import tiny

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLAGS = {**tiny.LITE, "label_shard_size": 4, "backbone_depth": 0.1, "max_level": 4}


@pytest.fixture
def teacher(tmp_path):
    """The folder of a checkpoint of a detector that was not trained."""
    source, experiment = tiny.scenes_source(), tiny.experiment(**FLAGS)
    tf.keras.utils.set_random_seed(1)
    model = build_task(experiment, source.categories).build_model()
    return tiny.teacher_result(tmp_path / "teacher", experiment, source.categories, model)["checkpoint"]


def labelled(folder, teacher, **flags):
    experiment = tiny.experiment(
        **FLAGS, job="pseudo_label", model_dir=str(folder), checkpoint=teacher, **flags
    )
    assert jobs.run(experiment)["pseudo_labels"]["finished"]
    store = folder / "pseudo_labels"
    return {name: (store / name).read_bytes() for name in os.listdir(store)}


@pytest.mark.parametrize(
    "options",
    [
        "",
        pytest.param("--direct_num_workers=2 --direct_running_mode=multi_processing", marks=pytest.mark.slow),
    ],
)
def test_the_store_is_that_of_one_process(teacher, options, tmp_path):
    beam_labels = pytest.importorskip("official.jobs.beam_labels", reason="Apache Beam is not installed")
    expected = labelled(tmp_path / "plain", teacher)
    found = labelled(tmp_path / "beam", teacher, engine="beam", beam_options=options)
    assert found == expected and len(expected) == 2 * 4 + 2
    # A shard that was lost is made again, the others are not; and a bundle that comes twice changes nothing.
    store, again = tmp_path / "beam" / "pseudo_labels", []
    for name in ("labels-00002.tfrecord", "labels-00002.tfrecord.json", "manifest.json"):
        os.remove(store / name)
    kept = os.stat(store / "labels-00001.tfrecord").st_mtime_ns
    assert labelled(tmp_path / "beam", teacher, engine="beam", beam_options=options) == expected
    assert os.stat(store / "labels-00001.tfrecord").st_mtime_ns == kept
    experiment = tiny.experiment(
        **FLAGS, job="pseudo_label", model_dir=str(tmp_path / "beam"), checkpoint=teacher
    )
    shards = beam_labels.LabelShards(tuple(experiment.flags().items()), experiment.given, teacher, str(store))
    for _ in range(2):
        again += shards.process(2)
    assert again == [2, 2] and labelled(tmp_path / "beam", teacher) == expected


@pytest.mark.slow
def test_all_processes_are_killed_in_the_middle(teacher, tmp_path):
    """Of 32 shards, once the first are there: the same command makes those that are missing, and no other."""
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed")
    flags = dict(
        FLAGS,
        job="pseudo_label",
        checkpoint=teacher,
        label_shard_size=1,
        unlabeled_data="scenes:unlabeled,count=32",
    )
    plain = dict(flags, model_dir=str(tmp_path / "plain"))
    assert jobs.run(tiny.experiment(**plain))["pseudo_labels"]["finished"]
    workers = "--direct_num_workers=2 --direct_running_mode=multi_processing"
    command = [sys.executable, "main.py", *tiny.command_line(**flags, engine="beam", beam_options=workers)]
    command.append(f"--model_dir={tmp_path / 'beam'}")
    store = tmp_path / "beam" / "pseudo_labels"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )
    while not (written := finished_shards(store)) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(written) and len(finished_shards(store)) < 32 and not (store / "manifest.json").exists()
    before = {name: os.stat(store / name).st_mtime_ns for name in finished_shards(store)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert {name: os.stat(store / name).st_mtime_ns for name in before} == before
    expected = tmp_path / "plain" / "pseudo_labels"
    assert sorted(os.listdir(store)) == sorted(os.listdir(expected))
    for name in os.listdir(expected):
        assert (store / name).read_bytes() == (expected / name).read_bytes(), name


def finished_shards(store):
    return [name for name in (os.listdir(store) if store.is_dir() else ()) if name.endswith(".tfrecord.json")]


def test_without_beam_it_says_what_to_install(teacher, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "official.jobs.beam_labels", raising=False)
    with pytest.raises(FlagError, match="pip install -r requirements-beam.txt"):
        labelled(tmp_path, teacher, engine="beam")
    with pytest.raises(FlagError, match="--engine=beam is for --job=pseudo_label"):
        check_flags(tiny.experiment(engine="beam"))
