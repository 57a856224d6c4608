"""Programs that take turns: each waits in its own process, so that environments may differ and a slow spell
hits all.

Imports nothing but the standard library: the sides run in environments of their own, where `official` is
another package.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any, Callable, Mapping, Sequence

MARK = "turn "  # lines of a side that are not chatter


def serve(step: Callable[[], object], about: Mapping[str, Any] | None = None, *, warm: int = 2) -> None:
    """A side: warms up, says what it is, then takes steps whenever it is told to how many.

    Args:
      step: does one piece of work, to its end.
      about: what the table may want to know.
    """
    started = time.time()
    for _ in range(warm):
        step()
    _say({**(about or {}), "warm_seconds": round(time.time() - started, 1)})
    for line in sys.stdin:
        count = int(line)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        _say({"wall": wall / count, "cpu": cpu / count, "megabytes": memory})


def _say(content: Mapping[str, Any]) -> None:
    print(MARK + json.dumps(content), flush=True)


def in_turn(
    sides: Mapping[str, Sequence[str]], *, rounds: int, steps: int, cwd: str
) -> dict[str, dict[str, Any]]:
    """Starts the sides one after the other, then lets them take turns.

    Args:
      sides: name -> command of a program that calls `serve`.
      rounds: turns of each side; steps: pieces of work in a turn.

    Returns:
      By name: "wall" and "cpu", median seconds a step; "ratio", the median of (first side's CPU seconds / its
        own), round by round;
      "megabytes", the process' largest; and what the side said about itself.
    """
    running = {name: _start(command, cwd) for name, command in sides.items()}
    found = {name: {**_hear(process), "turns": []} for name, process in running.items()}
    for _ in range(rounds):
        for name, process in running.items():
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
            found[name]["turns"].append(_hear(process))
    for process in running.values():
        process.stdin.close()
        process.wait()
    first = next(iter(found.values()))["turns"]
    for side in found.values():
        turns = side.pop("turns")
        side.update({what: statistics.median(turn[what] for turn in turns) for what in ("wall", "cpu")})
        side["megabytes"] = turns[-1]["megabytes"]
        side["ratio"] = statistics.median(a["cpu"] / b["cpu"] for a, b in zip(first, turns))
    return found


def _start(command: Sequence[str], cwd: str) -> subprocess.Popen:
    return subprocess.Popen(list(command), cwd=cwd, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _hear(process: subprocess.Popen) -> dict[str, Any]:
    """The next thing that a side says; raises RuntimeError where it has ended instead."""
    for line in process.stdout:
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    raise RuntimeError(f"{process.args} has ended with {process.wait()}")
