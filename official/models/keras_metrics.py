"""Values of Keras' metrics, keras-cv's COCO metrics among them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def metric_values(metric: tf.keras.metrics.Metric, *, final: bool = False) -> dict[str, Any]:
    """A metric's values by name; several of a metric that gives a dict.

    Args:
      final: computes keras-cv's COCO metrics now, whatever their `evaluate_freq`; outside of graphs. Nothing of
        those that have seen no image.
    """
    if final and hasattr(metric, "evaluate_freq"):
        if not metric.predictions:
            return {}
        return dict(metric.result(force=True))
    result = metric.result()
    return dict(result) if isinstance(result, dict) else {metric.name: result}
