"""One process at a time; the dead do not hold anything; the living keep what is theirs."""

import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from official import files, lock
from official.files import machine, process_start, sweep, temporary_name, whole_file
from official.lock import Locked, folder_lock

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOLD = """
import sys, time
from official.lock import folder_lock
with folder_lock(sys.argv[1]):
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of tmp_path/run."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def holder(folder, **changed):
    """Writes a lock as some process elsewhere would have."""
    content = {"host": "elsewhere", "pid": 7, "start": "1", "since": "then", "machine": "ffffffff"}
    content |= {"boot": "b", "token": "t", "command": "c"}
    os.makedirs(folder, exist_ok=True)
    (folder / "run.lock").write_text(json.dumps({**content, **changed}))


def test_the_second_says_who_has_it_and_a_dead_holder_loses_it(tmp_path, other, capsys):
    words = rf"run is in use by process {other.pid} on .* \(since 2.*-c.*kill {other.pid}"
    with pytest.raises(Locked, match=words):
        with folder_lock(str(tmp_path / "run")):
            pass
    other.kill()
    other.wait()
    with folder_lock(str(tmp_path / "run")):
        assert json.load(open(tmp_path / "run" / "run.lock"))["pid"] == os.getpid()
    assert f"left by process {other.pid}" in capsys.readouterr().err


def test_a_folder_in_which_nothing_was_done_is_not_left_behind(tmp_path):
    with folder_lock(str(tmp_path / "a" / "b")):
        with pytest.raises(Locked):
            with folder_lock(str(tmp_path / "a" / "b")):
                pass
        assert (tmp_path / "a" / "b" / "run.lock").exists()
    assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "c").mkdir()
    with folder_lock(str(tmp_path / "c")):
        (tmp_path / "c" / "x").write_text("kept")
    assert os.listdir(tmp_path / "c") == ["x"]


@pytest.mark.parametrize("flock", [True, None])
def test_another_machine_holds_it_for_as_long_as_it_gives_signs_of_life(tmp_path, monkeypatch, flock):
    monkeypatch.setattr(lock, "_flock", lambda handle: flock)
    holder(tmp_path)
    with pytest.raises(Locked, match="process 7 on elsewhere .*If that machine is gone"):
        with folder_lock(str(tmp_path)):
            pass
    past = time.time() - lock.STALE_SECONDS - 5
    os.utime(tmp_path / "run.lock", (past, past))
    with folder_lock(str(tmp_path)):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("start, lives", [("own", True), ("1", False)])
def test_without_flock_a_pid_counts_with_the_start_of_its_process(tmp_path, monkeypatch, start, lives):
    """The pid of pid 1 is always there; a start that is another's means that the pid was given out again."""
    monkeypatch.setattr(lock, "_flock", lambda handle: None)
    holder(tmp_path, machine=machine(), pid=1, start=process_start(1) if start == "own" else start)
    if lives:
        with pytest.raises(Locked):
            with folder_lock(str(tmp_path)):
                pass
    else:
        with folder_lock(str(tmp_path)):
            pass


def test_a_container_with_an_equal_pid_is_another_process(tmp_path, monkeypatch):
    """Under one kernel flock tells: its lock is free, so the container is dead, however fresh the file."""
    holder(tmp_path, boot=files.boot(), pid=os.getpid(), start=process_start(os.getpid()))
    with folder_lock(str(tmp_path)):
        pass
    monkeypatch.setattr(lock, "_flock", lambda handle: None)
    holder(tmp_path, boot=files.boot(), pid=os.getpid(), start=process_start(os.getpid()))
    with pytest.raises(Locked):
        with folder_lock(str(tmp_path)):
            pass


def test_garbage_in_a_free_lock_is_taken_over(tmp_path):
    (tmp_path / "run.lock").write_text('{"pid": 1')  # killed while writing
    with folder_lock(str(tmp_path)):
        pass


def _count(folder, queue):
    for _ in range(25):
        try:
            with folder_lock(folder):
                with open(os.path.join(folder, "inside"), "x"):
                    time.sleep(0.001)
                os.remove(os.path.join(folder, "inside"))
                queue.put(1)
        except Locked:
            time.sleep(0.002)
        except FileExistsError:
            queue.put("two inside at once")


def test_never_two_at_once(tmp_path):
    """Four processes take and give back one lock; the file `inside` is there for the one that has it."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    (tmp_path / "x").write_text("")
    workers = [context.Process(target=_count, args=(str(tmp_path), queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = []
    while not queue.empty():
        found.append(queue.get())
    assert len(found) >= 10 and set(found) == {1}


# --- temporary files ------------------------------------------------------------------------------


def left(path, *parts):
    name = f"{path}.tmp-" + "-".join(parts)
    open(name, "w").close()
    return name


def test_only_what_the_dead_left_is_swept(tmp_path, other):
    path = str(tmp_path / "labels")
    mine = temporary_name(path)
    open(mine, "w").close()
    living = left(path, machine(), str(other.pid), process_start(other.pid), "00")
    reused = left(path, machine(), str(other.pid), "1", "00")
    dead = left(path, machine(), "999999999", "1", "00")
    foreign, old = left(path, "0000aaaa", "1", "1", "00"), left(path, "0000aaaa", "1", "1", "01")
    past = time.time() - files.FOREIGN_SECONDS - 5
    os.utime(old, (past, past))
    assert set(sweep(path)) == {reused, dead, old}
    assert set(sweep(path, exclusive=True)) == {foreign}  # under a lock nobody elsewhere can be writing
    there = {os.path.join(tmp_path, name) for name in os.listdir(tmp_path) if name.startswith("labels")}
    assert there == {mine, living}


def test_names_are_unique_within_a_process_too(tmp_path):
    assert len({temporary_name(str(tmp_path / "x")) for _ in range(100)}) == 100


def test_whole_or_not_at_all(tmp_path):
    with whole_file(str(tmp_path / "a")) as name:
        open(name, "w").write("new")
    with pytest.raises(KeyboardInterrupt):
        with whole_file(str(tmp_path / "a")) as name:
            open(name, "w").write("half")
            raise KeyboardInterrupt
    with pytest.raises(OSError) as caught:
        with whole_file(str(tmp_path / "a")):
            raise OSError(28, "No space left on device")  # as a write says it, without the file
    assert caught.value.filename == str(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "new"


def test_one_json_flushes_itself_and_its_folder_alone(tmp_path, monkeypatch):
    """Not every older file beside it."""
    flushed = []
    monkeypatch.setattr(files, "_fsync", flushed.append)
    for i in range(20):
        (tmp_path / f"old{i}").write_text("")
    files.write_json(str(tmp_path / "x.json"), {})
    assert len(flushed) == 2 and flushed[1] == str(tmp_path)
