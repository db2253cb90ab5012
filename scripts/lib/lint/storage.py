"""Rules about volumes, and about keys of ConfigMaps and Secrets."""
from .core import dig, fault, name_of, rule

# The Secrets that scripts/deploy.sh makes, and their keys.
SECRETS = {
    "huggingface-token": {"HF_TOKEN"},
    "kimi-k2-upstream-key": {"api-key"},
    "kimi-k2-gateway-admin-key": {"key"},
}
# Made only if there is a token: most repositories are public.
OPTIONAL_SECRETS = {"huggingface-token"}


def sources(pod):
    """(path, "secret" or "configMap", its name, keys that are named, whether it is optional) for each that pods use."""
    for volume in pod.spec.get("volumes") or []:
        path = "%s.volumes[%s]" % (pod.path, volume.get("name"))
        entries = [volume] + dig(volume, "projected.sources", [])
        for field, name_field in (("secret", "secretName"), ("configMap", "name")):
            for entry in entries:
                source = entry.get(field)
                if source:
                    name = source.get(name_field) or source.get("name")
                    keys = [item.get("key") for item in source.get("items") or []]
                    yield path, field, name, keys, source.get("optional", False)
    for container in pod.containers:
        for entry in container.raw.get("envFrom") or []:
            for field, kind in (("secretRef", "secret"), ("configMapRef", "configMap")):
                if entry.get(field):
                    yield (container.path + ".envFrom", kind, entry[field].get("name"), [],
                           entry[field].get("optional", False))
        for entry in container.raw.get("env") or []:
            for field, kind in (("secretKeyRef", "secret"), ("configMapKeyRef", "configMap")):
                source = dig(entry, "valueFrom." + field)
                if source:
                    yield ("%s.env[%s]" % (container.path, entry.get("name")), kind, source.get("name"),
                           [source.get("key")], source.get("optional", False))


def keys_of(overlay, kind, name):
    """The keys of a ConfigMap or a known Secret; None if there is no such one."""
    if kind == "secret":
        return SECRETS.get(name)
    found = overlay.get("ConfigMap", name)
    return None if found is None else set(dig(found, "data", {})) | set(dig(found, "binaryData", {}))


@rule("config-map")
def config_map(overlay, project):
    """A pod whose ConfigMap is missing waits in CreateContainerConfigError for ever."""
    yield from _unknown(overlay, "configMap", "ConfigMap", "name one of this set")


@rule("secret-name")
def secret_name(overlay, project):
    """Secrets are not in the set: only those can be meant that scripts/deploy.sh makes."""
    yield from _unknown(overlay, "secret", "Secret", "scripts/deploy.sh makes %s; one of yours: add it to SECRETS in "
                        "scripts/lib/lint/storage.py" % ", ".join(sorted(SECRETS)))


def _unknown(overlay, wanted, shown, hint):
    for pod in overlay.pods:
        for path, kind, name, keys, _ in sources(pod):
            if kind != wanted:
                continue
            known = keys_of(overlay, kind, name)
            if known is None:
                yield fault(pod.owner, path, "there is no %s %r" % (shown, name), hint)
            for key in keys:
                if known is not None and key not in known:
                    yield fault(pod.owner, path, "%s %s has no key %r" % (shown, name, key),
                                "its keys are %s" % ", ".join(sorted(known)))


@rule("optional-secret")
def optional_secret(overlay, project):
    """A pod must start without the token of Hugging Face, and must not start without the other keys."""
    for pod in overlay.pods:
        for path, kind, name, _, optional in sources(pod):
            if kind == "secret" and name in SECRETS and optional != (name in OPTIONAL_SECRETS):
                yield fault(pod.owner, path, "Secret %s is %s" % (name, "optional" if optional else "required"),
                            "set optional: %s" % ("true" if name in OPTIONAL_SECRETS else "false"))


@rule("claim")
def claim(overlay, project):
    """A pod whose claim does not exist stays Pending."""
    for pod in overlay.pods:
        for volume in pod.spec.get("volumes") or []:
            name = dig(volume, "persistentVolumeClaim.claimName")
            if name and not overlay.get("PersistentVolumeClaim", name):
                yield fault(pod.owner, "%s.volumes[%s]" % (pod.path, volume.get("name")),
                            "there is no PersistentVolumeClaim %r" % name, "name one of this set")


@rule("volume")
def volume_mounts(overlay, project):
    """Every mount has a volume, every volume a mount and a source, every directory one mount."""
    for pod in overlay.pods:
        volumes = {volume.get("name") for volume in pod.spec.get("volumes") or []}
        mounted = set()
        for container in pod.containers:
            places = set()
            for mount in container.raw.get("volumeMounts") or []:
                mounted.add(mount["name"])
                if mount["name"] not in volumes:
                    yield fault(pod.owner, container.path + ".volumeMounts", "there is no volume %r" % mount["name"],
                                "add it to the pod's volumes")
                if mount["mountPath"] in places:
                    yield fault(pod.owner, container.path + ".volumeMounts", "two mounts at %s" % mount["mountPath"],
                                "remove one")
                places.add(mount["mountPath"])
        for volume in pod.spec.get("volumes") or []:
            if set(volume) <= {"name"}:
                yield fault(pod.owner, "%s.volumes[%s]" % (pod.path, volume.get("name")), "has no source",
                            "name a claim, ConfigMap or Secret, or make it emptyDir: {}")
        for name in sorted(volumes - mounted):
            yield fault(pod.owner, "%s.volumes[%s]" % (pod.path, name), "no container mounts it", "remove it")


@rule("tmp")
def tmp(overlay, project):
    """Both programs and the scripts around them write to /tmp, and the root is read-only."""
    for pod, container in overlay.containers():
        if not any(mount["mountPath"].rstrip("/") == "/tmp" and not mount.get("readOnly")
                   for mount in container.raw.get("volumeMounts") or []):
            yield fault(pod.owner, container.path + ".volumeMounts", "/tmp cannot be written",
                        "mount an emptyDir there")


@rule("sub-path")
def sub_path(overlay, project):
    """A subPath that names no key of its ConfigMap or Secret becomes an empty directory."""
    for pod in overlay.pods:
        volumes = {volume.get("name"): volume for volume in pod.spec.get("volumes") or []}
        for container in pod.containers:
            for mount in container.raw.get("volumeMounts") or []:
                files = files_of(overlay, volumes.get(mount["name"], {}))
                if mount.get("subPath") and files is not None and mount["subPath"] not in files:
                    yield fault(pod.owner, container.path + ".volumeMounts[%s].subPath" % mount["name"],
                                "the volume has no file %r" % mount["subPath"],
                                "its files are %s" % ", ".join(sorted(files)))


def files_of(overlay, volume):
    """The files of a volume that is made of a ConfigMap or a Secret; None for others."""
    for kind, name_field in (("secret", "secretName"), ("configMap", "name")):
        source = volume.get(kind)
        if source:
            if source.get("items"):
                return {item.get("path") for item in source["items"]}
            return keys_of(overlay, kind, source.get(name_field))
    return None


@rule("read-only-models")
def read_only_models(overlay, project):
    """Only the fetcher writes models: who takes requests of strangers must not be able to change 247 GB."""
    for pod in overlay.pods:
        claims = {volume.get("name") for volume in pod.spec.get("volumes") or []
                  if dig(volume, "persistentVolumeClaim.claimName") == "kimi-k2-gguf-cache"}
        for container in pod.main:
            for mount in container.raw.get("volumeMounts") or []:
                if mount["name"] in claims and not mount.get("readOnly") and pod.owner["kind"] == "Deployment":
                    yield fault(pod.owner, container.path + ".volumeMounts[%s]" % mount["name"],
                                "%s can write the models" % name_of(pod.owner), "set readOnly: true")
