"""Namespaces of this process: what runs in them ends with it, and so do its mounts and addresses.

Takes nothing; gives a process that is the first of its own process, mount and network namespaces.
"""

import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys

from . import Failed

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x20000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH, PR_SET_PDEATHSIG = 2, 1
SIOCSIFFLAGS, IFF_UP = 0x8914, 1

libc = ctypes.CDLL(None, use_errno=True)


def enter(started=lambda process: None, ended=lambda: None):
    """Goes on in a child in fresh namespaces; the parent hands on signals and ends as the child does.

    The parent calls `started` with the id of the child's process, and `ended` when nothing of it is left.
    """
    if os.geteuid() != 0:
        raise Failed("namespaces and other users' ids need root: run it with sudo")
    call("unshare", CLONE_NEWPID)
    sys.stdout.flush()  # or both would write what is not written yet
    child = os.fork()
    if child:
        started(child)
        watch(child, ended)
    # Whatever ends the parent ends the child, and with it, the first of its namespace, all that it has started.
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    call("unshare", CLONE_NEWNS | CLONE_NEWNET)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc")
    # crun refuses the mixture of cgroups v1 and v2 that some machines have. It gets no cgroups from us anyway.
    call("umount2", b"/sys/fs/cgroup", MNT_DETACH)
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
    loopback_up()


def watch(child, ended):
    def hand_on(number, _frame):
        os.kill(child, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    ended()
    os._exit(code if code >= 0 else 128 - code)


def loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def mount(source, target, kind, flags=0, options=None):
    call("mount", *[text and text.encode() for text in (source, str(target), kind)], flags,
         options and options.encode())


def bind(source, target):
    target.mkdir(parents=True, exist_ok=True)
    mount(str(source), target, None, MS_BIND)


def call(name, *arguments):
    numbers_are_long = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
    if getattr(libc, name)(*numbers_are_long) != 0:
        error = ctypes.get_errno()
        raise Failed(f"{name} is refused: {os.strerror(error)}; run as root, outside of a container without rights")
