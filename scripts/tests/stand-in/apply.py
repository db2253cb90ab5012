"""Server-side apply, as far as a single manager needs it."""

import copy

from state import Refused

LAST = "stand-in/last-applied"  # what our manager owns; a real cluster keeps it in managedFields


def merge(live, document):
    """The object after an apply. It is equal to `live` if nothing changed."""
    if live is None:
        after = {**copy.deepcopy(document), LAST: document}
        after["metadata"].update(generation=1, resourceVersion="1")
        return defaults(after)
    after = without(copy.deepcopy(live), live.get(LAST, {}), document)
    after = overlaid(after, document)
    after[LAST] = document
    if after["kind"] == "PersistentVolumeClaim":
        check_claim(live, after)
    if after != live:
        after["metadata"]["resourceVersion"] = str(int(live["metadata"]["resourceVersion"]) + 1)
        if any(after.get(field) != live.get(field) for field in ("spec", "data")):
            after["metadata"]["generation"] += 1
    return after


def defaults(after):
    """What the cluster itself adds."""
    name, namespace = after["metadata"]["name"], after["metadata"].get("namespace")
    kind, spec = after["kind"], after.get("spec", {})
    if kind == "Namespace":
        after["status"] = {"phase": "Active"}
    elif kind == "Route":
        spec.setdefault("host", f"{name}-{namespace}.apps.example.com")
    elif kind == "PersistentVolumeClaim":
        spec.setdefault("storageClassName", "standard")
        after["status"] = {"phase": "Bound", "capacity": dict(spec["resources"]["requests"])}
    elif kind == "Service":
        spec.setdefault("clusterIP", "172.30.0.10")
    return after


def without(live, last, document):
    """Fields that we applied before and do not any more are gone."""
    for name, value in last.items():
        if name not in document:
            live.pop(name, None)
        elif isinstance(value, dict) and isinstance(document[name], dict) and isinstance(live.get(name), dict):
            without(live[name], value, document[name])
    return live


def overlaid(live, document):
    for name, value in document.items():
        if isinstance(value, dict) and isinstance(live.get(name), dict):
            overlaid(live[name], value)
        else:
            live[name] = copy.deepcopy(value)
    return live


def check_claim(live, after):
    name = after["metadata"]["name"]
    sizes = [int(one["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) for one in (live, after)]
    if sizes[1] < sizes[0]:
        raise Refused(f'The PersistentVolumeClaim "{name}" is invalid: field can not be less than previous value')
    if live["spec"].get("storageClassName") != after["spec"].get("storageClassName"):
        raise Refused(f'The PersistentVolumeClaim "{name}" is invalid: spec is immutable after creation')
