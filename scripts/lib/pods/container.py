"""One container, run by crun with what its specification asks for.

Takes a specification, an image and mounts; gives a process with an id, a log and an exit code.
"""

import json
import math
import os
import re
import subprocess
import tempfile

from . import Failed, sandbox
from .manifest import environment, expand

# What a container runtime leaves a container that drops nothing.
DEFAULT_CAPABILITIES = [
    "CAP_" + name for name in (
        "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID "
        "SYS_CHROOT").split()
]
MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug",
          "/proc/scsi", "/sys/firmware"]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class Container:
    def __init__(self, pod, spec, image):
        self.pod, self.spec, self.image = pod, spec, image
        self.name, self.address = spec["name"], pod.address
        self.id = f"{pod.name}-{self.name}"
        self.bundle = pod.folder / self.name
        self.log = pod.cluster.logs / f"{self.id}.log"
        self.process = None

    def start(self):
        (self.bundle / "rootfs").mkdir(parents=True)
        # A layer of its own: runtimes create missing mount points, and the image is not theirs.
        for name in ("upper", "work"):
            (self.bundle / name).mkdir()
        layers = f"lowerdir={self.image.root},upperdir={self.bundle / 'upper'},workdir={self.bundle / 'work'}"
        sandbox.mount("overlay", self.bundle / "rootfs", "overlay", options=layers)
        (self.bundle / "config.json").write_text(json.dumps(self.configuration(), indent=1))
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                [*self.crun("run"), "--bundle", self.bundle, self.id],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )

    def crun(self, command):
        return ["crun", "--root", str(self.pod.cluster.folder / "crun"), "--cgroup-manager=disabled", command]

    @property
    def code(self):
        """The exit code; 128 and the number of the signal that ended it; None while it runs."""
        return self.process.poll()

    def process_id(self):
        """Of the container's first process, as seen here."""
        run = subprocess.run([*self.crun("state"), self.id], capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise Failed(f"{self.id} does not run: {run.stderr.strip()}", self.log)
        return json.loads(run.stdout)["pid"]

    def execute(self, command, timeout=None, **options):
        """Runs a command in the container, as its user and with its variables, as `exec` of kubectl does."""
        way_in = self.way_in()
        with tempfile.NamedTemporaryFile("w", dir=self.bundle) as file:
            json.dump(way_in["process"] | {"args": list(command)}, file)
            file.flush()
            run = [*way_in["crun"], "--process", file.name, way_in["id"]]
            options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True} | options
            try:
                return subprocess.run(run, timeout=timeout, check=False, **options)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"{command[0]} takes longer than {timeout:.0f} s") from None

    def way_in(self):
        """What it takes to run something in the container, from any process of these namespaces."""
        process = json.loads((self.bundle / "config.json").read_text())["process"]
        return {"crun": self.crun("exec"), "process": process, "id": self.id}

    def signal(self, name):
        # Has no effect on a container that has just ended.
        subprocess.run([*self.crun("kill"), self.id, name], capture_output=True, check=False)

    def wait(self, seconds):
        """Whether it has ended within this time."""
        try:
            self.process.wait(timeout=max(seconds, 0))
            return True
        except subprocess.TimeoutExpired:
            return False

    # ---- what it is started with

    def configuration(self):
        security = self.spec.get("securityContext", {})
        drops_all = "ALL" in security.get("capabilities", {}).get("drop", [])
        capabilities = [] if drops_all else DEFAULT_CAPABILITIES
        pod = self.pod
        known = environment(pod.cluster.manifest, self.spec, self.image.environment,
                            pod.spec.get("enableServiceLinks", True), pod.fields())
        known["HOSTNAME"] = pod.name
        command = self.spec.get("command") or self.image.entrypoint
        # An image's CMD belongs to its own ENTRYPOINT.
        arguments = self.spec.get("args") or ([] if "command" in self.spec else self.image.command)
        namespaces = ("pid", "ipc", "uts", "mount")
        return {
            "ociVersion": "1.0.0",
            "hostname": pod.name,
            "root": {"path": "rootfs", "readonly": security.get("readOnlyRootFilesystem", False)},
            "process": {
                "args": [expand(one, known) for one in [*command, *arguments]],
                "env": [f"{name}={value}" for name, value in known.items()],
                "cwd": self.spec.get("workingDir") or self.image.directory,
                "user": {"uid": security.get("runAsUser", pod.user), "gid": security.get("runAsGroup", pod.group),
                         "additionalGids": [pod.fs_group]},
                "capabilities": {kind: [] if kind in ("inheritable", "ambient") else capabilities for kind in (
                    "bounding", "effective", "permitted", "inheritable", "ambient")},
                "noNewPrivileges": not security.get("allowPrivilegeEscalation", True),
            },
            "mounts": SYSTEM_MOUNTS + self.own_mounts(),
            "linux": {"namespaces": [{"type": kind} for kind in namespaces], "maskedPaths": MASKED,
                      "readonlyPaths": READ_ONLY},
        }

    def own_mounts(self):
        mounts = [bind(self.pod.folder / name, f"/etc/{name}", read_only=False) for name in ("hosts", "resolv.conf")]
        mounts.append(bind(self.limits(), "/sys/fs/cgroup", read_only=True))
        for one in self.spec.get("volumeMounts", []):
            if one["name"] not in self.pod.volumes:
                raise Failed(f"{self.id}: there is no volume {one['name']}")
            source = self.pod.volumes[one["name"]] / one.get("subPath", "")
            mounts.append(bind(source, one["mountPath"], one.get("readOnly", False)))
        return mounts

    def limits(self):
        """The limits as a program reads them in its cgroup. They are told, not enforced."""
        folder = self.bundle / "cgroup"
        folder.mkdir()
        found = self.spec.get("resources", {}).get("limits", {})
        cpu = f"{math.ceil(quantity(found['cpu']) * 100000)}" if "cpu" in found else "max"
        memory = f"{math.ceil(quantity(found['memory']))}" if "memory" in found else "max"
        (folder / "cpu.max").write_text(f"{cpu} 100000\n")
        (folder / "memory.max").write_text(f"{memory}\n")
        return folder


def bind(source, target, read_only):
    options = ["rbind", "nosuid", "nodev", "ro" if read_only else "rw"]
    return {"destination": target, "source": os.fspath(source), "type": "bind", "options": options}


def system_mount(target, kind, *options):
    return {"destination": target, "source": kind, "type": kind, "options": list(options)}


SYSTEM_MOUNTS = [
    system_mount("/proc", "proc"),
    system_mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    system_mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
    system_mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
    system_mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
]


def quantity(text):
    """A Kubernetes quantity as a number: 500m, 2, 64Gi."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if not match or match[2] not in UNITS:
        raise Failed(f"{text} is no quantity that is known here")
    return float(match[1]) * UNITS[match[2]]
