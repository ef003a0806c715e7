"""Exceptions: those of the engine, and those that come from workers with their class and traceback."""

import builtins
import pickle
import traceback
from types import TracebackType
from typing import Any


class ServerBacklogFull(RuntimeError):
    """As many requests as the server's capacity are in progress."""

    def __init__(self, n: int, x: float | None = None):
        super().__init__(n, x)

    def __str__(self) -> str:
        n, x = self.args
        how = "immediately due to back-pressure" if x is None else f"after waiting for {x:.3f} seconds"
        return f"Server is at capacity with {n} items in process; new request is rejected {how}"


class TimeoutError(builtins.TimeoutError):
    """The outcome did not come in time. The request is dropped if no worker has begun it."""


class WorkerDied(RuntimeError):
    """The worker's process died while it worked on this request, which may have had effects. The worker is restarted."""


class ServletDown(RuntimeError):
    """The workers of a servlet cannot be started any more; the text says why."""


class ServerClosed(RuntimeError):
    """The server shuts down, or belongs to the process that this one was forked from."""


class StartError(RuntimeError):
    """The server could not be started; what a worker's ``__init__`` raises is raised as it is."""


class RemoteError(RuntimeError):
    """Stands for an exception of a worker that could not be pickled; its text has the exception's class and message."""


class EnsembleError(RuntimeError):
    """Members of an ensemble failed: one, or all if the ensemble keeps errors.

    ``args[1]`` has what became of them: under ``y`` a list of results, exceptions, and ``None`` for members that had not
    finished; under ``n`` how many had.
    """

    def __init__(self, results: dict[str, Any]):
        errors = [y for y in results["y"] if isinstance(y, (BaseException, RemoteException))]
        plural = "s" if len(errors) > 1 else ""
        first = repr(errors[0]) if errors else None
        text = (
            f"{results['n']}/{len(results['y'])} ensemble members finished, "
            f"with {len(errors)} error{plural}; first error: {first}"
        )
        super().__init__(text, results)

    def __repr__(self) -> str:
        return self.args[0]

    def __str__(self) -> str:
        return self.args[0]

    def __reduce__(self):
        return type(self), (self.args[1],)


def ensemble_error(outcomes: list, finished: int) -> EnsembleError:
    return EnsembleError({"y": outcomes, "n": finished})


class RemoteTraceback(Exception):
    """The cause of an exception that came from another process: its traceback there, as text."""

    def __init__(self, tb: str):
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return self.tb


class RemoteException:
    """An exception for pickle: what is unpickled is the exception itself, with its traceback as text in ``__cause__``."""

    def __init__(self, exc: BaseException, tb: TracebackType | str | None = None):
        self.exc = exc
        if isinstance(tb, str):
            self.tb = tb
            return
        earlier = f"{exc.__cause__.tb}\n" if is_remote_exception(exc) else ""
        tb = tb or exc.__traceback__
        lines = traceback.format_exception(type(exc), exc, tb, chain=not earlier)
        self.tb = earlier + "".join(lines)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.exc!r})"

    def __str__(self) -> str:
        return str(self.exc)

    def __reduce__(self):
        return rebuild, (self.exc, self.tb)


def rebuild(exc: BaseException, tb: str) -> BaseException:
    exc.__cause__ = RemoteTraceback(tb)
    return exc


def is_remote_exception(e: object) -> bool:
    """Whether the exception came from another process or thread of a server."""
    return isinstance(e, BaseException) and isinstance(e.__cause__, RemoteTraceback)


def get_remote_traceback(e: BaseException) -> str:
    """The traceback of an exception for which ``is_remote_exception`` holds, as text."""
    assert isinstance(e.__cause__, RemoteTraceback)
    return e.__cause__.tb


def described(e: BaseException) -> str:
    try:
        return f"{type(e).__name__}: {e}"
    except Exception as error:  # the exception's own __str__
        return f"{type(e).__name__} (its text cannot be told: {type(error).__name__})"


def packed(e: BaseException, most: int) -> tuple[str, bytes | None]:
    """The text of an exception, and what ``rebuilt`` makes it from; ``None`` if it cannot be pickled.

    If it takes more than ``most`` bytes, the traceback loses its beginning.
    """
    text = described(e)[:200] if most < 10_000 else described(e)
    remote = RemoteException(e)
    for characters in (len(remote.tb), 2_000, 500, 200, 0):
        tb = remote.tb if characters >= len(remote.tb) else "…" + remote.tb[len(remote.tb) - characters :]
        try:
            pickled = pickle.dumps(RemoteException(e, tb), 5)
            if len(pickled) <= most:
                # One that can be pickled and not unpickled is of no use.
                pickle.loads(pickled)
                return text, pickled
        except Exception:
            break
    # Without the exception itself, the traceback may still have room.
    for characters in (len(remote.tb), 20_000, 500):
        pickled = pickle.dumps(RemoteException(RemoteError(text), remote.tb[-characters:]), 5)
        if len(pickled) <= most:
            return text, pickled
    return text, None


def rebuilt(pickled: bytes | None, text: str) -> BaseException:
    """The exception of a worker; ``text`` if nothing else has come, or it cannot be unpickled here."""
    if pickled is None:
        return RemoteError(text)
    try:
        exception = pickle.loads(pickled)
    except Exception as error:
        stand_in = RemoteError(text)
        stand_in.__cause__ = error
        return stand_in
    return exception if isinstance(exception, BaseException) else RemoteError(text)
