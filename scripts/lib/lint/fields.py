"""Fields of the kinds for which no schema is at hand: those that are used here. A field that is misspelt is ignored."""
from .core import fault, rule

ANY = None
_METADATA = {"name": ANY, "namespace": ANY, "labels": ANY, "annotations": ANY}
_RESOURCES = {"requests": ANY, "limits": ANY}
FIELDS = {
    "Route": {
        "host": ANY, "path": ANY, "port": {"targetPort": ANY}, "wildcardPolicy": ANY,
        "tls": {"termination": ANY, "insecureEdgeTerminationPolicy": ANY},
        "to": {"kind": ANY, "name": ANY, "weight": ANY},
    },
    "ImageStream": {"lookupPolicy": {"local": ANY}, "tags": ANY},
    "BuildConfig": {
        "source": {"type": ANY, "binary": ANY, "contextDir": ANY}, "output": {"to": {"kind": ANY, "name": ANY}},
        "strategy": {"type": ANY,
                     "dockerStrategy": {"dockerfilePath": ANY, "buildArgs": [{"name": ANY, "value": ANY}]}},
        "resources": _RESOURCES, "runPolicy": ANY, "completionDeadlineSeconds": ANY, "nodeSelector": ANY,
        "successfulBuildsHistoryLimit": ANY, "failedBuildsHistoryLimit": ANY,
    },
    "ServiceMonitor": {
        "selector": {"matchLabels": ANY, "matchExpressions": ANY}, "namespaceSelector": {"matchNames": ANY},
        "jobLabel": ANY, "targetLabels": ANY, "sampleLimit": ANY,
        "endpoints": [{
            "port": ANY, "path": ANY, "scheme": ANY, "interval": ANY, "scrapeTimeout": ANY,
            "authorization": {"type": ANY, "credentials": {"name": ANY, "key": ANY}},
            "metricRelabelings": ANY, "relabelings": ANY, "honorLabels": ANY,
            # Known, so that monitor-file says what is wrong with them.
            "bearerTokenFile": ANY, "tlsConfig": ANY,
        }],
    },
    "PrometheusRule": {
        "groups": [{
            "name": ANY, "interval": ANY,
            "rules": [{"alert": ANY, "record": ANY, "expr": ANY, "for": ANY, "keep_firing_for": ANY, "labels": ANY,
                       "annotations": ANY}],
        }],
    },
    "HTTPRoute": {
        "hostnames": ANY,
        "parentRefs": [{"group": ANY, "kind": ANY, "name": ANY, "namespace": ANY, "sectionName": ANY, "port": ANY}],
        "rules": [{
            "matches": ANY, "filters": ANY, "timeouts": {"request": ANY, "backendRequest": ANY},
            "backendRefs": [{"group": ANY, "kind": ANY, "name": ANY, "port": ANY, "weight": ANY}],
        }],
    },
}


@rule("known-field")
def known_field(overlay, project):
    """Only fields that exist."""
    for thing in overlay.objects:
        fields = FIELDS.get(thing.get("kind"))
        if fields:
            whole = {"apiVersion": ANY, "kind": ANY, "metadata": _METADATA, "spec": fields}
            for path in unknown(thing, whole, ""):
                yield fault(thing, path, "is no field that is used here",
                            "correct it, or add it to FIELDS in scripts/lib/lint/fields.py")


def unknown(value, fields, path):
    """The paths of fields that are not among the known ones."""
    if isinstance(fields, list) and isinstance(value, list):
        for index, inner in enumerate(value):
            yield from unknown(inner, fields[0], "%s[%d]" % (path, index))
    elif isinstance(fields, dict) and isinstance(value, dict):
        for key, inner in value.items():
            below = "%s.%s" % (path, key) if path else key
            if key in fields:
                yield from unknown(inner, fields[key], below)
            else:
                yield below
