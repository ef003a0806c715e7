"""A throw-away Python environment with mpservice in it.

    python3 environment.py                  makes one, prints its interpreter's path, keeps it until the input ends
    python3 environment.py COMMAND …        makes one and runs COMMAND with the environment's programs first in PATH

It lies in a folder of its own among the temporary files and is removed at the end, also after SIGINT, SIGTERM or
SIGHUP. Nothing else on the machine is changed, but for pip's own cache of downloads. What it is doing it says on
standard error. It needs Python's `venv` and a package index that pip can reach.
"""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

PACKAGE = "mpservice==0.16.8"

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def environment():
    """The folder with the environment's programs, as long as it is there."""
    with tempfile.TemporaryDirectory(prefix="ringmill-mpservice-") as folder:
        for ending in ENDING_SIGNALS:
            signal.signal(ending, end)
        try:
            say("making a throw-away environment")
            run(sys.executable, "-m", "venv", folder)
            programs = Path(folder, "bin")
            say(f"installing {PACKAGE}")
            run(programs / "python", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", PACKAGE)
            say("ready")
            yield programs
        finally:
            ignore_endings()


def end(number, _frame):
    """Ends the program as an exception does, so that the folder is removed."""
    ignore_endings()
    sys.exit(128 + number)


def ignore_endings():
    for ending in ENDING_SIGNALS:
        signal.signal(ending, signal.SIG_IGN)


def run(*command):
    """Runs `command`; what it prints is shown only if it fails, which ends this program."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        try:
            printed = process.stdout.read()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            # Ends when the last process of that group has closed it: then no process writes into the folder.
            process.stdout.read()
            raise
    if process.returncode != 0:
        sys.stderr.buffer.write(printed)
        sys.exit(f"mpservice: {' '.join(map(str, command))} failed")


def say(what):
    print(f"mpservice: {what}", file=sys.stderr, flush=True)


def main():
    command = sys.argv[1:]
    with environment() as programs:
        if command:
            path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
            sys.exit(subprocess.run(command, env={**os.environ, "PATH": path}).returncode)
        print(programs / "python", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
