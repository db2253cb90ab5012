"""Renders the overlays and checks each for itself: schemas, alerts, configuration. See scripts/manifests."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    import jsonschema  # comes with kubernetes-validate
    import kubernetes_validate
    import yaml

    import overlays
except ImportError as missing:
    sys.exit(f"manifests: the Python module {missing.name} is missing\n"
             "hint: pip install --require-hashes -r scripts/lib/tools.txt, and put that python3 on PATH")

# OpenShift 4.16 is Kubernetes 1.29; the newest one is the newest that the schemas know.
VERSIONS = ("1.29", "1.37")


def main(root, names):
    """Checks the overlays below `root` with these names, or all of them. Gives the exit code."""
    began = time.monotonic()
    missing = [f"{tool} is missing: {hint}" for tool, hint in TOOLS.items() if not shutil.which(tool)]
    try:
        known = {folder.name: folder for folder in overlays.folders(root / "manifests/overlays")}
    except overlays.RenderError as error:
        return report([*missing, error])
    unknown = [f"there is no overlay {name}\nhint: there are {', '.join(known)}" for name in names if name not in known]
    if missing or unknown:
        return report(missing + unknown)
    with ThreadPoolExecutor() as pool, tempfile.TemporaryDirectory() as folder:
        texts = {name: pool.submit(overlays.render, known[name]) for name in names or known}
        problems = list(Checks(root, Path(folder)).problems(texts))
    code = report(problems)
    if code == 0:
        print(f"manifests: ok for Kubernetes {' and '.join(VERSIONS)}, {time.monotonic() - began:.1f} s")
    return code


TOOLS = {
    "kubectl": "pip install --require-hashes -r scripts/lib/tools.txt, and put its bin on PATH",
    "promtool": "apt-get install prometheus, or take it from https://prometheus.io/download",
    "bash": "install it by your system's package manager",
}


def report(problems):
    """Prints what is wrong, and gives the exit code."""
    for problem in problems:
        print(f"manifests: {problem}", file=sys.stderr)
    return 1 if problems else 0


def gateway_binary(root):
    """The path of llama-gateway, which is built if it is not there."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    binary = root / target / "debug/llama-gateway"
    if not binary.exists():
        print("building llama-gateway (some minutes the first time) ...", file=sys.stderr)
        subprocess.run(["cargo", "build", "--quiet", "--locked", "-p", "gateway"], cwd=root, check=True)
    return binary


def named(entry):
    """How messages call an object."""
    return f"{entry.get('kind')} {entry.get('metadata', {}).get('name')}"


def of_kind(objects, kind, name=None):
    """The objects of a kind, or the one with a name."""
    return [entry for entry in objects
            if entry["kind"] == kind and name in (None, entry["metadata"]["name"])]


def config_map(objects, name):
    """The data of a ConfigMap; nothing if it is missing, which scripts/lint-manifests finds."""
    return next((entry["data"] for entry in of_kind(objects, "ConfigMap", name)), {})


class Checks:
    """All checks of a project's overlays. They have most objects in common, and their alerts: each is checked once."""

    def __init__(self, root, folder):
        self.root, self.folder = root, folder
        self.gateway = gateway_binary(root)
        self._objects, self._rules = {}, {}
        self._own = own_schemas()

    def problems(self, texts):
        """What is wrong with the overlays, of which `texts` has the rendered ones to come, by name."""
        for name, text in texts.items():
            try:
                objects = overlays.parse(text.result(), name)
            except overlays.RenderError as error:
                yield error
                continue
            found = [*self.schemas(objects), *self.alerts(objects),
                     *gateway_configuration(objects, self.gateway, self.folder / "gateway.toml"),
                     *parameters(objects, self.root / "server-image/entrypoint.sh")]
            print(f"{name}: {len(objects)} objects, {'ok' if not found else f'{len(found)} problems'}")
            yield from (f"{name}: {problem}" for problem in found)

    def schemas(self, objects):
        """What the schemas refuse."""
        for entry in objects:
            key = json.dumps(entry, sort_keys=True, default=str)
            if key not in self._objects:
                self._objects[key] = against_schemas(entry, self._own)
            yield from self._objects[key]

    def alerts(self, objects):
        """What promtool finds in the rules of an overlay. Changed ones are checked, not tested: the tests say when the
        shipped ones fire."""
        groups = rule_groups(objects)
        key = json.dumps(groups, sort_keys=True)
        if groups and key not in self._rules:
            component = self.root / "manifests/components/monitoring"
            tests = sorted((component / "tests").glob("*.yaml")) if groups == shipped_groups(component) else []
            folder = self.folder / f"rules-{len(self._rules)}"
            folder.mkdir()
            self._rules[key] = list(against_promtool(groups, tests, folder))
        return self._rules.get(key, [])


def own_schemas():
    """By apiVersion and kind, the schemas of kinds that Kubernetes does not have."""
    document = yaml.safe_load((Path(__file__).parent / "schemas/other-kinds.yaml").read_text())
    schemas = {}
    for kind, parts in document["kinds"].items():
        whole = {"required": list(parts), "properties": {"apiVersion": {}, "kind": {}, **parts}}
        schemas[kind] = jsonschema.Draft202012Validator(closed(whole))
    return schemas


def closed(schema):
    """The schema in which everything that has `properties` is an object with these and no others."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(part) for key, part in schema.items()}
    if isinstance(schema.get("properties"), dict):
        schema = {"type": "object", "additionalProperties": False, **schema}
    return schema


def against_schemas(entry, own):
    """What is wrong with an object. A kind without a schema is wrong, too: nothing would be known about it."""
    kind = f"{entry.get('apiVersion')}/{entry.get('kind')}"
    if kind in own:
        return [f"{named(entry)}: {'.'.join(map(str, error.path))}: {error.message}"
                for error in own[kind].iter_errors(entry)]
    problems = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(entry, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"{named(entry)}: {'.'.join(map(str, error.path))}: {error.message} (Kubernetes {version})")
        except kubernetes_validate.SchemaNotFoundError:
            problems.append(f"{named(entry)}: Kubernetes {version} has no {kind}"
                            "\nhint: a kind of another project needs a schema in scripts/lib/schemas/other-kinds.yaml")
    return problems


def rule_groups(objects):
    """The groups of rules of all PrometheusRules, by name."""
    groups = [group for rule in of_kind(objects, "PrometheusRule") for group in rule["spec"]["groups"]]
    return sorted(groups, key=lambda group: group["name"])


def shipped_groups(component):
    """The groups as they stand in the files of the component."""
    return rule_groups([entry for file in component.glob("*.yaml") for entry in yaml.safe_load_all(file.read_text())])


def against_promtool(groups, tests, folder):
    """Checks and tests rules by promtool. Each group is in a file of its own: a test loads those that it is about."""
    files = [f"{group['name']}.yaml" for group in groups]
    for file, group in zip(files, groups):
        (folder / file).write_text(yaml.safe_dump({"groups": [group]}, sort_keys=False))
    for test in tests:
        shutil.copy(test, folder)

    def promtool(*words):
        done = subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True)
        return f"promtool {' '.join(words)}: {(done.stdout + done.stderr).strip()}" if done.returncode else None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = pool.map(lambda words: promtool(*words), [("check", "rules", *files)]
                        + [("test", "rules", test.name) for test in tests])
    yield from filter(None, said)


def container_environment(objects, deployment):
    """The variables that a Deployment gives its container by value; None if there is no such Deployment."""
    for entry in of_kind(objects, "Deployment", deployment):
        variables = entry["spec"]["template"]["spec"]["containers"][0].get("env") or []
        return {variable["name"]: variable["value"] for variable in variables if "value" in variable}
    return None


def gateway_configuration(objects, gateway, file):
    """What llama-gateway says about its configuration, under the environment that its container has."""
    text = config_map(objects, "kimi-k2-gateway-config").get("gateway.toml")
    if text is None:
        return ["ConfigMap kimi-k2-gateway-config: there is no gateway.toml in it\nhint: add it, it may be empty"]
    variables = container_environment(objects, "kimi-k2-gateway")
    if variables is None:
        return ["there is no Deployment kimi-k2-gateway\nhint: names are fixed, leave out namePrefix and nameSuffix"]
    file.write_text(text)
    with tempfile.NamedTemporaryFile("w") as key:
        key.write("a-key-that-stands-for-the-secret")
        key.flush()
        environment = {**variables, "LLAMA_GATEWAY_UPSTREAM_API_KEY_FILE": key.name}
        done = subprocess.run([gateway, "check-config", file], env=environment, capture_output=True, text=True)
    return [] if done.returncode == 0 else [f"gateway.toml: {done.stderr.strip()}"]


def parameters(objects, entrypoint):
    """What llama-server's entrypoint says about its parameters."""
    environment = {"PATH": os.environ["PATH"], **config_map(objects, "kimi-k2-llamacpp-config")}
    done = subprocess.run(["bash", entrypoint, "--check-parameters"], env=environment, capture_output=True, text=True)
    return [] if done.returncode == 0 else [f"ConfigMap kimi-k2-llamacpp-config: {done.stderr.strip()}"]


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parents[2], sys.argv[1:]))
