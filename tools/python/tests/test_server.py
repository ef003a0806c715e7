"""What a server and its servlets promise."""

import concurrent.futures
import os
import pickle
import threading

import numpy as np
import pytest
import workers as w
from ringmill import (
    EnsembleError,
    EnsembleServlet,
    PassThrough,
    ProcessServlet,
    RemoteError,
    SequentialServlet,
    Server,
    ServerBacklogFull,
    ServerClosed,
    SwitchServlet,
    ThreadServlet,
    TimeoutError,
    WorkerDied,
    get_remote_traceback,
    is_remote_exception,
    make_worker,
)


def test_one_process_pinned():
    cpu = min(os.sched_getaffinity(0))
    with Server(ProcessServlet(w.Double, cpus=[cpu])) as server:
        assert server.call(3) == 6
        assert server.backlog == 0
        assert server.capacity == 256


def test_stages_and_debug_info():
    stages = SequentialServlet(ProcessServlet(w.Double), ProcessServlet(w.Shift, stepsize=3))
    with Server(stages) as server:
        assert server.call(3) == 9
        assert server.debug_info()["backlog"] == []
        assert [server.call(x) for x in range(10)] == [2 * x + 3 for x in range(10)]


def test_batches():
    stages = SequentialServlet(
        ProcessServlet(w.Shift, stepsize=2, batch_size=10, cpus=2),
        ThreadServlet(w.Shift, stepsize=1, batch_size=10),
    )
    with Server(stages) as server:
        assert [server.call(x) for x in range(37)] == [x + 3 for x in range(37)]
        assert list(server.stream(range(500))) == [x + 3 for x in range(500)]


def test_a_worker_chooses_its_batch_size():
    servlet = ProcessServlet(w.Square)
    for _ in range(2):  # a tree starts again
        with Server(servlet) as server:
            assert server.call(7) == 49
            assert list(server.stream(range(100))) == [x * x for x in range(100)]
            with concurrent.futures.ThreadPoolExecutor(10) as pool:
                assert list(pool.map(server.call, range(100))) == [x * x for x in range(100)]


def test_an_exception_comes_with_class_and_traceback():
    with Server(ProcessServlet(w.Fails)) as server:
        with pytest.raises(KeyError) as error:
            server.call("colour")
        assert error.value.args == ("colour",)
        assert is_remote_exception(error.value)
        assert "raise KeyError(x)" in get_remote_traceback(error.value)
        assert not is_remote_exception(KeyError())


def test_what_cannot_be_pickled():
    with Server(ProcessServlet(w.Fails)) as server:
        with pytest.raises(RemoteError, match="Pair: 1 and 2"):
            server.call("pair")  # an exception that cannot be unpickled
        with pytest.raises((AttributeError, pickle.PicklingError)):
            server.call("lambda")  # a result
        with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
            server.call(threading.Lock())  # an input
        assert server.backlog == 0


@pytest.mark.parametrize("servlet", [ProcessServlet, ThreadServlet])
def test_a_batch_of_the_wrong_length(servlet):
    with Server(servlet(w.WrongCount)) as server:
        with pytest.raises(TypeError, match="NoneType for a batch of 1"):
            server.call("none")
        with pytest.raises(ValueError, match="only 0 results for a batch of 1"):
            server.call("few")
        with pytest.raises(ValueError, match="more results for a batch of 1"):
            server.call("many")


@pytest.mark.parametrize("servlet", [ProcessServlet, ThreadServlet])
def test_a_failed_start_raises_what_the_worker_raises(servlet):
    with pytest.raises(FileNotFoundError) as error:
        with Server(servlet(w.Refuse, path="/none")):
            pass
    assert error.value.filename == "/none"


def test_stream_is_not_overridden():
    with pytest.raises(TypeError, match="overrides stream"):
        with Server(ProcessServlet(w.Overrides)):
            pass


def test_a_killed_worker():
    with Server(ProcessServlet(w.Killed)) as server:
        _, before = server.call(1)
        with pytest.raises(WorkerDied):
            server.call("die")
        x, after = server.call(2)
        assert x == 2 and after != before


def test_timeout():
    with Server(ProcessServlet(w.Delay), shutdown_timeout=0.1) as server:
        with pytest.raises(TimeoutError, match="seconds enqueue, .* seconds total"):
            server.call(3, timeout=0.1)
        with pytest.raises(ValueError, match="timeout"):
            server.call(1, timeout=-1)


def test_backlog_full():
    assert str(ServerBacklogFull(3)).endswith("rejected immediately due to back-pressure")
    assert "after waiting for 0.500 seconds" in str(ServerBacklogFull(3, 0.5))
    release = threading.Event()
    entered = threading.Semaphore(0)

    def hold(x):
        entered.release()
        assert release.wait(60)
        return x

    with Server(ThreadServlet(make_worker(hold), num_threads=2), capacity=2) as server:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            held = [pool.submit(server.call, x) for x in range(2)]
            for _ in held:
                assert entered.acquire(timeout=60)
            assert server.backlog == 2
            assert len(server.debug_info()["backlog"]) == 2
            with pytest.raises(ServerBacklogFull):
                server.call(3)
            with pytest.raises(ServerBacklogFull):
                server.call(3, backpressure=False, timeout=0.05)
            release.set()
            assert [h.result() for h in held] == [0, 1]


def test_streams():
    stages = SequentialServlet(ProcessServlet(w.Shift, stepsize=1, batch_size=5), ThreadServlet(PassThrough))
    with Server(stages, capacity=10) as server:
        assert list(server.stream(range(5), return_x=True)) == [(x, x + 1) for x in range(5)]
        outcomes = []
        with pytest.raises(TypeError):
            for y in server.stream([1, 2, None]):
                outcomes.append(y)
        mixed = list(server.stream([1, "a", 3], return_x=True, return_exceptions=True, preprocessor=int))
        assert [x for x, _ in mixed] == [1, "a", 3]
        assert mixed[0][1] == 2 and isinstance(mixed[1][1], ValueError) and mixed[2][1] == 4
        for n, y in enumerate(server.stream(range(1_000_000))):
            assert y == n + 1
            if n == 33:
                break

        def inputs():
            yield 1
            raise LookupError("no more")

        stream = server.stream(inputs())
        assert next(stream) == 2
        with pytest.raises(LookupError):
            next(stream)
        assert list(server.stream([])) == []
    with pytest.raises(ServerClosed):
        server.call(1)


def test_threads_get_the_objects_themselves():
    lock = threading.Lock()
    stages = SequentialServlet(ThreadServlet(PassThrough), ThreadServlet(make_worker(lambda x: x)))
    with Server(stages) as server:
        assert server.call(lock) is lock
        assert all(y is lock for y in server.stream([lock] * 10))
    ends = SequentialServlet(ThreadServlet(PassThrough), ProcessServlet(PassThrough), ThreadServlet(PassThrough))
    with Server(ends) as server:
        assert server.call([1]) == [1]


def test_ensembles():
    both = EnsembleServlet(ProcessServlet(w.Double), ThreadServlet(w.Shift, stepsize=5), ProcessServlet(w.Square))
    stages = SequentialServlet(both, ThreadServlet(make_worker(lambda x: sum(x))))
    for _ in range(2):
        with Server(stages) as server:
            assert server.call(3) == 6 + 8 + 9
            assert list(server.stream(range(100))) == [2 * x + x + 5 + x * x for x in range(100)]
    with Server(both) as server:
        assert server.call(3) == [6, 8, 9]
        with pytest.raises(EnsembleError) as error:
            server.call(None)
        results = error.value.args[1]
        assert any(isinstance(y, TypeError) for y in results["y"]) and 1 <= results["n"] <= 3
        again = pickle.loads(pickle.dumps(error.value))
        assert str(again) == str(error.value)


def test_an_ensemble_that_keeps_errors():
    members = EnsembleServlet(ProcessServlet(w.Fails), ProcessServlet(PassThrough), fail_fast=False)
    with Server(members) as server:
        error, value = server.call("x")
        assert isinstance(error, KeyError) and is_remote_exception(error) and value == "x"
    with Server(EnsembleServlet(ThreadServlet(w.Fails), ProcessServlet(w.Fails), fail_fast=False)) as server:
        with pytest.raises(EnsembleError) as error:
            server.call("x")
        assert [type(y) for y in error.value.args[1]["y"]] == [KeyError, KeyError]


def test_switches():
    class BySign(SwitchServlet):
        def switch(self, x):
            return 0 if x < 0 else 1 if x < 100 else 7

    with Server(BySign(ProcessServlet(w.Double), ThreadServlet(w.Shift, stepsize=1))) as server:
        assert server.call(-4) == -8
        assert server.call(4) == 5
        with pytest.raises(RuntimeError, match="member"):
            server.call(100)


def test_preprocess():
    for servlet in ProcessServlet(w.Checked, batch_size=10), ThreadServlet(w.Checked):
        with Server(servlet) as server:
            outcomes = list(server.stream([*range(50), -1, *range(50)], return_exceptions=True))
            assert isinstance(outcomes.pop(50), ValueError)
            assert outcomes == [(x + 100) * 2 for x in [*range(50), *range(50)]]


def test_threads_of_a_worker_share_it():
    with Server(ProcessServlet(w.Io)) as server:
        outcomes = list(server.stream([0] * 12, return_exceptions=True))
        assert max(outcomes) > 1  # several calls of one object at once
        mixed = list(server.stream(["bad", 0, 0, 0, 0, 0], return_exceptions=True))
        assert 1 <= sum(isinstance(y, ValueError) for y in mixed) <= 3


def test_affinity():
    cpus = sorted(os.sched_getaffinity(0))
    with Server(ProcessServlet(w.Where, cpus=1)) as server:
        assert server.call(0) == (cpus, None, 0)
    with Server(ProcessServlet(w.Where, cpus=[cpus[:2][::-1]])) as server:
        assert server.call(0) == (cpus[:2], cpus[:2], 0)
    with pytest.raises(ValueError, match="CPU 99999"):
        with Server(ProcessServlet(w.Where, cpus=[99_999])):
            pass


def test_arrays():
    with Server(SequentialServlet(ProcessServlet(PassThrough), ProcessServlet(w.Kept))) as server:
        arrays = [np.full((256, 512), x, dtype=np.float64) for x in range(4)]  # 1 MiB
        for n, array in enumerate(arrays):
            assert server.call(array) == [float(a.sum()) for a in arrays[: n + 1]]  # an array outlives its call
    with Server(ProcessServlet(PassThrough), max_payload=100_000) as server:
        back = server.call({"a": arrays[1][:10], "b": b"x" * 1000})
        assert (back["a"] == 1).all() and back["b"] == b"x" * 1000
        back["a"][0] = 5  # the caller's own
        with pytest.raises(ValueError, match="max_payload"):
            server.call(arrays[0])
        assert server.call(1) == 1


def test_bad_options():
    with pytest.raises(TypeError, match="subclass"):
        ProcessServlet(int)
    with pytest.raises(ValueError, match="at least two"):
        EnsembleServlet(ThreadServlet(PassThrough))
    with pytest.raises(ValueError, match="capacity"):
        Server(ThreadServlet(PassThrough), capacity=0)
    with pytest.raises(ValueError, match="needs a batch_size above 1"):
        with Server(ThreadServlet(PassThrough, batch_size=1, batch_wait_time=1)):
            pass
    server = Server(ThreadServlet(PassThrough))
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(server)
    with pytest.raises(ServerClosed, match="not started"):
        server.call(1)
