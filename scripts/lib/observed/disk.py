"""A file system of its own for a test: what fills it disturbs nobody else, and nobody else fills it."""

from pathlib import Path

from .processes import Process, until


class Disk:
    """A file system in memory, in a mount namespace that lives until the test ends."""

    def __init__(self, folder, size):
        folder.mkdir(parents=True)
        mount = 'mount -t tmpfs -o size="$1" tmpfs "$0" && exec sleep infinity'
        self._holder = Process("the disk", ["unshare", "--mount", "sh", "-c", mount, folder, size],
                               folder.with_suffix(".log"))
        # How it is called within, and how it is reached from without.
        self.folder, self.outside = folder, Path(f"/proc/{self._holder.pid}/root{folder}")
        # Before a command that shall see it.
        self.inside = ["nsenter", f"--target={self._holder.pid}", "--mount", "--"]
        until("the disk is mounted", self._is_mounted)

    def _is_mounted(self):
        self._holder.check()
        try:
            return self.outside.stat().st_dev != self.folder.stat().st_dev
        except OSError:  # until setpriv has become unshare, or root may be another one
            return False
