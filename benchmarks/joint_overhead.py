"""What the joint step costs beyond a supervised step on the same number of images.

python -m benchmarks.joint_overhead
"""

from __future__ import annotations

from benchmarks.peers import our_trainer, seconds_each

BACKBONE, SIZE, BATCH, ROUNDS = "efficientnet-b0", 128, 16, 15


def main() -> None:
    """8 human + 8 pseudo images beside 16 human images."""
    supervised = our_trainer(BACKBONE, SIZE, BATCH)
    joint = our_trainer(BACKBONE, SIZE, BATCH // 2, pseudo=True, pseudo_batch=BATCH // 2)
    supervised_batch, joint_batch = next(supervised.batches()), next(joint.batches())
    seconds = seconds_each(
        {
            "supervised": lambda: float(supervised.train_step(supervised_batch)["loss"]),
            "joint": lambda: float(joint.train_step(joint_batch)["loss"]),
        },
        ROUNDS,
    )
    overhead = seconds["joint"] / seconds["supervised"] - 1
    print(
        f"{BACKBONE} {SIZE} px, {BATCH} images a step: supervised {seconds['supervised']:.3f} s, "
        f"joint {seconds['joint']:.3f} s, overhead {overhead:+.1%}"
    )


if __name__ == "__main__":
    main()
