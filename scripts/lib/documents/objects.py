"""Commands for the cluster name objects, containers, labels and namespaces that the manifests have."""
import re

from .commands import all_commands
from .project import PROGRAMS

KINDS = {
    "Deployment": "deploy deployment deployments", "Service": "svc service services", "ConfigMap": "cm configmap",
    "Secret": "secret secrets", "PersistentVolumeClaim": "pvc persistentvolumeclaim", "Route": "route routes",
    "ServiceAccount": "sa serviceaccount", "NetworkPolicy": "netpol networkpolicy", "Ingress": "ingress ing",
    "PodDisruptionBudget": "pdb poddisruptionbudget", "ImageStream": "is imagestream", "HTTPRoute": "httproute",
    "BuildConfig": "bc buildconfig", "ServiceMonitor": "servicemonitor", "PrometheusRule": "prometheusrule",
    "Namespace": "ns namespace project",
}
KIND_OF = {alias: kind for kind, aliases in KINDS.items() for alias in aliases.split()}
WITH_VALUE = set("-n --namespace -l --selector -o --output -c --container -f --filename -k --kustomize -p --patch "
                 "--type --tail --since --timeout --for --from-file --from-literal --from-dir --field-selector "
                 "--sort-by --as --context --image --replicas --keys --to --dry-run".split())
# Namespaces of others: what lies there is not ours to know.
FOREIGN = re.compile(r"^(openshift(-.*)?|kube-.*|.*gpu-operator.*|default|ingress-nginx|monitoring)$")
VERBS = set("adm annotate api-resources apply auth cluster-info cp create debug delete describe diff drain edit events "
            "exec explain expose extract get import-image kustomize label login logs new-project patch port-forward "
            "process project projects rollout rsh run scale set start-build status tag taint top uncordon version wait "
            "whoami config".split())


def objects(project, document):
    """What `oc` and `kubectl` are told to touch exists."""
    known = Known(project)
    for line, words in all_commands(document):
        if words[0] in ("oc", "kubectl"):
            yield from ((line, fault) for fault in known.faults(words[1:]))


class Known:
    """Names in the manifests, by kind."""

    def __init__(self, project):
        self.root = project.root
        self.names, self.namespaces, self.containers, self.apps = {}, set(), set(), set()
        self.without_shell = set()  # containers of the gateway's image, and Deployments whose main one is
        for item in project.manifests():
            kind, metadata = item.get("kind"), item.get("metadata") or {}
            self.names.setdefault(kind, set()).add(metadata.get("name"))
            if kind == "Namespace":
                self.namespaces.add(metadata.get("name"))
            if kind == "Deployment":
                pod = item["spec"]["template"]
                self.apps.add((pod.get("metadata") or {}).get("labels", {}).get("app"))
                for group in ("initContainers", "containers"):
                    for one in pod["spec"].get(group) or []:
                        self.containers.add(one["name"])
                        if str(one.get("image")).startswith("kimi-k2-gateway"):
                            self.without_shell.update({one["name"]} if group == "initContainers"
                                                      else {one["name"], metadata.get("name")})

    def faults(self, words):
        """What is wrong with the words after `oc` or `kubectl`."""
        inside = []
        if "--" in words:
            words, inside = words[: words.index("--")], words[words.index("--") + 1:]
        plain, values = _apart(words)
        found = [f"-n {name}: no such namespace in the manifests" for flag, name in values
                 if flag in ("-n", "--namespace") and not FOREIGN.match(name) and not self._is(name, self.namespaces)]
        if any(flag in ("-n", "--namespace") and FOREIGN.match(name) for flag, name in values):
            return found
        for flag, value in values:
            found += self._value(flag, value)
        if plain and plain[0] not in VERBS:
            found.append(f"oc and kubectl have no command {plain[0]}")
        return found + self._named(plain) + self._inside(plain, dict(values), inside)

    def _inside(self, plain, values, inside):
        """The gateway's image has its programs only: no shell, no ls."""
        target = values.get("-c") or values.get("--container") or (plain[1].rpartition("/")[2] if plain[1:] else "")
        if plain[:1] not in (["exec"], ["rsh"]) or target not in self.without_shell:
            return []
        program = inside[0].rpartition("/")[2] if inside else "shell"
        return [] if program in PROGRAMS else [f"the image of {target} has no {program}"]

    def _value(self, flag, value):
        if flag in ("-c", "--container") and not self._is(value, self.containers):
            return [f"no pod of the manifests has a container {value}"]
        if flag in ("-l", "--selector"):
            return [f"no pod of the manifests has the label app={app}" for app in re.findall(r"\bapp=([\w-]+)", value)
                    if not self._is(app, self.apps)]
        if flag in ("-k", "--kustomize", "-f", "--filename") and re.match(r"^[\w./-]*[\w/]$", value):
            # A part in capitals stands for any name.
            pattern = re.sub(r"(?<![^/])[A-Z]+(?![^/])", "*", value)
            return [] if any(self.root.glob(pattern)) else [f"{flag} {value}: there is no such file"]
        return []

    def _named(self, plain):
        found, verb = [], plain[0] if plain else ""
        if verb in ("auth", "api-resources", "explain", "adm", "label", "login", "version"):
            return found
        if verb == "start-build" and len(plain) > 1:
            found += self._check("BuildConfig", plain[1])
        for at, word in enumerate(plain[1:], 1):
            kind, slash, name = word.partition("/")
            if slash and kind.split(".")[0].lower() in KIND_OF:
                found += self._check(KIND_OF[kind.split(".")[0].lower()], name)
            elif word.lower() in KIND_OF and at + 1 < len(plain) and "/" not in plain[at + 1]:
                if plain[at + 1] not in ("generic", "tls", "docker-registry"):
                    found += self._check(KIND_OF[word.lower()], plain[at + 1])
                elif at + 2 < len(plain):
                    found += self._check(KIND_OF[word.lower()], plain[at + 2])
        if verb == "project" and len(plain) > 1:
            found += self._check("Namespace", plain[1])
        return found

    def _check(self, kind, name):
        if not re.match(r"^[a-z0-9]", name) or FOREIGN.match(name) or self._is(name, self.names.get(kind, set())):
            return []
        return [f"the manifests have no {kind} {name}"]

    @staticmethod
    def _is(name, known):
        # A shell variable or an upper-case placeholder stands for any of them.
        return name in known or name.startswith("$") or name.isupper()


def _apart(words):
    """Words that are no options, and options with their values."""
    plain, values, flag = [], [], None
    for word in words:
        if word == "-f" and plain[:1] == ["logs"]:
            continue  # --follow
        if flag:
            values.append((flag, word))
            flag = None
        elif word.startswith("-") and word != "-":
            name, equals, value = word.partition("=")
            if equals:
                values.append((name, value))
            elif name in WITH_VALUE:
                flag = name
        else:
            plain.append(word)
    return plain, values
