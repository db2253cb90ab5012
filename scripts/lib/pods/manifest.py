"""A rendered overlay: its objects, and what a container of it is started with.

Takes what `kubectl kustomize` prints; gives objects by kind and name, environments and arguments.
"""

import re
from pathlib import Path

import overlays

from . import Failed

ROOT = Path(__file__).resolve().parents[3]


def render(overlay):
    """The objects of an overlay, given by its name or directory."""
    folder = ROOT / "manifests" / "overlays" / overlay
    try:
        return Manifest(overlays.parse(overlays.render(folder), folder))
    except overlays.RenderError as error:
        raise Failed(str(error)) from None


class Manifest:
    def __init__(self, objects):
        self.objects = [one for one in objects if one]
        self.namespace = self.all("Deployment")[0]["metadata"]["namespace"]

    def all(self, kind):
        return [one for one in self.objects if one["kind"] == kind]

    def find(self, kind, name):
        """The object, or None."""
        return next((one for one in self.all(kind) if one["metadata"]["name"] == name), None)

    def get(self, kind, name):
        found = self.find(kind, name)
        if found is None:
            raise Failed(f"{kind} {name} is not in the manifest: the pod could not start")
        return found

    def data(self, kind, reference):
        """The content of the ConfigMap or Secret that a reference names; None if it is absent and may be."""
        name = reference.get("name") or reference.get("secretName")
        found = self.find(kind, name)
        if found is None and reference.get("optional"):
            return None
        found = found or self.get(kind, name)
        return found.get("data", {}) | found.get("stringData", {})

    def services_of(self, labels):
        """The Services whose selector meets a pod's labels."""
        return [service for service in self.all("Service") if service["spec"]["selector"].items() <= labels.items()]


def environment(manifest, container, image_environment, service_links, pod_fields):
    """What the kubelet gives a container: the image's variables, those of Services, then envFrom, then env."""
    known = dict(entry.split("=", 1) for entry in image_environment)
    known |= links(manifest) if service_links else {}
    for source in container.get("envFrom", []):
        for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if field in source:
                found = manifest.data(kind, source[field]) or {}
                known |= {source.get("prefix", "") + key: value for key, value in found.items()}
    for entry in container.get("env", []):
        value = expand(entry.get("value", ""), known)
        if "valueFrom" in entry:
            value = referenced(manifest, entry["valueFrom"], pod_fields)
        if value is not None:
            known[entry["name"]] = value
    return known


def referenced(manifest, source, pod_fields):
    for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if field in source:
            found = manifest.data(kind, source[field]) or {}
            if source[field]["key"] in found or source[field].get("optional"):
                return found.get(source[field]["key"])
            raise Failed(f"{kind} {source[field]['name']} has no key {source[field]['key']}: the pod could not start")
    path = source.get("fieldRef", {}).get("fieldPath")
    if path in pod_fields:
        return pod_fields[path]
    raise Failed(f"a variable from {source} is not known here: add it to {Path(__file__).name}")


def links(manifest):
    """The variables that tell each container where the namespace's Services with an address of their own are."""
    found = {}
    for service in manifest.all("Service"):
        if service["spec"].get("clusterIP") != "None":
            name = service["metadata"]["name"].upper().replace("-", "_")
            port = service["spec"]["ports"][0]["port"]
            found |= {f"{name}_SERVICE_HOST": "127.0.0.1", f"{name}_SERVICE_PORT": str(port)}
            found |= {f"{name}_PORT": f"tcp://127.0.0.1:{port}"}
    return found


def expand(text, known):
    """$(NAME) stands for a variable, $$(NAME) for itself; a name that is not known stays as it is."""
    def one(match):
        if match[0] == "$$":
            return "$"
        return known.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)", one, text)
