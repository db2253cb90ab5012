"""scripts/lint-manifests: renders, runs all rules, tells the faults."""
import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from overlays import RenderError, folders, parse, render

from . import (  # noqa: F401, each module registers its rules
    alerts, dashboards, gateway, images, monitoring, network, objects, openshift, probes, references, resources,
    security, storage, timing, tree)
from .core import RULES, TREE_RULES, Overlay, run, run_tree
from .project import Project, ProjectError

ROOT = Path(__file__).resolve().parents[3]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="lint-manifests", description="Looks for faults of the manifests that no schema sees.")
    parser.add_argument("path", nargs="*", help="an overlay, a folder of overlays, or a file of objects; "
                        "without any: manifests/overlays, and the files of manifests/")
    paths = parser.parse_args(arguments).path
    project = Project(ROOT)
    try:
        overlays = load(paths or [ROOT / "manifests/overlays"])
        began = time.monotonic()
        faults = [] if paths else list(run_tree(project))
        for overlay in overlays:
            faults += run(overlay, project)
    except (RenderError, ProjectError) as error:
        print("lint-manifests: %s" % error, file=sys.stderr)
        return 2
    for line in told(faults):
        print(line)
    print("lint-manifests: %d faults; %d overlays, %d objects, %d rules, %.2f s beside kustomize" % (
        len(faults), len(overlays), sum(len(overlay.objects) for overlay in overlays), len(RULES) + len(TREE_RULES),
        time.monotonic() - began))
    return 1 if faults else 0


def load(paths):
    """An Overlay for each path: an overlay's folder, a folder of overlays, or a file of objects."""
    places = []
    for path in map(Path, paths):
        path = path.resolve()
        places += [path] if path.is_file() or (path / "kustomization.yaml").is_file() else folders(path)
    with ThreadPoolExecutor() as pool:
        texts = pool.map(lambda place: place.read_text(encoding="utf-8") if place.is_file() else render(place), places)
        return [Overlay(place.name if place.is_dir() else place.stem, parse(text, place))
                for place, text in zip(places, texts)]


def told(faults):
    """Two lines a fault; what several overlays share is told once."""
    places = {}
    for found in faults:
        places.setdefault(found._replace(overlay=None), []).append(found.overlay)
    for found, overlays in places.items():
        yield "%s: %s %s: %s [%s]" % (
            ", ".join(dict.fromkeys(overlays)), found.subject, found.path, found.what, found.rule)
        yield "    hint: " + found.hint
