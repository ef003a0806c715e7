"""What runs where workers run: in processes that a server starts, and in threads of its own."""

import multiprocessing
import pickle
import signal
import threading
from multiprocessing import spawn
from typing import Any

from . import _ringmill
from ._errors import RemoteError
from ._worker import Worker


class OtherRule(Exception):
    """A worker's ``__init__`` has chosen another batch rule, or number of threads, than its servlet was started with."""

    def __init__(self, leaf: int, rule: tuple):
        super().__init__(leaf, rule)
        self.leaf = leaf
        self.rule = rule


def rule_of(worker: Worker) -> tuple:
    """Of batch size, wait in seconds, threads."""
    wait = worker._batch_wait_time
    if worker.batch_size > 1 and wait is None and worker.batch_wait_time != 0.01:
        wait = worker.batch_wait_time  # set after super().__init__
    return worker.batch_size, wait if worker.batch_size > 1 else None, max(worker.num_stream_threads, 1)


class Shared:
    """The workers of this process with several threads: one object, which the first thread makes and the last cleans up."""

    def __init__(self):
        self.lock = threading.Lock()
        self.workers: dict[tuple, list] = {}  # the worker, and how many threads have it

    def take(self, key: tuple, make) -> Worker:
        with self.lock:
            if key not in self.workers:
                self.workers[key] = [make(), 0]
            entry = self.workers[key]
            entry[1] += 1
            return entry[0]

    def leave(self, worker: Worker) -> bool:
        """Whether no other thread has it any more."""
        with self.lock:
            for key, entry in self.workers.items():
                if entry[0] is worker:
                    entry[1] -= 1
                    if entry[1]:
                        return False
                    del self.workers[key]
                    break
            return True


shared = Shared()
preparing = threading.Lock()
prepared = False


def build(config: bytes, index: int, cpus: list[int], name: str) -> tuple[Worker, bool]:
    """Makes the worker that a servlet states; called by the engine, in the thread where the worker is to run."""
    kind, preparation, stated = pickle.loads(config)
    if kind == "process":
        global prepared
        with preparing:
            if not prepared:
                prepare(preparation)
                multiprocessing.current_process().name = name
                prepared = True
        stated = pickle.loads(stated)
    else:
        stated = in_this_process[stated]
    leaf, cls, kwargs, rule, passes_objects = stated

    def make() -> Worker:
        if kind == "process":
            worker = cls(worker_index=index, cpu_affinity=cpus or None, **kwargs)
        else:
            worker = cls(worker_index=index, **kwargs)
        if type(worker).stream is not Worker.stream:
            raise TypeError(
                f"{type(worker).__name__} overrides stream, which is not supported: implement call, "
                "and set num_stream_threads for several calls at once"
            )
        if rule_of(worker) != tuple(rule):
            raise OtherRule(leaf, rule_of(worker))
        return worker

    if rule[2] == 1:
        return make(), passes_objects
    return shared.take((name.rsplit(".", 1)[0], leaf), make), passes_objects


def prepare(preparation: dict[str, Any]) -> None:
    """Makes this process what one of ``multiprocessing`` would be: its path, arguments, folder and ``__main__``."""
    # A __main__ that starts a server at its import, without a test of __name__, is told so, as by multiprocessing.
    process = multiprocessing.current_process()
    process._inheriting = True
    try:
        spawn.prepare(preparation)
    finally:
        del process._inheriting


def clean_up(worker: Worker, reason: str | None) -> None:
    if shared.leave(worker):
        worker.cleanup(None if reason is None else RemoteError(reason))


in_this_process: dict[int, tuple] = {}
"""What the thread servlets of started servers state: nothing of it is pickled."""


def main() -> None:
    """The program of a worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends its workers, in order
    raise SystemExit(_ringmill.serve())
