"""Rules about the gateway's configuration, and about the parameters of llama-server."""
import re

from .core import GATEWAY, SERVER, dig, fault, rule
from .project import TUNED, parse_settings
from .storage import files_of
from .units import setting_seconds

TOKEN_FILE = "/run/secrets/huggingface/HF_TOKEN"  # where model-fetcher looks unless it is told otherwise
CONFIG_MAP, FILE = GATEWAY + "-config", "gateway.toml"
PARAMETERS_MAP = SERVER + "-config"


def container_env(overlay, container):
    """The environment of a container: its ConfigMaps, then its own variables."""
    found = {}
    for entry in container.raw.get("envFrom") or []:
        thing = overlay.get("ConfigMap", dig(entry, "configMapRef.name", ""))
        found.update(dig(thing, "data", {}) if thing else {})
    found.update({name: value for name, value in container.env().items() if value is not None})
    # What is no string is told by string-map.
    return {name: str(value) for name, value in found.items()}


def parameters_of(overlay, container, project):
    """The parameters of a container of llama-server's pod; what is empty has its default."""
    given = {name: value for name, value in container_env(overlay, container).items() if value}
    return dict(project.parameters, **given)


class Settings:
    """The gateway's settings as it will see them: defaults, file, environment."""

    def __init__(self, overlay, project):
        self.project = project
        text = dig(overlay.get("ConfigMap", CONFIG_MAP) or {}, "data", {}).get(FILE, "")
        self.file, self.strange = parse_settings(text)
        self.pod = overlay.pod(GATEWAY)
        self.container = self.pod.main[0] if self.pod and self.pod.main else None
        self.env = container_env(overlay, self.container) if self.container else {}

    def value(self, key):
        setting = self.project.settings[key]
        if setting.variable in self.env:
            return self.env[setting.variable]
        return self.file.get(key, setting.default.strip('"'))

    def seconds(self, key):
        seconds = setting_seconds(self.value(key))
        if seconds is None:
            # settings-file tells it.
            seconds = setting_seconds(self.project.settings[key].default.strip('"'))
        return seconds


@rule("settings-file")
def settings_file(overlay, project):
    """What is not read here is taken for its default. Whether it is right, scripts/manifests asks the gateway."""
    thing = overlay.get("ConfigMap", CONFIG_MAP)
    path = "data[%s]" % FILE
    if not thing or FILE not in dig(thing, "data", {}):
        yield fault(thing or "ConfigMap/" + CONFIG_MAP, path, "there is no such file", "add it, it may be empty")
        return
    settings = Settings(overlay, project)
    for line in settings.strange:
        yield fault(thing, path, "line %d is not understood" % line,
                    "write tables, and keys with texts, numbers or lists, as scripts/lib/lint/project.py reads")
    for key in ("timeouts.total", "server.drain_grace"):
        if setting_seconds(settings.value(key)) is None:
            yield fault(thing, path, "%s: %r is no duration" % (key, settings.value(key)),
                        'write it like "2h" or "90s"')


@rule("listen-address")
def listen_address(overlay, project):
    """The default listens on 127.0.0.1, where neither probe nor Service can reach it."""
    settings = Settings(overlay, project)
    if not settings.container:
        return
    ports = {entry.get("name"): entry.get("containerPort") for entry in settings.container.raw.get("ports") or []}
    for key, name in (("server.listen", "http"), ("server.admin_listen", "admin")):
        address = str(settings.value(key))
        if address not in ("0.0.0.0:%s" % ports.get(name), "[::]:%s" % ports.get(name)):
            yield fault(settings.pod.owner, settings.container.path + ".ports[%s]" % name,
                        "%s is %s, the container's port %s" % (key, address, ports.get(name)),
                        'set %s = "0.0.0.0:%s" in %s' % (key, ports.get(name), FILE))


@rule("upstream-url")
def upstream_url(overlay, project):
    """dns:// asks for all addresses of a name: only a headless Service tells those of the pods."""
    settings = Settings(overlay, project)
    urls = settings.value("upstream.urls")
    urls = urls if isinstance(urls, list) else str(urls).strip("[]").replace('"', "").split(",")
    for url in urls:
        match = re.fullmatch(r"(dns|http)://([\w-]+)[\w.-]*:(\d+)/?", url.strip())
        service = match and overlay.get("Service", match.group(2))
        subject = overlay.get("ConfigMap", CONFIG_MAP) or CONFIG_MAP
        if not service:
            yield fault(subject, "data[%s]" % FILE, "upstream.urls: %r names no Service of this set" % url,
                        "use dns://%s:8001" % SERVER)
        elif dig(service, "spec.publishNotReadyAddresses"):
            yield fault(service, "spec.publishNotReadyAddresses", "names pods that load or end", "remove it")
        elif match.group(1) == "dns" and dig(service, "spec.clusterIP") != "None":
            yield fault(service, "spec.clusterIP", "is not None, but the gateway looks for its pods by DNS",
                        "set clusterIP: None")
        # Behind a headless Service there is nobody who translates ports.
        elif not any(pod.has_port(int(match.group(3))) for pod in overlay.pods_of_service(service)):
            yield fault(subject, "data[%s]" % FILE, "upstream.urls: the pods have no port %s" % match.group(3),
                        "use the containerPort of llama-server")


@rule("mounted-file")
def mounted_file(overlay, project):
    """Files that the gateway or llama-server is told of must be mounted where they say."""
    settings = Settings(overlay, project)
    if settings.container:
        for key in ("upstream.api_key_file", "admin.key_file", "keys.file"):
            path = settings.value(key)
            if path and not _mounted(overlay, settings.pod, settings.container, path):
                yield fault(settings.pod.owner, settings.container.path + ".volumeMounts",
                            "%s is %s, which no volume has" % (key, path), "mount the Secret there")
        words = settings.container.raw.get("args") or []
        for option, path in zip(words, words[1:]):
            if option == "--config" and not _mounted(overlay, settings.pod, settings.container, path):
                yield fault(settings.pod.owner, settings.container.path + ".args", "no volume has %s" % path,
                            "mount the ConfigMap %s there" % CONFIG_MAP)
        if not _mounted(overlay, settings.pod, settings.container, str(settings.value("server.data_dir")) + "/x"):
            yield fault(settings.pod.owner, settings.container.path + ".volumeMounts",
                        "server.data_dir is %s, which no volume has" % settings.value("server.data_dir"),
                        "mount the claim there: keys and ledger would go with the pod")
    pod = overlay.pod(SERVER)
    for container in pod.containers if pod else []:
        environment = parameters_of(overlay, container, project)
        files = {"MODELS_DIR": environment["MODELS_DIR"] + "/x"}
        if not container.init and environment["API_KEY_FILE"] != "none":
            files["API_KEY_FILE"] = environment["API_KEY_FILE"]
        elif container.init:
            files["HF_TOKEN_FILE"] = environment.get("HF_TOKEN_FILE", TOKEN_FILE)
        for name, path in files.items():
            if not _mounted(overlay, pod, container, path):
                yield fault(pod.owner, container.path + ".volumeMounts", "%s is %s, which no volume has"
                            % (name, environment.get(name, path)), "mount the Secret or the claim there")


def _mounted(overlay, pod, container, path):
    volumes = {volume.get("name"): volume for volume in pod.spec.get("volumes") or []}
    for mount in container.raw.get("volumeMounts") or []:
        place = mount["mountPath"].rstrip("/")
        if path == place and mount.get("subPath"):
            return True
        if path.startswith(place + "/") and place != "/tmp":
            files = files_of(overlay, volumes.get(mount["name"], {}))
            return files is None or path[len(place) + 1:] in files
    return False


@rule("server-port")
def server_port(overlay, project):
    """llama-server listens where its parameter says, and is sought where its container does."""
    pod = overlay.pod(SERVER)
    for container in pod.main if pod else []:
        port = parameters_of(overlay, container, project)["PORT"]
        if not pod.has_port(int(port)):
            yield fault(pod.owner, container.path + ".ports", "PORT is %s, which is no port of the container" % port,
                        "give both the same number")


@rule("same-upstream-key")
def same_upstream_key(overlay, project):
    """Either both know the key of llama-server, or neither."""
    settings, pod = Settings(overlay, project), overlay.pod(SERVER)
    for container in pod.main if pod else []:
        path = parameters_of(overlay, container, project)["API_KEY_FILE"]
        if (path != "none") != bool(settings.value("upstream.api_key_file")):
            yield fault(pod.owner, container.path, "API_KEY_FILE is %s, the gateway's upstream.api_key_file %r"
                        % (path, settings.value("upstream.api_key_file")), "give the key to both")


@rule("parameter-name")
def parameter_name(overlay, project):
    """A parameter that nobody reads or gets does nothing; one that is not in the file is not found."""
    thing = overlay.get("ConfigMap", PARAMETERS_MAP)
    if not thing:
        yield fault("ConfigMap/" + PARAMETERS_MAP, "data", "is missing", "add it")
        return
    known = set(project.parameters) | set(project.fetcher_parameters)
    for name in dig(thing, "data", {}):
        if name not in known:
            yield fault(thing, "data[%s]" % name, "neither entrypoint.sh nor model-fetcher knows it",
                        "docs/llama-server.md and docs/model-fetcher.md have the parameters")
    for name in sorted(TUNED - set(dig(thing, "data", {}))):
        yield fault(thing, "data[%s]" % name, "is missing: who tunes the server looks here", "add it with its default")
    pod = overlay.pod(SERVER)
    for container in pod.containers if pod else []:
        if not container_env(overlay, container).get("MODEL_REPO"):
            yield fault(pod.owner, container.path + ".envFrom", "the container does not get the parameters",
                        "take them from the ConfigMap %s" % PARAMETERS_MAP)
