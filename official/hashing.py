"""Integer hashes in TensorFlow, the same bits on every device and under XLA: seeds, streams, and a keyed
permutation.

A stream of random numbers is named by words (the run's seed, what it is for, epoch, layer ...). Adding such
words makes streams meet (layer 3 of seed 0 is layer 2 of seed 1), so they are hashed, one after the other.
"""

from __future__ import annotations

import hashlib
import math

import tensorflow as tf

LARGEST = 2**62  # of `permuted`'s sizes
_SMALL = 20  # 20! is the last factorial below 2^62
_ROUNDS = 8


def named_seed(*words: int | str) -> int:
    """A seed in [0, 2^63) from any words, in Python; see also `hashed`."""
    text = "/".join(str(word) for word in words)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def mixed(bits: tf.Tensor) -> tf.Tensor:
    """MurmurHash3's 32-bit finaliser, uint32: a bijection in which every input bit moves every output bit."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint32)))
        bits = bits * tf.constant(factor, tf.uint32)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32)))


def hashed(*words: int | tf.Tensor) -> tf.Tensor:
    """uint32 of the words' broadcast shape; the order of the words counts.

    Args:
      words: Python integers or integer tensors; 64-bit ones count with both halves.
    """
    bits = tf.constant(0x243F6A88, tf.uint32)
    for word in words:
        for half in _halves(word):
            bits = mixed(bits + tf.constant(0x9E3779B9, tf.uint32) + mixed(half))
    return bits


def hashed_key(*words: int | tf.Tensor) -> tf.Tensor:
    """int32 [2], a key for TensorFlow's stateless draws; all 64 bits depend on the words."""
    return tf.bitcast(tf.stack([hashed(half, *words) for half in (0, 1)]), tf.int32)


def _halves(word: int | tf.Tensor) -> list[tf.Tensor]:
    if isinstance(word, int):
        word = _tensor(word)
    if word.dtype.size < 8:
        return [tf.cast(word, tf.uint32)]
    wide = tf.bitcast(word, tf.uint64)
    low = tf.bitwise.bitwise_and(wide, tf.constant(0xFFFFFFFF, tf.uint64))
    return [
        tf.cast(low, tf.uint32),
        tf.cast(tf.bitwise.right_shift(wide, tf.constant(32, tf.uint64)), tf.uint32),
    ]


def _tensor(word: int) -> tf.Tensor:
    return tf.constant((word + 2**63) % 2**64 - 2**63, tf.int64)


def permuted(index: tf.Tensor, size: int, seed: int | tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    """Where a permutation of 0 .. size - 1 that (seed, epoch) names takes `index`; no memory is kept.

    Up to 20 elements there are few permutations, so epochs walk through all of them in a shuffled order
    before one comes again. Above, a Feistel network whose rounds are keyed by the hash of (seed, epoch)
    permutes the next power of two, and is repeated until it falls below `size` (fewer than two times in the
    mean). TensorFlow's own `index_shuffle` keeps so few bits of its key for small sizes that orders come
    again after 256 epochs, and that many seeds share theirs.

    Args:
      index: int64, any shape, in [0, size).
      size: at least 1, at most `LARGEST`.
      seed: any Python integer, or an int64 tensor that broadcasts to the shape of `index`.
      epoch: int64, shape that broadcasts to that of `index`.

    Returns:
      int64, shape of `index`.
    """
    return _permuted(index, size, _tensor(seed) if isinstance(seed, int) else seed, epoch)


@tf.function(autograph=False)  # hundreds of operations: every dataset of a process calls the same graph
def _permuted(index: tf.Tensor, size: int, seed: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    if size > _SMALL:
        return _below(index, size, _round_keys(seed, epoch))
    count = math.factorial(size)
    rank = _below(epoch % count, count, _round_keys(seed))
    place = index
    for last in range(
        1, size
    ):  # a permutation is its rank's digits, each a transposition of `last` with one before
        other = rank // math.factorial(last) % (last + 1)
        place = tf.where(place == last, other, tf.where(place == other, tf.constant(last, tf.int64), place))
    return place


def _round_keys(*words: int | tf.Tensor) -> list[tf.Tensor]:
    """Two independent hashes of the words, one for the even and one for the odd rounds, make a key for every
    round.
    """
    even, odd = hashed(*words, 0), hashed(*words, 1)
    return [
        mixed((odd if number % 2 else even) + tf.constant(number * 0x9E3779B9 % 2**32, tf.uint32))
        for number in range(_ROUNDS)
    ]


def _below(index: tf.Tensor, size: int, keys: list[tf.Tensor]) -> tf.Tensor:
    """A bijection of [0, size) that the keys choose."""
    bits = max(2, (size - 1).bit_length())
    place = _feistel(index, bits, keys)
    walk = tf.while_loop(
        lambda place: tf.reduce_any(place >= size),
        lambda place: (tf.where(place >= size, _feistel(place, bits, keys), place),),
        (place,),
        shape_invariants=(place.shape,),
    )
    return walk[0]


def _feistel(place: tf.Tensor, bits: int, keys: list[tf.Tensor]) -> tf.Tensor:
    """A bijection of [0, 2^bits): the halves are mixed into each other in turn."""
    low_bits = bits // 2
    low, high = place % 2**low_bits, place // 2**low_bits
    for even, odd in zip(keys[::2], keys[1::2]):
        low = tf.bitwise.bitwise_xor(
            low, tf.cast(mixed(tf.cast(high, tf.uint32) + even), tf.int64) % 2**low_bits
        )
        high = tf.bitwise.bitwise_xor(
            high, tf.cast(mixed(tf.cast(low, tf.uint32) + odd), tf.int64) % 2 ** (bits - low_bits)
        )
    return high * 2**low_bits + low
