"""What is in the cluster without having been applied: nodes, storage classes, settings of administrators, and what
controllers make of a Deployment."""

from state import CLUSTER_SCOPED


def thing(kind, name, namespace=None, **rest):
    metadata = {"name": name, **rest.pop("metadata", {})}
    if kind.lower() not in CLUSTER_SCOPED:
        metadata["namespace"] = namespace
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **rest}


def cluster(mode):
    yield from nodes(mode)
    for name, default in (("standard", not mode("no-default-class")), ("local-nvme", False)):
        annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
        grows = {} if mode("fixed-size") else {"allowVolumeExpansion": True}
        provisioner = "kubernetes.io/no-provisioner" if name == "local-nvme" else "example.com/disks"
        yield thing("StorageClass", name, metadata={"annotations": annotations}, provisioner=provisioner, **grows)
    if mode("plain"):
        yield thing("IngressClass", "nginx")
        yield thing("Gateway", "gateway", "envoy-gateway-system")
        return
    enabled = "false" if mode("no-monitoring") else "true"
    config = {"config.yaml": f"enableUserWorkload: {enabled}\n"}
    yield thing("ConfigMap", "cluster-monitoring-config", "openshift-monitoring", data=config)
    if mode("own-certificate"):
        bundle = {"ca-bundle.crt": "a certificate"}
        yield thing("ConfigMap", "default-ingress-cert", "openshift-config-managed", data=bundle)
    policy = "Continue" if mode("no-monitoring") else "Abort"
    router = {"closedClientConnectionPolicy": policy}
    yield thing("IngressController", "default", "openshift-ingress-operator", spec=router)
    state = "Removed" if mode("no-registry") else "Managed"
    yield thing("Network", "cluster", spec={"clusterNetwork": [{"cidr": mode("network") or "10.128.0.0/14"}]})
    yield thing("Config", "cluster", spec={"managementState": state})


def nodes(mode):
    yield node("worker-1", None, "16", "65000000Ki", 0)
    if mode("no-gpu-node"):
        return
    product = "Tesla-T4-SHARED" if mode("shared-label") else "Tesla-T4"
    memory = "15000000Ki" if mode("small-node") else "263000000Ki"
    gpu = node("gpu-1", product, "63500m", memory, 0 if mode("no-device-plugin") else 1)
    if mode("cordoned"):
        gpu["spec"]["unschedulable"] = True
    yield gpu


def node(name, product, cpu, memory, gpus):
    allocatable = {"cpu": cpu, "memory": memory}
    if product:
        allocatable["nvidia.com/gpu"] = str(gpus)
    labels = {"nvidia.com/gpu.product": product} if product else {}
    status = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]}
    return thing("Node", name, metadata={"labels": labels}, spec={}, status=status)


def deployment_status(deployment, stage, pod):
    reason = "ProgressDeadlineExceeded" if stage[0] == "late" else "NewReplicaSetAvailable"
    conditions = [{"type": "Progressing", "reason": reason}]
    if pod[0] == "no-pod":
        conditions.append({"type": "ReplicaFailure", "message": pod[1]})
    return {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": 1,
        "updatedReplicas": 1,
        "conditions": conditions,
        **({"availableReplicas": 1} if stage[0] == "ready" else {}),
    }


def pods(deployment, stage):
    kind, text = stage
    name = deployment["metadata"]["name"]
    if kind in ("new", "no-pod"):
        return []
    scheduled = {"type": "PodScheduled", "status": "True"}
    if kind == "unschedulable":
        scheduled.update(status="False", message=text)
    spec = deployment["spec"]["template"]["spec"]
    init = [one["name"] for one in spec.get("initContainers", [])]
    main = [one["name"] for one in spec["containers"]]
    status = {"conditions": [scheduled]}
    if kind != "unschedulable":
        in_init = kind.startswith("fetch")
        status["initContainerStatuses"] = [container(one, *(stage if in_init else ("done", ""))) for one in init]
        status["containerStatuses"] = [container(one, *(("later", "") if in_init else stage)) for one in main]
    metadata = {"labels": {"app": name}}
    return [thing("Pod", f"{name}-pod", deployment["metadata"]["namespace"], metadata=metadata, status=status)]


def container(name, kind, text):
    restarts = 0
    if kind == "done":
        state = {"terminated": {"exitCode": 0}}
    elif kind == "later":
        state = {"waiting": {"reason": "PodInitializing"}}
    elif kind.endswith("-waiting"):
        reason, _, count = text.partition(" ")
        state, restarts = {"waiting": {"reason": reason}}, int(count)
    else:
        state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    return {"name": name, "restartCount": restarts, "state": state}


def events(deployment, namespace, stage):
    kind, text = stage
    message = {"type": "Normal", "reason": "Scheduled", "message": "Successfully assigned"}
    if kind == "unschedulable":
        message = {"type": "Warning", "reason": "FailedScheduling", "message": text}
    elif "ImagePull" in text:
        message = {"type": "Warning", "reason": "Failed", "message": "Failed to pull image: not found"}
    if kind in ("new", "no-pod"):
        return []
    pod = {"kind": "Pod", "name": f"{deployment}-pod"}
    return [thing("Event", f"{deployment}-event", namespace, involvedObject=pod, **message)]
