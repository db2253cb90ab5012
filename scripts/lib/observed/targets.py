"""What Prometheus scrapes, with the labels that it would have in the cluster.

Takes the ServiceMonitors and what they select; gives the scrape configuration, and the files that name the targets.
"""

import json
import threading

from lint.core import labels_of, matches

from .servers import UPSTREAM_KEY

NAMESPACE = "llm-models-llamacpp"
# Services, after which jobs are named.
GATEWAY, LLAMA_SERVER = "kimi-k2-gateway", "kimi-k2-llamacpp"


def monitored(objects):
    """By Service, what its ServiceMonitor says: the port's name, the path, and whether a key is shown."""
    found = {}
    for monitor in (one for one in objects if one["kind"] == "ServiceMonitor"):
        for service in (one for one in objects if one["kind"] == "Service"):
            if matches(monitor["spec"]["selector"], labels_of(service)):
                endpoint, = monitor["spec"]["endpoints"]
                found[service["metadata"]["name"]] = endpoint
    return found


class Targets:
    """The targets of a running Prometheus. They come, and move to another port, while it runs."""

    def __init__(self, folder, objects):
        self.folder, self.monitored = folder, monitored(objects)
        self._lock = threading.Lock()
        self.known = {name: {} for name in [*self.monitored, "platform"]}
        for name in self.known:
            self._write(name)

    def put(self, service, namespace, address):
        """The address of a service in a namespace. Its label stays what it was: a pod keeps its address."""
        port = self.monitored[service]["port"] if service in self.monitored else "metrics"
        labels = {"job": service, "service": service, "namespace": namespace, "endpoint": port,
                  "pod": f"{service}-0", "container": service.rsplit("-", 1)[-1], "instance": f"{namespace}:{port}"}
        with self._lock:
            self.known[service][namespace] = {"targets": [address], "labels": labels}
            self._write(service)

    def _write(self, service):
        file = self.folder / f"{service}.json"
        new = file.with_suffix(".new")
        new.write_text(json.dumps(list(self.known[service].values())))
        new.rename(file)

    def scrape_configurations(self):
        """One a service, and one of what stands for the platform's exporters, which have labels of their own."""
        for service in self.known:
            endpoint = self.monitored.get(service, {"path": "/metrics"})
            one = {"job_name": service, "metrics_path": endpoint["path"], "honor_labels": service == "platform",
                   "file_sd_configs": [{"files": [str(self.folder / f"{service}.json")], "refresh_interval": "1s"}]}
            if "authorization" in endpoint:
                one["authorization"] = {"credentials": UPSTREAM_KEY}
            yield one
