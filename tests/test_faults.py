"""The fault program with a few kills; the figures of many are in the README."""

import pytest

from benchmarks import faults


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_run_survives_whatever_happens_to_it(task):
    score = faults.disturb(task, kills=5, per_phase=1, seed=1)
    assert score.wrong == [] and score.lost == 0 and score.double == 0
    assert score.kills.total() >= 5 and score.faults["second process"] and score.faults["moved"]


def test_a_difference_is_noticed(tmp_path):
    """The comparison itself: labels twice, labels lost, other weights, a file left over."""
    run = faults.Run("detection", str(tmp_path))
    expected = {"weights of the teacher": "a", "ids": ["1", "2", "3"], "left over": []}
    for found, wrong, lost, double in (
        ({}, 0, 0, 0),
        ({"ids": ["1", "2", "2", "3"]}, 1, 0, 1),
        ({"ids": ["1"]}, 1, 2, 0),
        ({"weights of the teacher": "b", "left over": ["run.lock"]}, 2, 0, 0),
    ):
        run.score = faults.Score()
        run.outcome = lambda found=found: {**expected, **found}
        run.compare(expected)
        assert (len(run.score.wrong), run.score.lost, run.score.double) == (wrong, lost, double)
