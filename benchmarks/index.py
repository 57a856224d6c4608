"""How long a large set of TFRecords takes to open: without an index, while it is made, and with it.

    python -m benchmarks.index --records=1281167 --files=128 --folder=/tmp/records

Each opening is a process of its own; what is said of memory is its peak less that of the imports.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf


def write(folder: str, count: int, files: int) -> None:
    """Records of one box each in small PNGs, so that what is measured is the work per record."""
    from official.data.formats.tfrecord import encode_example

    os.makedirs(folder, exist_ok=True)
    image = tf.io.encode_png(np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)).numpy()
    objects = {"boxes": [[1, 2, 9, 10]], "classes": [0], "crowd": [0], "area": [64.0], "scores": [1.0]}
    message = encode_example(image, "0000000", "a.jpg", (16, 16), objects, ["thing"]).SerializeToString()
    for file in range(files):
        with tf.io.TFRecordWriter(os.path.join(folder, f"data-{file:05d}")) as writer:
            for number in range(file, count, files):
                writer.write(message.replace(b"0000000", b"%07d" % number))


def opened(word: str, index: str) -> dict[str, float]:
    """Opens the word; seconds, CPU seconds and peak memory in MiB."""
    from official.data.sources import ReadOptions, open_source

    tf.io.decode_image(tf.io.encode_png(np.zeros([4, 4, 3], np.uint8)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, cpu = time.time(), time.process_time()
    source = open_source(word, ReadOptions(index_dir=index))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "records": len(source),
        "seconds": round(time.time() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_MiB": round((peak - before) / 1024),
    }


def main() -> None:
    """Writes what is missing, and prints a row an opening."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--open", default="")
    parser.add_argument("--plain", action="store_true", help="also opens without an index")
    options = parser.parse_args()
    word, index = f"tfrecord:{options.folder}/data-*", os.path.join(options.folder, "index")
    if options.open:
        print(json.dumps(opened(word, index if options.open == "index" else "")))
        return
    if not glob.glob(os.path.join(options.folder, "data-*")):
        write(options.folder, options.records, options.files)
    size = sum(os.path.getsize(path) for path in glob.glob(os.path.join(options.folder, "data-*")))
    print(f"{size / 2**20:.0f} MiB of records")
    rows = [("no index", "none")] if options.plain else []
    for what, kind in (*rows, ("making the index", "index"), ("with the index", "index")):
        command = [sys.executable, "-m", "benchmarks.index", f"--folder={options.folder}", f"--open={kind}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(f"{what}: {said.strip().splitlines()[-1]}", flush=True)
    print(f"index: {sum(os.path.getsize(p) for p in glob.glob(os.path.join(index, '*'))) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
