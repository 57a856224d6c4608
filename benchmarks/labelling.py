"""Labelling images/s at 640 pixels: our decoder beside keras-cv's default `predict`, same networks.

python -m benchmarks.labelling [efficientnet-b0]
"""

from __future__ import annotations

import sys

import tensorflow as tf

from benchmarks.peers import our_trainer, random_source, seconds_each, stock_batch, stock_model
from official.tasks.detection import detection_function

SIZE, BATCH, ROUNDS = 640, 1, 3


def main() -> None:
    """Prints both, and how long our network and our decoding take alone."""
    backbone = sys.argv[1] if len(sys.argv) > 1 else "efficientnet-b0"
    trainer, stock = our_trainer(backbone, SIZE, BATCH), stock_model(backbone, SIZE)
    images, _ = stock_batch(random_source(SIZE), BATCH)
    extent = tf.fill([BATCH, 2], float(SIZE))
    detect = detection_function(trainer.model, trainer.task.decoder(0.05))
    network = tf.function(lambda x: trainer.model({"images": x}, training=False))

    @tf.function
    def stock_predict(x):
        return stock.decode_predictions(stock(x, training=False), x)

    seconds = seconds_each(
        {
            "stock": lambda: stock_predict(images)["boxes"].numpy(),
            "ours": lambda: detect(images, extent)["boxes"].numpy(),
            "our network": lambda: network(images)["box"].numpy(),
        },
        ROUNDS,
    )
    print(
        f"{backbone} {SIZE} px: stock {BATCH / seconds['stock']:.3f} images/s, ours "
        f"{BATCH / seconds['ours']:.3f} images/s, ratio {seconds['stock'] / seconds['ours']:.1f}; our "
        f"decoding takes {1 - seconds['our network'] / seconds['ours']:.0%} of our time"
    )


if __name__ == "__main__":
    main()
