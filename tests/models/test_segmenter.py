"""NAS-FPN's wiring against a table drawn by hand and an independent NumPy forward pass; the paper's sizes."""

import numpy as np
import pytest
import tensorflow as tf

from official.models.backbones.efficientnet import build_efficientnet
from official.models.pyramid import NAS_FPN_CELL, PyramidBuilder
from official.models.segmenter import Segmenter
from official.models.statistics import model_statistics

keras = tf.keras
FILTERS = 4

# Drawn by hand from the original's description: node, level, how, what it merges, what it also takes in.
WIRING = """
5  P4  attention  P4 P6
6  P4  sum        P4 5
7  P3  sum        P3 6
8  P4  sum        6 7
9  P5  attention  7 8    P5
10 P7  attention  6 9    P7
11 P6  attention  9 10
"""


def test_wiring_is_the_table():
    names = [f"P{level}" for level in range(3, 8)] + [str(n) for n in range(5, 12)]
    used = set()
    for line, node in zip(WIRING.strip().splitlines(), NAS_FPN_CELL):
        number, level, how, a, b, *unused = line.split()
        assert f"P{node.level}" == level and node.combine == how
        assert [names[i] for i in node.inputs] == [a, b]
        used |= {a, b}
        if node.output:  # earlier maps of its level that nothing has used
            levels = {f"P{l}": l for l in range(3, 8)}
            earlier = [n for n in names[: int(number)] if levels.get(n) == node.level and n not in used]
            assert earlier == unused
            used |= set(unused)
    assert [n.level for n in NAS_FPN_CELL if n.output] == [3, 4, 5, 7, 6]


def numpy_pool(x, side):
    """Max over side x side windows; SAME padding, sides that do not divide are padded at the end."""
    height, width = (-(-s // side) * side for s in x.shape[:2])
    padded = np.full((height, width, x.shape[2]), -np.inf)
    padded[: x.shape[0], : x.shape[1]] = x
    return padded.reshape(height // side, side, width // side, side, -1).max(axis=(1, 3))


def numpy_resample(x, level, target):
    if target > level:
        return numpy_pool(x, 2 ** (target - level))
    return x.repeat(2 ** (level - target), axis=0).repeat(2 ** (level - target), axis=1)


def numpy_conv3(x, kernel, bias):
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((height, width, kernel.shape[3]))
    for dy in range(3):
        for dx in range(3):
            out += padded[dy : dy + height, dx : dx + width] @ kernel[dy, dx]
    return out + bias


def numpy_cell(maps, weights):
    """One cell written out node by node; weights: node -> (kernel, bias, gamma, beta, mean, variance)."""

    def merged(how, target, a, b):
        (level_a, x), (level_b, y) = a, b
        x, y = numpy_resample(x, level_a, target), numpy_resample(y, level_b, target)
        if how == "sum":
            return x + y
        coarse, other = (y, x) if level_b > level_a else (x, y)
        return coarse + other / (1 + np.exp(-coarse.max(axis=(0, 1))))

    def finish(node, x):
        kernel, bias, gamma, beta, mean, variance = weights[node]
        x = numpy_conv3(np.maximum(x, 0), kernel, bias)
        return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta

    p = {level: (level, maps[level]) for level in maps}
    n5 = (4, finish(5, merged("attention", 4, p[4], p[6])))
    n6 = (4, finish(6, merged("sum", 4, p[4], n5)))
    n7 = (3, finish(7, merged("sum", 3, p[3], n6)))
    n8 = (4, finish(8, merged("sum", 4, n6, n7)))
    n9 = (5, finish(9, merged("attention", 5, n7, n8) + p[5][1]))
    n10 = (7, finish(10, merged("attention", 7, n6, n9) + p[7][1]))
    n11 = (6, finish(11, merged("attention", 6, n9, n10)))
    return {3: n7[1], 4: n8[1], 5: n9[1], 6: n11[1], 7: n10[1]}


def test_two_cells_equal_numpy():
    generator = np.random.default_rng(0)
    inputs = {level: keras.Input((128 >> level, 128 >> level, FILTERS)) for level in (3, 4, 5)}
    build = PyramidBuilder(filters=FILTERS, momentum=0.9, epsilon=1e-3)
    model = keras.Model(inputs, build.nas_fpn(inputs, 2))
    for variable in model.variables:
        low = 0.5 if "variance" in variable.name else -0.6
        variable.assign(generator.uniform(low, 0.9, variable.shape))
    features = {level: generator.normal(size=(128 >> level, 128 >> level, FILTERS)) for level in (3, 4, 5)}
    found = model({level: tf.constant(x[None], tf.float32) for level, x in features.items()})
    maps = dict(features)
    maps[6] = numpy_pool(maps[5], 2)
    maps[7] = numpy_pool(maps[6], 2)
    for repeat in range(2):
        weights = {}
        for node in range(5, 12):
            conv = model.get_layer(f"nas_{repeat}_node_{node}_conv")
            norm = model.get_layer(f"nas_{repeat}_node_{node}_bn")
            weights[node] = [
                v.numpy()
                for v in (
                    conv.kernel,
                    conv.bias,
                    norm.gamma,
                    norm.beta,
                    norm.moving_mean,
                    norm.moving_variance,
                )
            ]
        maps = numpy_cell(maps, weights)
    for level in maps:
        np.testing.assert_allclose(found[level].numpy()[0], maps[level], rtol=2e-4, atol=2e-4)


def tiny_segmenter(**options):
    backbone = build_efficientnet("efficientnet-b0", width=0.25, depth=0.25, survival_probability=1.0)
    return Segmenter(backbone, 5, image_size=128, fpn_filters=8, pyramid_repeats=1, head_convs=1, **options)


@pytest.mark.parametrize("pyramid", ["nas_fpn", "fpn"])
def test_any_input_size_and_save_and_load(pyramid, tmp_path):
    model = tiny_segmenter(pyramid=pyramid)
    for side in (128, 256):
        images = tf.random.stateless_normal([1, side, side, 3], [1, 2])
        assert model({"images": images})["logits"].shape == (1, side // 4, side // 4, 5)
    path = str(tmp_path / "m.keras")
    model.save(path)
    again = keras.models.load_model(path, compile=False)
    np.testing.assert_allclose(
        again({"images": images})["logits"], model({"images": images})["logits"], atol=1e-6
    )


def test_nas_fpn_compiles_under_xla_and_agrees():
    model = tiny_segmenter()
    images = tf.random.stateless_normal([2, 128, 128, 3], [3, 4])

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model({"images": images}, training=False)["logits"] ** 2)
        return [loss, *tape.gradient(loss, model.trainable_variables)]

    for a, b in zip(tf.function(step)(), tf.function(step, jit_compile=True)()):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, parameters, multiply_adds", [("efficientnet-b7", 71e6, 60e9), ("efficientnet-l2", 485e6, 229e9)]
)
def test_the_papers_sizes(name, parameters, multiply_adds):
    """Table 6, at 512 pixels: 71 M and 60 B, 485 M and 229 B.

    The released code builds EfficientNet's unused classification head along (top convolution and
    1,000 classes); only with it do the numbers agree, so the paper counts it.
    """
    model = Segmenter(build_efficientnet(name), 21, image_size=512)
    found = model_statistics(model, 512)
    assert found["parameters"] + found["unused_head_parameters"] == pytest.approx(parameters, rel=0.0105)
    assert found["multiply_adds"] == pytest.approx(multiply_adds, rel=0.05)
