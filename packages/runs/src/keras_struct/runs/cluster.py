"""Ray: units of work on actors, each with a model of its own that stays loaded.

Nothing here imports Keras before the backend of the driver is set in the process of an actor.
"""

import collections
import contextlib
import importlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from keras_struct.runs.checks import check_count

AHEAD = 2  # units that wait at each actor
RETRIES = 3  # of a unit whose actor was lost
ENVIRONMENT = ("KERAS_BACKEND", "JAX_PLATFORMS", "TF_CPP_MIN_LOG_LEVEL")


def import_ray(extra: str) -> Any:
    """The module ray, or an error that says how it is installed.

    Args:
        extra: Distribution whose extra `ray` brings it.

    Raises:
        ImportError: If it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report what is run
    try:
        import ray
    except ImportError as error:
        raise ImportError(f'Expected Ray: pip install "{extra}[ray]"') from error
    return ray


@contextlib.contextmanager
def connected(extra: str) -> Iterator[Any]:
    """Ray, connected to the cluster of `RAY_ADDRESS`, else to one that ends with the block.

    A connection that there is already is used, and left as it is.

    Args:
        extra: See `import_ray`.
    """
    ray = import_ray(extra)
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not os.environ.get("RAY_ADDRESS"):
        options |= {"address": "local", "include_dashboard": False}
        # Of its own log; what goes wrong comes as an exception.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(**options)
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def engine(name: str, workers: int | None, extra: str) -> Iterator[None]:
    """What the options `--engine` and `--workers` of a command ask for, before it does any work.

    Args:
        name: `"ray"`, for which there is a connection within the block, or another engine.
        workers: Processes, or None.
        extra: See `import_ray`.

    Raises:
        ValueError: For other engines with workers, or more workers than processors.
        ImportError: If Ray is asked for and not installed.
    """
    check_count("workers", workers, none=True)
    if name != "ray":
        if workers is not None:
            raise ValueError(f"Expected --engine ray with --workers. Received: {name}")
        yield
        return
    with connected(extra) as ray:
        count_of_workers(ray, workers)
        yield


class Worker:
    """What works on units in a process of Ray.

    Args:
        environment: Variables of the driver, set before anything is imported.
        maker: Name of a function, `"module:function"`.
        arguments: Of that function, which returns what works on a unit; references to objects of
            Ray are replaced by the objects.
    """

    def __init__(self, environment: dict[str, str], maker: str, arguments: Sequence[Any]) -> None:
        import ray

        os.environ.update(environment)
        module, name = maker.split(":")
        make = getattr(importlib.import_module(module), name)
        self.work = make(*(ray.get(x) if isinstance(x, ray.ObjectRef) else x for x in arguments))

    def __call__(self, unit: Any) -> Any:
        return self.work(unit)


def environment() -> dict[str, str]:
    """The variables of this process that decide how a model is loaded in another."""
    import keras

    found = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return {**found, "KERAS_BACKEND": keras.backend.backend()}


def count_of_workers(ray: Any, asked: int | None) -> int:
    """How many actors: as many as asked for, else one for each processor of the cluster.

    Raises:
        ValueError: If the cluster has not so many processors.
    """
    most = int(ray.cluster_resources().get("CPU", 0))
    if asked is None:
        return max(1, most)
    if not 1 <= asked <= most:
        raise ValueError(
            f"Expected a worker or more, at most as many as the processors of the cluster, {most}. "
            f"Received: workers={asked}"
        )
    return asked


def check_dataset(dataset: Any, column: str, batch_rows: int) -> None:
    """Raise a `ValueError` unless a dataset of Ray Data has a column and there are rows to map."""
    check_count("batch_rows", batch_rows)
    schema = dataset.schema()
    if schema is not None and column not in schema.names:
        raise ValueError(f"Expected a column {column!r}. Received: a dataset with {schema.names}")


def map_tables(
    ray: Any,
    dataset: Any,
    maker: str,
    arguments: Sequence[Any],
    concurrency: int | tuple[int, int] | None,
    batch_rows: int,
) -> Any:
    """A dataset of Ray Data whose tables actors make of those of another one.

    Args:
        ray: The module.
        dataset: `ray.data.Dataset`.
        maker: See `Worker`; it works on tables of pyarrow.
        arguments: See `Worker`.
        concurrency: How many actors, or at least and at most how many; None for one and as many as
            the cluster has processors.
        batch_rows: Rows of a table.
    """
    return dataset.map_batches(
        Worker,
        fn_constructor_args=(environment(), maker, arguments),
        batch_format="pyarrow",
        batch_size=batch_rows,
        concurrency=(1, count_of_workers(ray, None)) if concurrency is None else concurrency,
        num_cpus=1,
    )


def inputs_of(table: Any, rows: Sequence[int], taken: Sequence[str]) -> Any:
    """The rows of a table of pyarrow to which those of a result belong.

    Args:
        table: Table.
        rows: Number of a row for each row of the result.
        taken: Columns of the result; one of the table that is named so has `input_` before it.
    """
    import pyarrow

    names: list[str] = []
    for name in table.column_names:
        while name in taken or name in names:
            name = f"input_{name}"
        names.append(name)
    return table.take(pyarrow.array(rows, pyarrow.int64())).rename_columns(names)


def in_actors(
    ray: Any,
    maker: str,
    arguments: Sequence[Any],
    units: Iterable[tuple[Any, Any]],
    workers: int | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Units of work on actors, as they are done; few of them are read ahead.

    A unit whose actor is lost, killed or out of memory, is done again by a new one.

    Args:
        ray: What `connected` gives.
        maker: See `Worker`.
        arguments: See `Worker`.
        units: Pairs of a key and a unit.
        workers: Actors; None for one for each processor of the cluster.

    Yields:
        Pairs of the key of a unit and what became of it.

    Raises:
        ValueError: See `count_of_workers`.
        RuntimeError: If an actor was lost again and again at one unit, or cannot be started.
        Exception: What a unit raised.
    """
    count = count_of_workers(ray, workers)
    actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=RETRIES)(Worker)
    actors = [actor.remote(environment(), maker, arguments) for _ in range(count)]
    free = collections.deque(actors * AHEAD)
    running: dict[Any, tuple[Any, Any]] = {}

    def finished():
        (done,), _ = ray.wait(list(running), num_returns=1)
        worker, key = running.pop(done)
        try:
            result = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise RuntimeError(
                f"Expected a process of Ray that works on {key}, or another one after it, "
                f"{RETRIES + 1} in all. Received: {str(error).strip()}"
            ) from None
        free.append(worker)
        return key, result

    try:
        for key, unit in units:
            if not free:
                yield finished()
            worker = free.popleft()
            running[worker.__call__.remote(unit)] = worker, key
        while running:
            yield finished()
    finally:
        for worker in actors:
            ray.kill(worker)
