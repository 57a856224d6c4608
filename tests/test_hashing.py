"""Laws of the hashes and of the keyed permutation: bijective, distinct for every seed and epoch, evenly
spread.
"""

import numpy as np
import pytest
import tensorflow as tf

from official.hashing import hashed, named_seed, permuted


def orders(size, seeds, epochs, shown):
    """[seeds * epochs, shown] first places of every order."""
    seed, epoch = (np.ravel(part)[:, None] for part in np.meshgrid(seeds, epochs, indexing="ij"))
    index = tf.tile(tf.range(shown, dtype=tf.int64)[None], [len(seed), 1])
    run = tf.function(lambda *args: permuted(args[0], size, *args[1:]))
    return run(index, tf.constant(seed, tf.int64), tf.constant(epoch, tf.int64)).numpy()


@pytest.mark.parametrize("size", [1, 2, 3, 10, 20, 21, 100, 1000, 1024, 1025])
def test_every_order_is_a_permutation(size):
    for order in orders(size, [7], [0, 1, 5_000_000_000], size):
        assert sorted(order) == list(range(size))


@pytest.mark.parametrize("size", [10, 100, 1_281_167])
def test_orders_do_not_come_again(size):
    """10! is 3.6 million: of 2,000 seeds chance alone lets one or two share their first order; epochs never
    do.
    """
    found = orders(size, [3], range(2000), min(size, 100))
    assert len({row.tobytes() for row in found}) == 2000
    found = orders(size, np.arange(2000), [0], min(size, 100))
    assert len({row.tobytes() for row in found}) >= 1995


@pytest.mark.parametrize("size", [3, 10, 25, 1_281_167])
def test_places_and_neighbours_are_evenly_spread(size):
    """Chi-square of where elements 0 and 1 go over 2,000 epochs, and of the step between them (p = 0.001)."""
    bins = min(size, 10)
    found = orders(size, [11], range(2000), 2)
    step = (found[:, 1] - found[:, 0]) % size
    for values, count in ((found[:, 0], bins), (found[:, 1], bins)):
        counts, _ = np.histogram(values, bins=count, range=(0, size))
        share = np.diff(np.ceil(np.linspace(0, size, count + 1))) / size * 2000
        assert ((counts - share) ** 2 / share).sum() < {3: 13.8, 10: 27.9}[count]
    if size > 3:
        edges = np.linspace(1, size, 10)
        counts, _ = np.histogram(step, bins=edges)
        share = np.diff(np.ceil(edges)) / (size - 1) * 2000
        assert ((counts - share) ** 2 / share).sum() < 26.1  # 8 degrees of freedom


def test_all_orders_of_four_elements_come_once():
    found = orders(4, [5], range(24), 4)
    assert len({tuple(row) for row in found}) == 24


def test_the_same_under_xla():
    epoch, index = tf.constant([[0], [9]], tf.int64), tf.tile(tf.range(7, dtype=tf.int64)[None], [2, 1])
    run = lambda: permuted(index, 1000, 3, epoch)  # noqa: E731
    np.testing.assert_array_equal(tf.function(run)(), tf.function(run, jit_compile=True)())


def test_words_are_told_apart():
    """Neither sums nor the order of words nor 64-bit halves make two names one."""
    words = [(0, 3), (1, 2), (2, 1), (3, 0), (3,), (0, 0, 3), (2**32, 3), (3, 2**32), (-1, 3)]
    assert len({int(hashed(*w)) for w in words}) == len(words)
    assert len({named_seed(*w) for w in [(1, "a"), (1, "b"), (2, "a"), ("1a",), (11, "a")]}) == 5
    table = hashed(tf.range(200)[:, None], tf.range(200)[None]).numpy()
    assert len(np.unique(table)) > 39_990  # of 40,000; 0.2 collisions expected


def test_the_hash_by_hand():
    """MurmurHash3's finaliser of 1 is 0x514E28B7 (its authors' reference)."""
    from official.hashing import mixed

    assert int(mixed(tf.constant(1, tf.uint32))) == 0x514E28B7 and int(mixed(tf.constant(0, tf.uint32))) == 0
