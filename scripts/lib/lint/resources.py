"""Rules about quantities, GPUs, replicas and disruption."""
from .core import GATEWAY, GPU, SERVER, dig, fault, name_of, rule
from .units import quantity

PRODUCT = "nvidia.com/gpu.product"
CARD = "Tesla-T4"


def quantities(overlay):
    """(object, path, text) for each quantity."""
    for pod, container in overlay.containers():
        for side in ("requests", "limits"):
            for name, text in dig(container.raw, "resources." + side, {}).items():
                yield pod.owner, "%s.resources.%s[%s]" % (container.path, side, name), text
    for pod in overlay.pods:
        for volume in pod.spec.get("volumes") or []:
            if dig(volume, "emptyDir.sizeLimit"):
                yield pod.owner, "%s.volumes[%s]" % (pod.path, volume.get("name")), volume["emptyDir"]["sizeLimit"]
    for thing in overlay.of("PersistentVolumeClaim"):
        yield thing, "spec.resources.requests.storage", dig(thing, "spec.resources.requests.storage")
    for thing in overlay.of("BuildConfig"):
        for side in ("requests", "limits"):
            for name, text in dig(thing, "spec.resources." + side, {}).items():
                yield thing, "spec.resources.%s[%s]" % (side, name), text


@rule("quantity")
def quantity_grammar(overlay, project):
    """Kubernetes knows Gi and G, but no GiB."""
    for thing, path, text in quantities(overlay):
        if quantity(text) is None:
            yield fault(thing, path, "%r is no quantity" % (text,), "write it like 128Gi or 500m")


@rule("requests-limits")
def requests_within_limits(overlay, project):
    """A request above its limit is refused; memory without a limit lets one container take the node."""
    for pod, container in overlay.containers():
        requests, limits = (dig(container.raw, "resources." + side, {}) for side in ("requests", "limits"))
        for name, text in requests.items():
            asked, allowed = quantity(text), quantity(limits.get(name, ""))
            if asked is not None and allowed is not None and asked > allowed:
                yield fault(pod.owner, "%s.resources[%s]" % (container.path, name),
                            "requests %s, but is limited to %s" % (text, limits[name]), "raise the limit")
        for side, found in (("requests", requests), ("limits", limits)):
            if "memory" not in found:
                yield fault(pod.owner, "%s.resources.%s" % (container.path, side), "memory is missing", "set it")


@rule("gpu-node")
def gpu_node(overlay, project):
    """The pod must land on a node with its card, and one that nobody shares: time-slicing names it Tesla-T4-SHARED."""
    pod = overlay.pod(SERVER)
    if not pod:
        return
    terms = dig(pod.spec, "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms", [])
    wanted = [[(entry.get("key"), entry.get("operator"), entry.get("values"))
               for entry in term.get("matchExpressions") or [] if str(entry.get("key")).startswith(GPU)]
              for term in terms]
    named = dig(pod.spec, "nodeSelector", {}).get(PRODUCT)
    if named:
        wanted.append([(PRODUCT, "In", [named])])
    path = pod.path + ".affinity.nodeAffinity"
    if overlay.t4 and (not wanted or any(term != [(PRODUCT, "In", [CARD])] for term in wanted)):
        yield fault(pod.owner, path, "does not require %s In [%s]" % (PRODUCT, CARD),
                    "it is the label of a T4 that is not shared; with another card, call the overlay other than -t4")
    elif overlay.gpu and not (wanted and all(wanted)):
        yield fault(pod.owner, path, "requires no card", "name yours by %s: see docs/customisation.md" % PRODUCT)
    elif not overlay.gpu and any(wanted):
        yield fault(pod.owner, path, "requires a node with a card, but no container asks for one",
                    "remove it, or set %s in requests and limits" % GPU)


@rule("gpu-toleration")
def gpu_toleration(overlay, project):
    """GPU nodes are often tainted, so that nothing else lands there."""
    pod = overlay.pod(SERVER)
    wanted = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
    if pod and overlay.gpu and wanted not in (pod.spec.get("tolerations") or []):
        yield fault(pod.owner, pod.path + ".tolerations", "the taint %s is not tolerated" % GPU,
                    "add key: %s, operator: Exists, effect: NoSchedule" % GPU)


@rule("gpu-count")
def gpu_count(overlay, project):
    """GPUs cannot be shared or overcommitted: requests equal limits; only llama-server's container gets one."""
    for pod, container in overlay.containers():
        asked, allowed = (dig(container.raw, "resources.%s" % side, {}).get(GPU) for side in ("requests", "limits"))
        path = "%s.resources[%s]" % (container.path, GPU)
        if str(asked) != str(allowed):
            yield fault(pod.owner, path, "requests %s, limits %s" % (asked, allowed), "set both to the same number")
        elif allowed is not None and (name_of(pod.owner) != SERVER or container.init):
            yield fault(pod.owner, path, "takes a GPU that it does not use", "remove it")
    pod = overlay.pod(SERVER)
    if pod and overlay.gpu and not any(GPU in dig(container.raw, "resources.limits", {}) for container in pod.main):
        yield fault(pod.owner, pod.path + ".containers", "no container has a GPU",
                    "set %s in requests and limits" % GPU)


@rule("recreate")
def recreate(overlay, project):
    """A new pod waits for ever for the volume and the GPU that the old one holds, unless the old one goes first."""
    for pod in overlay.pods:
        if pod.owner["kind"] != "Deployment":
            continue
        strategy = dig(pod.owner, "spec.strategy", {})
        if claims_of(pod) & of_one_node(overlay) and strategy.get("type") != "Recreate":
            yield fault(pod.owner, "spec.strategy.type", "is %s, with a volume that one node can use"
                        % strategy.get("type", "RollingUpdate"), "set type: Recreate")
        if strategy.get("type") == "Recreate" and strategy.get("rollingUpdate"):
            yield fault(pod.owner, "spec.strategy.rollingUpdate", "does not go with Recreate", "remove it")


@rule("replicas")
def replicas(overlay, project):
    """One gateway process serves a data directory; several llama-servers need a volume that all of them reach."""
    gateway, server = overlay.pod(GATEWAY), overlay.pod(SERVER)
    if gateway and dig(gateway.owner, "spec.replicas", 1) > 1:
        yield fault(gateway.owner, "spec.replicas", "is %s" % dig(gateway.owner, "spec.replicas"), "set it to 1")
    if (server and dig(server.owner, "spec.replicas", 1) > 1 and claims_of(server) & of_one_node(overlay)
            and not dig(server.spec, "affinity.podAffinity")):
        yield fault(server.owner, "spec.replicas", "is %s, with a volume that one node can use"
                    % dig(server.owner, "spec.replicas"),
                    "give the claim ReadWriteMany, or keep the pods on one node by podAffinity")


def claims_of(pod):
    """The names of the claims that a pod mounts."""
    return {dig(volume, "persistentVolumeClaim.claimName") for volume in pod.spec.get("volumes") or []}


def of_one_node(overlay):
    """The names of the claims that only one node can use at a time."""
    return {name_of(thing) for thing in overlay.of("PersistentVolumeClaim")
            if not {"ReadWriteMany", "ReadOnlyMany"} & set(dig(thing, "spec.accessModes", []))}


@rule("disruption-budget")
def disruption_budget(overlay, project):
    """A budget that cannot be kept blocks the drain of a node for ever; one that selects nothing does nothing."""
    for thing in overlay.of("PodDisruptionBudget"):
        spec = thing.get("spec") or {}
        selector = spec.get("selector") or {}
        pods = overlay.pods_of(selector)
        if not pods or not any(selector.values()):
            yield fault(thing, "spec.selector", "selects the pods of no workload", "select a label of its pods")
        if "minAvailable" in spec and "maxUnavailable" in spec:
            yield fault(thing, "spec", "has minAvailable and maxUnavailable", "keep maxUnavailable: 1")
        elif "minAvailable" in spec and any(dig(pod.owner, "spec.replicas", 1) == 1 for pod in pods):
            yield fault(thing, "spec.minAvailable", "one replica can never be spared: no node can be drained",
                        "use maxUnavailable: 1")
        elif spec.get("maxUnavailable") in (0, "0", "0%"):
            yield fault(thing, "spec.maxUnavailable", "is 0: no node can be drained", "use maxUnavailable: 1")
