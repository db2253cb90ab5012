"""What the rules work on: the objects of one overlay, and how a fault is told.

A rule is a function that takes an `Overlay` and the `Project` and yields faults. Each module of rules registers its own
with `@rule`; a rule about files, not about objects, is registered with `@tree_rule` and takes the `Project` alone.
"""
from collections import namedtuple

# The names that every overlay shares: those of the place, not of the model.
GATEWAY = "kimi-k2-gateway"
SERVER = "kimi-k2-llamacpp"
GPU = "nvidia.com/gpu"
OPENSHIFT_GROUPS = ("route.openshift.io/", "build.openshift.io/", "image.openshift.io/")

Fault = namedtuple("Fault", "rule overlay subject path what hint")
RULES = {}
TREE_RULES = {}


def rule(identifier):
    """Registers a rule about the objects of an overlay: f(overlay, project) yields fault(...)."""
    return _registrar(RULES, identifier)


def tree_rule(identifier):
    """Registers a rule about the files: f(project) yields fault(...), with a file's name for the subject."""
    return _registrar(TREE_RULES, identifier)


def _registrar(rules, identifier):
    def register(function):
        if identifier in RULES or identifier in TREE_RULES:
            raise ValueError("two rules are called " + identifier)
        rules[identifier] = function
        return function
    return register


def fault(subject, path, what, hint):
    """A fault of an object (or a file), without the names of rule and overlay, which `run` knows."""
    if isinstance(subject, dict):
        subject = "%s/%s" % (subject.get("kind"), name_of(subject))
    return Fault(None, None, subject, path, what, hint)


def run(overlay, project):
    """All faults of an overlay."""
    for identifier, function in RULES.items():
        try:
            for found in function(overlay, project):
                yield found._replace(rule=identifier, overlay=overlay.name)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # A value of a type that the rule does not expect: the schemas say where it is.
            what = "cannot be read: %s: %s" % (type(error).__name__, error)
            yield Fault(identifier, overlay.name, "overlay", "", what,
                        "run scripts/manifests: it names the field whose type is wrong")


def run_tree(project):
    """All faults of the files."""
    for identifier, function in TREE_RULES.items():
        for found in function(project):
            yield found._replace(rule=identifier, overlay="files")


def dig(value, path, default=None):
    """The value below a dotted path of mappings; the default where anything on the way is missing."""
    for key in path.split("."):
        if not isinstance(value, dict):
            return default
        value = value.get(key)
    return default if value is None else value


def name_of(thing):
    return dig(thing, "metadata.name", "")


def annotations_of(thing):
    return dig(thing, "metadata.annotations", {})


def labels_of(thing):
    return dig(thing, "metadata.labels", {})


def matches(selector, labels):
    """Whether a label selector selects these labels."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or []:
        key, values = expression["key"], expression.get("values") or []
        if not {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[expression["operator"]]:
            return False
    return True


def strings(value, path=""):
    """Every string below a value, keys included, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield path, str(key)
            yield from strings(inner, "%s.%s" % (path, key) if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from strings(inner, "%s[%d]" % (path, index))


class Container:
    """One container of a pod template."""

    def __init__(self, raw, path, init):
        self.raw, self.path, self.init = raw, path, init
        self.name = raw.get("name", "")

    def env(self):
        """The variables that are set here, by name; None for those that come from elsewhere."""
        return {entry["name"]: entry.get("value") for entry in self.raw.get("env") or []}

    def probes(self):
        """(name of the field, probe) for each."""
        for field in ("startupProbe", "readinessProbe", "livenessProbe"):
            if self.raw.get(field):
                yield field, self.raw[field]


class Pod:
    """The pod template of a workload."""

    path = "spec.template.spec"

    def __init__(self, owner):
        self.owner = owner
        self.labels = dig(owner, "spec.template.metadata.labels", {})
        self.spec = dig(owner, "spec.template.spec", {})
        self.containers = [
            Container(raw, "%s.%s[%s]" % (self.path, field, raw.get("name")), field == "initContainers")
            for field in ("initContainers", "containers") for raw in self.spec.get(field) or []
        ]
        self.main = [container for container in self.containers if not container.init]

    def ports(self, name):
        """How others can call the port of this name: by it or by its number."""
        return {value for container in self.main for entry in container.raw.get("ports") or []
                if entry.get("name") == name for value in (name, entry.get("containerPort"))}

    def has_port(self, port):
        """Whether a container has this port, by name or by number."""
        return any(port in (entry.get("name"), entry.get("containerPort"))
                   for container in self.main for entry in container.raw.get("ports") or [])


class Overlay:
    """The rendered objects of one overlay, whatever its name is: people have overlays of their own."""

    def __init__(self, name, objects):
        self.name, self.objects = name, objects
        self.pods = [Pod(thing) for thing in objects if dig(thing, "spec.template.spec")]
        self.namespace = next((dig(pod.owner, "metadata.namespace") for pod in self.pods), None)
        self.openshift = any(str(thing.get("apiVersion")).startswith(OPENSHIFT_GROUPS) for thing in objects)
        self.t4 = name.endswith("-t4")
        self.gpu = self.t4 or any(GPU in dig(container.raw, "resources.limits", {})
                                  for pod in self.pods for container in pod.containers)

    def of(self, *kinds):
        return [thing for thing in self.objects if thing.get("kind") in kinds]

    def get(self, kind, name):
        return next((thing for thing in self.of(kind) if name_of(thing) == name), None)

    def pod(self, name):
        """The pod template of the workload of this name; None if there is no such workload."""
        return next((pod for pod in self.pods if name_of(pod.owner) == name), None)

    def containers(self):
        """(pod, container) for each container, init containers included."""
        return [(pod, container) for pod in self.pods for container in pod.containers]

    def pods_of(self, selector):
        """The pods that a selector (matchLabels, matchExpressions) selects."""
        return [pod for pod in self.pods if matches(selector, pod.labels)]

    def selects_builds(self, selector):
        """Whether a selector means the pods in which OpenShift builds the images: they are in no set."""
        return bool(self.of("BuildConfig")) and matches(selector, {"openshift.io/build.name": "any"})

    def pods_of_service(self, service):
        selector = dig(service, "spec.selector")
        return self.pods_of({"matchLabels": selector}) if selector else []
