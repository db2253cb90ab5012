"""Rules about the files below manifests/: what somebody who applies them by hand would stumble over."""
import re

from .core import fault, tree_rule
from .security import KEY

MANIFESTS = "manifests"


def files(project, pattern):
    """(name from the root, path) of files below manifests/."""
    for path in sorted((project.root / MANIFESTS).rglob(pattern)):
        yield str(path.relative_to(project.root)), path


@tree_rule("secret-template")
def secret_template(project):
    """`kubectl apply -f` of a folder takes every .yaml, .yml and .json: a template there becomes a Secret."""
    for name, path in files(project, "*"):
        if path.suffix in (".yaml", ".yml", ".json") and re.search(
                r"^kind: Secret$", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield fault(name, "", "would be applied with its folder", "name it %s.example" % path.name)


@tree_rule("key-in-file")
def key_in_file(project):
    """No key stands in a file, not even in a comment or an example."""
    for name, path in files(project, "*"):
        if path.is_file() and KEY.search(path.read_text(encoding="utf-8")):
            yield fault(name, "", "holds what looks like a key", "revoke the key if it is real, and remove it")


@tree_rule("overlay-kustomization")
def overlay_kustomization(project):
    """kustomization.yaml is no object: `kubectl apply -f` of its folder fails after it has applied the rest."""
    for name, path in files(project, "kustomization.yaml"):
        place = path.relative_to(project.root / MANIFESTS).parts[0]
        if place not in ("base", "components", "overlays"):
            yield fault(name, "", "stands beside files that are applied by hand", "move it below base or overlays")
        elif place == "overlays" and "\nnamespace: " not in path.read_text(encoding="utf-8"):
            yield fault(name, "namespace", "is missing: components would land in another namespace",
                        "add namespace:, that of the base does not reach them")
