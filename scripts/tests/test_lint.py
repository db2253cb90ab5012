"""The lint of the manifests: the real overlays pass, and each rule sees what breaks them on purpose.

A mutation changes the parsed objects of a rendered overlay. It is made for one rule, and must be seen by that alone.
"""
import copy
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/lib"))

import manifests  # noqa: E402
from lint import command, core, monitoring, units  # noqa: E402
from lint.core import GATEWAY, SERVER  # noqa: E402
from lint.project import Project, ProjectError, parse_settings  # noqa: E402

OPENSHIFT, INGRESS, GATEWAY_API, CPU = (
    "openshift-kimi-k2-t4", "kubernetes-kimi-k2-t4", "kubernetes-gpt-oss-20b-t4", "dev-cpu")
NAMESPACE = "llm-models-llamacpp"
PROJECT = Project(ROOT)
GOOD = {}  # name of the overlay -> Overlay
BEFORE = {}  # name of the overlay -> its faults, none if all is well
MUTATIONS = []  # (rule, overlay, function that breaks a Set)
TREE_MUTATIONS = []  # (rule, function that breaks the files below a root)


def setUpModule():
    GOOD.update({overlay.name: overlay for overlay in command.load([ROOT / "manifests/overlays"])})
    BEFORE.update({name: set(core.run(overlay, PROJECT)) for name, overlay in GOOD.items()})


class Set:
    """A copy of an overlay's objects, to be broken."""

    def __init__(self, overlay):
        self.objects = copy.deepcopy(overlay.objects)

    def get(self, kind, name):
        return next(thing for thing in self.objects
                    if thing["kind"] == kind and thing["metadata"]["name"] == name)

    def of(self, kind):
        return next(thing for thing in self.objects if thing["kind"] == kind)

    def add(self, thing):
        self.objects.append(thing)

    def remove(self, kind, name):
        self.objects.remove(self.get(kind, name))

    def pod(self, name):
        return self.get("Deployment", name)["spec"]["template"]["spec"]

    def container(self, name):
        return self.pod(name)["containers"][0]

    def settings(self, old, new):
        """Replaces a text in the gateway's file, which must be there."""
        data = self.get("ConfigMap", GATEWAY + "-config")["data"]
        assert old in data["gateway.toml"], old
        data["gateway.toml"] = data["gateway.toml"].replace(old, new)

    def parameters(self):
        return self.get("ConfigMap", SERVER + "-config")["data"]

    def policy(self, name):
        return self.get("NetworkPolicy", name)["spec"]

    @contextmanager
    def dashboard(self, name="service"):
        """One of the dashboards for Grafana, to be broken."""
        data = self.get("ConfigMap", "kimi-k2-dashboard-" + name)["data"]
        [(file, text)] = data.items()
        document = json.loads(text)
        yield document
        data[file] = json.dumps(document)

    def alert(self):
        """An alert without conditions of its own: those of the good set are long."""
        rule = self.get("PrometheusRule", GATEWAY)["spec"]["groups"][0]["rules"][0]
        rule["expr"] = "sum by (namespace) (rate(llama_gateway_requests_total[5m])) > 1"
        return rule


def breaks(identifier, overlay=OPENSHIFT):
    """Registers a mutation for a rule."""
    def register(function):
        MUTATIONS.append((identifier, overlay, function))
        return function
    return register


def breaks_files(identifier):
    """Registers a mutation of files for a rule."""
    def register(function):
        TREE_MUTATIONS.append((identifier, function))
        return function
    return register


# ---- objects

@breaks("unfit-kind")
def an_autoscaler(good):
    good.add({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
              "metadata": {"name": "x", "namespace": NAMESPACE}})


@breaks("program", CPU)
def names_with_a_prefix(good):
    good.get("Deployment", SERVER)["metadata"]["name"] = "acme-" + SERVER


@breaks("namespace")
def an_object_without_a_namespace(good):
    del good.get("Route", SERVER)["metadata"]["namespace"]


@breaks("namespace", CPU)
def an_object_in_another_namespace(good):
    good.get("Service", SERVER)["metadata"]["namespace"] = "default"


@breaks("namespace")
def another_namespace_object(good):
    good.of("Namespace")["metadata"]["name"] = "llm"


@breaks("label-value")
def a_label_of_64_characters(good):
    good.get("Service", GATEWAY)["metadata"]["labels"]["note"] = "a" * 64


@breaks("label-value")
def a_label_with_a_blank(good):
    good.get("Service", GATEWAY)["metadata"]["labels"]["note"] = "a b"


@breaks("string-map")
def a_number_in_a_config_map(good):
    good.parameters()["CTX_SIZE"] = 16384


@breaks("string-map")
def a_boolean_in_a_node_selector(good):
    good.pod(SERVER)["nodeSelector"] = {"nvidia.com/gpu.present": True}


# ---- references

@breaks("workload-selector")
def a_selector_of_other_pods(good):
    good.get("Deployment", GATEWAY)["spec"]["selector"]["matchLabels"]["app"] = "gateway"


@breaks("workload-selector")
def a_selector_of_nothing(good):
    good.get("Deployment", GATEWAY)["spec"]["selector"]["matchLabels"] = {}


@breaks("service-selector")
def a_service_without_pods(good):
    good.add({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "namespace": NAMESPACE},
              "spec": {"selector": {"app": "typo"}, "ports": [{"name": "http", "port": 80}]}})


@breaks("service-port")
def a_target_port_that_nobody_has(good):
    good.get("Service", GATEWAY)["spec"]["ports"][0]["targetPort"] = "htpp"


@breaks("port-number")
def a_port_above_the_last(good):
    good.get("Service", GATEWAY)["spec"]["ports"].append({"name": "x", "port": 80800, "targetPort": "http"})


@breaks("port-number")
def a_container_port_that_needs_root(good):
    good.container(GATEWAY)["ports"].append({"name": "x", "containerPort": 80})


@breaks("probe-port")
def a_probe_at_a_port_that_nobody_has(good):
    good.container(SERVER)["livenessProbe"]["httpGet"]["port"] = "htpp"


@breaks("backend")
def a_route_to_a_port_that_is_not_there(good):
    good.get("Route", SERVER)["spec"]["port"]["targetPort"] = "web"


@breaks("backend", INGRESS)
def an_ingress_to_a_service_that_is_not_there(good):
    path = good.of("Ingress")["spec"]["rules"][0]["http"]["paths"][0]
    path["backend"]["service"]["name"] = "gateway"


@breaks("backend", GATEWAY_API)
def an_http_route_to_a_number_that_is_not_there(good):
    good.of("HTTPRoute")["spec"]["rules"][0]["backendRefs"][0]["port"] = 80


@breaks("public-target")
def a_route_to_llama_server(good):
    good.get("Route", SERVER)["spec"]["to"]["name"] = SERVER


@breaks("public-target", INGRESS)
def an_ingress_to_the_admin_port(good):
    path = good.of("Ingress")["spec"]["rules"][0]["http"]["paths"][0]
    path["backend"]["service"]["port"] = {"number": 9090}


@breaks("public-target")
def a_port_of_every_node_for_the_admin(good):
    good.get("Service", GATEWAY)["spec"]["type"] = "NodePort"


@breaks("public-target", CPU)
def an_address_of_llama_server_for_everybody(good):
    good.add({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "namespace": NAMESPACE},
              "spec": {"type": "LoadBalancer", "selector": {"app": SERVER},
                       "ports": [{"name": "http", "port": 80, "targetPort": 8001}]}})
    good.policy(GATEWAY)["ingress"] = [
        {"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 8080}]}]
    good.policy(GATEWAY)["policyTypes"].append("Ingress")


@breaks("service-monitor")
def a_monitor_of_no_service(good):
    good.get("ServiceMonitor", SERVER)["spec"]["selector"]["matchLabels"]["app"] = "typo"


@breaks("service-monitor")
def a_monitor_of_a_port_without_that_name(good):
    good.get("ServiceMonitor", GATEWAY)["spec"]["endpoints"][0]["port"] = "metrics"


@breaks("service-monitor")
def a_monitor_of_another_namespace(good):
    good.get("ServiceMonitor", GATEWAY)["spec"]["namespaceSelector"] = {"matchNames": ["default"]}


@breaks("service-monitor")
def a_monitor_of_another_path(good):
    good.get("ServiceMonitor", GATEWAY)["spec"]["endpoints"][0]["path"] = "/metric"


@breaks("service-account")
def a_service_account_that_is_not_there(good):
    good.remove("ServiceAccount", GATEWAY)


@breaks("service-account")
def no_service_account(good):
    del good.pod(GATEWAY)["serviceAccountName"]


# ---- storage

@breaks("config-map")
def parameters_from_a_config_map_that_is_not_there(good):
    good.container(GATEWAY)["envFrom"] = [{"configMapRef": {"name": "typo"}}]


@breaks("config-map")
def a_variable_from_a_key_that_is_not_there(good):
    good.container(GATEWAY)["env"].append({"name": "X", "valueFrom": {
        "configMapKeyRef": {"name": SERVER + "-config", "key": "TYPO"}}})


@breaks("secret-name")
def a_secret_that_nobody_makes(good):
    good.pod(SERVER)["volumes"].append({"name": "x", "secret": {"secretName": "typo"}})
    good.container(SERVER)["volumeMounts"].append({"name": "x", "mountPath": "/x"})


@breaks("secret-name")
def a_variable_from_a_key_that_no_secret_has(good):
    good.container(GATEWAY)["env"].append({"name": "X", "valueFrom": {
        "secretKeyRef": {"name": "kimi-k2-upstream-key", "key": "key"}}})


@breaks("optional-secret")
def a_pod_that_waits_for_the_token_of_hugging_face(good):
    volume = next(volume for volume in good.pod(SERVER)["volumes"] if volume["name"] == "huggingface-token")
    del volume["secret"]["optional"]


@breaks("claim")
def a_claim_that_is_not_there(good):
    good.remove("PersistentVolumeClaim", "kimi-k2-gateway-data")


@breaks("volume")
def a_mount_without_a_volume(good):
    good.container(GATEWAY)["volumeMounts"].append({"name": "typo", "mountPath": "/x"})


@breaks("volume")
def a_volume_that_nobody_mounts(good):
    good.pod(GATEWAY)["volumes"].append({"name": "x", "emptyDir": {}})


@breaks("volume")
def a_volume_of_nothing(good):
    volume = next(volume for volume in good.pod(GATEWAY)["volumes"] if volume["name"] == "tmp")
    del volume["emptyDir"]


@breaks("volume")
def two_mounts_at_one_place(good):
    good.container(GATEWAY)["volumeMounts"].append({"name": "tmp", "mountPath": "/var/lib/llama-gateway"})


@breaks("tmp")
def nowhere_to_write(good):
    good.container(SERVER)["volumeMounts"] = [
        mount for mount in good.container(SERVER)["volumeMounts"] if mount["mountPath"] != "/tmp"]


@breaks("sub-path")
def a_sub_path_that_is_no_key(good):
    good.container(GATEWAY)["volumeMounts"].append({"name": "config", "mountPath": "/x", "subPath": "gateway.tml"})


@breaks("read-only-models")
def a_server_that_can_write_models(good):
    mount = next(mount for mount in good.container(SERVER)["volumeMounts"] if mount["mountPath"] == "/models")
    mount["readOnly"] = False


# ---- security

@breaks("pinned-uid")
def a_user_on_openshift(good):
    good.container(SERVER)["securityContext"]["runAsUser"] = 1000


@breaks("pinned-uid")
def a_group_of_files_on_openshift(good):
    good.pod(GATEWAY)["securityContext"]["fsGroup"] = 2000


@breaks("pinned-uid", INGRESS)
def a_part_of_openshift_elsewhere(good):
    good.add({"apiVersion": "image.openshift.io/v1", "kind": "ImageStream", "spec": {"lookupPolicy": {"local": True}},
              "metadata": {"name": "x", "namespace": NAMESPACE}})


@breaks("pinned-uid", INGRESS)
def no_group_of_files_elsewhere(good):
    del good.pod(GATEWAY)["securityContext"]["fsGroup"]


@breaks("read-only-root")
def a_root_that_can_be_written(good):
    del good.container(SERVER)["securityContext"]["readOnlyRootFilesystem"]


@breaks("privilege-escalation")
def an_init_container_that_may_become_more(good):
    good.pod(SERVER)["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"] = True


@breaks("capabilities")
def a_capability(good):
    good.container(GATEWAY)["securityContext"]["capabilities"]["add"] = ["NET_BIND_SERVICE"]


@breaks("host-access")
def a_privileged_container(good):
    good.container(SERVER)["securityContext"]["privileged"] = True


@breaks("host-access")
def a_directory_of_the_node(good):
    good.pod(SERVER)["volumes"].append({"name": "x", "hostPath": {"path": "/"}})
    good.container(SERVER)["volumeMounts"].append({"name": "x", "mountPath": "/x"})


@breaks("host-access")
def a_port_of_the_node(good):
    good.container(GATEWAY)["ports"][0]["hostPort"] = 8080


@breaks("non-root")
def a_pod_that_may_be_root(good):
    del good.pod(SERVER)["securityContext"]["runAsNonRoot"]


@breaks("non-root")
def an_init_container_that_may_be_root(good):
    good.pod(SERVER)["initContainers"][0]["securityContext"]["runAsNonRoot"] = False


@breaks("non-root", INGRESS)
def a_container_that_is_root(good):
    good.container(SERVER)["securityContext"]["runAsUser"] = 0


@breaks("seccomp")
def all_system_calls_for_an_init_container(good):
    good.pod(SERVER)["initContainers"][0]["securityContext"]["seccompProfile"] = {"type": "Unconfined"}


@breaks("seccomp")
def all_system_calls(good):
    good.pod(SERVER)["securityContext"]["seccompProfile"]["type"] = "Unconfined"


@breaks("volume-owner")
def a_start_that_walks_the_whole_volume(good):
    del good.pod(SERVER)["securityContext"]["fsGroupChangePolicy"]


@breaks("automount")
def a_token_in_a_pod(good):
    del good.pod(GATEWAY)["automountServiceAccountToken"]


@breaks("automount")
def a_service_account_that_gives_its_token(good):
    good.get("ServiceAccount", SERVER)["automountServiceAccountToken"] = True


@breaks("pod-security")
def a_namespace_that_takes_any_pod(good):
    good.of("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "baseline"


@breaks("namespace-monitoring")
def a_namespace_of_the_platform(good):
    good.of("Namespace")["metadata"]["labels"]["openshift.io/cluster-monitoring"] = "true"


@breaks("secret-in-set")
def a_secret_in_the_set(good):
    good.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": NAMESPACE}})


@breaks("secret-in-set")
def a_key_of_the_gateway_in_an_annotation(good):
    good.get("Service", GATEWAY)["metadata"]["annotations"] = {"note": "key: sk-lgw-" + "aB3" * 15}


@breaks("secret-in-set")
def a_token_of_hugging_face_in_a_variable(good):
    good.container(GATEWAY)["env"].append({"name": "TOKEN", "value": "hf_" + "aB3" * 10})


@breaks("ingress-tls", INGRESS)
def an_ingress_in_clear(good):
    del good.of("Ingress")["spec"]["tls"]


@breaks("ingress-tls", INGRESS)
def an_ingress_without_rules_in_clear(good):
    spec = good.of("Ingress")["spec"]
    spec["defaultBackend"] = spec.pop("rules")[0]["http"]["paths"][0]["backend"]
    del spec["tls"]


@breaks("ingress-tls", INGRESS)
def a_host_without_a_certificate(good):
    good.of("Ingress")["spec"]["rules"][0]["host"] = "kimi.other.example.com"


@breaks("ingress-tls", INGRESS)
def all_hosts_with_the_certificate_of_one(good):
    del good.of("Ingress")["spec"]["rules"][0]["host"]


# ---- resources

@breaks("quantity")
def a_quantity_in_words_of_disks(good):
    good.container(SERVER)["resources"]["limits"]["memory"] = "128GiB"


@breaks("quantity")
def a_claim_of_a_strange_size(good):
    good.get("PersistentVolumeClaim", "kimi-k2-gguf-cache")["spec"]["resources"]["requests"]["storage"] = "400 Gi"


@breaks("requests-limits")
def a_request_above_its_limit(good):
    good.container(SERVER)["resources"]["requests"]["memory"] = "200Gi"


@breaks("requests-limits")
def memory_without_a_limit(good):
    del good.container(GATEWAY)["resources"]["limits"]["memory"]


def _card(good):
    affinity = good.pod(SERVER)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return affinity["nodeSelectorTerms"][0]["matchExpressions"][0]


@breaks("gpu-node")
def a_card_that_others_use_too(good):
    _card(good)["values"] = ["Tesla-T4-SHARED"]


@breaks("gpu-node")
def a_label_that_no_node_has(good):
    _card(good)["key"] = "nvidia.com/gpu"


@breaks("gpu-node", CPU)
def a_card_of_any_kind(good):
    """Which is not for an overlay that is called after the T4."""
    for side in good.container(SERVER)["resources"].values():
        side["nvidia.com/gpu"] = "1"
    good.pod(SERVER)["tolerations"] = Set(GOOD[OPENSHIFT]).pod(SERVER)["tolerations"]
    good.container(SERVER)["startupProbe"] = Set(GOOD[OPENSHIFT]).container(SERVER)["startupProbe"]


@breaks("gpu-node", CPU)
def a_card_for_the_overlay_without(good):
    good.pod(SERVER)["affinity"] = copy.deepcopy(Set(GOOD[OPENSHIFT]).pod(SERVER)["affinity"])


@breaks("gpu-toleration")
def a_taint_that_is_not_tolerated(good):
    del good.pod(SERVER)["tolerations"]


@breaks("gpu-count")
def a_gpu_that_is_asked_for_only(good):
    good.container(SERVER)["resources"]["limits"]["nvidia.com/gpu"] = "2"


@breaks("gpu-count")
def no_gpu(good):
    for side in good.container(SERVER)["resources"].values():
        del side["nvidia.com/gpu"]


@breaks("gpu-count")
def a_gpu_for_the_gateway(good):
    for side in good.container(GATEWAY)["resources"].values():
        side["nvidia.com/gpu"] = "1"


@breaks("recreate")
def a_new_pod_that_waits_for_the_old_ones_volume(good):
    good.get("Deployment", SERVER)["spec"]["strategy"] = {"type": "RollingUpdate"}


@breaks("recreate")
def recreate_with_settings_of_the_other(good):
    good.get("Deployment", GATEWAY)["spec"]["strategy"]["rollingUpdate"] = {"maxSurge": 1}


@breaks("replicas")
def two_gateways(good):
    good.get("Deployment", GATEWAY)["spec"]["replicas"] = 2


@breaks("replicas")
def two_servers_and_a_volume_for_one_node(good):
    good.get("Deployment", SERVER)["spec"]["replicas"] = 2


@breaks("disruption-budget")
def a_budget_that_blocks_every_drain(good):
    budget = good.of("PodDisruptionBudget")["spec"]
    budget["minAvailable"] = 1
    del budget["maxUnavailable"]


@breaks("disruption-budget")
def a_budget_with_both(good):
    good.of("PodDisruptionBudget")["spec"]["minAvailable"] = 1


@breaks("disruption-budget")
def a_budget_of_nothing(good):
    good.of("PodDisruptionBudget")["spec"]["maxUnavailable"] = 0


@breaks("disruption-budget")
def a_budget_of_all_pods(good):
    good.of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] = {}


@breaks("disruption-budget")
def a_budget_of_no_pods(good):
    good.of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]["app"] = "typo"


# ---- images

@breaks("image-pin")
def the_latest_image(good):
    good.container(GATEWAY)["image"] = "kimi-k2-gateway:latest"


@breaks("image-pin")
def an_image_of_a_registry_with_a_port_and_no_tag(good):
    good.container(GATEWAY)["image"] = "registry:5000/kimi-k2-gateway"


@breaks("image-pin")
def a_digest_that_is_none(good):
    good.container(GATEWAY)["image"] = "kimi-k2-gateway@sha256:abc"


@breaks("image-version")
def an_image_of_another_version(good):
    good.container(SERVER)["image"] = "quay.io/acme/kimi-k2-llamacpp:0.0.9"


@breaks("image-name")
def an_image_of_somebody_else(good):
    good.pod(SERVER)["initContainers"][0]["image"] = "docker.io/curlimages/curl:8.0.0"


@breaks("image-stream")
def a_stream_that_is_looked_for_on_docker_io(good):
    del good.get("ImageStream", SERVER)["spec"]["lookupPolicy"]


@breaks("build-output")
def a_build_of_another_version(good):
    good.get("BuildConfig", SERVER)["spec"]["output"]["to"]["name"] = "kimi-k2-llamacpp:latest"


@breaks("build-file")
def a_build_of_a_file_that_is_not_there(good):
    good.get("BuildConfig", SERVER)["spec"]["strategy"]["dockerStrategy"]["dockerfilePath"] = "Dockerfile"


@breaks("build-card")
def kernels_for_another_card(good):
    strategy = good.get("BuildConfig", SERVER)["spec"]["strategy"]["dockerStrategy"]
    strategy["buildArgs"] = [{"name": "CUDA_ARCHITECTURES", "value": "86-real;89-real"}]


@breaks("image-trigger")
def an_image_that_changes_by_itself(good):
    good.get("Deployment", SERVER)["metadata"]["annotations"] = {"image.openshift.io/triggers": "[]"}


# ---- durations

ROUTER, NGINX = "haproxy.router.openshift.io/", "nginx.ingress.kubernetes.io/"


def _annotate(kind, key, value):
    def mutation(good):
        good.of(kind)["metadata"]["annotations"][key] = value
    return mutation


for _text in ("30min", "0h", "1h30m", "2 h", "1.5h"):
    breaks("route-timeout")(_annotate("Route", ROUTER + "timeout", _text))
breaks("route-timeout")(_annotate("Route", ROUTER + "timeout-tunnel", "1 h"))
for _text in ("4h", "14460s", "0"):
    breaks("ingress-timeout", INGRESS)(_annotate("Ingress", NGINX + "proxy-read-timeout", _text))
breaks("ingress-stream", INGRESS)(_annotate("Ingress", NGINX + "proxy-buffering", "on"))
for _text in ("1k", "many"):
    breaks("ingress-body-size", INGRESS)(_annotate("Ingress", NGINX + "proxy-body-size", _text))
# Milliseconds, where somebody meant seconds.
breaks("front-timeout")(_annotate("Route", ROUTER + "timeout", "14460"))
breaks("front-timeout", INGRESS)(_annotate("Ingress", NGINX + "proxy-send-timeout", "3600"))


@breaks("gateway-api-timeout", GATEWAY_API)
def a_duration_with_days(good):
    good.of("HTTPRoute")["spec"]["rules"][0]["timeouts"]["request"] = "1d"


@breaks("front-timeout", GATEWAY_API)
def an_http_route_without_patience_for_the_backend(good):
    del good.of("HTTPRoute")["spec"]["rules"][0]["timeouts"]["backendRequest"]


@breaks("front-timeout")
def a_route_without_a_timeout(good):
    del good.of("Route")["metadata"]["annotations"][ROUTER + "timeout"]


@breaks("front-timeout")
def a_gateway_that_is_told_by_its_environment_to_wait_longer(good):
    good.container(GATEWAY)["env"].append({"name": "LLAMA_GATEWAY_TIMEOUTS_TOTAL", "value": "5h"})


@breaks("gateway-grace")
def a_gateway_that_is_killed_while_it_drains(good):
    good.pod(GATEWAY)["terminationGracePeriodSeconds"] = 601


@breaks("gateway-grace")
def a_hook_that_takes_the_time_of_the_drain(good):
    good.container(GATEWAY)["lifecycle"] = {"preStop": {"sleep": {"seconds": 60}}}


@breaks("server-grace")
def a_server_that_is_killed_while_it_drains(good):
    good.pod(SERVER)["terminationGracePeriodSeconds"] = 281


@breaks("server-grace")
def a_drain_that_is_told_to_take_longer(good):
    good.parameters()["DRAIN_MAX_SECONDS"] = "600"


@breaks("server-grace")
def a_hook_that_only_sleeps(good):
    good.container(SERVER)["lifecycle"]["preStop"] = {"sleep": {"seconds": 300}}


@breaks("progress-deadline")
def a_rollout_that_fails_while_the_model_loads(good):
    del good.get("Deployment", SERVER)["spec"]["progressDeadlineSeconds"]


@breaks("prometheus-duration")
def an_interval_without_a_unit(good):
    good.get("ServiceMonitor", GATEWAY)["spec"]["endpoints"][0]["interval"] = "15"


@breaks("prometheus-duration")
def a_scrape_that_may_take_longer_than_its_interval(good):
    good.get("ServiceMonitor", GATEWAY)["spec"]["endpoints"][0]["scrapeTimeout"] = "31s"


@breaks("prometheus-duration")
def an_alert_after_minutes_without_a_unit(good):
    good.alert()["for"] = "15min"


@breaks("scrape-pause")
def a_scrape_of_llama_server_every_second(good):
    good.get("ServiceMonitor", SERVER)["spec"]["endpoints"][0].update(interval="1s", scrapeTimeout="1s")


# ---- the gateway's settings and llama-server's parameters

@breaks("settings-file")
def a_line_that_is_no_toml(good):
    good.settings("[log]", "[log")


@breaks("settings-file")
def a_total_without_a_unit(good):
    good.settings('total = "4h"', "total = 7200")


@breaks("listen-address")
def a_gateway_that_listens_to_itself_only(good):
    good.settings("0.0.0.0:8080", "127.0.0.1:8080")


@breaks("upstream-url")
def an_upstream_that_is_not_there(good):
    good.settings("dns://kimi-k2-llamacpp:8001", "dns://llamacpp:8001")


@breaks("upstream-url")
def an_upstream_at_another_port(good):
    good.settings("dns://kimi-k2-llamacpp:8001", "dns://kimi-k2-llamacpp:80")


@breaks("upstream-url")
def a_service_whose_pods_no_name_stands_for(good):
    del good.get("Service", SERVER)["spec"]["clusterIP"]


@breaks("upstream-url")
def a_service_that_names_pods_which_load(good):
    good.get("Service", SERVER)["spec"]["publishNotReadyAddresses"] = True


@breaks("mounted-file")
def a_configuration_that_is_mounted_elsewhere(good):
    good.container(GATEWAY)["args"][-1] = "/etc/gateway/gateway.toml"


@breaks("mounted-file")
def a_key_file_where_none_is_mounted(good):
    good.settings("/run/secrets/admin/key", "/run/secrets/admin/admin-key")


@breaks("mounted-file")
def a_data_directory_that_goes_with_the_pod(good):
    good.container(GATEWAY)["env"] = [{"name": "LLAMA_GATEWAY_SERVER_DATA_DIR", "value": "/tmp/data"}]


@breaks("mounted-file")
def a_server_that_looks_elsewhere_for_its_key(good):
    good.parameters()["API_KEY_FILE"] = "/run/secrets/upstream/key"


@breaks("mounted-file")
def models_that_are_not_mounted_where_they_are_sought(good):
    good.parameters()["MODELS_DIR"] = "/data"


@breaks("mounted-file")
def a_token_that_is_not_mounted_where_it_is_sought(good):
    mount = next(mount for mount in good.pod(SERVER)["initContainers"][0]["volumeMounts"]
                 if mount["name"] == "huggingface-token")
    mount["mountPath"] = "/run/secrets/hf"


@breaks("server-port")
def a_server_that_listens_elsewhere(good):
    good.parameters()["PORT"] = "8002"


@breaks("same-upstream-key")
def a_server_without_the_key_that_the_gateway_has(good):
    good.parameters()["API_KEY_FILE"] = "none"


@breaks("parameter-name")
def a_parameter_that_nobody_reads(good):
    good.parameters()["CONTEXT_SIZE"] = "1024"


@breaks("parameter-name")
def a_parameter_that_is_not_to_be_found(good):
    del good.parameters()["THREADS"]


@breaks("parameter-name")
def a_download_without_parameters(good):
    del good.pod(SERVER)["initContainers"][0]["envFrom"]


# ---- probes

@breaks("probe-path")
def a_probe_that_needs_a_key(good):
    good.container(SERVER)["livenessProbe"]["httpGet"]["path"] = "/slots"


@breaks("probe-missing")
def a_load_without_a_startup_probe(good):
    del good.container(SERVER)["startupProbe"]


@breaks("probe-timeout")
def a_probe_that_is_slower_than_its_period(good):
    good.container(GATEWAY)["livenessProbe"]["timeoutSeconds"] = 11


@breaks("startup-span")
def five_minutes_to_load_247_gigabytes(good):
    good.container(SERVER)["startupProbe"]["failureThreshold"] = 20


@breaks("liveness-patience")
def a_server_that_is_killed_when_it_is_busy(good):
    good.container(SERVER)["livenessProbe"]["failureThreshold"] = 1


@breaks("liveness-patience")
def a_server_that_is_killed_when_it_answers_late(good):
    del good.container(SERVER)["livenessProbe"]["timeoutSeconds"]


@breaks("gateway-probes")
def a_gateway_that_vanishes_while_the_model_loads(good):
    good.container(GATEWAY)["readinessProbe"]["httpGet"]["path"] = "/readyz"


# ---- networks

@breaks("default-deny")
def no_policy_for_pods_that_nobody_thought_of(good):
    good.remove("NetworkPolicy", "default-deny")


@breaks("default-deny")
def a_default_in_one_direction(good):
    good.policy("default-deny")["policyTypes"] = ["Ingress"]


@breaks("policy-type")
def rules_of_a_direction_that_is_not_named(good):
    good.policy("kimi-k2-llamacpp-download")["policyTypes"] = ["Ingress"]


@breaks("policy-selector")
def a_policy_of_no_pods(good):
    good.add({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
              "metadata": {"name": "x", "namespace": NAMESPACE},
              "spec": {"podSelector": {"matchLabels": {"app": "typo"}}, "policyTypes": ["Ingress"]}})


@breaks("policy-port")
def a_policy_with_the_port_of_a_service(good):
    good.policy("kimi-k2-llamacpp")["ingress"][0]["ports"].append({"protocol": "TCP", "port": 80})


@breaks("policy-port")
def a_policy_for_many_ports(good):
    good.policy("kimi-k2-gateway-router")["ingress"][0]["ports"][0]["endPort"] = 9999


@breaks("dns-egress")
def names_of_plain_kubernetes_only(good):
    good.policy("allow-dns")["egress"].pop()


@breaks("server-isolation")
def a_router_that_reaches_llama_server(good):
    good.policy("kimi-k2-llamacpp")["ingress"][0]["from"].append(
        {"namespaceSelector": {"matchLabels": {"policy-group.network.openshift.io/ingress": ""}}})


@breaks("server-isolation")
def everybody_reaches_llama_server(good):
    good.policy("kimi-k2-llamacpp")["ingress"].append({"ports": [{"protocol": "TCP", "port": 8001}]})


@breaks("gateway-isolation")
def a_router_that_reaches_the_admin_port(good):
    good.policy("kimi-k2-gateway-router")["ingress"][0]["ports"].append({"protocol": "TCP", "port": 9090})


@breaks("gateway-isolation")
def everybody_reaches_the_gateway(good):
    good.policy("kimi-k2-gateway-router")["ingress"].append({"ports": [{"protocol": "TCP", "port": 8080}]})


@breaks("gateway-to-server")
def a_gateway_that_may_not_ask(good):
    good.remove("NetworkPolicy", "kimi-k2-gateway")


@breaks("gateway-to-server", CPU)
def a_server_that_may_not_be_asked(good):
    good.remove("NetworkPolicy", "kimi-k2-llamacpp")


@breaks("router-to-gateway")
def a_route_without_its_policy(good):
    good.remove("NetworkPolicy", "kimi-k2-gateway-router")


@breaks("router-to-gateway")
def a_policy_for_a_router_with_another_label(good):
    good.policy("kimi-k2-gateway-router")["ingress"][0]["from"] = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}]


@breaks("monitoring-to-pods")
def a_monitor_without_its_policy(good):
    good.remove("NetworkPolicy", "kimi-k2-llamacpp-monitoring")


@breaks("open-egress")
def a_download_from_the_metadata_of_the_cloud(good):
    good.policy("kimi-k2-llamacpp-download")["egress"][0]["to"][0]["ipBlock"]["except"].remove("169.254.0.0/16")


@breaks("open-egress")
def a_download_from_any_network_of_ipv6(good):
    good.policy("kimi-k2-llamacpp-download")["egress"][0]["to"][0]["ipBlock"] = {"cidr": "::/0"}


@breaks("open-egress")
def a_download_from_anywhere(good):
    good.policy("kimi-k2-llamacpp-download")["egress"] = [{}]


# ---- Routes

@breaks("route-termination")
def a_termination_in_capitals(good):
    good.of("Route")["spec"]["tls"]["termination"] = "Edge"


@breaks("route-termination")
def a_route_that_speaks_tls_to_a_gateway_without(good):
    good.of("Route")["spec"]["tls"]["termination"] = "reencrypt"


@breaks("route-insecure")
def a_redirect_for_keys_in_clear(good):
    good.of("Route")["spec"]["tls"]["insecureEdgeTerminationPolicy"] = "Redirect"


@breaks("route-insecure")
def plain_http(good):
    good.of("Route")["spec"]["tls"]["insecureEdgeTerminationPolicy"] = "Allow"


@breaks("route-name")
def a_host_that_is_too_long_for_dns(good):
    good.of("Route")["metadata"]["name"] = "k" * 44


@breaks("route-annotations")
def clients_that_forge_their_address(good):
    del good.of("Route")["metadata"]["annotations"][ROUTER + "set-forwarded-headers"]


breaks("route-annotations")(_annotate("Route", ROUTER + "rate-limit-connections.rate-http", "100"))


# ---- monitoring

@breaks("promql")
def an_expression_with_an_open_parenthesis(good):
    good.alert()["expr"] = "sum by (namespace) (rate(llama_gateway_requests_total[5m])"


@breaks("metric-name")
def a_metric_that_the_gateway_does_not_have(good):
    good.alert()["expr"] = "rate(llama_gateway_request_total[5m]) > 1"


@breaks("metric-name")
def a_histogram_without_a_suffix(good):
    good.alert()["expr"] = "llama_gateway_queue_wait_seconds > 1"


@breaks("metric-name")
def a_metric_by_its_name_label(good):
    good.alert()["expr"] = '{__name__="llamacpp:kv_cache_usage_ratio"} > 1'


@breaks("metric-name")
def an_average_since_somebodys_scrape(good):
    good.alert()["expr"] = "llamacpp:predicted_tokens_seconds < 1"


@breaks("metric-label")
def a_grouping_by_a_label_that_is_not_there(good):
    good.alert()["expr"] = "sum by (namespace, route) (rate(llama_gateway_requests_total[5m])) > 1"


@breaks("metric-label")
def a_matcher_of_a_label_that_is_not_there(good):
    good.alert()["expr"] = 'llama_gateway_upstream_ready{replica="a"} == 0'


@breaks("metric-label")
def the_quantile_of_a_sum_without_le(good):
    good.alert()["expr"] = "sum by (namespace, le) (rate(llama_gateway_queue_wait_seconds_sum[5m])) > 1"


@breaks("metric-label")
def a_join_on_a_label_that_is_not_there(good):
    good.alert()["expr"] = "llama_gateway_slots_busy / on (namespace, replica) llama_gateway_slots_total > 1"


@breaks("metric-name")
def a_series_that_no_rule_records(good):
    good.alert()["expr"] = "llama_gateway:requests:rate1m > 1"


@breaks("metric-label")
def a_label_that_a_recorded_series_has_lost(good):
    good.alert()["expr"] = "sum by (namespace, tenant) (llama_gateway:tokens:rate5m) > 1"


@breaks("metric-value")
def an_ending_that_no_request_has(good):
    good.alert()["expr"] = 'llama_gateway_requests_total{ending=~"complete|backend_eror"} > 1'


@breaks("metric-value")
def an_outcome_that_no_ticket_has(good):
    good.alert()["expr"] = 'llama_gateway_queue_tickets_total{outcome!="fully"} > 1'


@breaks("metric-value")
def a_bound_as_one_version_of_prometheus_writes_it(good):
    good.alert()["expr"] = 'llama_gateway_time_to_first_token_seconds_bucket{le="30"} > 1'


@breaks("metric-value")
def a_bound_that_no_bucket_has(good):
    rule = good.get("PrometheusRule", GATEWAY + "-slo")["spec"]["groups"][0]["rules"][2]
    rule["expr"] = rule["expr"].replace("30|30[.]0", "45|45[.]0")


@breaks("target-name")
def an_alert_about_a_job_that_is_not_there(good):
    good.alert()["expr"] = 'up{job="llama-gateway"} == 0'


@breaks("target-name")
def an_alert_about_another_namespace(good):
    good.alert()["expr"] = 'llama_gateway_upstream_ready{namespace="default"} == 0'


@breaks("rule-scope")
def a_metric_of_the_platform_in_a_rule_of_the_project(good):
    good.alert()["expr"] = "kubelet_volume_stats_available_bytes < 1"


@breaks("rule-scope")
def a_series_that_is_recorded_elsewhere(good):
    good.get("PrometheusRule", GATEWAY + "-platform")["spec"]["groups"][0]["rules"].append(
        {"record": "llama_gateway:volume:free", "expr": "min by (namespace) (kubelet_volume_stats_available_bytes)"})
    good.alert()["expr"] = "llama_gateway:volume:free < 1"


@breaks("alert-text")
def an_alert_that_says_nothing(good):
    del good.alert()["annotations"]["description"]


@breaks("alert-text")
def an_alert_of_unknown_weight(good):
    good.alert()["labels"]["severity"] = "page"


@breaks("runbook")
def a_runbook_that_is_not_there(good):
    good.alert()["annotations"]["runbook_url"] = (
        "https://github.com/llama-gateway/llama-gateway/blob/main/docs/keys.md#no-such-heading")


@breaks("runbook")
def a_runbook_of_another_alert(good):
    good.alert()["annotations"]["runbook_url"] = (
        "https://github.com/llama-gateway/llama-gateway/blob/main/docs/TROUBLESHOOTING.md#llamaserverdown")


@breaks("alert-template")
def a_text_about_a_label_that_is_gone(good):
    good.alert()["annotations"]["summary"] = "{{ $labels.upstream }} is down"


@breaks("namespace-label")
def an_alert_without_a_namespace(good):
    good.alert()["expr"] = "sum(rate(llama_gateway_requests_total[5m])) > 1"


@breaks("namespace-label")
def an_absence_without_a_namespace(good):
    good.alert()["expr"] = 'up == 0 or (absent(up{job="kimi-k2-gateway"}))'


@breaks("label-bound")
def an_alert_that_is_another_one_with_each_value(good):
    good.alert()["labels"]["rate"] = "{{ $value }}"


@breaks("label-bound")
def a_label_for_each_request(good):
    good.alert()["labels"]["request_id"] = "{{ $labels.pod }}"


@breaks("label-bound")
def an_expression_that_makes_such_a_label(good):
    good.alert()["expr"] = ('label_replace(llama_gateway_slots_busy, "client", "$1", "upstream", "(.*):.*") > 1 or '
                            'count_values without (upstream) ("address", llama_gateway_slots_total) > 1')


@breaks("recorded-name")
def a_recorded_series_with_the_name_of_a_metric(good):
    good.get("PrometheusRule", GATEWAY + "-recording")["spec"]["groups"][0]["rules"].append(
        {"record": "llama_gateway_requests_rate", "expr": "rate(llama_gateway_requests_total[5m])"})


@breaks("recorded-name")
def a_series_that_is_recorded_twice(good):
    rules = good.get("PrometheusRule", GATEWAY + "-recording")["spec"]["groups"][0]["rules"]
    rules.append(dict(rules[0]))


@breaks("monitor-file")
def a_token_from_a_file_of_prometheus(good):
    good.get("ServiceMonitor", GATEWAY)["spec"]["endpoints"][0]["bearerTokenFile"] = "/run/token"


@breaks("monitor-file")
def certificates_from_a_file_of_prometheus(good):
    good.get("ServiceMonitor", GATEWAY)["spec"]["endpoints"][0]["tlsConfig"] = {"caFile": "/run/ca.pem"}


@breaks("monitor-key")
def a_scrape_without_the_key(good):
    del good.get("ServiceMonitor", SERVER)["spec"]["endpoints"][0]["authorization"]


@breaks("monitor-key")
def a_scrape_with_a_key_that_is_not_there(good):
    good.get("ServiceMonitor", SERVER)["spec"]["endpoints"][0]["authorization"]["credentials"]["key"] = "key"


# ---- files

@breaks_files("secret-template")
def a_template_that_would_be_applied(manifests):
    (manifests / "secrets/05-secret.yaml").write_text("apiVersion: v1\nkind: Secret\n")


@breaks_files("key-in-file")
def a_key_in_a_comment(manifests):
    with (manifests / "base/02-pvc.yaml").open("a") as file:
        file.write("# hf_%s\n" % ("aB3" * 10))


@breaks_files("overlay-kustomization")
def a_kustomization_beside_files_that_are_applied_by_hand(manifests):
    (manifests / "secrets/kustomization.yaml").write_text("resources: []\n")


@breaks_files("overlay-kustomization")
def an_overlay_that_does_not_name_the_namespace(manifests):
    file = manifests / "overlays" / CPU / "kustomization.yaml"
    file.write_text(file.read_text().replace("namespace:", "nameSuffix:"))


MONITORING = "components/monitoring/"


@breaks_files("rule-test")
def an_alert_that_no_test_sees_fire(manifests):
    replace_in(manifests / MONITORING / "22-prometheusrule-platform.yaml", "LlamaGatewayPodRe", "LlamaServerPodRe")


@breaks_files("rule-test")
def a_severity_that_no_test_sees(manifests):
    replace_in(manifests / MONITORING / "22-prometheusrule-platform.yaml", "severity: warning", "severity: critical")


@breaks_files("rule-test")
def an_alert_that_no_test_sees_silent(manifests):
    file = manifests / MONITORING / "tests/platform.yaml"
    test = yaml.safe_load(file.read_text())
    for case in test["tests"]:
        case["alert_rule_test"] = [one for one in case["alert_rule_test"] if one["exp_alerts"]]
    file.write_text(yaml.safe_dump(test))


@breaks_files("rule-test")
def a_series_of_which_no_test_sees_a_value(manifests):
    file = manifests / MONITORING / "21-prometheusrule-recording.yaml"
    with file.open("a") as text:
        text.write("        - {record: 'llama_gateway:slots:all', expr: llama_gateway_slots_total}\n")


# ---- dashboards

def panel_of(document, kind="timeseries"):
    """The first panel of a kind."""
    return next(panel for panel in document["panels"] if panel["type"] == kind)


def asks(document, expression, legend=""):
    """Has a panel ask something else."""
    panel_of(document)["targets"] = [dict(panel_of(document)["targets"][0], expr=expression, legendFormat=legend)]


@breaks("dashboard-json", INGRESS)
def a_dashboard_that_is_no_json(good):
    data = good.get("ConfigMap", "kimi-k2-dashboard-service")["data"]
    data.update({name: text + "}" for name, text in data.items()})


@breaks("dashboard-json", INGRESS)
def a_dashboard_with_a_variable_that_nobody_sets(good):
    with good.dashboard() as document:
        asks(document, 'llama_gateway_slots_busy{namespace=~"$namespace", upstream="$upstream"}')


@breaks("dashboard-json", INGRESS)
def a_dashboard_of_an_older_schema(good):
    with good.dashboard() as document:
        document["schemaVersion"] = 16


@breaks("dashboard-json", INGRESS)
def a_dashboard_that_can_be_edited(good):
    with good.dashboard() as document:
        document["editable"] = True


@breaks("dashboard-json", INGRESS)
def a_dashboard_without_an_id(good):
    with good.dashboard() as document:
        del document["uid"]


@breaks("dashboard-json", INGRESS)
def a_dashboard_that_kubectl_cannot_apply(good):
    with good.dashboard() as document:
        document["description"] = "x" * 200_000


@breaks("dashboard-json", INGRESS)
def a_variable_that_no_prometheus_understands(good):
    with good.dashboard() as document:
        document["templating"]["list"][1]["query"]["query"] = "metrics(.*)"


@breaks("dashboard-panel", INGRESS)
def two_panels_with_one_id(good):
    with good.dashboard() as document:
        document["panels"][1]["id"] = document["panels"][2]["id"]


@breaks("dashboard-panel", INGRESS)
def two_panels_with_one_title(good):
    with good.dashboard() as document:
        document["panels"][1]["title"] = document["panels"][2]["title"]


@breaks("dashboard-panel", INGRESS)
def a_panel_without_a_description(good):
    with good.dashboard() as document:
        panel_of(document)["description"] = ""


@breaks("dashboard-panel", INGRESS)
def a_panel_without_a_unit(good):
    with good.dashboard() as document:
        del panel_of(document)["fieldConfig"]["defaults"]["unit"]


@breaks("dashboard-panel", INGRESS)
def a_panel_of_an_old_type(good):
    with good.dashboard() as document:
        panel_of(document)["type"] = "graph"


@breaks("dashboard-panel", INGRESS)
def a_panel_that_asks_for_nothing(good):
    with good.dashboard() as document:
        panel_of(document)["targets"] = []


@breaks("dashboard-datasource", INGRESS)
def a_panel_of_one_data_source(good):
    with good.dashboard() as document:
        panel_of(document)["datasource"] = {"type": "prometheus", "uid": "P1809F7CD0C75ACF3"}


@breaks("dashboard-datasource", INGRESS)
def a_query_of_the_default_data_source(good):
    with good.dashboard() as document:
        del panel_of(document)["targets"][0]["datasource"]


@breaks("dashboard-datasource", INGRESS)
def a_data_source_that_comes_last(good):
    with good.dashboard() as document:
        document["templating"]["list"].reverse()


@breaks("dashboard-query", INGRESS)
def a_query_that_does_not_parse(good):
    with good.dashboard() as document:
        asks(document, 'sum by (surface) rate(llama_gateway_requests_total{namespace=~"$namespace"}[$__rate_interval])')


@breaks("dashboard-metric", INGRESS)
def a_panel_about_a_metric_that_nobody_exports(good):
    with good.dashboard() as document:
        asks(document, 'llama_gateway_slot_busy{namespace=~"$namespace"}')


@breaks("dashboard-metric", INGRESS)
def a_panel_about_a_histogram_as_a_whole(good):
    with good.dashboard() as document:
        asks(document, 'llama_gateway_queue_wait_seconds{namespace=~"$namespace"}')


@breaks("dashboard-metric", INGRESS)
def a_panel_about_what_no_rule_records(good):
    with good.dashboard() as document:
        asks(document, 'llama_gateway:requests:error_ratio2h{namespace=~"$namespace"}')


@breaks("dashboard-metric", INGRESS)
def a_panel_about_an_average_since_the_last_scrape(good):
    with good.dashboard() as document:
        asks(document, 'llamacpp:predicted_tokens_seconds{namespace=~"$namespace"}')


@breaks("dashboard-metric", INGRESS)
def a_panel_about_gpus_where_everybody_sees_it(good):
    with good.dashboard() as document:
        asks(document, 'DCGM_FI_DEV_GPU_UTIL{namespace=~"$namespace"}')


@breaks("dashboard-label", INGRESS)
def a_panel_by_a_label_that_is_not_there(good):
    with good.dashboard() as document:
        asks(document, 'sum by (tenant) (llama_gateway_slots_busy{namespace=~"$namespace"})')


@breaks("dashboard-label", INGRESS)
def a_panel_of_a_label_that_is_not_there(good):
    with good.dashboard() as document:
        asks(document, 'llama_gateway_slots_busy{namespace=~"$namespace", tenant=~"$tenant"}')


@breaks("dashboard-label", INGRESS)
def a_legend_of_a_label_that_was_summed_up(good):
    with good.dashboard() as document:
        asks(document, 'sum by (namespace) (llama_gateway_slots_busy{namespace=~"$namespace"})', "{{upstream}}")


@breaks("dashboard-label", INGRESS)
def a_panel_of_a_label_that_a_rule_does_not_keep(good):
    with good.dashboard() as document:
        asks(document, 'llama_gateway:requests:objective{namespace=~"$namespace", surface="chat"}')


@breaks("dashboard-value", INGRESS)
def a_panel_of_a_value_that_the_label_never_has(good):
    with good.dashboard() as document:
        asks(document, 'sum(llama_gateway_tokens_total{namespace=~"$namespace", kind="promt"})')


@breaks("dashboard-rate", INGRESS)
def a_rate_of_a_fixed_window(good):
    with good.dashboard() as document:
        asks(document, 'sum(rate(llama_gateway_requests_total{namespace=~"$namespace"}[5m]))')


@breaks("dashboard-namespace", INGRESS)
def a_panel_of_all_namespaces(good):
    with good.dashboard() as document:
        asks(document, "sum(llama_gateway_slots_busy)")


def replace_in(file, old, new):
    text = file.read_text()
    assert old in text, old
    file.write_text(text.replace(old, new))


@breaks_files("dashboard-file")
def a_metric_of_the_console_that_nobody_exports(manifests):
    replace_in(manifests / "components/console-dashboard/llama-gateway.json", "_slots_busy", "_slot_busy")


@breaks_files("dashboard-file")
def a_type_that_the_console_leaves_out(manifests):
    replace_in(manifests / "components/console-dashboard/llama-gateway.json", '"graph"', '"timeseries"')


@breaks_files("dashboard-file")
def a_column_of_the_console_that_is_summed_up(manifests):
    file = manifests / "components/console-dashboard/llama-gateway.json"
    replace_in(file, '"pattern": "tenant"', '"pattern": "model"')


@breaks_files("dashboard-file")
def a_metric_of_the_page_that_nobody_exports(manifests):
    replace_in(manifests / "consoles/llama-gateway.html", "_slots_busy", "_slot_busy")


@breaks_files("dashboard-file")
def a_page_of_all_namespaces(manifests):
    replace_in(manifests / "consoles/llama-gateway.html", "{namespace=~%[1]s}", "")


class TheRealOverlays(unittest.TestCase):
    def test_have_no_fault(self):
        for name, faults in BEFORE.items():
            with self.subTest(overlay=name):
                self.assertEqual(set(), faults)

    def test_files_have_no_fault(self):
        self.assertEqual([], list(core.run_tree(PROJECT)))

    def test_are_what_their_names_say(self):
        self.assertLessEqual({OPENSHIFT, INGRESS, GATEWAY_API, CPU}, set(GOOD))
        for name, overlay in GOOD.items():
            self.assertEqual((name.startswith("openshift-"), name.endswith("-t4"), NAMESPACE),
                             (overlay.openshift, overlay.gpu, overlay.namespace), name)


class BrokenSets(unittest.TestCase):
    def test_each_is_seen_by_its_rule_alone(self):
        for identifier, name, mutation in MUTATIONS:
            with self.subTest(rule=identifier, mutation=mutation.__name__):
                broken = Set(GOOD[name])
                mutation(broken)
                self.assertNotEqual(GOOD[name].objects, broken.objects)
                found = set(core.run(core.Overlay(name, broken.objects), PROJECT)) - BEFORE[name]
                self.assertEqual({identifier}, {fault.rule for fault in found}, found)
                for fault in found:
                    self.assertEqual(name, fault.overlay)
                    self.assertTrue(fault.subject and fault.what and fault.hint, fault)
                    self.assertNotIn("cannot be read", fault.what)

    def test_broken_files_are_seen_by_their_rule_alone(self):
        for identifier, mutation in TREE_MUTATIONS:
            with self.subTest(rule=identifier, mutation=mutation.__name__), tempfile.TemporaryDirectory() as root:
                shutil.copytree(ROOT / "manifests", Path(root) / "manifests")
                for name in ("docs", "gateway"):
                    (Path(root) / name).symlink_to(ROOT / name)
                mutation(Path(root) / "manifests")
                self.assertEqual({identifier}, {fault.rule for fault in core.run_tree(Project(root))})

    def test_every_rule_has_a_broken_set(self):
        self.assertEqual(set(core.RULES), {identifier for identifier, _, _ in MUTATIONS})
        self.assertEqual(set(core.TREE_RULES), {identifier for identifier, _ in TREE_MUTATIONS})

    def test_every_rule_says_why_it_is_there(self):
        for identifier, function in dict(core.RULES, **core.TREE_RULES).items():
            self.assertTrue(function.__doc__, identifier)

    def test_a_value_of_a_wrong_type_is_told_and_no_crash(self):
        broken = Set(GOOD[OPENSHIFT])
        broken.get("Service", GATEWAY)["spec"]["ports"] = [8080]
        found = list(core.run(core.Overlay(OPENSHIFT, broken.objects), PROJECT))
        self.assertTrue(any("cannot be read" in fault.what for fault in found))


class WhatIsAllowed(unittest.TestCase):
    """Sets that differ from the good ones and are right nevertheless."""

    def check(self, name, mutation):
        broken = Set(GOOD[name])
        mutation(broken)
        found = set(core.run(core.Overlay(name, broken.objects), PROJECT))
        self.assertEqual(set(), found - BEFORE[name])

    def test_images_of_a_registry_and_by_digest(self):
        def mutation(good):
            good.container(GATEWAY)["image"] = "registry:5000/acme/kimi-k2-gateway:" + PROJECT.version
            good.container(SERVER)["image"] = "quay.io/acme/kimi-k2-llamacpp@sha256:" + "0" * 64
        self.check(INGRESS, mutation)

    def test_a_rule_of_the_platform_without_the_label_of_the_project(self):
        def mutation(good):
            good.alert()["expr"] = ("kubelet_volume_stats_available_bytes < 1 and on (namespace) "
                                    "kube_pod_info and DCGM_FI_DEV_FB_USED > 1")
            del good.get("PrometheusRule", GATEWAY)["metadata"]["labels"][
                "openshift.io/prometheus-rule-evaluation-scope"]
        self.check(OPENSHIFT, mutation)

    def test_a_quantile_of_a_histogram(self):
        def mutation(good):
            good.alert()["expr"] = ("histogram_quantile(0.95, sum by (namespace, le, class) "
                                    "(rate(llama_gateway_queue_wait_seconds_bucket[5m]))) > 60")
        self.check(OPENSHIFT, mutation)

    def test_labels_that_an_expression_makes_itself(self):
        def mutation(good):
            good.alert()["expr"] = ('sum by (namespace, host) (label_replace(llama_gateway_slots_busy, "host", "$1", '
                                    '"upstream", "(.*):.*")) > 1')
        self.check(OPENSHIFT, mutation)

    def test_legends_of_what_an_expression_leaves(self):
        busy, ready = ('llama_gateway_%s{namespace=~"$namespace"}' % name for name in ("slots_busy", "upstream_ready"))
        for expression, legend in (
                ("topk(3, sum by (upstream, pod) (%s))" % busy, "{{upstream}} {{pod}}"),
                ("sum without (pod) (%s)" % busy, "{{upstream}}"),
                ("2 * (-%s)" % busy, "{{upstream}}"),
                ("%s / on (upstream, pod) %s" % (busy, ready), "{{upstream}}"),
                ("%s / ignoring (upstream) group_left sum by (pod) (%s)" % (busy, ready), "{{upstream}}"),
                ("sum by (pod) (%s) or sum by (upstream) (%s)" % (busy, ready), "{{pod}}{{upstream}}"),
                ("avg_over_time(%s[$__range])" % busy, "{{ upstream }}"),
                ("time() - %s" % busy, "{{upstream}}"),
                ('label_replace(%s, "host", "$1", "upstream", "(.*):.*")' % busy, "{{host}}")):
            with self.subTest(expression=expression):
                def mutation(good):
                    with good.dashboard() as document:
                        asks(document, expression, legend)
                self.check(INGRESS, mutation)

    def test_parameters_that_are_empty(self):
        self.check(OPENSHIFT, lambda good: good.parameters().update(
            PORT="", API_KEY_FILE="", MODELS_DIR="", DRAIN_MAX_SECONDS=""))

    def test_a_route_with_tls_up_to_the_gateway(self):
        def mutation(good):
            good.settings("[admin]", 'tls_certificate = "/run/secrets/tls/tls.crt"\n[admin]')
            good.of("Route")["spec"]["tls"]["termination"] = "reencrypt"
        self.check(OPENSHIFT, mutation)

    def test_a_way_out_by_ipv6(self):
        self.check(OPENSHIFT, lambda good: good.policy("kimi-k2-llamacpp-download")["egress"][0]["to"].append(
            {"ipBlock": {"cidr": "::/0", "except": ["fc00::/7", "fe80::/10"]}}))

    def test_a_set_without_its_namespace_and_with_an_object_of_none(self):
        def mutation(good):
            good.remove("Namespace", NAMESPACE)
            good.add({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "nvme"}})
        self.check(OPENSHIFT, mutation)

    def test_a_lonely_gateway(self):
        self.check(OPENSHIFT, lambda good: good.get("Deployment", GATEWAY)["spec"].update(replicas=0))


HEAD = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
PLAIN = "resources: [../../base]\ncomponents: [../../components/fixed-uid, ../../components/ingress]\n"
# Overlays that people may write, none of which is named like ours.
OWN = {
    "another-openshift": "namespace: %s\nresources: [../openshift-gpt-oss-20b-t4]\n" % NAMESPACE,
    "another-namespace": "namespace: ours\n" + PLAIN,
    "another-card-and-certificate": "namespace: ours\n" + PLAIN + """
patches:
  - target: {kind: Deployment, name: kimi-k2-llamacpp}
    patch: |
      - {op: remove, path: /spec/template/spec/affinity}
      - {op: add, path: /spec/template/spec/nodeSelector, value: {nvidia.com/gpu.product: NVIDIA-L40S}}
  - target: {kind: Ingress}
    patch: |
      - {op: replace, path: /spec/rules/0/host, value: llm.example.org}
      - {op: replace, path: /spec/tls/0/hosts/0, value: "*.example.org"}
""",
    "two-servers": "namespace: ours\n" + PLAIN + """
patches:
  - target: {kind: Deployment, name: kimi-k2-llamacpp}
    patch: |
      - {op: replace, path: /spec/replicas, value: 2}
  - target: {kind: PersistentVolumeClaim, name: kimi-k2-gguf-cache}
    patch: |
      - {op: replace, path: /spec/accessModes, value: [ReadWriteMany]}
""",
    "traefik": "namespace: ours\n" + PLAIN + """
patches:
  - target: {kind: Ingress}
    patch: |
      - {op: remove, path: /metadata/annotations}
      - {op: replace, path: /spec/ingressClassName, value: traefik}
      - {op: remove, path: /spec/rules/0/host}
      - {op: replace, path: /spec/tls, value: [{secretName: default}]}
""",
    "node-port": "namespace: ours\nresources: [../../base, public.yaml]\ncomponents: [../../components/fixed-uid]\n",
    "prometheus-elsewhere": "namespace: %s\nresources: [../kubernetes-kimi-k2-t4]\n" % NAMESPACE + """
labels: [{pairs: {release: kube-prometheus-stack}}]
patches:
  - target: {kind: NetworkPolicy, name: .*-monitoring}
    patch: |
      - op: replace
        path: /spec/ingress/0/from
        value: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: prometheus}},
                 podSelector: {matchLabels: {app.kubernetes.io/name: prometheus}}}]
""",
}
PUBLIC = """
apiVersion: v1
kind: Service
metadata: {name: public}
spec: {type: NodePort, selector: {app: kimi-k2-gateway}, ports: [{name: https, port: 443, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: public}
spec:
  podSelector: {matchLabels: {app: kimi-k2-gateway}}
  policyTypes: [Ingress]
  ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 8080}]}]
"""


class PeoplesOwnOverlays(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(ROOT / "manifests", Path(folder) / "manifests")
            cls.documented = dict(cls.in_documents())
            for name, text in dict(OWN, **cls.documented).items():
                place = Path(folder) / "manifests/overlays" / name
                place.mkdir()
                (place / "kustomization.yaml").write_text(HEAD + text)
                (place / "public.yaml").write_text(PUBLIC)
            cls.overlays = {overlay.name: overlay for overlay in command.load([Path(folder) / "manifests/overlays"])}

    @staticmethod
    def in_documents():
        """(name, text) of each whole overlay, and of the patches that make one of another card of it."""
        patches = "namespace: %s\nresources: [../openshift-gpt-oss-20b-t4]\n" % NAMESPACE
        for page in ("docs/manifests.md", "docs/customisation.md", "docs/alerts.md"):
            for block in re.findall(r"^```yaml\n(.*?)^```", PROJECT.read(page), re.DOTALL | re.MULTILINE):
                whole = re.match(r"# manifests/overlays/([\w-]+)/kustomization.yaml\n" + HEAD, block)
                if whole:
                    yield "documented-" + whole.group(1), block[whole.end():]
                elif "CUDA_ARCHITECTURES" in block:
                    yield "documented-card", patches + block

    def test_have_no_fault(self):
        for name in OWN:
            with self.subTest(overlay=name):
                self.assertEqual(set(), set(core.run(self.overlays[name], PROJECT)))

    def test_those_in_documents_have_no_fault_either(self):
        self.assertIn("documented-card", self.documented)
        self.assertGreaterEqual(len(self.documented), 3, "docs/manifests.md and docs/customisation.md have one each")
        schemas = manifests.own_schemas()
        for name in self.documented:
            with self.subTest(overlay=name):
                self.assertEqual(set(), set(core.run(self.overlays[name], PROJECT)))
                for thing in self.overlays[name].objects:
                    self.assertEqual([], manifests.against_schemas(thing, schemas))

    def test_the_alert_that_names_a_namespace_is_told(self):
        overlay = core.Overlay("x", [dict(thing) for thing in GOOD[INGRESS].objects])
        for thing in overlay.objects:
            thing["metadata"] = dict(thing["metadata"], namespace="ours")
        overlay = core.Overlay("x", [thing for thing in overlay.objects if thing["kind"] != "Namespace"])
        self.assertEqual({"target-name"}, {fault.rule for fault in core.run(overlay, PROJECT)})


class TheTablesOfAlerts(unittest.TestCase):
    """docs/alerts.md tells of each alert and of each recorded series, and of no other."""
    entries = [entry for path in sorted((ROOT / "manifests/components/monitoring").glob("*.yaml"))
               for thing in yaml.safe_load_all(path.read_text()) for group in core.dig(thing, "spec.groups", [])
               for entry in group["rules"]]

    def test_all_alerts_are_there_with_their_severities(self):
        severities = {}
        for entry in self.entries:
            if "alert" in entry:
                severities.setdefault(entry["alert"], set()).add(entry["labels"]["severity"])
        told = re.findall(r"^\| \[(\w+)\]\(TROUBLESHOOTING\.md#\w+\) \| ([\w, ]+) \|", PROJECT.read("docs/alerts.md"),
                          re.MULTILINE)
        self.assertEqual(severities, {name: set(text.split(", ")) for name, text in told})

    def test_all_recorded_series_are_there_with_their_labels(self):
        series = monitoring.Series(GOOD[OPENSHIFT], PROJECT)
        recorded = {entry["record"]: series.labels(entry["record"]) - {"namespace"}
                    for entry in self.entries if "record" in entry}
        told = {}
        for names, labels in re.findall(r"^\| (`llama_gateway:.*?) \| (.*?) ?\| ", PROJECT.read("docs/alerts.md"),
                                        re.MULTILINE):
            first, *others = re.findall(r"`([\w:]+)`", names)
            told[first] = set(re.findall(r"`(\w+)`", labels))
            for other in others:  # whole, or what is other: the operation, or its window
                name = (first.rpartition(":")[0] + other if other.startswith(":") else
                        other if ":" in other else first[:-len("5m")] + other)
                told[name] = told[first]
        self.assertEqual(recorded, told)


class WhatTheProjectMustHave(unittest.TestCase):
    def test_a_file_that_is_gone_or_has_another_form_is_an_error_not_an_empty_list(self):
        with tempfile.TemporaryDirectory() as folder:
            project = Project(folder)
            with self.assertRaisesRegex(ProjectError, "No such file .*\nhint: "):
                list(core.run(GOOD[OPENSHIFT], project))
            for file, name in (("docs/metrics.md", "metrics"), ("docs/configuration.md", "settings"),
                               ("Cargo.toml", "version"), ("gateway/src/server/drain.rs", "last_words"),
                               ("server-image/entrypoint.sh", "parameters"), ("gateway/src/metrics.rs", "buckets"),
                               ("gateway/src/error.rs", "label_values"),
                               ("server-image/model-fetcher/src/parameters.rs", "fetcher_parameters")):
                (Path(folder) / file).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / file).write_text("another form\n")
                with self.assertRaisesRegex(ProjectError, "%s: nothing in it looks like .*\nhint: " % file):
                    getattr(project, name)


class Units(unittest.TestCase):
    def test_quantities(self):
        for text, value in (("128Gi", 128 * 2 ** 30), ("500m", units.Decimal("0.5")), ("1e3", 1000), ("8", 8), (4, 4),
                            ("128GiB", None), ("1 Gi", None), ("", None), ("64gb", None), (None, None)):
            self.assertEqual(value, units.quantity(text), text)

    def test_durations(self):
        for function, good, bad in (
                (units.router_seconds, {"7260s": 7260, "2h": 7200, "1d": 86400, "500": 0.5},
                 ("30min", "0s", "1h30m", "", "-1s", "1.5h")),
                (units.nginx_seconds, {"3600": 3600}, ("1h", "60s", "", "0")),
                (units.nginx_bytes, {"16m": 16 * 2 ** 20, "1G": 2 ** 30, "0": float("inf")}, ("1mb", "", "-1")),
                (units.gateway_api_seconds, {"2h1m": 7260, "7260s": 7260, "1ms": 0.001, "0s": float("inf")},
                 ("1d", "123456s", "1h2h3h4h5h", "", "1.5h")),
                (units.prometheus_seconds, {"30s": 30, "1h30m": 5400, "1d": 86400}, ("15", "30min", "", None, "1m1h")),
                (units.setting_seconds, {"2h 30m": 9000, "1500ms": 1.5, "90s": 90}, ("2", "", "h", 7200))):
            for text, seconds in good.items():
                self.assertEqual(seconds, function(text), "%s %r" % (function.__name__, text))
            for text in bad:
                self.assertIsNone(function(text), "%s %r" % (function.__name__, text))

    def test_settings_and_lines_that_are_none(self):
        text = '''# a
[server] # b
listen = "0.0.0.0:1#" # c
[a.b]
x = [
  "1", # [
  '2"',
]
y = 3
z = 'C:\\d'
v
w = 1 2
"q" = 1
t = """
open = [
'''
        self.assertEqual(({"server.listen": "0.0.0.0:1#", "a.b.x": ["1", '2"'], "a.b.y": 3, "a.b.z": "C:\\d"},
                          [11, 12, 13, 14, 15]), parse_settings(text))


class TheCommand(unittest.TestCase):
    def run_it(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = command.main(list(map(str, arguments)))
        return code, out.getvalue(), err.getvalue()

    def test_tells_a_fault_with_overlay_object_path_and_hint_and_fails(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / (OPENSHIFT + ".yaml")
            broken = Set(GOOD[OPENSHIFT])
            broken.of("Route")["metadata"]["annotations"][ROUTER + "timeout"] = "30min"
            file.write_text(yaml.safe_dump_all(broken.objects))
            code, out, _ = self.run_it(file)
        self.assertEqual(1, code)
        self.assertIn("openshift-kimi-k2-t4: Route/kimi-k2-llamacpp metadata.annotations[%stimeout]: the router drops "
                      "'30min' [route-timeout]\n    hint: write a whole number" % ROUTER, out)

    def test_tells_what_overlays_share_once(self):
        fault = core.Fault("rule", "a", "Service/x", "spec", "is wrong", "correct it")
        self.assertEqual(["a, b: Service/x spec: is wrong [rule]", "    hint: correct it"],
                         list(command.told([fault, fault._replace(overlay="b")])))

    def test_refuses_what_cannot_be_rendered(self):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "broken").mkdir()
            (root / "broken/kustomization.yaml").write_text("resources: [missing.yaml]\n")
            (root / "a.yaml").write_text("a: [\n")
            (root / "b.yaml").write_text("kind: ConfigMap\nmetadata: {name: x}\n")
            for path, text in ((root / "none", "has no kustomization.yaml"), (root / "broken", "missing.yaml"),
                               (root / "a.yaml", "it must be YAML"), (root / "b.yaml", "holds no objects")):
                code, _, err = self.run_it(path)
                self.assertEqual(2, code, path)
                self.assertIn(text, err)
                self.assertIn("hint: ", err)

    def test_says_that_kubectl_is_missing(self):
        with mock.patch.object(subprocess, "run", side_effect=FileNotFoundError):
            code, _, err = self.run_it()
        self.assertEqual(2, code)
        self.assertIn("kubectl is not there\nhint: ", err)

    def test_is_a_program(self):
        done = subprocess.run([str(ROOT / "scripts/lint-manifests"), "/nonexistent"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, universal_newlines=True, check=False)
        self.assertEqual((2, ""), (done.returncode, done.stdout))
        self.assertIn("hint: ", done.stderr)


if __name__ == "__main__":
    unittest.main()
