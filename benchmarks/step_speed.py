"""The training step beside TF Model Garden's, beside its own forward and backward pass, and determinism on
beside off.

    python -m venv mgenv && mgenv/bin/pip install tensorflow==2.15.1 tf-models-official==2.15.0
    python -m benchmarks.step_speed --model_garden=mgenv/bin/python            # the table, one thread
    python -m benchmarks.step_speed --model_garden=mgenv/bin/python --only=b0  # one row

Every side is a process of its own; they take turns, and ratios are medians over the turns of CPU seconds (one
thread).
"""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks.turns import in_turn

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS = (sys.executable, "-m", "benchmarks.our_step")
# name: (arguments of both, steps a turn, [(side, ours?, arguments)]), the side that the others are compared
# with first.
QUICK = ("--quickstart", "--size=128", "--batch=8")
GARDEN = [
    ("Model Garden, labels made inside", False, ()),
    ("Model Garden, labels ready", False, ("--encode_outside",)),
]
BF16 = [
    ("Model Garden, float32", False, ()),
    ("Model Garden, rewriter", False, ("--bfloat16=rewriter",)),
    ("ours, float32", True, ()),
    ("ours, bfloat16", True, ("--precision=bfloat16",)),
]
ROWS = {
    "b0": (("--size=256", "--batch=4"), 2, [*GARDEN, ("ours", True, ())]),
    "b0_bfloat16": (("--size=256", "--batch=4"), 2, BF16),
    "b7": (("--backbone=b7", "--size=256", "--batch=1"), 1, [*GARDEN[:1], ("ours", True, ())]),
    "b7_640": (("--backbone=b7", "--size=640", "--batch=1"), 1, [*GARDEN[:1], ("ours", True, ())]),
    "quickstart": (QUICK, 20, [("forward and backward alone", True, ("--bare",)), ("ours", True, ())]),
    "determinism": (QUICK, 20, [("off", True, ("--nodeterministic",)), ("on", True, ())]),
    "fed_determinism": (QUICK, 20, [("off", True, ("--nodeterministic", "--fed")), ("on", True, ("--fed",))]),
    "b0_determinism": (
        ("--size=256", "--batch=4"),
        2,
        [("off", True, ("--nodeterministic",)), ("on", True, ())],
    ),
}


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model_garden",
        default="",
        help="a Python that has tf-models-official; without it its rows are left out",
    )
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    garden = (options.model_garden, os.path.join("benchmarks", "model_garden.py"))
    print(
        "| row | side | ms a step, CPU | ms, wall | first side / this | parameters | largest MB "
        "|\n|---|---|---|---|---|---|---|"
    )
    for row in options.only.split(","):
        shared, steps, sides = ROWS[row]
        commands = {
            name: [*(OURS if own else garden), *shared, *more]
            for name, own, more in sides
            if own or options.model_garden
        }
        for name, side in in_turn(commands, rounds=options.rounds, steps=steps, cwd=ROOT).items():
            print(
                f"| {row} | {name} | {1e3 * side['cpu']:.1f} | {1e3 * side['wall']:.1f} | "
                f"{side['ratio']:.3f} | {side['parameters']:,} | {side['megabytes']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
