"""How the program ends: exit codes, one line for what a person can mend, a traceback for bugs, and never in silence."""

import json
import os
import signal
import time

import pytest
from PIL import Image

import main
from official import jobs
from official.errors import FlagError, UserError
from official.training.stopping import Interrupted
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
    import tensorflow as tf

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


@pytest.mark.parametrize("error", [tensorflows_own(), KeyError("x"), OSError("no number"), AssertionError()], ids=repr)
def test_everything_else_is_a_bug_and_looks_like_one(monkeypatch, capsys, error):
    code, text = ended(monkeypatch, capsys, error)
    assert code == 70 and "Traceback" in text and "This is a bug of this program" in text


def test_tensorflow_says_in_its_message_what_the_machine_lacks():
    import tensorflow as tf

    from official.errors import in_words

    full = tf.errors.ResourceExhaustedError(None, None, "/x/state.tmp; No space left on device")
    assert in_words(full) == (
        "/x/state.tmp; No space left on device: the disk is full: free some space; "
        "the same command goes on from the last saved state"
    )
    assert "--batch_size" in in_words(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating [1,2]"))
    assert in_words(tf.errors.InvalidArgumentError(None, None, "shapes differ")) is None


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
    command = tiny.command_line(task="classification", pictures=0, eval_data="", job="train")
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
