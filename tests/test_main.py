"""How the program ends: exit codes, one line for what a person can mend, a traceback for bugs, no silence."""

import json
import math
import os
import re
import signal
import time
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import main
from official import jobs
from official.data.scenes_source import write_scenes
from official.data.source import DataError
from official.data.sources import open_source
from official.data.unreadable import first_unreadable, naming_unreadable
from official.errors import FlagError, UserError, in_words
from official.flags import experiment_from_flagfile
from official.tasks.registry import build_task
from official.training.run_phase import PhaseRun
from official.training.stopping import Interrupted
from official.training.trainer import Phase, Trainer
from tests import tiny
from tests.forked_main import ForkedMain


def ended(monkeypatch, capsys, error):
    """(exit code, stderr) of a main whose job raises `error`."""

    def job(experiment):
        raise error

    monkeypatch.setattr(main, "experiment_from_flags", lambda jobs_on_a_run: None)
    monkeypatch.setattr(main.flags, "FLAGS", {"verbosity": type("Present", (), {"present": True})})
    monkeypatch.setattr(jobs, "run", job)
    with pytest.raises(SystemExit) as exit_:
        main.main(["main.py"])
    return exit_.value.code, capsys.readouterr().err


def tensorflows_own():
    try:
        tf.convert_to_tensor([[1], [2, 3]])
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    "error, code, words",
    [
        (UserError("a.json is no COCO file"), 1, "error: a.json is no COCO file"),
        (FlagError("--freeze=( is none"), 1, "error: --freeze=( is none"),
        (OSError(28, "No space left on device", "/data/x"), 1, "error: /data/x: the disk is full"),
        (OSError(30, "Read-only file system", "/data/x"), 1, "error: /data/x: a read-only disk"),
        (OSError(13, "Permission denied", "/data/x"), 1, "error: /data/x: no permission"),
        (OSError(36, "File name too long", "/data/x"), 1, "error: /data/x: the name is too long"),
        (OSError(28, "No space left on device", "a", None, "b"), 1, "error: a -> b: the disk is full"),
        (MemoryError(), 1, "error: not enough memory: lower --batch_size"),
        (Interrupted("stopped by SIGTERM: saved.", 15), 143, "stopped by SIGTERM: saved."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_what_a_person_can_mend_is_one_line(monkeypatch, capsys, error, code, words):
    found, text = ended(monkeypatch, capsys, error)
    assert found == code and text.strip().startswith(words) and text.count("\n") == 2
    if code == 1:
        monkeypatch.setenv("SELF_TRAINING_TRACEBACK", "1")
        found, text = ended(monkeypatch, capsys, error)
        assert found == 1 and "Traceback" in text and f"\n{words}" in text


BUGS = [tensorflows_own(), KeyError("x"), OSError("no number"), AssertionError()]


@pytest.mark.parametrize("error", BUGS, ids=repr)
def test_everything_else_is_a_bug_and_looks_like_one(monkeypatch, capsys, error):
    code, text = ended(monkeypatch, capsys, error)
    assert code == 70 and "Traceback" in text and "This is a bug of this program" in text


def test_tensorflow_says_in_its_message_what_the_machine_lacks():
    full = "{{function_node __wrapped__SaveV2}} /x/state.tmp; No space left on device [Op:SaveV2]\nmore"
    full = tf.errors.ResourceExhaustedError(None, None, full)
    assert in_words(full) == (
        "/x/state.tmp; No space left on device: the disk is full: free some space; "
        "the same command goes on from the last saved state"
    )
    no_memory = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating [1,2]")
    assert "--batch_size" in in_words(no_memory)
    assert in_words(tf.errors.InvalidArgumentError(None, None, "shapes differ")) is None


# --- what bounds do not refuse --------------------------------------------------------------------


@pytest.mark.parametrize(
    "flag, words",
    [
        ("learning_rate=nan", "--learning_rate=nan: not a finite number"),
        ("clip_norm=inf", "--clip_norm=inf: not a finite number"),
        ("model_dir=gs://bucket/run", "--model_dir=gs://bucket/run: only tfrecord:gs://... data"),
        ("labeled_data=coco:gs://b/a.json,gs://b/images", "gcsfuse"),
        ("init=https://x/y.npz", "on a disk of this machine"),
    ],
)
def test_flags_that_no_bound_refuses(tmp_path, flag, words):
    (tmp_path / "a.cfg").write_text(f"--{flag}\n")
    with pytest.raises(FlagError, match=re.escape(words)):
        experiment_from_flagfile(str(tmp_path / "a.cfg"))


def test_what_tensorflow_reads_in_a_bucket_is_no_error(tmp_path):
    flags = ("--eval_data=tfrecord:gs://b/x-*", "--data_dir=gs://b/tfds", "--tpu=grpc://1.2.3.4")
    (tmp_path / "a.cfg").write_text("\n".join(flags))
    assert experiment_from_flagfile(str(tmp_path / "a.cfg")).data.data_dir == "gs://b/tfds"


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(freeze="("), "--freeze=(: not a regular expression"),
        (dict(freeze=".*"), "--freeze=.* leaves nothing to train"),
        (dict(schedule="step", decay_boundaries="a,b"), "--decay_boundaries=a,b: numbers are needed"),
        (dict(schedule="step", decay_rates="nan"), "--decay_rates=nan: numbers are needed"),
        (dict(ema_decay=1.0), "ema_decay=1.0 is not in [0, 1)"),
        (dict(jitter_min=1.5, jitter_max=0.5), "jitter range 1.5..0.5 is empty"),
    ],
    ids=str,
)
def test_a_flag_at_fault_is_named_and_is_no_bug(options, words):
    """Also where what refuses it (augment/, losses/) knows no flags."""
    source, experiment = tiny.scenes_source(count=2), tiny.experiment(**options)
    with pytest.raises(FlagError, match=re.escape(words)):
        task = build_task(experiment, source.categories)
        Trainer(task, experiment, Phase("teacher", 4, source), tf.distribute.get_strategy())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    """Also for somebody who may write everywhere."""
    (tmp_path / "file").write_text("")
    for place, words in (
        (str(tmp_path / ("a" * 300)), "aaa: the name is too long for this disk"),
        ("/proc/nothing/run", "/proc/nothing: it is not there"),
        (str(tmp_path / "file" / "run"), "file/run: a part of this path is a file, not a folder"),
    ):
        with pytest.raises(OSError) as caught:
            jobs.run(tiny.experiment(job="train", model_dir=place))
        assert words in in_words(caught.value)
    assert os.listdir(tmp_path) == ["file"]


# --- images that vanish ---------------------------------------------------------------------------


def test_an_image_that_becomes_unreadable_is_named(tmp_path):
    source = files_of_scenes(tmp_path)
    assert first_unreadable(source) == ""
    path = source.file_names[1]
    whole = open(path, "rb").read()
    for content in (whole[:300], b""):
        open(path, "wb").write(content)
        with pytest.raises(DataError, match=rf"{path} \(id .*\) cannot be read any more"):
            read_all(source)
    os.remove(path)
    words = rf"{path} \(id .*\) cannot be read any more .*; No such file or directory\). Put it back"
    with pytest.raises(DataError, match=words):
        read_all(source)
    with pytest.raises(tf.errors.InvalidArgumentError):  # nobody's image
        with naming_unreadable(source.subset(np.arange(1))):
            tf.debugging.assert_equal(1, 2)


def test_an_image_lost_in_the_middle_of_training(tmp_path, monkeypatch):
    source = files_of_scenes(tmp_path)
    step = Trainer.train_step

    def losing(trainer, batch):
        if trainer.step == 5 and os.path.exists(source.file_names[1]):
            os.remove(source.file_names[1])
        return step(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", losing)
    experiment = tiny.experiment(
        task="classification", job="train", drawn_images=0, eval_data="", batch_size=4, teacher_steps=40,
        labeled_data=source.word, model_dir=str(tmp_path / "run"),
    )  # fmt: skip
    words = f"{source.file_names[1]}.*No such file.*goes on from the last saved state"
    with pytest.raises(DataError, match=words):
        jobs.run(experiment)
    assert "step_00000004" in os.listdir(tmp_path / "run" / "teacher" / "checkpoints")


def read_all(source):
    with naming_unreadable(source):
        [source.read_image(tf.constant(i, tf.int64)) for i in range(len(source))]


def files_of_scenes(folder):
    """Eight images as files."""
    write_scenes(str(folder), size=64, counts={"train": 8, "unlabeled": 1, "val": 1})
    return open_source(f"coco:{folder}/train/annotations.json,{folder}/train/images")


def test_a_loss_that_explodes_is_said_once(capsys):
    run = PhaseRun(None, None, Phase("teacher", 100, None), None, None)
    for losses in ((5.0, 80.0, 99.0, 3.0), (60.0, 0.5, 99.0), (99.0,)):
        run.lowest, run.exploded = math.inf, False
        [run._watch(loss, step) for step, loss in enumerate(losses, start=1)]
        assert not run.exploded and not capsys.readouterr().err
    for losses in ((5.0, 501.0, 1e9), (1.5e13, 1.5e13), (0.1, 101.0)):
        run.lowest, run.exploded = math.inf, False
        [run._watch(loss, step) for step, loss in enumerate(losses, start=1)]
        text = capsys.readouterr().err
        assert text.count("WARNING: teacher: the loss explodes") == 1 and "--learning_rate" in text


def test_xla_on_a_cpu_is_warned_of(capsys):
    for xla, replicas, told in ((True, 1, 1), (False, 1, 0), (True, 2, 0)):  # two replicas are not compiled
        run = PhaseRun(None, tiny.experiment(xla=xla), Phase("teacher", 100, None), None, None)
        run.trainer, run.chief = mock.Mock(replicas=replicas), True
        run._warn_of_xla()
        assert capsys.readouterr().err.count("WARNING: teacher: --xla compiles") == told


# --- signals --------------------------------------------------------------------------------------


def wait_for_words(process, words, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with open(process.stderr, "rb") as file:
            if words in file.read():
                return
        time.sleep(0.005)
    raise AssertionError(f"{words} never came: {process.communicate(1.0)}")


def begin_to_train(folder):
    """A run whose first step is being compiled: the progress bar is there."""
    command = tiny.command_line(task="classification", drawn_images=0, eval_data="", job="train")
    process = ForkedMain([*command, f"--model_dir={folder}"])
    wait_for_words(process, b"teacher:")
    return process


def test_a_signal_while_the_first_step_compiles_is_answered_and_the_step_saved(tmp_path):
    process = begin_to_train(tmp_path)
    process.send_signal(signal.SIGINT)
    wait_for_words(process, b"stopping after this step")
    assert not os.listdir(tmp_path / "teacher" / "checkpoints")  # it was said long before the step ended
    _, error = process.communicate()
    assert process.returncode == 130
    assert b"teacher saved at step 1 of 12. The same command goes on from here." in error
    assert os.listdir(tmp_path / "teacher" / "checkpoints") == ["step_00000001"]
    assert not (tmp_path / "run.lock").exists()


def test_a_second_ctrl_c_ends_the_first_step(tmp_path):
    process = begin_to_train(tmp_path)
    process.send_signal(signal.SIGINT)
    wait_for_words(process, b"stopping after this step")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and b"stopped at once" in error
    assert os.listdir(tmp_path / "teacher" / "checkpoints") == []


def test_a_ctrl_c_while_images_are_checked_ends_at_once(tmp_path):
    """Thousands of images, all the same file."""
    names = [f"{i}.jpg" for i in range(2000)]
    Image.effect_noise((1500, 1500), 50).convert("RGB").save(tmp_path / names[0])
    for name in names[1:]:
        os.link(tmp_path / names[0], tmp_path / name)
    images = [{"id": i, "file_name": name, "width": 1500, "height": 1500} for i, name in enumerate(names)]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "iscrowd": 0}
    content = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    command = tiny.command_line(labeled_data=f"coco:{tmp_path}/a.json,{tmp_path}", check_images="full")
    process = ForkedMain([*command, f"--model_dir={tmp_path}/run"])
    wait_for_words(process, b"checking images")
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and b"nothing is half-written" in error
    assert time.monotonic() - started < 5.0
    left = [name for _, _, files in os.walk(tmp_path / "run") for name in files]
    assert set(left) <= {"run.json", "seconds.json"}  # whole ones, and no lock
