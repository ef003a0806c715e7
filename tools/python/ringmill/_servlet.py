"""Servlets: the parts of a server. A tree of them is a value, which can be started any number of times."""

import itertools
import pickle
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from multiprocessing import spawn
from typing import Any

from . import _build
from ._worker import Worker

_leaves = itertools.count(1)

# The path is that of the server, so that the same modules are found.
_PROGRAM = "import sys; sys.path[:] = {!r}; from ringmill._build import main; main()"


class Plan:
    """What the parts of a tree put down for one start."""

    def __init__(self):
        self.has_threads = False
        self.keys: list[int] = []  # in _build.in_this_process

    def close(self) -> None:
        for key in self.keys:
            _build.in_this_process.pop(key, None)


class Servlet(ABC):
    """A part of a server."""

    @abstractmethod
    def _stated(self, plan: Plan, is_near: bool) -> tuple[tuple, bool]:
        """The part for the engine, and whether it takes objects of the server's process. ``is_near``: whether what follows
        does."""

    @property
    @abstractmethod
    def children(self) -> Sequence["Servlet"]:
        """The servlets it is made of."""

    def _leaves(self) -> list["_Leaf"]:
        return [leaf for child in self.children for leaf in child._leaves()]


class _Leaf(Servlet):
    _kind: str

    def __init__(self, worker_cls: type[Worker], worker_name: str | None, kwargs: dict[str, Any]):
        if not (isinstance(worker_cls, type) and issubclass(worker_cls, Worker)):
            raise TypeError(f"{worker_cls!r} is not a subclass of ringmill.Worker")
        self._worker_cls = worker_cls
        self._worker_name = worker_name
        self._kwargs = kwargs
        self._id = next(_leaves)
        batch_size = kwargs.get("batch_size") or 0
        self._rule = (batch_size, kwargs.get("batch_wait_time") if batch_size > 1 else None, 1)

    @property
    def children(self) -> Sequence[Servlet]:
        return []

    def _leaves(self) -> list["_Leaf"]:
        return [self]

    def _leaf(self, config: bytes, cpus: list, program: str, arguments: list[str]) -> tuple:
        name = self._worker_name or self._worker_cls.__name__
        name = re.sub(r"[^A-Za-z0-9 _.:-]", "-", name)[:48].strip() or "worker"
        return (self._kind, name, config, cpus, *self._rule, program, arguments)


class ProcessServlet(_Leaf):
    """A worker in one or more processes. Each item is handled by one of them."""

    _kind = "process"

    def __init__(
        self,
        worker_cls: type[Worker],
        *,
        cpus: None | int | Sequence[None | int | Sequence[int]] = None,
        worker_name: str | None = None,
        **kwargs: Any,
    ):
        """
        :param cpus: ``None``: one process; a number: so many; a list: one process for each entry, which is the CPU or the
            CPUs on which it runs, ``None`` for all.
        :param kwargs: the arguments of the worker's ``__init__``; they are pickled.
        """
        super().__init__(worker_cls, worker_name, kwargs)
        if cpus is None:
            cpus = 1
        if isinstance(cpus, int):
            if cpus < 1:
                raise ValueError(f"cpus={cpus}: a servlet has at least one process")
            cpus = [None] * cpus
        self._cpus = [None if c is None else [c] if isinstance(c, int) else sorted(set(c)) for c in cpus]

    def _stated(self, plan: Plan, is_near: bool) -> tuple[tuple, bool]:
        preparation = spawn.get_preparation_data("ringmill")
        preparation.pop("authkey", None)  # for multiprocessing's own connections
        stated = pickle.dumps((self._id, self._worker_cls, self._kwargs, self._rule, False), 5)
        config = pickle.dumps(("process", preparation, stated), 5)
        arguments = [*subprocess._args_from_interpreter_flags(), "-c", _PROGRAM.format(preparation["sys_path"])]
        return self._leaf(config, self._cpus, sys.executable, arguments), False


class ThreadServlet(_Leaf):
    """A worker in one or more threads of the server's process. Items reach it from there as the objects that they are."""

    _kind = "thread"

    def __init__(
        self,
        worker_cls: type[Worker],
        *,
        num_threads: int | None = None,
        worker_name: str | None = None,
        **kwargs: Any,
    ):
        """
        :param num_threads: how many threads; by default one.
        :param kwargs: the arguments of the worker's ``__init__``, passed as they are.
        """
        super().__init__(worker_cls, worker_name, kwargs)
        self._num_threads = 1 if num_threads is None else num_threads
        if self._num_threads < 1:
            raise ValueError(f"num_threads={num_threads}: a servlet has at least one thread")

    def _stated(self, plan: Plan, is_near: bool) -> tuple[tuple, bool]:
        plan.has_threads = True
        key = next(_leaves)
        _build.in_this_process[key] = (self._id, self._worker_cls, self._kwargs, self._rule, is_near)
        plan.keys.append(key)
        return self._leaf(pickle.dumps(("thread", None, key)), [None] * self._num_threads, "", []), True


class _Compound(Servlet):
    def __init__(self, *servlets: Servlet):
        for servlet in servlets:
            if not isinstance(servlet, Servlet):
                raise TypeError(f"{servlet!r} is not a servlet")
        self._servlets = servlets

    @property
    def children(self) -> Sequence[Servlet]:
        return self._servlets

    def _members(self, plan: Plan, is_near: bool) -> tuple[list[tuple], bool]:
        stated = [servlet._stated(plan, is_near) for servlet in self._servlets]
        return [part for part, _ in stated], all(near for _, near in stated)


class SequentialServlet(_Compound):
    """Stages: each takes what the one before it gives."""

    def __init__(self, *servlets: Servlet):
        if not servlets:
            raise ValueError("SequentialServlet needs at least one servlet")
        super().__init__(*servlets)

    def _stated(self, plan: Plan, is_near: bool) -> tuple[tuple, bool]:
        stages = []
        for servlet in reversed(self._servlets):
            part, is_near = servlet._stated(plan, is_near)
            stages.append(part)
        return ("sequence", stages[::-1]), is_near


class EnsembleServlet(_Compound):
    """Members that all see each item; the result is the list of theirs, in the order of the members.

    With ``fail_fast`` the first exception of a member ends the item with an ``EnsembleError``. Without, exceptions stand in
    the list, and only if all members raise is the outcome an ``EnsembleError``.
    """

    def __init__(self, *servlets: Servlet, fail_fast: bool = True):
        if len(servlets) < 2:
            raise ValueError("EnsembleServlet needs at least two servlets")
        super().__init__(*servlets)
        self._fail_fast = fail_fast

    def _stated(self, plan: Plan, is_near: bool) -> tuple[tuple, bool]:
        members, is_near = self._members(plan, is_near)
        return ("ensemble", members, self._fail_fast), is_near


class SwitchServlet(_Compound):
    """Members of which one handles each item: the one whose index ``switch`` returns."""

    def __init__(self, *servlets: Servlet):
        if not servlets:
            raise ValueError("SwitchServlet needs at least one servlet")
        super().__init__(*servlets)

    @abstractmethod
    def switch(self, x: Any) -> int:
        """The index of the member that is to handle ``x``, from 0. It runs in the server's process, and must be quick."""

    def _stated(self, plan: Plan, is_near: bool) -> tuple[tuple, bool]:
        members, is_near = self._members(plan, is_near)
        return ("switch", members, self.switch), is_near
