"""Evaluating and labelling on two replicas give what one gives: every image once, in order, also in uneven
batches.
"""

import numpy as np
import pytest
import tensorflow as tf

from official.models import replicas
from official.models.replicas import spread
from official.tasks.registry import build_task
from official.training.distribution import evaluation_scope
from tests import tiny
from tests.training.test_step import SQUEEZING, two_replicas


def tasks():
    """Pre-training's evaluation goes through the same code, before a release."""
    return [pytest.param(t, marks=[pytest.mark.slow] * (t not in tiny.SELF_TRAINED)) for t in tiny.TASKS]


@pytest.fixture(scope="module", params=tasks())
def models(request):
    """(task, one model, the same on two replicas, seven labelled images); batches of three."""
    name = request.param
    source = tiny.scenes_source(task=name, count=7)
    task = build_task(
        tiny.experiment(task=name, eval_batch_size=3, label_scales="1", **SQUEEZING), source.categories
    )
    tf.keras.utils.set_random_seed(1)
    one = task.build_model()
    generator = np.random.default_rng(0)
    for variable in one.variables:
        if "predict" in variable.name or "classifier" in variable.name:
            variable.assign(generator.normal(0, 0.3, variable.shape))
    with evaluation_scope(two_replicas()):
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
            assert (a.mask == b.mask).mean() > 0.999
        else:
            same(vars(a), vars(b))


def test_every_program_of_a_tpu_compiles(models, monkeypatch, tmp_path):
    """Evaluation and labelling with XLA for all that a TPU would run give what they give without; shapes are
    static.
    """
    task, one, _, source = models
    shapes = []

    def by_xla(function):
        def noting(*tensors):
            shapes.extend(tensor.shape for tensor in tensors)
            return function(*tensors)

        return tf.function(noting, jit_compile=True, autograph=False)

    on_tpu = build_task(task.experiment.with_flags({"tpu": "local"}), task.categories)
    metrics = task.evaluate(one, source, str(tmp_path / "a"))
    labels = list(task.label(one, source.without_labels(), 1, 5)) if task.name in tiny.SELF_TRAINED else []
    monkeypatch.setattr(replicas, "compiled", by_xla)
    monkeypatch.setattr(one, "programs", replicas.Programs(one), raising=False)
    same(on_tpu.evaluate(one, source, str(tmp_path / "b")), metrics)
    for a, b in zip(on_tpu.label(one, source.without_labels(), 1, 5) if labels else (), labels):
        if task.name == "segmentation":
            assert (a.mask == b.mask).mean() > 0.999
        else:
            same(vars(a), vars(b))
    assert shapes and all(shape.is_fully_defined() for shape in shapes)


@pytest.mark.parametrize("name", tuple(tiny.TASKS))
def test_batches_are_numbers_of_static_shapes(name):
    """No text reaches a step: a TPU has no strings."""
    source = tiny.scenes_source(task=name)
    task = build_task(tiny.experiment(task=name), source.categories)
    spec = task.training_dataset(
        source, batch_size=8, replica_batch_size=4, seed=0, stream="human"
    ).element_spec
    for tensor in tf.nest.flatten(spec):
        assert tensor.dtype.is_floating or tensor.dtype.is_integer
        assert tensor.shape.is_fully_defined() and tensor.shape[0] == 4


def test_the_rows_come_back_in_order():
    with two_replicas().scope():
        model = tf.keras.Sequential(
            [tf.keras.layers.Dense(1, use_bias=False, input_shape=(1,), kernel_initializer="ones")]
        )
    double = spread(model, lambda x, y: {"sum": model(x) + y, "x": x})
    for count in (1, 2, 5, 8):
        x = tf.reshape(tf.range(count, dtype=tf.float32), [count, 1])
        found = double(x, 10 * x)
        np.testing.assert_array_equal(found["sum"], 11 * x)
        np.testing.assert_array_equal(found["x"], x)
