"""Makes objects of overlays, by `kubectl kustomize`, and of files that hold them already."""
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from .core import Overlay


class RenderError(Exception):
    """Says what could not be rendered, on one line, with a hint."""


def load(paths):
    """An Overlay for each path: a directory with a kustomization, a directory of those, or a file of objects."""
    places = [place for path in paths for place in _expand(Path(path))]
    with ThreadPoolExecutor() as pool:
        return [Overlay(place.stem, parse(text, place)) for place, text in zip(places, pool.map(_text, places))]


def _expand(path):
    if path.is_file() or (path / "kustomization.yaml").is_file():
        return [path]
    found = sorted(inner.parent for inner in path.glob("*/kustomization.yaml"))
    if not found:
        raise RenderError("%s has no kustomization.yaml\n"
                          "hint: name an overlay, a folder of overlays, or a file of objects" % path)
    return found


def _text(place):
    if place.is_file():
        return place.read_text(encoding="utf-8")
    try:
        done = subprocess.run(["kubectl", "kustomize", str(place)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              universal_newlines=True, check=False)
    except FileNotFoundError:
        raise RenderError("kubectl is not there\nhint: scripts/test installs it below .cache/venv/bin") from None
    if done.returncode:
        raise RenderError("%s: %s\nhint: kubectl kustomize %s" % (place, done.stderr.strip(), place))
    return done.stdout


def parse(text, place):
    """The objects of a text."""
    try:
        objects = [thing for thing in yaml.load_all(text, Loader=yaml.CSafeLoader) if thing is not None]
    except yaml.YAMLError as error:
        raise RenderError("%s: %s\nhint: it must be YAML" % (place, str(error).replace("\n", " "))) from None
    if not objects or not all(isinstance(thing, dict) and thing.get("kind") for thing in objects):
        raise RenderError("%s: holds no objects of Kubernetes, or others too\nhint: each needs a kind" % place)
    return objects
