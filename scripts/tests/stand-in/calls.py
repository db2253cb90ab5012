"""What each call does. See `oc`.

What few calls need is imported there: a run of deploy.sh makes fifty calls, and each is a Python that starts.
"""

import os
import sys

from apply import merge
from cluster import cluster, deployment_status, events, pods
from jsonpath import evaluate
from state import (
    CLUSTER_SCOPED,
    Refused,
    documents,
    identity,
    look_at,
    mode,
    open_gate,
    path,
    pod_stage,
    read_json,
    stage_of,
    stdin,
    wait_for_the_end,
    write_json,
    yaml,
)

SINGULAR = {"storageclasses": "storageclass"}
OPENSHIFT_APIS = """route.openshift.io/v1 image.openshift.io/v1 build.openshift.io/v1 project.openshift.io/v1"""
APIS = """v1 apps/v1 batch/v1 policy/v1 networking.k8s.io/v1 storage.k8s.io/v1 gateway.networking.k8s.io/v1
monitoring.coreos.com/v1"""


def kustomize(_namespace, words, _options):
    """kubectl's own. The same folder is rendered once: what it is made of does not change during the tests."""
    import hashlib
    import subprocess

    if mode("old-cli"):
        raise Refused('error: json: unknown field "labels"')

    digest = hashlib.sha256()
    for name in sorted(os.listdir(words[0])):
        with open(os.path.join(words[0], name), "rb") as file:
            digest.update(file.read())
    known = os.path.join(os.environ["STAND_IN_RENDERED"], digest.hexdigest())
    if not os.path.exists(known):
        command = [os.environ["STAND_IN_KUBECTL"], "kustomize", words[0]]
        real = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if real.returncode:
            sys.exit(real.returncode)
        with open(f"{known}.{os.getpid()}", "wb") as file:
            file.write(real.stdout)
        os.replace(file.name, known)  # two tests may run at a time
    with open(known, encoding="utf-8") as file:
        sys.stdout.write(file.read())


def api_versions(_namespace, _words, _options):
    print("\n".join(apis()))


def apis():
    return APIS.split() + ([] if mode("plain") else OPENSHIFT_APIS.split())


def config(_namespace, _words, _options):
    sys.stdout.write("https://api.example.com:6443")


def start_build(namespace, words, options):
    if options.get("--help"):
        return print("Start a new build")
    archive = options["--from-archive"]
    require_object("buildconfig", namespace, words[0])
    with open(archive, "rb") as source, open(path("record", f"archive.{words[0]}"), "wb") as target:
        target.write(source.read())
    objects = read_json("objects.json", {})
    number = 1 + sum(key.startswith(f"build/{namespace}/{words[0]}-") for key in objects)
    name = f"{words[0]}-{number}"
    build = {"metadata": {"name": name, "namespace": namespace, "labels": {"buildconfig": words[0]}}}
    objects[f"build/{namespace}/{name}"] = {**build, "kind": "Build", "status": {"phase": "Running"}}
    write_json("objects.json", objects)
    return print(f"build.build.openshift.io/{name}")


def finish_build(namespace, name):
    if mode("build-gate"):
        open_gate()
        wait_for_the_end()
    print(f"STEP 1: of {name}\nPush successful")
    objects = read_json("objects.json", {})
    build = objects[f"build/{namespace}/{name}"]
    build["status"]["phase"] = "Failed" if mode("build-fails") else "Complete"
    if not mode("build-fails"):
        image = build["metadata"]["labels"]["buildconfig"]
        output = objects[f"buildconfig/{namespace}/{image}"]["spec"]["output"]["to"]["name"]
        digest = "sha256:" + name[-1] * 64
        reference = f"image-registry.openshift-image-registry.svc:5000/{namespace}/{image}@{digest}"
        objects[f"imagestreamtag/{namespace}/{output}"] = {
            "metadata": {"name": output, "namespace": namespace},
            "image": {"dockerImageReference": reference},
        }
    write_json("objects.json", objects)


def logs(namespace, words, options):
    if words[0].startswith("build/"):
        return finish_build(namespace, words[0].removeprefix("build/"))
    deployment = words[0].removesuffix("-pod")
    container, stage = options["-c"], pod_stage(deployment)
    if stage[0] in ("fetch", "load"):
        return print(stage[1])
    return print(f"the last words of {container}{' before it' if '--previous' in options else ''}")


def execute(namespace, words, options):
    deployment = words[0].removeprefix("deployment/")
    if words[1] != "/usr/local/bin/llama-gateway" or words[2] != "keys" or options.get("-c") != "gateway":
        raise Refused("stand-in: unknown call", 64)
    require_object("deployment", namespace, deployment)
    if stage_of(deployment)[0] != "ready":
        raise Refused("error: unable to upgrade connection: container not found")
    from keys import keys

    text, after = keys(words[3:], options, read_json("keys.json", []))
    write_json("keys.json", after)
    print(text)


def port_forward(_namespace, _words, _options):
    print(f"Forwarding from 127.0.0.1:{os.environ['STAND_IN_GATEWAY_PORT']} -> 8080", flush=True)
    with open(path("record", "port-forward"), "w", encoding="utf-8") as file:
        file.write(str(os.getpid()))
    wait_for_the_end()


def require_object(kind, namespace, name):
    everything = all_objects()
    found = everything.get(f"{kind}/{'' if kind in CLUSTER_SCOPED else namespace}/{name}")
    if found is None:
        raise Refused(f'Error from server (NotFound): {kind}s "{name}" not found')
    return found


def all_objects():
    objects = {identity(document): document for document in cluster(mode)}
    objects.update(read_json("objects.json", {}))
    for key, document in list(objects.items()):
        if document.get("kind") == "Deployment":
            name, namespace = document["metadata"]["name"], document["metadata"]["namespace"]
            document["status"] = deployment_status(document, stage_of(name), pod_stage(name))
            for made in pods(document, pod_stage(name)) + events(name, namespace, pod_stage(name)):
                objects[identity(made)] = made
        objects[key] = document
    return objects


def get(namespace, words, options):
    kind = words[0].split(".")[0]
    kind = SINGULAR.get(kind, kind if kind.endswith("ss") else kind.removesuffix("s"))
    if kind == "node" and mode("no-node-rights"):
        raise Refused('Error from server (Forbidden): nodes is forbidden: User "you" cannot list resource "nodes"')
    if kind == "imagestreamtag" and mode("no-image-rights"):
        raise Refused("Error from server (Forbidden): imagestreamtags.image.openshift.io is forbidden")
    if kind == "deployment" and "observedGeneration" in options["-o"]:
        if mode("no-answer"):
            raise Refused("Unable to connect to the server: net/http: TLS handshake timeout")
        look_at(words[1])
    everything = all_objects()
    place = "" if kind in CLUSTER_SCOPED else namespace
    if len(words) == 1:
        items = [value for key, value in sorted(everything.items()) if key.startswith(f"{kind}/{place}/")]
        items = [one for one in items if selected(one, options)]
        return show({"apiVersion": "v1", "kind": "List", "items": items}, options)
    for name in words[1:]:
        found = everything.get(f"{kind}/{place}/{name}")
        if found is not None:
            show(found, options)
        elif "--ignore-not-found" not in options:
            raise Refused(f'Error from server (NotFound): {kind}s "{name}" not found')
    return None


def selected(document, options):
    if "-l" in options:
        name, _, value = options["-l"].partition("=")
        return document["metadata"].get("labels", {}).get(name) == value
    if "--field-selector" in options:
        return document["involvedObject"]["name"] == options["--field-selector"].partition("=")[2]
    return True


def show(document, options):
    output = options["-o"]
    if output == "name":
        return print(f"{document['kind'].lower()}/{document['metadata']['name']}")
    if not output.startswith("jsonpath="):
        raise Refused("stand-in: unknown output", 64)
    text = evaluate(output.removeprefix("jsonpath="), document)
    sys.stdout.write(text)
    if os.environ.get("STAND_IN_KEEP_JSONPATHS"):
        import json

        with open(path("record", "jsonpaths"), "a", encoding="utf-8") as file:
            file.write(json.dumps([output, document, text]) + "\n")


def annotate(_namespace, _words, options):
    """Without a server: prints fields of what comes by standard input."""
    if "--local" not in options or options["-f"] != "-":
        raise Refused("stand-in: unknown call", 64)
    found = documents(stdin())
    if not found:
        raise Refused("error: no objects passed to annotate")
    for document in found:
        show(document, options)


def create(namespace, words, options):
    import base64

    if words[:2] != ["secret", "generic"]:
        raise Refused("stand-in: unknown call", 64)
    key, _, source = options["--from-file"].partition("=")
    if source != "/dev/stdin":
        raise Refused("stand-in: a secret comes by standard input", 64)
    data = {key: base64.b64encode(stdin().encode()).decode()}
    metadata = {"name": words[2], "namespace": namespace}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
    if options.get("--dry-run") == "client":
        return print(yaml().safe_dump(secret))
    objects = read_json("objects.json", {})
    require_namespace(objects, namespace)
    if identity(secret) in objects:
        raise Refused(f'error: failed to create secret secrets "{words[2]}" already exists')
    objects[identity(secret)] = merge(None, secret)
    write_json("objects.json", objects)
    return print(f"secret/{words[2]} created")


def require_namespace(objects, namespace):
    if f"namespace//{namespace}" not in objects:
        raise Refused(f'Error from server (NotFound): namespaces "{namespace}" not found')


def given(options):
    for option in ("--server-side", "--force-conflicts"):
        if option not in options:
            raise Refused(f"stand-in: {option} is missing", 64)
    if options.get("--field-manager") != "llama-gateway":
        raise Refused("stand-in: the field manager is missing", 64)
    if options["-f"] == "-":
        return documents(stdin())
    with open(options["-f"], encoding="utf-8") as file:
        return documents(file.read())


def merged(objects, document):
    if document["apiVersion"] not in apis():
        raise Refused(f'error: resource mapping not found: no matches for kind "{document["kind"]}"')
    if document["kind"].lower() not in CLUSTER_SCOPED:
        require_namespace(objects, document["metadata"].get("namespace"))
    return merge(objects.get(identity(document)), document)


def apply(_namespace, _words, options):
    objects = read_json("objects.json", {})
    for document in given(options):
        key = identity(document)
        before, after = objects.get(key), merged(objects, document)
        objects[key] = after
        name = after["metadata"]["name"]
        if after["kind"] == "Deployment" and (before or {}).get("spec") != after["spec"]:
            write_json(f"stage.{name}", -1)
        print(f"{after['kind'].lower()}/{name} serverside-applied")
        write_json("objects.json", objects)  # as a cluster does: what came before a refusal stays


def diff(_namespace, _words, options):
    import difflib
    import json

    if mode("diff-fails"):
        raise Refused("Error from server: etcdserver: request timed out", 2)
    objects, differs = read_json("objects.json", {}), False
    for document in given(options):
        try:
            after = merged(objects, document)
        except Refused as refused:
            raise Refused(str(refused), 2) from refused
        name = identity(document)
        texts = [json.dumps(one, indent=1, sort_keys=True).split("\n") for one in (objects.get(name), after)]
        lines = list(difflib.unified_diff(*texts, name, name, lineterm=""))
        differs = differs or bool(lines)
        print("\n".join(lines))
    if differs:
        sys.exit(1)


def delete(_namespace, words, options):
    objects = read_json("objects.json", {})
    if words:
        if words[0] not in ("namespace", "project") or (words[0] == "project" and mode("plain")):
            raise Refused("stand-in: unknown call", 64)
        write_json("objects.json", {})
        write_json("keys.json", [])
        return print(f'namespace "{words[1]}" deleted')
    with open(options["-f"], encoding="utf-8") as file:
        for document in documents(file.read()):
            if document["apiVersion"] not in apis():
                raise Refused(f'error: resource mapping not found: no matches for kind "{document["kind"]}"')
            if objects.pop(identity(document), None):
                print(f'{document["kind"].lower()} "{document["metadata"]["name"]}" deleted')
    return write_json("objects.json", objects)


COMMANDS = {
    "kustomize": kustomize,
    "api-versions": api_versions,
    "config": config,
    "start-build": start_build,
    "logs": logs,
    "exec": execute,
    "port-forward": port_forward,
    "get": get,
    "annotate": annotate,
    "create": create,
    "apply": apply,
    "diff": diff,
    "delete": delete,
}
