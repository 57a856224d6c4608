"""Starts `main.py` again and again from one process that has imported TensorFlow: a start costs a fork, not
the imports.

`ForkedMain(arguments)` behaves as `subprocess.Popen([sys.executable, "main.py", *arguments])` does where
tests need it. With `export=False` a training job ends without an exported model; the environment's
HANGS_BEFORE=module:function names a call that a run never comes back from.
TensorFlow is imported before the fork but not started: its threads begin in the child.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HANGS_BEFORE = "TESTS_HANGS_BEFORE"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class ForkedMain:
    """One run of main.py in a process of its own.

    Attributes:
      pid, returncode, stderr (the path of the file that it writes to).
    """

    def __init__(
        self, arguments: list[str], *, export: bool = True, environment: dict[str, str] | None = None
    ):
        handle, self.stderr = tempfile.mkstemp(suffix=".stderr")
        os.close(handle)
        self.returncode: int | None = None
        self.pid = _ask(
            {"start": arguments, "stderr": self.stderr, "export": export, "environment": environment or {}}
        )

    def poll(self) -> int | None:
        """The exit code, as `Popen.returncode` has it; None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal unless the run has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float = 400.0) -> tuple[None, bytes]:
        """Waits for the end and returns what was written to stderr."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"main.py ran for more than {timeout} seconds")
            time.sleep(0.02)
        with open(self.stderr, "rb") as file:
            return None, file.read()


@functools.lru_cache(maxsize=1)
def _server() -> subprocess.Popen:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": ROOT}
    command = [sys.executable, os.path.abspath(__file__)]
    server = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    atexit.register(server.kill)
    return server


def _ask(request: dict) -> int | None:
    server = _server()
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what imports print is no answer
    import main  # noqa: F401
    from official import jobs  # noqa: F401
    from tests import tiny  # noqa: F401

    gc.freeze()  # as in conftest.py; and what is not looked through stays shared with the forks
    gc.set_threshold(50_000, 20, 20)
    for line in sys.stdin:
        request = json.loads(line)
        answer = _started(**request) if "start" in request else _polled(request["poll"])
        print(json.dumps(answer), file=answers, flush=True)


def _started(start: list[str], stderr: str, export: bool, environment: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no run outlives the tests
        for target, path in ((0, os.devnull), (1, os.devnull), (2, stderr)):
            os.dup2(os.open(path, os.O_RDWR), target)
        os.environ.update(environment)
        _run_main(start, export)
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run_main(arguments: list[str], export: bool) -> None:
    import main
    from tests import tiny

    if os.environ.get(HANGS_BEFORE):
        _hang_before(*os.environ[HANGS_BEFORE].split(":"))
    with contextlib.nullcontext() if export else tiny.without_export():
        main.start(["main.py", *arguments])


def _hang_before(module: str, function: str) -> None:
    """The run comes to this call and no further."""
    setattr(importlib.import_module(module), function, lambda *_, **__: time.sleep(3600))


def _polled(pid: int) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


if __name__ == "__main__":
    _serve()
