"""The directory that is the stand-in's cluster: files, modes and stages. See `oc`."""

import os
import sys

STATE = os.environ["STAND_IN_STATE"]
MODES = """no-login no-rights no-namespace-rights no-node-rights no-gpu-node shared-label cordoned no-device-plugin
small-node network no-default-class no-monitoring plain no-registry build-fails build-gate diff-fails no-answer
old-cli no-image-rights fixed-size no-builds untrusted own-certificate loses-a-signal""".split()
CLUSTER_SCOPED = {"namespace", "node", "storageclass", "config", "network", "ingressclass"}


class Refused(Exception):
    """The cluster says no; `code` is the exit code."""

    def __init__(self, text, code=1):
        super().__init__(text)
        self.code = code


def path(*names):
    return os.path.join(STATE, *names)


def mode(name):
    """The text of a mode's file, or nothing. A mode that this file does not know is a mistake of the test."""
    if name not in MODES:
        sys.exit(f"stand-in: unknown mode {name}")
    try:
        with open(path("mode", name), encoding="utf-8") as file:
            return file.read().strip() or "yes"
    except FileNotFoundError:
        return ""


def read_json(name, default):
    import json

    try:
        with open(path(name), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return default


def write_json(name, value):
    import json

    with open(path(name + ".new"), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.write("\n")
    os.replace(path(name + ".new"), path(name))


def yaml():
    # The interpreter starts without site-packages, since most calls need none and there are many.
    sys.path.append(os.environ["STAND_IN_PACKAGES"])
    import yaml as module

    return module


def documents(text):
    module = yaml()
    loader = getattr(module, "CSafeLoader", module.SafeLoader)
    return [document for document in module.load_all(text, Loader=loader) if document]


def stdin():
    text = sys.stdin.read()
    with open(path("record", "stdin"), "a", encoding="utf-8") as file:
        file.write(text + "\n")
    return text


def identity(document):
    kind = document["kind"].lower()
    namespace = "" if kind in CLUSTER_SCOPED else document["metadata"].get("namespace", "default")
    return f"{kind}/{namespace}/{document['metadata']['name']}"


def stages(deployment):
    try:
        with open(path("stages", deployment), encoding="utf-8") as file:
            return [line.rstrip("\n").partition(" ")[::2] for line in file]
    except FileNotFoundError:
        return [("ready", "")]


def stage_number(deployment):
    return read_json(f"stage.{deployment}", -1)


def stage_of(deployment):
    number = min(stage_number(deployment), len(stages(deployment)) - 1)
    return ("new", "") if number < 0 else stages(deployment)[number]


def pod_stage(deployment):
    """What the pod is at: "late" and "gate" tell about the rollout only."""
    seen = [("new", "")] + stages(deployment)[: stage_number(deployment) + 1]
    return [stage for stage in seen if stage[0] not in ("late", "gate")][-1]


def look_at(deployment):
    """Each look of deploy.sh at a rollout takes it one stage further."""
    number = stage_number(deployment)
    if number + 1 < len(stages(deployment)):
        write_json(f"stage.{deployment}", number + 1)
        if stages(deployment)[number + 1][0] == "gate":
            open_gate()


def open_gate():
    """Tells the test that the call has come to where the test waits for it."""
    with open(path("gate"), "w", encoding="utf-8") as gate:
        gate.write(f"{os.getpid()}\n")


def wait_for_the_end():
    import signal

    if mode("loses-a-signal"):
        signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    while True:
        signal.pause()
