"""Rules about every object: its kind, its namespace, its labels."""
import re

from .core import GATEWAY, SERVER, dig, fault, name_of, rule

UNFIT = {
    "HorizontalPodAutoscaler": "queue and limits live in one gateway process: scale with replicas of llama-server",
    "PodMonitor": "both Deployments have a Service: use a ServiceMonitor",
}
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "Namespace", "PersistentVolume", "PriorityClass", "StorageClass"}
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
# Maps whose values are strings and nothing else, as dotted paths.
STRING_MAPS = (
    "metadata.labels", "metadata.annotations", "data", "spec.selector.matchLabels", "spec.template.metadata.labels",
    "spec.template.metadata.annotations", "spec.template.spec.nodeSelector",
)


@rule("unfit-kind")
def unfit_kind(overlay, project):
    """Kinds that every cluster takes, and that do harm here."""
    for thing in overlay.objects:
        if thing["kind"] in UNFIT:
            yield fault(thing, "kind", "does not fit this system", UNFIT[thing["kind"]])


@rule("program")
def program(overlay, project):
    """Most rules look for the two programs by their names, and would see nothing without a word."""
    for name in (GATEWAY, SERVER):
        if not overlay.pod(name):
            yield fault("Deployment/" + name, "metadata.name", "there is no such Deployment",
                        "names are fixed: leave out namePrefix and nameSuffix, and have another namespace instead")


@rule("namespace")
def namespace(overlay, project):
    """What has no namespace lands in the one that the user happens to be in."""
    hint = "set namespace: in the overlay's kustomization.yaml, that of the base does not reach all"
    for thing in overlay.objects:
        found = dig(thing, "metadata.namespace")
        if thing["kind"] == "Namespace":
            if name_of(thing) != overlay.namespace:
                yield fault(thing, "metadata.name", "the programs are in %s" % overlay.namespace, hint)
        elif thing["kind"] not in CLUSTER_WIDE and (found is None or found != overlay.namespace):
            yield fault(thing, "metadata.namespace", "is %s, the programs are in %s"
                        % (found or "missing", overlay.namespace), hint)


@rule("label-value")
def label_value(overlay, project):
    """Labels are at most 63 characters, and of a small alphabet."""
    for thing in overlay.objects:
        for path in ("metadata.labels", "spec.selector.matchLabels", "spec.template.metadata.labels"):
            for key, value in dig(thing, path, {}).items():
                if isinstance(value, str) and not (len(value) <= 63 and LABEL_VALUE.fullmatch(value)):
                    yield fault(thing, "%s[%s]" % (path, key), "%r is no label value" % value,
                                "at most 63 letters, digits, '-', '_' and '.'; put longer texts into annotations")


@rule("string-map")
def string_map(overlay, project):
    """YAML makes numbers and booleans of bare words, where the API takes strings only."""
    for thing in overlay.objects:
        for path in STRING_MAPS:
            for key, value in dig(thing, path, {}).items():
                if not isinstance(value, str):
                    yield fault(thing, "%s[%s]" % (path, key), "%r is not a string" % (value,), "quote it")
