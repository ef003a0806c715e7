"""The workers of the tests."""

import os
import signal
import time

import ringmill


class Double(ringmill.Worker):
    def call(self, x):
        return x * 2


class Shift(ringmill.Worker):
    def __init__(self, *, stepsize=1, **kwargs):
        super().__init__(**kwargs)
        self.stepsize = stepsize

    def call(self, x):
        if self.batch_size == 0:
            return x + self.stepsize
        return [y + self.stepsize for y in x]


class Square(ringmill.Worker):
    """Chooses its batch size itself."""

    def __init__(self, **kwargs):
        super().__init__(batch_size=4, **kwargs)

    def call(self, x):
        assert isinstance(x, list) and 1 <= len(x) <= 4
        return [y * y for y in x]


class Delay(ringmill.Worker):
    def call(self, x):
        time.sleep(x)
        return x


class Refuse(ringmill.Worker):
    def __init__(self, *, path, **kwargs):
        super().__init__(**kwargs)
        raise FileNotFoundError(2, "no model", path)


class Killed(ringmill.Worker):
    def call(self, x):
        if x == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return x, os.getpid()


class Pair(Exception):
    """Cannot be unpickled: its arguments are not those of its constructor."""

    def __init__(self, left, right):
        super().__init__(f"{left} and {right}")


class Fails(ringmill.Worker):
    def call(self, x):
        match x:
            case "pair":
                raise Pair(1, 2)
            case "lambda":
                return lambda: x
            case _:
                raise KeyError(x)


class WrongCount(ringmill.Worker):
    def __init__(self, **kwargs):
        super().__init__(batch_size=10, **kwargs)

    def call(self, x):
        return None if x[0] == "none" else x[1:] if x[0] == "few" else x + x


class Checked(ringmill.Worker):
    def preprocess(self, x):
        if x < 0:
            raise ValueError(x)
        return x + 100

    def call(self, x):
        return [y * 2 for y in x] if self.batch_size else x * 2


class Io(ringmill.Worker):
    """All of its threads share one object."""

    def __init__(self, **kwargs):
        super().__init__(batch_size=3, batch_wait_time=0.02, **kwargs)
        self.num_stream_threads = 4
        self.now = self.most = 0

    def call(self, x):
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.2)
        self.now -= 1
        if any(y == "bad" for y in x):
            raise ValueError("bad")
        return [self.most for _ in x]


class Where(ringmill.Worker):
    def call(self, x):
        return sorted(os.sched_getaffinity(0)), self.cpu_affinity, self.worker_index


class Kept(ringmill.Worker):
    """Keeps its inputs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def call(self, x):
        self.seen.append(x)
        return [float(y.sum()) for y in self.seen]


class Overrides(ringmill.Worker):
    def stream(self, xx):
        yield from xx
