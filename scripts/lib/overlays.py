"""Overlays as objects: what `kubectl kustomize` makes of a folder.

Takes folders; gives the text, and the objects in it. For scripts/manifests, scripts/lint-manifests and scripts/pods.
"""

import subprocess

import yaml


class RenderError(Exception):
    """Says what could not be rendered, and ends with a hint."""


def folders(root):
    """The folders of the overlays that lie in a folder. None at all is an error: nothing would be checked."""
    found = sorted(path.parent for path in root.glob("*/kustomization.yaml"))
    if not found:
        raise RenderError("%s has no kustomization.yaml\n"
                          "hint: name an overlay, a folder of overlays, or a file of objects" % root)
    return found


def render(folder):
    """The text of an overlay's objects."""
    command = ["kubectl", "kustomize", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RenderError("kubectl is not there\nhint: scripts/test installs it below .cache/venv/bin") from None
    if done.returncode:
        raise RenderError("%s: %s\nhint: kubectl kustomize %s" % (folder, done.stderr.strip(), folder))
    return done.stdout


def parse(text, place):
    """The objects of a text."""
    try:
        objects = [thing for thing in yaml.load_all(text, Loader=yaml.CSafeLoader) if thing is not None]
    except yaml.YAMLError as error:
        raise RenderError("%s: %s\nhint: it must be YAML" % (place, str(error).replace("\n", " "))) from None
    if not objects or not all(isinstance(thing, dict) and thing.get("apiVersion") and thing.get("kind")
                              and isinstance(thing.get("metadata"), dict) for thing in objects):
        raise RenderError("%s: holds no objects of Kubernetes, or others too\n"
                          "hint: each needs apiVersion, kind and metadata" % place)
    return objects
