"""Child processes that end with the test, free ports, and waiting for what shall come."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

# Generous: the machine may be busy.
PATIENCE = 240
# The kernel's parent-death signal follows the thread that spawned: one that lives as long as the test spawns all.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
_RUNNING, _LOCK = [], threading.Lock()
_PORTS = itertools.count(os.getpid() % 625 * 16)


class Process:
    """A running program; its output is in a file."""

    def __init__(self, name, command, log, environment=None):
        self.name, self.log = name, log
        mortal = ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)]
        with open(log, "ab") as out:
            self.process = _SPAWNER.submit(
                subprocess.Popen, mortal, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env=os.environ | (environment or {})).result()
        with _LOCK:
            _RUNNING.append(self)

    @property
    def pid(self):
        return self.process.pid

    def kill(self):
        """Ends it at once, and waits until nothing of it is left."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        with _LOCK, contextlib.suppress(ValueError):
            _RUNNING.remove(self)

    def check(self):
        """An error with the end of its log, if it has ended."""
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with code {self.process.returncode}:\n{self.tail()}")

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def end_all():
    """Ends all that still run, the newest first."""
    with _LOCK:
        running = list(_RUNNING)
    for process in reversed(running):
        process.kill()


def free_port():
    """A port that nothing listens on, below those that the kernel hands out: free when a server is restarted there."""
    while True:
        port = 20_000 + next(_PORTS) % 10_000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def until(what, condition, patience=PATIENCE, pause=0.05):
    """The first value of `condition` that is true."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened in {patience} s: {what}")
        time.sleep(pause)
    return value
