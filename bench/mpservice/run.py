"""mpservice as a rival of ringmill: one worker process that answers questions, measured on command.

Reads one command a line from its input and answers each with one line of JSON on its output:

    call ITEMS      one item at a time, by `Server.call`
    stream ITEMS    as many in progress as --window allows, by `Server.stream`

The first line, before any command, says that the worker is ready. The end of the input ends the program.
It needs mpservice; `environment.py` beside it makes a throw-away environment that has it:

    echo "call 5000" | python3 environment.py python run.py --batch-size 100

Questions and answers are those of every contestant (`bench/src/payload.rs`): bytes that are written, checked and
read on both sides. The worker refuses a question of the wrong length and computes its answer from every word; the
client compares every byte of the answer. A wrong one ends the program with an error.
"""

import argparse
import json
import os
import platform
import signal
import struct
import sys
import time
from contextlib import suppress
from ctypes import CDLL
from importlib.metadata import version
from multiprocessing import parent_process

from mpservice.mpserver import ProcessServlet, Server, Worker

WORD_BYTES = 8
WORD_MAX = 2**64 - 1
PR_SET_PDEATHSIG = 1


class Payload:
    """Questions and answers of a given size in bytes."""

    def __init__(self, payload_bytes):
        words, rest = divmod(payload_bytes, WORD_BYTES)
        if words < 1 or rest:
            raise ValueError(f"a payload is made of words of {WORD_BYTES} bytes, {payload_bytes} bytes are not")
        self._words = words
        self._layout = struct.Struct(f"<{words}Q")

    def question(self, item):
        """The question of item number `item`."""
        return self._layout.pack(*range(item, item + self._words))

    def answer(self, question):
        """The answer to `question`: every word of it depends on every word of the question."""
        words = self._layout.unpack(question)
        mix = (sum(words) << 1) & WORD_MAX
        return self._layout.pack(*[word ^ mix for word in words])

    def is_answer(self, answer, item):
        """Whether `answer` is the answer to the question of item number `item`."""
        return answer == self.answer(self.question(item))


class Echo(Worker):
    """Answers questions, one by one or a batch at a time."""

    def __init__(self, *, payload_bytes, **kwargs):
        super().__init__(**kwargs)
        die_with_parent()
        self._answer = Payload(payload_bytes).answer

    def call(self, x):
        return self._answer(x) if self.batch_size == 0 else [self._answer(question) for question in x]


def die_with_parent():
    """mpservice ends its workers, but not if it is killed itself: then the kernel does."""
    CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before the kernel was asked to tell.
    if not parent_process().is_alive():
        sys.exit("the server is gone")


class Client:
    """Sends questions through a server and checks the answers."""

    def __init__(self, server, payload):
        self._server = server
        self._payload = payload

    def call(self, items):
        for item in range(items):
            self._check(self._server.call(self._payload.question(item)), item)

    def stream(self, items):
        answers = self._server.stream(map(self._payload.question, range(items)))
        answered = 0
        for item, answer in enumerate(answers):
            self._check(answer, item)
            answered += 1
        if answered != items:
            sys.exit(f"{answered} answers to {items} questions")

    def _check(self, answer, item):
        if not self._payload.is_answer(answer, item):
            sys.exit(f"a wrong answer to item {item}")


def serve_commands(commands, client, say):
    """Does what each line of `commands` asks for and says how long it took."""
    jobs = {"call": client.call, "stream": client.stream}
    for line in commands:
        job, items = line.split()
        items = int(items)
        start = time.perf_counter_ns()
        jobs[job](items)
        ns = time.perf_counter_ns() - start
        say(job=job, items=items, ns=ns, ns_per_item=ns / items)


def private_output():
    """This program's output, for its own lines only: what libraries and workers print goes to standard error."""
    output = os.dup(1)
    os.dup2(2, 1)
    return output


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--payload-bytes", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=0, help="0: the worker gets single items")
    parser.add_argument("--window", type=int, default=256, help="items in progress at most")
    parser.add_argument("--client-cpus", type=int, nargs="+", help="where the server and its threads run")
    parser.add_argument("--worker-cpus", type=int, nargs="+", help="where the worker runs")
    arguments = parser.parse_args()

    output = private_output()

    def say(**fields):
        os.write(output, f"{json.dumps(fields)}\n".encode())

    if arguments.client_cpus:
        os.sched_setaffinity(0, arguments.client_cpus)
    # A worker that waits for more items than there are only loses time: it takes what is there.
    servlet = ProcessServlet(
        Echo,
        cpus=[arguments.worker_cpus],
        payload_bytes=arguments.payload_bytes,
        batch_size=arguments.batch_size,
        batch_wait_time=0,
    )
    with Server(servlet, capacity=arguments.window) as server:
        client = Client(server, Payload(arguments.payload_bytes))
        say(ready=True, mpservice=version("mpservice"), python=platform.python_version())
        # The process that gives the commands may end while one is carried out.
        with suppress(BrokenPipeError):
            serve_commands(sys.stdin, client, say)


if __name__ == "__main__":
    main()
