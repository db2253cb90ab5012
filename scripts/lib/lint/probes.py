"""Rules about probes: what they ask, and how patient they are."""
from .core import GATEWAY, SERVER, dig, fault, name_of, rule

PATHS = {GATEWAY: ({"/livez", "/readyz"}, "admin"), SERVER: ({"/health"}, "http")}
# Loading 247 GB takes 17 minutes at 250 MB/s.
LOAD_SECONDS = 1800


def span(probe):
    """Seconds until a probe that always fails counts as failed."""
    return probe.get("initialDelaySeconds", 0) + probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)


def probes(overlay):
    """(pod, container, field, probe) for each probe of the two programs."""
    for pod in overlay.pods:
        for container in pod.main:
            for field, probe in container.probes():
                yield pod, container, field, probe


@rule("probe-path")
def probe_path(overlay, project):
    """Only these paths answer without a key, and say what a probe wants to know."""
    for pod, container, field, probe in probes(overlay):
        paths, port = PATHS.get(name_of(pod.owner), (None, None))
        path = dig(probe, "httpGet.path")
        if paths and path not in paths:
            yield fault(pod.owner, "%s.%s" % (container.path, field), "asks for %s" % path,
                        "ask for %s at %s" % (" or ".join(sorted(paths)), port))


@rule("probe-missing")
def probe_missing(overlay, project):
    """Nobody restarts a program that hangs, or waits for one that loads, without a probe."""
    for pod in overlay.pods:
        wanted = {GATEWAY: ("readinessProbe", "livenessProbe"),
                  SERVER: ("startupProbe", "readinessProbe", "livenessProbe")}.get(name_of(pod.owner), ())
        for container in pod.main:
            for field in wanted:
                if not container.raw.get(field):
                    yield fault(pod.owner, "%s.%s" % (container.path, field), "is missing", "add it")


@rule("probe-timeout")
def probe_timeout(overlay, project):
    """A probe that may take longer than its period is asked again before it has answered."""
    for pod, container, field, probe in probes(overlay):
        if probe.get("timeoutSeconds", 1) > probe.get("periodSeconds", 10):
            yield fault(pod.owner, "%s.%s.timeoutSeconds" % (container.path, field), "is longer than periodSeconds",
                        "lower it")


@rule("startup-span")
def startup_span(overlay, project):
    """A model that is not loaded when the startup probe gives up is loaded again, from the beginning, for ever."""
    pod = overlay.pod(SERVER)
    for container in pod.main if pod and overlay.gpu else []:
        probe = container.raw.get("startupProbe")
        if probe and span(probe) < LOAD_SECONDS:
            yield fault(pod.owner, container.path + ".startupProbe", "gives up after %d s" % span(probe),
                        "raise failureThreshold: 15 s x 480 = 2 h")


@rule("liveness-patience")
def liveness_patience(overlay, project):
    """A busy machine answers late; a restart costs every stream, and llama-server its whole load."""
    for pod, container, field, probe in probes(overlay):
        least = {GATEWAY: 30, SERVER: 60}.get(name_of(pod.owner))
        if field == "livenessProbe" and least and span(probe) < least:
            yield fault(pod.owner, container.path + ".livenessProbe", "kills after %d s" % span(probe),
                        "raise failureThreshold: at least %d s" % least)
        if field == "livenessProbe" and least and probe.get("timeoutSeconds", 1) < 5:
            yield fault(pod.owner, container.path + ".livenessProbe.timeoutSeconds",
                        "is %d s" % probe.get("timeoutSeconds", 1), "set it to 5 or more")


@rule("gateway-probes")
def gateway_probes(overlay, project):
    """While the model loads, clients shall get the gateway's JSON and Retry-After, not the router's page of HTML."""
    for pod, container, field, probe in probes(overlay):
        if name_of(pod.owner) == GATEWAY and dig(probe, "httpGet.path") == "/readyz":
            yield fault(pod.owner, "%s.%s" % (container.path, field), "asks for /readyz: it fails while a model loads",
                        "ask for /livez")
