"""Rules about what a container may do, and about secrets that must not be in the set."""
import re

from .core import dig, fault, labels_of, rule, strings

PINNED = ("runAsUser", "runAsGroup", "fsGroup", "supplementalGroups")
# What looks like a key wherever it stands. The gateway's own begin with sk-lgw-, those of Hugging Face with hf_.
KEY = re.compile(r"sk-lgw-\w{4,}|\bsk-[A-Za-z0-9_-]{20,}|\bhf_[A-Za-z0-9]{16,}|\beyJ[\w-]{10,}\.[\w-]{10,}\.|"
                 r"-----BEGIN [A-Z ]*PRIVATE KEY|[Bb]earer [A-Za-z0-9._-]{16,}")


def contexts(pod):
    """(path, securityContext) of the pod and of each container."""
    yield pod.path + ".securityContext", pod.spec.get("securityContext") or {}
    for container in pod.containers:
        yield container.path + ".securityContext", container.raw.get("securityContext") or {}


@rule("pinned-uid")
def pinned_uid(overlay, project):
    """OpenShift gives each namespace its own UIDs and refuses others; plain Kubernetes gives none at all."""
    for pod in overlay.pods:
        if overlay.openshift:
            for path, context in contexts(pod):
                for field in PINNED:
                    if field in context:
                        yield fault(pod.owner, "%s.%s" % (path, field), "OpenShift's restricted-v2 refuses the pod",
                                    "leave it out here; only the component fixed-uid sets it")
        else:
            for field in ("runAsUser", "fsGroup"):
                if field not in (pod.spec.get("securityContext") or {}):
                    yield fault(pod.owner, "%s.securityContext.%s" % (pod.path, field),
                                "is missing: nobody else makes the volumes writable for the container",
                                "use the component fixed-uid in this overlay")


@rule("read-only-root")
def read_only_root(overlay, project):
    """What cannot be written cannot be changed by who breaks in."""
    yield from _each_container(overlay, "readOnlyRootFilesystem", True)


@rule("privilege-escalation")
def privilege_escalation(overlay, project):
    """No container gets more rights than it began with."""
    yield from _each_container(overlay, "allowPrivilegeEscalation", False)


def _each_container(overlay, field, wanted):
    for pod, container in overlay.containers():
        if dig(container.raw, "securityContext." + field) is not wanted:
            yield fault(pod.owner, "%s.securityContext.%s" % (container.path, field), "is not %s" % str(wanted).lower(),
                        "set it to %s" % str(wanted).lower())


@rule("capabilities")
def capabilities(overlay, project):
    """No container needs a capability."""
    for pod, container in overlay.containers():
        found = dig(container.raw, "securityContext.capabilities", {})
        if "ALL" not in (found.get("drop") or []) or found.get("add"):
            yield fault(pod.owner, container.path + ".securityContext.capabilities", "capabilities are left",
                        "set drop: [ALL] and no add")


@rule("host-access")
def host_access(overlay, project):
    """Nothing of the node: not its network, processes, files or ports, and not all of its rights."""
    for pod in overlay.pods:
        found = ["%s.%s" % (pod.path, field) for field in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(field)]
        found += ["%s.volumes[%s].hostPath" % (pod.path, volume.get("name"))
                  for volume in pod.spec.get("volumes") or [] if "hostPath" in volume]
        for container in pod.containers:
            if dig(container.raw, "securityContext.privileged"):
                found.append(container.path + ".securityContext.privileged")
            if any("hostPort" in entry for entry in container.raw.get("ports") or []):
                found.append(container.path + ".ports.hostPort")
        for path in found:
            yield fault(pod.owner, path, "reaches into the node", "remove it")


@rule("non-root")
def non_root(overlay, project):
    """The images have a numeric user; the pod says that it must not be root, and no container says otherwise."""
    for pod in overlay.pods:
        for path, context in contexts(pod):
            pods_own = path == pod.path + ".securityContext"
            if context.get("runAsNonRoot", not pods_own) is not True or context.get("runAsUser") == 0:
                yield fault(pod.owner, path + ".runAsNonRoot", "lets it be root", "set it to true, and no runAsUser: 0")


@rule("seccomp")
def seccomp(overlay, project):
    """The system calls that the runtime allows, and no others, in every container."""
    for pod in overlay.pods:
        for path, context in contexts(pod):
            pods_own = path == pod.path + ".securityContext"
            if dig(context, "seccompProfile.type", None if pods_own else "RuntimeDefault") != "RuntimeDefault":
                yield fault(pod.owner, path + ".seccompProfile", "is not RuntimeDefault", "set type: RuntimeDefault")


@rule("volume-owner")
def volume_owner(overlay, project):
    """By default every start of a pod changes the owner of each file of its volumes."""
    for pod in overlay.pods:
        claims = any("persistentVolumeClaim" in volume for volume in pod.spec.get("volumes") or [])
        if claims and dig(pod.spec, "securityContext.fsGroupChangePolicy") != "OnRootMismatch":
            yield fault(pod.owner, pod.path + ".securityContext.fsGroupChangePolicy", "is not OnRootMismatch",
                        "set it: the first container waits for minutes otherwise")


@rule("automount")
def automount(overlay, project):
    """Nothing here talks to the API server: no token of it belongs into a pod."""
    hint = "set automountServiceAccountToken: false"
    for pod in overlay.pods:
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield fault(pod.owner, pod.path + ".automountServiceAccountToken", "is not false", hint)
    for account in overlay.of("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield fault(account, "automountServiceAccountToken", "is not false", hint)


@rule("pod-security")
def pod_security(overlay, project):
    """The namespace refuses pods that want more than the restricted profile."""
    for thing in overlay.of("Namespace"):
        for mode in ("enforce", "audit", "warn"):
            label = "pod-security.kubernetes.io/" + mode
            if labels_of(thing).get(label) != "restricted":
                yield fault(thing, "metadata.labels[%s]" % label, "is not restricted", "set it to restricted")


@rule("namespace-monitoring")
def namespace_monitoring(overlay, project):
    """With these labels OpenShift's monitoring of user projects ignores the namespace."""
    for thing in overlay.of("Namespace"):
        for label, value in (("openshift.io/cluster-monitoring", "true"), ("openshift.io/user-monitoring", "false")):
            if labels_of(thing).get(label) == value:
                yield fault(thing, "metadata.labels[%s]" % label, "nothing of the namespace is scraped", "remove it")


@rule("secret-in-set")
def secret_in_set(overlay, project):
    """Who reads the repository, or the cluster's audit log, must not find a key there."""
    for thing in overlay.objects:
        if thing.get("kind") == "Secret":
            yield fault(thing, "kind", "a Secret is in the set",
                        "take it out: scripts/deploy.sh makes the Secrets; templates are in manifests/secrets")
            continue
        for path, text in strings(thing):
            if KEY.search(text):
                yield fault(thing, path, "holds what looks like a key", "revoke the key if it is real, and remove it")


@rule("ingress-tls")
def ingress_tls(overlay, project):
    """Without TLS every key crosses the net in clear."""
    for ingress in overlay.of("Ingress"):
        entries = dig(ingress, "spec.tls", [])
        covered = {host for entry in entries for host in entry.get("hosts") or []}
        if not entries:
            yield fault(ingress, "spec.tls", "is missing", "add it, with the Secret of the certificate")
        elif all(entry.get("hosts") for entry in entries):  # without hosts, it is for all
            for host in (entry.get("host", "") for entry in dig(ingress, "spec.rules", [])):
                if host not in covered and re.sub(r"^[^.]+", "*", host) not in covered:
                    yield fault(ingress, "spec.tls", "does not cover the host %s" % (host or "of all names"),
                                "add it to spec.tls[].hosts, with the Secret of its certificate")
