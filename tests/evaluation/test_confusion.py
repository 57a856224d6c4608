"""Which class is taken for which, by hand."""

import numpy as np

from official.evaluation.confusion import box_confusion
from official.evaluation.evaluated import EvaluatedBoxes
from tests.evaluation.test_coco_metrics import found, truth


def test_by_hand():
    """Class 1 is called 5 by the surer box, so the box of the right class beside it is on no object; image 2:
    one missed, a crowd.
    """
    ground_truth = truth(
        [
            (1, 1, [10, 10, 20, 20], 0),
            (2, 5, [50, 50, 20, 20], 0),
            (2, 1, [10, 10, 20, 20], 0),
            (2, 1, [60, 60, 30, 30], 1),
        ]
    )
    rows = [
        (1, 5, [10, 10, 20, 20], 0.9),
        (1, 1, [11, 10, 20, 20], 0.8),
        (2, 1, [10, 11, 20, 20], 0.7),
        (2, 1, [61, 61, 9, 9], 0.6),
        (2, 5, [50, 50, 20, 20], 0.1),
    ]
    evaluated = EvaluatedBoxes(ground_truth, found(*rows))
    assert box_confusion(evaluated, 0.5).tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert box_confusion(evaluated, 0.05).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_all_objects_and_boxes_are_counted_once():
    from tests.evaluation.test_coco_scores import random_set

    ground_truth, results = random_set(3)
    evaluated = EvaluatedBoxes(ground_truth, results)
    counts = box_confusion(evaluated, 0.3)
    assert counts[:-1].sum() == sum(not a["iscrowd"] for a in ground_truth["annotations"])
    kept = (evaluated.matched.found.score >= 0.3) & ~evaluated.matched.ignored[:, 0, 0]
    assert counts[:, :-1].sum() == kept.sum() and counts[-1, -1] == 0
    assert np.trace(counts) > 0 and counts[:-1, -1].any()
