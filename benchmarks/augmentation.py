"""Augmentation images/s at 640 pixels from JPEG files: S1 to S4, beside keras-cv's layers and JPEG decoding.

    python -m benchmarks.augmentation --images=FOLDER [--cores=1,2] [--seconds=4] [--profile]

    python -m benchmarks.augmentation --images=FOLDER --floor   # whole pipelines alone, beside the floor, in
    CPU seconds

Every line is one input pipeline in `tf.data` with as many threads as cores. "pixels in memory" leaves
reading and decoding out; "whole pipeline" is what training uses: read, decode, augment, pad the boxes,
batch by 8 (boxes become anchor targets in the compiled step, not here). keras-cv has no AutoAugment, and its
RandAugment moves no boxes: its nearest equivalents are flip + JitteredResize for S1 and, with one operation
of RandAugment(geometric=False) more, for S4.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras_cv  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_addons as tfa  # noqa: E402

import augment  # noqa: E402
from augment import ops  # noqa: E402
from augment.randaugment import BOX_OPERATIONS  # noqa: E402
from official.data.example import NORMALIZATION  # noqa: E402
from official.data.formats.image_folder import open_folder  # noqa: E402
from official.data.pipeline import placing, training_dataset  # noqa: E402
from official.data.source import Annotations, Category, Source  # noqa: E402

SIZE, BATCH, BOXES = 640, 8, 8


def labelled(folder: str, count: int) -> Source:
    """The first images of a folder, with eight random boxes each."""
    source = open_folder(folder)
    source = source.subset(np.arange(min(count, len(source))))
    generator, objects = np.random.default_rng(0), []
    for height, width in source.sizes:
        low = generator.uniform(0, 0.6, (BOXES, 2))
        corners = np.concatenate([low, low + generator.uniform(0.05, 0.4, (BOXES, 2))], axis=1)
        objects.append(
            {"boxes": corners * [height, width, height, width], "classes": generator.integers(0, 3, BOXES)}
        )
    return source.with_annotations(
        Annotations.from_images(objects), tuple(Category(i, str(i)) for i in range(3))
    )


def ours(source: Source, name: str, read) -> tf.data.Dataset:
    """A preset of ours on single images."""
    policy, boxes, classes = augment.policy(name), tf.constant(_boxes(source)), tf.range(BOXES)

    def load(i):
        example = {"image": read(i % len(source)), "boxes": boxes[i % len(source)], "classes": classes}
        return policy.augment(example, tf.stack([0, tf.cast(i, tf.int32)]), output_size=SIZE)["image"]

    return _mapped(load)


def stock(source: Source, name: str, read) -> tf.data.Dataset:
    """keras-cv's nearest equivalent of S1 or S4."""
    boxes, classes = tf.constant(_boxes(source)), tf.range(BOXES, dtype=tf.float32)
    jitter = (0.8, 1.2) if name == "s1" else (0.5, 2.0)
    layers = [
        keras_cv.layers.RandomFlip(bounding_box_format="yxyx"),
        keras_cv.layers.JitteredResize((SIZE, SIZE), scale_factor=jitter, bounding_box_format="yxyx"),
    ]
    if name == "s4":
        layers.insert(
            0,
            keras_cv.layers.RandAugment(
                (0, 255), augmentations_per_image=1, magnitude=0.5, rate=1.0, geometric=False
            ),
        )

    def load(i):
        example = {
            "images": read(i % len(source)),
            "bounding_boxes": {"boxes": boxes[i % len(source)], "classes": classes},
        }
        for layer in layers:
            example = layer(example)
        return example["images"]

    return _mapped(load)


def _boxes(source: Source) -> np.ndarray:
    return source.annotations.boxes.reshape(len(source), BOXES, 4)


def _mapped(load) -> tf.data.Dataset:
    return tf.data.Dataset.range(2**40).map(load, num_parallel_calls=tf.data.AUTOTUNE)


def in_memory(source: Source):
    """A reader of images that are decoded already (all of one size, cut to the smallest)."""
    images = [source.read_image(tf.constant(i, tf.int64)).numpy() for i in range(len(source))]
    height, width = np.min([p.shape[:2] for p in images], axis=0)
    kept = tf.constant(np.stack([p[:height, :width] for p in images]))
    return lambda i: kept[i]


def rate_of(dataset: tf.data.Dataset, cores: int, seconds: float) -> float:
    """Images per second, the best of three stretches."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores
    options.threading.max_intra_op_parallelism = 1
    options.autotune.cpu_budget = cores
    iterator = iter(dataset.with_options(options))
    next(iterator)
    best = 0.0
    for _ in range(3):
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds / 3:
            element = next(iterator)
            count += element["images"].shape[0] if isinstance(element, dict) else 1
        best = max(best, count / (time.perf_counter() - started))
    return best


def pipelines(source: Source) -> dict[str, callable]:
    """What is measured, by name; made one at a time so that no two run at once."""
    memory = in_memory(source)
    found = {"decode alone": lambda: _mapped(lambda i: source.read_image(i % len(source)))}
    for name in ("s1", "s2", "s3", "s4"):
        found[f"{name}, pixels in memory"] = lambda name=name: ours(source, name, memory)
    for name in ("s1", "s4"):
        found[f"{name}, keras-cv, pixels in memory"] = lambda name=name: stock(source, name, memory)
    for name in ("s1", "s2", "s3", "s4"):
        found[f"{name}, decode and augment"] = lambda name=name: ours(source, name, source.read_image)
    for name in ("none", "s1", "s2", "s3", "s4"):
        found[
            "floor: decode, fit, normalise, pad, batch" if name == "none" else f"{name}, whole pipeline"
        ] = lambda name=name: training_dataset(
            source,
            prepare=placing(augment.policy(name), image_size=SIZE),
            batch_size=BATCH,
            replica_batch_size=BATCH,
            seed=0,
            stream="benchmark",
        )
    return found


# What the original's geometric operations call; constants of level 10.
ADDONS = {
    "TranslateX": lambda image, sign: tfa.image.translate(image, [-sign * 250.0, 0.0]),
    "ShearX": lambda image, sign: tfa.image.transform(
        image, tf.stack([1.0, sign * 0.3, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    ),
    "Rotate": lambda image, sign: tfa.image.rotate(image, sign * np.pi / 6),
}


def _by_addons(function, image: tf.Tensor):
    """As the original does: a channel of ones goes along, and where it comes back as 0 the pixel is from
    outside.
    """

    def run(key):
        sign = tf.cast(key[1] % 2 * 2 - 1, tf.float32)
        moved = function(tf.concat([image, tf.ones_like(image[..., :1])], axis=-1), sign)
        return tf.where(moved[..., 3:] == 0, tf.constant(128, tf.uint8), moved[..., :3])

    return run


def profile(source: Source) -> None:
    """Milliseconds on one core for decoding, every operation of S4 and the crop."""
    image = source.read_image(tf.constant(0, tf.int64))
    example = {"image": image, "boxes": tf.constant(_boxes(source)[0]), "classes": tf.range(BOXES)}
    crop = augment.policy("none", jitter_min=0.5, jitter_max=2.0)

    def operation(name):
        return lambda key: ops.apply(example, name, level=10.0, key=key)["image"]

    cases = {name: operation(name) for name in BOX_OPERATIONS}
    cases |= {f"{name}, tensorflow-addons": _by_addons(function, image) for name, function in ADDONS.items()}
    cases["decode"] = lambda key: source.read_image(tf.constant(0, tf.int64))
    cases["jitter, crop and pad"] = lambda key: crop.augment(example, key, output_size=SIZE)["image"]
    cases["the same, normalised"] = lambda key: crop.augment(
        example, key, output_size=SIZE, normalization=NORMALIZATION
    )["image"]
    for name, function in cases.items():
        run, times = tf.function(function), []
        run(tf.constant([0, 0]))
        for k in range(30):
            started = time.perf_counter()
            run(tf.constant([0, k]))
            times.append(time.perf_counter() - started)
        print(f"{name:<28} {np.mean(times) * 1e3:7.2f} ms")


def floor(source: Source, turns: int = 5, batches: int = 30) -> None:
    """CPU milliseconds an image of the whole pipelines, which take turns, and the floor's share of each."""
    iterators = {}
    for name in ("none", "s1", "s2", "s3", "s4"):
        dataset = training_dataset(
            source,
            prepare=placing(augment.policy(name), image_size=SIZE),
            batch_size=BATCH,
            replica_batch_size=BATCH,
            seed=0,
            stream="benchmark",
            threads=1,
        )
        options = tf.data.Options()
        options.threading.private_threadpool_size = options.threading.max_intra_op_parallelism = 1
        iterators[name] = iter(dataset.with_options(options))
    times = {name: [] for name in iterators}
    for _ in range(turns):
        for name, iterator in iterators.items():
            for _ in range(5):  # what is prefetched while others are measured
                next(iterator)
            started = time.process_time()
            for _ in range(batches):
                next(iterator)
            time.sleep(0.05)  # until what is prefetched is there again
            times[name].append((time.process_time() - started) / batches / BATCH)
    for name, values in times.items():
        share = np.median(np.array(times["none"]) / values)
        print(
            f"{name:<5} {np.median(values) * 1e3:5.2f} ms an image, {1 / np.median(values):5.0f}/s, "
            f"{share:.2f} of the floor"
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True)
    parser.add_argument("--cores", default="1,2")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--floor", action="store_true")
    options = parser.parse_args()
    if options.profile or options.floor:
        tf.config.threading.set_intra_op_parallelism_threads(1)
    source = labelled(options.images, options.count)
    if options.profile or options.floor:
        (profile if options.profile else floor)(source)
        return
    cores = [int(c) for c in options.cores.split(",")]
    found = {name: [] for name in pipelines(source)}
    for count in cores:
        decode = None
        for name, make in pipelines(source).items():
            rate = rate_of(make(), count, options.seconds)
            decode = decode or rate
            found[name].append((rate, rate / decode))
    print(
        "| pipeline | " + " | ".join(f"images/s, {c} core{'s' * (c > 1)} | of decode" for c in cores) + " |"
    )
    print("|---|" + "---|---|" * len(cores))
    for name, columns in found.items():
        print(f"| {name} | " + " | ".join(f"{rate:.0f} | {share:.0%}" for rate, share in columns) + " |")
    for name in ("s1", "s4"):
        ratio = found[f"{name}, pixels in memory"][0][0] / found[f"{name}, keras-cv, pixels in memory"][0][0]
        print(f"{name}: {ratio:.1f} x keras-cv on {cores[0]} core(s)")


if __name__ == "__main__":
    main()
