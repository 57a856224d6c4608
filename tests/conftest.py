"""Two logical CPU devices for replica tests, and a tiny experiment that every test can train."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# XLA still compiles the whole step, with all its rewriting of the graph (fusion and so on), and the compiled kernels
# are what runs; only LLVM, which took nine tenths of the time, does not optimise the machine code.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest
import tensorflow as tf
from tensorflow.python.framework import config as _config

_cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(_cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from tests import tiny  # noqa: E402

# A traced graph is a million objects that live on; looking through them every 700 new ones is a tenth of the time.
gc.freeze()
gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def scenes():
    """Sixteen labelled pictures of 64 pixels."""
    return tiny.scenes_source()


@pytest.fixture(autouse=True)
def global_switches():
    """Leaves precision policy and op determinism, which jobs set, as they were."""
    yield
    tf.keras.mixed_precision.set_global_policy("float32")
    _config.disable_op_determinism()
