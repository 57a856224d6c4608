"""A quickstart over several seeds: teacher, fair control and student, and their mean differences.

    python -m benchmarks.quickstart_seeds --out=runs/seeds [--config=quickstart] [--seeds=0,1,2,3,4]
    [--table_only]

Seeds that were run with --nocontrol show no control.

A seed decides the weights, the order of the data and every random draw; the images stay the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(out: str, config: str, seed: int) -> None:
    """Runs (or goes on with) the quickstart of one seed."""
    folder = os.path.join(os.path.abspath(out), f"seed{seed}")
    command = [
        sys.executable,
        "main.py",
        f"--flagfile=configs/{config}.cfg",
        f"--seed={seed}",
        f"--model_dir={folder}",
    ]
    subprocess.run(command, cwd=ROOT, check=True)


def table(out: str, seeds: list[int]) -> str:
    """A Markdown table of AP by seed."""
    lines = [
        (
            "| seed | teacher | control | student | student - teacher | student - control | pseudo labels | "
            "minutes |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for seed in seeds:
        with open(os.path.join(out, f"seed{seed}", "summary_self_train.json"), encoding="utf-8") as file:
            summary = json.load(file)
        metric = "AP" if "AP" in summary["teacher"] else "mIoU"
        teacher, control, student = (
            summary.get(name, {}).get(metric, np.nan) for name in ("teacher", "control", "student")
        )
        rows.append((teacher, control, student, student - teacher, student - control))
        labels = summary["pseudo_labels"]
        amount = (
            f"{labels['boxes']} boxes" if "boxes" in labels else f"{labels['labelled_pixels']:.0%} of pixels"
        )
        lines.append(f"| {seed} |{_cells(rows[-1])} {amount} | {summary['seconds']['total'] / 60:.1f} |")
    return "\n".join([*lines, f"| mean |{_cells(np.nanmean(rows, axis=0))} | |"])


def _cells(values) -> str:
    """The first three as they are, the differences with a sign, a dash for what was not run."""
    texts = [f"{v:.3f}" for v in values[:3]] + [f"{v:+.3f}" for v in values[3:]]
    return "".join(f" {'-' if np.isnan(v) else text} |" for v, text in zip(values, texts))


def main() -> None:
    """Runs the seeds one after the other and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/seeds")
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--table_only", action="store_true")
    options = parser.parse_args()
    seeds = [int(s) for s in options.seeds.split(",")]
    for seed in [] if options.table_only else seeds:
        run(options.out, options.config, seed)
    print(table(options.out, seeds))


if __name__ == "__main__":
    main()
