"""The images that containers are made of, as scripts/images leaves them: a root file system and a configuration.

Takes an image's name as it stands in a manifest; gives what is to be run in which file system.
"""

import json
from pathlib import Path

from . import Failed
from .manifest import ROOT

IMAGES = Path(__import__("os").environ.get("PODS_IMAGES", ROOT / ".cache" / "images"))


class Image:
    def __init__(self, folder):
        known = json.loads((folder / "config.json").read_text())["config"]
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
            if not (self.folder / name / "config.json").exists():
                raise Failed(f"image {name} is not in {self.folder}: run scripts/images")
            self.known[name] = Image(self.folder / name)
        return self.known[name]
