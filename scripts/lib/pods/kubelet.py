"""The pods, from their start to their end, as far as a kubelet has a part in it.

Takes Deployments and images; gives pods that are ready or have failed, and tells how they ended.
A kubelet restarts a container that ends or is not alive; here that is a failure of the pod, which is told.
"""

import threading
import time
from dataclasses import dataclass

from . import Failed
from .container import Container
from .dns import Dns
from .probes import Health
from .volumes import Volumes

# As OpenShift does it where the manifest leaves it open: an arbitrary user of group 0, and a group for the volumes.
ARBITRARY_USER = 1006700000
CLUSTER_DOMAIN = "cluster.local"
STEP_SECONDS = 0.02
# What the kubelet gives a process even if a preStop hook has used the whole grace period.
LAST_SECONDS = 2


@dataclass
class Ending:
    """How a pod ended."""

    code: int
    killed: bool
    seconds: float
    grace: float
    hook_seconds: float
    hook_problem: str


class Cluster:
    """The pods of one manifest, and what they share. `speed` shortens the pauses between probes."""

    def __init__(self, manifest, images, folder, speed=1):
        self.manifest, self.images, self.folder, self.speed = manifest, images, folder, speed
        self.logs, self.claims = folder / "logs", folder / "claims"
        for one in (self.logs, self.claims):
            one.mkdir(parents=True, exist_ok=True)
        self.pods, self.created = [], 0
        self.dns = Dns(self.addresses)

    def create(self, deployment):
        """Starts a pod and waits for its init containers, not for it to be ready."""
        self.created += 1
        pod = Pod(self, self.manifest.get("Deployment", deployment), self.created)
        self.pods.append(pod)
        pod.start()
        return pod

    def addresses(self, name):
        """What a name in the cluster stands for; None if there is no such name."""
        for service in self.manifest.all("Service"):
            if name == f"{service['metadata']['name']}.{self.manifest.namespace}.svc.{CLUSTER_DOMAIN}":
                selector = service["spec"]["selector"].items()
                unready = service["spec"].get("publishNotReadyAddresses", False)
                return [pod.address for pod in self.pods
                        if selector <= pod.labels.items() and (pod.ready or unready) and not pod.terminating]
        return None

    def close(self):
        """Ends what is left, without grace."""
        for pod in self.pods:
            pod.kill()
        self.dns.close()


class Pod:
    def __init__(self, cluster, deployment, number):
        template = deployment["spec"]["template"]
        self.cluster, self.spec, self.labels = cluster, template["spec"], template["metadata"]["labels"]
        self.deployment = deployment["metadata"]["name"]
        self.name, self.address = f"{self.deployment}-{number}", f"127.10.0.{number}"
        self.folder = cluster.folder / "pods" / self.name
        security = self.spec.get("securityContext", {})
        self.user, self.group = security.get("runAsUser", ARBITRARY_USER), security.get("runAsGroup", 0)
        self.fs_group = security.get("fsGroup", ARBITRARY_USER)
        if len(self.spec["containers"]) != 1:
            raise Failed(f"{self.name} has several containers, which is not known here")
        self.container, self.init, self.volumes = None, [], {}
        self.health, self.ready, self.terminating, self.failure = None, False, False, None
        self.over = threading.Event()

    def fields(self):
        return {"metadata.name": self.name, "metadata.namespace": self.cluster.manifest.namespace,
                "status.podIP": self.address, "status.hostIP": "127.0.0.1"}

    # ---- start

    def start(self):
        self.folder.mkdir(parents=True)
        self.names()
        volumes = Volumes(self.cluster.manifest, self.cluster.claims, self.folder / "volumes", self.fs_group)
        self.volumes = {one["name"]: volumes.prepare(one) for one in self.spec.get("volumes", [])}
        for spec in self.spec.get("initContainers", []):
            container = self.new_container(spec)
            self.init.append(container)
            container.start()
            if container.process.wait() != 0:
                raise Failed(f"init container {container.id} ended with code {container.code}", container.log)
        spec = self.spec["containers"][0]
        self.container = self.new_container(spec)
        self.container.start()
        self.health = Health(self.container, spec, self.cluster.speed)
        threading.Thread(target=self.watch, daemon=True).start()

    def new_container(self, spec):
        return Container(self, spec, self.cluster.images.get(spec["image"]))

    def names(self):
        zone = f"svc.{CLUSTER_DOMAIN}"
        search = f"{self.cluster.manifest.namespace}.{zone} {zone} {CLUSTER_DOMAIN}"
        (self.folder / "resolv.conf").write_text(f"nameserver 127.0.0.1\nsearch {search}\noptions ndots:5\n")
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")

    def watch(self):
        """Probes until the pod is gone."""
        while not self.over.wait(STEP_SECONDS):
            problem = self.health.step(self.terminating)
            if self.container.code is not None:
                problem = f"the container ended with code {self.container.code}"
            if problem and not self.terminating:
                self.ready, self.failure = False, problem
                return
            self.ready = self.health.started and self.health.ready and self.container.code is None

    def wait_until(self, condition, seconds, what):
        deadline = time.monotonic() + seconds
        while not condition():
            if self.failure:
                raise Failed(f"{self.name}: {self.failure}", self.container.log)
            if time.monotonic() > deadline:
                raise Failed(f"{self.name}: {what} takes longer than {seconds} s", self.container.log)
            time.sleep(STEP_SECONDS)

    def wait_ready(self, seconds):
        self.wait_until(lambda: self.ready, seconds, "to become ready")

    # ---- end

    def delete(self):
        """The end by the rules: out of the Services, preStop, SIGTERM, and SIGKILL when the grace period is over."""
        began, self.terminating = time.monotonic(), True
        grace = self.spec.get("terminationGracePeriodSeconds", 30)
        problem = self.pre_stop(grace)
        hook_seconds = time.monotonic() - began
        self.container.signal(self.container.image.stop_signal)
        killed = not self.container.wait(max(grace - hook_seconds, LAST_SECONDS))
        seconds = time.monotonic() - began
        self.kill()
        return Ending(self.container.code, killed, seconds, grace, hook_seconds, problem)

    def pre_stop(self, grace):
        """Runs the hook. Returns what went wrong, or None."""
        hook = self.container.spec.get("lifecycle", {}).get("preStop")
        if hook is None:
            return None
        if "sleep" in hook:
            self.container.wait(hook["sleep"]["seconds"])
            return None
        if "exec" not in hook:
            raise Failed(f"a preStop hook of {sorted(hook)} is not known here")
        try:
            run = self.container.execute(hook["exec"]["command"], timeout=grace)
        except TimeoutError as error:
            return str(error)
        return f"preStop ended with {run.returncode}: {run.stderr.strip()}" if run.returncode else None

    def kill(self):
        self.terminating = True
        self.over.set()
        for container in [*self.init, self.container]:
            if container and container.process and container.code is None:
                container.signal("KILL")
                container.process.wait()
