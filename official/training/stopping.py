"""Ctrl-C and SIGTERM: at a step's end where there is state to save, elsewhere at once; never in silence."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; what it had done is on disk. No `except Exception` swallows it."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class _Handlers:
    """Replaces the handlers of both signals while a `with` block runs."""

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Handlers:
        for number in SIGNALS:
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: nobody can send us a signal here
                pass
        return self

    def __exit__(self, *unused: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        raise NotImplementedError


class StopAtOnce(_Handlers):
    """Turns SIGINT and SIGTERM into Interrupted, wherever the program is: no file is half-written."""

    def _note(self, number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        words = f"stopped by {name}: nothing is half-written. The same command goes on from what is done."
        raise Interrupted(words, number)


class StopRequest(_Handlers):
    """Turns SIGINT and SIGTERM into a wish, looked at between steps; a second SIGINT stops at once.

    Python's own handlers wait until the current call returns, and TensorFlow's first step compiles for
    minutes. So a thread reads the signals from a pipe that the C handler writes to, answers at once,
    and ends the process on the second SIGINT.
    """

    def __init__(self, what: str = "step") -> None:
        """Args: what: the piece of work that is finished first, for the message."""
        super().__init__()
        self.what = what
        self.signal_number = 0
        self._watcher: _Watcher | None = None

    def __enter__(self) -> StopRequest:
        super().__enter__()
        if self._previous:
            self._watcher = _Watcher(self.what)
        return self

    def __exit__(self, *unused: Any) -> None:
        if self._watcher is not None:
            self._watcher.close()
        super().__exit__()

    def _note(self, number: int, frame: Any) -> None:
        self.signal_number = number

    def check(self, done: str) -> None:
        """Raises Interrupted, with what has been saved and how to go on, if a signal has come."""
        if self.signal_number:
            name = signal.Signals(self.signal_number).name
            words = f"stopped by {name}: {done}. The same command goes on from here."
            raise Interrupted(words, self.signal_number)


class _Watcher:
    """The thread that answers signals while the main thread is inside a long call."""

    def __init__(self, what: str) -> None:
        self.what, self._came = what, 0
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        signal.set_wakeup_fd(self._previous)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    def _run(self) -> None:
        while numbers := os.read(self._read, 64):
            for number in numbers:
                self._answer(number)

    def _answer(self, number: int) -> None:
        if number not in SIGNALS:
            return
        name, self._came = signal.Signals(number).name, self._came + 1
        if self._came == 1:
            _say(f"{name}: stopping after this {self.what}; Ctrl-C again stops at once")
        elif number == signal.SIGINT:
            _say("stopped at once; the same command goes on from the last saved state")
            os._exit(128 + number)


def _say(text: str) -> None:
    print(f"\n{text}", file=sys.stderr, flush=True)
