"""Rules about every object: its kind, its namespace, its labels."""
import re

from .core import NAMESPACE, dig, fault, name_of, rule

# What the project deploys. Whatever else appears came by accident, or needs a thought and a line here.
KINDS = {
    ("v1", "ConfigMap"), ("v1", "Namespace"), ("v1", "PersistentVolumeClaim"), ("v1", "Service"),
    ("v1", "ServiceAccount"), ("v1", "Secret"),  # secret-in-set says what is wrong with a Secret
    ("apps/v1", "Deployment"), ("batch/v1", "Job"),
    ("networking.k8s.io/v1", "Ingress"), ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"), ("route.openshift.io/v1", "Route"),
    ("build.openshift.io/v1", "BuildConfig"), ("image.openshift.io/v1", "ImageStream"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"), ("monitoring.coreos.com/v1", "PrometheusRule"),
}
OPENSHIFT_GROUPS = ("route.openshift.io/", "build.openshift.io/", "image.openshift.io/")
REASONS = {
    "HorizontalPodAutoscaler": "queue and limits live in one gateway process: scale with replicas of llama-server",
    "PodMonitor": "both Deployments have a Service: use a ServiceMonitor",
}
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
# Maps whose values are strings and nothing else, as dotted paths; [] stands for the elements of a list.
STRING_MAPS = (
    "metadata.labels", "metadata.annotations", "data", "spec.selector.matchLabels", "spec.template.metadata.labels",
    "spec.template.metadata.annotations", "spec.template.spec.nodeSelector",
)


@rule("known-kind")
def known_kind(overlay, project):
    """Only the kinds that the project means to deploy, in their current versions."""
    for thing in overlay.objects:
        kind = (thing.get("apiVersion"), thing.get("kind"))
        if kind not in KINDS:
            yield fault(thing, "apiVersion", "%s %s is not a kind that is deployed here" % kind,
                        REASONS.get(kind[1], "use a version that every supported Kubernetes serves, "
                                             "and add it to KINDS in scripts/lib/lint/objects.py"))
        elif kind[0].startswith(OPENSHIFT_GROUPS) and not overlay.openshift:
            yield fault(thing, "apiVersion", "only OpenShift has %s" % kind[1],
                        "leave the component openshift out of this overlay")


@rule("namespace")
def namespace(overlay, project):
    """What has no namespace lands in the one that the user happens to be in."""
    for thing in overlay.objects:
        found = dig(thing, "metadata.namespace")
        if thing.get("kind") == "Namespace":
            if name_of(thing) != NAMESPACE:
                yield fault(thing, "metadata.name", "the namespace is called %s" % NAMESPACE, "rename it")
        elif found != NAMESPACE:
            yield fault(thing, "metadata.namespace", "is %s, not %s" % (found or "missing", NAMESPACE),
                        "set namespace: in the overlay's kustomization.yaml, that of the base does not reach all")


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
