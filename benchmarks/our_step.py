"""This project's training step as a side of `benchmarks.step_speed`; `--bare` is its forward and backward
pass alone.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks import peers, turns
from official.data.scenes import CLASSES as SCENES
from official.experiment import experiment_from
from official.training.distribution import set_up_runtime

# The network of configs/quickstart.cfg, with the classes of its scenes.
QUICKSTART = dict(
    backbone_width=0.25,
    backbone_depth=0.25,
    survival_probability=1.0,
    max_level=5,
    fpn_filters=32,
    head_filters=32,
    head_convs=1,
    anchor_scale=2.5,
    max_boxes=16,
    batch_norm_momentum=0.97,
    backbone_batch_norm_momentum=0.97,
    optimizer="adam",
    learning_rate=2e-2,
    warmup_steps=100,
    warmup_learning_rate=1e-4,
    weight_decay=1e-5,
)


def bare(trainer):
    """The network's forward pass and the gradients of all its weights, from a sum of squares in place of the
    loss.
    """

    @tf.function
    def passes(images):
        with tf.GradientTape() as tape:
            outputs = trainer.model({"images": images}, training=True)
            loss = tf.add_n([tf.nn.l2_loss(value) for value in outputs.values()])
        gradients = tape.gradient(loss, trainer.variables)
        return loss + tf.add_n(
            [tf.reduce_sum(gradient[..., :1]) for gradient in gradients]
        )  # needs every one of them

    return passes


def main() -> None:
    """Serves steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="b0")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--nodeterministic", action="store_true")
    parser.add_argument("--quickstart", action="store_true")
    parser.add_argument("--bare", action="store_true")
    parser.add_argument(
        "--fed", action="store_true", help="by the input pipeline, with augmentation, instead of one batch"
    )
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    flags = dict(deterministic=not options.nodeterministic, precision=options.precision)
    set_up_runtime(experiment_from(flags).runtime)
    if options.quickstart:
        peers.CLASSES = len(SCENES)
    own = {
        **(QUICKSTART if options.quickstart else {}),
        **({"augment": "s1"} if options.fed else {}),
        **flags,
    }
    trainer = peers.our_trainer(f"efficientnet-{options.backbone}", options.size, options.batch, **own)
    batches, passes = trainer.batches(), bare(trainer)
    batch = next(batches)

    def step():
        if options.bare:
            return float(passes(batch["human"]["images"]))
        return float(trainer.train_step(next(batches) if options.fed else batch)["loss"])

    turns.serve(step, {"parameters": sum(int(np.prod(v.shape)) for v in trainer.variables)})


if __name__ == "__main__":
    main()
