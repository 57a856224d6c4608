"""Whole runs killed, damaged, moved, starved of disk: does every one end as an undisturbed run does?

    python -m benchmarks.faults --kills=100                  # detection and segmentation, 50 kills each
    python -m benchmarks.faults --kills=6 --tasks=detection  # a quick look

A run is the whole loop (teacher, labelling, student, control, export) of a tiny network. It is killed with
SIGKILL several times in every phase: at a random moment, or in the very moment in which a file is being
written. Between kills its folder is moved, its newest checkpoint damaged, its disk filled up, and a second
process is started on it. In the end weights, pseudo labels, exported model and files are compared with those
of a run that nobody disturbed. Every start is a fork of one process that has TensorFlow imported. Exit code 1
if anything differs.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import glob
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Iterator

from official.errors import FileDamaged
from official.files import file_sha256, read_json
from official.self_training.label_store import LabelStore
from tests import tiny
from tests.forked_main import ForkedMain

PHASES = ("teacher", "pseudo_label", "student", "control", "export")
ENDS = (
    "teacher/result.json",
    "pseudo_labels/manifest.json",
    "student/result.json",
    "control/result.json",
    "summary.json",
)
TRAINED = ("teacher", "student", "control")
FLAGS = dict(
    labeled_data="scenes:train,count=8",
    unlabeled_data="scenes:unlabeled,count=16",
    eval_data="",
    drawn_images=0,
    image_size=32,
    max_level=4,
    batch_size=2,
    pseudo_batch_size=2,
    eval_batch_size=1,
    threads=1,
    control=True,
    teacher_steps=10,
    student_steps=10,
    checkpoint_every=1,
    label_shard_size=1,
    survival_probability=0.8,
)
SMALL = dict(segmentation=dict(min_level=3, label_scales="1"))
POLL_SECONDS = 0.002
WRITE_SHARE = 0.6  # of the kills: in the moment in which a temporary file is there
DISK_MIB = 64
SLOW_SECONDS = 1800.0  # for one start on a machine that does much else


@dataclasses.dataclass
class Score:
    """What was done to the runs of a task, and what differs from the undisturbed one."""

    kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    writing: int = 0
    faults: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    runs: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    lost: int = 0
    double: int = 0


def main() -> None:
    """Prints a table; exit code 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=100, help="in all")
    parser.add_argument("--tasks", default="detection,segmentation")
    parser.add_argument("--per_phase", type=int, default=4, help="kills in a phase of a run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tasks, started = options.tasks.split(","), time.monotonic()
    kills = -(-options.kills // len(tasks))
    scores = {task: disturb(task, kills, options.per_phase, options.seed) for task in tasks}
    for task, score in scores.items():
        print(report(task, score))
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(1 if any(score.wrong for score in scores.values()) else 0)


def report(task: str, score: Score) -> str:
    """The numbers of a task as text."""
    phases = ", ".join(f"{phase} {score.kills[phase]}" for phase in PHASES)
    faults = ", ".join(f"{name} {count}" for name, count in sorted(score.faults.items()))
    lines = [
        f"{task}: {score.kills.total()} kills survived in {score.runs} runs ({phases};",
        f"  {score.writing} while a file was being written)",
        f"  also: {faults}",
        f"  labels lost {score.lost}, double {score.double}; what differs: {len(score.wrong)}",
    ]
    return "\n".join(lines + [f"    {words}" for words in score.wrong])


def disturb(task: str, kills: int, per_phase: int, seed: int) -> Score:
    """Runs of a task until `kills` have been made; every run is compared with one that was not disturbed."""
    chance, score = random.Random(f"{task}{seed}"), Score()
    with tempfile.TemporaryDirectory() as place:
        straight = Run(task, os.path.join(place, "straight"), chance, score)
        straight.finish()
        expected = {} if score.wrong else straight.outcome()
        while score.kills.total() < kills and not score.wrong:
            score.runs += 1
            with disk(place) as folder:
                run = Run(task, os.path.join(folder, f"run{score.runs}"), chance, score)
                run.survive(min(per_phase, -(-(kills - score.kills.total()) // len(PHASES))))
                run.compare(expected)
            print(f"{task}: {score.kills.total()} kills, {len(score.wrong)} differ", flush=True)
    return score


@contextlib.contextmanager
def disk(place: str) -> Iterator[str]:
    """A small disk of its own where one may be mounted, so that it can be filled up; else a folder."""
    folder = tempfile.mkdtemp(dir=place)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)
        shutil.rmtree(folder)


@dataclasses.dataclass
class Run:
    """One run folder."""

    task: str
    folder: str
    chance: random.Random = dataclasses.field(default_factory=random.Random)
    score: Score = dataclasses.field(default_factory=Score)

    def start(self) -> ForkedMain:
        """The command, again."""
        flags = tiny.command_line(**{**FLAGS, **SMALL.get(self.task, {})}, task=self.task)
        return ForkedMain([*flags, f"--model_dir={self.folder}"])

    def finish(self) -> None:
        """Lets the command end."""
        process = self.start()
        self._expect(process, 0, "")

    def _expect(self, process: ForkedMain, code: int, words: str) -> None:
        """Waits for the end, which is to be this exit code and these words."""
        error = process.communicate(SLOW_SECONDS)[1].decode()
        if process.returncode != code or words not in error:
            found = f"exit code {process.returncode}, not {code}: {error[-900:]}"
            self.score.wrong.append(f"{self.task}, {self.phase()}: {found}")

    def phase(self) -> str:
        """The phase that is going on, from what is on disk."""
        for phase, end in zip(PHASES, ENDS):
            if not os.path.exists(os.path.join(self.folder, end)):
                return phase
        return ""

    def temporary(self) -> set[str]:
        """The temporary files and folders that are there."""
        found = set()
        for place, folders, files in os.walk(self.folder):
            found |= {os.path.join(place, name) for name in [*folders, *files] if ".tmp-" in name}
        return found

    # --- faults -----------------------------------------------------------------------------------

    def survive(self, kills: int) -> None:
        """Kills the run in every phase, and does everything else to it that happens to disks and people."""
        others = dict(zip(PHASES, (self.second_process, self.interrupt, self.fill, self.second_process)))
        for phase in PHASES:
            for number in range(kills):
                if self.phase() and not self.score.wrong:
                    self.kill(phase)
                if number == 0:
                    self.damage(phase)
            if phase in others and not self.score.wrong:
                others[phase](phase)
            self.move()
        if not self.score.wrong:
            self.finish()

    def kill(self, phase: str, process: ForkedMain | None = None) -> None:
        """Kills the command in a phase (or, where that has been done, in a later one); it may end before."""
        process = process or self.start()
        if self.underway(process, phase):
            phase, writing = self.phase() or PHASES[-1], bool(self.temporary())
            process.send_signal(signal.SIGKILL)
            process.communicate()
            self.score.kills[phase] += process.returncode == -signal.SIGKILL
            self.score.writing += writing

    def underway(self, process: ForkedMain, phase: str) -> bool:
        """Waits for a phase, then for a random number of its files; False if the process ended before."""
        choices = (
            (0, 1, 1, 2) if phase == PHASES[-1] else (0, 1, 1, 2, 3, 4)
        )  # an export is two: folder and note
        wanted, seen, old = self.chance.choice(choices), set(), set()
        while process.poll() is None and PHASES.index(self.phase() or PHASES[-1]) < PHASES.index(phase):
            time.sleep(POLL_SECONDS)
            old = self.temporary()
        while process.poll() is None and len(seen) < wanted and self.phase() == phase:
            time.sleep(POLL_SECONDS)
            seen |= self.temporary() - old
        if wanted == 0:  # while it starts, builds and traces
            time.sleep(self.chance.uniform(0.0, 4.0))
        elif self.chance.random() > WRITE_SHARE:
            time.sleep(self.chance.uniform(0.0, 0.5))
        return process.poll() is None

    def interrupt(self, phase: str) -> None:
        """SIGTERM: the state is saved, the exit code is the signal's."""
        process = self.start()
        if self.underway(process, phase) and self._holds(process):
            process.send_signal(signal.SIGTERM)
            self._expect(process, 128 + signal.SIGTERM, "stopped by SIGTERM")
            self.score.faults["SIGTERM"] += 1

    def second_process(self, phase: str) -> None:
        """Another process on the folder stops at once and disturbs nothing; the first one is killed then."""
        first = self.start()
        self._holds(first)
        second = self.start()
        self._expect(second, 1, f"in use by process {first.pid}")
        self.score.faults["second process"] += 1
        self.kill(phase, first)

    def _holds(self, process: ForkedMain) -> bool:
        """Waits until a process has the folder's lock; False if it ended before."""
        while process.poll() is None:
            with contextlib.suppress(FileDamaged):  # it is being written
                if read_json(os.path.join(self.folder, "run.lock")).get("pid") == process.pid:
                    return True
            time.sleep(POLL_SECONDS)
        return False

    def move(self) -> None:
        """The folder gets another name."""
        moved = f"{self.folder}_"
        os.rename(self.folder, moved)
        self.folder = moved
        self.score.faults["moved"] += 1

    def damage(self, phase: str) -> None:
        """Spoils the newest checkpoint of a phase that is not finished."""
        folder = os.path.join(self.folder, phase, "checkpoints")
        steps = sorted(glob.glob(os.path.join(glob.escape(folder), "step_????????")))
        if not steps:
            return
        kind = self.chance.choice(list(DAMAGE))
        DAMAGE[kind](steps[-1])
        self.score.faults[f"checkpoint {kind}"] += 1

    def fill(self, phase: str) -> None:
        """The disk is full: one line, exit code 1, and it goes on when there is room."""
        if not os.path.ismount(os.path.dirname(self.folder)):
            return
        process, filler = self.start(), os.path.join(os.path.dirname(self.folder), "filler")
        if self.underway(process, phase):
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            self._expect(process, 1, "the disk is full")
            os.remove(filler)
            self.score.faults["disk full"] += 1

    # --- the end ----------------------------------------------------------------------------------

    def outcome(self) -> dict[str, Any]:
        """What two runs must have in common."""
        store = LabelStore(os.path.join(self.folder, "pseudo_labels"))
        phases = {name: read_json(os.path.join(self.folder, name, "result.json")) for name in TRAINED}
        found = {f"weights of the {name}": result["weights_sha256"] for name, result in phases.items()}
        shards = sorted(glob.glob(os.path.join(store.folder, "*.tfrecord")))
        found["labels"] = [file_sha256(path) for path in shards]
        found["ids"] = store.names()
        summary = read_json(os.path.join(self.folder, "summary.json"))
        found["numbers"] = [summary["pseudo_labels"], summary["images_seen"]]
        note = read_json(os.path.join(self.folder, "export", "export.json"))
        found["export"] = [note["weights_sha256"], sorted(note["files"])]
        left = self.temporary() | set(glob.glob(f"{self.folder}/*.lock"))
        found["left over"] = sorted(os.path.basename(path) for path in left)
        return found

    def compare(self, expected: dict[str, Any]) -> None:
        """Notes what differs from the undisturbed run."""
        if self.score.wrong:
            return
        found = self.outcome()
        times = collections.Counter(found["ids"])
        self.score.double += sum(count - 1 for count in times.values())
        self.score.lost += len(set(expected["ids"]) - set(times))
        for name in expected:
            if found[name] != expected[name]:
                self.score.wrong.append(f"{self.task}: {name}: {found[name]}, undisturbed {expected[name]}")


def _flip(path: str) -> None:
    with open(path, "r+b") as file:
        content = bytearray(file.read())
        content[len(content) // 2] ^= 0x10
        file.seek(0)
        file.write(content)


DAMAGE: dict[str, Callable[[str], None]] = {
    "truncated": lambda folder: os.truncate(os.path.join(folder, "state.data-00000-of-00001"), 100),
    "of length zero": lambda folder: os.truncate(os.path.join(folder, "state.index"), 0),
    "flipped": lambda folder: _flip(os.path.join(folder, "state.data-00000-of-00001")),
    "with garbage JSON": lambda folder: _flip(os.path.join(folder, "checkpoint.json")),
    "without a file": lambda folder: os.remove(os.path.join(folder, "model.json")),
}


if __name__ == "__main__":
    main()
