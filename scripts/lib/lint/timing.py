"""Rules about durations: how each reader wants them written, and which must be longer than which."""
from .core import GATEWAY, SERVER, annotations_of, dig, fault, name_of, rule
from .gateway import Settings, parameters_of
from .probes import span
from .units import gateway_api_seconds, nginx_bytes, nginx_seconds, prometheus_seconds, router_seconds

ROUTER = "haproxy.router.openshift.io/"
NGINX = "nginx.ingress.kubernetes.io/"
# What curl may take for the last question of drain.sh, and llama-server to end after SIGTERM.
AFTER_DRAIN = 15


def ingresses(overlay):
    """The Ingresses for nginx. Other controllers have annotations of their own, which nobody knows here."""
    return [thing for thing in overlay.of("Ingress") if "nginx" in dig(thing, "spec.ingressClassName", "nginx")
            or any(key.startswith(NGINX) for key in annotations_of(thing))]


@rule("route-timeout")
def route_timeout(overlay, project):
    """The router drops a duration that it does not understand, silently, and takes its default of 30 s."""
    for route in overlay.of("Route"):
        for key in ("timeout", "timeout-tunnel"):
            text = annotations_of(route).get(ROUTER + key)
            if text is not None and router_seconds(text) is None:
                yield fault(route, "metadata.annotations[%s%s]" % (ROUTER, key), "the router drops %r" % text,
                            "write a whole number and one of us, ms, s, m, h, d")


@rule("ingress-timeout")
def ingress_timeout(overlay, project):
    """The Ingress controller for nginx takes numbers of seconds, and ignores what has a unit."""
    for ingress in ingresses(overlay):
        for key in ("proxy-read-timeout", "proxy-send-timeout", "proxy-connect-timeout"):
            text = annotations_of(ingress).get(NGINX + key)
            if text is not None and nginx_seconds(text) is None:
                yield fault(ingress, "metadata.annotations[%s%s]" % (NGINX, key), "nginx ignores %r" % text,
                            "write a whole number of seconds, without a unit")


@rule("ingress-stream")
def ingress_stream(overlay, project):
    """A proxy that collects an answer before it passes it on makes no stream of it."""
    for ingress in ingresses(overlay):
        for key in ("proxy-buffering", "proxy-request-buffering"):
            if annotations_of(ingress).get(NGINX + key) != "off":
                yield fault(ingress, "metadata.annotations[%s%s]" % (NGINX, key), "is not off", 'set it to "off"')


@rule("ingress-body-size")
def ingress_body_size(overlay, project):
    """nginx refuses bodies above 1 MB with a page of HTML; the gateway's limit shall count."""
    limit = Settings(overlay, project).value("server.max_body_bytes")
    for ingress in ingresses(overlay):
        text = annotations_of(ingress).get(NGINX + "proxy-body-size", "1m")
        size = nginx_bytes(text)
        if size is None or size < int(limit):
            yield fault(ingress, "metadata.annotations[%sproxy-body-size]" % NGINX,
                        "is %s, below server.max_body_bytes (%s)" % (text, limit), 'set it to "%dm" or more'
                        % -(-int(limit) // 1024 ** 2))


@rule("gateway-api-timeout")
def gateway_api_timeout(overlay, project):
    """Durations of the Gateway API have up to four parts of at most five digits, and no days."""
    for thing in overlay.of("HTTPRoute"):
        for number, rules in enumerate(dig(thing, "spec.rules", [])):
            for key, text in (rules.get("timeouts") or {}).items():
                if gateway_api_seconds(text) is None:
                    yield fault(thing, "spec.rules[%d].timeouts.%s" % (number, key), "%r is no duration" % text,
                                "write it like 7260s or 2h1m")


def front_timeouts(thing):
    """(path, seconds) of each timeout that ends a long answer; None seconds: it is not set."""
    annotations = annotations_of(thing)
    if thing["kind"] == "Route":
        key = ROUTER + "timeout"
        yield "metadata.annotations[%s]" % key, key in annotations, router_seconds(annotations.get(key, ""))
    elif thing["kind"] == "Ingress":
        for key in (NGINX + "proxy-read-timeout", NGINX + "proxy-send-timeout"):
            yield "metadata.annotations[%s]" % key, key in annotations, nginx_seconds(annotations.get(key, ""))
    else:
        for number, rules in enumerate(dig(thing, "spec.rules", [])):
            timeouts = rules.get("timeouts") or {}
            for key in ("request", "backendRequest"):
                yield ("spec.rules[%d].timeouts.%s" % (number, key), key in timeouts,
                       gateway_api_seconds(timeouts.get(key, "")))


@rule("front-timeout")
def front_timeout(overlay, project):
    """An answer in one piece is silent until it is whole: who stands in front must wait as long as the gateway."""
    total = Settings(overlay, project).seconds("timeouts.total")
    for thing in overlay.of("Route", "HTTPRoute") + ingresses(overlay):
        for path, given, seconds in front_timeouts(thing):
            if not given:
                yield fault(thing, path, "is missing: a default of seconds counts",
                            "set it above timeouts.total of the gateway (%d s)" % total)
            elif seconds is not None and seconds <= total:
                yield fault(thing, path, "is %d s, the gateway's timeouts.total is %d s" % (seconds, total),
                            "set it above that, or lower timeouts.total")


@rule("gateway-grace")
def gateway_grace(overlay, project):
    """The gateway gets SIGKILL in the middle of its drain unless the pod's grace is longer."""
    pod = overlay.pod(GATEWAY)
    if pod:
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        # A hook counts against the grace, too.
        sleeps = [dig(container.raw, "lifecycle.preStop.sleep.seconds", 0) for container in pod.main]
        needed = Settings(overlay, project).seconds("server.drain_grace") + project.last_words + max(sleeps)
        if grace <= needed:
            yield fault(pod.owner, pod.path + ".terminationGracePeriodSeconds",
                        "is %s s, the gateway drains for %d s" % (grace, needed),
                        "raise it above that, or lower server.drain_grace")


@rule("server-grace")
def server_grace(overlay, project):
    """The preStop hook counts against the grace: llama-server is killed when both end."""
    pod = overlay.pod(SERVER)
    for container in pod.main if pod else []:
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        hook = dig(container.raw, "lifecycle.preStop", {})
        path = container.path + ".lifecycle.preStop"
        command = dig(hook, "exec.command", [])
        if any(str(word).endswith("drain.sh") for word in command):
            longest = int(parameters_of(overlay, container, project)["DRAIN_MAX_SECONDS"])
            if grace < longest + AFTER_DRAIN:
                yield fault(pod.owner, pod.path + ".terminationGracePeriodSeconds",
                            "is %s s, drain.sh takes up to %d s and what follows %d s" % (grace, longest, AFTER_DRAIN),
                            "raise it, or lower DRAIN_MAX_SECONDS")
        else:
            yield fault(pod.owner, path, "does not run drain.sh: SIGTERM breaks streams at once",
                        "run /usr/local/bin/drain.sh")


@rule("progress-deadline")
def progress_deadline(overlay, project):
    """After the deadline (600 s by default) a rollout counts as failed although its pod still loads."""
    for pod in overlay.pods:
        deadline = dig(pod.owner, "spec.progressDeadlineSeconds", 600)
        for container in pod.main:
            probe = container.raw.get("startupProbe") or {}
            if probe and pod.owner["kind"] == "Deployment" and deadline < span(probe):
                yield fault(pod.owner, "spec.progressDeadlineSeconds", "is %s s, the start may take %d s"
                            % (deadline, span(probe)), "raise it above that and what init containers take")


@rule("prometheus-duration")
def prometheus_duration(overlay, project):
    """Prometheus wants a unit; its operator drops the whole object otherwise."""
    for monitor in overlay.of("ServiceMonitor"):
        for endpoint in dig(monitor, "spec.endpoints", []):
            found = {}
            for key in ("interval", "scrapeTimeout"):
                if key in endpoint:
                    found[key] = prometheus_seconds(endpoint[key])
                    if found[key] is None:
                        yield fault(monitor, "spec.endpoints.%s" % key, "%r is no duration" % endpoint[key],
                                    "write it like 30s")
            if (found.get("scrapeTimeout") or 0) > (found.get("interval") or float("inf")):
                yield fault(monitor, "spec.endpoints.scrapeTimeout", "is longer than interval", "lower it")
    for thing in overlay.of("PrometheusRule"):
        for group in dig(thing, "spec.groups", []):
            entries = [(group, "interval")] + [
                (entry, key) for entry in group.get("rules") or [] for key in ("for", "keep_firing_for")]
            for entry, key in entries:
                if key in entry and prometheus_seconds(entry[key]) is None:
                    yield fault(thing, "spec.groups[%s].%s" % (group.get("name"), key),
                                "%r is no duration" % entry[key], "write it like 15m")


@rule("scrape-pause")
def scrape_pause(overlay, project):
    """Each scrape of llama-server keeps it from noticing clients who left: not more often than every 10 s."""
    for monitor in overlay.of("ServiceMonitor"):
        for endpoint in dig(monitor, "spec.endpoints", []):
            interval = prometheus_seconds(endpoint.get("interval"))
            if name_of(monitor) == SERVER and interval is not None and interval < 10:
                yield fault(monitor, "spec.endpoints.interval", "is %s" % endpoint["interval"], "set 30s")
