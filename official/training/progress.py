"""What a phase shows of itself while it trains: a bar or lines of a log (official/screen.py), and how long it
takes.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Callable, Iterator, Mapping

from official.screen import Bar, Pace, duration, number, stamped

MEASURED_STEPS = 20  # after the first one, which builds the graph; then the time is told
SHOWN_METRICS = 3


class PhaseProgress:
    """The progress of one phase. Steps are told to it where their loss is known, which waits for them.

    What comes between steps (evaluations, checkpoints) is timed apart, so that the rate is that of the steps,
    and the time that is left counts what is still to come of it.
    """

    def __init__(
        self,
        phase: str,
        steps: int,
        *,
        first: int,
        images: int,
        every: Mapping[str, int],
        shown: bool = True,
        told: Callable[[float, float, int], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        first: steps that earlier starts have taken; images: of a step, over all streams.
        every: steps between two of what comes between them, by name; 0: it never comes.
        told: (seconds of the first step, of one after it, steps left) -> what to say, once they are measured.
        """
        self.phase, self.steps, self.first, self.images = phase, steps, first, images
        self._every, self._told, self._shown, self._clock = every, told, shown, clock
        self._pauses = {name: [0, 0.0] for name in every}  # how many, seconds
        self._bar = Bar(phase, steps, "steps", first=first, shown=shown, clock=clock)
        self._began, self._first_step, self._score = clock(), 0.0, ""
        self._since = (0.0, 0)

    def __enter__(self) -> PhaseProgress:
        self._bar.__enter__()
        return self

    def __exit__(self, *unused: object) -> None:
        self._bar.__exit__(*unused)

    def building(self, words: str) -> None:
        """Before the first step: what is built, and how long that takes."""
        self._bar.show(words, now=True)

    def step(self, step: int, loss: float) -> None:
        """So many steps are done; the first one tells how long the building took."""
        bar = self._bar
        bar.done = step
        if step == self.first + 1:
            self._first_step = self._clock() - self._began
            bar.pace = Pace(step, self._clock)
            self._measured_from(step)
            return bar.show(f"loss {loss:.3f}, the first step took {duration(self._first_step)}", now=True)
        bar.pace.mark(step)
        self._tell(step)
        bar.show(
            ", ".join(filter(None, (f"loss {loss:.3f}", *self._speed(step), self._score))),
            now=step == self.steps,
        )

    @contextlib.contextmanager
    def between(self, name: str) -> Iterator[None]:
        """Times something that comes between steps."""
        self._bar.pace.pause()
        try:
            yield
        finally:
            seconds = self._bar.pace.go_on()
            pause = self._pauses[name]
            pause[0], pause[1] = pause[0] + 1, pause[1] + seconds
            self._since = (self._since[0] + seconds, self._since[1])

    def evaluated(
        self, step: int, metrics: Mapping[str, Any], names: tuple[str, ...], more: str = ""
    ) -> None:
        """Shows an evaluation's result: the numbers that `names` name, and `more` words."""
        found = [f"{name} {metrics[name]:.3f}" for name in names[:SHOWN_METRICS] if name in metrics]
        self._score = f"{found[0]} at step {step}" if found else ""
        if self._shown:
            stamped(", ".join([f"{self.phase}: step {step} of {self.steps}", *found, *filter(None, [more])]))

    def seconds_left(self, step: int) -> float | None:
        """Of this phase, with what comes between its steps as far as it has been seen; None before it is
        known.
        """
        each = self._bar.pace.seconds_each()
        if each is None:
            return None
        left = each * (self.steps - step)
        for name, every in self._every.items():
            count, seconds = self._pauses[name]
            if count:
                to_come = self.steps // every - step // every if every else 0
                left += seconds / count * to_come
        return left

    # --- inside -----------------------------------------------------------------------------------

    def _speed(self, step: int) -> tuple[str, ...]:
        each, left = self._bar.pace.seconds_each(), self.seconds_left(step)
        if not each or left is None:
            return ()
        rate = f"{number(self.images / each)} images/s"
        return (rate, f"{duration(left)} left") if step < self.steps else (rate,)

    def _measured_from(self, step: int) -> None:
        self._since = (self._clock(), step)

    def _tell(self, step: int) -> None:
        """Once: how long a step takes, from the first twenty or more after the one that built the graph."""
        since, before = self._since
        if self._told is None or step - before < MEASURED_STEPS:
            return
        text = self._told(self._first_step, (self._clock() - since) / (step - before), self.steps - step)
        self._told = None
        if text and self._shown:
            stamped(text)
