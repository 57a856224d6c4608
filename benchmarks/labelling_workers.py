"""How labelling scales with processes: images per second of 1, 2, … workers, each on cores of its own.

    python -m benchmarks.labelling_workers [--workers=1,2] [--images=800] [--turns=2]

Every worker is `main.py --job=pseudo_label --num_shards=W --shard_index=I`, pinned to one core with one
thread, and all write into one store. A rate is taken from the times of a worker's shards, from the first one
on, so imports and graphs are left out; those of the workers are added. Turns alternate, and the best of each
count: what else runs on the machine takes away. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile

SHARD = 25  # images
NETWORK = [
    "--backbone=efficientnet-lite0",
    "--image_size=256",
    "--fpn_filters=64",
    "--head_filters=64",
    "--head_convs=2",
    "--init=random",
    "--drawn_images=0",
    "--eval_batch_size=8",
]


def run(arguments: list[str], core: int | None = None) -> subprocess.Popen:
    """A start of main.py, on one core."""
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.Popen(
        [*pinned, sys.executable, "main.py", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen) -> None:
    _, error = process.communicate()
    if process.returncode:
        raise SystemExit(error.decode()[-2000:])


def rate(store: str, workers: int, shards: int) -> float:
    """Images per second, from the times at which shards were there."""
    times = [os.stat(os.path.join(store, f"labels-{shard:05d}.tfrecord")).st_mtime for shard in range(shards)]
    own = [sorted(times[worker::workers]) for worker in range(workers)]
    return sum(SHARD * (len(part) - 1) / (part[-1] - part[0]) for part in own)


def measured(folder: str, workers: int, images: int, cores: list[int]) -> float:
    store = tempfile.mkdtemp(dir=folder)
    common = [
        "--job=pseudo_label",
        f"--model_dir={folder}/run",
        f"--unlabeled_data=scenes:unlabeled,count={images}",
        f"--label_store={store}/labels",
        "--score_floor=0",  # the network has learnt nothing
        "--score_threshold=0",
        f"--label_shard_size={SHARD}",
        "--compute_threads=1",
        "--threads=1",
        f"--num_shards={workers}",
    ]
    processes = [run([*common, f"--shard_index={i}"], cores[i]) for i in range(workers)]
    for process in processes:
        finish(process)
    return rate(os.path.join(store, "labels"), workers, images // SHARD)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    counts, cores = [int(n) for n in options.workers.split(",")], sorted(os.sched_getaffinity(0))
    if max(counts) > len(cores):
        parser.error(f"{max(counts)} workers need as many cores; there are {len(cores)}")
    with tempfile.TemporaryDirectory() as folder:
        data = [
            "--labeled_data=scenes:train,count=16",
            "--teacher_steps=1",
            "--batch_size=2",
            "--warmup_steps=0",
        ]
        finish(run(["--job=train", f"--model_dir={folder}/run", *data, *NETWORK]))
        found: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(options.turns):
            for count in counts:
                found[count].append(measured(folder, count, options.images, cores))
                print(f"{count} workers: {found[count][-1]:.1f} images/s", flush=True)
    best = {count: max(rates) for count, rates in found.items()}
    one = best[counts[0]] / counts[0]
    print(
        json.dumps(
            {
                count: {"images_per_s": round(v, 1), "of_linear": round(v / (count * one), 3)}
                for count, v in best.items()
            }
        )
    )


if __name__ == "__main__":
    main()
