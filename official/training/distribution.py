"""Devices: which `tf.distribute` strategy a run uses, and how its batches are handed out."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from typing import Any, Callable, Collection, Iterator

import tensorflow as tf
from tensorflow.python.eager import context

from official.data.formats.tfrecord import read_in_graph
from official.data.pipeline import Worker
from official.errors import FlagError, UserError
from official.experiment import Runtime


def set_up_runtime(options: Runtime) -> None:
    """Seeds, determinism and precision; call once, before anything is built.

    Under --xla, and on TPUs, TensorFlow's determinism switch stays off: it does not make XLA's kernels
    another thing, it only refuses some of them (the gradient of max pooling), and has records read one after
    the other.
    """
    tf.keras.utils.set_random_seed(options.seed)
    read_in_graph(remote_hosts(options))
    if options.deterministic and not options.xla and not options.tpu:
        tf.config.experimental.enable_op_determinism()
    names = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
    tf.keras.mixed_precision.set_global_policy(names.get(options.precision, "float32"))


def remote_hosts(options: Runtime) -> bool:
    """Whether input is prepared on machines that run no Python of ours: the hosts of a TPU that is not this
    machine's own.
    """
    return options.tpu not in ("", "local")


def build_strategy(options: Runtime) -> tf.distribute.Strategy:
    """The strategy that the options describe.

    `--tpu` wins; TF_CONFIG or strategy=multi_worker gives MultiWorkerMirroredStrategy; otherwise
    several GPUs (or `--num_devices` logical CPU devices) are mirrored, and one device is used plainly.

    Raises:
      ValueError: more devices asked for than there are, or a TPU that does not answer.
    """
    if options.tpu:
        return _tpu_strategy(options.tpu)
    if options.strategy == "multi_worker" or (options.strategy == "auto" and "TF_CONFIG" in os.environ):
        if "TF_CONFIG" not in os.environ:
            raise FlagError("strategy=multi_worker needs TF_CONFIG, see the README")
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = tf.config.get_visible_devices("GPU")
    kind = "GPU" if devices else "CPU"
    wanted = options.num_devices or len(devices) or 1
    if options.strategy == "one" or wanted == 1:
        return tf.distribute.get_strategy()
    if kind == "CPU":
        _split_cpu(wanted)
    names = [device.name for device in tf.config.list_logical_devices(kind)]
    if wanted > len(names):
        raise FlagError(f"num_devices={wanted}, but this machine has {len(names)} {kind} devices")
    # CPU replicas have no NCCL; copying through one device is the only all-reduce that they support.
    cross = None if kind == "GPU" else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(names[:wanted], cross_device_ops=cross)


def local_strategy(options: Runtime) -> tf.distribute.Strategy:
    """The strategy of a job that one process does alone: `build_strategy`'s, without other workers."""
    if not options.tpu and (
        options.strategy == "multi_worker" or (options.strategy == "auto" and "TF_CONFIG" in os.environ)
    ):
        return tf.distribute.get_strategy()
    return build_strategy(options)


def _split_cpu(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or []) == count:
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:
        raise FlagError(f"num_devices={count} must be set before TensorFlow is used") from error


def _tpu_strategy(name: str) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:  # the resolver raises many kinds
        raise FlagError(f"no TPU answers at --tpu={name}: {error}") from error


def several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether other processes take part."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def evaluation_scope(strategy: tf.distribute.Strategy) -> contextlib.AbstractContextManager:
    """The scope in which a model is built that evaluates or labels: all replicas of this process, alone.

    With several workers each works on its part by itself, so its model is built without the strategy.
    """
    return contextlib.nullcontext() if several_workers(strategy) else strategy.scope()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run folder."""
    resolver = strategy.cluster_resolver
    if resolver is None or not several_workers(strategy):
        return True
    kind, index = resolver.task_type, resolver.task_id
    return kind == "chief" or (kind == "worker" and index == 0 and not _has_chief())


def chiefs(strategy: tf.distribute.Strategy, value: int) -> int:
    """The chief's value on every worker; each brings its own, and waits for the others."""
    if not several_workers(strategy):
        return value

    def alone(value):
        replica = tf.distribute.get_replica_context()
        # The chief holds the first replica.
        own = tf.where(tf.equal(replica.replica_id_in_sync_group, 0), value, 0)
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, own)

    summed = tf.function(lambda value: strategy.run(alone, (value,)))(tf.constant(value, tf.int32))
    return int(strategy.experimental_local_results(summed)[0])


def is_chief_process(options: Runtime) -> bool:
    """The same before there is a strategy, from the options and TF_CONFIG alone."""
    if options.tpu or options.strategy not in ("auto", "multi_worker"):
        return True
    task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {"type": "worker", "index": 0})
    first_worker = task["type"] == "worker" and int(task["index"]) == 0
    return task["type"] == "chief" or (first_worker and not _has_chief())


def _has_chief() -> bool:
    return "chief" in json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})


def summed(strategy: tf.distribute.Strategy, value: int) -> int:
    """The sum of a number over all replicas of all workers, each worker's once a replica of its own; waits
    for the others.
    """
    if not several_workers(strategy):
        return value * strategy.num_replicas_in_sync
    return int(strategy.experimental_local_results(_summing(strategy)(tf.constant(value, tf.int32)))[0])


@functools.lru_cache(maxsize=4)
def _summing(strategy: tf.distribute.Strategy) -> Callable[[Any], Any]:
    def alone(value):
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

    return tf.function(lambda value: strategy.run(alone, (value,)), autograph=False)


def require_agreement(strategy: tf.distribute.Strategy, step: int) -> None:
    """Raises UserError unless all workers are at the same step; waits for them."""
    total = summed(strategy, step)
    if total != step * strategy.num_replicas_in_sync:
        raise UserError(
            f"the workers do not go on from the same state (here it is that of step {step}): --model_dir "
            "must be one folder that all of them see"
        )


# --- other workers ----------------------------------------------------------------------------------

PEER_SECONDS, PEER_TRIES = 10.0, 3  # how long a worker may take to answer, and how often it is asked
_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class WorkerLost(UserError):
    """Another worker of the run has died or cannot be reached."""


def worker_of(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """(number of this worker, the chief being 0; number of workers)."""
    tasks = _tasks(strategy)
    if not tasks:
        return 0, 1
    resolver = strategy.cluster_resolver
    return tasks.index((resolver.task_type, resolver.task_id)), len(tasks)


def _tasks(strategy: tf.distribute.Strategy) -> list[tuple[str, int]]:
    """Kind and number of every worker, the chief first; empty where there is one process."""
    if not several_workers(strategy):
        return []
    jobs = strategy.cluster_resolver.cluster_spec()
    return [
        (kind, i) for kind in ("chief", "worker") if kind in jobs.jobs for i in range(jobs.num_tasks(kind))
    ]


def require_workers(strategy: tf.distribute.Strategy, among: Collection[int] | None = None) -> None:
    """Asks other workers whether they are there.

    Args:
      among: numbers of workers, as `worker_of` counts; None: all of them.

    Raises:
      WorkerLost: one has not answered for `PEER_TRIES` times `PEER_SECONDS`, or has been started anew.
    """
    own = worker_of(strategy)[0]
    for number, (kind, index) in enumerate(_tasks(strategy)):
        asked = number != own and (among is None or number in among)
        for left in reversed(range(PEER_TRIES if asked else 0)):
            try:
                peer = f"/job:{kind}/replica:0/task:{index}"
                context.context().check_collective_ops_peer_health(
                    peer, timeout_in_ms=int(1000 * PEER_SECONDS)
                )
                break
            except tf.errors.OpError as error:
                if not left:
                    raise WorkerLost(_lost(f"{kind} {index}")) from error
                time.sleep(1.0)


@contextlib.contextmanager
def workers_together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns what TensorFlow raises when another worker has died into WorkerLost."""
    try:
        yield
    except tf.errors.OpError as error:
        if several_workers(strategy) and (isinstance(error, _GONE) or "ollective" in str(error)):
            raise WorkerLost(_lost("another worker")) from error
        raise


def _lost(who: str) -> str:
    return (
        f"{who} of this run has died or cannot be reached: stopped. The same command on all workers goes "
        f"on from the last saved state."
    )


def check_batch(strategy: tf.distribute.Strategy, flag: str, batch_size: int, parts: int = 1) -> None:
    """Raises FlagError, naming the flag, unless the replicas can share every part of the batch evenly."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % (replicas * parts):
        remedy = f"choose a multiple of {replicas * parts}, "
        remedy += "the number of replicas that share it" + (
            f" times --accumulate={parts}" if parts > 1 else ""
        )
        raise FlagError(f"--{flag}={batch_size}: {remedy}")


def distribute(
    strategy: tf.distribute.Strategy, make_dataset: Callable[[Worker, int], tf.data.Dataset]
) -> tf.data.Dataset:
    """One dataset per input pipeline, each making its own part of every global batch.

    Args:
      make_dataset: (worker, number of replicas) -> dataset of batches for one replica.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return make_dataset(Worker(), 1)

    def per_pipeline(context):
        return make_dataset(Worker(context.input_pipeline_id, context.num_input_pipelines), replicas)

    return strategy.distribute_datasets_from_function(per_pipeline)
