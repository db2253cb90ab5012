"""Runs an unpacked image as OpenShift would: a user of its choosing in group 0, no capabilities, a read-only root.

Takes the folder of an unpacked image. All containers share the network of this process.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from . import Failed

USER = 1006700000
CAPABILITIES = ("ambient", "bounding", "effective", "inheritable", "permitted")
NAMESPACES = ("ipc", "mount", "pid", "uts")
DEVICES = ["nosuid", "strictatime", "mode=755", "size=65536k"]


class Container:
    """A container of an unpacked image. Its output goes to a log file."""

    def __init__(self, image, mounts=(), environment=None, command=None):
        self.name = f"{image.name}-{os.urandom(4).hex()}"
        self.config = json.loads((image / "image.json").read_text())
        self.folder = Path(tempfile.mkdtemp(prefix="container-"))
        self.log = self.folder / "log"
        self.process = None
        spec = specification(image, self.config, mounts, environment or {}, command)
        (self.folder / "config.json").write_text(json.dumps(spec))

    def __enter__(self):
        with open(self.log, "wb") as log:
            command = [*self.crun("run"), "--bundle", str(self.folder), self.name]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def crun(self, verb):
        return ["crun", "--cgroup-manager=disabled", "--root", str(self.folder / "state"), verb]

    def signal(self, number):
        subprocess.run([*self.crun("kill"), self.name, str(int(number))], check=False)

    def wait(self, seconds):
        """Returns the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.failed(f"has not ended after {seconds} s") from None

    def wait_until(self, true, what, seconds):
        deadline = time.monotonic() + seconds
        while not true():
            if self.process.poll() is not None:
                raise self.failed(f"ended with code {self.process.returncode} before it {what}")
            if time.monotonic() > deadline:
                raise self.failed(f"has not {what} in {seconds} s")
            time.sleep(0.05)

    def execute(self, *command):
        """Runs a command inside, as `kubectl exec` does, and returns its output."""
        inside = [*self.crun("exec"), "--user", f"{USER}:0", self.name, *command]
        done = subprocess.run(inside, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise self.failed(f"{' '.join(command)} ended with code {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def failed(self, text):
        """The error to raise, with the end of the log."""
        tail = ""
        with contextlib.suppress(OSError):
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        return Failed(f"{self.name} {text}; its log ends with:\n{tail}")


def specification(image, config, mounts, environment, command):
    variables = dict(line.split("=", 1) for line in config["Env"])
    variables.update(environment)
    nothing = {kind: [] for kind in CAPABILITIES}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": USER, "gid": 0},
            "args": command or config["Entrypoint"] + (config["Cmd"] or []),
            "env": [f"{name}={value}" for name, value in variables.items()],
            "cwd": config["WorkingDir"] or "/",
            "capabilities": nothing,
            "noNewPrivileges": True,
        },
        "root": {"path": str(image / "rootfs"), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": DEVICES},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
            *(
                {"destination": inside, "type": "bind", "source": str(outside), "options": ["bind", mode]}
                for outside, inside, mode in mounts
            ),
        ],
        "linux": {"namespaces": [{"type": kind} for kind in NAMESPACES]},
    }
