"""Rules about names and ports by which one object means another."""
from .core import GATEWAY, dig, fault, labels_of, matches, name_of, rule


def backends(thing):
    """(path, name of the Service, its port) for each that a Route, Ingress or HTTPRoute sends requests to."""
    if thing["kind"] == "Route":
        for path, to in [("spec.to", dig(thing, "spec.to", {}))] + [
                ("spec.alternateBackends", to) for to in dig(thing, "spec.alternateBackends", [])]:
            yield path, to.get("name"), dig(thing, "spec.port.targetPort")
    elif thing["kind"] == "Ingress":
        entries = [dig(thing, "spec.defaultBackend")] + [
            path.get("backend") for rules in dig(thing, "spec.rules", []) for path in dig(rules, "http.paths", [])]
        for entry in filter(None, entries):
            port = dig(entry, "service.port", {})
            yield "spec.rules", dig(entry, "service.name"), port.get("name") or port.get("number")
    elif thing["kind"] == "HTTPRoute":
        for rules in dig(thing, "spec.rules", []):
            for entry in rules.get("backendRefs") or []:
                yield "spec.rules", entry.get("name"), entry.get("port")


def service_port(overlay, kind, service, port):
    """The Service's port that a backend names; None if there is none."""
    for entry in dig(service, "spec.ports", []):
        target = entry.get("targetPort", entry.get("port"))
        # A Route names the port of the pods if it gives a number, the others the port of the Service.
        numbers = (target,) if kind == "Route" else (entry.get("port"),)
        if port == entry.get("name") or port in numbers:
            return entry
    return None


@rule("workload-selector")
def workload_selector(overlay, project):
    """A Deployment finds its own pods."""
    for pod in overlay.pods:
        selector = dig(pod.owner, "spec.selector", {})
        if not any(selector.values()) or not matches(selector, pod.labels):
            yield fault(pod.owner, "spec.selector", "does not match the labels of its own pods",
                        "make matchLabels a part of spec.template.metadata.labels")


@rule("service-selector")
def service_selector(overlay, project):
    """A Service without pods answers nobody."""
    for service in overlay.of("Service"):
        if not overlay.pods_of_service(service):
            yield fault(service, "spec.selector", "matches the pods of no workload",
                        "select a label of spec.template.metadata.labels, such as app")


@rule("service-port")
def service_target_port(overlay, project):
    """The API server takes any target port; only a client sees that nobody listens there."""
    for service in overlay.of("Service"):
        for entry in dig(service, "spec.ports", []):
            target = entry.get("targetPort", entry.get("port"))
            for pod in overlay.pods_of_service(service):
                if not pod.has_port(target):
                    yield fault(service, "spec.ports[%s].targetPort" % entry.get("name"),
                                "%s has no port %r" % (name_of(pod.owner), target), "name a containerPort of the pods")


@rule("port-number")
def port_number(overlay, project):
    """Ports end at 65535, and those below 1024 need root."""
    for pod, container in overlay.containers():
        for entry in container.raw.get("ports") or []:
            if not 1024 <= entry.get("containerPort", 0) <= 65535:
                yield fault(pod.owner, container.path + ".ports", "%r cannot be listened on"
                            % entry.get("containerPort"), "take a port from 1024 to 65535")
    for service in overlay.of("Service"):
        for entry in dig(service, "spec.ports", []):
            if not 1 <= entry.get("port", 0) <= 65535:
                yield fault(service, "spec.ports", "%r is no port" % entry.get("port"), "take one from 1 to 65535")


@rule("probe-port")
def probe_port(overlay, project):
    """A probe at a port that nobody listens on kills the container again and again."""
    for pod, container in overlay.containers():
        names = [key for entry in container.raw.get("ports") or []
                 for key in (entry.get("name"), entry.get("containerPort"))]
        hooks = [("lifecycle." + hook, value) for hook, value in (container.raw.get("lifecycle") or {}).items()]
        for field, probe in list(container.probes()) + hooks:
            port = dig(probe, "httpGet.port") or dig(probe, "tcpSocket.port") or dig(probe, "grpc.port")
            if port and port not in names:
                yield fault(pod.owner, "%s.%s" % (container.path, field), "the container has no port %r" % port,
                            "name one of its ports")


@rule("backend")
def backend(overlay, project):
    """Who sends requests to a Service must name one that exists, and a port of it."""
    for thing in overlay.of("Route", "Ingress", "HTTPRoute"):
        for path, name, port in backends(thing):
            service = overlay.get("Service", name)
            if not service:
                yield fault(thing, path, "there is no Service %r" % name, "name a Service of this set")
            elif not service_port(overlay, thing["kind"], service, port):
                yield fault(thing, path, "Service %s has no port %r" % (name, port), "name one of its spec.ports")


@rule("public-target")
def public_target(overlay, project):
    """llama-server knows no users and the admin port no limits: only the gateway's port http is for the public."""
    for thing in overlay.of("Route", "Ingress", "HTTPRoute"):
        for path, name, port in backends(thing):
            service = overlay.get("Service", name)
            entry = service and service_port(overlay, thing["kind"], service, port)
            if entry and not is_public_port(overlay, service, entry):
                yield fault(thing, path, "opens port %r of %s to the public" % (port, name),
                            "send requests to port http of %s" % GATEWAY)
    for service in filter(is_open, overlay.of("Service")):
        for entry in dig(service, "spec.ports", []):
            if not is_public_port(overlay, service, entry):
                yield fault(service, "spec.type", "opens port %r of %s to the public"
                            % (entry.get("name"), name_of(service)),
                            "make a Service of its own that leads to port http of %s only" % GATEWAY)


def is_open(service):
    """Whether a Service is to be reached from outside of the cluster."""
    spec = service.get("spec") or {}
    return spec.get("type") in ("NodePort", "LoadBalancer") or bool(spec.get("externalIPs"))


def is_public_port(overlay, service, entry):
    """Whether a port of a Service leads to nothing but the gateway's port http."""
    target = entry.get("targetPort", entry.get("port"))
    return all(name_of(pod.owner) == GATEWAY and (target in pod.ports("http") or not pod.has_port(target))
               for pod in overlay.pods_of_service(service))


@rule("service-monitor")
def service_monitor(overlay, project):
    """A ServiceMonitor that selects nothing is as silent as one that works."""
    for monitor in overlay.of("ServiceMonitor"):
        selected = [service for service in overlay.of("Service")
                    if matches(dig(monitor, "spec.selector", {}), labels_of(service))]
        if not selected:
            yield fault(monitor, "spec.selector", "selects no Service", "select labels that a Service itself has")
        for name in dig(monitor, "spec.namespaceSelector.matchNames", []):
            if name != overlay.namespace:
                yield fault(monitor, "spec.namespaceSelector", "looks into %s" % name,
                            "leave namespaceSelector out: OpenShift ignores it")
        for endpoint in dig(monitor, "spec.endpoints", []):
            if endpoint.get("path", "/metrics") != "/metrics":
                yield fault(monitor, "spec.endpoints.path", "is %s" % endpoint["path"], "set it to /metrics")
            for service in selected:
                if endpoint.get("port") not in [entry.get("name") for entry in dig(service, "spec.ports", [])]:
                    yield fault(monitor, "spec.endpoints", "Service %s has no port named %r"
                                % (name_of(service), endpoint.get("port")), "name one of its spec.ports[].name")


@rule("service-account")
def service_account(overlay, project):
    """Without its ServiceAccount a Deployment makes no pod at all; with "default" it shares one with everybody."""
    for pod in overlay.pods:
        name = pod.spec.get("serviceAccountName")
        if not name or not overlay.get("ServiceAccount", name):
            yield fault(pod.owner, pod.path + ".serviceAccountName", "there is no ServiceAccount %r" % name,
                        "add the ServiceAccount, or name one of this set")
