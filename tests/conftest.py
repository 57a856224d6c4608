"""Two logical CPU devices for replica tests, and a tiny experiment that every test can train."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
import tensorflow as tf
from tensorflow.python.framework import config as _config

_cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(_cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from tests import tiny  # noqa: E402


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
