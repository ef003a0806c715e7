import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))


@pytest.fixture(autouse=True)
def nothing_stays():
    """Each test leaves no process and no file."""

    def children():
        pids = subprocess.run(["ps", "-o", "pid=,stat=", "--ppid", str(os.getpid())], capture_output=True, text=True)
        lines = [line.split() for line in pids.stdout.splitlines()]
        return {pid for pid, stat in lines if not stat.startswith("Z") and pathlib.Path(f"/proc/{pid}/exe").exists()}

    before = children()
    yield
    assert children() <= before
