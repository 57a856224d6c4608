"""Judging and labelling on two replicas give what one gives: every picture once, in order, also in uneven batches."""

import numpy as np
import pytest
import tensorflow as tf

from official.models.replicas import spread
from official.tasks.registry import build_task
from official.training.distribution import judging_scope
from tests import tiny
from tests.training.test_step import two_replicas


@pytest.fixture(scope="module", params=tuple(tiny.TASKS))
def models(request):
    """(task, one model, the same on two replicas, seven labelled pictures); batches of three."""
    name = request.param
    source = tiny.scenes_source(task=name, count=7)
    task = build_task(tiny.experiment(task=name, eval_batch_size=3, label_scales="1"), source.categories)
    tf.keras.utils.set_random_seed(1)
    one = task.build_model()
    generator = np.random.default_rng(0)
    for variable in one.variables:
        if "predict" in variable.name or "classifier" in variable.name:
            variable.assign(generator.normal(0, 0.3, variable.shape))
    with judging_scope(two_replicas()):
        two = task.build_model()
    for variable, value in zip(two.variables, one.variables):
        variable.assign(value.numpy())
    assert two.distribute_strategy.num_replicas_in_sync == 2
    return task, one, two, source


def same(a, b):
    assert set(a) == set(b)
    for name in a:
        if isinstance(a[name], dict):
            same(a[name], b[name])
        elif isinstance(a[name], str):
            assert a[name] == b[name]
        else:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_metrics(models, tmp_path):
    task, one, two, source = models
    a, b = (task.evaluate(model, source, str(tmp_path / name)) for name, model in (("a", one), ("b", two)))
    same(a, b)


def test_labels(models):
    task, one, two, source = models
    if task.name not in tiny.SELF_TRAINED:
        pytest.skip("makes no labels")
    labels = [list(task.label(model, source.without_labels(), 1, 6)) for model in (one, two)]
    assert len(labels[0]) == len(labels[1]) == 5
    for a, b in zip(*labels):
        if task.name == "segmentation":
            assert (a["mask"] == b["mask"]).mean() > 0.999
        else:
            same(a, b)


def test_the_rows_come_back_in_order():
    with two_replicas().scope():
        model = tf.keras.Sequential([tf.keras.layers.Dense(1, use_bias=False, input_shape=(1,), kernel_initializer="ones")])
    double = spread(model, lambda x, y: {"sum": model(x) + y, "x": x})
    for count in (1, 2, 5, 8):
        x = tf.reshape(tf.range(count, dtype=tf.float32), [count, 1])
        found = double(x, 10 * x)
        np.testing.assert_array_equal(found["sum"], 11 * x)
        np.testing.assert_array_equal(found["x"], x)
