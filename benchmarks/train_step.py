"""Training images/s beside keras-cv's stock RetinaNet: same backbone, size, batch and machine.

python -m benchmarks.train_step            # B0 at 256 pixels (batch 4) and B7 at 640 (batch 1)
python -m benchmarks.train_step --small    # B0 alone
"""

from __future__ import annotations

import sys

import tensorflow as tf

from benchmarks.peers import our_trainer, random_source, seconds_each, stock_batch, stock_model

CASES = (("efficientnet-b0", 256, 4, 8), ("efficientnet-b7", 640, 1, 4))


def compare(backbone: str, size: int, batch: int, rounds: int) -> None:
    """Prints one line; stock first."""
    trainer, stock = our_trainer(backbone, size, batch), stock_model(backbone, size)
    batches = trainer.batches()
    images, boxes = stock_batch(random_source(size), batch)
    stock_step = tf.function(stock.train_step)
    fixed = next(batches)
    seconds = seconds_each(
        {
            "stock": lambda: float(stock_step((images, boxes))["loss"]),
            "ours": lambda: float(trainer.train_step(fixed)["loss"]),
        },
        rounds,
    )
    ratio = seconds["stock"] / seconds["ours"]
    print(
        f"{backbone} {size} px batch {batch}: stock {batch / seconds['stock']:.2f} images/s, "
        f"ours {batch / seconds['ours']:.2f} images/s, ratio {ratio:.2f}",
        flush=True,
    )


def main() -> None:
    """Every case in one run."""
    for case in CASES[:1] if "--small" in sys.argv else CASES:
        compare(*case)


if __name__ == "__main__":
    main()
