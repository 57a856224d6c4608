"""What a job says while it works, on stderr: notes, warnings and bars. Results alone go to stdout.

On a terminal there is one bar at a time, and a part of the work inside it (an evaluation while training)
shows in the same line. In a file or a log there are lines with the time, often at first and then more and
more seldom: at most one in 10 seconds, at least one in 10 minutes, in between one whenever a tenth of the
time has passed again.
"""

from __future__ import annotations

import collections
import functools
import os
import sys
import time
from typing import Callable, Iterable, Iterator, TypeVar

import tqdm

T = TypeVar("T")

SHORTEST, LONGEST, SHARE = (
    10.0,
    600.0,
    0.1,
)  # seconds between two lines of a log; share of the time that has passed
_BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt} of {total_fmt} {unit}{postfix}"
_open: list[Bar] = []  # outermost first


def called_as(program: str = "") -> str:
    """How this program is called: by the installed command, or as the file of a clone.

    Args:
      program: what was started; this process when empty.
    """
    return "self-train" if os.path.basename(program or sys.argv[0]) == "self-train" else "python main.py"


def note(text: str) -> None:
    """Prints a note, above the bar if there is one."""
    tqdm.tqdm.write(text, file=sys.stderr)


def warn(text: str) -> None:
    """Prints a warning, above the bar if there is one."""
    note(f"WARNING: {text}")


@functools.lru_cache(maxsize=1000)
def note_once(text: str) -> None:
    """Prints a note, once however often it is said."""
    note(text)


def stamped(text: str) -> None:
    """Prints a note about the progress of something; in a log with the time."""
    note(text if on_terminal() else f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")


def on_terminal() -> bool:
    """Whether somebody is looking."""
    return sys.stderr.isatty()


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 12 min, 3 h 05 min, 2 days 4 h."""
    if seconds < 119.5:
        return f"{seconds:.1f} s" if seconds < 1.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


class Pace:
    """How fast something goes, over what was done last; what is lost in pauses is not counted."""

    MARKS, APART = 30, 0.5  # seconds: what comes in batches is counted by the batch

    def __init__(self, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: done: how much there is when the time begins to count."""
        self._clock = clock
        self._marks: collections.deque[tuple[float, int]] = collections.deque(maxlen=self.MARKS)
        self._pause = self._away = 0.0
        self.mark(done)

    def mark(self, done: int) -> None:
        """Notes that so much is done now."""
        now = self._clock() - self._away
        if not self._marks or now - self._marks[-1][0] >= self.APART:
            self._marks.append((now, done))

    def pause(self) -> None:
        """What follows, until `go_on`, is something else."""
        self._pause = self._clock()

    def go_on(self) -> float:
        """Ends a pause; returns its seconds."""
        lost = self._clock() - self._pause
        self._away += lost
        return lost

    def seconds_each(self) -> float | None:
        """Seconds of one; None while nothing has been measured."""
        (since, before), (now, done) = self._marks[0], self._marks[-1]
        return (now - since) / (done - before) if done > before else None


class Bar:
    """The progress of one piece of work, as the module says. Use it in a `with` block."""

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        *,
        first: int = 0,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        what: is done; total: how much of it, in units called `unit`; first: how much has been done before.
        shown: False: says nothing (another process speaks).
        """
        self.what, self.total, self.unit, self.done, self.new = what, total, unit, first, 0
        self.pace = Pace(first, clock)
        self._clock, self._began, self._said = clock, clock(), clock()
        self._words, self._shown, self._built = "", shown, False
        self._bar: tqdm.tqdm | None = None

    def __enter__(self) -> Bar:
        self._outer = _open[-1] if _open else None
        _open.append(self)
        if self._shown and on_terminal() and self._outer is None:
            self._bar = tqdm.tqdm(
                desc=self.what,
                total=self.total,
                initial=self.done,
                unit=self.unit,
                bar_format=_BAR,
                leave=False,
                dynamic_ncols=True,
                mininterval=0.2,
            )
        return self

    def __exit__(self, *unused: object) -> None:
        _open.remove(self)
        if self._bar is not None:
            self._bar.close()
        elif self._outer is not None and self._outer._bar is not None:
            self._outer._said = 0.0  # at once
            self._outer.say(self._outer._words)

    def skip(self, count: int) -> None:
        """So much had been done before."""
        self.done += count
        self.pace = Pace(self.done, self._clock)

    def advance(self, count: int = 1) -> None:
        """So much more is done; the time begins to count after the first, for which things are built."""
        self.done, self.new = self.done + count, self.new + count
        if not self._built:
            self._built, self.pace = True, Pace(self.done, self._clock)
        self.pace.mark(self.done)
        self.show(self.speed())

    def speed(self) -> str:
        """How fast it goes and how long it takes, in words; empty before that is known."""
        each = self.pace.seconds_each()
        if not each:
            return ""
        return f"{number(1 / each)} {self.unit}/s, {duration(each * (self.total - self.done))} left"

    def show(self, words: str, *, now: bool = False) -> None:
        """Shows `done` with words beside it: on a terminal at once, in a log when it is time (or `now`)."""
        if not self._shown:
            return
        if self._bar is not None:
            self._bar.n = self.done
            self.say(words)
        elif self._outer is not None and self._outer._bar is not None:
            self._outer.say(f"{self.what} {self.done} of {self.total} {self.unit}", keep=False)
        elif now or self._is_time():
            self._said = self._clock()
            stamped(", ".join(filter(None, (f"{self.what}: {self._place()}", words))))

    def say(self, words: str, *, keep: bool = True) -> None:
        """Replaces the words beside a terminal's bar; those that are not kept go when the work inside is
        done.
        """
        if keep:
            self._words = words
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)
            now = self._clock()
            if now - self._said >= 0.1:
                self._said = now
                self._bar.refresh()

    def _place(self) -> str:
        if self.unit == "steps":
            return f"step {self.done} of {self.total}"
        return f"{self.done} of {self.total} {self.unit}"

    def _is_time(self) -> bool:
        now = self._clock()
        return now - self._said >= min(LONGEST, max(SHORTEST, SHARE * (now - self._began)))


def counted(things: Iterable[T], what: str, total: int, unit: str, *, shown: bool = True) -> Iterator[T]:
    """Yields what is given, and shows how far it has come."""
    with Bar(what, total, unit, shown=shown) as bar:
        for thing in things:
            yield thing
            bar.advance()


def number(value: float) -> str:
    """A rate with about three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
