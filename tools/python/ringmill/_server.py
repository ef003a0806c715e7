"""Servers: start a tree of servlets, and call it."""

import atexit
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from typing import Any

from . import _ringmill
from ._build import OtherRule
from ._errors import ServerClosed
from ._servlet import Plan, Servlet

_started: "weakref.WeakSet[_Base]" = weakref.WeakSet()


class _Base:
    def __init__(
        self,
        servlet: Servlet,
        *,
        capacity: int = 256,
        max_payload: int = 4 << 20,
        start_timeout: float = 60,
        shutdown_timeout: float = 10,
    ):
        """
        :param capacity: how many requests can be in progress at once.
        :param max_payload: the most bytes that an input or a result takes when it is pickled. Memory is used as payloads
            need it.
        :param start_timeout: how long, in seconds, the workers may take to be ready.
        :param shutdown_timeout: how long, in seconds, a worker may take to end what it works on before it is killed.
        """
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: a server handles at least one request at a time")
        self.servlet = servlet
        self._capacity = capacity
        self._options = {
            "max_payload": max_payload, "start_timeout": start_timeout, "shutdown_timeout": shutdown_timeout,
        }
        self._engine: _ringmill.Engine | None = None
        self._plan: Plan | None = None
        self._pid = 0

    def __getstate__(self):
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    @property
    def capacity(self) -> int:
        """How many requests can be in progress at once."""
        return self._capacity

    @property
    def backlog(self) -> int:
        """How many requests are in progress."""
        return 0 if self._engine is None else self._engine.backlog

    def _start(self) -> None:
        if self._engine is not None:
            raise RuntimeError("the server is started already")
        # A worker may choose its batch rule in __init__, and the engine wants it before: then the start is made again.
        leaves = self.servlet._leaves()
        for _ in range(len(leaves) + 1):
            plan = Plan()
            try:
                tree, is_near = self.servlet._stated(plan, True)
                self._engine = _ringmill.Engine(
                    tree, capacity=self._capacity, has_tickets=plan.has_threads, passes_objects=is_near, **self._options
                )
            except OtherRule as other:
                plan.close()
                for leaf in leaves:
                    if leaf._id == other.leaf:
                        leaf._rule = tuple(other.rule)
            except BaseException:
                plan.close()
                raise
            else:
                self._plan = plan
                self._pid = os.getpid()
                _started.add(self)
                return
        raise RuntimeError("a worker's __init__ chooses another batch_size, batch_wait_time or num_stream_threads each time")

    def _stop(self) -> None:
        engine, plan = self._engine, self._plan
        self._engine = self._plan = None
        _started.discard(self)
        if engine is not None and self._pid == os.getpid():
            engine.shutdown()
        if plan is not None:
            plan.close()

    def _running(self) -> _ringmill.Engine:
        if self._engine is None:
            raise ServerClosed("the server is not started: use it in a with block")
        return self._engine

    def debug_info(self) -> dict[str, Any]:
        """The requests in progress, under ``backlog``, and what the engine knows of the workers."""
        return {
            "type": type(self).__name__,
            "datetime": str(datetime.now(timezone.utc)),
            "capacity": self.capacity,
            **self._running().debug_info(),
        }


class Server(_Base):
    """Starts a tree of servlets in a ``with`` block, and calls it, from any number of threads."""

    def __enter__(self):
        self._start()
        return self

    def __exit__(self, *args) -> None:
        self._stop()

    def call(self, x: Any, /, *, timeout: float = 60, backpressure: bool = True) -> Any:
        """The result of one item.

        :param timeout: in seconds; after it ``TimeoutError`` is raised.
        :param backpressure: raise ``ServerBacklogFull`` at once if as many requests as ``capacity`` are in progress; if
            false, wait for one of them to end.
        """
        return self._running().call(x, timeout=timeout, backpressure=backpressure)

    def stream(
        self,
        data_stream: Iterable,
        /,
        *,
        return_x: bool = False,
        return_exceptions: bool = False,
        timeout: float = 3600,
        preprocessor: Callable[[Any], Any] | None = None,
    ) -> Iterator:
        """The results of many items, in their order. Items are taken from ``data_stream`` as results are asked for.

        :param return_x: give pairs of item and result.
        :param return_exceptions: give an item's exception as its result, instead of raising it.
        :param timeout: the most seconds that an item may take.
        :param preprocessor: is called with each item, here; what it returns is sent.
        """
        return self._running().stream(
            data_stream,
            return_x=return_x,
            return_exceptions=return_exceptions,
            timeout=timeout,
            preprocessor=preprocessor,
        )


@atexit.register
def _stop_all() -> None:
    for server in list(_started):
        server._stop()
