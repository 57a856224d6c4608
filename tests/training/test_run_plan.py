"""What a run will do, how long it takes, and on what machine: by hand."""

import pytest
import tensorflow as tf

from official.errors import FlagError
from official.training import machine
from official.training.machine import Machine, machine_of, this_machine
from official.training.run_plan import RunPlan
from tests import tiny

IMAGES = {"labeled": 46, "unlabeled": 306, "eval": 12}


def plan(images=IMAGES, done=(), **flags):
    options = dict(
        teacher_steps=1000,
        student_steps=2000,
        batch_size=8,
        pseudo_batch_size=16,
        control=True,
        eval_every=250,
    )
    return RunPlan(tiny.experiment(**{**options, **flags}), images, done=done)


def test_the_parts_of_a_run():
    found = {part.name: part for part in plan().parts}
    assert list(found) == ["teacher", "labels", "student", "control"]
    assert [found[n].steps for n in found] == [1000, 0, 2000, 3000]
    assert [found[n].work for n in found] == pytest.approx([8000, 306 / 3, 48000, 24000])
    assert [found[n].evaluated for n in found] == [4, 0, 8, 12]  # the last of four is the one at the end
    text = "\n".join(plan().lines())
    assert (
        "1,000 steps of 8 labelled images (173.9 times through the data); evaluated every 250 steps and at "
        "the end"
    ) in text
    assert (
        "2,000 steps of 8 labelled + 16 pseudo-labelled images (347.8 and 104.6 times through the data)"
        in text
    )
    assert "labels     306 images" in text


def test_other_runs():
    assert [p.name for p in plan(job="train").parts] == ["teacher"] and [
        p.name for p in plan(job="control").parts
    ] == ["control"]
    assert [p.name for p in plan(teacher="x", control=False).parts] == ["labels", "student"]
    rounds = plan(rounds=2).parts
    assert [p.name for p in rounds][4:] == ["labels 2", "student 2", "control 2"] and rounds[-1].steps == 5000
    assert plan(images={"labeled": 46, "unlabeled": 306}, eval_every=0).parts[0].evaluated == 0
    joint = plan(images={**IMAGES, "joint": 100}, joint_batch_size=4, joint_image_size=32).parts[0]
    assert joint.streams == {"human": 8, "joint": 4} and joint.work == 1000 * (
        8 + 4 / 4
    )  # half the side: a quarter of the pixels
    views = plan(task="segmentation", label_scales="0.5,1,2", label_flip=True).parts[1]
    assert views.work == pytest.approx(306 * (0.25 + 1 + 4) * 2 / 3)


def test_one_measured_phase_gives_the_time_of_all():
    """A teacher's step of 8 images takes 0.8 s, so an image 0.1 s, and 12 images are evaluated in 0.4 s."""
    found = plan()
    text = found.measured("teacher", 20.0, 0.8, 750)
    times = found.seconds("teacher", 750)
    assert times == pytest.approx({
        "teacher": 750 * 0.8 + 0.75 * 4 * 0.4, "labels": 306 * 0.1 / 3, "student": 20 + 4800 + 8 * 0.4, "control": 20 + 2400 + 12 * 0.4,
    })  # fmt: skip
    assert text == (
        "teacher: a step takes 0.8 s; about 2 h 11 min left of the run "
        "(teacher 10 min, labels 10 s, student 80 min, control 40 min; labels, student, control by the work "
        "in them)"
    )
    found.measured("student", 30.0, 1.2, 2000)  # slower than one image's work says: what is measured counts
    assert found.seconds("student", 1000)["student"] == pytest.approx(1000 * 1.2 + 0.5 * 8 * 12 / 3 * 0.05)
    assert "control" in found.measured("student", 30.0, 1.2, 2000) and "teacher" not in found.seconds(
        "student", 1
    )
    assert (
        plan(job="control").measured("control", 1.0, 2.0, 300)
        == "control: a step takes 2 s; about 10 min left"
    )


def test_the_control_beside_the_rest_takes_no_more_time():
    together, beside = plan(), plan(parallel_phases=True)
    for found in (together, beside):
        found.measured("teacher", 0.0, 0.8, 1000)
    times = beside.seconds("teacher", 1000)
    assert together._whole(times) == sum(times.values())
    assert beside._whole(times) == sum(times.values()) - times["control"] > times["control"]


def test_what_is_done_is_not_done_again():
    found = plan(done=["teacher", "labels"])
    assert "teacher    done" in "\n".join(found.lines())
    assert set(found.accelerator_hours(1e9, 1.0)) == {"student", "control"}
    # 48,000 images x 10^9 multiply-adds x 6 operations at 10^12 a second on each of two devices: 144 s
    assert found.accelerator_hours(1e9, 1.0, 2)["student"] == pytest.approx(144 / 3600)


def test_later_rounds_are_told_as_themselves():
    found = plan(rounds=2, control=False)
    found.measured("teacher", 1.0, 0.8, 1000)
    found.round = 2
    assert found.measured("student", 1.0, 0.8, 100).startswith(
        "student 2: a step takes 0.8 s; about 80 s left"
    )


# --- machines ---------------------------------------------------------------------------------------


def test_a_machine_that_is_described():
    assert machine_of("cores=64,memory=512,gpus=8,gpu_memory=80") == Machine(64, 512, 8, 80)
    assert str(machine_of("cores=2, memory=8")) == "2 CPU cores, 8 GB of memory, no GPU"
    for text in (
        "cores=2",
        "cores=2,memory=8,disk=3",
        "cores=two,memory=8",
        "cores=2,memory=8,gpus=1",
        "cores=0,memory=8",
        "8 GPUs",
    ):
        with pytest.raises(FlagError, match="--machine="):
            machine_of(text)


def test_this_machine_keeps_to_the_limits_of_its_container(monkeypatch):
    texts = {"/sys/fs/cgroup/cpu.max": "150000 100000\n", "/sys/fs/cgroup/memory.max": f"{2 << 30}\n"}
    monkeypatch.setattr(machine, "_text", lambda path: texts[path])
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert this_machine() == machine_of("") == Machine(1, 2)
    texts.update({"/sys/fs/cgroup/cpu.max": "max 100000\n", "/sys/fs/cgroup/memory.max": "max\n"})
    assert this_machine().cores == 6 and this_machine().memory >= 1
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a", "b"])
    monkeypatch.setattr(machine, "_gpu_memory", lambda: 80)
    assert (this_machine().gpus, this_machine().gpu_memory) == (2, 80)
