"""Rules about Routes: what the API server takes, and the router then does not do."""
from .core import annotations_of, dig, fault, name_of, rule
from .gateway import Settings

ROUTER = "haproxy.router.openshift.io/"
ANNOTATIONS = {
    # Otherwise clients can forge the address that keys are compared with.
    ROUTER + "set-forwarded-headers": "replace",
    ROUTER + "disable_cookies": "true",
    ROUTER + "balance": "leastconn",
}


@rule("route-termination")
def route_termination(overlay, project):
    """The API server takes any text here, and a router that speaks another protocol than the gateway gets no answer."""
    wanted = "reencrypt" if Settings(overlay, project).value("server.tls_certificate") else "edge"
    for route in overlay.of("Route"):
        found = dig(route, "spec.tls.termination")
        if found != wanted:
            yield fault(route, "spec.tls.termination", "is %r" % found,
                        "set %s, or change server.tls_certificate of the gateway" % wanted)


@rule("route-insecure")
def route_insecure(overlay, project):
    """A redirect comes when the key has crossed in clear already, and makes a GET of a POST."""
    for route in overlay.of("Route"):
        found = dig(route, "spec.tls.insecureEdgeTerminationPolicy")
        if found != "None":
            yield fault(route, "spec.tls.insecureEdgeTerminationPolicy", "is %s" % found, "set it to None")


@rule("route-name")
def route_name(overlay, project):
    """The host's first label is NAME-NAMESPACE, and a label of DNS ends at 63 characters."""
    for route in overlay.of("Route"):
        label = "%s-%s" % (name_of(route), dig(route, "metadata.namespace"))
        if len(label) > 63:
            yield fault(route, "metadata.name", "%s has %d characters" % (label, len(label)), "shorten it to 63")


@rule("route-annotations")
def route_annotations(overlay, project):
    """What the gateway needs of the router beside time."""
    for route in overlay.of("Route"):
        for key, wanted in ANNOTATIONS.items():
            if annotations_of(route).get(key) != wanted:
                yield fault(route, "metadata.annotations[%s]" % key, "is %r" % annotations_of(route).get(key),
                            'set it to "%s"' % wanted)
        for key in annotations_of(route):
            if key.startswith(ROUTER + "rate-limit-connections"):
                yield fault(route, "metadata.annotations[%s]" % key, "drops connections by address, without an answer",
                            "remove it: the gateway limits by key, and says so")
