"""Workers: what users write."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

DEFAULT_BATCH_WAIT_TIME = 0.01


class Worker:
    """Handles one item, or a batch of items, in a process or thread of its own.

    A subclass implements ``call``, and may have an ``__init__`` that takes keyword arguments, those that the servlet was
    given, and passes the ones below on to ``super().__init__``.
    """

    preprocess: Callable[[Any], Any]
    """If a subclass has it, it is called with each item before ``call``. What it returns takes the item's place; what it
    raises is the item's outcome, and the other items of the batch do without that item."""

    def __init__(
        self,
        *,
        worker_index: int,
        batch_size: int | None = None,
        batch_wait_time: float | None = None,
        cpu_affinity: int | Sequence[int] | None = None,
    ):
        """
        :param worker_index: the number of the worker within its servlet, from 0.
        :param batch_size: 0 or ``None``: ``call`` takes one item; 1 to 65,536: it takes a list of up to so many.
        :param batch_wait_time: how long, in seconds, the oldest item of a batch waits for others; only with a
            ``batch_size`` above 1. By default at most 0.01, and only while more items may come: one that comes alone is
            not held up.
        :param cpu_affinity: the CPUs on which the worker runs; ``None``: all.
        """
        batch_size = batch_size or 0
        if batch_size <= 1 and batch_wait_time:
            raise ValueError(
                f"batch_size {batch_size} with batch_wait_time {batch_wait_time}: a wait needs a batch_size above 1"
            )
        self._batch_wait_time = batch_wait_time  # as stated
        self.worker_index = worker_index
        self.batch_size = batch_size
        self.batch_wait_time = (
            batch_wait_time if batch_wait_time is not None else DEFAULT_BATCH_WAIT_TIME if batch_size > 1 else 0
        )
        self.name = f"{multiprocessing.current_process().name}-{threading.current_thread().name}"
        if cpu_affinity is not None:
            cpu_affinity = [cpu_affinity] if isinstance(cpu_affinity, int) else sorted(set(cpu_affinity))
            os.sched_setaffinity(0, cpu_affinity)
        self.cpu_affinity = cpu_affinity
        self.num_stream_threads = 0
        """How many calls of ``call`` run at once, in threads that share this object; 0 and 1: one. Set it in
        ``__init__``, after ``super().__init__``."""

    def call(self, x: Any) -> Any:
        """Handles an item, and returns its result; or a list of items, and returns a list of as many results.

        What it raises is raised where the server was called, for each item of a batch.
        """
        raise NotImplementedError

    def stream(self, xx: Iterable) -> Iterator:
        """Is there for its name: the engine calls ``call``. A worker that overrides it cannot be started."""
        for x in xx:
            try:
                y = self.call(x)
            except Exception as e:
                y = e
            yield y

    def cleanup(self, exc: BaseException | None = None) -> None:
        """Called once when the worker stops, but not after a crash; ``exc`` says why if it is not the server's end."""


def make_worker(func: Callable[[Any], Any]) -> type[Worker]:
    """A worker whose ``call`` is this function."""

    class MyWorker(Worker):
        def call(self, x):
            return func(x)

    MyWorker.__name__ = f"Worker-{func.__name__}"
    return MyWorker


class PassThrough(Worker):
    """Gives what it takes."""

    def call(self, x):
        return x
