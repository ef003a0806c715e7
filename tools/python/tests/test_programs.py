"""Programs of their own: what happens to them as a whole."""

import os
import signal
import subprocess
import sys
import textwrap


def begin(tmp_path, text):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(text))
    return subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_workers_of_main(tmp_path):
    """A worker class of ``__main__``, which a new process imports under another name."""
    program = begin(
        tmp_path,
        """
        import ringmill

        class Twice(ringmill.Worker):
            def call(self, x):
                return 2 * x

        if __name__ == "__main__":
            with ringmill.Server(ringmill.ProcessServlet(Twice, cpus=2)) as server:
                print(server.call(21), sum(server.stream(range(1000))))
        """,
    )
    out, err = program.communicate(timeout=120)
    assert (program.returncode, out, err) == (0, "42 999000\n", "")


def test_ctrl_c(tmp_path):
    """A Ctrl-C reaches all processes of the terminal: the server's raises, its workers end in order, without a word."""
    program = begin(
        tmp_path,
        """
        import os, time
        import ringmill

        class Slow(ringmill.Worker):
            def call(self, x):
                print(os.getpid(), flush=True)
                time.sleep(x)

        if __name__ == "__main__":
            try:
                with ringmill.Server(ringmill.ProcessServlet(Slow), shutdown_timeout=0.1) as server:
                    server.call(1000, timeout=2000)
            except KeyboardInterrupt:
                print("interrupted")
        """,
    )
    worker = int(program.stdout.readline())
    os.killpg(program.pid, signal.SIGINT)
    out, err = program.communicate(timeout=120)
    assert (program.returncode, out, err) == (0, "interrupted\n", "")
    assert not os.path.exists(f"/proc/{worker}")


def test_a_server_that_nobody_stops(tmp_path):
    program = begin(
        tmp_path,
        """
        import ringmill

        if __name__ == "__main__":
            server = ringmill.Server(ringmill.ProcessServlet(ringmill.PassThrough)).__enter__()
            threads = ringmill.Server(ringmill.ThreadServlet(ringmill.PassThrough)).__enter__()
            print(server.call(1), threads.call(2))
        """,
    )
    out, err = program.communicate(timeout=120)
    assert (program.returncode, out, err) == (0, "1 2\n", "")
