"""The images that containers are made of: folders with rootfs/ and image.json, as scripts/images makes them.

Takes an image's name as it stands in a manifest; gives what is to be run in which file system.
"""

import json
import subprocess
from pathlib import Path

from . import Failed
from .manifest import ROOT


def build(folder):
    """Builds both images into a folder that does not exist yet."""
    if subprocess.run([ROOT / "scripts" / "images", folder], check=False).returncode != 0:
        raise Failed("the images could not be built: the message is above")


class Image:
    def __init__(self, folder):
        known = json.loads((folder / "image.json").read_text())
        self.root = folder / "rootfs"
        self.entrypoint, self.command = known.get("Entrypoint") or [], known.get("Cmd") or []
        self.environment, self.directory = known.get("Env") or [], known.get("WorkingDir") or "/"
        self.stop_signal = known.get("StopSignal") or "SIGTERM"


class Images:
    def __init__(self, folder):
        self.folder, self.known = Path(folder), {}

    def get(self, reference):
        """By the last part of its name, without registry and tag."""
        name = reference.split("/")[-1].split("@")[0].split(":")[0]
        if name not in self.known:
            if not (self.folder / name / "image.json").exists():
                raise Failed(f"there is no image {name} in {self.folder}: scripts/images DIR makes them")
            self.known[name] = Image(self.folder / name)
        return self.known[name]
