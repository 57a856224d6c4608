"""Runs the runs of a study: several processes here, and other machines that share the folder.

Every run is a process of its own, `main.py --flagfile=…/flags.cfg --model_dir=…/run`, so it is what a person
would have started, and it goes on where it was if it was killed. Who works on a run holds `claim.lock` in its
folder (official/lock.py: a dead holder's is taken over). A run that failed leaves `failed.json` with the end
of its log; those that do not need it go on. One whose loss was not finite any more has diverged, which is a
result: it is not tried again.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import glob
import math
import os
import re
import signal
import subprocess
import sys
import time
from types import MappingProxyType
from typing import Any, Callable, Mapping

from official.errors import UserError
from official.files import read_json, whole_file, write_json
from official.lock import Locked, folder_lock
from official.report.curves import read_curves
from official.study.plan import RUN, RUNS, Plan, Run, flagfile
from official.study.spec import CURVES
from official.training.guard import NOT_FINITE
from official.training.stopping import Interrupted, StopRequest

CLAIM, FAILED, DONE, LOG, FLAGFILE = "claim.lock", "failed.json", "done.json", "log.txt", "flags.cfg"
RECORD = "runs.json"
DIVERGED = "diverged_at"  # key of a result: the step at which the loss was not finite any more
POINTS = 40  # of a loss over the steps
POLL_SECONDS = 0.5
_SHOWN = 12  # lines of a log
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclasses.dataclass
class _Working:
    run: Run
    process: subprocess.Popen
    stack: contextlib.ExitStack
    began: float


def folder(root: str, key: str) -> str:
    """Where a run of the study is; it trains in `run` below."""
    return os.path.join(root, RUNS, key)


def result(root: str, key: str) -> dict[str, Any] | None:
    """What a finished run found: "seconds", "phase" and its metrics; None if its folder is not there or not
    finished.
    """
    path = os.path.join(folder(root, key), DONE)
    return read_json(path) if os.path.isfile(path) else None


class Ledger:
    """What is known of the runs of a plan.

    A finished run keeps its result in its folder, and every report keeps those of its study in
    `<root>/<study>/runs.json`. The folders may be gone (they are large), or the file may have come from
    another machine: such a result counts, and the run is made again only if another one starts from it.
    """

    def __init__(self, root: str, plan: Plan) -> None:
        self._root, self._plan = root, plan
        self._kept: dict[str, dict[str, Any]] = {}
        for path in sorted(glob.glob(os.path.join(glob.escape(root), "*", RECORD))):
            self._kept.update(read_json(path))

    def result(self, key: str) -> dict[str, Any] | None:
        """What a run found, see the function `result`; None if nobody knows."""
        found = result(self._root, key)
        return found if found is not None else self._kept.get(key)

    def results(self) -> dict[str, dict[str, Any]]:
        """The results that are known, by the key of their run: what `runs.json` holds."""
        found = {key: self.result(key) for key in self._plan.runs}
        return {key: _without_place(value) for key, value in found.items() if value is not None}

    def trained(self) -> set[str]:
        """Keys of the runs whose folders are finished: others can start from them."""
        return {key for key in self._plan.runs if os.path.isfile(os.path.join(folder(self._root, key), DONE))}

    def missing(self) -> set[str]:
        """Keys of the runs that are still to be made: cells without a result, and what those start from."""
        trained, wanted = self.trained(), set()  # type: set[str], set[str]
        waiting = [key for key in self._plan.results.values() if key not in trained and key not in self._kept]
        while waiting:
            key = waiting.pop()
            if key not in wanted and key not in trained:
                wanted.add(key)
                waiting.extend(self._plan.runs[key].needs)
        return wanted

    def finished(self) -> int:
        """How many runs of the plan are not missing."""
        return len(self._plan.runs) - len(self.missing())


def _without_place(found: dict[str, Any]) -> dict[str, Any]:
    """Without where the weights lie, which is true on one machine alone; the run's key says it."""
    own = found.get("result")
    if not isinstance(own, dict):
        return found
    return {**found, "result": {name: value for name, value in own.items() if name != "checkpoint"}}


def work(
    root: str,
    plan: Plan,
    workers: int,
    *,
    without: Mapping[str, str] = MappingProxyType({}),
    say: Callable[[str], None] = print,
    after: Callable[[], object] = lambda: None,
) -> dict[str, str]:
    """Runs what is missing, `workers` at a time; returns key -> reason of those that failed or could not
    begin.

    Args:
      without: runs that are not tried, each with the reason.
      say: takes a line whenever a run begins or ends.
      after: called when a run has ended.

    Raises:
      Interrupted: a signal came; the runs were told to save and have ended.
    """
    with StopRequest("save of the runs") as stop:
        return _Pool(root, plan, workers, say, after, without).work(stop)


class _Pool:
    """The processes of this machine."""

    def __init__(
        self,
        root: str,
        plan: Plan,
        workers: int,
        say: Callable[[str], None],
        after: Callable[[], object],
        without: Mapping[str, str],
    ) -> None:
        self.root, self.plan, self.say, self.after = root, plan, say, after
        self.ledger = Ledger(root, plan)
        self.workers, self.working = workers, []  # type: int, list[_Working]
        self.failed = dict(without)
        self.elsewhere: set[str] = set()

    def work(self, stop: StopRequest) -> dict[str, str]:
        """See the function `work`."""
        try:
            while not stop.signal_number:
                self._collect()
                done, missing = self.ledger.trained(), self.ledger.missing()
                waiting = [
                    run for key, run in self.plan.runs.items() if key in missing and key not in self._busy()
                ]
                blocked = {run.key: self._blocker(run) for run in waiting if self._blocker(run)}
                ready = [
                    r
                    for r in waiting
                    if r.key not in blocked and r.key not in self.failed and done.issuperset(r.needs)
                ]
                self._begin(ready)
                if not self.working and not any(
                    r.key not in blocked and r.key not in self.failed for r in waiting
                ):
                    return {
                        **self.failed,
                        **{key: f"needs {why}, which failed" for key, why in blocked.items()},
                    }
                time.sleep(POLL_SECONDS)
            self._end_all()
            words = "stopped: the runs at work have saved; the same command goes on from what is done"
            raise Interrupted(words, stop.signal_number)
        finally:
            self._end_all()

    def _busy(self) -> set[str]:
        return {working.run.key for working in self.working}

    def _blocker(self, run: Run) -> str:
        """The run without which this one cannot begin and that has failed, if there is one."""
        for key in run.needs:
            if key in self.failed or DIVERGED in (self.ledger.result(key) or {}):
                return key
            found = self._blocker(self.plan.runs[key])
            if found:
                return found
        return ""

    def _begin(self, ready: list[Run]) -> None:
        for run in ready:
            if len(self.working) >= self.workers:
                return
            stack = contextlib.ExitStack()
            try:
                stack.enter_context(folder_lock(folder(self.root, run.key), CLAIM))
                with folder_lock(os.path.join(folder(self.root, run.key), RUN)):
                    pass  # a run whose study was killed may still be saving
            except Locked:
                stack.close()
                if run.key not in self.elsewhere:
                    self.say(f"{run.key}: another process is at work on it")
                    self.elsewhere.add(run.key)
                continue
            if result(self.root, run.key) is not None:  # it was finished while the lock was waited for
                stack.close()
                continue
            self.working.append(_Working(run, self._process(run), stack, time.time()))
            self.say(f"begins    {run.key}  {run.title}")

    def _process(self, run: Run) -> subprocess.Popen:
        place = folder(self.root, run.key)
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(place, FAILED))
        with (
            whole_file(os.path.join(place, FLAGFILE)) as temporary,
            open(temporary, "w", encoding="utf-8") as file,
        ):
            file.write(flagfile(run, self.root))
        command = [
            *own_command(),
            f"--flagfile={os.path.join(place, FLAGFILE)}",
            f"--model_dir={os.path.join(place, RUN)}",
        ]
        with open(os.path.join(place, LOG), "ab") as log:
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment(),
                start_new_session=True,
                preexec_fn=_with_parent,  # Ctrl-C comes to us alone; we tell the others
            )

    def _environment(self) -> dict[str, str]:
        """One core per process, where there are as many processes as cores: small networks run best so."""
        threads = str(max(1, (os.cpu_count() or 1) // self.workers))
        names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
        return {**dict.fromkeys(names, threads), **os.environ}

    def _collect(self) -> None:
        for working in list(self.working):
            code = working.process.poll()
            if code is None:
                continue
            self.working.remove(working)
            try:
                self._note(working, code)
            finally:
                working.stack.close()
            self.after()

    def _note(self, working: _Working, code: int) -> None:
        run, place, seconds = working.run, folder(self.root, working.run.key), time.time() - working.began
        if code in (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT):
            self.say(f"stopped   {run.key}")
            return
        reason = _reason(place, code)
        found = _summary(place, run) if code == 0 else _diverged(run, reason)
        if found is None:
            write_json(
                os.path.join(place, FAILED), {"code": code, "reason": reason, "log": os.path.join(place, LOG)}
            )
            self.failed[run.key] = reason
            self.say(f"FAILED    {run.key}: {reason.splitlines()[-1] if reason else f'code {code}'}")
            return
        more = {"curves": _curves(place, run), "wall_seconds": round(seconds, 1)}
        write_json(os.path.join(place, DONE), {**found, **more})
        how = f"diverged at step {found[DIVERGED]}" if DIVERGED in found else "finished "
        self.say(f"{how} {run.key}  {run.title}: {seconds:.0f} s")

    def _end_all(self) -> None:
        for working in self.working:
            with contextlib.suppress(ProcessLookupError):
                working.process.terminate()
        for working in self.working:
            working.process.wait()
            working.stack.close()
        self.working.clear()


def _with_parent() -> None:
    """In a child, before it starts: if the parent is killed, the kernel tells it to save and end (on
    Linux).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def own_command() -> list[str]:
    """How this program was started, without its flags."""
    main = os.path.join(
        os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "main.py"
    )
    return [sys.executable, main]


def _summary(place: str, run: Run) -> dict[str, Any] | None:
    """What the run's summary says of its phase; None if there is none."""
    path = os.path.join(place, RUN, "summary.json")
    try:
        summary: Mapping[str, Any] = read_json(path)
    except UserError:
        return None
    content = summary.get("pseudo_labels") if run.kind == "labels" else summary.get(run.phase)
    if content is None:
        return None
    more = {"pseudo_labels": summary["pseudo_labels"]} if "pseudo_labels" in summary else {}
    return {
        "phase": run.phase,
        "result": content,
        "seconds": summary["seconds"],
        "versions": summary["versions"],
        **more,
    }


def _diverged(run: Run, reason: str) -> dict[str, Any] | None:
    """What is kept of a run that ended because its loss was not finite any more: a result, too."""
    # In the last line: those before it may be of an earlier start, which failed of something else.
    found = re.search(rf"{NOT_FINITE} (\d+)", reason.splitlines()[-1])
    return {"phase": run.phase, "result": {}, DIVERGED: int(found[1])} if found else None


def _curves(place: str, run: Run) -> dict[str, list[tuple[int, float]]]:
    """The losses of a run over its steps, at most so many points of each, for the figures."""
    curves, found = read_curves(os.path.join(place, RUN, run.phase)), {}
    for name in CURVES:
        points = curves.get(f"train/{name}", [])
        kept = points[:: max(1, -(-len(points) // POINTS))]
        found[name] = [(step, float(f"{value:.4g}")) for step, value in kept if math.isfinite(value)]
    return {name: points for name, points in found.items() if points}


def _reason(place: str, code: int) -> str:
    try:
        with open(os.path.join(place, LOG), "rb") as file:
            file.seek(max(0, os.path.getsize(file.name) - 20_000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return f"code {code}"
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return "\n".join([f"code {code}", *lines[-_SHOWN:]])
