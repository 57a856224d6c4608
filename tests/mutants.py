"""Are the tests any good? Puts one bug at a time into a copy of the tree and says which bugs no test notices.

    python -m tests.mutants                          # every mutant of tests/mutants.txt
    python -m tests.mutants --only=mask-not-flipped  # some, by name; a word picks all that begin with it
    python -m tests.mutants --file=augment/          # those of some files

Run by hand; exit code 1 if a mutant survives, no longer fits its file, or cannot be evaluated. TensorFlow
is imported once and every mutant gets a fork of that process. mutmut and cosmic-ray start a new Python
for every mutant (6 s of imports here before the first test, and their thousands of unchosen mutants
would each pay it), so neither is fast enough; the mutants here are chosen, each one a bug that somebody
could make, with the tests that must notice.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import signal
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLE = os.path.join(ROOT, "tests", "mutants.txt")
LEFT_OUT = (".git", "__pycache__", ".pytest_cache", ".venv", "venv")
LEFT_OUT_AT_THE_ROOT = ("runs", "weights")  # what runs leave there
PYTEST = (
    "-x", "-q", "--no-header", "-o", "addopts=", "-p", "no:xdist", "-p", "no:cacheprovider",
    "--import-mode=importlib",
)  # fmt: skip
PASSED, FAILED = 0, 1  # pytest's exit codes; others mean that no test could evaluate


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One bug.

    Attributes:
      name: unique.
      file: from the root of the project.
      old, new: a piece of one line that occurs once in the file, and what it becomes.
      tests: files or node ids that must notice.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied_to(self, text: str) -> str:
        """The mutated text.

        Raises:
          ValueError: `old` does not occur exactly once.
        """
        found = list(re.finditer(re.escape(self.old), text)) or list(re.finditer(broken(self.old), text))
        if len(found) != 1:
            raise ValueError(f"stale: {self.old!r} occurs {len(found)} times in {self.file}")
        return text[: found[0].start()] + self.new + text[found[0].end() :]


def broken(old: str) -> str:
    """A pattern of the old text wherever its line was broken: white space between its parts, a comma before what closes."""
    parts = [re.escape(part) for part in re.findall(r"\w+|[^\w\s]", old)]
    return r"\s*".join(rf",?\s*{part}" if part in (r"\)", r"\]", r"\}") else part for part in parts)


def read_table(path: str = TABLE) -> list[Mutant]:
    """The mutants of a text file; its head says how it is written.

    Raises:
      ValueError: a line that cannot be understood, with its number.
    """
    found, file, tests, own, name, old = [], "", (), (), "", None
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            mark, _, rest = line.strip().partition(" ")
            if not mark or mark.startswith("#"):
                continue
            if mark == "file":
                file, tests, name = rest.strip(), (), ""
            elif mark == "tests" and name and old is None:
                own = tuple(rest.split())
            elif mark == "tests" and file and not tests:
                tests = tuple(rest.split())
            elif mark == "-" and name and old is None:
                old = rest
            elif mark == "+" and old is not None:
                found.append(Mutant(name, file, old, rest, own or tests))
                name, own, old = "", (), None
            elif not rest and file and not name:
                name = mark
            else:
                raise ValueError(f"{path}:{number}: {line.strip()!r} is out of place")
    return found


# --- a process that has imported TensorFlow, and its forks -------------------------------------------


def _left_out(folder: str, names: list[str]) -> set[str]:
    """What a copy of the tree does without."""
    own = LEFT_OUT_AT_THE_ROOT if os.path.samefile(folder, ROOT) else ()
    return {name for name in names if name in own} | set(shutil.ignore_patterns(*LEFT_OUT)(folder, names))


def import_once() -> None:
    """What takes long to import and is not ours; none of it may start TensorFlow's threads."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.dont_write_bytecode = True  # a mutant has the size and the second of its neighbour
    import keras_cv  # noqa: F401
    import pycocotools.cocoeval  # noqa: F401
    import pytest  # noqa: F401
    import tensorflow_addons  # noqa: F401
    import tensorflow_datasets  # noqa: F401


def start(tree: str, tests: tuple[str, ...], log: str) -> int:
    """Runs tests of a tree in a fork with its own process group; returns the process id."""
    process = os.fork()
    if process:
        return process
    os.setsid()
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 3
    try:
        import pytest

        os.chdir(tree)
        sys.path[:] = [tree] + [p for p in sys.path if p and os.path.abspath(p) != ROOT]
        for module in [m for m in sys.modules if m == "tests" or m.startswith("tests.")]:
            del sys.modules[module]  # of the tree that is not mutated
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        # A test that is named by itself is run even if it is slow.
        chosen = [] if all("::" in test for test in tests) else ["-m", "not slow"]
        code = int(pytest.main([*PYTEST, *chosen, *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


@dataclasses.dataclass
class Job:
    """Tests to run in a copy of the tree, with a mutant or without, and how it went."""

    tests: tuple[str, ...]
    mutant: Mutant | None = None
    code: int | None = None  # pytest's exit code, negative for a signal
    seconds: float = 0.0
    said: str = ""
    before: str = ""  # the file without the mutant

    def prepare(self, tree: str) -> None:
        """Puts the mutant into the copy."""
        if self.mutant:
            self.before = _read(tree, self.mutant.file)
            _write(tree, self.mutant.file, self.mutant.applied_to(self.before))

    def restore(self, tree: str) -> None:
        """Takes the mutant out again."""
        if self.mutant:
            _write(tree, self.mutant.file, self.before)

    @property
    def verdict(self) -> str:
        """One word for a mutant."""
        if self.said.startswith("stale"):
            return "STALE"
        return {PASSED: "SURVIVED", FAILED: "killed"}.get(self.code, "BROKEN")


def _read(tree: str, file: str) -> str:
    with open(os.path.join(tree, file), encoding="utf-8") as opened:
        return opened.read()


def _write(tree: str, file: str, text: str) -> None:
    with open(os.path.join(tree, file), "w", encoding="utf-8") as opened:
        opened.write(text)


def run(jobs: list[Job], trees: list[str], timeout: float, report) -> None:
    """Runs jobs, one per tree at a time; a run that does not end in time counts as noticed.

    Args:
      report: is called with every job when it is done.
    """
    waiting, free, running = list(jobs), list(trees), {}
    while waiting or running:
        while waiting and free:
            job, tree = waiting.pop(0), free.pop()
            try:
                job.prepare(tree)
            except ValueError as error:
                job.said = str(error)
                free.append(tree)
                report(job)
                continue
            running[start(tree, job.tests, tree + ".log")] = (job, tree, time.time())
        for process, (job, tree, started) in list(running.items()):
            job.seconds = time.time() - started
            done, status = os.waitpid(process, os.WNOHANG)
            if not done and job.seconds < timeout:
                continue
            if not done:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
            job.code = os.waitstatus_to_exitcode(status) if done else FAILED
            with open(tree + ".log", encoding="utf-8", errors="replace") as file:
                job.said = file.read()
            job.restore(tree)
            del running[process]
            free.append(tree)
            report(job)
        time.sleep(0.02)


# --- the program -------------------------------------------------------------------------------------


def chosen(mutants: list[Mutant], only: str, file: str) -> list[Mutant]:
    """Those whose names begin with one of the words of `only` and whose files begin with `file`."""
    words = tuple(filter(None, only.split(",")))
    return [m for m in mutants if (not words or m.name.startswith(words)) and m.file.startswith(file)]


def plain_jobs(mutants: list[Mutant]) -> list[Job]:
    """The tests of all mutants without any mutant, a job for every test file."""
    by_file: dict[str, set[str]] = {}
    for test in {test for mutant in mutants for test in mutant.tests}:
        by_file.setdefault(test.split("::")[0], set()).add(test)
    return [
        Job((file,) if file in tests else tuple(sorted(tests))) for file, tests in sorted(by_file.items())
    ]


def print_mutant(job: Job) -> None:
    print(f"{job.verdict:<9}{job.seconds:6.1f} s  {job.mutant.name}", flush=True)
    if job.verdict in ("STALE", "BROKEN"):
        print("    " + "\n    ".join(job.said.strip().splitlines()[-15:]), flush=True)


def print_plain(job: Job) -> None:
    if job.code == PASSED:
        print(f"passes   {job.seconds:6.1f} s  {job.tests[0].split('::')[0]}", flush=True)
    else:
        print(f"FAILS without a mutant: {' '.join(job.tests)}\n{job.said[-3000:]}", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="names or beginnings of names, comma separated")
    parser.add_argument("--file", default="", help="beginning of the mutated files' paths")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds after which a mutant counts as noticed"
    )
    options = parser.parse_args(argv)
    mutants = chosen(read_table(), options.only, options.file)
    if not mutants:
        parser.error("no mutant of that name")
    started = time.time()
    import_once()
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        trees = [os.path.join(folder, str(i)) for i in range(max(1, options.jobs))]
        for tree in trees:
            shutil.copytree(ROOT, tree, ignore=_left_out)
        plain, mutated = plain_jobs(mutants), [Job(m.tests, m) for m in mutants]
        run(plain, trees, 3 * options.timeout, print_plain)
        if any(job.code != PASSED for job in plain):
            return 1
        print(f"{len(plain)} test files pass without a mutant, {time.time() - started:.0f} s", flush=True)
        run(mutated, trees, options.timeout, print_mutant)
    verdicts = [job.verdict for job in mutated]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(("killed", *verdicts)))
    print(f"{len(mutants)} mutants: {counts}; {time.time() - started:.0f} s")
    left = [job.mutant.name for job in mutated if job.verdict != "killed"]
    print("\n".join(["not killed:", *left]) if left else "no survivor")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
