"""One writer at a time, among real processes."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from espo_algo.lock import lock

HOLD = """
import sys
from espo_algo.lock import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_one_ends(tmp_path):
    path = tmp_path / "run" / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(BlockingIOError, match=f"lock held by process {holder.pid} on {os.uname().nodename}"),
            lock(path),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
    with lock(path):  # a dead process holds nothing
        assert path.read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"
        with pytest.raises(BlockingIOError), lock(path):
            pass
    with lock(path):
        pass
