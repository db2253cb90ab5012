"""Rules about NetworkPolicies: who may talk to whom, and on which port of the pods."""
import re

from .core import GATEWAY, SERVER, dig, fault, labels_of, matches, name_of, rule
from .references import is_open

ROUTERS = ({"policy-group.network.openshift.io/ingress": ""}, {"network.openshift.io/policy-group": "ingress"})
# What every namespace of a Prometheus has in its name or its label.
MONITORING = re.compile("monitoring|prometheus|observability|metrics")
# The networks of clusters, and where clouds tell secrets of the machine.
PRIVATE = {"0.0.0.0/0": {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"},
           "::/0": {"fc00::/7", "fe80::/10"}}


def policies(overlay, pod, direction):
    """The NetworkPolicies that let a pod do something in a direction (ingress, egress)."""
    return [thing for thing in overlay.of("NetworkPolicy")
            if matches(dig(thing, "spec.podSelector", {}), pod.labels) and dig(thing, "spec." + direction)]


def allowed(overlay, pod, direction):
    """(policy, peers or None for anybody, ports or None for all) for each rule that holds for a pod."""
    for policy in policies(overlay, pod, direction):
        for entry in dig(policy, "spec." + direction, []):
            ports = [port.get("port") for port in entry.get("ports") or []]
            yield policy, entry.get("from" if direction == "ingress" else "to"), ports or None


def is_monitoring(peer):
    """Whether a peer is the namespace of a Prometheus."""
    labels = dig(peer, "namespaceSelector.matchLabels", {})
    values = list(labels.values()) + [
        value for entry in dig(peer, "namespaceSelector.matchExpressions", []) for value in entry.get("values") or []]
    return bool(values) and all(MONITORING.search(str(value)) for value in values)


def is_pod(overlay, peer, name):
    """Whether a peer is the pods of a workload of this namespace, and no others."""
    found = overlay.pods_of(peer.get("podSelector") or {})
    return (set(peer) == {"podSelector"} and bool(peer["podSelector"])
            and [name_of(pod.owner) for pod in found] == [name])


@rule("default-deny")
def default_deny(overlay, project):
    """What no policy selects may talk to everybody: one policy selects all pods, and allows nothing."""
    for thing in overlay.of("NetworkPolicy"):
        spec = thing.get("spec") or {}
        if (not spec.get("podSelector") and not spec.get("ingress") and not spec.get("egress")
                and set(spec.get("policyTypes") or []) == {"Ingress", "Egress"}):
            return
    yield fault("NetworkPolicy/default-deny", "spec", "no policy denies everything in both directions",
                "add one with podSelector: {}, policyTypes: [Ingress, Egress] and no rules")


@rule("policy-type")
def policy_type(overlay, project):
    """Rules of a direction that policyTypes does not name are ignored."""
    for thing in overlay.of("NetworkPolicy"):
        for field, name in (("ingress", "Ingress"), ("egress", "Egress")):
            if dig(thing, "spec." + field) and name not in dig(thing, "spec.policyTypes", []):
                yield fault(thing, "spec.policyTypes", "has no %s, but there are rules" % name, "add it")


@rule("policy-selector")
def policy_selector(overlay, project):
    """A selector that finds no pod allows nothing."""
    for thing in overlay.of("NetworkPolicy"):
        found = [("spec.podSelector", dig(thing, "spec.podSelector"))]
        for direction, key in (("ingress", "from"), ("egress", "to")):
            for entry in dig(thing, "spec." + direction, []):
                found += [("spec." + direction, peer["podSelector"]) for peer in entry.get(key) or []
                          if "podSelector" in peer and "namespaceSelector" not in peer]
        for path, selector in found:
            if selector and not overlay.pods_of(selector) and not overlay.selects_builds(selector):
                yield fault(thing, path, "selects the pods of no workload", "select a label of their pods, such as app")


@rule("policy-port")
def policy_port(overlay, project):
    """Policies see the ports of pods, not those of Services."""
    for thing in overlay.of("NetworkPolicy"):
        groups = [("ingress", entry, overlay.pods_of(dig(thing, "spec.podSelector", {})))
                  for entry in dig(thing, "spec.ingress", [])]
        for entry in dig(thing, "spec.egress", []):
            own = [peer["podSelector"] for peer in entry.get("to") or []
                   if "podSelector" in peer and "namespaceSelector" not in peer]
            groups += [("egress", entry, overlay.pods_of(selector)) for selector in own]
        for direction, entry, pods in groups:
            for port in entry.get("ports") or []:
                if "endPort" in port:
                    yield fault(thing, "spec.%s.ports" % direction, "opens all ports up to %s" % port["endPort"],
                                "name each port: none of these rules sees what is between")
                for pod in pods:
                    if not pod.has_port(port.get("port")):
                        yield fault(thing, "spec.%s.ports" % direction, "%s has no port %r"
                                    % (name_of(pod.owner), port.get("port")), "name a containerPort of the pods")


@rule("dns-egress")
def dns_egress(overlay, project):
    """Policies act on the pod's port: DNS pods listen on 53 elsewhere and on 5353 on OpenShift, UDP and TCP."""
    for pod in overlay.pods:
        found = {(port.get("protocol", "TCP"), port.get("port")) for policy in policies(overlay, pod, "egress")
                 for entry in dig(policy, "spec.egress", []) for port in entry.get("ports") or []}
        missing = sorted({(protocol, port) for protocol in ("UDP", "TCP") for port in (53, 5353)} - found)
        if missing:
            yield fault(pod.owner, "spec.template.metadata.labels", "its pods cannot reach DNS at %s" % ", ".join(
                "%s %d" % entry for entry in missing), "let allow-dns select them, with 53 and 5353 for UDP and TCP")


@rule("server-isolation")
def server_isolation(overlay, project):
    """llama-server knows no users and no limits: only the gateway may send requests, and Prometheus may read."""
    pod = overlay.pod(SERVER)
    if not pod:
        return
    for policy, peers, _ in allowed(overlay, pod, "ingress"):
        for peer in peers or [{}]:
            if not is_pod(overlay, peer, GATEWAY) and not is_monitoring(peer):
                yield fault(policy, "spec.ingress", "lets others than the gateway reach llama-server",
                            "allow podSelector app: %s and the namespaces of the monitoring only" % GATEWAY)


@rule("gateway-isolation")
def gateway_isolation(overlay, project):
    """The admin port is for the monitoring; the public one for the router, which is named, not for everybody."""
    pod = overlay.pod(GATEWAY)
    if not pod:
        return
    public = pod.ports("http")
    for policy, peers, ports in allowed(overlay, pod, "ingress"):
        if not peers or {} in peers:
            yield fault(policy, "spec.ingress", "lets everybody reach the gateway", "name the router's namespace")
        elif ports is None or not set(ports) <= public:
            if not all(is_monitoring(peer) for peer in peers):
                yield fault(policy, "spec.ingress", "opens the admin port to others than the monitoring",
                            "name the port http, or allow the namespaces of the monitoring only")


@rule("gateway-to-server")
def gateway_to_server(overlay, project):
    """The one connection that everything depends on must be allowed at both ends."""
    gateway, server = overlay.pod(GATEWAY), overlay.pod(SERVER)
    if not gateway or not server:
        return
    port = server.ports("http")
    for pod, direction, other in ((server, "ingress", GATEWAY), (gateway, "egress", SERVER)):
        if not any((ports is None or port & set(ports)) and any(is_pod(overlay, peer, other) for peer in peers or [])
                   for _, peers, ports in allowed(overlay, pod, direction)):
            yield fault(pod.owner, "NetworkPolicy", "no policy allows %s between gateway and llama-server" % direction,
                        "allow it on the containerPort of llama-server, for podSelector app: %s" % other)


@rule("router-to-gateway")
def router_to_gateway(overlay, project):
    """A Route or Ingress answers 503 unless a policy lets its router in."""
    pod = overlay.pod(GATEWAY)
    fronts = overlay.of("Route", "Ingress", "HTTPRoute") + list(filter(is_open, overlay.of("Service")))
    if not pod or not fronts:
        return
    public = pod.ports("http")
    for _, peers, ports in allowed(overlay, pod, "ingress"):
        for peer in peers or []:
            known = dig(peer, "namespaceSelector.matchLabels") in ROUTERS or (not overlay.of("Route") and (
                "ipBlock" in peer or "namespaceSelector" in peer and not is_monitoring(peer)))
            if known and (ports is None or public & set(ports)):
                return
    yield fault(fronts[0], "NetworkPolicy", "no policy lets the router reach port http of %s" % GATEWAY,
                "allow the router's namespace (OpenShift: policy-group.network.openshift.io/ingress)")


@rule("monitoring-to-pods")
def monitoring_to_pods(overlay, project):
    """What Prometheus cannot reach is down for it."""
    for monitor in overlay.of("ServiceMonitor"):
        for service in overlay.of("Service"):
            if not matches(dig(monitor, "spec.selector", {}), labels_of(service)):
                continue
            for endpoint in dig(monitor, "spec.endpoints", []):
                for pod in overlay.pods_of_service(service):
                    wanted = pod.ports(endpoint.get("port"))
                    if wanted and not any(
                            (ports is None or wanted & set(ports)) and any(map(is_monitoring, peers or []))
                            for _, peers, ports in allowed(overlay, pod, "ingress")):
                        yield fault(monitor, "spec.endpoints", "no policy lets the monitoring reach port %s of %s"
                                    % (endpoint.get("port"), name_of(pod.owner)), "add it to the component monitoring")


@rule("open-egress")
def open_egress(overlay, project):
    """The download needs the internet, and neither the cluster's networks nor the metadata of the cloud."""
    for thing in overlay.of("NetworkPolicy"):
        selector = dig(thing, "spec.podSelector", {})
        if overlay.selects_builds(selector) and not overlay.pods_of(selector):
            continue  # they fetch packages from wherever the cluster's mirror is
        for entry in dig(thing, "spec.egress", []):
            for peer in entry.get("to") or [{}]:
                cidr = dig(peer, "ipBlock.cidr", "") if peer else "0.0.0.0/0"
                ports = {port.get("port") for port in entry.get("ports") or []}
                if cidr in PRIVATE and not (PRIVATE[cidr] <= set(dig(peer, "ipBlock.except", [])) and ports == {443}):
                    yield fault(thing, "spec.egress", "lets pods reach more than port 443 of public addresses",
                                "name port 443, and except %s" % ", ".join(sorted(PRIVATE[cidr])))
