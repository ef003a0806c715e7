"""Runs Python workers in processes behind rings in shared memory, and turns single requests into batches."""

from ._errors import (
    EnsembleError,
    RemoteError,
    RemoteException,
    ServerBacklogFull,
    ServerClosed,
    ServletDown,
    StartError,
    TimeoutError,
    WorkerDied,
    get_remote_traceback,
    is_remote_exception,
)
from ._server import Server
from ._servlet import EnsembleServlet, ProcessServlet, SequentialServlet, Servlet, SwitchServlet, ThreadServlet
from ._worker import PassThrough, Worker, make_worker

__all__ = [
    "EnsembleError",
    "EnsembleServlet",
    "PassThrough",
    "ProcessServlet",
    "RemoteError",
    "RemoteException",
    "SequentialServlet",
    "Server",
    "ServerBacklogFull",
    "ServerClosed",
    "Servlet",
    "ServletDown",
    "StartError",
    "SwitchServlet",
    "ThreadServlet",
    "TimeoutError",
    "Worker",
    "WorkerDied",
    "get_remote_traceback",
    "is_remote_exception",
    "make_worker",
]
