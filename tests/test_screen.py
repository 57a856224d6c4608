"""What a job says while it works: notes on stderr, lines of a log at growing intervals, one bar on a
terminal.
"""

import io
import re
import sys

import pytest

from official import screen
from official.training.progress import PhaseProgress


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A stderr at which somebody looks."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    "seconds,words",
    [(0.25, "0.2 s"), (59.6, "60 s"), (119.4, "119 s"), (120, "2 min"), (7170, "2 h 00 min"), (3 * 3600 + 300, "3 h 05 min"),
     (47.4 * 3600, "47 h 24 min"), (52 * 3600, "2 days 4 h")],
)  # fmt: skip
def test_durations(seconds, words):
    assert screen.duration(seconds) == words


def test_the_pace_is_that_of_what_was_done_last_without_the_pauses():
    clock = Clock()
    pace = screen.Pace(5, clock)
    assert pace.seconds_each() is None
    clock.now += 4.0
    pace.mark(7)
    assert pace.seconds_each() == 2.0
    pace.pause()
    clock.now += 50.0
    assert pace.go_on() == 50.0
    clock.now += 1.0
    pace.mark(8)
    assert pace.seconds_each() == pytest.approx(5.0 / 3)
    for done in range(9, 60):  # all of the last 30 marks were a second apart
        clock.now += 1.0
        pace.mark(done)
    assert pace.seconds_each() == 1.0


def test_what_comes_in_batches_is_counted_by_the_batch():
    clock = Clock()
    with screen.Bar("labelling", 207, "images", clock=clock) as bar:
        for _ in range(4):
            for _ in range(50):
                bar.advance()
            last = bar.pace.seconds_each()
            clock.now += 10.0
        bar.skip(7)
    assert last == pytest.approx(30.0 / 150) and (bar.done, bar.new) == (207, 200)


def test_a_log_has_lines_with_the_time_at_growing_intervals(capsys):
    clock, times = Clock(), []
    with screen.Bar("looking", 100_000, "images", clock=clock) as bar:
        for _ in range(36_000):  # ten hours, an image a second
            clock.now += 1.0
            bar.advance()
            if capsys.readouterr().err:
                times.append(clock.now - 100.0)
    gaps = [b - a for a, b in zip([0.0, *times], times)]
    assert times[:3] == [10.0, 20.0, 30.0] and gaps[-1] == 600.0 and sorted(gaps) == gaps and len(times) < 110
    bar.show(bar.speed(), now=True)
    line = (
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d looking: 36000 of 100000 images, 1\.00 images/s, 17 h 47 min left\n"
    )
    assert re.fullmatch(line, capsys.readouterr().err)


def test_nothing_is_said_for_another_process(capsys):
    with screen.Bar("looking", 2, "images", shown=False) as bar:
        bar.show("", now=True)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_one_line_shows_the_work_inside_too(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    clock = Clock()
    with screen.Bar("teacher", 10, "steps", clock=clock) as outer:
        outer.done = 5
        outer.show("loss 1.000")
        for _ in screen.counted(range(3), "evaluating teacher", 3, "images"):
            clock.now += 1.0
        screen.note("a note")
    shown = sys.stderr.getvalue()
    lines = [line.strip() for line in re.split(r"[\r\n]+", shown) if line.strip()]
    assert "a note" in lines and shown.count("\n") == 1  # the note's own: no bar leaves a line behind
    assert any("teacher" in line and "evaluating teacher 3 of 3 images" in line for line in lines)
    assert "loss 1.000" in lines[-1] and not any(line.startswith("evaluating") for line in lines)
    assert screen._open == []


def test_notes_and_warnings_are_no_results(capsys):
    screen.note("said")
    screen.warn("careful")
    screen.stamped("when")
    for _ in range(3):
        screen.note_once("once said")
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"said\nWARNING: careful\n\S+ \S+ when\nonce said\n", err)


# --- a phase ----------------------------------------------------------------------------------------


def test_a_phase_tells_its_time_without_compilation_and_with_evaluations(capsys):
    """The graph takes 30 s, a step 2 s, an evaluation 15 s every 20 steps: by hand."""
    clock, told = Clock(), []
    progress = PhaseProgress(
        "teacher", 100, first=0, images=8, every={"evaluation": 20, "checkpoint": 0}, clock=clock,
        told=lambda *seconds: told.append(seconds) or "told",
    )  # fmt: skip
    with progress:
        clock.now += 30.0
        progress.step(1, 2.0)
        for step in range(2, 41):
            clock.now += 2.0
            if step % 10 == 0:
                progress.step(step, 1.0)
            if step == 20:
                with progress.between("evaluation"):
                    clock.now += 15.0
                progress.evaluated(step, {"AP": 0.25, "AP50": 0.5}, ("AP", "AP50"), "the best so far")
        assert progress.seconds_left(40) == pytest.approx(60 * 2.0 + (5 - 2) * 15.0)
    assert told == [(30.0, 2.0, 70)]
    text = capsys.readouterr().err
    assert (
        "teacher: step 1 of 100, loss 2.000, the first step took 30 s\n" in text and text.count("told") == 1
    )
    assert "teacher: step 20 of 100, AP 0.250, AP50 0.500, the best so far\n" in text
    assert "teacher: step 40 of 100, loss 1.000, 4.00 images/s, 3 min left, AP 0.250 at step 20\n" in text


def test_a_resumed_phase_counts_from_where_it_goes_on(capsys):
    clock = Clock()
    progress = PhaseProgress("student", 1000, first=500, images=16, every={}, clock=clock)
    with progress:
        clock.now += 7.0
        progress.step(501, 1.0)
        clock.now += 19.0
        progress.step(520, 1.0)
        assert progress.seconds_left(520) == pytest.approx(480.0)
